//! What to say of a container.

use super::{Attempt, AttemptState, Fault, Observed, Progress, Start};
use crate::{
    decide::probe::Verdict,
    model::{ContainerKind, ContainerReport, ContainerState, DesiredContainer, DesiredPod},
};

/// A container that is waiting for `fault`; what it was before becomes its last state.
pub(super) fn waiting(container: &DesiredContainer, latest: Option<&Attempt>, fault: Fault) -> ContainerReport {
    ContainerReport {
        state: ContainerState::Waiting { reason: fault.reason, message: fault.message },
        last: latest.and_then(Attempt::exit).cloned(),
        ..blank(container, latest)
    }
}

/// The container as its newest attempt is.
pub(super) fn of(desired: &DesiredPod, container: &DesiredContainer, observed: &Observed) -> ContainerReport {
    let latest = observed.latest(&container.name);
    let progress = observed.progress(&container.name);
    let Some(attempt) = latest else { return waiting(container, None, creating(desired)) };
    let last = observed.previous(attempt).and_then(Attempt::exit).cloned();
    match &attempt.state {
        // A container counts as running when its postStart hook is through.
        AttemptState::Running { started_at } if progress.start == Start::Idle => {
            let started = is_started(container, &progress);
            ContainerReport {
                state: ContainerState::Running { started_at: *started_at },
                last,
                started,
                ready: started
                    && container.kind != ContainerKind::Init
                    && (container.probes.readiness.is_none() || progress.readiness == Verdict::Passed),
                ..blank(container, latest)
            }
        }
        AttemptState::Exited(end) => ContainerReport {
            state: ContainerState::Terminated(end.clone()),
            last,
            ready: container.kind == ContainerKind::Init && end.exit_code == 0,
            ..blank(container, latest)
        },
        AttemptState::Running { .. } | AttemptState::Created | AttemptState::Unknown => {
            let fault = match progress.start {
                Start::Failed { fault, .. } => fault,
                Start::Idle | Start::Busy => creating(desired),
            };
            ContainerReport { last, ..waiting(container, latest, fault) }
        }
    }
}

/// Startup probe passed, or none (of a container that runs).
pub(super) fn is_started(container: &DesiredContainer, progress: &Progress) -> bool {
    container.probes.startup.is_none() || progress.startup == Verdict::Passed
}

/// The reason without a fault (pkg/kubelet/kubelet_pods.go, `convertToAPIContainerStatuses`).
pub(super) fn creating(desired: &DesiredPod) -> Fault {
    let has_init = desired.containers.iter().any(|container| container.kind != ContainerKind::App);
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    Fault { reason: reason.to_owned(), message: String::new() }
}

fn blank(container: &DesiredContainer, latest: Option<&Attempt>) -> ContainerReport {
    ContainerReport {
        name: container.name.clone(),
        kind: container.kind,
        state: ContainerState::Waiting { reason: String::new(), message: String::new() },
        last: None,
        restart_count: latest.map_or(0, |attempt| attempt.number),
        container_id: latest.map(|attempt| format!("containerd://{}", attempt.id)),
        image: container.image.clone(),
        image_id: latest.map(|attempt| attempt.image_id.clone()).unwrap_or_default(),
        started: false,
        ready: false,
    }
}
