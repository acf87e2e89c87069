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
}

/// One announcement that reached the provider itself. What is withdrawn is not said this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    pub instance: InstanceId,
    pub notice: Notice,
}
