//! A Pod that must stop, and the order in which containers go.

use super::{Action, Attempt, Grace, Kill, Observed, Plan, Start, Work, report};
use crate::{
    decide::backoff,
    model::{ContainerKind, DesiredPod},
};
use jiff::Timestamp;
use std::collections::HashMap;

pub(super) fn plan(desired: &DesiredPod, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan {
        reports: match &observed.final_reports {
            Some(reports) => reports.clone(),
            None => desired.containers.iter().map(|container| report::of(desired, container, observed)).collect(),
        },
        terminated: observed.teardown == Work::Done,
        ..Plan::default()
    };
    let grace = match observed.stop_deadline {
        Some(deadline) => Grace::Until(deadline),
        None => Grace::Seconds(desired.termination_grace_seconds),
    };
    kill_all(desired, observed, grace, &mut plan);
    let busy = observed.sandbox == Work::Busy
        || observed.volumes == Work::Busy
        || observed.progress.values().any(|progress| progress.start == Start::Busy || progress.killing);
    if observed.attempts.iter().any(Attempt::is_live) || busy || plan.terminated {
        return plan;
    }
    match &observed.teardown {
        Work::Busy | Work::Done => {}
        Work::Failed { at, failures, .. } if !plan.due(*at, backoff::retry_delay(*failures), now) => {}
        Work::Idle | Work::Failed { .. } => plan.actions.push(Action::TearDown),
    }
    plan
}

/// Asks for the end of every live attempt. All preStop hooks run at once; then apps and init containers
/// go, and a sidecar when everything that was started after it is gone
/// (pkg/kubelet/kuberuntime/kuberuntime_termination_order.go).
pub(super) fn kill_all(desired: &DesiredPod, observed: &Observed, grace: Grace, plan: &mut Plan) {
    let order: HashMap<&str, (usize, ContainerKind)> = desired
        .containers
        .iter()
        .enumerate()
        .map(|(index, container)| (container.name.as_str(), (index, container.kind)))
        .collect();
    // One that the Pod no longer names goes at once, like an app.
    let place =
        |attempt: &Attempt| order.get(attempt.name.as_str()).copied().unwrap_or((usize::MAX, ContainerKind::App));
    let live: Vec<&Attempt> = observed.attempts.iter().filter(|attempt| attempt.is_live()).collect();
    for attempt in &live {
        let (index, kind) = place(attempt);
        let turn = kind != ContainerKind::Sidecar
            || !live.iter().any(|other| {
                let (other_index, other_kind) = place(other);
                other_kind != ContainerKind::Sidecar || other_index > index
            });
        plan.actions.push(Action::Kill(Kill {
            container: attempt.name.clone(),
            id: attempt.id.clone(),
            grace,
            turn,
            message: format!("Stopping container {}", attempt.name),
        }));
    }
}
