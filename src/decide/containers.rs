//! What an agent does next to the one Pod it runs: pure, the rules of a kubelet.
//!
//! In: the desired Pod, what the runtime says ([`Observed`]) and the time. Out: a [`Plan`]: actions
//! that can all start at once, what to report, what to tell, and when to look again. The rules are
//! those of `computePodActions` and `computeInitContainerActions` (pkg/kubelet/kuberuntime).
//!
//! ```text
//! the Pod      volumes + sandbox (+ first images) ---> init containers, in order ---> app containers
//!                  ^ sandbox died: again, from the first init container      |              |
//!                  |__________________________________________________________|             |
//!              all done (Never, OnFailure) or an init container failed (Never): sidecars stop,
//!              the sandbox stops, the reports stay
//!              `stop`: apps -> sidecars, last one first -> sandbox, volumes gone -> terminated
//!
//! a container  Waiting --image--> --create, start, postStart--> Running --exit--> Terminated
//!                 ^  ErrImagePull / CreateContainer…Error: wait and try again          |
//!                 |___________________ CrashLoopBackOff: wait ________ restart? ________|
//!                                      (probe failed, definition changed: killed first)
//! ```
//!
//! The plan is made anew from everything each time, so an agent that comes back goes on where it was.
//! [`Observed`] holds two kinds of things: what the runtime remembers (attempts, sandboxes), and what
//! only this agent's life knows ([`Progress`]: work under way, last failures), which may be lost.

mod report;
mod run;
mod stop;
#[cfg(test)]
mod tests;

use crate::{
    decide::probe::Verdict,
    model::{ContainerKind, ContainerReport, DesiredContainer, DesiredPod, Termination},
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// What is known of a Pod now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Writing the volumes of this generation.
    pub volumes: Work,
    /// The volumes have been there once: containers may start, whatever became of an update.
    pub mounted: bool,
    pub sandboxes: Vec<Sandbox>,
    /// Creating the next sandbox.
    pub sandbox: Work,
    /// Every attempt of every container that the runtime still knows.
    pub attempts: Vec<Attempt>,
    /// By container name.
    pub progress: BTreeMap<String, Progress>,
    /// When the grace period of `stop` ends, on this machine's clock.
    pub stop_deadline: Option<Timestamp>,
    /// Removing everything, at the end.
    pub teardown: Work,
    /// The last word on each container, once the teardown has begun.
    pub final_reports: Option<Vec<ContainerReport>>,
}

/// A piece of work that is done once.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Work {
    #[default]
    Idle,
    Busy,
    Done,
    /// `failures` in a row, the last at `at`.
    Failed {
        message: String,
        at: Timestamp,
        failures: u32,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
}

/// One container of the runtime: the `number`th start of the container `name`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub number: u32,
    /// Of name and image, when it was created: see [`definition_hash`].
    pub hash: String,
    /// Written on it when it was created: the back-off that follows its end.
    pub backoff_seconds: u32,
    pub created_at: Timestamp,
    pub image_id: String,
    pub state: AttemptState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AttemptState {
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited(Termination),
    /// The runtime doesn't know: it may still run.
    Unknown,
}

impl Attempt {
    /// It runs, or may run.
    pub fn is_live(&self) -> bool {
        matches!(self.state, AttemptState::Running { .. } | AttemptState::Unknown)
    }
    pub fn exit(&self) -> Option<&Termination> {
        match &self.state {
            AttemptState::Exited(end) => Some(end),
            AttemptState::Created | AttemptState::Running { .. } | AttemptState::Unknown => None,
        }
    }
}

/// What only this agent's life knows of a container.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The image for the next start.
    pub image: Image,
    pub start: Start,
    /// A kill is under way.
    pub killing: bool,
    /// Of the live attempt; meaningless without the probe.
    pub startup: Verdict,
    pub liveness: Verdict,
    pub readiness: Verdict,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Image {
    #[default]
    Unchecked,
    Busy {
        failures: u32,
        last: Option<Fault>,
    },
    Ready,
    Failed {
        fault: Fault,
        at: Timestamp,
        failures: u32,
    },
}

/// Creating and starting the next attempt, its postStart hook included.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Start {
    #[default]
    Idle,
    Busy,
    Failed {
        fault: Fault,
        at: Timestamp,
        failures: u32,
    },
}

/// Why a container waits, as its status says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// In the order of DesiredPod::containers.
    pub reports: Vec<ContainerReport>,
    /// To be told once, for as long as they keep being in the plan.
    pub notices: Vec<Notice>,
    /// Look again then, whatever happens.
    pub wake_at: Option<Timestamp>,
    /// Everything is gone, as asked.
    pub terminated: bool,
}

/// Every action may be asked again while it is under way; it is then ignored, but for a kill's terms.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    SetUpVolumes,
    /// `attempt` > 0: what is left of the earlier ones is stopped first.
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    EnsureImage {
        container: String,
    },
    StartContainer {
        container: String,
        sandbox: String,
        number: u32,
        backoff_seconds: u32,
    },
    Kill(Kill),
    /// A dead attempt that is no longer of use, with its log.
    RemoveContainer {
        id: String,
    },
    /// A dead sandbox that no container needs.
    RemoveSandbox {
        id: String,
    },
    /// Sandboxes, containers, volumes: all.
    TearDown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    pub container: String,
    pub id: String,
    pub grace: Grace,
    /// False: run the preStop hook, then wait for one's turn (a sidecar) until the grace is over.
    pub turn: bool,
    /// For the Killing event.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// From when the kill begins.
    Seconds(u64),
    Until(Timestamp),
}

/// Something to tell that no action tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    pub container: Option<(ContainerKind, String)>,
}

/// Decides.
pub fn plan(desired: &DesiredPod, observed: &Observed, now: Timestamp) -> Plan {
    if desired.stop.is_some() { stop::plan(desired, observed, now) } else { run::plan(desired, observed, now) }
}

/// What a running container is compared with: name and image, all that may change in a running Pod
/// (pkg/kubelet/container/helpers.go, `HashContainer`). FNV-1a, written as hex.
pub fn definition_hash(container: &DesiredContainer) -> String {
    let bytes = container.name.bytes().chain([0]).chain(container.image.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

impl Observed {
    /// The newest attempt of a container.
    pub fn latest(&self, container: &str) -> Option<&Attempt> {
        self.attempts.iter().filter(|attempt| attempt.name == container).max_by_key(|attempt| attempt.number)
    }

    fn latest_in(&self, container: &str, sandbox: Option<&str>) -> Option<&Attempt> {
        self.latest(container).filter(|attempt| Some(attempt.sandbox.as_str()) == sandbox)
    }

    /// The attempt before the newest one.
    fn previous(&self, latest: &Attempt) -> Option<&Attempt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.name == latest.name && attempt.number < latest.number)
            .max_by_key(|attempt| attempt.number)
    }

    fn newest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|sandbox| sandbox.attempt)
    }

    /// The sandbox that containers may be started in.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.newest_sandbox().filter(|sandbox| sandbox.ready)
    }

    fn progress(&self, container: &str) -> Progress {
        self.progress.get(container).cloned().unwrap_or_default()
    }

    fn is_busy(&self, container: &str) -> bool {
        self.progress.get(container).is_some_and(|progress| progress.start == Start::Busy)
    }
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether the wait is over; if not, the plan wakes at its end.
    fn due(&mut self, at: Timestamp, delay: SignedDuration, now: Timestamp) -> bool {
        let ends = at.saturating_add(delay).unwrap_or(Timestamp::MAX);
        if now < ends {
            self.wake(ends);
        }
        now >= ends
    }

    fn notice(&mut self, warning: bool, reason: &'static str, message: String, container: Option<&DesiredContainer>) {
        self.notices.push(Notice {
            warning,
            reason,
            message,
            container: container.map(|container| (container.kind, container.name.clone())),
        });
    }
}

/// `name_namespace(uid)`, as a kubelet writes a Pod in its messages (pkg/kubelet/util/format/pod.go).
pub fn pod_text(desired: &DesiredPod) -> String {
    format!("{}_{}({})", desired.name.name, desired.name.namespace, desired.uid)
}
