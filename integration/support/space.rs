//! A namespace that one test has for itself.

use super::{
    Cluster, PATIENCE, kubectl,
    kubectl::{Outcome, Session},
    tail,
};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Namespace, Node, Pod, ServiceAccount};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
    runtime::{WatchStreamExt, wait::await_condition, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{fmt::Debug, future::ready, pin::pin};
use tokio::time::timeout;

/// Deleted with everything in it when dropped. If the test failed, what is known of its Pods is
/// printed before.
pub struct Space {
    pub cluster: &'static Cluster,
    pub client: Client,
    pub name: String,
}

impl Space {
    pub async fn new(test: &str) -> Self {
        let cluster = Cluster::get();
        let client = cluster.client().await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        // What an earlier run left may still be on its way out: a new name each time.
        let metadata = ObjectMeta { generate_name: Some(format!("{test}-")), ..ObjectMeta::default() };
        let made = namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await;
        let name = made.expect("a namespace can be made").metadata.name.expect("made objects have names");
        let space = Self { cluster, client, name };
        // A Pod is refused before its service account exists.
        space.until::<ServiceAccount>("default", "exists", |account| account.is_some()).await;
        space
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Waits until the object is as wanted; `None` stands for an object that does not exist.
    pub async fn until<K>(&self, name: &str, what: &str, wanted: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Send
            + DeserializeOwned
            + 'static,
    {
        match timeout(PATIENCE, await_condition(self.api::<K>(), name, wanted)).await {
            Ok(found) => found.expect("the API server can be watched"),
            Err(_) => panic!("{} {name}: not within {PATIENCE:?}: {what}", K::kind(&())),
        }
    }

    /// Waits until the Pod exists and is as wanted.
    pub async fn until_pod(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        self.until::<Pod>(name, what, |pod| pod.is_some_and(&wanted)).await.expect("the condition wants it to exist")
    }

    pub async fn until_running(&self, name: &str) -> Pod {
        self.until_pod(name, "runs and is ready", |pod| phase(pod) == "Running" && condition(pod, "Ready")).await
    }

    pub async fn until_phase(&self, name: &str, wanted: &str) -> Pod {
        self.until_pod(name, wanted, |pod| phase(pod) == wanted).await
    }

    pub async fn until_gone(&self, name: &str) {
        self.until::<Pod>(name, "is gone", |pod| pod.is_none()).await;
    }

    /// Waits until the node's Ready is of this status, with these words in its message.
    pub async fn until_node(&self, node: &str, wanted: &str, says: &str) {
        let ready = |node: &Node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
            ready.map(|c| (c.status, c.message.unwrap_or_default())).unwrap_or_default()
        };
        let nodes = Api::<Node>::all(self.client.clone());
        let found = await_condition(nodes, node, |node: Option<&Node>| {
            node.map(ready).is_some_and(|(status, message)| status == wanted && message.contains(says))
        });
        assert!(timeout(PATIENCE, found).await.is_ok(), "the node is not {wanted:?} with {says:?}");
    }

    /// The container waits with this reason.
    pub async fn until_waiting(&self, pod: &str, container: &str, reason: &str) -> Pod {
        self.until_pod(pod, reason, |p| waiting(p, container).as_deref() == Some(reason)).await
    }

    /// Waits for an event about the object with this reason whose message `wanted` accepts.
    pub async fn until_event(&self, about: &str, reason: &str, wanted: impl Fn(&str) -> bool) -> Event {
        let config = watcher::Config::default().fields(&format!("involvedObject.name={about},reason={reason}"));
        let events = watcher(self.api::<Event>(), config).default_backoff().applied_objects();
        let found = events.try_filter(|event| ready(event.message.as_deref().is_some_and(&wanted)));
        let mut found = pin!(found);
        match timeout(PATIENCE, found.next()).await {
            Ok(event) => event.expect("a watch does not end").expect("events can be watched"),
            Err(_) => panic!("{about}: no such event with reason {reason} within {PATIENCE:?}; {}", self.told().await),
        }
    }

    /// The last events, one line each, for a failure's message.
    async fn told(&self) -> String {
        let events = self.api::<Event>().list(&ListParams::default()).await;
        let mut events = events.map(|list| list.items).unwrap_or_default();
        events.sort_by_key(|event| event.metadata.creation_timestamp.clone());
        let line = |event: Event| {
            let name = event.involved_object.name.unwrap_or_default();
            format!("\n  {name}: {}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
        };
        let late = events.len().saturating_sub(40);
        format!("the last events:{}", events.into_iter().skip(late).map(line).collect::<String>())
    }

    /// `kubectl apply`. A refused manifest fails the test.
    pub async fn apply(&self, manifest: &Value) {
        let command = kubectl::command(self.cluster, &self.name, &["apply", "-f", "-"]);
        succeed("apply", kubectl::run(command, Some(manifest.to_string().as_bytes())).await);
    }

    /// A kubectl that must succeed; its stdout.
    pub async fn kubectl(&self, args: &[&str]) -> String {
        succeed(&args.join(" "), self.try_kubectl(args).await)
    }

    pub async fn try_kubectl(&self, args: &[&str]) -> Outcome {
        kubectl::run(kubectl::command(self.cluster, &self.name, args), None).await
    }

    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Outcome {
        kubectl::run(kubectl::command(self.cluster, &self.name, args), Some(input.as_bytes())).await
    }

    /// A kubectl that runs on.
    pub fn session(&self, args: &[&str]) -> Session {
        Session::start(kubectl::command(self.cluster, &self.name, args))
    }

    /// A kubectl on a terminal of its own (util-linux's script), which runs on.
    pub fn terminal(&self, args: &[&str]) -> Session {
        let mut line = kubectl::program().display().to_string();
        for arg in ["--namespace", &self.name].iter().chain(args) {
            line.push_str(" '");
            line.push_str(arg);
            line.push('\'');
        }
        let mut command = tokio::process::Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        kubectl::prepare(&mut command, self.cluster);
        Session::start(command)
    }

    /// A shell script in a running container; its trimmed stdout.
    pub async fn exec(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script]).await.trim().to_owned()
    }

    /// Runs a script in a container again and again until its output is as wanted: for what nobody can
    /// watch (files and networks inside a Pod).
    pub async fn until_exec(&self, pod: &str, script: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = None;
        let found = timeout(PATIENCE, async {
            loop {
                let outcome = self.try_kubectl(&["exec", pod, "--", "sh", "-c", script]).await;
                if outcome.code == Some(0) && wanted(outcome.stdout.trim()) {
                    return outcome.stdout.trim().to_owned();
                }
                last = Some(outcome);
            }
        });
        let found = found.await;
        found.unwrap_or_else(|_| panic!("{pod}: {script:?} did not become as wanted; the last: {last:?}"))
    }

    /// Waits until the log is as wanted, by following it.
    pub async fn until_log(&self, pod: &str, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let mut follow = vec!["logs", "--follow", pod];
        follow.extend(args);
        self.session(&follow).line(wanted).await
    }

    /// The Pods with this app label.
    pub async fn pods_of(&self, app: &str) -> Vec<Pod> {
        let list = self.api::<Pod>().list(&kube::api::ListParams::default().labels(&format!("app={app}"))).await;
        list.expect("pods can be listed").items
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
            if std::env::var_os("PILOTLIGHT_TEST_KEEP").is_some() {
                return;
            }
        }
        let mut delete =
            self.blocking_kubectl(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
        drop(delete.output());
    }
}

impl Space {
    pub fn blocking_kubectl(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(kubectl::program());
        command.env("KUBECONFIG", self.cluster.kubeconfig()).args(["--namespace", &self.name]).args(args);
        command.env("KUBECACHEDIR", self.cluster.state.join("kubectl-cache")).stdin(std::process::Stdio::null());
        command
    }

    /// Everything that helps to see why a test failed.
    fn tell(&self) {
        let show = |args: &[&str]| match self.blocking_kubectl(args).output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("--- namespace {}: pods\n{}", self.name, show(&["get", "pods", "-o", "wide"]));
        eprintln!("--- events\n{}", show(&["get", "events", "--sort-by=.lastTimestamp"]));
        let list: Value = serde_json::from_str(&show(&["get", "pods", "-o", "json"])).unwrap_or_default();
        for pod in list["items"].as_array().into_iter().flatten() {
            let status = serde_json::to_string_pretty(&pod["status"]).unwrap_or_default();
            eprintln!("--- {}: status {status}", pod["metadata"]["name"]);
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            eprintln!("--- {name}: log\n{}", show(&["logs", name, "--all-containers", "--tail=20", "--prefix"]));
            if let Some(id) = pod["metadata"]["annotations"]["pilotlight.dev/instance-id"].as_str() {
                eprintln!("--- console of {id}\n{}", tail(&self.cluster.instance_dir(id).join("console.log"), 30));
            }
        }
        eprintln!("--- the provider's log\n{}", tail(&self.cluster.provider_log(), 30));
    }
}

fn succeed(what: &str, outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "kubectl {what}: {}{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

/// Deletes without waiting for the end.
pub async fn delete<K>(api: &Api<K>, name: &str, grace: Option<u32>)
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
    api.delete(name, &params).await.unwrap_or_else(|error| panic!("delete {name}: {error}"));
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

pub fn condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

/// The status of a container, an init container or a sidecar.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses];
    all.into_iter().flatten().flatten().find(|c| c.name == name)
}

pub fn waiting(pod: &Pod, name: &str) -> Option<String> {
    container(pod, name)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// Exit code and reason of a container that ended for good, or the last time.
pub fn ended(pod: &Pod, name: &str) -> Option<(i32, String)> {
    let status = container(pod, name)?;
    let now = status.state.as_ref().and_then(|s| s.terminated.as_ref());
    let before = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    now.or(before).map(|t| (t.exit_code, t.reason.clone().unwrap_or_default()))
}

pub fn restarts(pod: &Pod, name: &str) -> i32 {
    container(pod, name).map_or(0, |c| c.restart_count)
}

pub fn annotation(pod: &Pod, name: &str) -> String {
    let key = format!("pilotlight.dev/{name}");
    pod.metadata.annotations.as_ref().and_then(|a| a.get(&key)).cloned().unwrap_or_default()
}
