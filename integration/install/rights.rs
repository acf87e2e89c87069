//! A provider under its own ServiceAccount, with the rights that the chart gives and no others.

use crate::{
    alone,
    rendering::{kubectl, least, rendered},
    support::{
        audit::{Asked, Audit},
        *,
    },
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, runtime::wait::await_condition};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::timeout;

const NAMESPACE: &str = "pilotlight-system";
const ACCOUNT: &str = "system:serviceaccount:pilotlight-system:pilotlight";
const NODE: &str = "pilotlight-local-a";
const TELEMETRY: &str = "127.0.0.1:10283";
/// The Pod that the provider is told it is.
const SELF: &str = "pilotlight-own-pod";

/// The account with its rights, and a provider that acts as it.
struct Installed {
    cluster: &'static Cluster,
    dir: PathBuf,
    rights: Vec<Value>,
    provider: Option<Child>,
    audit: Audit,
}

impl Installed {
    fn new(space: &Space) -> Self {
        let cluster = space.cluster;
        let dir = cluster.state.join("installed");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).expect("a directory can be made");
        let own = json!({ "nodeIdentity": { "client": "serviceAccount" } });
        let text = rendered(&json!({ "provider": with(least("local-a"), own) }), NAMESPACE);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let of_rights = |object: &&Value| {
            let kind = object["kind"].as_str().unwrap_or_default();
            kind.contains("Role") || kind == "ServiceAccount"
        };
        let rights: Vec<Value> = objects.iter().filter(of_rights).cloned().collect();
        let installed = Self { cluster, dir, rights, provider: None, audit: Audit::from_now(cluster) };
        script("provider", &["down"]);
        // What an earlier provider made would not be made anew.
        for (kind, namespace, name) in [
            ("node", "default", NODE),
            ("lease", "kube-node-lease", NODE),
            ("lease", NAMESPACE, "pilotlight"),
            ("secret", NAMESPACE, "pilotlight-agent-ca"),
        ] {
            kubectl(&["delete", kind, "--ignore-not-found", "-n", namespace, name], None);
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": installed.rights });
        kubectl(&["apply", "-f", "-"], Some(&list.to_string()));
        installed.write_kubeconfig();
        installed.write_config();
        // Nobody runs it: it is there to be labelled.
        let own = pod(SELF, json!({ "schedulerName": "none", "containers": [idle()] }));
        kubectl(&["apply", "-n", NAMESPACE, "-f", "-"], Some(&own.to_string()));
        installed
    }

    fn write_kubeconfig(&self) {
        let token = kubectl(&["create", "token", "pilotlight", "-n", NAMESPACE, "--duration", "1h"], None);
        let ca = self.cluster.state.join("ca.crt");
        let server = self.cluster.variable("PILOTLIGHT_API_INSIDE");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": server, "certificate-authority": ca } }],
            "users": [{ "name": "u", "user": { "token": token.trim() } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        });
        fs::write(self.dir.join("kubeconfig"), config.to_string()).expect("written");
    }

    /// The cluster's provider.yaml, as its own account, with a Lease, and the address of its Pod.
    fn write_config(&self) {
        let config = fs::read_to_string(self.cluster.state.join("provider/provider.yaml")).expect("it was configured");
        let mut changed = String::new();
        for line in config.lines() {
            changed += &match line.trim_start() {
                text if text.starts_with("address:") => String::new(),
                text if text.starts_with("kubeconfig:") => "kubeconfig: kubeconfig".to_owned(),
                text if text.starts_with("stateDir:") => "stateDir: state".to_owned(),
                text if text.starts_with("client: certificate") => "  client: serviceAccount".to_owned(),
                text if text.starts_with("listen: 127.0.0.1") => format!("  listen: {TELEMETRY}"),
                text if text.starts_with("enabled: false") => "  enabled: true".to_owned(),
                text if text.starts_with("# labelPod:") => "  labelPod: true".to_owned(),
                text if text.starts_with("# authoritySecret:") => {
                    format!("  authoritySecret: {{namespace: {NAMESPACE}, name: pilotlight-agent-ca}}")
                }
                _ => line.to_owned(),
            };
            changed.push('\n');
        }
        for wanted in ["client: serviceAccount", "enabled: true", "  labelPod", "  authoritySecret", "kubeconfig: kube"]
        {
            assert!(changed.contains(wanted), "{wanted} in {changed}");
        }
        fs::write(self.dir.join("provider.yaml"), changed).expect("written");
    }

    fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let mut command = self.cluster.script("cluster", &["exec", "--", "env", "-u", "KUBECONFIG"]);
        command.args(["POD_IP=10.70.0.1", &format!("POD_NAME={SELF}"), &format!("POD_NAMESPACE={NAMESPACE}")]);
        command.arg(env!("CARGO_BIN_EXE_pilotlight")).args(["node", "--config"]).arg(self.dir.join("provider.yaml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.provider = Some(command.spawn().expect("a provider can be started"));
    }

    /// Asks it to end and waits.
    async fn end(&mut self) {
        let Some(mut child) = self.provider.take() else { return };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        kill(pid, Signal::SIGTERM).expect("it can be asked");
        let ended = tokio::task::spawn_blocking(move || child.wait());
        let status = timeout(PATIENCE, ended).await.expect("it ends in time").expect("waited").expect("waited");
        assert_eq!(status.code(), Some(0), "{}", tail(&self.log(), 30));
    }

    fn log(&self) -> PathBuf {
        self.dir.join("provider.log")
    }

    async fn until_leads(&self) {
        let ask = || {
            let url = format!("http://{TELEMETRY}/readyz");
            self.cluster.script("cluster", &["exec", "--", "curl", "-sf", "--max-time", "5", &url]).output()
        };
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        let leads = timeout(PATIENCE, async {
            while !(ask().is_ok_and(|output| output.status.success())
                && tail(&self.log(), 1000).contains("the provider runs"))
            {
                tick.tick().await;
            }
        });
        assert!(leads.await.is_ok(), "it does not lead: {}", tail(&self.log(), 40));
    }

    /// What the account asked of the API server since the start.
    fn asked(&self) -> BTreeSet<Asked> {
        self.audit.asked(&[ACCOUNT])
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the installed provider's log\n{}", tail(&self.log(), 60));
        }
        if let Some(mut child) = self.provider.take() {
            drop(child.kill());
            drop(child.wait());
        }
        let mut destroy = self.cluster.script("cluster", &["exec", "--", env!("CARGO_BIN_EXE_pilotlight")]);
        destroy.args(["local-machine", "--destroy-all", "--cluster", &self.cluster.name, "--state-dir"]);
        drop(destroy.arg(self.dir.join("state/instances")).output());
        let clean = |args: &[&str]| {
            let mut command = Command::new(crate::support::kubectl::program());
            command.env("KUBECONFIG", self.cluster.kubeconfig()).args(args).stdin(Stdio::null());
            drop(command.output());
        };
        clean(&["delete", "pod", SELF, "-n", NAMESPACE, "--grace-period=0", "--force", "--ignore-not-found"]);
        clean(&["delete", "serviceaccount", "pilotlight", "-n", NAMESPACE, "--ignore-not-found"]);
        clean(&["delete", "clusterrole,clusterrolebinding", "pilotlight-as-nodes", "--ignore-not-found"]);
        clean(&["delete", "role,rolebinding", "pilotlight-as-nodes", "-n", "kube-node-lease", "--ignore-not-found"]);
        for name in ["pilotlight", "pilotlight-agent-ca"] {
            clean(&["delete", "lease,secret", name, "-n", NAMESPACE, "--ignore-not-found"]);
        }
        clean(&["apply", "-f", &repo().join("manifests/rbac").display().to_string()]);
        drop(fs::remove_dir_all(&self.dir));
        script("provider", &["up"]);
    }
}

fn script(name: &str, action: &[&str]) {
    let output = Cluster::get().script(name, action).output().expect("the script can be run");
    // In a Drop: a second panic would hide the first.
    if !output.status.success() {
        eprintln!("scripts/{name} {action:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// (verb, group, resource) of every rule.
fn granted(objects: &[Value]) -> BTreeSet<(String, String, String)> {
    let mut granted = BTreeSet::new();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    for rule in objects.iter().flat_map(|object| object["rules"].as_array().into_iter().flatten()) {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    granted.insert((verb, group.clone(), resource.clone()));
                }
            }
        }
    }
    granted
}

/// A Pod whose needs touch everything that a Pod can refer to.
fn demanding() -> Value {
    let main = with(
        idle(),
        json!({
            "envFrom": [{ "configMapRef": { "name": "settings" } }],
            "volumeMounts": [{ "name": "keys", "mountPath": "/keys" }],
        }),
    );
    let volumes = json!([{ "name": "keys", "secret": { "secretName": "keys" } }]);
    pod("demanding", with(spec(&[main]), json!({ "volumes": volumes })))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_the_charts_rights_runs_pods_as_its_own_account_and_uses_each_right_and_no_other() {
    let _turn = alone().await;
    let space = Space::new("rights").await;
    let mut installed = Installed::new(&space);
    installed.start();
    installed.until_leads().await;
    let nodes: Api<Node> = Api::all(space.client.clone());
    let ready = await_condition(nodes, NODE, |node: Option<&Node>| {
        let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    });
    timeout(PATIENCE, ready).await.expect("the node becomes ready").expect("it can be watched");
    let labelled = kubectl(&["get", "pod", "-n", NAMESPACE, "-l", "pilotlight.dev/leader=true", "-o", "name"], None);
    assert_eq!(labelled.trim(), format!("pod/{SELF}"));

    space.apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "WORD": "warm" } })).await;
    space.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys" }, "stringData": { "door": "open" } })).await;
    space.apply(&demanding()).await;
    // Backs off again and again: one event that is counted.
    let failing = with(spec(&[shell("exit 1")]), json!({ "restartPolicy": "Always" }));
    space.apply(&pod("failing", failing)).await;
    space.until_running("demanding").await;
    let found =
        space.exec("demanding", "echo $WORD $(cat /keys/door); ls /var/run/secrets/kubernetes.io/serviceaccount").await;
    assert!(found.starts_with("warm open") && found.contains("token"), "{found}");
    space.until_pod("failing", "was restarted", |pod| restarts(pod, "main") >= 2).await;
    let counted = |used: &BTreeSet<Asked>| used.iter().any(|u| u.verb == "patch" && u.resource == "events");
    until(|| counted(&installed.asked()), "an event is counted").await;

    // A caller by token is looked up, and may do what it may do: this one may not.
    let token = kubectl(&["create", "token", "default", "-n", &space.name], None);
    let header = format!("Authorization: Bearer {}", token.trim());
    let curl = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", &header, "https://10.70.0.1:10260/pods"];
    assert_eq!(space.cluster.inside(&curl), "403");

    // Another start finds the node as it is.
    installed.end().await;
    installed.start();
    installed.until_leads().await;
    space.until_exec("demanding", "echo here", |text| text == "here").await;
    for name in ["demanding", "failing"] {
        delete(&space.api::<Pod>(), name, Some(1)).await;
    }
    space.until_gone("demanding").await;
    space.until_gone("failing").await;
    installed.end().await;

    let asked = installed.asked();
    let refused: Vec<_> = asked.iter().filter(|one| one.code == 403).collect();
    assert!(refused.is_empty(), "a right is missing: {refused:?}");
    let used: BTreeSet<(String, String, String)> =
        asked.into_iter().map(|one| (one.verb, one.group, one.resource)).collect();
    let right = |verb: &str, group: &str, resource: &str| (verb.to_owned(), group.to_owned(), resource.to_owned());
    // Not asked for by a request of its own: it is what approving needs besides.
    let approving = right("approve", "certificates.k8s.io", "signers");
    // Which instance is whose: on EC2 alone. (`installed` sees these used, and evictions.)
    let claims = ["get", "update", "create"].map(|verb| right(verb, "", "configmaps"));
    // Reserves: where there is Knative Serving, or a Deployment that asks (the tests of `knative` use them all).
    let reserves = [
        ("list watch", "serving.knative.dev", "revisions routes"),
        ("patch", "serving.knative.dev", "revisions revisions/status"),
        ("list watch", "autoscaling.internal.knative.dev", "podautoscalers"),
        ("list watch", "apps", "deployments"),
        ("patch", "apps", "deployments/status"),
        ("list watch", "", "namespaces configmaps"),
        ("create patch delete list watch", "", "pods"),
        ("create", "", "events"),
    ];
    let of_reserves = |(verb, group, resource): &(String, String, String)| {
        let among = |words: &str, word: &str| words.split(' ').any(|one| one == word);
        reserves.iter().any(|(verbs, of, all)| among(verbs, verb) && *of == group && among(all, resource))
    };
    // What can't be moved from an instance that is taken back.
    let evicting = right("create", "", "pods/eviction");
    let needed = |right: &(String, String, String)| {
        [&approving, &evicting].contains(&right) || claims.contains(right) || of_reserves(right)
    };
    let unused: Vec<_> =
        granted(&installed.rights).into_iter().filter(|right| !used.contains(right) && !needed(right)).collect();
    assert!(unused.is_empty(), "nobody needs these rights: {unused:?}");
}

async fn until(holds: impl Fn() -> bool, what: &str) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let reached = timeout(PATIENCE, async {
        while !holds() {
            tick.tick().await;
        }
    });
    assert!(reached.await.is_ok(), "not within {PATIENCE:?}: {what}");
}
