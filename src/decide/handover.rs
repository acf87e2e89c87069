//! Handover: what backs a Pod is changed without losing a request. Make before break.
//!
//! In: why the Pod should leave its instance ([`Leave`], from [`causes`]), whether it may run twice for a
//! moment ([`movable`]), how far a handover is ([`Stage`]), and what is seen of the two instances. Out: the
//! next [`Step`].
//!
//! ```text
//!          leave, movable           an instance is bound                ready | the old is gone | no time left
//!   Idle ----------------> Wanting -------------------> Starting ----------------------------------> Draining(old)
//!    ^ ^                    |    ^                       |      \                                         |
//!    | |   no time left,    |    +--- it is gone --------+       \ too slow, or the Pod ends              |
//!    | +--- or the Pod ends +                                     +------------> Draining(abandoned)      |
//!    |                                                                                |                   |
//!    +------------ stopped, gone, or out of time: its instance goes ------------------+-------------------+
//!
//!   not movable: nothing (a wish, a recommendation, an age), or an eviction, or a stop in time (an end is announced)
//! ```
//!
//! One of the two instances is always the Pod's own: the one that its status names (condition InstanceReady) and that
//! its address is of. `Switch` exchanges them in one write of the status, so whoever reads it sees the old or the new,
//! each of which runs. The other stands in the condition `pilotlight.dev/Handover`, which is written before the
//! second agent is told to start and before the first is told to stop: a provider that comes back knows from the
//! status alone where it was.

pub mod causes;
pub mod movable;
#[cfg(test)]
mod tests;

pub use causes::{Ask, Cause, Leave, MOVE, MOVED, Manner, Signals, leave};
pub use movable::{MOVABLE, Unmovable, movable};

use crate::model::Deletion;
use jiff::{SignedDuration, Timestamp};

/// The old instance serves this long after the API server shows the new one: EndpointSlices and every service
/// proxy must follow first.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(5);
/// Before an announced end everything has stopped this much earlier: clouds keep no exact time.
pub const MARGIN: SignedDuration = SignedDuration::from_secs(5);
/// Before an announced end this much of a Pod's grace period is kept back for its stop: the default, which most have. A
/// longer one (Knative gives each Pod five minutes) may be more than was announced, and a replacement is worth more.
const KEPT_GRACE: SignedDuration = SignedDuration::from_secs(30);
/// Without an announced end: how long a replacement may take to become ready before it is given up.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// After a failed handover, when the next is tried if its cause still stands.
pub const REST: SignedDuration = SignedDuration::from_mins(10);
/// How long before a scheduled event a Pod that can't be moved is evicted.
const LEAD: SignedDuration = SignedDuration::from_mins(10);
/// How long an eviction may be refused (a PodDisruptionBudget) before the Pod is deleted without asking, where there
/// is time.
const EVICTION: SignedDuration = SignedDuration::from_secs(30);

/// What is known of one Pod.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub pod: PodFacts,
    pub leave: Option<&'a Leave>,
    pub movable: Result<(), &'a [Unmovable]>,
    pub stage: Stage,
    /// Since when this stage lasts.
    pub since: Timestamp,
    /// The instance that is not the Pod's own: the replacement while it starts, what drains after that.
    pub other: Option<Other>,
    /// After a failure: not before then.
    pub rest_until: Option<Timestamp>,
    /// The API server was first asked then to evict it.
    pub evicted_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// It is deleted, failed or completed.
    pub over: bool,
    /// Where it is deleted: how it is to stop.
    pub deletion: Option<Deletion>,
    /// Its own instance lives.
    pub backed: bool,
    pub grace_seconds: u64,
    /// Somebody makes another when it is deleted.
    pub controlled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Idle,
    Wanting,
    Starting,
    /// `shown_at`: since when the API server is known to show the present own instance. `stop`: what the other was
    /// told.
    Draining {
        role: Role,
        shown_at: Option<Timestamp>,
        stop: Option<Deletion>,
    },
}

/// What drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It served until the switch.
    Old,
    /// A replacement that was given up.
    Abandoned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    pub alive: bool,
    pub connected: bool,
    /// Its agent was told of the Pod, or may have been.
    pub told: bool,
    /// Every container is ready.
    pub ready: bool,
    /// Everything on it has stopped.
    pub terminated: bool,
    /// When its cloud takes it.
    pub ends_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub step: Step,
    /// When to look again if nothing happens.
    pub wake_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Rest,
    /// A second instance is wanted.
    Want,
    /// The replacement is lost: another is wanted.
    WantAgain,
    /// Nothing more is wanted.
    Forget(Option<Failure>),
    /// The second instance runs the Pod too.
    Start,
    /// The second becomes the Pod's own.
    Switch(Because),
    /// The replacement is given up.
    Abandon(Failure),
    /// The other is told to stop.
    Stop(Deletion),
    /// The other's instance goes.
    End,
    /// It can't be moved, and nothing forces it.
    Refuse,
    /// The API server is asked to delete it; without `force`, by the Eviction API.
    Evict {
        grace_seconds: u64,
        force: bool,
    },
    /// Nobody makes another: it is stopped in time and kept as Failed.
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    Ready,
    /// What served is gone.
    Lost,
    /// The announced end is near, and the replacement is at least there.
    OutOfTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No instance could be had.
    NoInstance,
    NeverReady,
    /// The Pod ended meanwhile, or may not be moved any more.
    Ended,
}

impl Failure {
    pub fn message(self) -> &'static str {
        match self {
            Self::NoInstance => "no second instance could be had in time",
            Self::NeverReady => "the Pod did not become ready on its second instance in time",
            Self::Ended => "the Pod ended, or must not be moved any more",
        }
    }
}

/// See the module's page.
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let step = |step| Plan { step, wake_at: None };
    match (view.stage, view.other) {
        (Stage::Idle, _) => idle(view, now),
        (Stage::Wanting, _) => wanting(view, now),
        (Stage::Starting, Some(other)) => starting(view, &other, now),
        (Stage::Draining { role, shown_at, stop }, Some(other)) => draining(view, &other, role, shown_at, stop, now),
        // Not what it is called for: without the other there is nothing to drain or to start.
        (Stage::Starting, None) => step(Step::WantAgain),
        (Stage::Draining { .. }, None) => step(Step::End),
    }
}

fn idle(view: &View, now: Timestamp) -> Plan {
    let rest = Plan { step: Step::Rest, wake_at: None };
    let Some(leave) = view.leave.filter(|_| !view.pod.over && view.pod.backed) else { return rest };
    let movable = view.movable.is_ok() && leave.manner == Manner::HandOver;
    match leave.by {
        None if leave.manner == Manner::MarkOnly => rest,
        None if view.movable.is_err() => Plan { step: Step::Refuse, wake_at: None },
        None => match view.rest_until.filter(|until| *until > now) {
            Some(until) => Plan { step: Step::Rest, wake_at: Some(until) },
            None => Plan { step: Step::Want, wake_at: None },
        },
        Some(by) if movable && now < turn(view, by) => Plan { step: Step::Want, wake_at: None },
        Some(by) => give_way(view, leave, by, now),
    }
}

/// It goes without a replacement of ours: evicted where somebody makes another, otherwise stopped in time.
fn give_way(view: &View, leave: &Leave, by: Timestamp, now: Timestamp) -> Plan {
    let last = last(view, by);
    let due = match leave.manner {
        // Whoever makes the replacement does it before this is done.
        Manner::MarkOnly => latest(view, by),
        Manner::HandOver | Manner::Drain if !view.pod.controlled => last,
        Manner::HandOver | Manner::Drain => match leave.cause {
            Cause::Maintenance { .. } => last.saturating_sub(LEAD).unwrap_or(last),
            _ => now,
        },
    };
    if now < due {
        return Plan { step: Step::Rest, wake_at: Some(due) };
    }
    if !view.pod.controlled {
        return Plan { step: Step::Fail, wake_at: None };
    }
    let left = by.saturating_sub(MARGIN).unwrap_or(by).duration_since(now).as_secs();
    let grace_seconds = view.pod.grace_seconds.min(u64::try_from(left).unwrap_or(0));
    let refused = view.evicted_at.and_then(|at| at.saturating_add(EVICTION).ok());
    let force_at = refused.map_or(last, |at| at.min(last));
    let force = now >= force_at;
    Plan { step: Step::Evict { grace_seconds, force }, wake_at: Some(force_at).filter(|at| *at > now) }
}

fn wanting(view: &View, now: Timestamp) -> Plan {
    let forget = |why| Plan { step: Step::Forget(why), wake_at: None };
    let Some(leave) = view.leave.filter(|_| !view.pod.over && view.pod.backed) else {
        return forget(None);
    };
    if view.movable.is_err() || leave.manner != Manner::HandOver {
        return forget(Some(Failure::Ended));
    }
    let due = deadline(view, leave);
    if now >= due { forget(Some(Failure::NoInstance)) } else { Plan { step: Step::Rest, wake_at: Some(due) } }
}

fn starting(view: &View, other: &Other, now: Timestamp) -> Plan {
    let step = |step| Plan { step, wake_at: None };
    if view.pod.over {
        return step(Step::Abandon(Failure::Ended));
    }
    if !other.alive {
        return step(if view.pod.backed { Step::WantAgain } else { Step::Forget(None) });
    }
    if !view.pod.backed {
        return step(Step::Switch(Because::Lost));
    }
    if other.ready {
        return step(Step::Switch(Because::Ready));
    }
    match view.leave.and_then(|leave| leave.by) {
        Some(by) => {
            let due = turn(view, by);
            match now >= due {
                true if other.told => step(Step::Switch(Because::OutOfTime)),
                // It has not even begun there.
                true => step(Step::Abandon(Failure::NoInstance)),
                false => Plan { step: Step::Start, wake_at: Some(due) },
            }
        }
        None => {
            let due = later(view.since, PATIENCE);
            match now >= due {
                true => step(Step::Abandon(Failure::NeverReady)),
                false => Plan { step: Step::Start, wake_at: Some(due) },
            }
        }
    }
}

fn draining(
    view: &View,
    other: &Other,
    role: Role,
    shown_at: Option<Timestamp>,
    stop: Option<Deletion>,
    now: Timestamp,
) -> Plan {
    let step = |step| Plan { step, wake_at: None };
    if !other.alive || !other.told || other.terminated {
        return step(Step::End);
    }
    if let Some(stop) = stop {
        let patience = if other.connected { super::lifecycle::STUCK_AGENT } else { super::lifecycle::SILENT_AGENT };
        let due = later(stop.deadline, patience);
        return if now >= due { step(Step::End) } else { Plan { step: Step::Stop(stop), wake_at: Some(due) } };
    }
    if !view.pod.backed && !view.pod.over {
        // What took over is gone already, and this one still runs.
        return step(Step::Switch(Because::Lost));
    }
    if let Some(deletion) = view.pod.deletion {
        return step(Step::Stop(deletion));
    }
    let ends_at = other.ends_at.map(|at| at.saturating_sub(MARGIN).unwrap_or(at));
    let latest = other.ends_at.map(|at| latest(view, at));
    let due = match (role, shown_at) {
        _ if view.pod.over => now,
        (Role::Abandoned, _) => now,
        (Role::Old, Some(shown_at)) => later(shown_at, SETTLE).min(latest.unwrap_or(Timestamp::MAX)),
        (Role::Old, None) => return step(Step::Rest),
    };
    if now < due {
        return Plan { step: Step::Rest, wake_at: Some(due) };
    }
    let deadline = later(now, seconds(view.pod.grace_seconds)).min(ends_at.unwrap_or(Timestamp::MAX)).max(now);
    let grace_seconds = u64::try_from(deadline.duration_since(now).as_secs()).unwrap_or(0);
    step(Step::Stop(Deletion { deadline, grace_seconds }))
}

/// The last moment for a stop with the whole grace period before the instance is taken.
fn last(view: &View, by: Timestamp) -> Timestamp {
    let before = MARGIN.saturating_add(seconds(view.pod.grace_seconds));
    by.saturating_sub(before).unwrap_or(Timestamp::MIN)
}

/// The last moment for the stop of what has a replacement, or still may get one.
fn latest(view: &View, by: Timestamp) -> Timestamp {
    let before = MARGIN.saturating_add(seconds(view.pod.grace_seconds).min(KEPT_GRACE));
    by.saturating_sub(before).unwrap_or(Timestamp::MIN)
}

/// The last moment for a switch: what served until then must be known to be replaced before it stops.
fn turn(view: &View, by: Timestamp) -> Timestamp {
    latest(view, by).saturating_sub(SETTLE).unwrap_or(Timestamp::MIN)
}

/// Until when a second instance is waited for.
fn deadline(view: &View, leave: &Leave) -> Timestamp {
    leave.by.map_or_else(|| later(view.since, PATIENCE), |by| turn(view, by))
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn seconds(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}
