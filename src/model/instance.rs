//! Machines, as a cloud tells of them.

use super::{ClientToken, HourlyPrice, InstanceId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

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
    pub price: HourlyPrice,
    pub tags: BTreeMap<String, String>,
}

/// Launch `count` equal machines, idempotent by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRequest {
    pub client_token: ClientToken,
    pub instance_type: String,
    pub zone: String,
    pub purchase: Purchase,
    pub count: u32,
    pub tags: BTreeMap<String, String>,
}
