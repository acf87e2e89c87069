//! What a decision says.

use super::{Gate, Refusal};
use jiff::Timestamp;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub state: State,
    /// To be carried out in this order. Any prefix is harmless.
    pub effects: Vec<Effect>,
    /// When to decide again if nothing changes until then.
    pub look_again: Option<Timestamp>,
}

/// Where one scalable thing stands; see the drawing on the front page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Off,
    Deploying,
    Standing,
    Preparing,
    Leaving,
    AtZero,
    /// At zero, and nobody answers yet.
    Repairing,
    ScalingUp,
    Failed,
}

impl State {
    pub const ALL: [Self; 9] = [
        Self::Off,
        Self::Deploying,
        Self::Standing,
        Self::Preparing,
        Self::Leaving,
        Self::AtZero,
        Self::Repairing,
        Self::ScalingUp,
        Self::Failed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Deploying => "deploying",
            Self::Standing => "standing",
            Self::Preparing => "preparing",
            Self::Leaving => "leaving",
            Self::AtZero => "at-zero",
            Self::Repairing => "repairing",
            Self::ScalingUp => "scaling-up",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Keep the autoscaler from taking the last standard Pod.
    SetHold,
    /// Let it. What the user wrote in its place comes back.
    ClearHold,
    /// Make a reserve Pod of the current build. That it exists already is fine.
    Create {
        name: String,
        attached: bool,
        why: Why,
    },
    /// Let requests reach it.
    Attach {
        name: String,
        why: Why,
    },
    /// Let no new request reach it.
    Detach {
        name: String,
        why: Why,
    },
    /// Ask it whether it still works at a request.
    CheckIdle {
        name: String,
    },
    Delete {
        name: String,
        grace: Grace,
        why: Why,
    },
    /// Say where it stands: a condition and an event. None takes the condition away.
    Report(Option<Report>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub reason: Reason,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// Nothing runs in it any more.
    None,
    /// It was seen idle: a second, for the process to end.
    Idle,
    /// It may still be at work: all that its template gives it.
    Full,
}

/// Why something is done to a reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    NoTraffic,
    NobodyAnswers,
    StandardAnswers,
    StandardLost,
    KeptReady,
    Replaced,
    Outdated,
    Doomed,
    Lost,
    NeverReady,
    Parked,
    NotWanted,
    Drained,
    DrainTimedOut,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTraffic => "there is no traffic, and the standard Pods may go soon",
            Self::NobodyAnswers => "there are no standard Pods, and no other reserve",
            Self::StandardAnswers => "standard Pods answer",
            Self::StandardLost => "no standard Pod is ready",
            Self::KeptReady => "one is kept ready at all times",
            Self::Replaced => "another reserve answers in its place",
            Self::Outdated => "it is of an older template or size",
            Self::Doomed => "its instance is about to go",
            Self::Lost => "it failed, or its instance is gone",
            Self::NeverReady => "it did not become ready in time",
            Self::Parked => "it was parked for long enough",
            Self::NotWanted => "no reserve is wanted any more",
            Self::Drained => "it has finished its requests",
            Self::DrainTimedOut => "it did not tell that it has finished its requests",
        })
    }
}

/// The reason of the condition that says where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Deploying,
    StandardServes,
    ReserveStarting,
    StandardLeaving,
    ReserveServes,
    ReserveMissing,
    ScalingUp,
    /// No reserve could be made ready. The time of this report is what the next try is counted from.
    ReserveFailed,
    /// A reserve serves, but the one to take its place could not be made ready.
    RollFailed,
    NotRouted,
    RefusedMinScale,
    RefusedClass,
    RefusedNoBurstCapacity,
    RefusedUnbounded,
    RefusedInvalid,
}

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Reason {
    pub const ALL: [Self; 15] = [
        Self::Deploying,
        Self::StandardServes,
        Self::ReserveStarting,
        Self::StandardLeaving,
        Self::ReserveServes,
        Self::ReserveMissing,
        Self::ScalingUp,
        Self::ReserveFailed,
        Self::RollFailed,
        Self::NotRouted,
        Self::RefusedMinScale,
        Self::RefusedClass,
        Self::RefusedNoBurstCapacity,
        Self::RefusedUnbounded,
        Self::RefusedInvalid,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploying => "Deploying",
            Self::StandardServes => "StandardServes",
            Self::ReserveStarting => "ReserveStarting",
            Self::StandardLeaving => "StandardLeaving",
            Self::ReserveServes => "ReserveServes",
            Self::ReserveMissing => "ReserveMissing",
            Self::ScalingUp => "ScalingUp",
            Self::ReserveFailed => "ReserveFailed",
            Self::RollFailed => "RollFailed",
            Self::NotRouted => "NotRouted",
            Self::RefusedMinScale => "RefusedMinScale",
            Self::RefusedClass => "RefusedAutoscalerClass",
            Self::RefusedNoBurstCapacity => "RefusedTargetBurstCapacity",
            Self::RefusedUnbounded => "RefusedContainerConcurrency",
            Self::RefusedInvalid => "RefusedInvalid",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// Whether it is, or will be, served at zero.
    pub fn truth(self) -> Truth {
        match self {
            Self::StandardServes | Self::StandardLeaving | Self::ReserveServes | Self::ScalingUp | Self::RollFailed => {
                Truth::True
            }
            Self::Deploying | Self::ReserveStarting | Self::ReserveMissing => Truth::Unknown,
            Self::ReserveFailed
            | Self::NotRouted
            | Self::RefusedMinScale
            | Self::RefusedClass
            | Self::RefusedNoBurstCapacity
            | Self::RefusedUnbounded
            | Self::RefusedInvalid => Truth::False,
        }
    }

    /// Whether a person should look.
    pub fn is_warning(self) -> bool {
        matches!(self, Self::ReserveFailed | Self::RollFailed | Self::ReserveMissing)
            || matches!(self.truth(), Truth::False) && self != Self::NotRouted
    }

    pub(super) fn message(self, gate: Gate) -> &'static str {
        match (self, gate) {
            (Self::StandardServes, Gate::Absent) => "standard Pods answer; a reserve is kept ready for when they go",
            (Self::ReserveStarting, Gate::Absent) => "a reserve starts: until it is ready, nobody would answer at zero",
            _ => self.text(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Deploying => "it is deployed for the first time, or from plain zero; no reserve yet",
            Self::StandardServes => "standard Pods answer; they are held until a reserve can take over",
            Self::ReserveStarting => "there is no traffic: a reserve starts, the standard Pods stay until it is ready",
            Self::StandardLeaving => "a reserve is ready: the standard Pods may go",
            Self::ReserveServes => "scaled to zero: the reserve answers",
            Self::ReserveMissing => "scaled to zero, and no reserve is ready: one is being made",
            Self::ScalingUp => "scaling up: the reserve answers until standard Pods do",
            Self::ReserveFailed => "no reserve became ready in time: plain zero, and another try later",
            Self::RollFailed => {
                "the reserve's successor did not become ready in time: the old one stays, and another try later"
            }
            Self::NotRouted => "no traffic is routed to it: no reserve",
            Self::RefusedMinScale => "min-scale is above zero",
            Self::RefusedClass => "the autoscaler class is not KPA",
            Self::RefusedNoBurstCapacity => {
                "target-burst-capacity is 0: requests pass the activator by; expected -1 or more than 0"
            }
            Self::RefusedUnbounded => "containerConcurrency is 0: expected a bound",
            Self::RefusedInvalid => "it cannot have a reserve",
        }
    }
}

impl Refusal {
    pub fn reason(&self) -> Reason {
        match self {
            Self::MinScale(_) => Reason::RefusedMinScale,
            Self::Class(_) => Reason::RefusedClass,
            Self::NoBurstCapacity => Reason::RefusedNoBurstCapacity,
            Self::Unbounded => Reason::RefusedUnbounded,
            Self::Invalid(_) => Reason::RefusedInvalid,
        }
    }

    pub fn message(&self) -> String {
        match self {
            Self::MinScale(n) => {
                format!("min-scale is {n}: that many standard Pods always run, and a reserve would never answer")
            }
            Self::Class(class) => {
                format!(
                    "the autoscaler class is {class:?}: it would count the reserve; expected kpa.autoscaling.knative.dev"
                )
            }
            Self::Invalid(why) => why.clone(),
            other => other.reason().text().to_owned(),
        }
    }
}
