//! The watch on one node's own Pods.
//!
//! One watch a node, with `spec.nodeName=<node>`: all that the Node authorizer allows. Pods become
//! [`PodSeen`]; a Pod that vanished while the watch was broken is reported gone after the next full
//! list, never before. The whole objects are not kept: [`list`] asks for them.

use super::intent::{pod_intent, unhonoured};
use super::render::{gates, observed_status};
use crate::interner::Interner;
use crate::model::{Labels, NodeName, PodUid};
use crate::ports::{PodSeen, PodUpdate};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Request};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A caller waits; the API server answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until cancelled, or until nobody listens.
pub async fn watch(client: Client, node: NodeName, updates: mpsc::Sender<PodUpdate>, cancel: CancellationToken) {
    let pods: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&of_node(&node));
    let mut stream = watcher(pods, config).default_backoff().boxed();
    let mut known: BTreeSet<PodUid> = BTreeSet::new();
    let mut listed: BTreeSet<PodUid> = BTreeSet::new();
    let mut labels = Interner::default();
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = stream.next() => event,
        };
        let mut out = Vec::new();
        match event {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(%node, error = super::why(&error), "the watch on pods broke; it is tried again");
            }
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(pod))) => {
                if let Some(seen) = seen(&pod, &mut labels) {
                    listed.insert(seen.intent.uid.clone());
                    out.push(PodUpdate::Seen(Box::new(seen)));
                }
            }
            Some(Ok(watcher::Event::InitDone)) => {
                out.extend(known.difference(&listed).cloned().map(PodUpdate::Gone));
                known = std::mem::take(&mut listed);
                out.push(PodUpdate::Synced(node.clone()));
            }
            Some(Ok(watcher::Event::Apply(pod))) => {
                if let Some(seen) = seen(&pod, &mut labels) {
                    known.insert(seen.intent.uid.clone());
                    out.push(PodUpdate::Seen(Box::new(seen)));
                }
            }
            Some(Ok(watcher::Event::Delete(pod))) => {
                if let Some(uid) = pod.metadata.uid.map(PodUid::new) {
                    known.remove(&uid);
                    out.push(PodUpdate::Gone(uid));
                }
            }
        }
        for update in out {
            if updates.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// The node's Pods as the API server has them: a v1 PodList in JSON. From its cache, as what a kubelet says of them is
/// what its watch has shown.
pub async fn list(client: &Client, node: &NodeName) -> Result<String, String> {
    let params = ListParams::default().fields(&of_node(node)).match_any();
    let request = Request::new(Pod::url_path(&(), None)).list(&params).map_err(|error| super::why(&error))?;
    match timeout(TIMEOUT, client.request_text(request)).await {
        Ok(answer) => answer.map_err(|error| super::why(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn of_node(node: &NodeName) -> String {
    format!("spec.nodeName={node}")
}

/// The Pods of a workload have the same labels and annotations.
fn seen(pod: &Pod, labels: &mut Interner<Labels>) -> Option<PodSeen> {
    let mut intent = pod_intent(pod)?;
    for own in [&mut intent.labels, &mut intent.annotations] {
        *own = labels.intern(Arc::unwrap_or_clone(std::mem::take(own)));
    }
    let intent = Arc::new(intent);
    Some(PodSeen { intent, status: observed_status(pod).map(Arc::new), gates: gates(pod), unhonoured: unhonoured(pod) })
}
