//! What is bought already: counts and dollars by scope, shares by group, and what is left of commitments.

use super::market::{Market, Sku};
use super::policy::{Commitment, Policy, Scope};
use crate::model::{HourlyPrice, Purchase};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One instance that lives, or is about to be bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live<'a> {
    pub namespace: &'a str,
    pub class: &'a str,
    /// What its class counts shares and zones by.
    pub group: Cow<'a, str>,
    pub option: Purchase,
    pub instance_type: &'a str,
    pub zone: &'a str,
    /// After commitments.
    pub price: HourlyPrice,
    /// The commitments that pay a part of it.
    pub drawn: Cow<'a, [Draw]>,
}

/// What an instance takes of a commitment: whole machines, hundredths of a unit, or micro-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub commitment: usize,
    pub amount: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub instances: u32,
    pub hourly: HourlyPrice,
}

impl Tally {
    fn add(&mut self, price: HourlyPrice) {
        self.instances += 1;
        self.hourly.0 = self.hourly.0.saturating_add(price.0);
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub live: u32,
    pub on_demand: u32,
    pub zones: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    cluster: Tally,
    namespaces: BTreeMap<String, Tally>,
    classes: BTreeMap<String, Tally>,
    /// By class and group.
    groups: BTreeMap<String, BTreeMap<String, Group>>,
    zones: BTreeMap<String, u32>,
    /// Instances in capacity reservations, by type and zone.
    reserved: BTreeMap<(String, String), u32>,
    /// Left of each commitment of the policy, in [`Draw::amount`]'s units.
    left: Vec<u64>,
}

impl Ledger {
    /// Nothing is bought yet. Of commitments there is what the account's other instances leave.
    pub fn new(policy: &Policy, market: &Market) -> Self {
        let left = policy.commitments.iter().map(Commitment::whole).collect();
        let mut ledger = Self { left, ..Self::default() };
        for others in &market.others {
            let matching = others.matching(&policy.commitments);
            for _ in 0..others.count {
                let (_, drawn) = ledger.after_commitments(&policy.commitments, &matching, others.sku());
                if drawn.is_empty() {
                    break;
                }
                ledger.draw(&drawn);
            }
        }
        ledger
    }

    /// What is left of each commitment of the policy, in [`Draw::amount`]'s units.
    pub(super) fn headroom(&self) -> &[u64] {
        &self.left
    }

    pub fn book(&mut self, live: &Live<'_>) {
        self.cluster.add(live.price);
        change(&mut self.namespaces, live.namespace, |tally| tally.add(live.price));
        change(&mut self.classes, live.class, |tally| tally.add(live.price));
        change(&mut self.zones, live.zone, |count| *count += 1);
        change(&mut self.groups, live.class, |groups| {
            change(groups, &live.group, |group| {
                group.live += 1;
                group.on_demand += u32::from(is_on_demand(live.option));
                change(&mut group.zones, live.zone, |count| *count += 1);
            });
        });
        if live.option == Purchase::CapacityReservation {
            *self.reserved.entry((live.instance_type.to_owned(), live.zone.to_owned())).or_default() += 1;
        }
        self.draw(&live.drawn);
    }

    fn draw(&mut self, drawn: &[Draw]) {
        for draw in drawn {
            if let Some(left) = self.left.get_mut(draw.commitment) {
                *left = left.saturating_sub(draw.amount);
            }
        }
    }

    pub fn tally(&self, scope: &Scope) -> Tally {
        match scope {
            Scope::Cluster => Some(&self.cluster),
            Scope::Namespace(name) => self.namespaces.get(name),
            Scope::Class(name) => self.classes.get(name),
        }
        .copied()
        .unwrap_or_default()
    }

    pub fn group(&self, class: &str, group: &str) -> Option<&Group> {
        self.groups.get(class)?.get(group)
    }

    pub fn in_zone(&self, zone: &str) -> u32 {
        self.zones.get(zone).copied().unwrap_or(0)
    }

    pub fn reserved(&self, instance_type: &str, zone: &str) -> u32 {
        self.reserved.get(&(instance_type.to_owned(), zone.to_owned())).copied().unwrap_or(0)
    }

    /// What one more of this type on demand costs after the commitments numbered in `matching`, which are
    /// drawn on in that order: what one leaves uncovered is the next one's. Rounded up.
    pub fn after_commitments(
        &self,
        commitments: &[Commitment],
        matching: &[usize],
        sku: Sku<'_>,
    ) -> (HourlyPrice, Vec<Draw>) {
        let mut draws = Vec::new();
        let price = self.cover(commitments, matching, sku, |draw| draws.push(draw));
        (price, draws)
    }

    /// The same without saying what is drawn: it is asked for each pool of each Pod.
    pub fn price_after_commitments(&self, commitments: &[Commitment], matching: &[usize], sku: Sku<'_>) -> HourlyPrice {
        self.cover(commitments, matching, sku, |_| ())
    }

    fn cover(
        &self,
        commitments: &[Commitment],
        matching: &[usize],
        sku: Sku<'_>,
        mut draws: impl FnMut(Draw),
    ) -> HourlyPrice {
        let mut rest = sku.on_demand.0;
        for &commitment in matching {
            let left = self.left.get(commitment).copied().unwrap_or(0);
            if left == 0 {
                continue;
            }
            let (amount, uncovered) = commitments[commitment].cover(left, sku, rest);
            rest = uncovered;
            if amount > 0 {
                draws(Draw { commitment, amount });
            }
            if rest == 0 {
                break;
            }
        }
        HourlyPrice(rest)
    }
}

/// Of what is kept under a name; the name is copied when it is new alone.
fn change<T: Default>(map: &mut BTreeMap<String, T>, name: &str, change: impl FnOnce(&mut T)) {
    match map.get_mut(name) {
        Some(kept) => change(kept),
        None => change(map.entry(name.to_owned()).or_default()),
    }
}

/// Counts as on demand in a mix: what isn't taken away on short notice.
pub fn is_on_demand(option: Purchase) -> bool {
    match option {
        Purchase::OnDemand | Purchase::Burstable | Purchase::CapacityReservation => true,
        Purchase::Spot => false,
    }
}

impl Commitment {
    /// All of it, in [`Draw::amount`]'s units.
    pub(super) fn whole(&self) -> u64 {
        match self {
            Self::Zonal { count, .. } => u64::from(*count),
            Self::Regional { units, .. } => *units,
            Self::SavingsPlan { hourly, .. } => hourly.0,
        }
    }

    /// What it gives of the `left` that it still has for the `rest` of a machine's list price that nothing has covered
    /// yet, and what is uncovered then. Rounded up.
    pub(super) fn cover(&self, left: u64, sku: Sku<'_>, rest: u64) -> (u64, u64) {
        let share = |of: u64| (u128::from(of) * u128::from(rest)).div_ceil(u128::from(sku.on_demand.0.max(1)));
        let whole = match self {
            // All of a machine or nothing.
            Self::Zonal { .. } if rest < sku.on_demand.0 => return (0, rest),
            Self::Zonal { .. } => 1,
            Self::Regional { .. } => share(sku.normalized_units().unwrap_or(u64::MAX)),
            Self::SavingsPlan { discount_percent, .. } => {
                (u128::from(rest) * u128::from(100 - discount_percent)).div_ceil(100)
            }
        };
        let amount = whole.min(u128::from(left));
        let uncovered = (u128::from(rest) * (whole - amount)).div_ceil(whole.max(1));
        (u64::try_from(amount).expect("at most what was left"), u64::try_from(uncovered).expect("a part of what fits"))
    }
}

/// Whether a commitment covers a type in a zone, and when its kind's turn is in AWS' order: zonal Reserved
/// Instances, regional ones, EC2 Instance Savings Plans, Compute Savings Plans.
pub(super) fn coverage(commitment: &Commitment, sku: Sku<'_>, zone: &str) -> Option<u8> {
    match commitment {
        Commitment::Zonal { instance_type, zone: z, .. } => (*instance_type == sku.name && z == zone).then_some(0),
        Commitment::Regional { family, .. } => {
            (family == sku.family() && sku.normalized_units().is_some()).then_some(1)
        }
        Commitment::SavingsPlan { family: Some(family), .. } => (family == sku.family()).then_some(2),
        Commitment::SavingsPlan { family: None, .. } => Some(3),
    }
}

/// Which commitments cover a type in a zone, in the order of [`coverage`].
pub fn matching(commitments: &[Commitment], sku: Sku<'_>, zone: &str) -> Vec<usize> {
    let turn = |(index, c)| coverage(c, sku, zone).map(|turn| (turn, index));
    let mut found: Vec<(u8, usize)> = commitments.iter().enumerate().filter_map(turn).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, index)| index).collect()
}
