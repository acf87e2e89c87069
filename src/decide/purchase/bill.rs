//! What everything that lives costs an hour, with the commitments as the cloud's bill applies them.
//!
//! A purchase's price is of the moment when it was bought. A bill is of now: when an instance ends that a commitment
//! covered, it covers another, though that one was bought at the full price.
//!
//! What else of the account runs under the commitments comes first: the cluster costs what the account would save
//! without it.
//!
//! ```text
//!   zonal Reserved Instances ─> regional ones ─> EC2 Instance Savings Plans ─> Compute Savings Plans
//!   each over all that lives, the oldest first; what one leaves uncovered is the next one's
//! ```

use super::ledger::coverage;
use super::policy::Policy;
use super::{Demand, Ledger, Market, TypeSpec, choose};
use crate::model::{HourlyPrice, Offer, Purchase};
use jiff::Timestamp;

/// An instance that lives.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// As it was bought.
    pub offer: &'a Offer,
    pub zone: &'a str,
    pub class: &'a str,
    /// Its Pod's.
    pub demand: Option<&'a Demand>,
    pub launched_at: Timestamp,
}

/// On demand, and not covered yet.
struct Due<'a> {
    place: usize,
    spec: &'a TypeSpec,
    zone: &'a str,
    rest: u64,
    surplus: u64,
}

/// What each costs an hour, in the order given.
pub fn bill(policy: &Policy, market: &Market, running: &[Running]) -> Vec<HourlyPrice> {
    let mut prices: Vec<HourlyPrice> = running.iter().map(|one| one.offer.price).collect();
    let mut due: Vec<Due> = running
        .iter()
        .enumerate()
        .filter(|(_, one)| matches!(one.offer.purchase, Purchase::OnDemand | Purchase::Burstable))
        .filter_map(|(place, one)| {
            let spec = market.catalog.types.iter().find(|spec| spec.name == one.offer.instance_type)?;
            let class = policy.classes.iter().find(|class| class.name == one.class);
            let cpu = class.zip(one.demand).map_or(0, |(class, demand)| choose::need(class.sizing, demand).0);
            Some(Due { place, spec, zone: one.zone, rest: spec.on_demand.0, surplus: spec.surplus(cpu).0 })
        })
        .collect();
    due.sort_by_key(|due| (running[due.place].launched_at, due.place));
    let ledger = Ledger::new(policy, market);
    for kind in 0..=LAST_KIND {
        for (commitment, headroom) in policy.commitments.iter().zip(ledger.headroom()) {
            let mut left = *headroom;
            for due in due.iter_mut().filter(|due| coverage(commitment, due.spec.sku(), due.zone) == Some(kind)) {
                let (amount, uncovered) = commitment.cover(left, due.spec.sku(), due.rest);
                left -= amount;
                due.rest = uncovered;
            }
        }
    }
    for due in due {
        prices[due.place] = HourlyPrice(due.rest.saturating_add(due.surplus));
    }
    prices
}

/// The last of [`coverage`]'s kinds.
const LAST_KIND: u8 = 3;
