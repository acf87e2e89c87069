//! What the tests of reserves wait for and look at.

#![allow(dead_code, reason = "a kit: each test uses a part of it")]

use crate::{net::Target, serving::*, support::*};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr, pin::pin, time::Duration};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

const CONDITION: &str = "pilotlight.dev/ReserveReady";
const OF: &str = "pilotlight.dev/reserve-of";

/// The service asks for a reserve.
pub fn reserved(ksvc: Value) -> Value {
    annotated(ksvc, json!({ "pilotlight.dev/reserve": "enabled" }))
}

pub fn reserve_condition(revision: &Value) -> Value {
    let all = revision["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == CONDITION).cloned().unwrap_or_default()
}

impl Serving {
    /// Waits until the Revision's condition about its reserve has this reason.
    pub async fn until_reserve(&self, revision: &str, reason: &str) -> Value {
        let what = format!("its reserve is told to be {reason}");
        self.until_is(Kind::Revision, revision, &what, |seen| reserve_condition(seen)["reason"] == reason).await
    }

    /// The names of the Revision's reserves that are not on their way out.
    pub async fn reserves(&self, revision: &str) -> Vec<String> {
        let all = self.api::<Pod>().list(&ListParams::default().labels(OF)).await.expect("Pods can be listed");
        let begins = format!("{revision}-reserve-");
        let staying = all.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        staying.filter_map(|pod| pod.metadata.name).filter(|name| name.starts_with(&begins)).collect()
    }

    /// Waits until the Revision is at zero and its one reserve answers; the reserve's name.
    pub async fn until_on_reserve(&self, revision: &str) -> String {
        let found = async {
            loop {
                self.until_zero(revision).await;
                self.until_reserve(revision, "ReserveServes").await;
                let reserves = self.reserves(revision).await;
                let deployment = self.api::<Deployment>().get(&format!("{revision}-deployment")).await;
                let at_zero = deployment.expect("it has a Deployment").spec.replicas == Some(0);
                match reserves.as_slice() {
                    [one] if at_zero => {
                        self.until_running(one).await;
                        break one.clone();
                    }
                    // A swap or a roll is not over yet.
                    _ => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{revision}: not on one reserve within {PATIENCE:?}"))
    }

    /// As [`Self::until_on_reserve`], and waits until no other Pod of the Revision is left: one that is told to go may
    /// still get the next request, until every activator knows.
    pub async fn until_alone_on_reserve(&self, revision: &str) -> String {
        let reserve = self.until_on_reserve(revision).await;
        let of = ListParams::default().labels(&format!("serving.knative.dev/revision={revision}"));
        for pod in self.api::<Pod>().list(&of).await.expect("Pods can be listed") {
            let name = pod.metadata.name.unwrap_or_default();
            if name != reserve {
                self.until_gone(&name).await;
            }
        }
        reserve
    }

    /// Waits until every reserve of the Revision is gone.
    pub async fn until_no_reserve(&self, revision: &str) {
        for reserve in self.reserves(revision).await {
            self.until_gone(&reserve).await;
        }
    }

    /// Lays this over the template of the Revision's Deployment, as `kubectl rollout restart` does.
    pub async fn patch_template(&self, revision: &str, over: Value) {
        let patch = Patch::Strategic(json!({ "spec": { "template": over } }));
        let name = format!("{revision}-deployment");
        let patched = self.api::<Deployment>().patch(&name, &PatchParams::default(), &patch).await;
        patched.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Waits until a standard Pod of the Revision cannot be scheduled.
    pub async fn until_pending(&self, revision: &str) {
        let config = watcher::Config::default().labels(&format!("serving.knative.dev/revision={revision}"));
        let pods = watcher(self.api::<Pod>(), config).default_backoff().applied_objects();
        let waits = pods.try_filter(|pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let unschedulable = conditions.into_iter().any(|c| c.type_ == "PodScheduled" && c.status == "False");
            std::future::ready(unschedulable)
        });
        let mut waits = pin!(waits);
        timeout(PATIENCE, waits.next()).await.unwrap_or_else(|_| panic!("{revision}: every Pod was scheduled"));
    }

    /// The process in a Pod itself, past its queue-proxy.
    pub async fn process(&self, pod: &str) -> Target {
        let seen = self.api::<Pod>().get(pod).await.expect("the Pod exists");
        let ip = seen.status.and_then(|status| status.pod_ip?.parse().ok()).expect("it has an address");
        Target { address: SocketAddr::new(ip, 8080), host: pod.to_owned(), headers: Vec::new() }
    }

    /// The memory limit of a Pod's user container, in bytes.
    pub async fn memory_limit(&self, pod: &str) -> u64 {
        let pod = self.api::<Pod>().get(pod).await.expect("the Pod exists");
        let containers = pod.spec.expect("it has a spec").containers;
        let user = containers.iter().find(|c| c.name == "user-container").expect("a user container");
        let limits = user.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.and_then(|limits| pilotlight::model::parse_units(&limits.get("memory")?.0)).expect("a memory limit")
    }
}

/// Watches who can answer for a Revision: the ready endpoints of its private Service, at every change.
pub struct Endpoints {
    stop: oneshot::Sender<()>,
    task: JoinHandle<(Vec<Vec<String>>, usize)>,
}

impl Endpoints {
    pub fn follow(serving: &Serving, revision: &str) -> Self {
        let slices: Api<EndpointSlice> = serving.api();
        let label = format!("kubernetes.io/service-name={revision}-private");
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let config = watcher::Config::default().labels(&label);
            let mut events = watcher(slices, config).default_backoff().applied_objects().boxed();
            // By slice: whose addresses are ready.
            let mut ready: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let (mut seen, mut empty) = (Vec::new(), 0);
            loop {
                let slice = tokio::select! {
                    _ = &mut stopped => return (seen, empty),
                    slice = events.next() => slice.expect("a watch does not end").expect("it can be watched"),
                };
                let endpoints = slice.endpoints.into_iter().flatten();
                let answering = endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
                let names = answering.filter_map(|e| e.target_ref?.name).collect();
                ready.insert(slice.metadata.name.unwrap_or_default(), names);
                let now: Vec<String> = ready.values().flatten().cloned().collect();
                empty += usize::from(now.is_empty() && !seen.is_empty());
                if !now.is_empty() || !seen.is_empty() {
                    seen.push(now);
                }
            }
        });
        Self { stop, task }
    }

    /// Every state seen since there was one, and how often nobody could answer.
    pub async fn stop(self) -> (Vec<Vec<String>>, usize) {
        assert!(self.stop.send(()).is_ok(), "the watch goes on until it is stopped");
        self.task.await.expect("the watch's task does not panic")
    }
}

/// Ends the machine that stands for an instance, with all that runs in it, as a power cut would.
pub fn kill_instance(instance: &str) {
    let file = Cluster::get().instance_dir(instance).join("supervisor.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let supervisor: Value = serde_json::from_str(&text).expect("JSON");
    let init = supervisor["init_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("the machine has booted");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).expect("it runs");
}
