//! Desired states on their way to the Pod's host: the newest, when what it needs is in place.
//!
//! ```text
//!   session --newest--> prepare --ok--> host
//!                         | failed: an event, a wait; a newer order starts over
//!   an order to stop the Pod goes through as it is
//! ```

use super::{
    host::{PodHost, Preparation},
    outbox::Outbox,
};
use crate::{
    model::{AgentEvent, DesiredPod},
    retry::Backoff,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Each failed attempt is an event on the Pod.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) async fn carry(
    mut orders: watch::Receiver<Option<Arc<DesiredPod>>>,
    mut preparation: Box<dyn Preparation>,
    host: Arc<dyn PodHost>,
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let work = async {
        loop {
            if orders.changed().await.is_err() {
                return;
            }
            loop {
                let Some(desired) = orders.borrow_and_update().clone() else { break };
                let prepared = match desired.stop {
                    Some(_) => Ok(()),
                    None => preparation.prepare(&desired).await,
                };
                let Err(error) = prepared else {
                    backoff.reset();
                    host.set_desired(desired);
                    break;
                };
                tracing::error!(error = &*error, "the Pod's network rules can't be set");
                outbox.push(failed(&desired, &*error));
                tokio::select! {
                    () = sleep(backoff.next_wait()) => {}
                    changed = orders.changed() => if changed.is_err() { return },
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = cancel.cancelled() => {}
    }
}

/// As a kubelet tells of a network that can't be set up.
fn failed(desired: &DesiredPod, error: &dyn std::error::Error) -> AgentEvent {
    AgentEvent {
        uid: desired.uid.clone(),
        at: jiff::Timestamp::now(),
        warning: true,
        reason: "FailedCreatePodSandBox".to_owned(),
        message: format!("Failed to create pod sandbox: the Pod's network rules can't be set: {error}"),
        container: None,
    }
}
