//! Events on Pods and Nodes, as a kubelet writes them.
//!
//! A bounded queue and one task: a slow API server costs events, which are counted, never Pods.
//! Equal events within a while become one with a count (client-go's EventCorrelator does the same), so
//! a Pod that fails every ten seconds does not fill etcd.

use crate::model::NodeName;
use crate::ports::{EventSink, PodEvent};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const QUEUE: usize = 4096;
/// Equal events this close together are one (client-go aggregates within ten minutes).
const AGGREGATE: SignedDuration = SignedDuration::from_mins(10);
/// How many events are remembered for that.
const REMEMBERED: usize = 4096;

#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<(PodEvent, Timestamp)>,
    dropped: Arc<AtomicU64>,
}

impl EventRecorder {
    /// The recorder, and the task that writes what it is given.
    pub fn new(clients: HashMap<NodeName, Client>, cancel: CancellationToken) -> (Self, impl Future<Output = ()>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue, dropped: Arc::default() }, write(clients, receiver, cancel))
    }

    /// How many events were not written because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl EventSink for EventRecorder {
    fn record(&self, event: PodEvent, at: Timestamp) {
        if self.queue.try_send((event, at)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes an event on a node at once; only to be used for what is rare. If it fails, that is logged.
pub async fn node_event(client: &Client, node: &NodeName, warning: bool, reason: &str, message: &str, at: Timestamp) {
    let event: Event = serde_json::from_value(json!({
        "metadata": { "name": format!("{node}.{:x}", at.as_nanosecond()), "namespace": "default" },
        // A kubelet gives the name as the uid (pkg/kubelet/kubelet.go, nodeRef), and kubectl describe asks by it.
        "involvedObject": { "kind": "Node", "name": node, "uid": node },
        "type": if warning { "Warning" } else { "Normal" },
        "reason": reason,
        "message": clipped(message, 1024),
        "source": { "component": "kubelet", "host": node },
        "reportingComponent": "kubelet",
        "reportingInstance": node,
        "firstTimestamp": seconds(at),
        "lastTimestamp": seconds(at),
        "count": 1,
    }))
    .expect("an event of this shape is valid");
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::warn!(%node, reason, error = super::why(&error), "an event on a node was not written");
    }
}

/// What is remembered of an event: thousands of them, so not their texts.
struct Written {
    /// Its name's second half.
    number: i128,
    count: u32,
    last: Timestamp,
}

/// client-go's names: the object's name and the time in hexadecimal nanoseconds.
fn name(event: &PodEvent, number: i128) -> String {
    format!("{}.{number:x}", event.pod.name)
}

async fn write(
    clients: HashMap<NodeName, Client>,
    mut queue: mpsc::Receiver<(PodEvent, Timestamp)>,
    cancel: CancellationToken,
) {
    // By a keyed hash: a workload has a say in an event's text, and can't make two of them meet.
    let hashes = RandomState::new();
    let mut written: HashMap<u64, Written> = HashMap::new();
    let mut named = 0;
    loop {
        let (event, at) = tokio::select! {
            () = cancel.cancelled() => return,
            next = queue.recv() => match next {
                Some(next) => next,
                None => return,
            },
        };
        let Some(client) = clients.get(&event.node) else { continue };
        if written.len() >= REMEMBERED {
            written.retain(|_, w| at.duration_since(w.last) < AGGREGATE);
            if written.len() >= REMEMBERED {
                written.clear();
            }
        }
        let events: Api<Event> = Api::namespaced(client.clone(), &event.pod.namespace);
        let key = hashes.hash_one(&event);
        let known = written.get_mut(&key).filter(|w| at.duration_since(w.last) < AGGREGATE);
        let result = match known {
            Some(known) => {
                known.count += 1;
                known.last = at;
                let patch = json!({ "count": known.count, "lastTimestamp": seconds(at) });
                events.patch(&name(&event, known.number), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            None => {
                // What is decided together is of the same time: each gets another name.
                named = at.as_nanosecond().max(named + 1);
                let object = object(&event, &name(&event, named), at);
                let result = events.create(&PostParams::default(), &object).await.map(drop);
                written.insert(key, Written { number: named, count: 1, last: at });
                result
            }
        };
        if let Err(error) = result {
            // A namespace that is going takes no events: nothing to see there.
            written.remove(&key);
            tracing::debug!(pod = %event.pod, reason = event.reason, error = super::why(&error), "an event was not written");
        }
    }
}

fn object(event: &PodEvent, name: &str, at: Timestamp) -> Event {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": event.pod.namespace },
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": event.pod.namespace,
            "name": event.pod.name,
            "uid": event.uid,
            "fieldPath": event.field_path,
        },
        "type": if event.warning { "Warning" } else { "Normal" },
        "reason": event.reason,
        // validation: at most 1024 bytes (pkg/apis/core/validation/events.go).
        "message": clipped(&event.message, 1024),
        "source": { "component": "kubelet", "host": event.node },
        "reportingComponent": "kubelet",
        "reportingInstance": event.node,
        "firstTimestamp": seconds(at),
        "lastTimestamp": seconds(at),
        "count": 1,
    }))
    .expect("an event of this shape is valid")
}

fn clipped(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
