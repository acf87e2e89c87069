//! The label by which a Service finds the replica that leads.
//!
//! ```text
//!   start: not leading ──> label taken off (an earlier process of this Pod may have led)
//!   leads              ──> label put on;   each time: tried again until the API server has taken it
//! ```
//!
//! It is for finding alone: who leads is the Lease's to say. A leader that ends leaves it on; its Pod is not
//! ready from then on, so no Service sends anybody there.

use super::why;
use crate::config::OwnPod;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const LEADER: &str = "pilotlight.dev/leader";

/// Keeps the Pod's label as `leads` says until cancelled.
pub async fn keep(client: Client, pod: OwnPod, mut leads: watch::Receiver<bool>, cancel: CancellationToken) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace);
    let mut backoff = crate::retry::Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let value = leads.borrow_and_update().then_some("true");
        // In a merge patch, null takes a key away.
        let patch = json!({ "metadata": { "labels": { LEADER: value } } });
        let wait = match pods.patch(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                backoff.reset();
                None
            }
            Err(error) => {
                tracing::warn!(pod = pod.name, error = why(&error), "the leader's label was not written; trying again");
                Some(backoff.next_wait())
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = leads.changed() => if changed.is_err() { return cancel.cancelled().await },
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}
