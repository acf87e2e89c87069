//! What a cloud says of its types, its prices and its account's instances, taken into the catalog that the user gave. Pure.
//!
//! ```text
//!  told: types, zones, price list, spot, usage ──read, entry by entry──> Known          odd entries: dropped, why
//!                                                                   │
//!  files: policy, catalog, price list ──────────────────────────────┴──merged──> the market that is bought from
//! ```
//!
//! An answer in which nothing is understood changes nothing; what was known stays. So a cloud that refuses, or answers
//! nonsense, leaves the files' figures in use.
//!
//! | of a type | is said by |
//! |---|---|
//! | whether it may be bought | the catalog; or a class's `allow` that names it, if all below is known of it |
//! | vCPUs, memory | the cloud, else the catalog |
//! | CPU baseline, surplus credits | the catalog alone: no interface of EC2 tells them |
//! | on-demand price | the user's price list, else the cloud's, else the catalog |
//! | spot prices | the cloud, else the user's price list |
//! | zones | the cloud, else every zone |
//! | what else runs under the commitments | the cloud, else nothing |
//!
//! [`course`] says when what is asked next.

pub mod course;
mod read;
#[cfg(test)]
mod tests;

pub use read::{Odd, OddWhy};

use super::planner::judge;
use super::policy::{Architecture, Commitment, Policy, TypeSelector};
use super::{Burst, Buying, Catalog, Market, Origin, Others, SpotPrices, TypeSpec};
use crate::model::{HourlyPrice, ListPrice, SoldIn, SoldType, SpotPrice, Usage};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What of the account runs on demand, and is not the cluster's.
    Usage,
    Types,
    Zones,
    OnDemand,
    Spot,
}

impl Kind {
    /// In the order of asking: until usage is told, commitments are taken to be free; what is told of spot is about the types that
    /// are known by then.
    pub const ALL: [Self; 5] = [Self::Usage, Self::Types, Self::Zones, Self::OnDemand, Self::Spot];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Types => "types",
            Self::Zones => "zones",
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
            Self::Usage => "usage",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Types(Vec<SoldType>),
    Zones(Vec<SoldIn>),
    OnDemand(Vec<ListPrice>),
    Spot(Vec<SpotPrice>),
    Usage(Vec<Usage>),
}

/// A type's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub architecture: Architecture,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub burstable: bool,
}

/// All that was understood of what was told, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    types: BTreeMap<String, Facts>,
    /// Type and zone.
    offered: BTreeSet<(String, String)>,
    on_demand: Option<(BTreeMap<String, HourlyPrice>, Timestamp)>,
    spot: Option<(SpotPrices, Timestamp)>,
    usage: read::UsageByPool,
}

/// What became of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Entries that were understood.
    pub entries: usize,
    pub odd: Vec<Odd>,
    /// Otherwise nothing in it was understood, and nothing has changed.
    pub taken: bool,
}

impl Learned {
    /// Takes the answer if something in it was understood.
    fn of(entries: usize, odd: Vec<Odd>, take: impl FnOnce()) -> Self {
        let taken = entries > 0;
        if taken {
            take();
        }
        Self { entries, odd, taken }
    }
}

impl Known {
    /// Takes an answer in the place of the last one of its kind.
    pub fn learn(&mut self, told: &Told, now: Timestamp) -> Learned {
        match told {
            Told::Types(all) => {
                let (types, odd) = read::types(all);
                Learned::of(types.len(), odd, || self.types = types)
            }
            Told::Zones(all) => {
                let (offered, odd) = read::zones(all);
                Learned::of(offered.len(), odd, || self.offered = offered)
            }
            Told::OnDemand(all) => {
                let (prices, odd) = read::on_demand(all);
                Learned::of(prices.len(), odd, || self.on_demand = Some((prices, now)))
            }
            Told::Spot(all) => {
                let (prices, odd) = read::spot(all, now);
                Learned::of(prices.len(), odd, || self.spot = Some((prices, now)))
            }
            Told::Usage(all) if all.is_empty() => {
                // Nothing else of the account runs.
                self.usage.clear();
                Learned { taken: true, ..Learned::default() }
            }
            Told::Usage(all) => {
                let (usage, odd) = read::usage(all);
                Learned::of(usage.len(), odd, || self.usage = usage)
            }
        }
    }

    /// When prices of this kind were told last.
    pub fn told_at(&self, kind: Kind) -> Option<Timestamp> {
        match kind {
            Kind::OnDemand => self.on_demand.as_ref().map(|(_, at)| *at),
            Kind::Spot => self.spot.as_ref().map(|(_, at)| *at),
            Kind::Types | Kind::Zones | Kind::Usage => None,
        }
    }
}

/// What is bought from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    pub market: Market,
    /// Types that the catalog does not have.
    pub added: Vec<String>,
    /// What the cloud said of types of the catalog, or of named ones, and was not taken.
    pub odd: Vec<Odd>,
}

/// The files' market with what is known beside. `source` is the cloud's name. Of the types that the cloud told, only
/// those of an architecture that the catalog's or `architectures` have can be added.
pub fn merged(files: &Buying, known: &Known, architectures: &BTreeSet<Architecture>, source: &str) -> Merged {
    let Buying { policy, market: base } = files;
    let mut odd = Vec::new();
    let mut types: Vec<TypeSpec> = base.catalog.types.iter().map(|spec| updated(spec, base, known, &mut odd)).collect();
    let there: BTreeSet<&str> = base.catalog.types.iter().map(|spec| spec.name.as_str()).collect();
    let fresh = known
        .types
        .iter()
        .filter(|(name, facts)| !there.contains(name.as_str()) && architectures.contains(&facts.architecture));
    let added: Vec<TypeSpec> = fresh.filter_map(|(name, facts)| added(name, facts, policy, known, &mut odd)).collect();
    let names = added.iter().map(|spec| spec.name.clone()).collect();
    types.extend(added);
    let mut origins = base.origins.clone();
    let origin = |at: Timestamp| Origin { source: source.to_owned(), date: at.strftime("%Y-%m-%dT%H:%MZ").to_string() };
    let spot = match &known.spot {
        None => base.spot.clone(),
        Some((prices, at)) => {
            origins.spot = Some(origin(*at));
            let sold = |pool: &(String, String)| {
                base.catalog.zones.contains(&pool.1) && types.iter().any(|spec| spec.name == pool.0)
            };
            prices.iter().filter(|(pool, _)| sold(pool)).map(|(pool, price)| (pool.clone(), *price)).collect()
        }
    };
    if let Some((_, at)) = &known.on_demand {
        origins.on_demand = origin(*at);
    }
    let Catalog { region, zones, types: _ } = base.catalog.clone();
    let not_offered = not_offered(&types, &zones, known);
    let catalog = Catalog { region, zones, types };
    let others = others(policy, &catalog, known);
    Merged { market: Market { catalog, spot, not_offered, origins, others, ..base.clone() }, added: names, odd }
}

/// What else runs under the commitments, at the catalog's prices, else at the price list's.
fn others(policy: &Policy, catalog: &Catalog, known: &Known) -> Vec<Others> {
    let prices = known.on_demand.as_ref().map(|(prices, _)| prices);
    let priced = |name: &String| {
        let spec = catalog.types.iter().find(|spec| spec.name == *name);
        spec.map(|spec| spec.on_demand).or_else(|| prices?.get(name).copied())
    };
    let all = known.usage.iter().map(|((instance_type, zone, reservable), &count)| Others {
        instance_type: instance_type.clone(),
        zone: zone.clone(),
        reservable: *reservable,
        count,
        on_demand: priced(instance_type),
    });
    all.filter(|others| !others.matching(&policy.commitments).is_empty()).collect()
}

/// A type of the catalog, by what is known now.
fn updated(spec: &TypeSpec, base: &Market, known: &Known, odd: &mut Vec<Odd>) -> TypeSpec {
    let mut spec = spec.clone();
    match known.types.get(&spec.name) {
        // The image and the reserve's sizes were chosen by the catalog.
        Some(facts) if facts.architecture != spec.architecture => odd.push(Odd::of(&spec.name, OddWhy::Architecture)),
        Some(facts) if facts.burstable != spec.burst.is_some() => odd.push(Odd::of(&spec.name, OddWhy::Baseline)),
        Some(facts) => {
            let scaled = |burst: Burst| {
                let baseline = u128::from(burst.baseline_millis) * u128::from(facts.cpu_millis)
                    / u128::from(spec.cpu_millis.max(1));
                Burst { baseline_millis: u64::try_from(baseline).unwrap_or(u64::MAX), ..burst }
            };
            spec.burst = spec.burst.map(scaled);
            spec.cpu_millis = facts.cpu_millis;
            spec.memory_bytes = facts.memory_bytes;
        }
        None => {}
    }
    if !base.own_prices.contains(&spec.name)
        && let Some(price) = known.on_demand.as_ref().and_then(|(prices, _)| prices.get(&spec.name))
    {
        spec.on_demand = *price;
    }
    spec
}

/// A type that the catalog does not have, if a class names it and enough is known of it.
fn added(name: &str, facts: &Facts, policy: &Policy, known: &Known, odd: &mut Vec<Odd>) -> Option<TypeSpec> {
    let price = known.on_demand.as_ref().and_then(|(prices, _)| prices.get(name)).copied();
    let mut spec = TypeSpec {
        name: name.to_owned(),
        architecture: facts.architecture,
        cpu_millis: facts.cpu_millis,
        memory_bytes: facts.memory_bytes,
        on_demand: price.unwrap_or_default(),
        burst: None,
    };
    // As one that is burstable it is judged, too: a class that allows none does not name it.
    spec.burst = facts.burstable.then_some(Burst { baseline_millis: 0, surplus: HourlyPrice(0) });
    if !policy.classes.iter().any(|class| !class.instances.allow.is_empty() && judge(&class.instances, &spec).is_ok()) {
        return None;
    }
    match (facts.burstable, price) {
        (true, _) => odd.push(Odd::of(name, OddWhy::Baseline)),
        (false, None) => odd.push(Odd::of(name, OddWhy::NoPrice)),
        (false, Some(_)) => return Some(spec),
    }
    None
}

/// A zone of which nothing was told has everything.
fn not_offered(types: &[TypeSpec], zones: &[String], known: &Known) -> BTreeSet<(String, String)> {
    let told: BTreeSet<&str> = known.offered.iter().map(|(_, zone)| zone.as_str()).collect();
    let pools = types.iter().flat_map(|spec| zones.iter().map(|zone| (spec.name.clone(), zone.clone())));
    pools.filter(|pool| told.contains(pool.1.as_str()) && !known.offered.contains(pool)).collect()
}

/// The names and patterns that types are asked for by: the catalog's, and those that classes allow.
pub fn wanted(files: &Buying) -> BTreeSet<String> {
    let catalog = files.market.catalog.types.iter().map(|spec| spec.name.clone());
    let lists = files.policy.classes.iter().flat_map(|class| class.instances.allow.iter().flatten());
    let named = lists.filter_map(|selector| match selector {
        TypeSelector::Name(glob) => Some(glob.to_string()),
        TypeSelector::Size { .. } => None,
    });
    catalog.chain(named).collect()
}

/// The names and patterns of what commitments pay for; none where there are none.
pub fn committed(policy: &Policy) -> BTreeSet<String> {
    let pattern = |commitment: &Commitment| match commitment {
        Commitment::Zonal { instance_type, .. } => instance_type.clone(),
        Commitment::Regional { family, .. } | Commitment::SavingsPlan { family: Some(family), .. } => {
            format!("{family}.*")
        }
        Commitment::SavingsPlan { family: None, .. } => "*".to_owned(),
    };
    policy.commitments.iter().map(pattern).collect()
}
