//! Which of many reasons a Pod that waits is told.

use super::*;

/// Name, vCPU, GiB, micro-dollars; alphabetically, the largest first.
const TYPES: [(&str, u64, u64, u64); 5] = [
    ("c6i.12xlarge", 48, 96, 2_040_000),
    ("c6i.2xlarge", 8, 16, 340_000),
    ("c6i.large", 2, 4, 85_000),
    ("c6i.xlarge", 4, 8, 170_000),
    ("c7g.large", 2, 4, 72_500),
];

fn market() -> Market {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    let spec = |&(name, cpu, gib, price): &(&str, u64, u64, u64)| TypeSpec {
        name: name.to_owned(),
        architecture: if name.contains("g.") { Architecture::Arm64 } else { Architecture::Amd64 },
        cpu_millis: cpu * 1000,
        memory_bytes: gib << 30,
        on_demand: HourlyPrice(price),
        burst: None,
    };
    let types: Vec<TypeSpec> = TYPES.iter().map(spec).collect();
    let half = |t: &TypeSpec| HourlyPrice(t.on_demand.0 / 2 + 1);
    let spot = types.iter().flat_map(|t| zones.iter().map(move |z| ((t.name.clone(), z.clone()), half(t)))).collect();
    Market { catalog: Catalog { region: "r".into(), zones, types }, spot, ..Market::default() }
}

fn on_demand() -> Class {
    let mut class = class("web", 1, vec![step(Purchase::OnDemand)]);
    class.instances.allow = vec![vec![TypeSelector::Name("c6i.*".parse().unwrap())]];
    class
}

/// Reason and message.
fn told(class: Class, limits: Vec<Limit>, demand: &Demand) -> (&'static str, String) {
    let (policy, market) = (Policy { limits, ..policy(vec![class]) }, market());
    let decision = decide(&policy, demand, &market, &Ledger::new(&policy, &market), now());
    let Outcome::Pend(pend) = decision.outcome else { panic!("{decision:?}") };
    (pend.reason, pend.message)
}

fn ends((reason, message): (&'static str, String), expected: &str, end: &str) {
    assert_eq!(reason, expected, "{message}");
    assert!(message.ends_with(end), "{message}");
}

#[test]
fn of_what_is_above_a_cap_the_cheapest_is_told() {
    let capped = Class { max_hourly: Some(HourlyPrice(50_000)), ..on_demand() };
    let end = "nearest was on-demand c6i.large in a: $0.085/h is above the price cap of $0.05/h";
    ends(told(capped, Vec::new(), &Demand::default()), "PriceCapExceeded", end);
    // Whichever way of paying comes first, and whatever else is the matter with the dearer ones.
    let spot = Step { max_percent_of_on_demand: Some(10), ..step(Purchase::Spot) };
    let both =
        Class { purchase: vec![step(Purchase::OnDemand), spot], max_hourly: Some(HourlyPrice(1)), ..on_demand() };
    let end = "nearest was spot c6i.large in a: $0.042501/h is above maxPercentOfOnDemand, which is $0.0085/h here";
    ends(told(both, Vec::new(), &Demand::default()), "PriceCapExceeded", end);
}

#[test]
fn of_what_a_limit_has_no_room_for_the_cheapest_is_told_whichever_limit_it_is() {
    let hourly = |scope, max| Limit { scope, max_hourly: Some(HourlyPrice(max)), max_instances: None };
    let limits = vec![hourly(Scope::Cluster, 100_000), hourly(Scope::Class("web".into()), 50_000)];
    let end = "nearest was on-demand c6i.large in a: $0.085/h more would exceed the limit of class web ($0.05/h)";
    ends(told(on_demand(), limits, &Demand::default()), "CostLimitReached", end);
}

#[test]
fn a_type_that_the_class_does_not_have_hides_no_other_reason() {
    let arm = Demand { architecture: Some(Architecture::Arm64), ..Demand::default() };
    let end = "nearest was c6i.12xlarge: has another architecture than the Pod";
    ends(told(on_demand(), Vec::new(), &arm), "NoInstanceTypeAllowed", end);
    let mut old = on_demand();
    old.instances.min_generation = Some(7);
    let end = "nearest was c6i.12xlarge: is of an older generation than allowed";
    ends(told(old, Vec::new(), &Demand::default()), "NoInstanceTypeAllowed", end);
    // What the Pod needs is nearer than what the class denies.
    let mut denied = on_demand();
    denied.instances.deny = vec!["c6i.12xlarge".parse().unwrap()];
    ends(told(denied, Vec::new(), &arm), "NoInstanceTypeAllowed", "c6i.2xlarge: has another architecture than the Pod");
}

#[test]
fn a_pod_in_a_zone_that_its_class_does_not_allow_is_told_so_and_what_to_do() {
    let bound = Demand { zones: Some(vec!["b".into()]), ..Demand::default() };
    // What is said of ways of paying does not come before it.
    let purchase = [Purchase::CapacityReservation, Purchase::Spot, Purchase::OnDemand].map(step).to_vec();
    let class = Class { placement: Placement { zones: Some(vec!["a".into(), "c".into()]) }, purchase, ..on_demand() };
    let end = "nearest was b: the class does not allow the zone; a Pod's zone is its node's: give Pods of the class a \
               nodeSelector or an affinity for topology.kubernetes.io/zone a, c";
    ends(told(class, Vec::new(), &bound), "NoZoneAllowed", end);
}

#[test]
fn zones_that_the_class_does_not_allow_hide_nothing_of_those_that_it_does() {
    let class = Class { placement: Placement { zones: Some(vec!["b".into()]) }, ..on_demand() };
    let spot = Demand { annotations: Arc::new([(PURCHASE.to_owned(), "spot".to_owned())].into()), ..Demand::default() };
    ends(told(class, Vec::new(), &spot), "NarrowedAway", "nearest was on-demand: is excluded by the Pod's annotations");
}

#[test]
fn an_annotation_that_is_wrong_is_told_with_what_was_expected() {
    let bad =
        Demand { annotations: Arc::new([(PURCHASE.to_owned(), "stolen".to_owned())].into()), ..Demand::default() };
    let (reason, message) = told(on_demand(), Vec::new(), &bad);
    assert_eq!(reason, "InvalidAnnotation");
    assert!(message.contains(PURCHASE) && message.contains("expected on-demand"), "{message}");
}
