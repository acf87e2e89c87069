//! What is decided for one Pod: what is bought and what next, or why it waits; and why not something else.

use super::ledger::{Draw, Live};
use super::policy::Allocation;
use super::why::{Unfit, Why};
use crate::model::{HourlyPrice, Purchase};
use std::borrow::Cow;

/// A type in a zone, by its place in the [`Planner`](super::Planner)'s tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    pub instance_type: u16,
    pub zone: u16,
}

/// In the words of the demand, the policy and the market: nothing of them is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    pub uid: &'a str,
    pub namespace: &'a str,
    pub class: &'a str,
    /// What the instance must offer the Pod.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub outcome: Outcome<'a>,
    /// The types that do not do for the Pod at all.
    pub unfit: Vec<(u16, Unfit)>,
    /// What else was not bought.
    pub passed_over: Vec<Dropped>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    Plan(Choice<'a>),
    Pend(Pend),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    pub option: Purchase,
    pub allocation: Allocation,
    pub pool: PoolId,
    pub instance_type: &'a str,
    pub zone: &'a str,
    /// After commitments, with surplus credits: what one more costs.
    pub price: HourlyPrice,
    /// What commitments pay of it.
    pub drawn: Vec<Draw>,
    pub surplus: HourlyPrice,
    /// Its class's mix lacked one on demand: that is why nothing else was asked for first.
    pub for_mix: bool,
    /// The group it counts in.
    pub group: Cow<'a, str>,
    /// What to try next, best first, if there is no capacity; each with its price.
    pub alternatives: Vec<(PoolId, HourlyPrice)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pend {
    /// CamelCase, for status and events.
    pub reason: &'static str,
    pub message: String,
}

/// None stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropped {
    pub option: Option<Purchase>,
    pub instance_type: Option<u16>,
    pub zone: Option<u16>,
    pub why: Why,
}

impl Decision<'_> {
    /// The reason for each candidate that was dropped.
    pub fn dropped(&self) -> impl Iterator<Item = Dropped> {
        dropped(&self.unfit, &self.passed_over)
    }

    /// What it books in the ledger.
    pub fn live(&self) -> Option<Live<'_>> {
        let Outcome::Plan(choice) = &self.outcome else { return None };
        Some(Live {
            namespace: self.namespace,
            class: self.class,
            group: Cow::Borrowed(&choice.group),
            option: choice.option,
            instance_type: choice.instance_type,
            zone: choice.zone,
            price: choice.price,
            drawn: Cow::Borrowed(&choice.drawn),
        })
    }
}

/// Both as one list.
pub(super) fn dropped(unfit: &[(u16, Unfit)], passed_over: &[Dropped]) -> impl Iterator<Item = Dropped> {
    let types = unfit.iter().map(|&(id, unfit)| Dropped {
        option: None,
        instance_type: Some(id),
        zone: None,
        why: Why::Unfit(unfit),
    });
    types.chain(passed_over.iter().copied())
}
