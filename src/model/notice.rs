//! What a cloud tells an instance about its own end.

use super::InstanceId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One announcement. An agent says all that stand, whole each time: one that was withdrawn is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Notice {
    /// A spot interruption: the cloud takes the instance back then (EC2 says it two minutes before).
    Interruption { at: Timestamp },
    /// The risk of an interruption has risen; nothing is certain.
    Rebalance { since: Timestamp },
    /// An event that the cloud has scheduled: `instance-retirement`, `system-reboot`, …
    Maintenance { code: String, not_before: Timestamp },
}

impl Notice {
    /// Whether both speak of the same thing, be it at other times.
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Adds those of another kind than the ones that are there.
    pub fn note_kinds(all: &[Self], kinds: &mut Vec<Self>) {
        for notice in all {
            if !kinds.iter().any(|kind| kind.same_kind(notice)) {
                kinds.push(notice.clone());
            }
        }
    }

    /// Adds it to others, in the place of what it puts at another time.
    pub fn put_into(self, others: &mut Vec<Self>) {
        let code = |notice: &Self| match notice {
            Self::Maintenance { code, .. } => Some(code.clone()),
            Self::Interruption { .. } | Self::Rebalance { .. } => None,
        };
        others.retain(|other| !self.same_kind(other) || code(other) != code(&self));
        others.push(self);
    }
}

/// One announcement that reached the provider itself. What is withdrawn is not said this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    pub instance: InstanceId,
    pub notice: Notice,
}
