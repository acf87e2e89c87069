//! `pilotlight move`: asks for a handover and shows how it goes.
//!
//! ```text
//!   Pod of ours? movable? --no--> refused here, with every reason
//!        | yes
//!        v
//!   annotation pilotlight.dev/move: <token>[/<class>] -> provider -> condition pilotlight.dev/Handover
//!                                                                       | False, and pilotlight.dev/moved is the same
//!                                                                       v
//!                                                       Completed: done; anything else: failed, and why
//! ```
//!
//! With the caller's kubeconfig: whoever may edit the Pod may move it.

use super::say::say;
use crate::decide::handover::{MOVE, MOVED};
use crate::decide::status::{HANDOVER, INSTANCE_READY};
use crate::kube::{client::client, identity::provider_config, intent::pod_intent};
use crate::reconcile::refusal;
use anyhow::{Context, bail, ensure};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Event, Pod, PodCondition};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::{path::PathBuf, pin::pin, time::Duration};

#[derive(clap::Args)]
pub struct MoveArgs {
    /// NAME, or NAMESPACE/NAME
    pod: String,
    #[arg(short, long)]
    namespace: Option<String>,
    /// The class of the cost policy that the new instance is to be of; the policy must permit it
    /// (overrides.move-to-class)
    #[arg(long)]
    to: Option<String>,
    /// Default: KUBECONFIG, ~/.kube/config or in-cluster
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Seconds to wait for the end; what was begun goes on without this command
    #[arg(long, default_value_t = 900)]
    timeout: u64,
}

pub async fn run(args: MoveArgs) -> anyhow::Result<()> {
    let config = provider_config(args.kubeconfig.as_deref()).await?;
    let (namespace, name) = match (args.pod.split_once('/'), args.namespace) {
        (Some(_), Some(_)) => bail!("{}: the namespace is said twice", args.pod),
        (Some((namespace, name)), None) => (namespace.to_owned(), name.to_owned()),
        (None, namespace) => (namespace.unwrap_or_else(|| config.default_namespace.clone()), args.pod.clone()),
    };
    if let Some(class) = &args.to {
        ensure!(!class.is_empty() && !class.contains('/'), "--to {class:?}: expected the name of a class");
    }
    let client = client(config).context("cannot connect to the API server")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = pods.get(&name).await.with_context(|| format!("pod {namespace}/{name}"))?;
    may_move(&pod).with_context(|| format!("pod {namespace}/{name} is not moved"))?;
    let from = backing(&pod);

    let token = format!("{:08x}", rand::random::<u32>());
    let wish = match &args.to {
        Some(class) => format!("{token}/{class}"),
        None => token,
    };
    let uid = pod.uid().unwrap_or_default();
    // Watched from before the wish: nothing of the answer is missed.
    let events: Api<Event> = Api::namespaced(client, &namespace);
    let of_pod = watcher::Config::default().fields(&format!("involvedObject.uid={uid}"));
    let events = watcher(events, of_pod).default_backoff();
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let states = watcher(pods.clone(), one).default_backoff();
    let patch = json!({ "metadata": { "uid": uid, "annotations": { MOVE: wish } } });
    pods.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.context("the Pod can't be annotated")?;
    say(&format!("{namespace}/{name}: asked to leave {from}\n"));
    let patience = Duration::from_secs(args.timeout);
    let ended = tokio::time::timeout(patience, follow(&uid, &wish, states, events)).await;
    let Ok(ended) = ended else {
        bail!("not over within {} s; it goes on: see the Pod's events", args.timeout);
    };
    say(&format!("{namespace}/{name}: now on {}\n", backing(&ended?)));
    Ok(())
}

/// # Errors
/// Why it can't be moved.
fn may_move(pod: &Pod) -> anyhow::Result<()> {
    let Some(backed) = condition(pod, INSTANCE_READY) else { bail!("it is not on a node of Pilotlight") };
    ensure!(backed.status == "True", "no instance backs it now");
    ensure!(pod.metadata.deletion_timestamp.is_none(), "it is being deleted");
    let intent = pod_intent(pod).context("it is not understood")?;
    if let Some(why) = refusal(&intent) {
        bail!("{why}");
    }
    Ok(())
}

/// Prints what happens until it is over; the Pod as it is then.
async fn follow(
    uid: &str,
    wish: &str,
    states: impl Stream<Item = watcher::Result<watcher::Event<Pod>>>,
    events: impl Stream<Item = watcher::Result<watcher::Event<Event>>>,
) -> anyhow::Result<Pod> {
    let (mut states, mut events) = (pin!(states), pin!(events));
    loop {
        tokio::select! {
            Some(event) = events.next() => {
                // What was listed is from before.
                if let Ok(watcher::Event::Apply(event)) = event {
                    let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
                    say(&format!("  {reason}: {message}\n"));
                }
            }
            state = states.next() => match state {
                Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => {
                    ensure!(pod.uid().as_deref() == Some(uid), "the Pod was deleted; another has its name");
                    if let Some(verdict) = verdict(&pod, wish) {
                        return verdict.map(|()| pod);
                    }
                }
                Some(Ok(watcher::Event::Delete(_))) => bail!("the Pod was deleted"),
                Some(_) => {}
                None => bail!("the watch on the Pod ended"),
            },
        }
    }
}

/// None: it is still under way.
fn verdict(pod: &Pod, wish: &str) -> Option<anyhow::Result<()>> {
    if pod.annotations().get(MOVED).is_none_or(|moved| moved != wish) {
        return None;
    }
    let handover = condition(pod, HANDOVER).filter(|condition| condition.status != "True")?;
    let message = handover.message.clone().unwrap_or_default();
    match handover.reason.as_deref() {
        Some("Completed") => Some(Ok(())),
        reason => Some(Err(anyhow::anyhow!("not moved: {}: {message}", reason.unwrap_or_default()))),
    }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn backing(pod: &Pod) -> String {
    let get = |key: &str| pod.annotations().get(&format!("pilotlight.dev/{key}")).cloned().unwrap_or_default();
    format!("{} ({}, {}, ${}/h)", get("instance-id"), get("instance-type"), get("purchase"), get("hourly-price"))
}
