//! One Pod's life, from the provider's side.
//!
//! ```text
//!                    bound                 report                    all containers ended
//!   NeedsInstance ----------> Starting ------------> Running ------------------------------> Completed
//!      |    ^                   |  instance gone        |  instance gone                        |
//!      |    +-------------------+  (nothing ran yet)    v                                       | kept for
//!      |                                              Lost (phase Failed)                       | a while
//!      | deleted                  deleted               | deleted          deleted              v
//!      +-----------------------------+------------------+---------------------+------------  Released
//!                                    v
//!                                 Stopping  --- agent: terminated, or gone, or out of time --> Finalize
//! ```
//!
//! Finalize: write the terminal status, delete the object (grace 0, UID precondition), release the
//! instance. Each step may be repeated after a crash: the state is rebuilt from the API server, the
//! cloud's list and the agents' reports, nothing here is remembered by us alone.

use crate::decide::status::{PodStatus, Reason};
use crate::model::{ContainerState, Deletion, InstanceRecord, InstanceState, PodIntent, PodReport, Stop};
use jiff::{SignedDuration, Timestamp};

/// How long after the end of the grace period an agent may stay silent before its instance is ended
/// without it.
pub const SILENT_AGENT: SignedDuration = SignedDuration::from_secs(30);

/// The same for an agent that answers but does not get the Pod stopped: its runtime may be beyond help.
pub const STUCK_AGENT: SignedDuration = SignedDuration::from_secs(120);

/// What is known of one Pod.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The latest intent; kept after the object is gone.
    pub intent: &'a PodIntent,
    /// The object no longer exists (it was deleted by force, or we deleted it).
    pub gone: bool,
    pub instance: Option<Backing<'a>>,
    pub report: Option<&'a PodReport>,
    /// What the API server has.
    pub status: Option<&'a PodStatus>,
    /// How long a completed Pod's instance is kept for its logs.
    pub keep_completed: SignedDuration,
    /// Failed for a reason outside its containers, decided earlier, and when.
    pub failed: Option<(&'a Reason, Timestamp)>,
}

/// The instance bound to a Pod.
#[derive(Clone, Debug)]
pub enum Backing<'a> {
    Alive {
        record: &'a InstanceRecord,
        connected: bool,
    },
    /// The cloud says it is gone, or no longer lists it.
    Gone {
        why: String,
    },
}

/// What to do about one Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub step: Step,
    /// Newly decided failure from outside the containers.
    pub failed: Option<Reason>,
    /// When to look again if nothing happens.
    pub wake_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It has no instance and wants one: a demand for placement.
    NeedInstance,
    /// Its agent should run it; with `stop`, end it.
    Run { stop: Option<Stop> },
    /// Nothing more runs, its instance can go; the object stays.
    Release,
    /// Write the last status, delete the object unless it is gone, let the instance go.
    Finalize,
    /// Nothing to do.
    Rest,
}

/// See the module's page.
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let rest = |step| Plan { step, failed: None, wake_at: None };
    let ran = view.report.is_some_and(|r| r.containers.iter().any(|c| c.container_id.is_some()))
        || view.status.is_some_and(|s| s.init_containers.iter().chain(&s.containers).any(|c| c.container_id.is_some()));
    let terminal = view.status.is_some_and(|s| s.phase.is_terminal());
    let terminated = view.report.is_some_and(|r| r.terminated);

    if view.gone {
        // Deleted by force: whoever did it asked not to wait.
        return rest(Step::Finalize);
    }
    if let Some(deletion) = view.intent.deletion {
        return match &view.instance {
            None | Some(Backing::Gone { .. }) => rest(Step::Finalize),
            Some(_) if terminated => rest(Step::Finalize),
            Some(Backing::Alive { connected, .. }) => {
                let patience = if *connected { STUCK_AGENT } else { SILENT_AGENT };
                let give_up = deletion.deadline.saturating_add(patience).unwrap_or(Timestamp::MAX);
                if now >= give_up {
                    return rest(Step::Finalize);
                }
                let stop = Stop { deletion, reason: "deleted".to_owned() };
                Plan {
                    step: Step::Run { stop: Some(stop) },
                    failed: None,
                    wake_at: Some(give_up).filter(|at| *at > now),
                }
            }
        };
    }
    let Ok(spec) = &view.intent.spec else {
        return rest(Step::Rest);
    };
    match &view.instance {
        None if terminal || view.failed.is_some() => rest(Step::Rest),
        None if ran => Plan { step: Step::Rest, failed: Some(lost("its instance is no longer known")), wake_at: None },
        None => rest(Step::NeedInstance),
        Some(Backing::Gone { .. }) if terminal || view.failed.is_some() => rest(Step::Release),
        Some(Backing::Gone { why }) if ran => Plan { step: Step::Release, failed: Some(lost(why)), wake_at: None },
        // Nothing of it ever ran: another instance will do.
        Some(Backing::Gone { .. }) => rest(Step::NeedInstance),
        Some(Backing::Alive { record, .. }) => {
            debug_assert!(record.state != InstanceState::Terminated, "the caller maps ended instances to Gone");
            if let Some((failed, at)) = view.failed {
                // Failed while its containers may still run (deadline exceeded): stop them, keep for logs.
                let stop = Stop {
                    deletion: Deletion {
                        deadline: at.saturating_add(grace(spec.termination_grace_seconds)).unwrap_or(Timestamp::MAX),
                        grace_seconds: spec.termination_grace_seconds,
                    },
                    reason: failed.reason.clone(),
                };
                return match terminated {
                    true => kept(view, now),
                    false => rest(Step::Run { stop: Some(stop) }),
                };
            }
            if terminal {
                return kept(view, now);
            }
            let started = view.status.map(|s| s.start_time);
            match (spec.active_deadline_seconds, started) {
                (Some(seconds), Some(started)) => {
                    let deadline = started.saturating_add(grace(seconds)).unwrap_or(Timestamp::MAX);
                    if now >= deadline {
                        let failed = Reason {
                            reason: "DeadlineExceeded".to_owned(),
                            message: "Pod was active on the node longer than the specified deadline".to_owned(),
                        };
                        return Plan { step: Step::Rest, failed: Some(failed), wake_at: Some(now) };
                    }
                    Plan { step: Step::Run { stop: None }, failed: None, wake_at: Some(deadline) }
                }
                _ => rest(Step::Run { stop: None }),
            }
        }
    }
}

/// A completed Pod's instance: kept for its logs, then released, so that nobody pays for a Job that
/// ended yesterday.
fn kept(view: &View, now: Timestamp) -> Plan {
    let containers = view.status.into_iter().flat_map(|s| s.init_containers.iter().chain(&s.containers));
    let last_end = containers.filter_map(|c| match &c.state {
        ContainerState::Terminated(t) => Some(t.finished_at),
        _ => c.last.as_ref().map(|t| t.finished_at),
    });
    let unready = || {
        let ready = view.status?.conditions.iter().find(|c| c.kind == "Ready")?;
        Some(ready.since)
    };
    let ended = last_end.max().or_else(unready).unwrap_or(now);
    let until = ended.saturating_add(view.keep_completed).unwrap_or(Timestamp::MAX);
    if now >= until {
        Plan { step: Step::Release, failed: None, wake_at: None }
    } else {
        Plan { step: Step::Rest, failed: None, wake_at: Some(until) }
    }
}

fn grace(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn lost(why: &str) -> Reason {
    Reason { reason: "InstanceLost".to_owned(), message: format!("The Pod's instance was lost: {why}") }
}

#[cfg(test)]
mod tests;
