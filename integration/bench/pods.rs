//! Pods, and one watch that sees when they run and when they are gone.

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const NAMESPACE: &str = "bench";
pub const IMAGE: &str = "pilotlight.test/busybox:1";
/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// When a Pod was first seen so.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub scheduled: Option<Instant>,
    /// To an instance.
    pub bound: Option<Instant>,
    pub running: Option<Instant>,
    pub gone: Option<Instant>,
    /// What the last status said, for an error's text.
    status: String,
}

/// By name.
pub type All = BTreeMap<String, Seen>;

pub struct Pods {
    api: Api<Pod>,
    seen: watch::Receiver<All>,
    _watch: AbortOnDropHandle<()>,
}

/// The bench's namespace, by the admin's kubeconfig of KUBECONFIG.
pub async fn namespace() -> Result<Api<Pod>> {
    let client = Client::try_default().await.context("the API server")?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        namespaces.create(&PostParams::default(), &namespace).await?;
    }
    // Pods are refused until it is there.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let deadline = Instant::now() + PATIENCE;
    while accounts.get_opt("default").await?.is_none() {
        if Instant::now() > deadline {
            bail!("the namespace {NAMESPACE} got no service account");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(Api::namespaced(client, NAMESPACE))
}

impl Pods {
    pub async fn connect() -> Result<Self> {
        let api = namespace().await?;
        let (seen, watch) = follow(api.clone());
        Ok(Self { api, seen, _watch: watch })
    }

    /// Creates a Pod on a node; from before that until it is seen Running.
    pub async fn start(&self, name: &str, node: &str) -> Result<Duration> {
        // No scheduler takes part; what a Pod has by default (its token) does.
        let pod = pod(json!({ "name": name }), json!({ "nodeName": node }))?;
        if self.seen.borrow().contains_key(name) {
            bail!("Pod {name} was there before: its times would be taken for this one's");
        }
        let began = Instant::now();
        self.api.create(&PostParams::default(), &pod).await.with_context(|| format!("create Pod {name}"))?;
        let running = self.wait(name, |seen| seen.running).await.with_context(|| format!("Pod {name} on {node}"))?;
        Ok(running - began)
    }

    /// Deletes it with a second of grace; from before that until it is gone.
    pub async fn end(&self, name: &str) -> Result<Duration> {
        let began = Instant::now();
        let params = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        self.api.delete(name, &params).await.with_context(|| format!("delete Pod {name}"))?;
        let gone = self.wait(name, |seen| seen.gone).await.with_context(|| format!("the end of Pod {name}"))?;
        Ok(gone - began)
    }

    async fn wait(&self, name: &str, what: impl Fn(&Seen) -> Option<Instant>) -> Result<Instant> {
        let mut seen = self.seen.clone();
        let found = seen.wait_for(|all| all.get(name).and_then(&what).is_some());
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(Ok(all)) => all.get(name).and_then(&what).ok_or_else(|| anyhow!("it was there a moment ago")),
            Ok(Err(_)) => bail!("the watch ended"),
            Err(_) => {
                let last = self.seen.borrow().get(name).cloned().unwrap_or_default();
                bail!("not within {PATIENCE:?}; the last seen of it: {}", last.status)
            }
        }
    }
}

/// Everything in the namespace, until the handle is dropped.
pub fn follow(api: Api<Pod>) -> (watch::Receiver<All>, AbortOnDropHandle<()>) {
    let (sender, seen) = watch::channel(All::new());
    (seen, AbortOnDropHandle::new(tokio::spawn(see(api, sender))))
}

/// A watch that breaks is begun again, and a Pod that went meanwhile is never reported, so that its try fails instead of
/// being measured wrongly.
async fn see(api: Api<Pod>, seen: watch::Sender<All>) {
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        let now = Instant::now();
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => seen.send_modify(|all| {
                let entry = all.entry(pod.name_any()).or_default();
                if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                    entry.scheduled.get_or_insert(now);
                }
                if pod.annotations().contains_key("pilotlight.dev/instance-id") {
                    entry.bound.get_or_insert(now);
                }
                let status = pod.status.unwrap_or_default();
                if status.phase.as_deref() == Some("Running") {
                    entry.running.get_or_insert(now);
                }
                entry.status = serde_json::to_string(&status).unwrap_or_default();
            }),
            Ok(watcher::Event::Delete(pod)) => seen.send_modify(|all| {
                all.entry(pod.name_any()).or_default().gone = Some(now);
            }),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => {
                eprintln!("the watch broke: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// The same everywhere but for what `place` says of its node.
pub fn pod(metadata: Value, place: Value) -> Result<Pod> {
    let mut spec = json!({
        "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "1000000"],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        }],
    });
    if let (Value::Object(spec), Value::Object(place)) = (&mut spec, place) {
        spec.extend(place);
    }
    Ok(serde_json::from_value(json!({ "metadata": metadata, "spec": spec }))?)
}
