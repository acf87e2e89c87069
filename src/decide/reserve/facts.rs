//! What the decision is made from.

use jiff::{SignedDuration, Timestamp};

/// One scalable thing as the API server shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Its name: reserves are named after it.
    pub name: String,
    pub wish: Wish,
    pub standard: Standard,
    pub gate: Gate,
    /// Every reserve Pod of it there is.
    pub reserves: Vec<Reserve>,
    /// What was last said of it.
    pub reported: Option<Reported>,
    /// How long a request may take: a detached reserve that is still busy is given this long.
    pub longest_request: SignedDuration,
}

/// Whether it is to have a reserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Wanted(Wanted),
    /// No request can come to it, since then: traffic was moved away.
    Unrouted {
        since: Timestamp,
    },
    /// Asked for, and impossible.
    Refused(Refusal),
    NotAsked,
    /// It is gone, or going.
    Deleted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A hash of the Pod that a reserve would be made of now: template and size.
    pub build: String,
    /// How long a new reserve may take until it is ready.
    pub startup: SignedDuration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// At least this many standard Pods always run: a reserve would never answer.
    MinScale(u32),
    /// An autoscaler that counts the reserve as one of its own Pods.
    Class(String),
    /// Requests go to the Pods past the activator, and so to a reserve that nobody counts.
    NoBurstCapacity,
    /// No bound on requests at once, and the rules don't give one.
    Unbounded,
    /// The annotations cannot be understood, or no reserve can be made of the template.
    Invalid(String),
}

/// The Pods that the autoscaler knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Standard {
    /// `spec.replicas`.
    pub wanted: u32,
    /// `status.readyReplicas`.
    pub ready: u32,
    /// Since when there has been at least one that is ready.
    pub ready_since: Option<Timestamp>,
    /// It has been ready once: it is known to work.
    pub proven: bool,
    pub activity: Activity,
}

/// The autoscaler's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// No autoscaler tells (a plain Deployment): replicas alone count.
    Unmeasured,
    /// It scales up, or has not yet decided.
    Starting,
    Active {
        since: Timestamp,
    },
    /// No traffic: zero is due as soon as the gate allows.
    Idle {
        since: Timestamp,
    },
}

/// What keeps the autoscaler from taking the last standard Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// There is no such thing: whoever scales, scales at once.
    Absent,
    Open,
    /// `seen`: the autoscaler has got it.
    Held {
        seen: bool,
    },
}

/// One reserve Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Reserve {
    pub name: String,
    pub fit: Fit,
    pub life: Life,
    pub attachment: Attachment,
    pub deleting: Option<Deleting>,
}

/// Somebody deleted it: no new request reaches it from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleting {
    pub since: Timestamp,
    pub grace_seconds: i64,
    pub idle: Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Current,
    /// Made of an older template or size.
    Outdated,
    /// Its instance is about to go (a spot notice, a retirement).
    Doomed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Starting, or not ready any more.
    Unready {
        since: Timestamp,
    },
    Ready {
        since: Timestamp,
    },
    /// It will not come back: failed, or its instance is gone.
    Lost,
}

/// Whether requests can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    Attached { since: Timestamp },
    Detached { since: Timestamp, idle: Idle },
}

/// What a look at a detached reserve said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    Unasked,
    Yes { at: Timestamp },
    Busy { at: Timestamp },
    Silent { at: Timestamp },
}

/// What was last reported, and since when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    pub reason: super::Reason,
    pub since: Timestamp,
}

impl Reserve {
    pub(super) fn attached(&self) -> bool {
        matches!(self.attachment, Attachment::Attached { .. })
    }

    /// It can get requests, now and later.
    pub(super) fn alive(&self) -> bool {
        self.deleting.is_none() && self.life != Life::Lost
    }

    pub(super) fn ready(&self) -> bool {
        self.deleting.is_none() && matches!(self.life, Life::Ready { .. })
    }

    /// Since when it has been answering: ready and attached.
    pub(super) fn answering_since(&self) -> Option<Timestamp> {
        match (self.deleting, self.life, self.attachment) {
            (None, Life::Ready { since }, Attachment::Attached { since: attached }) => Some(since.max(attached)),
            _ => None,
        }
    }
}
