//! Status patches and final deletes, coalesced.
//!
//! ```text
//!   submit(status) --> slot of the Pod: the latest status wins, delete comes last
//!                          |
//!                          v  at most one request a Pod, at most IN_FLIGHT in all
//!                      PATCH pods/status, then an eviction if one is asked for, then DELETE (grace 0, UID precondition)
//! ```
//!
//! No GET before a PATCH: the UID in the patch makes it fail on a successor of the same name. The slots
//! are bounded by the number of Pods. A request that failed is tried again with the newest status.

use super::render::status_patch;
use crate::decide::status::PodStatus;
use crate::model::{NodeName, ObjectName, PodUid};
use crate::ports::StatusSink;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Each has a connection of its own, with buffers of tens of KiB that stay for the next; an API server that answers in
/// 10 ms serves 1,600 a second like that.
const IN_FLIGHT: usize = 16;

#[derive(Clone)]
pub struct StatusWriter {
    shared: Arc<Shared>,
}

struct Shared {
    clients: HashMap<NodeName, Client>,
    slots: Mutex<Slots>,
    wake: Notify,
}

#[derive(Default)]
struct Slots {
    waiting: BTreeMap<PodUid, Work>,
    busy: BTreeSet<PodUid>,
}

#[derive(Clone)]
struct Work {
    node: NodeName,
    name: ObjectName,
    status: Option<Arc<PodStatus>>,
    evict: Option<Eviction>,
    delete: bool,
    attempts: u32,
}

#[derive(Clone, Copy)]
struct Eviction {
    grace_seconds: u64,
    force: bool,
}

enum Outcome {
    Done,
    Retry(Box<Work>),
}

impl StatusWriter {
    pub fn new(clients: HashMap<NodeName, Client>) -> Self {
        Self { shared: Arc::new(Shared { clients, slots: Mutex::default(), wake: Notify::new() }) }
    }

    fn submit(&self, node: &NodeName, name: &ObjectName, uid: &PodUid, change: impl FnOnce(&mut Work)) {
        let mut slots = self.shared.slots.lock().expect("no panic while the lock is held");
        let work = slots.waiting.entry(uid.clone()).or_insert_with(|| Work {
            node: node.clone(),
            name: name.clone(),
            status: None,
            evict: None,
            delete: false,
            attempts: 0,
        });
        change(work);
        drop(slots);
        self.shared.wake.notify_one();
    }

    /// Carries the work out until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let tasks = TaskTracker::new();
        loop {
            let permit = tokio::select! {
                () = cancel.cancelled() => break,
                permit = Arc::clone(&room).acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let Some((uid, work)) = self.shared.next() else {
                drop(permit);
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = self.shared.wake.notified() => continue,
                }
            };
            let shared = Arc::clone(&self.shared);
            let cancel = cancel.clone();
            tasks.spawn(async move {
                let outcome = shared.carry_out(&uid, work).await;
                drop(permit);
                if let Outcome::Retry(work) = outcome {
                    let pause = Duration::from_millis(100) * 2u32.pow(work.attempts.min(7));
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(pause) => shared.put_back(&uid, *work),
                    }
                }
                shared.finished(&uid);
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

impl StatusSink for StatusWriter {
    fn status(&self, node: &NodeName, name: &ObjectName, uid: &PodUid, status: Arc<PodStatus>) {
        self.submit(node, name, uid, |work| work.status = Some(status));
    }

    fn delete(&self, node: &NodeName, name: &ObjectName, uid: &PodUid) {
        self.submit(node, name, uid, |work| work.delete = true);
    }

    fn evict(&self, node: &NodeName, name: &ObjectName, uid: &PodUid, grace_seconds: u64, force: bool) {
        self.submit(node, name, uid, |work| work.evict = Some(Eviction { grace_seconds, force }));
    }
}

impl Shared {
    fn next(&self) -> Option<(PodUid, Work)> {
        let mut slots = self.slots.lock().expect("no panic while the lock is held");
        let uid = slots.waiting.keys().find(|uid| !slots.busy.contains(*uid))?.clone();
        let work = slots.waiting.remove(&uid)?;
        slots.busy.insert(uid.clone());
        Some((uid, work))
    }

    fn finished(&self, uid: &PodUid) {
        self.slots.lock().expect("no panic while the lock is held").busy.remove(uid);
        self.wake.notify_one();
    }

    /// What failed comes again, under anything newer.
    fn put_back(&self, uid: &PodUid, old: Work) {
        let mut slots = self.slots.lock().expect("no panic while the lock is held");
        let work = slots.waiting.entry(uid.clone()).or_insert_with(|| Work { status: None, ..old.clone() });
        work.attempts = old.attempts + 1;
        work.delete |= old.delete;
        if work.status.is_none() {
            work.status = old.status;
        }
    }

    async fn carry_out(&self, uid: &PodUid, mut work: Work) -> Outcome {
        let Some(client) = self.clients.get(&work.node) else {
            return Outcome::Done;
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &work.name.namespace);
        if let Some(status) = &work.status {
            let patch = Patch::Strategic(status_patch(uid, status));
            match pods.patch_status(&work.name.name, &PatchParams::default(), &patch).await {
                Ok(_) => work.status = None,
                Err(error) if gone(&error) => return Outcome::Done,
                Err(error) => return failed("write the status of", work, &error),
            }
        }
        if let Some(eviction) = work.evict.take() {
            evict(&pods, uid, &work.name, eviction).await;
        }
        if work.delete {
            let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..Default::default()
            };
            match pods.delete(&work.name.name, &params).await {
                Ok(_) => {}
                Err(error) if gone(&error) => {}
                Err(error) => return failed("delete", work, &error),
            }
        }
        Outcome::Done
    }
}

/// Once: whoever wants it asks again, or for more.
async fn evict(pods: &Api<Pod>, uid: &PodUid, name: &ObjectName, eviction: Eviction) {
    let params = DeleteParams {
        grace_period_seconds: Some(u32::try_from(eviction.grace_seconds).unwrap_or(u32::MAX)),
        preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
        ..Default::default()
    };
    let asked = if eviction.force {
        pods.delete(&name.name, &params).await.map(drop)
    } else {
        let params = EvictParams { delete_options: Some(params), ..Default::default() };
        pods.evict(&name.name, &params).await.map(drop)
    };
    match asked {
        Err(error) if !gone(&error) => {
            tracing::warn!(pod = %name, force = eviction.force, error = super::why(&error), "the pod is not evicted yet");
        }
        _ => {}
    }
}

/// It does not exist, or is another one of the same name.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

fn failed(operation: &str, work: Work, error: &kube::Error) -> Outcome {
    // An invalid status will not become valid: say so, and wait for the next one.
    if let kube::Error::Api(status) = error
        && status.code == 422
    {
        tracing::error!(pod = %work.name, %status, "the API server refuses to {operation} the pod");
        return if work.delete { Outcome::Retry(Box::new(Work { status: None, ..work })) } else { Outcome::Done };
    }
    tracing::warn!(pod = %work.name, error = super::why(error), "could not {operation} the pod; trying again");
    Outcome::Retry(Box::new(work))
}
