//! Which pools an instant fleet is filled from. Pure.
//!
//! Pools are asked in the order of the allocation strategy; each gives what it has, and one that gives
//! less than was asked of it is named among the errors. With a minimum that cannot be met nothing is
//! launched. Sources: AWS, "CreateFleet"; "Allocation strategies for EC2 Fleet".

use super::{
    params::Params,
    refusal::{Refusal, no_capacity},
    script::Pool,
};

/// One combination that the fleet may be made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub pool: Pool,
    pub subnet: String,
    /// What the request said of it, for the answer.
    pub overrides: Params,
    pub template: Params,
    /// Dollars an hour; only their order matters.
    pub price: f64,
    pub priority: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Lowest price, and EC2's default.
    Cheapest,
    /// Price and capacity: pools that can hold everything before those that can't, then the price.
    PriceCapacity,
    Prioritized,
    Diversified,
}

impl Allocation {
    pub fn parse(text: Option<&str>) -> Result<Self, Refusal> {
        match text {
            None | Some("lowest-price" | "lowestPrice") => Ok(Self::Cheapest),
            Some("price-capacity-optimized" | "capacity-optimized") => Ok(Self::PriceCapacity),
            Some("prioritized" | "capacity-optimized-prioritized") => Ok(Self::Prioritized),
            Some("diversified") => Ok(Self::Diversified),
            Some(other) => {
                Err(Refusal::new("InvalidParameterValue", format!("Invalid value '{other}' for AllocationStrategy.")))
            }
        }
    }
}

/// What a pool can give right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supply {
    Unbounded,
    Up(u32),
    Refuses(Refusal),
}

impl Supply {
    pub fn gives(&self, wanted: u32) -> u32 {
        match self {
            Self::Unbounded => wanted,
            Self::Up(left) => wanted.min(*left),
            Self::Refuses(_) => 0,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Index of the candidate, and how many.
    pub launches: Vec<(usize, u32)>,
    pub errors: Vec<(usize, Refusal)>,
}

pub fn plan(candidates: &[Candidate], supplies: &[Supply], strategy: Allocation, target: u32, minimum: u32) -> Plan {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let price = |&a: &usize, &b: &usize| candidates[a].price.total_cmp(&candidates[b].price);
    match strategy {
        Allocation::Cheapest => order.sort_by(price),
        Allocation::PriceCapacity => {
            order.sort_by_key(|&n| supplies[n].gives(target) < target);
            order.sort_by(|a, b| {
                let short = |&n: &usize| supplies[n].gives(target) < target;
                short(a).cmp(&short(b)).then(price(a, b))
            });
        }
        // Lower numbers come first.
        Allocation::Prioritized => order.sort_by(|&a, &b| candidates[a].priority.total_cmp(&candidates[b].priority)),
        Allocation::Diversified => {}
    }
    let mut plan = Plan::default();
    let mut left = target;
    for (place, &n) in order.iter().enumerate() {
        if left == 0 {
            break;
        }
        let share = match strategy {
            Allocation::Diversified => left.div_ceil(u32::try_from(order.len() - place).unwrap_or(u32::MAX)),
            _ => left,
        };
        // The same pool may be reached through several subnets.
        let from_this_pool = plan.launches.iter().filter(|(m, _)| candidates[*m].pool == candidates[n].pool);
        let taken: u32 = from_this_pool.map(|(_, count)| count).sum();
        let given = supplies[n].gives(share + taken) - taken;
        if given > 0 {
            plan.launches.push((n, given));
            left -= given;
        }
        if given < share {
            let pool = &candidates[n].pool;
            let why = match &supplies[n] {
                Supply::Refuses(refusal) => refusal.clone(),
                _ => no_capacity(&pool.instance_type, &pool.zone),
            };
            plan.errors.push((n, why));
        }
    }
    if target - left < minimum {
        plan.launches.clear();
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Lifecycle;
    use proptest::prelude::*;

    fn candidate(n: usize, price: f64) -> Candidate {
        Candidate {
            pool: Pool { lifecycle: Lifecycle::Spot, instance_type: format!("t{n}"), zone: "a".to_owned() },
            subnet: "subnet-1".to_owned(),
            overrides: Params::default(),
            template: Params::default(),
            price,
            priority: n as f64,
        }
    }

    #[test]
    fn an_exhausted_pool_is_named_and_the_next_cheapest_fills_the_rest() {
        let candidates = [candidate(0, 3.), candidate(1, 1.), candidate(2, 2.)];
        let supplies = [Supply::Unbounded, Supply::Up(4), Supply::Refuses(Refusal::new("Unsupported", "no"))];
        let plan = plan(&candidates, &supplies, Allocation::Cheapest, 10, 0);
        assert_eq!(plan.launches, [(1, 4), (0, 6)]);
        let codes: Vec<_> = plan.errors.iter().map(|(n, error)| (*n, error.code.as_str())).collect();
        assert_eq!(codes, [(1, "InsufficientInstanceCapacity"), (2, "Unsupported")]);
    }

    #[test]
    fn below_the_minimum_nothing_is_launched_and_the_errors_stay() {
        let plan = plan(&[candidate(0, 1.)], &[Supply::Up(4)], Allocation::Cheapest, 10, 5);
        assert!(plan.launches.is_empty() && plan.errors.len() == 1);
    }

    #[test]
    fn a_pool_that_can_hold_all_comes_before_a_cheaper_one_that_can_not() {
        let candidates = [candidate(0, 1.), candidate(1, 2.)];
        let plan = plan(&candidates, &[Supply::Up(3), Supply::Unbounded], Allocation::PriceCapacity, 10, 0);
        assert_eq!(plan.launches, [(1, 10)]);
    }

    proptest! {
        #[test]
        fn a_fleet_is_never_more_than_asked_nor_less_than_could_be_had(
            pools in prop::collection::vec((0u32..6, 0u32..100), 1..6), target in 0u32..20, strategy in 0usize..4,
        ) {
            let strategy = [Allocation::Cheapest, Allocation::PriceCapacity, Allocation::Prioritized, Allocation::Diversified][strategy];
            let candidates: Vec<_> = pools.iter().enumerate().map(|(n, (_, price))| candidate(n, f64::from(*price))).collect();
            let supplies: Vec<_> = pools.iter().map(|(left, _)| Supply::Up(*left)).collect();
            let plan = plan(&candidates, &supplies, strategy, target, 0);
            let launched: u32 = plan.launches.iter().map(|(_, count)| count).sum();
            prop_assert!(launched <= target);
            for &(n, count) in &plan.launches {
                prop_assert!(count > 0 && count <= pools[n].0);
            }
            let had: u32 = pools.iter().map(|(left, _)| left).sum();
            if strategy != Allocation::Diversified {
                prop_assert_eq!(launched, target.min(had));
            }
            prop_assert!(launched == target || !plan.errors.is_empty());
        }
    }
}
