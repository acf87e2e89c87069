//! A release of the chart, for as long as a test lasts.

use crate::{
    NODE, pushed,
    standin::called_by,
    support::{
        audit::{Asked, Audit},
        kubectl::program,
        *,
    },
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api,
    runtime::{WatchStreamExt, wait::await_condition, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    future::ready,
    pin::pin,
    process::{Command, Output, Stdio},
};
use tokio::time::timeout;

pub const NAMESPACE: &str = "pilotlight-system";
const ACCOUNT: &str = "system:serviceaccount:pilotlight-system:pilotlight";
const STANDIN: &str = "http://10.70.0.1:15000";

pub struct Release {
    cluster: &'static Cluster,
    client: kube::Client,
    values: Value,
    /// How many calls were signed with keys of no role.
    pub keys_before: u64,
    audit: Audit,
}

/// What EKS's webhook puts into each Pod of a ServiceAccount that is annotated with a role (amazon-eks-pod-identity-webhook,
/// README), and where STS is here.
pub fn by_irsa() -> Value {
    let dir = "/var/run/secrets/eks.amazonaws.com/serviceaccount";
    let variables = [
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pilotlight"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"),
        ("AWS_ENDPOINT_URL_STS", STANDIN),
    ];
    injected(&variables, "aws-iam-token", "sts.amazonaws.com", "token", dir)
}

/// What EKS puts into each Pod of a ServiceAccount that has an association (AWS, "Understand how EKS Pod Identity works").
pub fn by_pod_identity() -> Value {
    let dir = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
    let variables = [
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_REGION", "us-east-1"),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token",
        ),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
    ];
    injected(&variables, "eks-pod-identity-token", "pods.eks.amazonaws.com", "eks-pod-identity-token", dir)
}

/// A patch (RFC 6902) of the Deployment: what it had of another way is replaced.
fn injected(variables: &[(&str, &str)], volume: &str, audience: &str, path: &str, dir: &str) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env = vec![
        field("POD_IP", "status.podIP"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    env.extend(variables.iter().map(|(name, value)| json!({ "name": name, "value": value })));
    let token = json!({ "serviceAccountToken": { "audience": audience, "expirationSeconds": 86400, "path": path } });
    let of_config =
        json!([{ "configMap": { "name": "pilotlight-config" } }, { "configMap": { "name": "pilotlight-catalog" } }]);
    json!([
        { "op": "replace", "path": "/spec/template/spec/containers/0/env", "value": env },
        { "op": "replace", "path": "/spec/template/spec/containers/0/volumeMounts", "value": [
            { "name": "config", "mountPath": "/etc/pilotlight", "readOnly": true },
            { "name": "state", "mountPath": "/var/lib/pilotlight" },
            { "name": volume, "mountPath": dir, "readOnly": true },
        ] },
        { "op": "replace", "path": "/spec/template/spec/volumes", "value": [
            { "name": "config", "projected": { "sources": of_config } },
            { "name": "state", "emptyDir": { "sizeLimit": "64Mi" } },
            { "name": volume, "projected": { "defaultMode": 0o644, "sources": [token] } },
        ] },
    ])
}

impl Release {
    /// In the place of the provider beside the cluster, and of its rights.
    /// Whose nodes are so: `nodeIdentity` of provider.yaml.
    pub async fn install(space: &Space, nodes: Value) -> Self {
        let cluster = space.cluster;
        // Before the provider beside the cluster is ended: whatever fails later starts it again.
        let (repository, tag) = pushed::image(cluster);
        let values = values(cluster, &repository, &tag, nodes);
        beside(&["down"]);
        let audit = Audit::from_now(cluster);
        let client = space.client.clone();
        let mut release = Self { cluster, client, values, keys_before: called_by("keys"), audit };
        release.clear();
        release.helm("install");
        // As with a load balancer's name: it is known when the Service is there.
        let jsonpath = "-o=jsonpath={.spec.clusterIP}";
        let address = release.kubectl(&["get", "service", "pilotlight-agents", jsonpath]);
        release.values["provider"]["agents"]["advertise"] = json!(format!("{address}:10255"));
        release.helm("upgrade");
        release
    }

    fn helm(&self, action: &str) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("values.json");
        fs::write(&file, self.values.to_string()).expect("written");
        let mut command = helm(self.cluster, dir.path());
        // Without --wait: the leader is not ready before it has seen what the account has, and it has no role yet.
        command.args([action, "pilotlight", "manifests/helm/pilotlight", "--values"]).arg(&file);
        if action == "install" {
            command.arg("--create-namespace");
        }
        said(&format!("helm {action}"), command.output().expect("helm can be run"));
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        said(&format!("kubectl {args:?}"), kubectl(self.cluster, args).output().expect("kubectl can be run"))
    }

    /// Waits until every replica is of the patched Deployment, and one of them is the node.
    pub async fn rolled_out(&self, patch: &Value) {
        self.kubectl(&["patch", "deployment", "pilotlight", "--type=json", "--patch", &patch.to_string()]);
        self.kubectl(&["rollout", "status", "deployment/pilotlight", "--timeout=90s"]);
        self.leader().await;
    }

    /// As `kubectl edit configmap` would. Waits until the node is told of it, by an event of this reason: its message.
    pub async fn edit_policy(&self, text: &str, reason: &str) -> String {
        // Events have whole seconds.
        let since = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).expect("a time");
        let patch = json!({ "data": { "cost-policy.yaml": text } });
        self.kubectl(&["patch", "configmap", "pilotlight-config", "--type=merge", "--patch", &patch.to_string()]);
        self.until_node_event(reason, since).await
    }

    /// To what the policy was installed with, by an annotation of this word.
    pub async fn add_class(&self, name: &str) {
        let mut policy = self.values["costPolicy"].clone();
        let matching = json!({ "annotations": { "pilotlight.dev/use-class": name } });
        let class = json!({ "name": name, "weight": 30, "match": matching });
        policy["classes"].as_array_mut().expect("it has classes").push(class);
        self.edit_policy(&policy.to_string(), "ConfigurationReloaded").await;
    }

    async fn until_node_event(&self, reason: &str, since: jiff::Timestamp) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let fields = format!("involvedObject.kind=Node,involvedObject.name={NODE},reason={reason}");
        let found = watcher(events, watcher::Config::default().fields(&fields)).default_backoff().applied_objects();
        let new = |event: &Event| event.last_timestamp.as_ref().is_some_and(|time| time.0 >= since);
        // A watch that breaks is begun anew.
        let mut found = pin!(found.filter_map(|event| ready(event.ok().filter(new))));
        let event = timeout(PATIENCE, found.next()).await.unwrap_or_else(|_| panic!("no {reason} in time"));
        event.and_then(|event| event.message).expect("it says something")
    }

    /// The replica that leads.
    pub async fn leader(&self) -> String {
        self.until_leads(|_| true).await
    }

    pub async fn until_another_leads(&self, than: &str) -> String {
        self.until_leads(|name| name != than).await
    }

    /// By the label that it gives itself; and the node is Ready and has its address.
    async fn until_leads(&self, wanted: impl Fn(&str) -> bool) -> String {
        let pod = self.until_labelled(wanted).await;
        let address = pod.status.and_then(|status| status.pod_ip).expect("a ready Pod has an address");
        let nodes = Api::<Node>::all(self.client.clone());
        let serves = |node: Option<&Node>| {
            let status = node.and_then(|node| node.status.as_ref());
            let ready = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
            ready.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
                && status.and_then(|s| s.addresses.as_ref()).into_iter().flatten().any(|a| a.address == address)
        };
        let found = timeout(PATIENCE, await_condition(nodes, NODE, serves)).await;
        found.unwrap_or_else(|_| panic!("the node is not at {address} in time")).expect("nodes can be watched");
        pod.metadata.name.expect("it is named")
    }

    async fn until_labelled(&self, wanted: impl Fn(&str) -> bool) -> Pod {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let labels = "app.kubernetes.io/name=pilotlight,pilotlight.dev/leader=true";
        let found = watcher(pods, watcher::Config::default().labels(labels)).default_backoff().applied_objects();
        let fits = |pod: &Pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            pod.metadata.deletion_timestamp.is_none() && condition(pod, "Ready") && wanted(name)
        };
        let mut found = pin!(found.filter_map(|pod| ready(pod.ok().filter(fits))));
        let pod = timeout(PATIENCE, found.next()).await.expect("a replica leads in time");
        pod.expect("a watch does not end")
    }

    /// Rights that were never given. (The Node authorizer learns of a binding a moment after it: what is refused then, and
    /// given later, is none of them.)
    pub fn refused(&self) -> Vec<(String, String)> {
        let asked = self.asked();
        let given =
            |one: &Asked| asked.iter().any(|a| (&a.verb, &a.resource) == (&one.verb, &one.resource) && a.code < 300);
        let refused = asked.iter().filter(|one| one.code == 403 && !given(one));
        refused.map(|one| (one.verb.clone(), one.resource.clone())).collect()
    }

    /// What the release's account and the nodes that it is asked of the API server.
    pub fn asked(&self) -> BTreeSet<Asked> {
        self.audit.asked(&[ACCOUNT, "system:node:pilotlight-us-east-1a"])
    }

    pub fn asked_by_nodes(&self) -> BTreeSet<Asked> {
        self.audit.asked(&["system:node:pilotlight-us-east-1a"])
    }

    /// Ends the process of a replica, as a kernel without memory would.
    pub fn kill(&self, pod: &str) {
        let named = format!("POD_NAME={pod}");
        let its = |pid: &u32| {
            let words = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let program = words("cmdline").split(|b| *b == 0).next().is_some_and(|word| word.ends_with(b"pilotlight"));
            program && words("environ").split(|b| *b == 0).any(|word| word == named.as_bytes())
        };
        let all =
            fs::read_dir("/proc").expect("proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let found: Vec<u32> = all.filter(its).collect();
        let [pid] = found[..] else { panic!("the processes of {pod} are {found:?}") };
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id")),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("it can be ended");
    }

    /// Waits until a replica was started again so often, and is well.
    pub async fn until_restarted(&self, pod: &str, times: i32) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let well =
            |pod: Option<&Pod>| pod.is_some_and(|pod| restarts(pod, "provider") == times && condition(pod, "Ready"));
        let found = timeout(PATIENCE, await_condition(pods, pod, well)).await;
        found.unwrap_or_else(|_| panic!("{pod} is not started {times} times")).expect("Pods can be watched");
    }

    /// By helm alone, as people do; and what is left is known.
    pub async fn uninstall(self) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = helm(self.cluster, dir.path());
        said(
            "helm uninstall",
            command.args(["uninstall", "pilotlight", "--wait", "--timeout", "90s"]).output().expect("helm"),
        );
        // Its --wait is for the Deployment.
        self.kubectl(&["wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=pilotlight", "--timeout=60s"]);
        let list = |kinds: &str| self.kubectl(&["get", kinds, "-o", "name"]);
        let of_ours = list(
            "deployment,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,clusterrole,clusterrolebinding",
        );
        assert!(!of_ours.contains("pilotlight"), "{of_ours}");
        // README of the manifests: these outlive it, so that another install finds what runs.
        let kept = list("secret,configmap,lease,node");
        let mut kept: Vec<&str> = kept.lines().filter(|line| line.contains("/pilotlight")).collect();
        kept.sort_unstable();
        let wanted = [
            "configmap/pilotlight-claims",
            "lease.coordination.k8s.io/pilotlight",
            "node/pilotlight-us-east-1a",
            "secret/pilotlight-agent-ca",
        ];
        assert_eq!(kept, wanted);
    }

    /// Whatever one of the name has left, also the provider beside the cluster.
    fn clear(&self) {
        let quiet = |args: &[&str]| drop(kubectl(self.cluster, args).output());
        let dir = tempfile::tempdir().expect("a directory");
        drop(helm(self.cluster, dir.path()).args(["uninstall", "pilotlight", "--wait", "--timeout", "60s"]).output());
        quiet(&["wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=pilotlight", "--timeout=60s"]);
        rights(self.cluster, &["delete", "--ignore-not-found"]);
        quiet(&["delete", "--ignore-not-found", "node", "pilotlight-us-east-1a"]);
        quiet(&["delete", "--ignore-not-found", "-n", "kube-node-lease", "lease", "pilotlight-us-east-1a"]);
        quiet(&["delete", "--ignore-not-found", "secret,lease,configmap", "--all"]);
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for args in [
                &["get", "pods", "-o", "wide"][..],
                &["describe", "pods"],
                &["logs", "-l", "app.kubernetes.io/name=pilotlight", "--prefix", "--tail=60"],
            ] {
                let output = kubectl(self.cluster, args).output();
                eprintln!(
                    "--- kubectl {args:?}\n{}",
                    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
                );
            }
        }
        self.clear();
        rights(self.cluster, &["apply"]);
        beside(&["up", "--ec2"]);
    }
}

/// The chart's values: the provider.yaml beside the cluster, without what the chart brings.
fn values(cluster: &Cluster, repository: &str, tag: &str, nodes: Value) -> Value {
    let text = fs::read_to_string(cluster.provider_dir().join("provider.yaml")).expect("it was configured");
    let mut provider: Value = serde_json::from_str(&text).expect("scripts/provider writes JSON");
    let map = provider.as_object_mut().expect("an object");
    for ours in ["kubeconfig", "stateDir", "address", "agents", "catalog", "costPolicy", "prices", "telemetry"] {
        map.remove(ours);
    }
    map.insert("nodeIdentity".to_owned(), nodes);
    // Until the Service's address is known.
    map.insert("agents".to_owned(), json!({ "advertise": "pilotlight-agents:10255" }));
    let of_tests = |name: &str| {
        let file = repo().join("integration/ec2_e2e").join(name);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    let policy: Value = serde_saphyr::from_str(&of_tests("cost-policy.yaml")).expect("YAML");
    json!({
        "image": { "repository": repository, "tag": tag, "pullPolicy": "Always" },
        "provider": provider,
        "costPolicy": policy,
        "catalog": of_tests("catalog.yaml"),
        "prices": of_tests("prices.yaml"),
        "serviceAccount": { "annotations": { "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/pilotlight" } },
    })
}

/// `scripts/provider`: the one beside the cluster.
fn beside(action: &[&str]) {
    let output = Cluster::get().script("provider", action).output().expect("scripts/provider can be run");
    // In a Drop: a second panic would hide the first.
    if !output.status.success() {
        eprintln!("scripts/provider {action:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn kubectl(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = anywhere(cluster);
    command.args(["--namespace", NAMESPACE]).args(args);
    command
}

fn anywhere(cluster: &Cluster) -> Command {
    let mut command = Command::new(program());
    command.env("KUBECONFIG", cluster.kubeconfig()).env("KUBECACHEDIR", cluster.state.join("kubectl-cache"));
    command.stdin(Stdio::null());
    command
}

/// Of the provider and the gateway beside the cluster: they are of several namespaces.
fn rights(cluster: &Cluster, action: &[&str]) {
    let mut command = anywhere(cluster);
    command.args(action);
    for directory in ["manifests/rbac", "manifests/gateway"] {
        command.arg("-f").arg(repo().join(directory));
    }
    match command.output() {
        Ok(output) if output.status.success() => {}
        other => eprintln!("kubectl {action:?}, the test cluster's rights: {other:?}"),
    }
}

/// Nothing of the person who runs the tests: its files are in `dir`.
fn helm(cluster: &Cluster, dir: &std::path::Path) -> Command {
    let program = repo().join("target/tools/bin/helm");
    assert!(program.exists(), "{} is missing: run scripts/tools helm", program.display());
    let mut command = Command::new(program);
    command.envs(["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"].map(|name| (name, dir)));
    command.env("KUBECONFIG", cluster.kubeconfig()).args(["--namespace", NAMESPACE]).stdin(Stdio::null());
    for proxy in ["HTTPS_PROXY", "https_proxy"] {
        command.env_remove(proxy);
    }
    command.current_dir(repo());
    command
}

fn said(what: &str, output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
