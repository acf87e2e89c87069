//! What can be bought: types, zones, prices, what is short.

use super::ledger::matching;
use super::policy::{Architecture, Commitment};
use crate::model::{HourlyPrice, Purchase};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The types and zones of a region, with on-demand prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    pub region: String,
    pub zones: Vec<String>,
    pub types: Vec<TypeSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeSpec {
    pub name: String,
    pub architecture: Architecture,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub on_demand: HourlyPrice,
    pub burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Of all its vCPUs together.
    pub baseline_millis: u64,
    /// Surplus credits, for a vCPU-hour.
    pub surplus: HourlyPrice,
}

/// A type as bills know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sku<'a> {
    pub name: &'a str,
    pub on_demand: HourlyPrice,
}

impl<'a> Sku<'a> {
    /// `c6i` of `c6i.large`.
    pub fn family(self) -> &'a str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    /// The size's normalization factor in hundredths (AWS: Reserved Instances, instance size flexibility).
    pub fn normalized_units(self) -> Option<u64> {
        let size = self.name.split_once('.')?.1;
        Some(match size {
            "nano" => 25,
            "micro" => 50,
            "small" => 100,
            "medium" => 200,
            "large" => 400,
            "xlarge" => 800,
            _ => size.strip_suffix("xlarge")?.parse::<u64>().ok()?.checked_mul(800)?,
        })
    }
}

impl TypeSpec {
    pub fn sku(&self) -> Sku<'_> {
        Sku { name: &self.name, on_demand: self.on_demand }
    }

    /// See [`Sku::family`].
    pub fn family(&self) -> &str {
        self.sku().family()
    }

    /// `6` of `c6i.large`: the first number of the family's name.
    pub fn generation(&self) -> Option<u32> {
        let digits = |c: char| c.is_ascii_digit();
        let family = self.family();
        let rest = &family[family.find(digits)?..];
        rest[..rest.find(|c| !digits(c)).unwrap_or(rest.len())].parse().ok()
    }

    /// See [`Sku::normalized_units`].
    pub fn normalized_units(&self) -> Option<u64> {
        self.sku().normalized_units()
    }

    /// What an hour costs beyond its price if `cpu_millis` are used all the time; rounded up.
    pub fn surplus(&self, cpu_millis: u64) -> HourlyPrice {
        let cost = |burst: Burst| {
            let above = u128::from(cpu_millis.saturating_sub(burst.baseline_millis));
            u64::try_from((above * u128::from(burst.surplus.0)).div_ceil(1000)).unwrap_or(u64::MAX)
        };
        HourlyPrice(self.burst.map_or(0, cost))
    }
}

/// What is bought by: all that may change while a provider runs.
#[derive(Clone, Debug)]
pub struct Buying {
    pub policy: super::Policy,
    /// Without quarantine.
    pub market: Market,
}

/// By type and zone.
pub type SpotPrices = BTreeMap<(String, String), HourlyPrice>;

/// A catalog with what changes by the hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Market {
    pub catalog: Catalog,
    /// A pool without a price is not offered.
    pub spot: SpotPrices,
    /// What an instance keeps for itself.
    pub reserved_memory_bytes: u64,
    pub quarantine: Vec<Quarantine>,
    /// Free addresses in a zone's subnets; None where nothing is known.
    pub free_addresses: BTreeMap<String, u32>,
    /// Types that a zone does not have.
    pub not_offered: BTreeSet<(String, String)>,
    /// Types whose on-demand price the user has given: no other is believed.
    pub own_prices: BTreeSet<String>,
    /// What else of the account commitments pay for, before they pay for anything of the cluster.
    pub others: Vec<Others>,
    pub origins: Origins,
}

impl Market {
    /// Where no spot price is known, one of so many percent of on demand, rounded up; its origin says so.
    pub fn assume_spot(&mut self, percent: u32) {
        for spec in &self.catalog.types {
            let assumed = (u128::from(spec.on_demand.0) * u128::from(percent)).div_ceil(100);
            let assumed = HourlyPrice(u64::try_from(assumed).unwrap_or(u64::MAX));
            for zone in &self.catalog.zones {
                self.spot.entry((spec.name.clone(), zone.clone())).or_insert(assumed);
            }
        }
        let assumption = format!("an assumption: {percent} % of on demand");
        self.origins.spot = Some(match self.origins.spot.take() {
            Some(known) => Origin { source: format!("{}; elsewhere {assumption}", known.source), ..known },
            None => Origin { source: assumption, date: String::new() },
        });
    }
}

/// Instances of the account that run on demand and are not the cluster's, of one type and zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Others {
    pub instance_type: String,
    pub zone: String,
    /// See [`crate::model::Usage::reservable`].
    pub reservable: bool,
    pub count: u32,
    /// With Linux, as a lower bound for others. None: no list has it.
    pub on_demand: Option<HourlyPrice>,
}

impl Others {
    /// Of an unknown price, units are counted all the same, and of a Savings Plan next to nothing.
    pub(super) fn sku(&self) -> Sku<'_> {
        Sku { name: &self.instance_type, on_demand: self.on_demand.unwrap_or(HourlyPrice(1)) }
    }

    /// The commitments that pay for them, in the cloud's order.
    pub(super) fn matching(&self, commitments: &[Commitment]) -> Vec<usize> {
        let mut all = matching(commitments, self.sku(), &self.zone);
        all.retain(|&number| self.reservable || matches!(commitments[number], Commitment::SavingsPlan { .. }));
        all
    }
}

/// Where prices are from, and of when they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origins {
    pub on_demand: Origin,
    /// None: there are no spot prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot: Option<Origin>,
}

impl std::fmt::Display for Origins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "on demand {}; spot ", self.on_demand)?;
        match &self.spot {
            Some(spot) => spot.fmt(f),
            None => f.write_str("none are known"),
        }
    }
}

/// In the words of a file, or of a cloud that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    pub source: String,
    pub date: String,
}

impl Origin {
    /// The first moment of its date: of `2026`, `2026-07`, `2026-07-31` or a time. None for other words.
    pub fn began(&self) -> Option<Timestamp> {
        let text = self.date.trim();
        let whole = match text.len() {
            4 => format!("{text}-01-01"),
            7 => format!("{text}-01"),
            10 => text.to_owned(),
            _ => return text.parse().ok(),
        };
        let date: jiff::civil::Date = whole.parse().ok()?;
        Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.date.as_str(), self.source.as_str()) {
            ("", "") => f.write_str("of no stated date and source"),
            ("", source) => write!(f, "undated, from {source}"),
            (date, "") => write!(f, "{date}, from no stated source"),
            (date, source) => write!(f, "{date}, from {source}"),
        }
    }
}

/// What the cloud had no capacity for. None stands for every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    pub option: Option<Purchase>,
    pub instance_type: Option<String>,
    pub zone: Option<String>,
    pub until: Timestamp,
}

impl Quarantine {
    pub fn holds(&self, option: Purchase, instance_type: &str, zone: &str, now: Timestamp) -> bool {
        self.until > now
            && self.option.is_none_or(|o| o == option)
            && self.instance_type.as_ref().is_none_or(|t| t == instance_type)
            && self.zone.as_ref().is_none_or(|z| z == zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> TypeSpec {
        TypeSpec {
            name: name.into(),
            architecture: Architecture::Amd64,
            cpu_millis: 2000,
            memory_bytes: 1 << 30,
            on_demand: HourlyPrice(10_400),
            burst: Some(Burst { baseline_millis: 200, surplus: HourlyPrice(50_000) }),
        }
    }

    #[test]
    fn a_name_tells_family_generation_and_size() {
        for (name, family, generation, units) in [
            ("c6i.large", "c6i", Some(6), Some(400)),
            ("t4g.nano", "t4g", Some(4), Some(25)),
            ("m7g.16xlarge", "m7g", Some(7), Some(12_800)),
            ("u-6tb1.metal", "u-6tb1", Some(6), None),
            ("odd", "odd", None, None),
        ] {
            let spec = named(name);
            assert_eq!(
                (spec.family(), spec.generation(), spec.normalized_units()),
                (family, generation, units),
                "{name}"
            );
        }
    }

    #[test]
    fn a_price_lists_date_is_its_first_moment() {
        let began =
            |date: &str| Origin { source: String::new(), date: date.to_owned() }.began().map(|at| at.to_string());
        for date in ["2026-07", "2026-07-01", "2026-07-01T00:00:00Z"] {
            assert_eq!(began(date).as_deref(), Some("2026-07-01T00:00:00Z"), "{date}");
        }
        for date in ["", "July", "2026-13", "last week"] {
            assert_eq!(began(date), None, "{date}");
        }
    }

    #[test]
    fn an_assumed_spot_price_stands_only_where_none_is_known_and_says_what_it_is() {
        let mut market = Market {
            catalog: Catalog {
                region: "r".into(),
                zones: vec!["a".into(), "b".into()],
                types: vec![named("t3.micro")],
            },
            spot: [(("t3.micro".to_owned(), "a".to_owned()), HourlyPrice(3_000))].into(),
            ..Market::default()
        };
        market.assume_spot(33);
        let prices: Vec<u64> = market.spot.values().map(|price| price.0).collect();
        assert_eq!(prices, [3_000, 3_432]);
        assert_eq!(market.origins.spot.unwrap().to_string(), "undated, from an assumption: 33 % of on demand");
    }

    #[test]
    fn surplus_is_paid_only_above_the_baseline() {
        assert_eq!(named("t3.micro").surplus(200), HourlyPrice(0));
        assert_eq!(named("t3.micro").surplus(1200), HourlyPrice(50_000));
        assert_eq!(named("t3.micro").surplus(201), HourlyPrice(50));
    }
}
