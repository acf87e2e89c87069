//! The cost policy of a provider that is given none: for every Pod the cheapest type that holds it, on
//! demand, whatever the type; for reserves a burstable one, if there is one; what is short is asked for again soon.

use crate::decide::purchase::policy::{
    Architecture, Class, CreditMode, Credits, Ice, Instances, Interruption, Match, Overrides, Placement, Policy,
    Sizing, Step, Ttl,
};
use crate::decide::reserve;
use crate::model::{Allocation, Purchase};
use jiff::SignedDuration;

/// The sizes are for Pods that request nothing.
pub fn policy(cpu_millis: u64, memory_bytes: u64, register: SignedDuration) -> Policy {
    let on_demand = Step {
        option: Purchase::OnDemand,
        allocation: Allocation::LowestPrice,
        min_pools: 0,
        max_percent_of_on_demand: None,
        after_ice: false,
    };
    let class = Class {
        name: "default".to_owned(),
        weight: i32::MIN,
        matches: Match::default(),
        purchase: vec![on_demand.clone()],
        instances: Instances {
            // The nodes say that they are amd64.
            architectures: vec![Architecture::Amd64],
            burstable: true,
            max_candidates: 60,
            ..Instances::default()
        },
        sizing: Sizing::Requests { cpu_millis, memory_bytes },
        // A type's price alone counts.
        credits: Credits { mode: CreditMode::Unlimited, max_surplus: None },
        mix: None,
        placement: Placement::default(),
        max_hourly: None,
        use_commitments: true,
    };
    let reserve = reserve::Policy::default();
    let burstable = Step { option: Purchase::Burstable, ..on_demand.clone() };
    let of_reserves = Class {
        name: reserve.class.clone(),
        weight: i32::MAX,
        matches: Match {
            annotations: [("pilotlight.dev/use-class".to_owned(), reserve.class.clone())].into(),
            ..Match::default()
        },
        purchase: vec![burstable, on_demand],
        ..class.clone()
    };
    Policy {
        classes: vec![of_reserves, class],
        limits: Vec::new(),
        standby: Vec::new(),
        commitments: Vec::new(),
        reservations: Vec::new(),
        ice: Ice { quarantine: SignedDuration::from_secs(10), max_attempts: 4 },
        ttl: Ttl { launch: SignedDuration::from_mins(5), register, max_lifetime: None },
        interruption: Interruption::default(),
        overrides: Overrides::default(),
        reserve,
    }
}
