//! What the provider may buy: one cloud of two types, one class.

use super::WorldConfig;
use crate::decide::placement::BatchWindow;
use crate::decide::purchase::{
    Buying, Catalog, Market, Policy, TypeSpec,
    policy::{
        Architecture, Class, CreditMode, Credits, Ice, Instances, Interruption, Match, Overrides, Placement, Sizing,
        Step, Ttl,
    },
};
use crate::model::{Allocation, HourlyPrice, NodeName, Purchase};
use jiff::SignedDuration;
use std::sync::Arc;

fn spec(name: &str, cpu_millis: u64, price: u64) -> TypeSpec {
    TypeSpec {
        name: name.to_owned(),
        architecture: Architecture::Amd64,
        cpu_millis,
        memory_bytes: 1 << 30,
        on_demand: HourlyPrice(price),
        burst: None,
    }
}

/// Any type, on demand.
pub fn class(name: &str) -> Class {
    Class {
        name: name.to_owned(),
        weight: 0,
        matches: Match::default(),
        purchase: vec![Step {
            option: Purchase::OnDemand,
            allocation: Allocation::LowestPrice,
            min_pools: 0,
            max_percent_of_on_demand: None,
            after_ice: false,
        }],
        instances: Instances { max_candidates: 60, ..Instances::default() },
        sizing: Sizing::Requests { cpu_millis: 250, memory_bytes: 1 << 20 },
        credits: Credits { mode: CreditMode::Unlimited, max_surplus: None },
        mix: None,
        placement: Placement::default(),
        max_hourly: None,
        use_commitments: true,
    }
}

/// One type, one class: the cheapest that holds a Pod.
pub fn buying() -> Buying {
    let register = SignedDuration::from_hours(10);
    let policy = Policy {
        classes: vec![class("default")],
        limits: Vec::new(),
        standby: Vec::new(),
        commitments: Vec::new(),
        reservations: Vec::new(),
        ice: Ice { quarantine: SignedDuration::from_secs(10), max_attempts: 4 },
        ttl: Ttl { launch: SignedDuration::from_mins(5), register, max_lifetime: None },
        interruption: Interruption::default(),
        overrides: Overrides::default(),
        reserve: crate::decide::reserve::Policy::default(),
    };
    let catalog = Catalog {
        region: "local".to_owned(),
        zones: vec!["zone-a".to_owned()],
        types: vec![spec("small", 2000, 5200), spec("medium", 2000, 9000)],
    };
    Buying { policy, market: Market { catalog, ..Market::default() } }
}

pub fn config() -> WorldConfig {
    WorldConfig {
        zones: [(NodeName::new("pilotlight-a"), "zone-a".to_owned())].into(),
        address: [10, 0, 0, 1].into(),
        buying: Arc::new(buying()),
        pods_per_node: 100,
        batch_window: BatchWindow::default(),
        keep_completed: SignedDuration::from_secs(20),
        dns_server: [10, 0, 0, 10].into(),
        dns_domain: "cluster.local".to_owned(),
    }
}
