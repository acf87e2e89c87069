//! The decision against a brute-force oracle on generated markets, and what must hold of every batch.
//!
//! The oracle shares no code with the decision: it keeps a plain list of what was bought and, for each
//! Pod, tries every way of buying every type in every zone.

mod commitments;
mod month;
mod narrowing;

use super::policy::*;
use super::*;
use crate::model::{HourlyPrice, Purchase};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ZONES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 6] = ["c6.large", "m5.large", "t3.small", "m7.xlarge", "c7.medium", "t4.nano"];

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn class(name: &str, weight: i32, purchase: Vec<Step>) -> Class {
    Class {
        name: name.into(),
        weight,
        matches: Match::default(),
        purchase,
        instances: Instances { burstable: true, max_candidates: 60, ..Instances::default() },
        sizing: Sizing::Requests { cpu_millis: 100, memory_bytes: 100 },
        credits: Credits { mode: CreditMode::Unlimited, max_surplus: None },
        mix: None,
        placement: Placement::default(),
        max_hourly: None,
        use_commitments: true,
    }
}

fn step(option: Purchase) -> Step {
    Step { option, allocation: Allocation::LowestPrice, min_pools: 0, max_percent_of_on_demand: None, after_ice: false }
}

fn policy(classes: Vec<Class>) -> Policy {
    Policy {
        classes,
        limits: Vec::new(),
        standby: Vec::new(),
        commitments: Vec::new(),
        reservations: Vec::new(),
        ice: Ice { quarantine: SignedDuration::from_mins(3), max_attempts: u32::MAX },
        ttl: Ttl { launch: SignedDuration::from_mins(5), register: SignedDuration::from_mins(5), max_lifetime: None },
        interruption: Interruption::default(),
        overrides: Overrides {
            instance_types: true,
            purchase: true,
            max_hourly_price: true,
            move_to_class: true,
            eci: true,
        },
        reserve: crate::decide::reserve::Policy::default(),
    }
}

prop_compose! {
    fn market()(
        types in prop::collection::vec((1u64..5, 1u64..5, 1u64..20, prop::option::of((0u64..20, 0u64..10))), 1..=6),
        zones in 1usize..=3,
        spot in prop::collection::vec(prop::option::of(1u64..20), 18),
        short in prop::collection::vec((0usize..3, 0usize..6, 0usize..3, -5i64..10), 0..5),
        reserved in 0u64..2,
        free in prop::option::of(0u32..6),
        missing in prop::collection::btree_set((0usize..6, 0usize..3), 0..3),
    ) -> Market {
        let types: Vec<TypeSpec> = types.into_iter().zip(NAMES).map(|((cpu, memory, price, burst), name)| TypeSpec {
            name: name.into(),
            architecture: if price % 5 == 0 { Architecture::Arm64 } else { Architecture::Amd64 },
            cpu_millis: cpu * 1000,
            memory_bytes: memory * 1000,
            on_demand: HourlyPrice(price),
            burst: burst.map(|(baseline, surplus)| Burst { baseline_millis: baseline * 100, surplus: HourlyPrice(surplus) }),
        }).collect();
        let zones: Vec<String> = ZONES[..zones].iter().map(|z| (*z).into()).collect();
        let pools = types.iter().flat_map(|t| zones.iter().map(|z| (t.name.clone(), z.clone())));
        let spot = pools.zip(spot).filter_map(|(pool, price)| price.map(|p| (pool, HourlyPrice(p)))).collect();
        let quarantine = short.into_iter().map(|(option, name, zone, ends)| Quarantine {
            option: [None, Some(Purchase::Spot), Some(Purchase::OnDemand)][option],
            instance_type: Some(NAMES[name].into()),
            zone: (zone > 0).then(|| ZONES[zone].into()),
            until: now() + SignedDuration::from_secs(ends),
        }).collect();
        let not_offered = missing.into_iter().map(|(name, zone)| (NAMES[name].into(), ZONES[zone].into())).collect();
        let free_addresses = free.map(|n| ("a".to_owned(), n)).into_iter().collect();
        Market { catalog: Catalog { region: "r".into(), zones, types }, spot, reserved_memory_bytes: reserved * 100, quarantine, free_addresses, not_offered, ..Market::default() }
    }
}

prop_compose! {
    fn rules()(
        options in prop::sample::subsequence(vec![Purchase::CapacityReservation, Purchase::Spot, Purchase::Burstable, Purchase::OnDemand], 1..=4).prop_shuffle(),
        after_ice: bool,
        min_pools in 0u32..4,
        percent in prop::option::of(30u32..120),
        cap in prop::option::of(1u64..20),
        standard: bool,
        surplus in prop::option::of(0u64..20),
        burstable: bool,
        generation in prop::option::of(3u32..7),
        arm: bool,
        mix in prop::option::of((0u32..4, 0u32..=100)),
        balanced: bool,
        zones in prop::option::of(prop::sample::subsequence(ZONES.to_vec(), 1..=3)),
        limits in prop::collection::vec((0usize..3, prop::option::of(1u64..60), prop::option::of(0u32..8)), 0..3),
        commitments in prop::collection::vec((0usize..6, 0usize..6, 0u32..3), 0..4),
        reservations in prop::collection::vec((0usize..6, 0usize..3, 0u32..3), 0..3),
        listed in prop::option::of(prop::sample::subsequence(NAMES.to_vec(), 1..=6).prop_shuffle()),
        max_attempts in prop::sample::select(vec![1, 2, 3, u32::MAX]),
    ) -> Policy {
        let purchase = options.into_iter().enumerate().map(|(index, option)| Step {
            min_pools: if option == Purchase::Spot { min_pools } else { 0 },
            max_percent_of_on_demand: percent.filter(|_| option == Purchase::Spot),
            after_ice: after_ice && index > 0 && option == Purchase::OnDemand,
            ..step(option)
        }).collect();
        let list = listed.map(|names| names.into_iter().map(|n| TypeSelector::Name(n.parse().unwrap())).collect::<Vec<_>>());
        let mut own = class("own", 1, purchase);
        own.instances = Instances {
            allow: list.iter().cloned().collect(),
            listed: list,
            burstable,
            min_generation: generation,
            architectures: if arm { vec![] } else { vec![Architecture::Amd64] },
            ..own.instances
        };
        own.credits = Credits { mode: if standard { CreditMode::Standard } else { CreditMode::Unlimited }, max_surplus: surplus.map(HourlyPrice) };
        own.mix = mix.map(|(on_demand_base, percent)| Mix { on_demand_base, on_demand_percent_above_base: percent, group_by: GroupBy::Owner });
        own.placement = Placement {
            zones: zones.map(|all| all.into_iter().map(str::to_owned).collect()),
            spread: if balanced { Spread::Balanced } else { Spread::Price },
        };
        own.max_hourly = cap.map(HourlyPrice);
        let scopes = [Scope::Cluster, Scope::Namespace("n0".into()), Scope::Class("own".into())];
        Policy {
            limits: limits.into_iter().map(|(scope, hourly, max_instances)| Limit {
                scope: scopes[scope].clone(), max_hourly: hourly.map(HourlyPrice), max_instances,
            }).collect(),
            commitments: commitments.into_iter().map(|(name, zone, count)| match zone {
                3 => Commitment::SavingsPlan { family: None, hourly: HourlyPrice(u64::from(count) * 4), discount_percent: 25 },
                4 => Commitment::SavingsPlan {
                    family: Some(NAMES[name][..2].into()), hourly: HourlyPrice(u64::from(count) * 5), discount_percent: 40,
                },
                5 => Commitment::Regional { family: NAMES[name][..2].into(), units: u64::from(count) * 300 },
                zone => Commitment::Zonal { instance_type: NAMES[name].into(), zone: ZONES[zone].into(), count },
            }).collect(),
            reservations: reservations.into_iter().map(|(name, zone, count)| Reservation {
                instance_type: NAMES[name].into(), zone: ZONES[zone].into(), count,
            }).collect(),
            ice: Ice { quarantine: SignedDuration::from_mins(3), max_attempts },
            ..policy(vec![own])
        }
    }
}

prop_compose! {
    fn demands()(all in prop::collection::vec((1u64..50, 1u64..50, 0u8..2, 0u8..2, prop::option::of(0usize..3), 0u8..8), 1..12)) -> Vec<Demand> {
        all.into_iter().enumerate().map(|(index, (cpu, memory, namespace, owner, zone, annotation))| Demand {
            uid: format!("{index:03}"),
            namespace: format!("n{namespace}"),
            owner: Some(("ReplicaSet".into(), format!("o{owner}"))),
            cpu_millis: Some(cpu * 100),
            memory_bytes: Some(memory * 100),
            zones: zone.map(|z| vec![ZONES[z].to_owned()]),
            annotations: Arc::new(match annotation {
                0 => [(INSTANCE_TYPES.to_owned(), "c*".to_owned())].into(),
                1 => [(PURCHASE.to_owned(), "on-demand".to_owned())].into(),
                2 => [(MAX_HOURLY.to_owned(), "0.000008".to_owned())].into(),
                _ => BTreeMap::new(),
            }),
            ..Demand::default()
        }).collect()
    }
}

/// What the oracle remembers of a purchase.
#[derive(Clone, Debug)]
struct Bought {
    namespace: String,
    group: String,
    option: Purchase,
    pool: (String, String),
    price: u64,
    drawn: Vec<(usize, u64)>,
}

const fn firm(option: Purchase) -> bool {
    !matches!(option, Purchase::Spot)
}

/// Price and draws of one more on demand. The rest is what nothing has covered of the list price yet.
fn oracle_on_demand(policy: &Policy, spec: &TypeSpec, zone: &str, bought: &[Bought]) -> (u64, Vec<(usize, u64)>) {
    let used = |index: usize| -> u64 {
        bought.iter().flat_map(|b| &b.drawn).filter(|(i, _)| *i == index).map(|(_, n)| n).sum()
    };
    // Sizes of NAMES, in hundredths of a `small`.
    let sizes = [("nano", 25), ("small", 100), ("medium", 200), ("large", 400), ("xlarge", 800)];
    let units = sizes.iter().find(|(size, _)| spec.name.ends_with(&format!(".{size}"))).unwrap().1;
    let list = spec.on_demand.0;
    let (mut rest, mut draws) = (list, Vec::new());
    for wanted_rank in 0..4 {
        for (index, commitment) in policy.commitments.iter().enumerate() {
            let (rank, covers, all) = match commitment {
                Commitment::Zonal { instance_type, zone: z, count } => {
                    (0, *instance_type == spec.name && z == zone, u64::from(*count))
                }
                Commitment::Regional { family, units } => (1, spec.name.starts_with(family.as_str()), *units),
                Commitment::SavingsPlan { family: Some(family), hourly, .. } => {
                    (2, spec.name.starts_with(family.as_str()), hourly.0)
                }
                Commitment::SavingsPlan { family: None, hourly, .. } => (3, true, hourly.0),
            };
            let left = all - used(index);
            if rank != wanted_rank || !covers || left == 0 || rest == 0 {
                continue;
            }
            let needed = match commitment {
                Commitment::Zonal { .. } => 1,
                Commitment::Regional { .. } => (units * rest).div_ceil(list),
                Commitment::SavingsPlan { discount_percent, .. } => {
                    (rest * u64::from(100 - discount_percent)).div_ceil(100)
                }
            };
            if left >= needed {
                draws.push((index, needed));
                rest = 0;
            } else {
                draws.push((index, left));
                rest = (rest * (needed - left)).div_ceil(needed);
            }
        }
    }
    (rest, draws)
}

/// The best key among all that is allowed, every candidate that has it, and what each books.
fn oracle(policy: &Policy, market: &Market, demand: &Demand, bought: &[Bought]) -> Vec<Bought> {
    let class = &policy.classes[0];
    let (cpu, memory) = (demand.cpu_millis.unwrap(), demand.memory_bytes.unwrap());
    let group = demand.owner.clone().map(|(kind, name)| format!("{}/{kind}/{name}", demand.namespace)).unwrap();
    let mine: Vec<&Bought> = bought.iter().filter(|b| b.group == group).collect();
    let lacking = class.mix.is_some_and(|mix| {
        let n = mine.len() as u32 + 1;
        let want = if n <= mix.on_demand_base {
            n
        } else {
            mix.on_demand_base + ((n - mix.on_demand_base) * mix.on_demand_percent_above_base).div_ceil(100)
        };
        (mine.iter().filter(|b| firm(b.option)).count() as u32) < want
    });
    let mut steps = class.purchase.clone();
    if class.mix.is_some() {
        let (first, second): (Vec<_>, Vec<_>) = steps.into_iter().partition(|s| firm(s.option) == lacking);
        steps = first.into_iter().chain(second).collect();
    }
    let full = |zone: &str| {
        market.free_addresses.get(zone).is_some_and(|n| bought.iter().filter(|b| b.pool.1 == zone).count() as u32 >= *n)
    };
    let zone_fine = |zone: &String| {
        class.placement.zones.as_ref().is_none_or(|z| z.contains(zone))
            && demand.zones.as_ref().is_none_or(|z| z.contains(zone))
    };
    let mut shortage = market.catalog.zones.iter().any(|zone| zone_fine(zone) && full(zone));
    let mut tried = false;
    for step in steps {
        if let Some(only) = demand.annotations.get(PURCHASE)
            && only != step.option.as_str()
        {
            continue;
        }
        let first = !std::mem::replace(&mut tried, true);
        let at_once = first || lacking && firm(step.option);
        if step.after_ice && !shortage && !at_once {
            continue;
        }
        let mut found: Vec<((usize, u64, u64), Bought)> = Vec::new();
        let mut short = Vec::new();
        for spec in &market.catalog.types {
            let rank = match &class.instances.listed {
                None => Some(0),
                Some(list) => list.iter().position(|s| matches!(s, TypeSelector::Name(g) if g.as_str() == spec.name)),
            };
            let Some(rank) = rank else { continue };
            let named = class.instances.listed.is_some();
            let baseline = spec.burst.map(|b| b.baseline_millis);
            let surplus =
                spec.burst.map_or(0, |b| (cpu.saturating_sub(b.baseline_millis) * b.surplus.0).div_ceil(1000));
            let refused = demand.annotations.contains_key(INSTANCE_TYPES) && !spec.name.starts_with('c')
                || !class.instances.architectures.is_empty()
                    && !class.instances.architectures.contains(&spec.architecture)
                || !named && class.instances.min_generation.is_some_and(|g| spec.name.as_bytes()[1] - b'0' < g as u8)
                || spec.burst.is_some() && !class.instances.burstable
                || spec.cpu_millis < cpu
                || spec.memory_bytes < memory + market.reserved_memory_bytes
                || class.credits.mode == CreditMode::Standard && baseline.is_some_and(|b| b < cpu)
                || step.option == Purchase::Burstable && spec.burst.is_none()
                || class.credits.max_surplus.is_some_and(|max| surplus > max.0);
            if refused {
                continue;
            }
            for zone in market.catalog.zones.iter().filter(|zone| zone_fine(zone) && !full(zone)) {
                let pool = (spec.name.clone(), zone.clone());
                let reserved: u32 = policy
                    .reservations
                    .iter()
                    .filter(|r| r.instance_type == pool.0 && r.zone == pool.1)
                    .map(|r| r.count)
                    .sum();
                let never_reserved = step.option == Purchase::CapacityReservation && reserved == 0;
                if market.not_offered.contains(&pool) || never_reserved {
                    continue;
                }
                let (bare, drawn) = match step.option {
                    Purchase::Spot => match market.spot.get(&pool) {
                        Some(price) => (price.0, Vec::new()),
                        None => {
                            shortage = true;
                            continue;
                        }
                    },
                    Purchase::CapacityReservation => {
                        let used = bought.iter().filter(|b| b.option == step.option && b.pool == pool).count() as u32;
                        if used >= reserved {
                            continue;
                        }
                        (0, Vec::new())
                    }
                    Purchase::OnDemand | Purchase::Burstable => oracle_on_demand(policy, spec, zone, bought),
                };
                let price = bare + surplus;
                let percent_fine =
                    step.max_percent_of_on_demand.is_none_or(|p| bare <= spec.on_demand.0 * u64::from(p) / 100);
                let annotated = demand.annotations.contains_key(MAX_HOURLY) && price > 8;
                let limited = policy.limits.iter().any(|limit| {
                    let of: Vec<&Bought> = bought
                        .iter()
                        .filter(|b| match &limit.scope {
                            Scope::Namespace(n) => b.namespace == *n,
                            _ => true,
                        })
                        .collect();
                    let holds = !matches!(&limit.scope, Scope::Namespace(n) if *n != demand.namespace);
                    holds
                        && (limit.max_instances.is_some_and(|max| of.len() as u32 >= max)
                            || limit
                                .max_hourly
                                .is_some_and(|max| of.iter().map(|b| b.price).sum::<u64>() + price > max.0))
                });
                if !percent_fine || annotated || limited || class.max_hourly.is_some_and(|cap| price > cap.0) {
                    continue;
                }
                let crowd = mine.iter().filter(|b| b.pool.1 == *zone).count() as u64;
                let crowd = if class.placement.spread == Spread::Balanced { crowd } else { 0 };
                if market.quarantine.iter().any(|q| {
                    q.until > now()
                        && q.option.is_none_or(|o| o == step.option)
                        && q.instance_type.as_ref() == Some(&spec.name)
                        && q.zone.as_ref().is_none_or(|z| z == zone)
                }) {
                    shortage = true;
                    short.push((rank, crowd, price));
                    continue;
                }
                found.push((
                    (rank, crowd, price),
                    Bought {
                        namespace: demand.namespace.clone(),
                        group: group.clone(),
                        option: step.option,
                        pool,
                        price,
                        drawn,
                    },
                ));
            }
        }
        let Some(best) = found.iter().map(|(key, _)| *key).min() else { continue };
        let tried = short.iter().filter(|key| **key < best).count() as u32;
        if tried >= policy.ice.max_attempts || (found.len() as u32) < step.min_pools {
            shortage = true;
            continue;
        }
        return found.into_iter().filter(|(key, _)| *key == best).map(|(_, bought)| bought).collect();
    }
    Vec::new()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn each_pod_gets_the_cheapest_that_everything_allows((policy, market, demands) in (rules(), market(), demands())) {
        let planner = Planner::new(&policy, &market, now());
        let mut ledger = Ledger::new(&policy);
        let decisions = planner.decide_all(&demands, &mut ledger);
        let mut bought: Vec<Bought> = Vec::new();
        for (demand, decision) in demands.iter().zip(&decisions) {
            let best = oracle(&policy, &market, demand, &bought);
            match &decision.outcome {
                Outcome::Pend(pend) => {
                    prop_assert!(best.is_empty(), "{}: pends ({pend:?}), could buy {best:?}", demand.uid);
                    prop_assert!(decision.dropped().next().is_some(), "it must say why");
                }
                Outcome::Plan(choice) => {
                    let pool = (choice.instance_type.to_owned(), choice.zone.to_owned());
                    let found = best.iter().find(|b| b.pool == pool && b.option == choice.option && b.price == choice.price.0);
                    prop_assert!(found.is_some(), "{}: {choice:?} is none of {best:?}", demand.uid);
                    bought.push(found.cloned().unwrap());
                }
            }
        }
        // What holds of the whole: no limit is exceeded, no quarantined pool is bought.
        for limit in &policy.limits {
            let tally = ledger.tally(&limit.scope);
            prop_assert!(limit.max_hourly.is_none_or(|max| tally.hourly <= max));
            prop_assert!(limit.max_instances.is_none_or(|max| tally.instances <= max));
        }
        for b in &bought {
            prop_assert!(!market.quarantine.iter().any(|q| q.holds(b.option, &b.pool.0, &b.pool.1, now())));
        }
    }

    #[test]
    fn the_order_of_pods_types_and_zones_does_not_matter((policy, market, demands) in (rules(), market(), demands())) {
        let one = Planner::new(&policy, &market, now()).decide_all(&demands, &mut Ledger::new(&policy));
        let mut other_market = market.clone();
        other_market.catalog.types.reverse();
        other_market.catalog.zones.reverse();
        other_market.quarantine.reverse();
        let mut other_demands = demands.clone();
        other_demands.reverse();
        let other = Planner::new(&policy, &other_market, now()).decide_all(&other_demands, &mut Ledger::new(&policy));
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_mix_stays_within_one_pod_of_its_share(base in 0u32..5, percent in 0u32..=100, pods in 1usize..40) {
        let mut own = class("own", 1, vec![step(Purchase::Spot), step(Purchase::OnDemand)]);
        own.mix = Some(Mix { on_demand_base: base, on_demand_percent_above_base: percent, group_by: GroupBy::Owner });
        let policy = policy(vec![own]);
        let spec = TypeSpec {
            name: "c6.large".into(), architecture: Architecture::Amd64, cpu_millis: 1000, memory_bytes: 1000,
            on_demand: HourlyPrice(10), burst: None,
        };
        let market = Market {
            catalog: Catalog { region: "r".into(), zones: vec!["a".into()], types: vec![spec] },
            spot: [(("c6.large".to_owned(), "a".to_owned()), HourlyPrice(3))].into(),
            ..Market::default()
        };
        let demands: Vec<Demand> = (0..pods).map(|n| Demand {
            uid: format!("{n:03}"), owner: Some(("ReplicaSet".into(), "web".into())), ..Demand::default()
        }).collect();
        let mut on_demand = 0i64;
        for (n, decision) in Planner::new(&policy, &market, now()).decide_all(&demands, &mut Ledger::new(&policy)).iter().enumerate() {
            let Outcome::Plan(choice) = &decision.outcome else { panic!("{decision:?}") };
            on_demand += i64::from(choice.option == Purchase::OnDemand);
            let n = i64::try_from(n).unwrap() + 1;
            let base = i64::from(base).min(n);
            let share = base * 100 + (n - base) * i64::from(percent);
            prop_assert!((on_demand * 100 - share).abs() <= 100, "{on_demand} of {n}, share {share} %");
        }
    }
}

#[test]
fn a_pending_pod_says_what_came_nearest() {
    let mut own = class("own", 1, vec![step(Purchase::OnDemand)]);
    own.max_hourly = Some(HourlyPrice(5));
    let policy = policy(vec![own]);
    let spec = TypeSpec {
        name: "c6.large".into(),
        architecture: Architecture::Amd64,
        cpu_millis: 1000,
        memory_bytes: 1000,
        on_demand: HourlyPrice(10),
        burst: None,
    };
    let market = Market {
        catalog: Catalog { region: "r".into(), zones: vec!["a".into()], types: vec![spec] },
        ..Market::default()
    };
    let ledger = Ledger::new(&policy);
    let demand = Demand::default();
    let decision = decide(&policy, &demand, &market, &ledger, now());
    let Outcome::Pend(pend) = decision.outcome else { panic!("{decision:?}") };
    assert_eq!(pend.reason, "PriceCapExceeded");
    assert!(
        pend.message.ends_with("on-demand c6.large in a: $0.00001/h is above the price cap of $0.000005/h"),
        "{}",
        pend.message
    );
    let bad =
        Demand { annotations: Arc::new([(PURCHASE.to_owned(), "stolen".to_owned())].into()), ..Demand::default() };
    let Outcome::Pend(pend) = decide(&policy, &bad, &market, &ledger, now()).outcome else { panic!() };
    assert!(pend.message.contains(PURCHASE) && pend.message.contains("expected on-demand"), "{}", pend.message);
}
