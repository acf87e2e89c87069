//! The cost policy as decisions read it: checked, with every default filled in.
//!
//! config/policy makes it of cost-policy.yaml.

use super::glob::Glob;
use super::schedule::Window;
pub use crate::model::{Allocation, CreditMode};
use crate::model::{HourlyPrice, Purchase};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Policy {
    /// The one that serves comes first: by weight from the top, then by name. The last matches every Pod.
    pub classes: Vec<Class>,
    pub limits: Vec<Limit>,
    pub standby: Vec<StandbyPool>,
    pub commitments: Vec<Commitment>,
    pub reservations: Vec<Reservation>,
    pub ice: Ice,
    pub ttl: Ttl,
    pub interruption: Interruption,
    pub overrides: Overrides,
    pub reserve: crate::decide::reserve::Policy,
}

impl Policy {
    /// What holds where no class is meant.
    pub fn defaults(&self) -> Option<&Class> {
        self.classes.last()
    }
}

#[derive(Clone, Debug)]
pub struct Class {
    pub name: String,
    pub weight: i32,
    pub matches: Match,
    /// In order of preference; never empty.
    pub purchase: Vec<Step>,
    pub instances: Instances,
    pub sizing: Sizing,
    pub credits: Credits,
    pub mix: Option<Mix>,
    pub placement: Placement,
    /// A filter of ours; never sent to EC2 as MaxPrice, which would only bring more interruptions.
    pub max_hourly: Option<HourlyPrice>,
    pub use_commitments: bool,
}

/// All that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    pub namespaces: Vec<Glob>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner_kinds: Vec<String>,
}

/// A way of buying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub option: Purchase,
    pub allocation: Allocation,
    /// With fewer pools than this left the step is passed over.
    pub min_pools: u32,
    /// Of the same type's on-demand price.
    pub max_percent_of_on_demand: Option<u32>,
    /// Only when a step before it found a pool that had no capacity.
    pub after_ice: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// As Kubernetes names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.as_str() == name)
    }

    /// The one that is allowed, if it is one alone. None: all are.
    pub fn sole(allowed: Option<&[String]>) -> Option<Self> {
        match allowed {
            Some([one]) => Self::named(one),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Instances {
    /// A type must be in each of these lists.
    pub allow: Vec<Vec<TypeSelector>>,
    pub deny: Vec<Glob>,
    pub architectures: Vec<Architecture>,
    /// Does not speak against a type that is allowed by its full name.
    pub min_generation: Option<u32>,
    /// Speaks against every older type, named or not: of a narrowed class that has no list to name it in.
    pub strict_generation: Option<u32>,
    pub burstable: bool,
    pub max_cpu_millis: Option<u64>,
    pub max_memory_bytes: Option<u64>,
    /// Where given, a type earlier in this list is taken before a cheaper one later in it.
    pub listed: Option<Vec<TypeSelector>>,
    pub max_candidates: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeSelector {
    Name(Glob),
    /// Exactly this size (ECI's `2-4Gi`).
    Size {
        cpu_millis: u64,
        memory_bytes: u64,
    },
}

impl std::fmt::Display for TypeSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(glob) => glob.fmt(f),
            Self::Size { cpu_millis, memory_bytes } => write!(f, "{cpu_millis}m-{}Mi", memory_bytes >> 20),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizing {
    /// What the Pod requests; these where it requests nothing.
    Requests { cpu_millis: u64, memory_bytes: u64 },
    /// These, whatever the Pod requests.
    Override { cpu_millis: u64, memory_bytes: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credits {
    pub mode: CreditMode,
    /// The dearest surplus credits of one instance, if it used all the CPU that its Pod requests.
    pub max_surplus: Option<HourlyPrice>,
}

/// How many of a group's Pods are bought on demand: the first `base`, and of those above a percentage,
/// rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    pub on_demand_base: u32,
    pub on_demand_percent_above_base: u32,
    pub group_by: GroupBy,
}

impl Mix {
    /// How many of `n` Pods are to be on demand.
    pub fn wanted(self, n: u32) -> u32 {
        let above = u64::from(n.saturating_sub(self.on_demand_base));
        let share = (above * u64::from(self.on_demand_percent_above_base)).div_ceil(100);
        n.min(self.on_demand_base) + u32::try_from(share).expect("at most n: the percentage is at most 100")
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    #[default]
    Owner,
    Namespace,
    Class,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// None: every zone of the catalog.
    pub zones: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub scope: Scope,
    pub max_hourly: Option<HourlyPrice>,
    pub max_instances: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Cluster,
    Namespace(String),
    Class(String),
}

/// What has been paid for already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commitment {
    /// A zonal Reserved Instance: this type in this zone.
    Zonal { instance_type: String, zone: String, count: u32 },
    /// A regional Reserved Instance: its family, counted by normalization in hundredths of a `small`.
    Regional { family: String, units: u64 },
    /// An EC2 Instance Savings Plan (a family) or a Compute Savings Plan (None).
    SavingsPlan { family: Option<String>, hourly: HourlyPrice, discount_percent: u32 },
}

/// An On-Demand Capacity Reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub instance_type: String,
    pub zone: String,
    pub count: u32,
}

/// What follows on "no capacity".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ice {
    pub quarantine: SignedDuration,
    pub max_attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    pub launch: SignedDuration,
    pub register: SignedDuration,
    pub max_lifetime: Option<SignedDuration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interruption {
    pub notice: OnNotice,
    pub rebalance: OnRebalance,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnNotice {
    #[default]
    ReplaceThenDrain,
    Drain,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnRebalance {
    Replace,
    #[default]
    Ignore,
}

/// Which annotations may narrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub instance_types: bool,
    pub purchase: bool,
    pub max_hourly_price: bool,
    /// `pilotlight.dev/move` may name another class, which may be dearer: the one that does not only narrow.
    pub move_to_class: bool,
    /// The annotations that users of Alibaba Cloud ECI know, under k8s.aliyun.com/.
    pub eci: bool,
}

/// Instances kept running without a Pod.
#[derive(Clone, Debug)]
pub struct StandbyPool {
    pub instance_type: String,
    pub zone: String,
    /// Outside every window.
    pub count: u32,
    /// None overlaps another.
    pub windows: Vec<Window>,
}
