//! A policy and a market, prepared so that a Pod's decision is comparisons of integers.

use super::ledger::{Ledger, matching};
use super::market::{Catalog, Market, TypeSpec};
use super::policy::{Class, Instances, Policy, TypeSelector};
use super::why::Unfit;
use crate::model::{HourlyPrice, Purchase};
use jiff::Timestamp;

pub(super) const OPTIONS: [Purchase; 4] =
    [Purchase::OnDemand, Purchase::Spot, Purchase::Burstable, Purchase::CapacityReservation];

pub struct Planner<'a> {
    pub(super) policy: &'a Policy,
    pub(super) market: &'a Market,
    /// By name, so that the catalog's order does not matter.
    pub(super) types: Vec<&'a TypeSpec>,
    pub(super) zones: Vec<&'a str>,
    pub(super) classes: Vec<ClassTable>,
    /// The rest by pool: type x zones + zone.
    pub(super) spot: Vec<Option<HourlyPrice>>,
    pub(super) quarantined: [Vec<bool>; OPTIONS.len()],
    pub(super) not_offered: Vec<bool>,
    pub(super) commitments: Vec<Vec<usize>>,
    pub(super) reservations: Vec<u32>,
    pub(super) sizes: Sizes,
    /// The room in each zone's subnets; u32::MAX where nothing is known.
    pub(super) addresses: Vec<u32>,
}

/// Types from the smallest to the largest: of equal price the smallest is bought.
pub(super) struct Sizes {
    pub smallest_first: Vec<u16>,
    /// By type.
    pub place_of: Vec<u16>,
}

impl Sizes {
    fn of(types: &[&TypeSpec]) -> Self {
        let mut smallest_first: Vec<u16> = (0u16..).zip(types).map(|(id, _)| id).collect();
        smallest_first.sort_by_key(|&id| {
            let spec = types[usize::from(id)];
            (spec.cpu_millis, spec.memory_bytes, id)
        });
        let mut place_of = vec![0; types.len()];
        for (place, &id) in (0u16..).zip(&smallest_first) {
            place_of[usize::from(id)] = place;
        }
        Self { smallest_first, place_of }
    }
}

/// What a class says of each type and zone, whatever the Pod.
pub(super) struct ClassTable {
    pub types: Vec<Result<u32, Unfit>>,
    pub zones: Vec<bool>,
    /// What it allows and no type is known of.
    unknown: Vec<String>,
}

impl<'a> Planner<'a> {
    pub fn new(policy: &'a Policy, market: &'a Market, now: Timestamp) -> Self {
        let Market { catalog, spot, quarantine, free_addresses, not_offered, .. } = market;
        let Catalog { region: _, zones, types } = catalog;
        let mut types: Vec<&TypeSpec> = types.iter().collect();
        types.sort_by(|a, b| a.name.cmp(&b.name));
        types.dedup_by(|a, b| a.name == b.name);
        let mut zones: Vec<&str> = zones.iter().map(String::as_str).collect();
        zones.sort_unstable();
        zones.dedup();
        let pools: Vec<(&TypeSpec, &str)> = types.iter().flat_map(|t| zones.iter().map(|z| (*t, *z))).collect();
        let short = |option: Purchase| {
            pools.iter().map(|(t, z)| quarantine.iter().any(|q| q.holds(option, &t.name, z, now))).collect()
        };
        let reserved = |(t, z): &(&TypeSpec, &str)| {
            policy.reservations.iter().filter(|r| r.instance_type == t.name && r.zone == *z).map(|r| r.count).sum()
        };
        let table = |class: &Class| ClassTable {
            types: types.iter().map(|t| judge(&class.instances, t)).collect(),
            zones: zones
                .iter()
                .map(|z| class.placement.zones.as_ref().is_none_or(|allowed| allowed.iter().any(|a| a == z)))
                .collect(),
            unknown: unknown(&class.instances.allow, &types),
        };
        Self {
            sizes: Sizes::of(&types),
            classes: policy.classes.iter().map(table).collect(),
            spot: pools.iter().map(|(t, z)| spot.get(&(t.name.clone(), (*z).to_owned())).copied()).collect(),
            quarantined: OPTIONS.map(short),
            not_offered: pools.iter().map(|(t, z)| not_offered.contains(&(t.name.clone(), (*z).to_owned()))).collect(),
            commitments: pools.iter().map(|(t, z)| matching(&policy.commitments, t.sku(), z)).collect(),
            reservations: pools.iter().map(reserved).collect(),
            addresses: zones.iter().map(|z| free_addresses.get(*z).copied().unwrap_or(u32::MAX)).collect(),
            policy,
            market,
            types,
            zones,
        }
    }
}

impl Planner<'_> {
    /// What one more instance on demand costs that no class buys, after commitments. None: the market does not have it.
    pub fn classless_price(&self, instance_type: &str, zone: &str, ledger: &Ledger) -> Option<HourlyPrice> {
        let type_id = self.types.binary_search_by(|spec| spec.name.as_str().cmp(instance_type)).ok()?;
        let zone_id = self.zones.binary_search(&zone).ok()?;
        let matching = &self.commitments[type_id * self.zones.len() + zone_id];
        Some(ledger.price_after_commitments(&self.policy.commitments, matching, self.types[type_id].sku()))
    }
}

/// A message's words for more than these are a number.
const MOST_UNKNOWN: usize = 5;

impl Planner<'_> {
    /// The end of a message to a Pod that no type is for: what its class or its annotations name and no type is known of.
    pub(super) fn names_unknown(&self, class: usize, narrowed: &[Vec<TypeSelector>]) -> String {
        let mut names = unknown(narrowed, &self.types);
        names.extend_from_slice(&self.classes[class].unknown);
        names.sort();
        names.dedup();
        let more = names.len().saturating_sub(MOST_UNKNOWN);
        names.truncate(MOST_UNKNOWN);
        match (names.join(", "), more) {
            (names, _) if names.is_empty() => names,
            (names, 0) => format!("; no type is known of {names}"),
            (names, more) => format!("; no type is known of {names} and {more} more"),
        }
    }
}

fn unknown(allow: &[Vec<TypeSelector>], types: &[&TypeSpec]) -> Vec<String> {
    let unknown = |selector: &&TypeSelector| !types.iter().any(|spec| selects(selector, spec));
    allow.iter().flatten().filter(unknown).map(ToString::to_string).collect()
}

/// A type's place in the class's order, or why the class doesn't have it.
pub(super) fn judge(rules: &Instances, spec: &TypeSpec) -> Result<u32, Unfit> {
    let named = |list: &Vec<TypeSelector>| {
        list.iter().any(|s| matches!(s, TypeSelector::Name(glob) if glob.is_exact() && glob.as_str() == spec.name))
    };
    if !rules.allow.iter().all(|list| list.iter().any(|selector| selects(selector, spec))) {
        return Err(Unfit::NotAllowed);
    }
    if rules.deny.iter().any(|glob| glob.matches(&spec.name)) {
        return Err(Unfit::Denied);
    }
    if !rules.architectures.is_empty() && !rules.architectures.contains(&spec.architecture) {
        return Err(Unfit::Architecture);
    }
    let old = |least: u32| spec.generation().is_some_and(|generation| generation < least);
    // One that narrows another must have named it as that one does.
    let named = !rules.allow.is_empty() && rules.allow.iter().all(named);
    if rules.min_generation.is_some_and(old) && !named || rules.strict_generation.is_some_and(old) {
        return Err(Unfit::Generation);
    }
    if spec.burst.is_some() && !rules.burstable {
        return Err(Unfit::Burstable);
    }
    if rules.max_cpu_millis.is_some_and(|max| spec.cpu_millis > max) {
        return Err(Unfit::AboveMaxVcpu);
    }
    if rules.max_memory_bytes.is_some_and(|max| spec.memory_bytes > max) {
        return Err(Unfit::AboveMaxMemory);
    }
    Ok(rules.listed.as_ref().map_or(0, |list| rank(list, spec)))
}

pub(super) fn selects(selector: &TypeSelector, spec: &TypeSpec) -> bool {
    match selector {
        TypeSelector::Name(glob) => glob.matches(&spec.name),
        TypeSelector::Size { cpu_millis, memory_bytes } => {
            spec.cpu_millis == *cpu_millis && spec.memory_bytes == *memory_bytes
        }
    }
}

/// The place in a list of the first selector that has the type.
pub(super) fn rank(list: &[TypeSelector], spec: &TypeSpec) -> u32 {
    let place = list.iter().position(|selector| selects(selector, spec));
    place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX)
}
