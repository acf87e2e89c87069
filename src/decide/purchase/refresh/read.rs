//! A cloud's entries, read one by one: what can't be right is dropped, with the reason.

use super::Facts;
use crate::decide::purchase::{SpotPrices, policy::Architecture};
use crate::model::{HourlyPrice, ListPrice, SoldIn, SoldType, SpotPrice, Usage};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// What EC2 says of itself is far below these; what is above is no size and no price.
const MOST_VCPUS: i64 = 4096;
const MOST_MEMORY_MIB: i64 = 64 << 20;
const DEAREST: HourlyPrice = HourlyPrice(10_000 * 1_000_000);
/// Clocks differ.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// The same machines: the second name is of accounts that also have EC2-Classic.
const PRODUCTS: [&str; 2] = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"];

/// An entry that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{subject} {}", .why.message())]
pub struct Odd {
    /// The type, and the zone if it is of one.
    pub subject: String,
    pub why: OddWhy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OddWhy {
    Name,
    Size,
    Architecture,
    /// Burstable, and nobody says its baseline; or the catalog says one, and it is not burstable.
    Baseline,
    Price,
    NoPrice,
    Product,
    Future,
}

impl OddWhy {
    /// One of a few words, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Size => "size",
            Self::Architecture => "architecture",
            Self::Baseline => "baseline",
            Self::Price => "price",
            Self::NoPrice => "no-price",
            Self::Product => "product",
            Self::Future => "future",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::Name => "is no name of an instance type or zone",
            Self::Size => "has no size that can be right",
            Self::Architecture => "has another architecture than amd64, arm64 or the catalog's",
            Self::Baseline => "is burstable without a baseline in the catalog, or has one there and is not",
            Self::Price => "has a price that can't be right",
            Self::NoPrice => "has no on-demand price in any list",
            Self::Product => "is of another product than Linux/UNIX",
            Self::Future => "has a price of the future",
        }
    }
}

impl Odd {
    pub fn of(subject: impl Into<String>, why: OddWhy) -> Self {
        Self { subject: subject.into(), why }
    }
}

fn is_word(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(fine)
}

/// `c6i.large`
fn is_type(name: &str) -> bool {
    name.split_once('.').is_some_and(|(family, size)| is_word(family) && is_word(size))
}

fn price(text: &str) -> Option<HourlyPrice> {
    HourlyPrice::rounded_up(text).ok().filter(|price| *price > HourlyPrice(0) && *price <= DEAREST)
}

/// Sorts entries into those that are understood and the odd ones. `better`: of two for one thing, whether the second is taken.
fn each<T, K: Ord, V>(
    all: &[T],
    read: impl Fn(&T) -> Result<(K, V), Odd>,
    better: impl Fn(&V, &V) -> bool,
) -> (BTreeMap<K, V>, Vec<Odd>) {
    let (mut found, mut odd) = (BTreeMap::new(), Vec::new());
    for one in all {
        match read(one) {
            Ok((key, value)) => match found.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(mut taken) if better(taken.get(), &value) => {
                    taken.insert(value);
                }
                Entry::Occupied(_) => {}
            },
            Err(entry) => odd.push(entry),
        }
    }
    (found, odd)
}

/// Of two entries for one type, the smaller machine: no Pod is put where it might not fit.
pub fn types(all: &[SoldType]) -> (BTreeMap<String, Facts>, Vec<Odd>) {
    let read = |sold: &SoldType| {
        let wrong = |why| Err(Odd::of(&sold.name, why));
        if !is_type(&sold.name) {
            return wrong(OddWhy::Name);
        }
        let has = |word: &str| sold.architectures.iter().any(|a| a == word);
        let architecture = match (has("x86_64"), has("arm64")) {
            (true, _) => Architecture::Amd64,
            (false, true) => Architecture::Arm64,
            (false, false) => return wrong(OddWhy::Architecture),
        };
        let within = |number: Option<i64>, most: i64| {
            number.filter(|n| (1..=most).contains(n)).and_then(|n| u64::try_from(n).ok())
        };
        let (Some(vcpus), Some(mib)) = (within(sold.vcpus, MOST_VCPUS), within(sold.memory_mib, MOST_MEMORY_MIB))
        else {
            return wrong(OddWhy::Size);
        };
        let facts =
            Facts { architecture, cpu_millis: vcpus * 1000, memory_bytes: mib << 20, burstable: sold.burstable };
        Ok((sold.name.clone(), facts))
    };
    let key = |facts: &Facts| (facts.memory_bytes, facts.cpu_millis, facts.burstable, facts.architecture);
    each(all, read, |old, new| key(new) < key(old))
}

pub fn zones(all: &[SoldIn]) -> (BTreeSet<(String, String)>, Vec<Odd>) {
    let read = |sold: &SoldIn| {
        if is_type(&sold.instance_type) && is_word(&sold.zone) {
            Ok(((sold.instance_type.clone(), sold.zone.clone()), ()))
        } else {
            Err(Odd::of(format!("{} in {}", sold.instance_type, sold.zone), OddWhy::Name))
        }
    };
    let (found, odd) = each(all, read, |(), ()| false);
    (found.into_keys().collect(), odd)
}

/// By type, zone, and whether Reserved Instances may pay for it.
pub type UsageByPool = BTreeMap<(String, String, bool), u32>;

/// Two entries of one pool add up.
pub fn usage(all: &[Usage]) -> (UsageByPool, Vec<Odd>) {
    let (mut found, mut odd) = (UsageByPool::new(), Vec::new());
    for Usage { instance_type, zone, reservable, instances } in all {
        if is_type(instance_type) && is_word(zone) {
            let count = found.entry((instance_type.clone(), zone.clone(), *reservable)).or_default();
            *count = count.saturating_add(*instances);
        } else {
            odd.push(Odd::of(format!("{instance_type} in {zone}"), OddWhy::Name));
        }
    }
    (found, odd)
}

/// Of two prices for one type, the higher.
pub fn on_demand(all: &[ListPrice]) -> (BTreeMap<String, HourlyPrice>, Vec<Odd>) {
    let read = |listed: &ListPrice| {
        let name = &listed.instance_type;
        if !is_type(name) {
            return Err(Odd::of(name, OddWhy::Name));
        }
        price(&listed.price).map(|price| (name.clone(), price)).ok_or_else(|| Odd::of(name, OddWhy::Price))
    };
    each(all, read, |old, new| new > old)
}

/// The latest of each pool; of two of the same moment the higher.
pub fn spot(all: &[SpotPrice], now: Timestamp) -> (SpotPrices, Vec<Odd>) {
    let latest = now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX);
    let read = |sold: &SpotPrice| {
        let SpotPrice { instance_type, zone, product, price: text, since } = sold;
        let wrong = |why| Err(Odd::of(format!("{instance_type} in {zone}"), why));
        if !is_type(instance_type) || !is_word(zone) {
            return wrong(OddWhy::Name);
        }
        if !PRODUCTS.contains(&product.as_str()) {
            return wrong(OddWhy::Product);
        }
        if *since > latest {
            return wrong(OddWhy::Future);
        }
        match price(text) {
            Some(price) => Ok(((instance_type.clone(), zone.clone()), (*since, price))),
            None => wrong(OddWhy::Price),
        }
    };
    let (found, odd) = each(all, read, |old, new| new > old);
    (found.into_iter().map(|(pool, (_, price))| (pool, price)).collect(), odd)
}
