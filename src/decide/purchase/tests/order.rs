//! What must not matter: in what order Pods, types, zones and the policy's lists are told.

use super::*;

/// In an order that the numbers say.
fn shuffle<T>(all: &mut [T], numbers: &[usize]) {
    for last in (1..all.len()).rev() {
        all.swap(last, numbers[last % numbers.len()] % (last + 1));
    }
}

/// The policy with the same said in another order, but for what an order is said by.
fn shuffled(policy: &Policy, numbers: &[usize]) -> Policy {
    let mut other = policy.clone();
    shuffle(&mut other.reservations, numbers);
    for class in &mut other.classes {
        let Match { namespaces, labels: _, annotations: _, owner_kinds } = &mut class.matches;
        shuffle(namespaces, numbers);
        shuffle(owner_kinds, numbers);
        // The order that is meant is `listed`'s.
        let Instances { allow, deny, architectures, .. } = &mut class.instances;
        shuffle(allow, numbers);
        for list in allow {
            shuffle(list, numbers);
        }
        shuffle(deny, numbers);
        shuffle(architectures, numbers);
        shuffle(class.placement.zones.as_deref_mut().unwrap_or_default(), numbers);
    }
    other
}

fn numbers() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 13)
}

/// When a commitment's turn is, and where it stands among its like.
fn turn(commitment: &Commitment) -> u8 {
    match commitment {
        Commitment::Zonal { .. } => 0,
        Commitment::Regional { .. } => 1,
        Commitment::SavingsPlan { family: Some(_), .. } => 2,
        Commitment::SavingsPlan { family: None, .. } => 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    #[test]
    fn the_order_of_pods_types_and_zones_does_not_matter(
        (policy, market, before, demands, numbers) in (rules(), market(), before(3), demands(), numbers()),
    ) {
        let planner = Planner::new(&policy, &market, now());
        let mut ledger = booked(&planner, &policy, &market, &before).0;
        let mut other_ledger = ledger.clone();
        let one = planner.decide_all(&demands, &mut ledger);
        let other_policy = shuffled(&policy, &numbers);
        let mut other_market = market.clone();
        shuffle(&mut other_market.catalog.types, &numbers);
        shuffle(&mut other_market.catalog.zones, &numbers);
        shuffle(&mut other_market.quarantine, &numbers);
        let mut other_demands = demands.clone();
        shuffle(&mut other_demands, &numbers);
        for demand in &mut other_demands {
            shuffle(demand.zones.as_deref_mut().unwrap_or_default(), &numbers);
        }
        let other = Planner::new(&other_policy, &other_market, now()).decide_all(&other_demands, &mut other_ledger);
        prop_assert_eq!(one, other);
        prop_assert_eq!(ledger, other_ledger);
    }

    /// Of limits it only says which one is named to a Pod that waits. Kinds of commitments are used up in the cloud's
    /// order; those of one kind in the file's, which is kept here.
    #[test]
    fn the_order_of_limits_and_of_kinds_of_commitments_does_not_matter(
        (policy, market, demands, numbers) in (rules(), market(), demands(), numbers()),
    ) {
        let mut other_policy = policy.clone();
        shuffle(&mut other_policy.limits, &numbers);
        // Number by number: any order of kinds, and each kind's in the order that it had.
        let mut kinds: Vec<u8> = policy.commitments.iter().map(turn).collect();
        shuffle(&mut kinds, &numbers);
        let mut left: Vec<usize> = (0..policy.commitments.len()).collect();
        let mut first_of = |kind: u8| {
            let place = left.iter().position(|index| turn(&policy.commitments[*index]) == kind).unwrap();
            left.remove(place)
        };
        let was: Vec<usize> = kinds.into_iter().map(&mut first_of).collect();
        other_policy.commitments = was.iter().map(|index| policy.commitments[*index].clone()).collect();
        let of = |policy: &Policy, number: &dyn Fn(usize) -> usize| -> Vec<String> {
            let told = |decision: &Decision| match &decision.outcome {
                Outcome::Pend(pend) => pend.reason.to_owned(),
                Outcome::Plan(choice) => {
                    let drawn: BTreeMap<usize, u64> =
                        choice.drawn.iter().map(|draw| (number(draw.commitment), draw.amount)).collect();
                    format!("{:?}", (choice.option, choice.pool, choice.price, &choice.alternatives, drawn))
                }
            };
            let planner = Planner::new(policy, &market, now());
            planner.decide_all(&demands, &mut Ledger::new(policy, &market)).iter().map(told).collect()
        };
        prop_assert_eq!(of(&policy, &|index| index), of(&other_policy, &|index| was[index]));
    }
}
