//! The end of one container (pkg/kubelet/kuberuntime/kuberuntime_container.go, `killContainer`).
//!
//! ```text
//! preStop (as long as there is grace) -> one's turn (a sidecar's) -> SIGTERM, the rest of the grace,
//! 2 s at least -> SIGKILL
//! ```
//!
//! The terms may get shorter, and the turn may come, while it runs.

use super::{Shared, Teller, hooks};
use crate::model::DesiredContainer;
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};

/// "always give containers a minimal shutdown window": kuberuntime_manager.go
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Between attempts to stop one that the runtime failed to stop.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub deadline: Timestamp,
    pub turn: bool,
}

pub(super) struct Killing {
    pub id: String,
    /// None: the Pod no longer names it.
    pub container: Option<DesiredContainer>,
    pub pod_ip: String,
    pub terms: watch::Receiver<Terms>,
}

/// Returns when it has ended, or when the runtime went away.
pub(super) async fn run(shared: Arc<Shared>, killing: Killing, tell: Teller) {
    let Killing { id, container, pod_ip, mut terms } = killing;
    let hook =
        container.as_ref().and_then(|container| container.lifecycle.pre_stop.as_ref().map(|hook| (container, hook)));
    if let Some((container, hook)) = hook
        && !left(&terms).is_zero()
    {
        let limit = left(&terms);
        tokio::select! {
            ran = hooks::run(hook, &id, &pod_ip, &shared.cri, Some(limit)) => if ran.is_err() {
                // Not the error: it holds the command and what it printed, which may be secret.
                tracing::warn!(container = container.name, "preStop hook failed");
                tell.container(container, true, "FailedPreStopHook", "PreStopHook failed");
            },
            () = over(&mut terms, |_| false) => {}
        }
    }
    over(&mut terms, |terms| terms.turn).await;
    loop {
        let grace = left(&terms).max(LEAST_GRACE);
        let asked = *terms.borrow_and_update();
        let stopped = tokio::select! {
            stopped = shared.cri.stop_container(&id, grace) => stopped,
            // Shorter terms: ask again. Our owner lives as long as we do, so the error can't come.
            Ok(_) = terms.wait_for(|now| now.deadline < asked.deadline) => continue,
        };
        match stopped {
            Ok(()) => return,
            Err(error) if error.is_unreachable() => return,
            Err(error) => {
                tracing::warn!(id, %error, "could not stop a container; trying again");
                sleep(RETRY).await;
            }
        }
    }
}

fn left(terms: &watch::Receiver<Terms>) -> Duration {
    let left = terms.borrow().deadline.duration_since(Timestamp::now());
    if left.is_negative() { Duration::ZERO } else { left.unsigned_abs() }
}

/// Until the grace is over, or the terms are so.
async fn over(terms: &mut watch::Receiver<Terms>, done: impl Fn(&Terms) -> bool) {
    loop {
        if done(&terms.borrow_and_update()) || left(terms).is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(left(terms)) => {}
            changed = terms.changed() => if changed.is_err() { return },
        }
    }
}
