//! The share on demand of a class with a mix.
//!
//! Where both sides of a mix can be had, a group of n Pods has exactly the mix's share of n on demand, at each n. Where
//! one cannot, the other takes its place at once: a mix says what is asked for first, not what may be had. So there are
//!
//! - fewer on demand than the share only by Pods for which nothing was to be had on demand,
//! - more only by Pods for which there was no spot,
//!
//! and the next Pods make up for it as soon as they can. A Pod waits only if the side that its group lacks has nothing.

use super::*;
use oracle::{firm, share};

/// A class that buys both ways.
fn mixed() -> impl Strategy<Value = Class> {
    (drawn_class(), mix()).prop_map(|(mut class, mix)| {
        class.mix = Some(mix);
        // What it may have is not the question here.
        class.max_hourly = None;
        class.instances = self::class("", 0, Vec::new()).instances;
        for option in [Purchase::Spot, Purchase::OnDemand] {
            if class.purchase.iter().all(|step| step.option != option) {
                class.purchase.push(step(option));
            }
        }
        class
    })
}

/// Small ones of few groups, which fill as they come.
fn small(most: usize) -> impl Strategy<Value = Vec<Demand>> {
    let one = (1u64..8, 1u64..8, 0u8..2, 0u8..2).prop_map(|(cpu, memory, namespace, owner)| Demand {
        namespace: format!("n{namespace}"),
        owner: Some(("ReplicaSet".into(), format!("o{owner}"))),
        cpu_millis: Some(cpu * 100),
        memory_bytes: Some(memory * 100),
        ..Demand::default()
    });
    prop::collection::vec(one, 1..most).prop_map(numbered)
}

/// Where everything can be had in each zone.
fn plenty() -> impl Strategy<Value = Market> {
    (types(1..=6), 1usize..=3, prop::collection::vec(1u64..20, 18)).prop_map(|(mut types, zones, spot)| {
        for spec in &mut types {
            spec.burst = None;
        }
        let zones: Vec<String> = ZONES[..zones].iter().map(|zone| (*zone).into()).collect();
        let pools = types.iter().flat_map(|spec| zones.iter().map(|zone| (spec.name.clone(), zone.clone())));
        let spot = pools.zip(spot).map(|(pool, price)| (pool, HourlyPrice(price))).collect();
        Market { catalog: Catalog { region: "r".into(), zones, types }, spot, ..Market::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_mix_stays_within_one_pod_of_its_share(
        (market, mix, demands) in (plenty(), mix(), small(40)),
        (spot_first, after) in any::<(bool, bool)>(),
    ) {
        let later = Step { after_ice: after, ..step(if spot_first { Purchase::OnDemand } else { Purchase::Spot }) };
        let first = step(if spot_first { Purchase::Spot } else { Purchase::OnDemand });
        let policy = policy(vec![Class { mix: Some(mix), ..class("default", 0, vec![first, later]) }]);
        let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let decisions = Planner::new(&policy, &market, now()).decide_all(&demands, &mut Ledger::new(&policy, &market));
        for (demand, decision) in demands.iter().zip(&decisions) {
            let Outcome::Plan(choice) = &decision.outcome else { panic!("{decision:?}") };
            let (n, on_demand) = counts.entry(oracle::group(&policy.classes[0], demand)).or_default();
            *n += 1;
            *on_demand += i64::from(choice.option == Purchase::OnDemand);
            let base = i64::from(mix.on_demand_base).min(*n);
            let hundredths = base * 100 + (*n - base) * i64::from(mix.on_demand_percent_above_base);
            prop_assert!((*on_demand * 100 - hundredths).abs() < 100, "{on_demand} of {n}, share {hundredths} %");
            prop_assert_eq!(*on_demand, i64::from(share(mix, u32::try_from(*n).unwrap())));
        }
    }

    #[test]
    fn a_mix_leaves_its_share_only_where_a_side_cannot_be_had_and_makes_up_for_it(
        (rules, class, market) in (rules(), mixed(), market()),
        (before, demands) in (before(6), small(25)),
    ) {
        let policy = Policy { classes: vec![class], ..rules };
        let class = &policy.classes[0];
        let mix = class.mix.unwrap();
        let planner = Planner::new(&policy, &market, now());
        let (mut ledger, mut bought) = booked(&planner, &policy, &market, &before);
        // By group, how many Pods were bought against its wish: on demand, as spot.
        let mut against: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for (demand, decision) in demands.iter().zip(planner.decide_all(&demands, &mut ledger)) {
            let question = Question { policy: &policy, market: &market, demand, bought: &bought };
            let (all, on_demand) = question.counts(class);
            let lacking = on_demand < share(mix, all + 1);
            let wanted = question.can_have(class, |option| firm(option) == lacking);
            let Outcome::Plan(choice) = &decision.outcome else {
                prop_assert!(!wanted, "{} waits, lacking {lacking}", demand.uid);
                continue;
            };
            let as_wanted = firm(choice.option) == lacking;
            prop_assert_eq!(wanted, as_wanted, "{}: lacking {}, {:?}", demand.uid, lacking, choice);
            let (dear, spot) = against.entry(oracle::group(class, demand)).or_insert_with(|| {
                // What lived before may be any mixture.
                let share = share(mix, all);
                (on_demand.saturating_sub(share), share.saturating_sub(on_demand))
            });
            *dear += u32::from(!as_wanted && firm(choice.option));
            *spot += u32::from(!as_wanted && !firm(choice.option));
            let (all, on_demand) = (all + 1, on_demand + u32::from(firm(choice.option)));
            let share = share(mix, all);
            prop_assert!(on_demand <= share + *dear, "{on_demand} of {all}, at most {share} and {dear}");
            prop_assert!(on_demand + *spot >= share, "{on_demand} of {all}, at least {share} but for {spot}");
            bought.extend(taken(&decision, class, demand));
        }
    }
}
