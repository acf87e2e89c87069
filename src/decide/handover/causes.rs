//! Why a Pod should leave its instance: what the cloud announces, what its owner asks, what the policy says.

use crate::decide::purchase::policy::{Interruption, OnNotice, OnRebalance};
use crate::model::Notice;
use jiff::{SignedDuration, Timestamp};

/// A wish to move: `<token>` or `<token>/<class>`; each new value moves once.
pub const MOVE: &str = "pilotlight.dev/move";
/// The last value of [`MOVE`] that was dealt with. Ours.
pub const MOVED: &str = "pilotlight.dev/moved";
/// A Pod with this label is a reserve: whoever keeps the reserve replaces it, told by the condition InstanceDoomed.
pub const RESERVE: &str = "pilotlight.dev/reserve-of";

/// An announced end, or another reason to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    pub cause: Cause,
    /// When the instance is taken away; None: it may stay.
    pub by: Option<Timestamp>,
    pub manner: Manner,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A spot interruption.
    Interruption,
    Maintenance {
        code: String,
    },
    /// A rebalance recommendation.
    Rebalance,
    /// Older than the policy's `ttl.maxLifetime`.
    Expired,
    Asked(Ask),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Replace first, then drain, if it is movable.
    HandOver,
    /// `interruption.notice: drain`.
    Drain,
    /// Another part replaces it.
    MarkOnly,
}

/// A value of [`MOVE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub value: String,
    pub class: Option<String>,
}

impl Ask {
    pub fn new(value: &str) -> Self {
        let class = value.split_once('/').map(|(_, class)| class.to_owned()).filter(|class| !class.is_empty());
        Self { value: value.to_owned(), class }
    }
}

impl Cause {
    /// A CamelCase reason, for events and conditions: those of Karpenter and of the AWS Node Termination Handler
    /// where they have one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Interruption => "SpotInterrupted",
            Self::Maintenance { .. } => "ScheduledEvent",
            Self::Rebalance => "SpotRebalanceRecommendation",
            Self::Expired => "InstanceExpired",
            Self::Asked(_) => "MoveRequested",
        }
    }

    /// For metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Interruption => "interruption",
            Self::Maintenance { .. } => "maintenance",
            Self::Rebalance => "rebalance",
            Self::Expired => "expired",
            Self::Asked(_) => "asked",
        }
    }

    /// The instance goes, or had better go, whatever its Pod.
    pub fn dooms(&self) -> bool {
        !matches!(self, Self::Asked(_))
    }
}

impl Leave {
    pub fn message(&self) -> String {
        let by = self.by.map(|by| by.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
        match &self.cause {
            Cause::Interruption => format!("the cloud takes the instance back at {by}"),
            Cause::Maintenance { code } => format!("the cloud has scheduled {code} of the instance for {by}"),
            Cause::Rebalance => "the cloud recommends to replace the instance".to_owned(),
            Cause::Expired => "the instance is older than the cost policy's ttl.maxLifetime".to_owned(),
            Cause::Asked(Ask { class: Some(class), .. }) => format!("asked to move to class {class}"),
            Cause::Asked(_) => "asked to move".to_owned(),
        }
    }
}

/// All that may make a Pod leave.
#[derive(Clone, Debug)]
pub struct Signals<'a> {
    pub notices: &'a [Notice],
    pub launched_at: Timestamp,
    pub max_lifetime: Option<SignedDuration>,
    pub interruption: Interruption,
    /// A wish that was not dealt with yet.
    pub asked: Option<&'a Ask>,
    /// It is a reserve Pod.
    pub reserve: bool,
}

/// The most urgent reason, and when to look again for an age.
pub fn leave(signals: &Signals, now: Timestamp) -> (Option<Leave>, Option<Timestamp>) {
    let manner = if signals.reserve { Manner::MarkOnly } else { Manner::HandOver };
    let interruption = signals.notices.iter().filter_map(|notice| match notice {
        Notice::Interruption { at } => Some(*at),
        _ => None,
    });
    let expires = signals.max_lifetime.and_then(|most| signals.launched_at.checked_add(most).ok());
    let expired = expires.is_some_and(|at| now >= at);
    let look_again = expires.filter(|_| !expired);
    if let Some(by) = interruption.min() {
        let manner = match (manner, signals.interruption.notice) {
            (Manner::HandOver, OnNotice::Drain) => Manner::Drain,
            (manner, _) => manner,
        };
        return (Some(Leave { cause: Cause::Interruption, by: Some(by), manner }), look_again);
    }
    let maintenance = signals.notices.iter().filter_map(|notice| match notice {
        Notice::Maintenance { code, not_before } => Some((*not_before, code)),
        _ => None,
    });
    if let Some((by, code)) = maintenance.min() {
        return (Some(Leave { cause: Cause::Maintenance { code: code.clone() }, by: Some(by), manner }), look_again);
    }
    let unforced = |cause| (Some(Leave { cause, by: None, manner }), look_again);
    if let Some(ask) = signals.asked.filter(|_| !signals.reserve) {
        return unforced(Cause::Asked(ask.clone()));
    }
    let rebalance = signals.notices.iter().any(|notice| matches!(notice, Notice::Rebalance { .. }));
    if rebalance && signals.interruption.rebalance == OnRebalance::Replace {
        return unforced(Cause::Rebalance);
    }
    if expired {
        return unforced(Cause::Expired);
    }
    (None, look_again)
}
