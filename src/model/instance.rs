//! Machines, as a cloud tells of them.

use super::{ClientToken, HourlyPrice, InstanceId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// Tag keys, set at launch only. They make the cloud's own list the record of what is ours.
pub mod tag {
    pub const CLUSTER: &str = "pilotlight.dev/cluster";
    pub const NODE: &str = "pilotlight.dev/node";
    pub const BATCH: &str = "pilotlight.dev/batch";
    pub const CLASS: &str = "pilotlight.dev/class";
}

/// A row of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceType {
    pub name: String,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// On demand.
    pub price: HourlyPrice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purchase {
    OnDemand,
    Spot,
    Burstable,
    CapacityReservation,
}

impl Purchase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
            Self::Burstable => "burstable",
            Self::CapacityReservation => "capacity-reservation",
        }
    }
}

/// How EC2 is to choose among the pools it is offered (CreateFleet's AllocationStrategy).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    #[default]
    LowestPrice,
    PriceCapacityOptimized,
    CapacityOptimized,
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum CreditMode {
    /// Beyond the baseline the CPU is throttled: a Pod must fit in the baseline.
    Standard,
    /// Beyond the baseline surplus credits are paid.
    #[default]
    Unlimited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub client_token: ClientToken,
    pub instance_type: String,
    pub zone: String,
    pub purchase: Purchase,
    pub state: InstanceState,
    /// Why it is no longer running, in the cloud's words.
    pub state_reason: Option<String>,
    /// The instance's own address.
    pub private_ip: Option<IpAddr>,
    /// The address for the Pod on it.
    pub pod_ip: Option<IpAddr>,
    pub launched_at: Timestamp,
    /// The offer's at its launch.
    pub price: HourlyPrice,
    /// Shared by the copies that are passed on every two seconds.
    pub tags: Arc<BTreeMap<String, String>>,
}

/// Launch `count` machines in one zone, alike to whoever asks; idempotent by its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRequest {
    pub client_token: ClientToken,
    pub zone: String,
    /// What would do, best first; never empty. Each machine is of one of them, and its record says of which.
    pub offers: Vec<Offer>,
    /// How the cloud is to choose among neighbouring offers of one way of paying.
    pub allocation: Allocation,
    /// For those that are burstable.
    pub credits: CreditMode,
    pub count: u32,
    /// With all of [`tag`].
    pub tags: BTreeMap<String, String>,
}

/// A type and a way of paying for it, at a price.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    pub instance_type: String,
    pub purchase: Purchase,
    /// What one costs an hour, commitments and surplus credits reckoned in; goes into the record.
    pub price: HourlyPrice,
}

/// Of Pods and instances now, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Bound to our nodes.
    pub pods: usize,
    /// Of them those that want an instance and have none.
    pub waiting: usize,
    /// Instances with a Pod, and without.
    pub bound: usize,
    pub free: usize,
}

/// What a launch brought: some of what was asked, and why not all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launched {
    /// Never more than asked.
    pub records: Vec<InstanceRecord>,
    /// Also where the whole count was reached with later offers.
    pub shortages: Vec<Shortage>,
    /// The cloud's codes of what else went wrong with a part of it.
    pub failures: Vec<String>,
}

/// What the cloud could not give now. None stands for every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub purchase: Option<Purchase>,
    pub instance_type: Option<String>,
    pub zone: Option<String>,
    /// The cloud's error code, such as `InsufficientInstanceCapacity`: for events and metrics.
    pub code: String,
    pub message: String,
}
