//! What narrows never widens: what a Pod may get is held against what the same Pod may get without.
//!
//! What it may get is asked one way of buying at a time, since a decision ends at the first way that has something.

use super::*;

const OPTIONS: [Purchase; 4] = [Purchase::OnDemand, Purchase::Spot, Purchase::Burstable, Purchase::CapacityReservation];

type Offered = BTreeSet<(Purchase, PoolId, HourlyPrice)>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Every pool that the Pod may get, with how it is paid for and its price.
fn may_get(planner: &Planner, demand: &Demand, ledger: &Ledger) -> Offered {
    let asked = |option: Purchase| {
        let own = demand.annotations.get(PURCHASE).map(String::as_str);
        if own.is_some_and(|own| !own.split(',').any(|word| word == option.as_str())) {
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

fn annotations() -> impl Strategy<Value = Labels> {
    const ECI: &str = "k8s.aliyun.com/eci-";
    let types = prop::option::of(prop::sample::select(vec!["c*", "*.large", "c6.large,t3.small", "m?.*", "nothing.*"]));
    let purchase = prop::option::of(prop::sample::select(vec![
        "on-demand",
        "spot",
        "burstable",
        "on-demand,spot",
        "capacity-reservation,on-demand",
    ]));
    let price = prop::option::of(prop::sample::select(vec!["0.000003", "0.000008", "0.000015"]));
    let specs = prop::option::of(prop::sample::select(vec!["2-2000,t3.small", "c6.large", "4-3000", "ecs.m5.large"]));
    let family = prop::option::of(prop::sample::select(vec!["c6", "ecs.m5,t3"]));
    let spot = prop::sample::select(vec!["", "NoSpot", "SpotAsPriceGo", "SpotWithPriceLimit"]);
    let fallback = prop::option::of(prop::sample::select(vec!["true", "false"]));
    (types, purchase, price, specs, family, spot, fallback).prop_map(
        |(types, purchase, price, specs, family, spot, fallback)| {
            let keyed = [
                (INSTANCE_TYPES.to_owned(), types),
                (PURCHASE.to_owned(), purchase),
                (MAX_HOURLY.to_owned(), price),
                (format!("{ECI}use-specs"), specs),
                (format!("{ECI}instance-family"), family),
                (format!("{ECI}spot-strategy"), Some(spot).filter(|s| !s.is_empty())),
                (format!("{ECI}spot-price-limit"), Some("0.000006").filter(|_| spot == "SpotWithPriceLimit")),
                (format!("{ECI}spot-fallback"), fallback.filter(|_| !spot.is_empty())),
            ];
            keyed.into_iter().filter_map(|(key, value)| Some((key, value?.to_owned()))).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_annotation_never_widens_what_a_pod_may_get(
        (policy, market, before) in (rules(), market(), demands()),
        all in prop::collection::vec(annotations(), 4),
    ) {
        let planner = Planner::new(&policy, &market, now());
        let mut ledger = Ledger::new(&policy);
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
        match decide(&policy, &demand, &market, &Ledger::new(&policy), now()).outcome {
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
