//! What the Pods of a service cost an hour, by the cost policy.
//!
//! The policy is asked as the provider asks it: one decision for each Pod, in one group, on an otherwise empty
//! account. So a mix is seen from Pod to Pod.

use crate::decide::purchase::{Choice, Demand, Ledger, Market, Origins, Outcome, Planner, Policy};
use crate::decide::reserve::size::Size;
use crate::model::{HourlyPrice, Labels};
use jiff::Timestamp;
use std::sync::Arc;

/// So many Pods of a service are priced; any more cost what the last one does.
const PRICED: usize = 32;

#[derive(Clone, Debug)]
pub struct Prices {
    /// Of the first, the second, … standard Pod.
    pub standard: Vec<HourlyPrice>,
    pub standard_type: String,
    pub reserve: HourlyPrice,
    pub reserve_type: String,
    /// The same type on spot, in the cheapest zone; None where no spot price is known.
    pub reserve_on_spot: Option<HourlyPrice>,
    pub origins: Origins,
}

#[derive(Debug, thiserror::Error)]
#[error("the policy buys nothing for a {what} Pod ({cpu_millis}m CPU, {memory_bytes} bytes): {message}")]
pub struct NotBought {
    what: &'static str,
    cpu_millis: u64,
    memory_bytes: u64,
    message: String,
}

pub fn prices(
    policy: &Policy,
    market: &Market,
    standard: Size,
    reserve: (Size, &Labels),
    now: Timestamp,
) -> Result<Prices, NotBought> {
    let planner = Planner::new(policy, market, now);
    let demand = |number: usize, size: Size, annotations: &Labels| Demand {
        uid: format!("{number:08}"),
        namespace: "default".to_owned(),
        annotations: Arc::new(annotations.clone()),
        owner: Some(("ReplicaSet".to_owned(), "service".to_owned())),
        cpu_millis: Some(size.cpu_millis),
        memory_bytes: Some(size.memory_bytes),
        ..Demand::default()
    };
    let many: Vec<Demand> = (0..PRICED).map(|number| demand(number, standard, &Labels::default())).collect();
    let mut choices = Vec::new();
    for decision in planner.decide_all(&many, &mut Ledger::new(policy, market)) {
        match decision.outcome {
            Outcome::Plan(choice) => choices.push(choice),
            // A limit of the policy bounds how many there can be: what is above it costs what is below.
            Outcome::Pend(_) if !choices.is_empty() => break,
            Outcome::Pend(pend) => return Err(not_bought("standard", standard, pend.message)),
        }
    }
    let (size, annotations) = reserve;
    let one = [demand(0, size, annotations)];
    let reserve = planner.decide_all(&one, &mut Ledger::new(policy, market)).pop().map(|decision| decision.outcome);
    let reserve: Choice = match reserve {
        Some(Outcome::Plan(choice)) => choice,
        Some(Outcome::Pend(pend)) => return Err(not_bought("reserve", size, pend.message)),
        None => return Err(not_bought("reserve", size, "no decision".to_owned())),
    };
    let spot = market.spot.iter().filter(|((name, _), _)| *name == reserve.instance_type).map(|(_, price)| *price);
    Ok(Prices {
        standard_type: choices.first().map(|c| c.instance_type.to_owned()).unwrap_or_default(),
        standard: choices.into_iter().map(|choice| choice.price).collect(),
        reserve: reserve.price,
        reserve_on_spot: spot.min().map(|price| HourlyPrice(price.0.saturating_add(reserve.surplus.0))),
        reserve_type: reserve.instance_type.to_owned(),
        origins: market.origins.clone(),
    })
}

fn not_bought(what: &'static str, size: Size, message: String) -> NotBought {
    NotBought { what, cpu_millis: size.cpu_millis, memory_bytes: size.memory_bytes, message }
}

impl Prices {
    /// Of the Pod with this place in its service.
    pub fn standard(&self, place: usize) -> HourlyPrice {
        self.standard.get(place).or(self.standard.last()).copied().unwrap_or(HourlyPrice(0))
    }
}
