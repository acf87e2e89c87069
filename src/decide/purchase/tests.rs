//! The decision against a brute-force oracle on generated markets, and what must hold of every batch.
//!
//! [`oracle`] says what a Pod should get, [`drawn`] draws what it is asked about.

mod commitments;
mod drawn;
mod mixes;
mod month;
mod narrowing;
mod narrows;
mod nearest;
mod oracle;
mod order;
mod unknown;

use super::policy::*;
use super::*;
use crate::model::{HourlyPrice, Offer, Purchase};
use drawn::*;
use jiff::{SignedDuration, Timestamp};
use oracle::{Answer, Bought, Question};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

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

/// Books what lives before, in the ledger and for the oracle.
fn booked(planner: &Planner, policy: &Policy, market: &Market, before: &[Before]) -> (Ledger, Vec<Bought>) {
    let (mut ledger, mut bought) = (Ledger::new(policy, market), Vec::new());
    for Before { class, demand, offer, zone } in before {
        let live = planner.live(class, Some(demand), offer, zone, &ledger);
        let known = policy.classes.iter().find(|known| known.name == *class);
        let question = Question { policy, market, demand, bought: &bought };
        let spec = market.catalog.types.iter().find(|spec| spec.name == offer.instance_type);
        let in_catalog = spec.filter(|_| market.catalog.zones.iter().any(|known| known == zone));
        let covered = matches!(offer.purchase, Purchase::OnDemand | Purchase::Burstable);
        // An instance of a class that is gone from the policy draws on commitments, as on the cloud's bill.
        let nobodys = self::class("", 0, Vec::new());
        let drawn =
            in_catalog.filter(|_| covered).map(|spec| question.on_demand(known.unwrap_or(&nobodys), spec, zone).1);
        assert_eq!(draws(&live.drawn), drawn.clone().unwrap_or_default(), "{offer:?} in {zone} of class {class}");
        bought.push(Bought {
            class: (*class).to_owned(),
            namespace: demand.namespace.clone(),
            group: known.map(|known| oracle::group(known, demand)).unwrap_or_default(),
            option: offer.purchase,
            pool: (offer.instance_type.clone(), (*zone).to_owned()),
            price: offer.price.0,
            drawn: drawn.unwrap_or_default(),
        });
        ledger.book(&live);
    }
    (ledger, bought)
}

/// What a decision bought, in the oracle's words.
fn taken(decision: &Decision, class: &Class, demand: &Demand) -> Option<Bought> {
    let Outcome::Plan(choice) = &decision.outcome else { return None };
    Some(Bought {
        class: class.name.clone(),
        namespace: demand.namespace.clone(),
        group: oracle::group(class, demand),
        option: choice.option,
        pool: (choice.instance_type.to_owned(), choice.zone.to_owned()),
        price: choice.price.0,
        drawn: draws(&choice.drawn),
    })
}

fn draws(all: &[Draw]) -> Vec<(usize, u64)> {
    all.iter().map(|draw| (draw.commitment, draw.amount)).collect()
}

/// Which of what the oracle offers was chosen, or what is wrong with the choice and its alternatives.
fn found<'o>(choice: &Choice, offers: &'o [oracle::Offer], planner: &Planner) -> Result<&'o Bought, String> {
    let first = (choice.pool, choice.price);
    let told: Vec<(PoolId, HourlyPrice)> = [first].into_iter().chain(choice.alternatives.iter().copied()).collect();
    let mut seen = BTreeSet::new();
    // The first is as good as the best, the second as the second best, and so on.
    for (place, (pool, price)) in told.iter().enumerate() {
        let names = (planner.type_of(pool.instance_type).name.clone(), planner.zone(pool.zone).to_owned());
        let same = offers.iter().find(|offer| offer.bought.pool == names && offer.bought.price == price.0);
        let due = offers.get(place).map(|offer| offer.key);
        if same.map(|offer| offer.key) != due || !seen.insert(*pool) {
            return Err(format!("number {place}, {names:?} at {price}, is no {due:?}"));
        }
    }
    let chosen = (choice.instance_type.to_owned(), choice.zone.to_owned());
    let found = offers.iter().map(|offer| &offer.bought).find(|bought| bought.pool == chosen);
    found.filter(|bought| bought.option == choice.option).ok_or_else(|| "is not among the offers".to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn each_pod_gets_the_cheapest_that_everything_allows(
        (policy, market, before, demands) in (rules(), market(), before(3), demands()),
    ) {
        let planner = Planner::new(&policy, &market, now());
        let (mut ledger, mut bought) = booked(&planner, &policy, &market, &before);
        let full = ledger.clone();
        let decisions = planner.decide_all(&demands, &mut ledger);
        for (demand, decision) in demands.iter().zip(&decisions) {
            let question = Question { policy: &policy, market: &market, demand, bought: &bought };
            let class = oracle::serves(&policy, demand);
            prop_assert_eq!(decision.class, class.map(|class| class.name.as_str()).unwrap_or_default());
            if let Some(class) = class {
                prop_assert_eq!((decision.cpu_millis, decision.memory_bytes), oracle::need(class, demand));
            }
            let new = match (&decision.outcome, question.answer()) {
                (Outcome::Pend(pend), Answer::NoClass) => {
                    prop_assert_eq!(pend.reason, "NoClassMatches");
                    None
                }
                (Outcome::Pend(pend), Answer::Refused(keys)) => {
                    prop_assert_eq!(pend.reason, "InvalidAnnotation");
                    let named = keys.iter().any(|key| pend.message.contains(key));
                    prop_assert!(named, "{}: {pend:?} by {keys:?}", demand.uid);
                    None
                }
                (Outcome::Pend(_), Answer::Nothing) => {
                    prop_assert!(decision.dropped().next().is_some(), "it must say why");
                    None
                }
                (Outcome::Plan(choice), Answer::Offers { offers, for_mix }) => {
                    let most = class.map_or(0, |class| class.instances.max_candidates);
                    let told = 1 + choice.alternatives.len();
                    prop_assert_eq!(told, offers.len().min(most), "{}: {:?}", demand.uid, choice);
                    prop_assert_eq!(choice.for_mix, for_mix);
                    let found = found(choice, &offers, &planner).map_err(|wrong| {
                        TestCaseError::fail(format!("{}: {choice:?} {wrong} of {offers:?}", demand.uid))
                    })?;
                    prop_assert_eq!(&draws(&choice.drawn), &found.drawn);
                    Some(found.clone())
                }
                (outcome, answer) => {
                    let wrong = format!("{}: {outcome:?}, but {answer:?}", demand.uid);
                    return Err(TestCaseError::fail(wrong));
                }
            };
            bought.extend(new);
        }
        // What holds of the whole: no limit is exceeded that was not before, no quarantined pool is bought.
        for limit in policy.limits.iter().filter(|limit| ledger.tally(&limit.scope) != full.tally(&limit.scope)) {
            let tally = ledger.tally(&limit.scope);
            prop_assert!(limit.max_hourly.is_none_or(|max| tally.hourly <= max));
            prop_assert!(limit.max_instances.is_none_or(|max| tally.instances <= max));
        }
        for b in &bought[before.len()..] {
            prop_assert!(!market.quarantine.iter().any(|q| q.holds(b.option, &b.pool.0, &b.pool.1, now())));
        }
    }
}
