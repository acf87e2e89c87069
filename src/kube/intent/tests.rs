use super::*;
use crate::model::{
    ContainerKind, EnvValue, FieldPath, Handler, ObjectRef, ProjectedSource, PullPolicy, Seccomp, VolumeSource,
};
use serde_json::{Value, json};

fn pod(spec: Value) -> api::Pod {
    let meta = json!({"name": "web-0", "namespace": "shop", "uid": "u-1", "creationTimestamp": "2026-11-01T00:00:00Z"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a Pod")
}

/// A Pod with one container, given fields laid over it.
fn pod_with(container: Value, spec: Value) -> api::Pod {
    let mut whole = json!({"nodeName": "pilotlight-a", "containers": [{"name": "app", "image": "busybox:1"}]});
    merge(&mut whole["containers"][0], container);
    merge(&mut whole, spec);
    pod(whole)
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().expect("an object") {
        into[key] = value.clone();
    }
}

fn accepted(pod: &api::Pod) -> Arc<PodSpec> {
    pod_intent(pod).expect("bound").spec.expect("supported")
}

fn refused(pod: &api::Pod) -> Vec<Unsupported> {
    pod_intent(pod).expect("bound").spec.expect_err("unsupported")
}

#[test]
fn a_pod_without_a_node_is_not_ours_to_judge() {
    assert!(pod_intent(&pod(json!({"containers": []}))).is_none());
    assert!(pod_intent(&pod(json!({"containers": [], "nodeName": ""}))).is_none());
}

#[test]
fn a_bare_pod_gets_the_defaults_of_the_api_server() {
    let spec = accepted(&pod_with(json!({"readinessProbe": {"httpGet": {"port": 80}}}), json!({})));
    let app = &spec.containers[0];
    assert_eq!(spec.restart_policy, RestartPolicy::Always);
    assert_eq!(spec.dns_policy, DnsPolicy::ClusterFirst);
    assert_eq!((spec.termination_grace_seconds, spec.service_account.as_str()), (30, "default"));
    assert!(spec.enable_service_links);
    assert_eq!(app.pull_policy, PullPolicy::IfNotPresent);
    assert_eq!(app.termination_message.path, "/dev/termination-log");
    let probe = app.probes.readiness.as_ref().expect("a probe");
    assert_eq!(
        (probe.period_seconds, probe.timeout_seconds, probe.success_threshold, probe.failure_threshold),
        (10, 1, 1, 3)
    );
    assert_eq!(probe.action, Handler::Http { host: None, port: 80, path: "/".into(), https: false, headers: vec![] });
}

#[test]
fn an_image_whose_tag_may_move_is_always_pulled() {
    for (image, policy) in [
        ("nginx", PullPolicy::Always),
        ("nginx:latest", PullPolicy::Always),
        ("nginx:1.27", PullPolicy::IfNotPresent),
        ("registry:5000/nginx", PullPolicy::Always),
        ("registry:5000/nginx:1", PullPolicy::IfNotPresent),
        ("nginx@sha256:0000", PullPolicy::IfNotPresent),
    ] {
        assert_eq!(
            accepted(&pod_with(json!({"image": image}), json!({}))).containers[0].pull_policy,
            policy,
            "{image}"
        );
    }
}

#[test]
fn named_ports_of_probes_and_hooks_become_numbers() {
    let container = json!({
        "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"tcpSocket": {"port": "http"}},
        "lifecycle": {"preStop": {"httpGet": {"port": "http", "path": "/bye"}}},
    });
    let spec = accepted(&pod_with(container, json!({})));
    let app = &spec.containers[0];
    assert_eq!(app.probes.liveness.as_ref().expect("set").action, Handler::Tcp { host: None, port: 8080 });
    assert!(matches!(app.lifecycle.pre_stop, Some(Handler::Http { port: 8080, .. })));
}

#[test]
fn a_sidecar_is_told_from_an_init_container() {
    let spec = json!({"initContainers": [
        {"name": "setup", "image": "a:1"},
        {"name": "proxy", "image": "a:1", "restartPolicy": "Always"},
    ]});
    let kinds: Vec<_> = accepted(&pod_with(json!({}), spec)).init_containers.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ContainerKind::Init, ContainerKind::Sidecar]);
}

#[test]
fn requests_default_to_limits() {
    let resources = json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    let app = accepted(&pod_with(json!({"resources": resources}), json!({}))).containers[0].clone();
    assert_eq!((app.requests.cpu_millis, app.requests.memory_bytes), (Some(500), Some(1 << 30)));
}

#[test]
fn a_containers_security_context_wins_over_its_pods() {
    let container = json!({"securityContext": {"runAsUser": 7, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}}});
    let spec = json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true, "fsGroup": 3,
        "seccompProfile": {"type": "RuntimeDefault"}, "sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "1"}]}});
    let spec = accepted(&pod_with(container, spec));
    let security = &spec.containers[0].security;
    assert_eq!((security.run_as_user, security.run_as_group, security.run_as_non_root), (Some(7), Some(2), true));
    assert_eq!((security.no_new_privs, security.drop_capabilities.as_slice()), (true, &["ALL".to_owned()][..]));
    assert_eq!(security.seccomp, Some(Seccomp::RuntimeDefault));
    assert_eq!(spec.security.sysctls.get("net.ipv4.tcp_syncookies").map(String::as_str), Some("1"));
}

#[test]
fn the_volume_of_a_service_account_is_a_set_of_files() {
    let spec = json!({"volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}}]});
    let spec = accepted(&pod_with(json!({}), spec));
    let VolumeSource::Projected { sources, default_mode: 0o644 } = &spec.volumes[0].source else { panic!("not files") };
    assert_eq!(
        sources[0],
        ProjectedSource::ServiceAccountToken { path: "token".into(), audience: None, expiration_seconds: 3607 }
    );
    assert!(
        matches!(&sources[1], ProjectedSource::Object { object: ObjectRef::ConfigMap(name), .. } if name == "kube-root-ca.crt")
    );
    let ProjectedSource::Downward(files) = &sources[2] else { panic!("not downward") };
    assert_eq!(files[0].value, EnvValue::Field(FieldPath("metadata.namespace".into())));
}

#[test]
fn a_hostname_override_stands_alone() {
    let spec = json!({"hostnameOverride": "db.example", "hostname": "x", "subdomain": "y"});
    let spec = accepted(&pod_with(json!({}), spec));
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db.example"), None));
}

#[test]
fn what_belongs_to_others_does_not_fail_a_pod() {
    let spec = json!({
        "affinity": {}, "priority": 5, "schedulerName": "x", "tolerations": [{"operator": "Exists"}],
        "topologySpreadConstraints": [], "hostUsers": true, "os": {"name": "linux"}, "runtimeClassName": "",
        "ephemeralContainers": [{"name": "debugger", "image": "busybox:1"}],
    });
    let pod = pod_with(json!({"restartPolicy": "Always", "resizePolicy": []}), spec);
    accepted(&pod);
    assert_eq!(unhonoured(&pod)[0].field, "spec.ephemeralContainers[debugger]");
}

#[test]
fn a_refused_sysctl_carries_kubelets_reason_and_words() {
    let sysctls = json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}});
    let refusal = &refused(&pod_with(json!({}), sysctls))[0];
    assert_eq!(
        (refusal.field.as_str(), refusal.reason()),
        ("spec.securityContext.sysctls[kernel.msgmax]", "SysctlForbidden")
    );
    assert!(refusal.value.contains("forbidden sysctl: \"kernel.msgmax\" not allowlisted"), "{refusal}");
    let shared = json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}});
    assert!(refused(&pod_with(json!({}), shared))[0].value.contains("not allowed with host net enabled"));
}

#[test]
fn all_refusals_are_said_at_once_with_their_paths() {
    let spec = json!({
        "volumes": [{"name": "data", "nfs": {"server": "s", "path": "/"}},
                    {"name": "db", "persistentVolumeClaim": {"claimName": "db-0"}}],
        "initContainers": [{"name": "setup", "image": "a:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        "hostUsers": false,
    });
    let fields: Vec<_> = refused(&pod_with(json!({}), spec)).into_iter().map(|u| (u.field, u.value)).collect();
    let expected = [
        ("spec.hostUsers", "false"),
        ("spec.volumes[data].nfs", "set"),
        ("spec.volumes[db].persistentVolumeClaim", "db-0"),
        ("spec.initContainers[setup].resources.limits[nvidia.com/gpu]", "1"),
    ];
    assert_eq!(fields, expected.map(|(field, value)| (field.to_owned(), value.to_owned())));
}

/// Pods that together break every rule.
fn offenders() -> Vec<api::Pod> {
    let user = json!(5);
    let items = json!([{"key": "k", "path": "p", "user": user}]);
    let container = json!({
        "image": "", "imagePullPolicy": "Sometimes", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart"}],
        "volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}],
        "resources": {"requests": {"cpu": "many"}, "limits": {"hugepages-2Mi": "4Mi"}, "claims": [{"name": "gpu"}]},
        "terminationMessagePolicy": "Shout",
        "ports": [{"containerPort": 0}, {"containerPort": 1, "hostPort": 70000}, {"containerPort": 1, "hostIP": "me"},
                  {"containerPort": 1, "protocol": "QUIC"}],
        "env": [{"name": "A", "valueFrom": {}},
                {"name": "B", "valueFrom": {"fileKeyRef": {"key": "k", "path": "p", "volumeName": "v"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}},
                {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}],
        "envFrom": [{"prefix": "X"}],
        "volumeMounts": [{"name": "v", "mountPath": "/a", "bindMountOptions": ["noexec"], "mountPropagation": "Both",
                          "recursiveReadOnly": "Enabled"}],
        "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}, "seLinuxOptions": {},
            "seccompProfile": {"type": "Custom"}, "procMount": "None", "windowsOptions": {}},
        "lifecycle": {"stopSignal": "SIGUSR1", "postStart": {"tcpSocket": {"port": 1}},
                      "preStop": {"httpGet": {"port": "nope", "protocol": "HTTP2", "scheme": "FTP"}}},
        "livenessProbe": {}, "readinessProbe": {"httpGet": {"port": 0, "protocol": "HTTP2", "scheme": "FTP"}},
        "startupProbe": {"grpc": {"port": 1, "mode": "TLS"}},
    });
    let spec = json!({
        "hostUsers": false, "os": {"name": "windows"}, "runtimeClassName": "gvisor", "dnsPolicy": "Maybe",
        "resourceClaims": [{"name": "gpu"}], "hostAliases": [{"ip": "here"}], "overhead": {"gpu": "1"},
        "resources": {"requests": {"hugepages-2Mi": "2Mi"}, "limits": {"cpu": "1"}, "claims": [{"name": "gpu"}]},
        "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}], "supplementalGroupsPolicy": "Strict",
            "appArmorProfile": {"type": "Localhost", "localhostProfile": "p"}, "seLinuxOptions": {},
            "seccompProfile": {"type": "Localhost"}, "windowsOptions": {}},
        "volumes": [
            {"name": "nfs", "nfs": {"server": "s", "path": "/"}},
            {"name": "image", "image": {"reference": "r"}},
            {"name": "git", "gitRepo": {"repository": "r"}},
            {"name": "empty", "emptyDir": {"medium": "HugePages", "mode": 448, "sizeLimit": "big"}},
            {"name": "host", "hostPath": {"path": "/", "type": "Anything"}},
            {"name": "files", "configMap": {"name": "c", "defaultUser": user, "items": items}},
            {"name": "down", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}},
                {"path": "b", "resourceFieldRef": {"resource": "limits.cpu"}}]}},
            {"name": "many", "projected": {"sources": [{}, {"clusterTrustBundle": {"path": "p"}},
                {"podCertificate": {"signerName": "s", "keyType": "ED25519"}}]}},
        ],
    });
    vec![pod_with(container, spec), pod_with(json!({}), json!({"restartPolicy": "Perhaps"})), of_a_daemon_set()]
}

/// `spec.initContainers[a].livenessProbe.port` -> `spec.containers[].<probe>.port`
fn pattern(field: &str) -> String {
    let mut plain = String::new();
    for part in field.split_inclusive('[') {
        plain.push_str(part.split_once(']').map_or(part, |(_, rest)| rest));
        if part.ends_with('[') {
            plain.push(']');
        }
    }
    let plain = plain.replace("initContainers", "containers");
    let plain = ["postStart", "preStop"].iter().fold(plain, |path, key| path.replace(key, "<hook>"));
    ["startupProbe", "readinessProbe", "livenessProbe"].iter().fold(plain, |path, key| path.replace(key, "<probe>"))
}

fn of_a_daemon_set() -> api::Pod {
    let mut pod = pod_with(json!({}), json!({"tolerations": [{"operator": "Exists"}], "hostNetwork": true}));
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "kube-proxy", "uid": "d", "controller": true});
    pod.metadata.owner_references = Some(vec![serde_json::from_value(owner).expect("an owner")]);
    pod
}

#[test]
fn a_pod_of_a_daemon_set_is_refused_whatever_it_tolerates_and_one_that_is_merely_owned_is_not() {
    let pod = of_a_daemon_set();
    let [Unsupported { field, value, expected }] = &refused(&pod)[..] else { panic!("{:?}", refused(&pod)) };
    assert_eq!((field.as_str(), value.as_str()), ("metadata.ownerReferences[kube-proxy]", "DaemonSet"));
    assert!(expected.contains("an instance of its own on every virtual node"), "{expected}");
    let mut from_before = pod.clone();
    from_before.status = serde_json::from_value(
        json!({"containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]}),
    )
    .expect("a status");
    accepted(&from_before);
    let mut owned = pod;
    owned.metadata.owner_references.iter_mut().flatten().for_each(|owner| owner.controller = None);
    accepted(&owned);
}

#[test]
fn every_rule_refuses_what_it_names() {
    let seen: Vec<String> = offenders().iter().flat_map(refused).map(|refusal| pattern(&refusal.field)).collect();
    for rule in Rule::ALL {
        let below = format!("{}.nfs", rule.field());
        assert!(seen.iter().any(|field| field == rule.field() || *field == below), "{rule:?}: {seen:#?}");
    }
}

#[test]
fn every_refusal_is_in_semantics_md() {
    let page = include_str!("../../../SEMANTICS.md");
    let missing: Vec<_> =
        Rule::ALL.iter().map(|rule| rule.field()).filter(|f| !page.contains(&format!("`{f}`"))).collect();
    assert!(missing.is_empty(), "not in SEMANTICS.md: {missing:#?}");
}
