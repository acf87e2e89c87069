//! Which Pod gets which instance, what to launch and what to release.
//!
//! A Pod's size picks its type: the cheapest that fits. After that Pods and instances of one pool
//! (zone and type) are interchangeable, so the plan is a matter of counting: in each pool
//!
//! ```text
//!   bind    = min(waiting Pods, ready instances)             oldest Pod to oldest instance
//!   launch  = waiting + standby - (ready + booting)          if positive and not cooling down
//!   release = (ready + booting) - waiting - standby          if positive, newest first
//! ```
//!
//! An instance knows no Pod at launch; it is bound when its agent has registered. So 500 Pods need as
//! many launch calls as there are pools, and a crash after a launch loses nothing: what was launched
//! is found by its tags and counts as booting.
//!
//! Cost: O(n log n) in Pods and instances.

use crate::model::{InstanceId, InstanceType, PodUid};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// A Pod that needs an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub pod: PodUid,
    pub zone: String,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub since: Timestamp,
}

/// An instance that no Pod is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supply {
    pub instance: InstanceId,
    pub pool: Pool,
    /// Its agent is connected.
    pub ready: bool,
    pub launched_at: Timestamp,
}

/// Instances that are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    pub zone: String,
    pub instance_type: String,
}

#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The catalog.
    pub types: Vec<InstanceType>,
    /// What an instance keeps for itself (kernel, containerd, agent): not offered to the Pod.
    pub reserved_memory_bytes: u64,
    /// Instances kept running without a Pod.
    pub standby: BTreeMap<Pool, u32>,
    /// Pools that the cloud had no capacity for: nothing is launched there before this time.
    pub cooling: BTreeMap<Pool, Timestamp>,
    /// How many more instances may exist in each zone.
    pub room: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub bind: Vec<(PodUid, InstanceId)>,
    pub launch: Vec<(Pool, u32)>,
    pub release: Vec<InstanceId>,
    /// Pods that wait, and why.
    pub waiting: Vec<(PodUid, Waiting)>,
    /// When this should be asked again if nothing else happens.
    pub wake_at: Option<Timestamp>,
}

/// Why a Pod has no instance yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// One was launched or is about to be.
    Launching { instance_type: String },
    /// No type of the catalog is large enough.
    TooLarge { message: String },
    /// The cloud had none of this type; it is asked again after `until`.
    NoCapacity { instance_type: String, until: Timestamp },
    /// The node's limit on instances is reached.
    LimitReached,
}

impl Waiting {
    /// A CamelCase reason, for status and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Launching { .. } => "Launching",
            Self::TooLarge { .. } => "NoInstanceTypeFits",
            Self::NoCapacity { .. } => "InsufficientInstanceCapacity",
            Self::LimitReached => "OutOfpods",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Self::Launching { instance_type } => format!("waiting for an instance of type {instance_type}"),
            Self::TooLarge { message } => message.clone(),
            // No time in it: each new one would be a new event.
            Self::NoCapacity { instance_type, .. } => {
                format!("the cloud has no {instance_type} now; it is asked again")
            }
            Self::LimitReached => "the node's limit of Pods is reached".to_owned(),
        }
    }
}

/// The cheapest type that holds the Pod; of equal prices the smaller, then the first by name.
pub fn choose_type(
    types: &[InstanceType],
    reserved_memory_bytes: u64,
    cpu_millis: u64,
    memory_bytes: u64,
) -> Result<&InstanceType, String> {
    let fits = |t: &&InstanceType| {
        t.cpu_millis >= cpu_millis && t.memory_bytes.saturating_sub(reserved_memory_bytes) >= memory_bytes
    };
    types.iter().filter(fits).min_by_key(|t| (t.price, t.cpu_millis, t.memory_bytes, &t.name)).ok_or_else(|| {
        let largest = types.iter().max_by_key(|t| (t.memory_bytes, t.cpu_millis, &t.name));
        match largest {
            None => "the catalog has no instance types".to_owned(),
            Some(t) => format!(
                "the Pod requests cpu {cpu_millis}m and memory {}Mi; no instance type is large enough (the largest, {}, \
                 offers cpu {}m and memory {}Mi)",
                memory_bytes.div_ceil(1 << 20),
                t.name,
                t.cpu_millis,
                t.memory_bytes.saturating_sub(reserved_memory_bytes) >> 20,
            ),
        }
    })
}

/// See the module's page.
pub fn plan(demands: &[Demand], supplies: &[Supply], rules: &Rules, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut waiting: BTreeMap<Pool, Vec<&Demand>> = BTreeMap::new();
    let mut ordered: Vec<&Demand> = demands.iter().collect();
    ordered.sort_by_key(|d| (d.since, &d.pod));
    for demand in ordered {
        match choose_type(&rules.types, rules.reserved_memory_bytes, demand.cpu_millis, demand.memory_bytes) {
            Ok(t) => {
                let pool = Pool { zone: demand.zone.clone(), instance_type: t.name.clone() };
                waiting.entry(pool).or_default().push(demand);
            }
            Err(message) => plan.waiting.push((demand.pod.clone(), Waiting::TooLarge { message })),
        }
    }
    let mut held: BTreeMap<Pool, Vec<&Supply>> = BTreeMap::new();
    for supply in supplies {
        held.entry(supply.pool.clone()).or_default().push(supply);
    }
    let mut room = rules.room.clone();
    let pools: BTreeSet<&Pool> = waiting.keys().chain(held.keys()).chain(rules.standby.keys()).collect();
    for pool in pools {
        let demands = waiting.get(pool).map_or(&[][..], Vec::as_slice);
        let mut supplies = held.get(pool).cloned().unwrap_or_default();
        // Ready ones first, the oldest first: those bind; the newest are released.
        supplies.sort_by_key(|s| (!s.ready, s.launched_at, &s.instance));
        let ready = supplies.iter().filter(|s| s.ready).count();
        let bound = demands.len().min(ready);
        for (demand, supply) in demands.iter().zip(&supplies).take(bound) {
            plan.bind.push((demand.pod.clone(), supply.instance.clone()));
        }
        let wanted = demands.len() + rules.standby.get(pool).map_or(0, |n| *n as usize);
        let mut booting = supplies.len() - ready;
        let mut blocked = None;
        if wanted > supplies.len() {
            let until = rules.cooling.get(pool).copied().filter(|until| *until > now);
            let left = room.entry(pool.zone.clone()).or_insert(u32::MAX);
            let missing = u32::try_from(wanted - supplies.len()).unwrap_or(u32::MAX);
            let count = if until.is_some() { 0 } else { missing.min(*left) };
            if count > 0 {
                *left -= count;
                booting += count as usize;
                plan.launch.push((pool.clone(), count));
            }
            blocked = Some(match until {
                Some(until) => {
                    plan.wake_at = Some(plan.wake_at.map_or(until, |at| at.min(until)));
                    Waiting::NoCapacity { instance_type: pool.instance_type.clone(), until }
                }
                None => Waiting::LimitReached,
            });
        } else {
            plan.release.extend(supplies[wanted..].iter().map(|s| s.instance.clone()));
        }
        for (index, demand) in demands[bound..].iter().enumerate() {
            let why = match &blocked {
                Some(blocked) if index >= booting => blocked.clone(),
                _ => Waiting::Launching { instance_type: pool.instance_type.clone() },
            };
            plan.waiting.push((demand.pod.clone(), why));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HourlyPrice;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn types() -> Vec<InstanceType> {
        [("small", 1000, 1u64, 10), ("medium", 2000, 4, 20), ("large", 4000, 8, 40)]
            .map(|(name, cpu_millis, gib, price)| InstanceType {
                name: name.into(),
                cpu_millis,
                memory_bytes: gib << 30,
                price: HourlyPrice(price),
            })
            .to_vec()
    }

    fn demand(index: usize, cpu_millis: u64, zone: u8) -> Demand {
        Demand {
            pod: PodUid::new(format!("pod-{index}")),
            zone: format!("zone-{zone}"),
            cpu_millis,
            memory_bytes: 0,
            since: at(index as i64 % 7),
        }
    }

    prop_compose! {
        fn world()(
            demands in prop::collection::vec((1u64..5000, 0u8..2), 0..20),
            supplies in prop::collection::vec((0usize..3, 0u8..2, any::<bool>(), 0i64..9), 0..20),
            standby in 0u32..3,
            cooling in prop::option::of(0i64..20),
            room in 0u32..30,
        ) -> (Vec<Demand>, Vec<Supply>, Rules) {
            let pool = |zone: u8, t: usize| Pool { zone: format!("zone-{zone}"), instance_type: types()[t].name.clone() };
            let demands = demands.into_iter().enumerate().map(|(i, (cpu, zone))| demand(i, cpu, zone)).collect();
            let supplies = supplies.into_iter().enumerate().map(|(i, (t, zone, ready, launched))| Supply {
                instance: InstanceId::new(format!("i-{i}")), pool: pool(zone, t), ready, launched_at: at(launched),
            }).collect();
            let rules = Rules {
                types: types(),
                reserved_memory_bytes: 0,
                standby: [(pool(0, 0), standby)].into(),
                cooling: cooling.map(|s| (pool(0, 1), at(s))).into_iter().collect(),
                room: [("zone-0".to_owned(), room), ("zone-1".to_owned(), room)].into(),
            };
            (demands, supplies, rules)
        }
    }

    proptest! {
        #[test]
        fn every_pod_is_bound_or_told_why_it_waits((demands, supplies, rules) in world()) {
            let plan = plan(&demands, &supplies, &rules, at(10));
            let mut told: Vec<_> = plan.bind.iter().map(|(p, _)| p).chain(plan.waiting.iter().map(|(p, _)| p)).collect();
            told.sort();
            let mut all: Vec<_> = demands.iter().map(|d| &d.pod).collect();
            all.sort();
            prop_assert_eq!(told, all);
        }

        #[test]
        fn counts_in_each_pool_match_the_reference((demands, supplies, rules) in world()) {
            let plan = plan(&demands, &supplies, &rules, at(10));
            let mut launched_in_zone: BTreeMap<String, u32> = BTreeMap::new();
            for zone in ["zone-0", "zone-1"] {
                for t in types() {
                    let pool = Pool { zone: zone.into(), instance_type: t.name.clone() };
                    let want = demands.iter().filter(|d| d.zone == zone && types().iter()
                        .filter(|t| t.cpu_millis >= d.cpu_millis).min_by_key(|t| t.price).map(|t| &t.name) == Some(&t.name)).count();
                    let mine: Vec<_> = supplies.iter().filter(|s| s.pool == pool).collect();
                    let ready = mine.iter().filter(|s| s.ready).count();
                    let standby = rules.standby.get(&pool).copied().unwrap_or(0) as usize;
                    let bound = plan.bind.iter().filter(|(_, i)| mine.iter().any(|s| s.instance == *i)).count();
                    prop_assert_eq!(bound, want.min(ready));
                    let released = plan.release.iter().filter(|i| mine.iter().any(|s| s.instance == **i)).count();
                    prop_assert_eq!(released, mine.len().saturating_sub(want + standby));
                    let launched: u32 = plan.launch.iter().filter(|(p, _)| *p == pool).map(|(_, n)| n).sum();
                    let missing = (want + standby).saturating_sub(mine.len()) as u32;
                    let cooling = rules.cooling.get(&pool).is_some_and(|until| *until > at(10));
                    prop_assert!(launched <= missing && (!cooling || launched == 0));
                    *launched_in_zone.entry(zone.into()).or_default() += launched;
                    // Short of what is missing only because the zone is full or the pool cools down.
                    let zone_total: u32 = plan.launch.iter().filter(|(p, _)| p.zone == zone).map(|(_, n)| n).sum();
                    prop_assert!(launched == missing || cooling || zone_total == rules.room[zone]);
                }
            }
            for (zone, launched) in launched_in_zone {
                prop_assert!(launched <= rules.room[&zone]);
            }
        }

        #[test]
        fn the_order_of_the_input_does_not_matter((mut demands, mut supplies, rules) in world()) {
            let one = plan(&demands, &supplies, &rules, at(10));
            demands.reverse();
            supplies.reverse();
            let mut other = plan(&demands, &supplies, &rules, at(10));
            let mut one_sorted = one;
            one_sorted.waiting.sort_by(|a, b| a.0.cmp(&b.0));
            other.waiting.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(one_sorted, other);
        }

        #[test]
        fn no_instance_is_bound_twice_or_bound_and_released((demands, supplies, rules) in world()) {
            let plan = plan(&demands, &supplies, &rules, at(10));
            let used: Vec<_> = plan.bind.iter().map(|(_, i)| i).chain(&plan.release).collect();
            let distinct: BTreeSet<_> = used.iter().collect();
            prop_assert_eq!(used.len(), distinct.len());
            for (_, instance) in &plan.bind {
                prop_assert!(supplies.iter().any(|s| s.instance == *instance && s.ready));
            }
        }
    }

    #[test]
    fn a_pod_gets_the_cheapest_type_that_holds_it_with_what_the_instance_keeps_for_itself() {
        let types = types();
        assert_eq!(choose_type(&types, 0, 500, 1 << 30).unwrap().name, "small");
        assert_eq!(choose_type(&types, 1 << 20, 500, 1 << 30).unwrap().name, "medium");
        let refusal = choose_type(&types, 0, 8000, 0).unwrap_err();
        assert!(refusal.contains("8000m") && refusal.contains("large"), "{refusal}");
    }
}
