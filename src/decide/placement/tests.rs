//! Placement on generated markets: what must hold of every plan, and of every course of events.

use super::*;
use crate::config::plain_policy;
use crate::decide::purchase::policy::{Architecture, Class, Commitment, GroupBy, Limit, Match, Mix, StandbyPool, Step};
use crate::decide::purchase::{Catalog, Quarantine, TypeSpec};
use proptest::prelude::*;
use std::collections::BTreeSet;

const TYPES: [(&str, u64, u64); 3] = [("small", 1000, 10), ("medium", 2000, 20), ("large", 4000, 40)];

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn market() -> Market {
    let spec = |(name, cpu_millis, price): (&str, u64, u64)| TypeSpec {
        name: name.into(),
        architecture: Architecture::Amd64,
        cpu_millis,
        memory_bytes: 8 << 30,
        on_demand: HourlyPrice(price),
        burst: None,
    };
    let zones = vec!["a".to_owned(), "b".to_owned()];
    let spot = TYPES.iter().flat_map(|(name, _, price)| {
        zones.iter().map(move |zone| (((*name).to_owned(), zone.clone()), HourlyPrice(price / 5)))
    });
    Market {
        spot: spot.collect(),
        catalog: Catalog { region: "r".into(), zones: zones.clone(), types: TYPES.map(spec).to_vec() },
        ..Market::default()
    }
}

fn step(option: Purchase, after_ice: bool) -> Step {
    Step { option, allocation: Allocation::LowestPrice, min_pools: 0, max_percent_of_on_demand: None, after_ice }
}

/// Spot for namespace `jobs`, a mix for owned Pods, on demand for the rest.
fn policy() -> Policy {
    let mut policy = plain_policy(100, 1, SignedDuration::from_mins(5));
    let default = policy.classes.pop().expect("the last serves every Pod");
    let jobs = Class {
        name: "jobs".into(),
        matches: Match { namespaces: vec!["jobs".parse().unwrap()], ..Match::default() },
        purchase: vec![step(Purchase::Spot, false), step(Purchase::OnDemand, true)],
        ..default.clone()
    };
    let web = Class {
        name: "web".into(),
        matches: Match { owner_kinds: vec!["ReplicaSet".into()], ..Match::default() },
        mix: Some(Mix { on_demand_base: 1, on_demand_percent_above_base: 50, group_by: GroupBy::Owner }),
        purchase: vec![step(Purchase::Spot, false), step(Purchase::OnDemand, true)],
        ..default.clone()
    };
    policy.classes = vec![jobs, web, default];
    policy
}

fn limit(scope: Scope, instances: Option<u32>, hourly: Option<u64>) -> Limit {
    Limit { scope, max_hourly: hourly.map(HourlyPrice), max_instances: instances }
}

#[derive(Clone, Debug)]
struct Pod {
    cpu_millis: u64,
    zone: bool,
    kind: u8,
}

fn demand(index: usize, pod: &Pod) -> Demand {
    let zone = if pod.zone { "a" } else { "b" }.to_owned();
    let wants = purchase::Demand {
        uid: format!("pod-{index:03}"),
        namespace: if pod.kind == 0 { "jobs" } else { "default" }.into(),
        owner: (pod.kind == 1).then(|| ("ReplicaSet".to_owned(), "web".to_owned())),
        cpu_millis: Some(pod.cpu_millis),
        zones: Some(vec![zone.clone()]),
        ..purchase::Demand::default()
    };
    Demand {
        pod: PodUid::new(wants.uid.clone()),
        zone,
        wants: Arc::new(wants),
        since: at(index as i64 % 5),
        urgent: false,
    }
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let pod = (1u64..4500, any::<bool>(), 0u8..3).prop_map(|(cpu_millis, zone, kind)| Pod { cpu_millis, zone, kind });
    prop::collection::vec(pod, 0..16)
}

prop_compose! {
    fn limits()(
        cluster in prop::option::of(0u32..12),
        jobs in prop::option::of(0u64..30),
        web in prop::option::of(0u32..6),
    ) -> Vec<Limit> {
        let cluster = cluster.map(|n| limit(Scope::Cluster, Some(n), None));
        let jobs = jobs.map(|n| limit(Scope::Namespace("jobs".into()), None, Some(n)));
        let web = web.map(|n| limit(Scope::Class("web".into()), Some(n), None));
        cluster.into_iter().chain(jobs).chain(web).collect()
    }
}

/// Instances as they come about: launched by plans, ready after a while, bound; some fail to come.
struct Course {
    policy: Policy,
    market: Market,
    demands: Vec<Demand>,
    supplies: Vec<Supply>,
    held: Vec<Held>,
    window: BatchWindow,
    made: usize,
    launches: usize,
}

impl Course {
    fn new(policy: Policy, pods: &[Pod]) -> Self {
        let demands = pods.iter().enumerate().map(|(index, pod)| demand(index, pod)).collect();
        let window = BatchWindow::default();
        Self { policy, market: market(), demands, supplies: vec![], held: vec![], window, made: 0, launches: 0 }
    }

    fn plan(&self, now: i64) -> Plan {
        let rules = Rules {
            policy: &self.policy,
            market: &self.market,
            cooling: BTreeMap::new(),
            failing: Failing::default(),
            room: BTreeMap::new(),
            window: self.window,
        };
        plan(&self.demands, &self.supplies, &self.held, &rules, at(now))
    }

    /// One round. `pick` says which offer each launched instance becomes, and which supplies are ready.
    fn round(&mut self, now: i64, pick: usize) -> Plan {
        let plan = self.plan(now);
        for (pod, id) in &plan.bind {
            let index = self.supplies.iter().position(|s| s.instance.as_ref() == Some(id)).expect("it was free");
            let supply = self.supplies.remove(index);
            assert!(supply.ready);
            let index = self.demands.iter().position(|d| d.pod == *pod).expect("it waited");
            let demand = self.demands.remove(index);
            let class = if supply.class == STANDBY {
                self.policy.class_for(&demand.wants).unwrap().name.clone()
            } else {
                supply.class
            };
            self.held.push(Held {
                instance: id.clone(),
                class,
                zone: supply.zone,
                offer: supply.offers[0].clone(),
                wants: Some(demand.wants),
                launched_at: supply.launched_at,
            });
        }
        self.supplies.retain(|s| s.instance.as_ref().is_none_or(|id| !plan.release.contains(id)));
        for order in &plan.launch {
            for _ in 0..order.count {
                self.made += 1;
                self.launches += 1;
                let offer = order.offers[(self.made + pick) % order.offers.len()].clone();
                self.supplies.push(Supply {
                    instance: Some(InstanceId::new(format!("i-{:04}", self.made))),
                    class: order.class.clone(),
                    zone: order.zone.clone(),
                    offers: vec![offer],
                    ready: false,
                    launched_at: at(now),
                });
            }
        }
        for (index, supply) in self.supplies.iter_mut().enumerate() {
            supply.ready |= !(index + pick).is_multiple_of(3);
        }
        plan
    }

    /// The limits against a plain count of what lives: no code shared with the ledger.
    fn beyond_limits(&self) -> Option<String> {
        let all: Vec<(&str, &str, u64)> = self
            .held
            .iter()
            .map(|h| (h.wants.as_ref().unwrap().namespace.as_str(), h.class.as_str(), h.offer.price.0))
            .chain(self.supplies.iter().map(|s| ("", s.class.as_str(), s.offers[0].price.0)))
            .collect();
        self.policy.limits.iter().find_map(|limit| {
            let within: Vec<_> = all
                .iter()
                .filter(|(namespace, class, _)| match &limit.scope {
                    Scope::Cluster => true,
                    Scope::Namespace(name) => namespace == name,
                    Scope::Class(name) => class == name,
                })
                .collect();
            let many = limit.max_instances.is_some_and(|max| within.len() > max as usize);
            let dear =
                limit.max_hourly.is_some_and(|max| within.iter().map(|(_, _, price)| price).sum::<u64>() > max.0);
            (many || dear).then(|| format!("{limit:?}: {within:?}"))
        })
    }
}

proptest! {
    #[test]
    fn every_pod_is_bound_or_told_why_it_waits(pods in pods(), limits in limits(), picks in prop::collection::vec(0usize..9, 1..6)) {
        let mut course = Course::new(Policy { limits, ..policy() }, &pods);
        for (now, pick) in (0i64..).zip(picks) {
            let mut all: Vec<PodUid> = course.demands.iter().map(|d| d.pod.clone()).collect();
            let plan = course.round(now, pick);
            let told = plan.bind.iter().map(|(pod, _)| pod).chain(plan.waiting.iter().map(|(pod, _)| pod));
            let mut told: Vec<PodUid> = told.cloned().collect();
            told.sort();
            all.sort();
            prop_assert_eq!(told, all);
        }
    }

    #[test]
    fn no_limit_is_ever_exceeded_whatever_a_fleet_picks(pods in pods(), limits in limits(), picks in prop::collection::vec(0usize..9, 1..12)) {
        let mut course = Course::new(Policy { limits, ..policy() }, &pods);
        for (now, pick) in (0i64..).zip(picks) {
            course.round(now, pick);
            prop_assert_eq!(course.beyond_limits(), None);
        }
    }

    #[test]
    fn whoever_may_have_one_gets_exactly_one_and_nothing_is_launched_twice(pods in pods(), picks in prop::collection::vec(0usize..9, 12)) {
        // A mix counts over all zones: only where its Pods are alike can any of them have any instance of it.
        let alike = |pod: &Pod| if pod.kind == 1 { Pod { cpu_millis: 500, zone: true, kind: 1 } } else { pod.clone() };
        let pods: Vec<Pod> = pods.iter().map(alike).collect();
        let mut course = Course::new(policy(), &pods);
        // In the end each instance becomes ready: by 1 and 2 in turns none is passed over.
        for (now, pick) in (0i64..).zip(picks.into_iter().chain([1, 2].repeat(4))) {
            course.round(now, pick);
        }
        let fitting = pods.iter().filter(|pod| pod.cpu_millis <= 4000).count();
        prop_assert_eq!((course.held.len(), course.supplies.len(), course.launches), (fitting, 0, fitting));
        for held in &course.held {
            let wanted = held.wants.as_ref().unwrap().cpu_millis.unwrap();
            let cpu = TYPES.iter().find(|(name, ..)| *name == held.offer.instance_type).unwrap().1;
            prop_assert!(cpu >= wanted, "{held:?}");
            prop_assert!(held.class != "jobs" || held.offer.purchase == Purchase::Spot);
        }
        let web: Vec<_> = course.held.iter().filter(|h| h.class == "web").collect();
        let on_demand = web.iter().filter(|h| h.offer.purchase == Purchase::OnDemand).count();
        let least = web.len().min(1) + web.len().saturating_sub(1).div_ceil(2);
        prop_assert!(on_demand >= least, "{on_demand} of {} on demand", web.len());
    }

    #[test]
    fn a_standby_pool_is_filled_within_the_defaults_cap_and_the_clusters_limit_or_says_why_not(
        counts in prop::collection::vec(0u32..4, 3),
        cap in prop::option::of(0u64..50),
        reserved in 0u32..3,
        most in prop::option::of(0u32..8),
    ) {
        let mut policy = policy();
        policy.classes.last_mut().unwrap().max_hourly = cap.map(HourlyPrice);
        // What others are capped at is nothing to it.
        policy.classes[0].max_hourly = Some(HourlyPrice(1));
        policy.limits = most.map(|most| limit(Scope::Cluster, Some(most), None)).into_iter().collect();
        policy.commitments =
            vec![Commitment::Zonal { instance_type: "medium".into(), zone: "a".into(), count: reserved }];
        policy.standby = TYPES
            .iter()
            .zip(&counts)
            .map(|((name, ..), count)| {
                StandbyPool { instance_type: (*name).into(), zone: "a".into(), count: *count, windows: vec![] }
            })
            .collect();
        let mut course = Course::new(policy, &[]);
        let first = course.round(0, 1);
        let mut room = most.unwrap_or(u32::MAX);
        let mut pools: Vec<_> = TYPES.iter().zip(&counts).collect();
        pools.sort_by_key(|((name, ..), _)| *name);
        for ((name, _, price), count) in pools {
            let paid = if *name == "medium" { reserved } else { 0 };
            let affordable = if cap.is_none_or(|cap| *price <= cap) { *count } else { (*count).min(paid) };
            let due = affordable.min(room);
            room -= due;
            let ordered = |order: &&Order| order.offers[0].instance_type == *name;
            let bought: u32 = first.launch.iter().filter(ordered).map(|order| order.count).sum();
            prop_assert_eq!(bought, due, "{}", name);
            let why = first.forbidden.get(&Pool { zone: "a".into(), instance_type: (*name).into() });
            prop_assert_eq!(why.is_some(), due < *count, "{} {:?}", name, why);
            if due < *count {
                let by_limit = due < affordable;
                let expected = matches!(
                    (why.unwrap(), by_limit),
                    (Why::OverLimit { .. }, true) | (Why::OverCap { .. }, false)
                );
                prop_assert!(expected, "{:?}, by the limit: {}", why, by_limit);
            }
        }
        // What is there is kept, and what may not be bought stays so.
        let second = course.round(1, 1);
        prop_assert_eq!((second.launch.len(), second.release.len()), (0, 0));
        prop_assert_eq!(second.forbidden, first.forbidden);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(pods in pods(), limits in limits(), pick in 0usize..9) {
        let mut course = Course::new(Policy { limits, ..policy() }, &pods);
        course.round(0, pick);
        let one = course.plan(1);
        course.demands.reverse();
        course.supplies.reverse();
        course.held.reverse();
        prop_assert_eq!(one, course.plan(1));
    }

    #[test]
    fn nothing_is_bound_twice_nor_bound_and_released(pods in pods(), ended in 0usize..8, pick in 0usize..9) {
        let mut course = Course::new(policy(), &pods);
        course.round(0, pick);
        course.demands.truncate(course.demands.len().saturating_sub(ended));
        let plan = course.plan(1);
        let used: Vec<_> = plan.bind.iter().map(|(_, id)| id).chain(&plan.release).collect();
        prop_assert_eq!(used.len(), used.iter().collect::<BTreeSet<_>>().len());
        for (_, id) in &plan.bind {
            prop_assert!(course.supplies.iter().any(|s| s.ready && s.instance.as_ref() == Some(id)));
        }
    }
}

fn one(kind: u8, cpu_millis: u64) -> Vec<Pod> {
    vec![Pod { cpu_millis, zone: true, kind }]
}

fn short(option: Purchase, instance_type: &str) -> Quarantine {
    let instance_type = Some(instance_type.to_owned());
    Quarantine { option: Some(option), instance_type, zone: Some("a".into()), until: at(100) }
}

#[test]
fn a_pool_without_capacity_is_passed_over_until_enough_were_tried_then_the_next_way_of_paying() {
    let mut course = Course::new(policy(), &one(0, 500));
    course.policy.ice.max_attempts = 2;
    let best = |course: &Course| course.plan(1).launch.first().map(|order| order.offers[0].clone());
    let (spot, on_demand) = (Purchase::Spot, Purchase::OnDemand);
    for (short_now, expected) in [
        (None, Some(("small", spot))),
        (Some(short(spot, "small")), Some(("medium", spot))),
        (Some(short(spot, "medium")), Some(("small", on_demand))),
        (Some(short(on_demand, "small")), Some(("medium", on_demand))),
        (Some(short(on_demand, "medium")), None),
    ] {
        course.market.quarantine.extend(short_now);
        let found = best(&course);
        assert_eq!(found.as_ref().map(|o| (o.instance_type.as_str(), o.purchase)), expected);
    }
    let plan = course.plan(1);
    assert_eq!(plan.waiting[0].1.reason(), "InsufficientInstanceCapacity", "{plan:?}");
    assert_eq!(plan.wake_at, Some(at(100)));
    assert!(best(&course).is_none() && course.plan(101).launch.len() == 1);
}

#[test]
fn a_standby_pool_keeps_its_count_and_serves_any_class_that_would_buy_the_same() {
    let mut course = Course::new(policy(), &[]);
    course.policy.standby =
        vec![StandbyPool { instance_type: "small".into(), zone: "a".into(), count: 2, windows: vec![] }];
    for now in 0..4 {
        course.round(now, 1);
    }
    assert_eq!((course.supplies.len(), course.launches), (2, 2));
    course.supplies.iter_mut().for_each(|s| s.ready = true);
    course.demands = vec![demand(0, &one(2, 500)[0]), demand(1, &one(2, 3000)[0]), demand(2, &one(0, 500)[0])];
    let plan = course.plan(5);
    assert_eq!(plan.bind.len(), 1, "not the large one, and not the one that is to have spot: {plan:?}");
    let asked: BTreeMap<&str, u32> = plan.launch.iter().map(|order| (order.class.as_str(), order.count)).collect();
    assert_eq!(asked, [("standby", 1), ("default", 1), ("jobs", 1)].into());
    course.policy.standby[0].count = 0;
    course.demands.clear();
    assert_eq!(course.plan(6).release.len(), 2);
}

#[test]
fn what_waits_in_a_zone_that_the_pods_class_does_not_have_is_not_given_to_it() {
    let bound = |zones: Option<&str>| {
        let mut course = Course::new(policy(), &[]);
        course.policy.standby =
            vec![StandbyPool { instance_type: "small".into(), zone: "a".into(), count: 1, windows: vec![] }];
        course.round(0, 1);
        course.supplies.iter_mut().for_each(|s| s.ready = true);
        course.policy.classes[2].placement.zones = zones.map(|zone| vec![zone.to_owned()]);
        course.demands = vec![demand(0, &one(2, 500)[0])];
        course.plan(1).bind.len()
    };
    assert_eq!([bound(None), bound(Some("a")), bound(Some("b"))], [1, 1, 0]);
}

#[test]
fn where_launches_fail_one_is_on_its_way_at_a_time_and_first_what_may_have_something_else() {
    let large = demand(0, &Pod { cpu_millis: 3000, zone: true, kind: 2 });
    let small = demand(1, &Pod { cpu_millis: 500, zone: true, kind: 2 });
    let place = ("default".to_owned(), "a".to_owned());
    let pool = Quarantine {
        option: Some(Purchase::OnDemand),
        instance_type: Some("large".into()),
        zone: Some("a".into()),
        until: Timestamp::MAX,
    };
    let course = Course::new(policy(), &[]);
    let failing = |until: i64, pools: Vec<Quarantine>| Failing {
        until: [(place.clone(), at(until))].into(),
        one_at_a_time: [place.clone()].into(),
        pools,
    };
    let launched = |demands: &[Demand], supplies: &[Supply], failing: Failing| {
        let rules = Rules {
            policy: &course.policy,
            market: &course.market,
            cooling: BTreeMap::new(),
            failing,
            room: [("a".to_owned(), 10)].into(),
            window: course.window,
        };
        let plan = super::plan(demands, supplies, &[], &rules, at(10));
        let types = plan.launch.iter().flat_map(|o| vec![o.offers[0].instance_type.clone(); o.count as usize]);
        (types.collect::<Vec<_>>(), plan.wake_at)
    };
    let both = [large.clone(), small.clone()];
    assert_eq!(launched(&both, &[], Failing::default()).0, ["large", "small"]);
    assert_eq!(launched(&both, &[], failing(5, vec![])).0, ["large"], "the older one");
    assert_eq!(
        launched(&both, &[], failing(5, vec![pool.clone()])).0,
        ["small"],
        "the other has nothing but what fails"
    );
    assert_eq!(launched(&[large], &[], failing(5, vec![pool])).0, ["large"]);
    assert_eq!(launched(&both, &[], failing(30, vec![])), (vec![], Some(at(30))));
    let coming = Supply {
        instance: None,
        class: "default".into(),
        zone: "a".into(),
        offers: vec![Offer { instance_type: "small".into(), purchase: Purchase::OnDemand, price: HourlyPrice(10) }],
        ready: false,
        launched_at: at(9),
    };
    assert_eq!(launched(&both, std::slice::from_ref(&coming), failing(5, vec![])).0, Vec::<String>::new());
    let urgent = Demand { urgent: true, ..demand(2, &Pod { cpu_millis: 3000, zone: true, kind: 2 }) };
    let three = [both[0].clone(), small, urgent];
    assert_eq!(launched(&three, &[coming], failing(30, vec![])).0, ["large"], "its instance is about to be taken");
}

#[test]
fn an_unused_instance_is_replaced_at_the_end_of_its_life() {
    let mut course = Course::new(policy(), &[]);
    course.policy.ttl.max_lifetime = Some(SignedDuration::from_secs(50));
    course.policy.standby =
        vec![StandbyPool { instance_type: "small".into(), zone: "a".into(), count: 1, windows: vec![] }];
    course.round(0, 1);
    assert_eq!(course.plan(49).release.len(), 0);
    let plan = course.plan(50);
    assert_eq!((plan.release.len(), plan.launch.len()), (1, 1));
}

#[test]
fn a_burst_is_one_order_for_each_choice() {
    let pods: Vec<Pod> = (0..100).map(|n| Pod { cpu_millis: 500, zone: n % 2 == 0, kind: 0 }).collect();
    let plan = Course::new(policy(), &pods).plan(0);
    let counts: Vec<u32> = plan.launch.iter().map(|order| order.count).collect();
    assert_eq!(counts, [50, 50]);
}

#[test]
fn a_burst_is_launched_when_it_is_over_and_till_then_only_what_is_there_is_given_away() {
    let mut course = Course::new(policy(), &vec![Pod { cpu_millis: 500, zone: true, kind: 2 }; 4]);
    // They began to wait at 0, 1, 2 and 3 seconds.
    course.window = BatchWindow { idle: SignedDuration::from_secs(2), longest: SignedDuration::from_secs(60) };
    let early = course.plan(4);
    assert_eq!((early.launch.len(), early.waiting.len(), early.wake_at), (0, 0, Some(at(5))), "{early:?}");
    let over = course.plan(5);
    assert_eq!((over.launch[0].count, over.waiting.len(), over.wake_at), (4, 4, None), "{over:?}");
    course.window.longest = SignedDuration::from_secs(4);
    assert_eq!(course.plan(4).launch[0].count, 4, "the first has waited long enough");
    // One who can't be served by anything has waited for long, and closes nobody's window.
    course.window.longest = SignedDuration::from_secs(60);
    course.demands.push(Demand { since: at(-100), ..demand(9, &Pod { cpu_millis: 9000, zone: true, kind: 2 }) });
    let beside = course.plan(4);
    assert_eq!((beside.launch.len(), beside.waiting.len(), beside.wake_at), (0, 1, Some(at(5))), "{beside:?}");
    course.policy.standby =
        vec![StandbyPool { instance_type: "small".into(), zone: "a".into(), count: 1, windows: vec![] }];
    assert_eq!(course.round(4, 1).launch.len(), 1, "nobody waits for a standby pool");
    course.supplies.iter_mut().for_each(|supply| supply.ready = true);
    assert_eq!(course.plan(4).bind.len(), 1, "what is there is not held back");
}

#[test]
fn what_was_bought_dearly_for_another_is_not_taken_over() {
    let mut course = Course::new(policy(), &one(2, 500));
    let supply = |id: &str, instance_type: &str, price| Supply {
        instance: Some(InstanceId::new(id)),
        class: "default".into(),
        zone: "a".into(),
        offers: vec![Offer {
            instance_type: instance_type.into(),
            purchase: Purchase::OnDemand,
            price: HourlyPrice(price),
        }],
        ready: true,
        launched_at: at(0),
    };
    course.policy.ice.max_attempts = 1;
    course.market.catalog.types.retain(|t| t.name != "medium");
    course.market.catalog.types[1].on_demand = HourlyPrice(90);
    course.supplies = vec![supply("i-large", "large", 90)];
    course.policy.classes[2].max_hourly = Some(HourlyPrice(80));
    let plan = course.plan(1);
    assert_eq!((plan.bind.len(), plan.launch.len(), plan.release.len()), (0, 1, 1), "{plan:?}");
}
