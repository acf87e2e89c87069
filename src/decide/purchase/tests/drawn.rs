//! What the properties are tried on: markets, policies, Pods and what lives already, drawn so small that each rule
//! meets the others often.

use super::*;
use std::ops::RangeInclusive;

pub const ZONES: [&str; 3] = ["a", "b", "c"];
pub const NAMES: [&str; 8] =
    ["c6.large", "m5.large", "t3.small", "m7.xlarge", "c7.medium", "t4.nano", "c6.xlarge", "m7.medium"];
pub const OPTIONS: [Purchase; 4] =
    [Purchase::CapacityReservation, Purchase::Spot, Purchase::Burstable, Purchase::OnDemand];
pub const CLASSES: [&str; 3] = ["own", "aux", "big"];

/// Each of which means one of [`NAMES`] at least.
pub const GLOBS: [&str; 12] =
    ["*", "c*", "m*", "t*", "*.large", "*.?*ano", "c6.*", "?7.*", "c?.*l*", "*.x*", "m*.?????*", "*m"];

pub fn names(list: &[&str]) -> Vec<TypeSelector> {
    list.iter().map(|name| TypeSelector::Name(name.parse().unwrap())).collect()
}

/// Names and globs, as a list of types is written.
pub fn words() -> impl Strategy<Value = Vec<&'static str>> {
    let all: Vec<&str> = GLOBS.into_iter().chain(NAMES).collect();
    prop::collection::vec(prop::sample::select(all), 3..=7)
}

pub fn seldom<S: Strategy>(one: S) -> impl Strategy<Value = Option<S::Value>> {
    prop::option::weighted(0.25, one)
}

prop_compose! {
    /// So many of [`NAMES`].
    pub fn types(count: RangeInclusive<usize>)(
        named in prop::sample::subsequence(NAMES.to_vec(), count),
        facts in prop::collection::vec((
            1u64..5, 1u64..5, 1u64..20, prop::option::of((0u64..20, 0u64..10)), prop::bool::weighted(0.25),
        ), NAMES.len()),
    ) -> Vec<TypeSpec> {
        let spec = |(name, (cpu, memory, price, burst, arm)): (&str, _)| TypeSpec {
            name: name.into(),
            architecture: if arm { Architecture::Arm64 } else { Architecture::Amd64 },
            cpu_millis: cpu * 1000,
            memory_bytes: memory * 1000,
            on_demand: HourlyPrice(price),
            burst: Option::map(burst, |(baseline, surplus)| Burst {
                baseline_millis: baseline * 100, surplus: HourlyPrice(surplus),
            }),
        };
        named.into_iter().zip(facts).map(spec).collect()
    }
}

fn pool() -> impl Strategy<Value = (&'static str, &'static str)> {
    (prop::sample::select(NAMES.to_vec()), prop::sample::select(ZONES.to_vec()))
}

prop_compose! {
    fn shortages()(
        all in prop::collection::vec((
            prop::option::of(prop::sample::select(OPTIONS.to_vec())),
            prop::option::weighted(0.9, prop::sample::select(NAMES.to_vec())),
            prop::option::weighted(0.6, prop::sample::select(ZONES.to_vec())),
            -5i64..10,
        ), 0..5),
    ) -> Vec<Quarantine> {
        let one = |(option, name, zone, ends): (_, Option<&str>, Option<&str>, _)| Quarantine {
            option,
            instance_type: name.map(str::to_owned),
            zone: zone.map(str::to_owned),
            until: now() + SignedDuration::from_secs(ends),
        };
        all.into_iter().map(one).collect()
    }
}

prop_compose! {
    /// With so many types, in so many zones.
    pub fn market_of(types: RangeInclusive<usize>, zones: RangeInclusive<usize>)(
        types in self::types(types),
        zones in zones,
        spot in prop::collection::vec(prop::option::weighted(0.8, 1u64..20), NAMES.len() * ZONES.len()),
        quarantine in shortages(),
        reserved in 0u64..2,
        free in prop::option::weighted(0.3, 0u32..9),
        missing in prop::collection::btree_set(pool(), 0..3),
        others in prop::collection::vec(others(), 0..3),
    ) -> Market {
        let zones: Vec<String> = ZONES[..zones].iter().map(|z| (*z).into()).collect();
        let pools = types.iter().flat_map(|t| zones.iter().map(|z| (t.name.clone(), z.clone())));
        let spot = pools.zip(spot).filter_map(|(pool, price)| price.map(|p| (pool, HourlyPrice(p)))).collect();
        let not_offered = missing.into_iter().map(|(name, zone)| (name.into(), zone.into())).collect();
        let free_addresses = free.map(|n| ("a".to_owned(), n)).into_iter().collect();
        Market {
            catalog: Catalog { region: "r".into(), zones, types },
            spot,
            reserved_memory_bytes: reserved * 100,
            quarantine,
            free_addresses,
            not_offered,
            others,
            ..Market::default()
        }
    }
}

fn others() -> impl Strategy<Value = Others> {
    let of = (pool(), prop::bool::weighted(0.7), 0u32..3, prop::option::weighted(0.8, 1u64..15));
    of.prop_map(|((name, zone), reservable, count, price)| Others {
        instance_type: name.to_owned(),
        zone: zone.to_owned(),
        reservable,
        count,
        on_demand: price.map(HourlyPrice),
    })
}

pub fn market() -> impl Strategy<Value = Market> {
    market_of(3..=6, 1..=3)
}

prop_compose! {
    fn instances()(
        // Two are what narrowing makes of them.
        allow in prop_oneof![
            6 => Just(vec![]),
            4 => prop::collection::vec(words(), 1),
            1 => prop::collection::vec(words(), 2),
        ],
        order in prop::option::of(0usize..2),
        deny in seldom(prop::collection::vec(prop::sample::select([&GLOBS[1..], &NAMES].concat()), 1..4)),
        architectures in prop_oneof![
            6 => Just(vec![]),
            1 => Just(vec![Architecture::Amd64]),
            1 => Just(vec![Architecture::Arm64, Architecture::Amd64]),
        ],
        min_generation in prop::option::weighted(0.3, 4u32..8),
        strict_generation in prop::option::weighted(0.1, 4u32..7),
        burstable in prop::bool::weighted(0.85),
        max_cpu_millis in seldom(1500u64..4500),
        max_memory_bytes in seldom(1500u64..4500),
        max_candidates in prop::sample::select(vec![1, 2, 3, 60, 60]),
    ) -> Instances {
        let allow: Vec<Vec<TypeSelector>> = allow.iter().map(|list| names(list)).collect();
        Instances {
            listed: order.and_then(|place| allow.get(place)).cloned(),
            allow,
            deny: deny.iter().flatten().map(|word| word.parse().unwrap()).collect(),
            architectures,
            min_generation,
            strict_generation,
            burstable,
            max_cpu_millis,
            max_memory_bytes,
            max_candidates,
        }
    }
}

prop_compose! {
    pub fn steps()(
        options in prop_oneof![
            1 => prop::sample::subsequence(OPTIONS.to_vec(), 1),
            4 => prop::sample::subsequence(OPTIONS.to_vec(), 2..=4),
        ].prop_shuffle(),
        after_ice in prop::collection::vec(prop::bool::weighted(0.4), 4),
        min_pools in prop::sample::select(vec![0, 0, 1, 2, 3]),
        percent in prop::option::weighted(0.4, 30u32..120),
    ) -> Vec<Step> {
        let one = |(index, option): (usize, Purchase)| Step {
            min_pools: if option == Purchase::Spot { min_pools } else { 0 },
            max_percent_of_on_demand: percent.filter(|_| option == Purchase::Spot),
            after_ice: index > 0 && after_ice[index],
            ..step(option)
        };
        options.into_iter().enumerate().map(one).collect()
    }
}

prop_compose! {
    pub fn mix()(
        on_demand_base in 0u32..4,
        on_demand_percent_above_base in 0u32..=100,
        group_by in prop::sample::select(vec![GroupBy::Owner, GroupBy::Namespace, GroupBy::Class]),
    ) -> Mix {
        Mix { on_demand_base, on_demand_percent_above_base, group_by }
    }
}

/// A class that serves whoever matches nothing in particular.
pub fn drawn_class() -> impl Strategy<Value = Class> {
    let sizing = (1u64..25, 1u64..25, prop::bool::weighted(0.2)).prop_map(|(cpu, memory, all)| {
        let (cpu_millis, memory_bytes) = (cpu * 100, memory * 100);
        match all {
            true => Sizing::Override { cpu_millis, memory_bytes },
            false => Sizing::Requests { cpu_millis, memory_bytes },
        }
    });
    let credits = (prop::bool::weighted(0.3), seldom(0u64..20)).prop_map(|(standard, surplus)| Credits {
        mode: if standard { CreditMode::Standard } else { CreditMode::Unlimited },
        max_surplus: surplus.map(HourlyPrice),
    });
    let zones = prop::option::weighted(0.3, prop::sample::subsequence(ZONES.to_vec(), 1..=3));
    let placement = zones.prop_map(|zones: Option<Vec<&str>>| Placement {
        zones: zones.map(|all| all.into_iter().map(str::to_owned).collect()),
    });
    let rest = (prop::option::of(mix()), seldom(5u64..20), prop::bool::weighted(0.7));
    (steps(), instances(), sizing, credits, placement, rest).prop_map(
        |(purchase, instances, sizing, credits, placement, (mix, cap, use_commitments))| Class {
            instances,
            sizing,
            credits,
            mix,
            placement,
            max_hourly: cap.map(HourlyPrice),
            use_commitments,
            ..class("default", i32::MIN, purchase)
        },
    )
}

prop_compose! {
    fn matches()(
        namespaces in prop::option::weighted(0.4, prop::sample::subsequence(vec!["n0", "?1", "shop-*"], 1..=2)),
        tier in prop::option::weighted(0.4, prop::sample::select(vec!["web", "jobs"])),
        chosen in prop::option::weighted(0.15, prop::sample::select(CLASSES.to_vec())),
        kinds in seldom(prop::sample::subsequence(vec!["Job", "ReplicaSet"], 1..=2)),
    ) -> Match {
        Match {
            namespaces: namespaces.iter().flatten().map(|glob| glob.parse().unwrap()).collect(),
            labels: tier.map(|tier| ("tier".to_owned(), tier.to_owned())).into_iter().collect(),
            annotations: chosen.map(|name| ("use".to_owned(), name.to_owned())).into_iter().collect(),
            owner_kinds: kinds.iter().flatten().map(|kind| (*kind).to_owned()).collect(),
        }
    }
}

/// By weight and name, and the last serves every Pod, as [`Policy::classes`] are.
fn classes() -> impl Strategy<Value = Vec<Class>> {
    let others = prop::collection::vec((drawn_class(), matches(), prop::sample::select(vec![0, 5, 5])), 0..=3);
    (others, drawn_class()).prop_map(|(others, last)| {
        let named = |(name, (class, matches, weight)): (&&str, (Class, Match, i32))| Class {
            name: (*name).to_owned(),
            weight,
            matches,
            ..class
        };
        let mut all: Vec<Class> = CLASSES.iter().zip(others).map(named).chain([last]).collect();
        all.sort_by_key(|class| (std::cmp::Reverse(class.weight), class.name.clone()));
        all
    })
}

prop_compose! {
    fn limits()(
        all in prop::collection::vec((0usize..4, prop::option::of(5u64..80), prop::option::of(1u32..10)), 0..3),
    ) -> Vec<Limit> {
        let scopes =
            [Scope::Cluster, Scope::Namespace("n0".into()), Scope::Class("own".into()), Scope::Class("default".into())];
        all.into_iter().map(|(scope, hourly, max_instances)| Limit {
            scope: scopes[scope].clone(), max_hourly: hourly.map(HourlyPrice), max_instances,
        }).collect()
    }
}

prop_compose! {
    fn commitments()(all in prop::collection::vec((0usize..8, 0usize..6, 0u32..3), 0..4)) -> Vec<Commitment> {
        let family = |name: usize| NAMES[name][..2].to_owned();
        all.into_iter().map(|(name, kind, count)| match kind {
            3 => Commitment::SavingsPlan {
                family: None, hourly: HourlyPrice(u64::from(count) * 4), discount_percent: 25,
            },
            4 => Commitment::SavingsPlan {
                family: Some(family(name)), hourly: HourlyPrice(u64::from(count) * 5), discount_percent: 40,
            },
            5 => Commitment::Regional { family: family(name), units: u64::from(count) * 300 },
            zone => Commitment::Zonal { instance_type: NAMES[name].into(), zone: ZONES[zone].into(), count },
        }).collect()
    }
}

prop_compose! {
    fn reservations()(all in prop::collection::vec((0usize..8, 0usize..3, 0u32..3), 0..4)) -> Vec<Reservation> {
        all.into_iter().map(|(name, zone, count)| Reservation {
            instance_type: NAMES[name].into(), zone: ZONES[zone].into(), count,
        }).collect()
    }
}

prop_compose! {
    fn overrides()(permitted in prop::collection::vec(prop::bool::weighted(0.85), 4)) -> Overrides {
        Overrides {
            instance_types: permitted[0],
            purchase: permitted[1],
            max_hourly_price: permitted[2],
            move_to_class: true,
            eci: permitted[3],
        }
    }
}

prop_compose! {
    pub fn rules()(
        classes in classes(),
        limits in limits(),
        commitments in commitments(),
        reservations in reservations(),
        overrides in overrides(),
        max_attempts in prop::sample::select(vec![1, 2, 3, u32::MAX]),
    ) -> Policy {
        let ice = Ice { quarantine: SignedDuration::from_mins(3), max_attempts };
        Policy { limits, commitments, reservations, overrides, ice, ..policy(classes) }
    }
}

/// Each kind of annotation on so many of a hundred Pods.
pub fn annotations(percent: u32) -> impl Strategy<Value = Labels> {
    const ECI: &str = "k8s.aliyun.com/eci-";
    let some = move |words: &[&'static str]| {
        prop::option::weighted(f64::from(percent) / 100.0, prop::sample::select(words.to_vec()))
    };
    let types = some(&["c*", "*.large", "c6.large,t3.small", "m?.*", "nothing.*"]);
    let purchase = some(&[
        "on-demand",
        "spot",
        "burstable",
        "on-demand,spot",
        "capacity-reservation,on-demand",
        "burstable, spot",
    ]);
    let price = some(&["0.000003", "0.000008", "0.000015"]);
    let specs = some(&["2-2000,t3.small", "c6.large", "4-3000,m*", "ecs.m5.large", "m7.*, c*"]);
    let family = some(&["c6", "ecs.m5,t3", "c6, m7"]);
    let spot = some(&["NoSpot", "SpotAsPriceGo", "SpotWithPriceLimit"]);
    let fallback = prop::option::of(prop::sample::select(vec!["true", "false"]));
    (types, purchase, price, specs, family, spot, fallback).prop_map(
        |(types, purchase, price, specs, family, spot, fallback)| {
            let keyed = [
                (INSTANCE_TYPES.to_owned(), types),
                (PURCHASE.to_owned(), purchase),
                (MAX_HOURLY.to_owned(), price),
                (format!("{ECI}use-specs"), specs),
                (format!("{ECI}instance-family"), family),
                (format!("{ECI}spot-strategy"), spot),
                (format!("{ECI}spot-price-limit"), Some("0.000006").filter(|_| spot == Some("SpotWithPriceLimit"))),
                (format!("{ECI}spot-fallback"), fallback.filter(|_| spot.is_some())),
            ];
            keyed.into_iter().filter_map(|(key, value)| Some((key, value?.to_owned()))).collect()
        },
    )
}

/// Of one of two owners in one of two namespaces.
pub fn demand() -> impl Strategy<Value = Demand> {
    let size = prop::option::weighted(0.85, prop_oneof![4 => 1u64..12, 1 => 12u64..38]);
    let owner = prop::option::weighted(0.9, (prop::sample::select(vec!["ReplicaSet", "Job"]), 0u8..2));
    let tier = prop::option::of(prop::sample::select(vec!["web", "jobs"]));
    let zones = seldom(prop::sample::subsequence(ZONES.to_vec(), 1..=2));
    let asked = prop_oneof![5 => Just(Labels::default()), 3 => annotations(12)];
    let chosen = prop::option::weighted(0.15, prop::sample::select(CLASSES.to_vec()));
    let class = prop::option::weighted(0.08, prop::sample::select(vec!["own", "aux", "default", "unheard-of"]));
    let architecture =
        prop::option::weighted(0.2, prop::sample::select(vec![Architecture::Amd64, Architecture::Arm64]));
    (size.clone(), size, 0u8..2, owner, tier, zones, (asked, chosen, class, architecture)).prop_map(
        |(cpu, memory, namespace, owner, tier, zones, (mut asked, chosen, class, architecture))| {
            asked.extend(chosen.map(|name| ("use".to_owned(), name.to_owned())));
            Demand {
                uid: String::new(),
                namespace: format!("n{namespace}"),
                labels: Arc::new(tier.map(|tier| ("tier".to_owned(), tier.to_owned())).into_iter().collect()),
                annotations: Arc::new(asked),
                owner: owner.map(|(kind, number)| (kind.into(), format!("o{number}"))),
                cpu_millis: cpu.map(|n| n * 100),
                memory_bytes: memory.map(|n| n * 100),
                zones: zones.map(|all| all.into_iter().map(str::to_owned).collect()),
                class: class.map(str::to_owned),
                architecture,
            }
        },
    )
}

/// With UIDs in their order.
pub fn demands() -> impl Strategy<Value = Vec<Demand>> {
    prop::collection::vec(demand(), 1..12).prop_map(numbered)
}

pub fn numbered(all: Vec<Demand>) -> Vec<Demand> {
    let one = |(index, demand): (usize, Demand)| Demand { uid: format!("{index:03}"), ..demand };
    all.into_iter().enumerate().map(one).collect()
}

/// An instance that lives before anything is decided.
#[derive(Clone, Debug)]
pub struct Before {
    pub class: &'static str,
    pub demand: Demand,
    pub offer: Offer,
    pub zone: &'static str,
}

pub fn before(most: usize) -> impl Strategy<Value = Vec<Before>> {
    let class = prop::sample::select(vec!["own", "aux", "default", "default", "gone"]);
    let option = prop::sample::select(OPTIONS.to_vec());
    let one =
        (class, demand(), option, prop::sample::select(NAMES.to_vec()), 0u64..10, prop::sample::select(ZONES.to_vec()));
    let one = one.prop_map(|(class, demand, purchase, name, price, zone)| Before {
        class,
        demand,
        offer: Offer { instance_type: name.to_owned(), purchase, price: HourlyPrice(price) },
        zone,
    });
    prop::collection::vec(one, 0..=most)
}
