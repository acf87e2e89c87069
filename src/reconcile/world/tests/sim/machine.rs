//! A Pod in the API server, and a machine with its agent.

use crate::decide::{fixtures::report, status::PodStatus};
use crate::model::{
    ContainerKind, ContainerReport, ContainerState, DesiredPod, InstanceRecord, InstanceState, Notice, PodIntent,
    PodReport, PodUid, RestartPolicy,
};
use jiff::Timestamp;
use std::sync::Arc;

/// A Pod in the API server.
pub(super) struct Object {
    pub(super) intent: Arc<PodIntent>,
    pub(super) status: Option<PodStatus>,
}

/// A machine with its agent.
pub(super) struct Machine {
    pub(super) record: InstanceRecord,
    pub(super) connected: bool,
    /// Its agent died: it never connects again.
    pub(super) mute: bool,
    /// Sent, and lost if its connection ends before it arrives.
    pub(super) on_its_way: Option<Arc<DesiredPod>>,
    pub(super) holds: Option<Held>,
    pub(super) notices: Vec<Notice>,
}

impl Machine {
    pub(super) fn lives(&self) -> bool {
        self.record.state == InstanceState::Running
    }

    pub(super) fn taken_at(&self) -> Option<Timestamp> {
        self.notices.iter().find_map(|notice| match notice {
            Notice::Interruption { at } => Some(*at),
            _ => None,
        })
    }

    /// It runs this Pod, and has not stopped it.
    pub(super) fn holds(&self, uid: &PodUid) -> bool {
        self.lives() && self.holds.as_ref().is_some_and(|h| h.desired.uid == *uid && !h.terminated)
    }

    pub(super) fn serves(&self, uid: &PodUid) -> bool {
        let running = |h: &Held| matches!(h.state, Some(ContainerState::Running { .. }));
        self.holds(uid) && self.holds.as_ref().is_some_and(running)
    }
}

pub(super) struct Held {
    pub(super) desired: Arc<DesiredPod>,
    pub(super) state: Option<ContainerState>,
    pub(super) terminated: bool,
}

impl Held {
    pub(super) fn restarts(&self) -> bool {
        let ended = matches!(self.state, Some(ContainerState::Terminated(_)));
        ended && self.desired.restart_policy == RestartPolicy::Always
    }

    pub(super) fn report(&self) -> PodReport {
        let waiting = ContainerState::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
        let main = report("main", ContainerKind::App, self.state.clone().unwrap_or(waiting));
        let runs = matches!(main.state, ContainerState::Running { .. });
        let container_id = self.state.as_ref().map(|_| format!("containerd://{}", self.desired.uid));
        PodReport {
            uid: self.desired.uid.clone(),
            generation: self.desired.generation,
            sandbox_ready_at: None,
            pod_ip: None,
            containers: vec![ContainerReport { container_id, started: runs, ready: runs, ..main }],
            terminated: self.terminated,
        }
    }
}
