//! What narrows never widens: what a Pod may get is held against what the same Pod may get without.
//!
//! What it may get is asked one way of buying at a time, since a decision ends at the first way that has something.

use super::*;

type Offered = BTreeSet<(Purchase, PoolId, HourlyPrice)>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Every pool that the Pod may get, with how it is paid for and its price.
fn may_get(planner: &Planner, demand: &Demand, ledger: &Ledger) -> Offered {
    let asked = |option: Purchase| {
        let own = demand.annotations.get(PURCHASE).map(String::as_str);
        if own.is_some_and(|own| !own.split(',').any(|word| word.trim() == option.as_str())) {
            return Vec::new();
        }
        let mut annotations = Labels::clone(&demand.annotations);
        annotations.insert(PURCHASE.to_owned(), option.as_str().to_owned());
        let alone = Demand { annotations: Arc::new(annotations), ..demand.clone() };
        match planner.decide(&alone, ledger).outcome {
            Outcome::Pend(_) => Vec::new(),
            Outcome::Plan(choice) => {
                let best = [(choice.option, choice.pool, choice.price)];
                let others = choice.alternatives.into_iter().map(|(pool, price)| (choice.option, pool, price));
                best.into_iter().chain(others).collect()
            }
        }
    };
    OPTIONS.into_iter().flat_map(asked).collect()
}

/// With every annotation permitted. How many pools are offered, and after how many short ones a way of paying is given
/// up, says how long it is tried, not what may be had: one that is narrowed away makes room for the next.
fn asked_freely(mut policy: Policy) -> Policy {
    policy.overrides = super::policy(Vec::new()).overrides;
    policy.ice.max_attempts = u32::MAX;
    for class in &mut policy.classes {
        class.instances.max_candidates = usize::MAX;
    }
    policy
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_annotation_never_widens_what_a_pod_may_get(
        (policy, market, before) in (rules(), market(), demands()),
        all in prop::collection::vec(annotations(40), 4),
    ) {
        let policy = asked_freely(policy);
        let planner = Planner::new(&policy, &market, now());
        let mut ledger = Ledger::new(&policy, &market);
        planner.decide_all(&before, &mut ledger);
        for (demand, annotations) in before.iter().zip(all) {
            let plain = Demand { uid: "plain".into(), annotations: Arc::default(), ..demand.clone() };
            let narrowed = Demand { annotations: Arc::new(annotations), ..plain.clone() };
            let (without, with) = (may_get(&planner, &plain, &ledger), may_get(&planner, &narrowed, &ledger));
            prop_assert!(with.is_subset(&without), "{narrowed:?}: {:?}", with.difference(&without));
            // And what is decided is of that.
            for (demand, offered) in [(&plain, &without), (&narrowed, &with)] {
                if let Outcome::Plan(choice) = planner.decide(demand, &ledger).outcome {
                    prop_assert!(offered.contains(&(choice.option, choice.pool, choice.price)), "{demand:?}: {choice:?}");
                }
            }
        }
    }
}

#[test]
fn a_pod_narrowed_to_on_demand_does_not_wait_for_a_shortage_of_what_it_may_not_have() {
    let after = Step { after_ice: true, ..step(Purchase::OnDemand) };
    let policy = policy(vec![class("web", 1, vec![step(Purchase::Spot), after])]);
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
        spot: [(("c6.large".to_owned(), "a".to_owned()), HourlyPrice(3))].into(),
        ..Market::default()
    };
    let option = |annotations: &[(&str, &str)]| {
        let demand = Demand { annotations: Arc::new(labels(annotations)), ..Demand::default() };
        match decide(&policy, &demand, &market, &Ledger::new(&policy, &market), now()).outcome {
            Outcome::Plan(choice) => Some(choice.option),
            Outcome::Pend(_) => None,
        }
    };
    assert_eq!(option(&[]), Some(Purchase::Spot));
    assert_eq!(option(&[(PURCHASE, "on-demand")]), Some(Purchase::OnDemand));
    assert_eq!(option(&[("k8s.aliyun.com/eci-spot-strategy", "NoSpot")]), Some(Purchase::OnDemand));
    // Where spot is left, on demand comes after its shortage; and it is not short, but too dear for the Pod.
    let both = [("k8s.aliyun.com/eci-spot-strategy", "SpotAsPriceGo"), ("k8s.aliyun.com/eci-spot-fallback", "true")];
    assert_eq!(option(&both), Some(Purchase::Spot));
    assert_eq!(option(&[(MAX_HOURLY, "0.000002")]), None);
}

#[test]
fn a_type_is_let_off_the_generation_only_where_every_class_of_a_narrowing_names_it() {
    let list = |names: &[&str]| names.iter().map(|n| TypeSelector::Name(n.parse().unwrap())).collect::<Vec<_>>();
    let spec = TypeSpec {
        name: "m5.large".into(),
        architecture: Architecture::Amd64,
        cpu_millis: 2000,
        memory_bytes: 1000,
        on_demand: HourlyPrice(10),
        burst: None,
    };
    for (allow, fits) in [
        (vec![list(&["m*"])], false),
        (vec![list(&["m5.large", "m6i.*"])], true),
        (vec![list(&["m*"]), list(&["m5.large"])], false),
        (vec![list(&["m5.large"]), list(&["m5.large"])], true),
        (vec![], false),
    ] {
        let rules = Instances { allow: allow.clone(), min_generation: Some(6), ..Instances::default() };
        assert_eq!(super::super::planner::judge(&rules, &spec).is_ok(), fits, "{allow:?}");
        // Nor where one of them has no list to name it in.
        let strict = Instances { strict_generation: Some(6), ..rules };
        assert!(super::super::planner::judge(&strict, &spec).is_err(), "{allow:?}");
    }
}
