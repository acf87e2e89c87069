//! What a container is given: environment, arguments, files, tokens, a name.

use crate::support::*;
use serde_json::json;

#[tokio::test]
async fn command_args_and_environment_arrive_expanded() {
    let space = Space::new("env").await;
    space
        .apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "colour": "green", "size": "9" } }))
        .await;
    space
        .apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys" }, "stringData": { "token": "s3cret" } }))
        .await;
    let container = json!({
        "name": "main", "image": BUSYBOX,
        "command": ["sh", "-c", "echo \"$0|$1|$COLOUR|$TOKEN|$PRE_size|$GREETING|$ESCAPED|$MISSING\""],
        "args": ["$(COLOUR)-arg", "$(NOT_SET)"],
        "env": [
            { "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "colour" } } },
            { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "token" } } },
            { "name": "GREETING", "value": "is $(COLOUR)" },
            { "name": "ESCAPED", "value": "$$(COLOUR)" },
            { "name": "MISSING", "valueFrom": { "secretKeyRef": { "name": "none", "key": "x", "optional": true } } },
        ],
        "envFrom": [{ "prefix": "PRE_", "configMapRef": { "name": "settings" } }],
    });
    space.apply(&pod("env", with(spec(&[container]), json!({ "restartPolicy": "Never" })))).await;
    space.until_phase("env", "Succeeded").await;
    assert_eq!(space.kubectl(&["logs", "env"]).await, "green-arg|$(NOT_SET)|green|s3cret|9|is green|$(COLOUR)|\n");
}

#[tokio::test]
async fn config_maps_and_secrets_are_files_that_follow_changes() {
    let space = Space::new("files").await;
    let map = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "mode": value } });
    let secret = |value: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys" }, "stringData": { "key": value } });
    space.apply(&map("one")).await;
    space.apply(&secret("first")).await;
    let container = with(
        idle(),
        json!({ "volumeMounts": [
            { "name": "settings", "mountPath": "/settings" },
            { "name": "keys", "mountPath": "/keys", "readOnly": true },
            { "name": "settings", "mountPath": "/fixed", "subPath": "mode" },
        ] }),
    );
    let volumes = json!({ "volumes": [
        { "name": "settings", "configMap": { "name": "settings" } },
        { "name": "keys", "secret": { "secretName": "keys", "defaultMode": 0o400 } },
    ] });
    space.apply(&pod("reader", with(spec(&[container]), volumes))).await;
    space.until_running("reader").await;
    let read = "cat /settings/mode; echo; cat /keys/key; echo; cat /fixed; echo; stat -L -c %a /keys/key";
    assert_eq!(space.exec("reader", read).await, "one\nfirst\none\n400");
    space.apply(&map("two")).await;
    space.apply(&secret("second")).await;
    space.until_exec("reader", read, |text| text == "two\nsecond\none\n400").await;
}

#[tokio::test]
async fn an_empty_dir_is_shared_by_the_containers_of_a_pod() {
    let space = Space::new("emptydir").await;
    let mount =
        json!({ "volumeMounts": [{ "name": "work", "mountPath": "/work" }, { "name": "ram", "mountPath": "/ram" }] });
    let writer =
        with(shell("echo from-writer > /work/note; echo quick > /ram/note; exec sleep 1000000"), mount.clone());
    let reader = with(with(idle(), mount), json!({ "name": "reader" }));
    let volumes = json!({ "volumes": [
        { "name": "work", "emptyDir": {} },
        { "name": "ram", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } },
    ] });
    space.apply(&pod("pair", with(spec(&[writer, reader]), volumes))).await;
    space.until_running("pair").await;
    let script = "cat /work/note /ram/note; stat -f -c %T /ram; df -m /ram | awk 'NR==2 { print $2 }'";
    let mut read = space.session(&[
        "exec",
        "pair",
        "-c",
        "reader",
        "--",
        "sh",
        "-c",
        &format!("until [ -e /ram/note ]; do sleep 0.1; done; {script}"),
    ]);
    read.line(|line| line == "from-writer").await;
    read.line(|line| line == "quick").await;
    read.line(|line| line == "tmpfs").await;
    read.line(|line| line == "16").await;
    assert_eq!(read.end().await, Some(0));
}

#[tokio::test]
async fn the_downward_api_tells_a_pod_about_itself() {
    let space = Space::new("downward").await;
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let container = with(
        shell(
            "echo $NAME $NAMESPACE $NODE $IP $CPUS $MEMORY; cat /about/labels; echo; cat /about/cpu; echo; exec sleep 1000000",
        ),
        json!({
            "env": [
                field("NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"),
                field("NODE", "spec.nodeName"), field("IP", "status.podIP"),
                { "name": "CPUS", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
                { "name": "MEMORY", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
            ],
            "resources": { "limits": { "cpu": "500m", "memory": "64Mi" } },
            "volumeMounts": [{ "name": "about", "mountPath": "/about" }],
        }),
    );
    let volumes = json!({ "volumes": [{ "name": "about", "downwardAPI": { "items": [
        { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
        { "path": "cpu", "resourceFieldRef": { "containerName": "main", "resource": "limits.cpu", "divisor": "1m" } },
    ] } }] });
    space.apply(&pod("self", with(spec(&[container]), volumes))).await;
    let running = space.until_running("self").await;
    let ip = running.status.and_then(|s| s.pod_ip).expect("an address");
    let labels = |log: &str| -> Vec<String> {
        // The API server adds the node's topology to a Pod's labels.
        log.lines().filter(|line| !line.starts_with("topology.")).map(str::to_owned).collect()
    };
    let first = format!("self {} pilotlight-local-a {ip} 1 64", space.name);
    space.until_log("self", &[], |line| line == "500").await;
    let log = space.kubectl(&["logs", "self"]).await;
    assert_eq!(labels(&log), [first.as_str(), "app=\"self\"", "500"]);
    space.kubectl(&["label", "pod", "self", "tier=back"]).await;
    space.until_exec("self", "cat /about/labels", |text| labels(text) == ["app=\"self\"", "tier=\"back\""]).await;
}

#[tokio::test]
async fn a_pod_with_in_cluster_config_reads_the_api() {
    let space = Space::new("token").await;
    space.kubectl(&["create", "role", "reader", "--verb=get", "--resource=pods"]).await;
    let account = format!("--serviceaccount={}:default", space.name);
    space.kubectl(&["create", "rolebinding", "reader", "--role=reader", &account]).await;
    // agnhost's way: the client library's in-cluster configuration, the token read again and again.
    let container = json!({ "name": "main", "image": AGNHOST, "args": ["inclusterclient", "--poll-interval=1"] });
    space.apply(&pod("client", spec(&[container]))).await;
    space.until_running("client").await;
    space.until_log("client", &[], |line| line.contains("calling /healthz")).await;
    let log = space.kubectl(&["logs", "client"]).await;
    assert!(!log.contains("status 401") && !log.contains("err:"), "{log}");
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(space.exec("client", &format!("cat {dir}/namespace")).await, space.name);
    // And as people do it: kubectl without any configuration.
    let kubectl = repo().join("target/tools/bin/kubectl");
    space.kubectl(&["cp", &kubectl.display().to_string(), "client:/tmp/kubectl"]).await;
    assert_eq!(space.exec("client", "/tmp/kubectl get pod client -o name").await, "pod/client");
    let refused = space.try_kubectl(&["exec", "client", "--", "/tmp/kubectl", "get", "secrets"]).await;
    let account = format!("system:serviceaccount:{}:default", space.name);
    assert!(refused.code == Some(1) && refused.stderr.contains(&account), "{refused:?}");
}

#[tokio::test]
async fn a_projected_token_has_the_audience_that_was_asked_for() {
    let space = Space::new("audience").await;
    let container = with(
        json!({ "name": "main", "image": AGNHOST, "args": [
            "test-service-account-issuer-discovery", "--token-path=/tokens/token", "--audience=a-friend",
        ] }),
        json!({ "volumeMounts": [{ "name": "tokens", "mountPath": "/tokens" }] }),
    );
    let volumes = json!({ "restartPolicy": "Never", "volumes": [{ "name": "tokens", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token", "audience": "a-friend", "expirationSeconds": 3600 } },
    ] } }] });
    space.apply(&pod("asking", with(spec(&[container]), volumes))).await;
    // The program fetches the issuer's keys with in-cluster config and verifies the token by them.
    space.until_phase("asking", "Succeeded").await;
}

#[tokio::test]
async fn a_pod_is_called_by_its_name_or_as_it_asks() {
    let space = Space::new("hostname").await;
    let aliases = json!({ "hostAliases": [{ "ip": "192.0.2.7", "hostnames": ["oracle"] }] });
    space.apply(&pod("plain", with(spec(&[idle()]), aliases))).await;
    space.apply(&pod("fancy", with(spec(&[idle()]), json!({ "hostname": "called", "subdomain": "sub" })))).await;
    space.until_running("plain").await;
    space.until_running("fancy").await;
    assert_eq!(space.exec("plain", "hostname").await, "plain");
    let hosts = space.exec("plain", "cat /etc/hosts").await;
    assert!(hosts.contains("192.0.2.7\toracle") && hosts.contains("plain"), "{hosts}");
    assert_eq!(space.exec("fancy", "hostname").await, "called");
    assert_eq!(space.exec("fancy", "hostname -f").await, format!("called.sub.{}.svc.cluster.local", space.name));
}

#[tokio::test]
async fn security_contexts_are_honoured() {
    let space = Space::new("security").await;
    let container = with(
        shell(
            "id -u; id -g; grep NoNewPrivs /proc/self/status; touch /x || echo read-only; grep CapEff /proc/self/status; exec sleep 1000000",
        ),
        json!({ "securityContext": {
            "runAsUser": 1234, "runAsGroup": 2345, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        } }),
    );
    space.apply(&pod("strict", spec(&[container]))).await;
    space.until_running("strict").await;
    space.until_log("strict", &[], |line| line.starts_with("CapEff")).await;
    let log = space.kubectl(&["logs", "strict"]).await;
    for line in ["1234\n2345", "NoNewPrivs:\t1", "read-only", "CapEff:\t0000000000000000"] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
}
