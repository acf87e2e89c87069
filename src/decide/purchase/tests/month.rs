//! A month of a cluster through policy and ledger, and its bill beside an oracle's.
//!
//! The model: at each arrival the ledger is made anew of what lives, as a provider does it, the policy decides, and what
//! lives is billed from one change to the next. The oracle knows nothing of these: it is told when which machine ran and
//! how it was bought, and bills as AWS does, in floating-point dollars by the clock hour: Reserved Instances and Savings
//! Plans cover an hour's usage in sum, and spot is priced by the hour's price instead of the launch's.

use super::*;

const HOURS: i64 = 30 * 24;
/// Type, vCPU, GiB, list price in micro-dollars, units.
const TYPES: [(&str, u64, u64, u64, f64); 5] = [
    ("c6i.large", 2, 4, 85_000, 4.0),
    ("c6i.xlarge", 4, 8, 170_000, 8.0),
    ("m6i.large", 2, 8, 96_000, 4.0),
    ("m6i.xlarge", 4, 16, 192_000, 8.0),
    ("t3.small", 2, 2, 20_800, 1.0),
];
const T3_BASELINE_MILLIS: u64 = 400;
const T3_SURPLUS: u64 = 50_000;

/// A generator of numbers that look random and are the same in every run (Knuth's constants, MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Life {
    demand: Demand,
    begin: i64,
    end: i64,
}

/// A web service that follows the day, jobs, and a few small machines that stay.
fn lives() -> Vec<Life> {
    let mut numbers = Numbers(42);
    let mut lives = Vec::new();
    let mut add = |kind: &str, begin: i64, end: i64, cpu: u64, gib_eighths: u64| {
        let uid = format!("{:05}", lives.len());
        let demand = Demand {
            namespace: kind.to_owned(),
            labels: Arc::new([("tier".to_owned(), kind.to_owned())].into()),
            owner: Some(("ReplicaSet".to_owned(), kind.to_owned())),
            cpu_millis: Some(cpu),
            memory_bytes: Some(gib_eighths << 27),
            uid,
            ..Demand::default()
        };
        lives.push(Life { demand, begin, end: end.min(HOURS * 3600) });
    };
    for number in 0..3 {
        add("small", number * 1800, HOURS * 3600, 600, 4);
    }
    for hour in 0..HOURS {
        let busy = (8..20).contains(&(hour % 24)) && hour / 24 % 7 < 5;
        // Pods that stay for some hours: about 6 at night and 20 by day.
        for _ in 0..if busy { 4 } else { 1 } {
            let begin = hour * 3600 + numbers.below(3600) as i64;
            let length = 4 * 3600 + numbers.below(3 * 3600) as i64;
            let (cpu, memory) = [(1500, 20), (1800, 50), (3500, 40), (3000, 100)][numbers.below(4) as usize];
            add("web", begin, begin + length, cpu, memory);
        }
        for _ in 0..numbers.below(3) {
            let begin = hour * 3600 + numbers.below(3600) as i64;
            add("jobs", begin, begin + 600 + numbers.below(4800) as i64, 1900, 24);
        }
    }
    lives.sort_by_key(|life| (life.begin, life.demand.uid.clone()));
    lives
}

/// Micro-dollars, about 35 % of the list and drifting by the hour.
fn spot_price(name: &str, zone: &str, hour: i64) -> u64 {
    let list = TYPES.iter().find(|t| t.0 == name).unwrap().3;
    let wave = (hour * 7 + i64::from(name.as_bytes()[0]) + i64::from(zone.as_bytes()[0]) * 31) % 48;
    list * (340 + wave.abs_diff(24)) / 1000
}

/// When an m6i.large of somebody else runs in the account.
const OTHERS: std::ops::Range<i64> = 200..500;

fn market(hour: i64) -> Market {
    let zones = vec!["a".to_owned(), "b".to_owned()];
    let spec = |&(name, cpu, gib, price, _): &(&str, u64, u64, u64, f64)| TypeSpec {
        name: name.to_owned(),
        architecture: Architecture::Amd64,
        cpu_millis: cpu * 1000,
        memory_bytes: gib << 30,
        on_demand: HourlyPrice(price),
        burst: name
            .starts_with('t')
            .then_some(Burst { baseline_millis: T3_BASELINE_MILLIS, surplus: HourlyPrice(T3_SURPLUS) }),
    };
    let types: Vec<TypeSpec> = TYPES.iter().map(spec).collect();
    let pools =
        types.iter().filter(|t| t.burst.is_none()).flat_map(|t| zones.iter().map(|z| (t.name.clone(), z.clone())));
    let spot = pools.map(|(t, z)| (HourlyPrice(spot_price(&t, &z, hour)), (t, z))).map(|(p, pool)| (pool, p)).collect();
    let others = Others {
        instance_type: "m6i.large".to_owned(),
        zone: "b".to_owned(),
        reservable: true,
        count: u32::from(OTHERS.contains(&hour)),
        on_demand: types.iter().find(|t| t.name == "m6i.large").map(|t| t.on_demand),
    };
    Market {
        catalog: Catalog { region: "r".to_owned(), zones, types },
        spot,
        others: vec![others],
        ..Market::default()
    }
}

fn reservation() -> Reservation {
    Reservation { instance_type: "c6i.xlarge".to_owned(), zone: "b".to_owned(), count: 2 }
}

fn buying() -> Policy {
    let tier = |name: &str| Match { labels: [("tier".to_owned(), name.to_owned())].into(), ..Match::default() };
    let ways = [Purchase::CapacityReservation, Purchase::Spot, Purchase::OnDemand];
    let mut web = class("web", 3, ways.map(step).to_vec());
    web.matches = tier("web");
    web.instances.burstable = false;
    web.mix = Some(Mix { on_demand_base: 4, on_demand_percent_above_base: 40, group_by: GroupBy::Owner });
    let mut jobs = class("jobs", 2, vec![step(Purchase::Spot)]);
    jobs.matches = tier("jobs");
    jobs.instances.burstable = false;
    let small = class("small", 1, vec![step(Purchase::Burstable)]);
    Policy {
        commitments: vec![
            Commitment::SavingsPlan { family: None, hourly: HourlyPrice(60_000), discount_percent: 20 },
            Commitment::SavingsPlan {
                family: Some("c6i".to_owned()),
                hourly: HourlyPrice(70_000),
                discount_percent: 30,
            },
            Commitment::Regional { family: "m6i".to_owned(), units: 800 },
            Commitment::Zonal { instance_type: "c6i.large".to_owned(), zone: "a".to_owned(), count: 1 },
        ],
        reservations: vec![reservation()],
        ..policy(vec![web, jobs, small])
    }
}

/// What ran when: the only thing that the oracle is told.
struct Ran {
    name: String,
    zone: String,
    option: Purchase,
    cpu_millis: u64,
    begin: i64,
    end: i64,
}

struct Living<'a> {
    life: &'a Life,
    class: String,
    offer: Offer,
    zone: String,
}

/// Runs the month: dollars by the model, and what ran.
fn model(policy: &Policy, lives: &[Life]) -> (f64, Vec<Ran>) {
    let at = |second: i64| now() + SignedDuration::from_secs(second);
    let mut living: Vec<Living> = Vec::new();
    let (mut micros, mut clock, mut ran) = (0u128, 0i64, Vec::new());
    let mut settle = |living: &[Living], clock: &mut i64, until: i64| {
        let running: Vec<Running> = living
            .iter()
            .map(|one| Running {
                offer: &one.offer,
                zone: &one.zone,
                class: &one.class,
                demand: Some(&one.life.demand),
                launched_at: at(one.life.begin),
            })
            .collect();
        while *clock < until {
            let hour = *clock / 3600;
            let next = until.min((hour + 1) * 3600);
            let hourly: u128 = bill(policy, &market(hour), &running).iter().map(|price| u128::from(price.0)).sum();
            // In micro-dollars times seconds: nothing is rounded.
            micros += hourly * u128::try_from(next - *clock).unwrap();
            *clock = next;
        }
    };
    let mut arrivals = lives.iter().peekable();
    while arrivals.peek().is_some() || !living.is_empty() {
        let next_end = living.iter().map(|one| one.life.end).min();
        let next_begin = arrivals.peek().map(|life| life.begin);
        let moment = next_end.into_iter().chain(next_begin).min().unwrap();
        settle(&living, &mut clock, moment);
        living.retain(|one| one.life.end > moment);
        while let Some(life) = arrivals.next_if(|life| life.begin <= moment) {
            let market = market(moment / 3600);
            let planner = Planner::new(policy, &market, at(moment));
            let mut ledger = Ledger::new(policy, &market);
            for one in &living {
                let live = planner.live(&one.class, Some(&one.life.demand), &one.offer, &one.zone, &ledger);
                ledger.book(&live);
            }
            let decision = planner.decide(&life.demand, &ledger);
            let Outcome::Plan(choice) = decision.outcome else { panic!("{decision:?}") };
            ran.push(Ran {
                name: choice.instance_type.to_owned(),
                zone: choice.zone.to_owned(),
                option: choice.option,
                cpu_millis: life.demand.cpu_millis.unwrap(),
                begin: life.begin,
                end: life.end,
            });
            let instance_type = choice.instance_type.to_owned();
            let offer = Offer { instance_type, purchase: choice.option, price: choice.price };
            living.push(Living { life, class: decision.class.to_owned(), offer, zone: choice.zone.to_owned() });
        }
    }
    (micros as f64 / 3600.0 / 1e6, ran)
}

/// As AWS bills: dollars beyond the commitments.
fn oracle_bill(ran: &[Ran]) -> f64 {
    let facts = |name: &str| TYPES.iter().find(|t| t.0 == name).unwrap();
    let mut dollars = 0.0;
    for hour in 0..HOURS {
        // Hours of usage by type and zone.
        let mut usage: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for one in ran {
            let (from, to) = (one.begin.max(hour * 3600), one.end.min(hour * 3600 + 3600));
            // Capacity that is reserved is paid for in any case, and so apart.
            if to <= from || one.option == Purchase::CapacityReservation {
                continue;
            }
            let hours = (to - from) as f64 / 3600.0;
            if one.option == Purchase::Spot {
                dollars += hours * spot_price(&one.name, &one.zone, hour) as f64 / 1e6;
                continue;
            }
            *usage.entry((&one.name, &one.zone)).or_default() += hours;
            if one.name.starts_with('t') {
                let above = one.cpu_millis.saturating_sub(T3_BASELINE_MILLIS) as f64 / 1000.0;
                dollars += hours * above * T3_SURPLUS as f64 / 1e6;
            }
        }
        if let Some(hours) = usage.get_mut(&("c6i.large", "a")) {
            *hours = (*hours - 1.0).max(0.0);
        }
        // Of the eight units the other's four.
        let free = if OTHERS.contains(&hour) { 4.0 } else { 8.0 };
        let units: f64 = usage.iter().filter(|(p, _)| p.0.starts_with("m6i")).map(|(p, h)| h * facts(p.0).4).sum();
        let uncovered = if units > free { (units - free) / units } else { 0.0 };
        for (pool, hours) in &mut usage {
            if pool.0.starts_with("m6i") {
                *hours *= uncovered;
            }
        }
        let list = |family: &str| -> f64 {
            let of = usage.iter().filter(|(pool, _)| pool.0.starts_with(family));
            of.map(|(pool, hours)| hours * facts(pool.0).3 as f64 / 1e6).sum()
        };
        let after = |list: f64, hourly: f64, share: f64| (list - hourly / share).max(0.0);
        let c6i = after(list("c6i"), 0.07, 0.7);
        dollars += after(c6i + list("m6i") + list("t3"), 0.06, 0.8);
    }
    dollars
}

#[test]
fn a_months_modelled_bill_is_within_two_percent_of_an_independent_oracles() {
    let lives = lives();
    let (modelled, ran) = model(&buying(), &lives);
    let oracle = oracle_bill(&ran);
    println!("{} Pods, {HOURS} hours: modelled ${modelled:.2}, oracle ${oracle:.2}", lives.len());
    // The month exercises what it is about.
    let of = |wanted: &dyn Fn(&Ran) -> bool| ran.iter().filter(|one| wanted(one)).count();
    assert_eq!(ran.len(), lives.len());
    assert!(of(&|one| one.option == Purchase::Spot) > 300 && of(&|one| one.option == Purchase::OnDemand) > 300);
    assert_eq!(of(&|one| one.option == Purchase::Burstable), 3);
    let reserved = |one: &Ran| one.option == Purchase::CapacityReservation;
    assert!(of(&reserved) > 50);
    for one in ran.iter().filter(|one| reserved(one)) {
        let at_once = of(&|other| reserved(other) && (other.begin..other.end).contains(&one.begin));
        let Reservation { instance_type, zone, count } = reservation();
        assert_eq!((&one.name, &one.zone), (&instance_type, &zone));
        assert!(at_once <= count as usize, "{at_once} are in a reservation of {count}");
    }
    for (name, ..) in TYPES {
        assert!(of(&|one| one.name == name) > 0, "{name} was never bought");
    }
    assert!((modelled / oracle - 1.0).abs() < 0.02, "modelled ${modelled:.2}, oracle ${oracle:.2}");
    // Without the commitments the same machines would have cost far more: the oracle sees that they are covered.
    let bare = Policy { commitments: Vec::new(), ..buying() };
    let (uncommitted, _) = model(&bare, &lives);
    assert!(uncommitted > modelled * 1.2, "${uncommitted:.2} without commitments");
}
