//! What the cost policy says of reserves, checked, with every default filled in (config/policy makes it).

use super::{
    Rules,
    size::{Size, Sizing},
};
use crate::decide::purchase::Glob;
use jiff::SignedDuration;
use std::collections::BTreeMap;

const MI: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Policy {
    pub rules: Rules,
    /// The class of the cost policy that buys reserves: each asks for it by `pilotlight.dev/use-class`.
    pub class: String,
    /// Who has a reserve without asking for it.
    pub applies_to: Vec<AppliesTo>,
    pub sizing: PolicySizing,
    /// No reserve gets more memory than this, whatever the service was seen to need.
    pub most_memory_bytes: Option<u64>,
    /// From a reserve's creation until it must be ready; a startup probe of its own may allow more.
    pub startup: SignedDuration,
    /// A tag on a Revision without a share of the traffic counts as traffic.
    pub tags: bool,
    /// For what sets no limit on requests at once.
    pub unbounded: Unbounded,
}

/// All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliesTo {
    pub namespaces: Vec<Glob>,
    /// Of the Revision.
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySizing {
    Given(Sizing),
    /// Types of the catalog and sizes, at most [`MOST_SPECS`]: what a type offers is seen when one is made.
    Listed(Vec<String>),
}

/// As many as Alibaba's ECI takes.
pub const MOST_SPECS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbounded {
    /// The reserve's queue-proxy lets this many in at once and keeps ten times as many waiting; what comes on top
    /// is answered 503 by it.
    Bound(u32),
    Refuse,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            class: "reserve".to_owned(),
            applies_to: Vec::new(),
            sizing: PolicySizing::Given(Sizing::Fraction {
                cpu_percent: 10,
                memory_percent: 25,
                least: Size { cpu_millis: 100, memory_bytes: 128 * MI },
            }),
            most_memory_bytes: None,
            startup: SignedDuration::from_mins(2),
            tags: false,
            unbounded: Unbounded::Bound(100),
        }
    }
}

impl Policy {
    /// Whether it has a reserve without asking.
    pub fn applies(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.applies_to.iter().any(|to| {
            (to.namespaces.is_empty() || to.namespaces.iter().any(|glob| glob.matches(namespace)))
                && to.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        })
    }
}
