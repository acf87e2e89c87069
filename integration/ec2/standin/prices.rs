//! Spot prices that differ by type, zone and hour, and the types' sizes and on-demand prices. Pure.
//!
//! A pool's price wanders between a fifth and a half of the on-demand price; it follows from names and
//! hour alone, so that every caller sees the same market.

use super::{
    params::Params,
    xml::{leaf, node},
};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use xmltree::XMLNode;

/// What matters here of the product's catalog file.
#[derive(Deserialize)]
pub struct CatalogFile {
    pub region: String,
    pub zones: Vec<String>,
    pub types: Vec<CatalogType>,
}

#[derive(Clone, Deserialize)]
pub struct CatalogType {
    pub name: String,
    pub cpu: u32,
    /// `512Mi`, `4Gi`
    pub memory: String,
    /// Dollars an hour.
    pub price: String,
}

#[derive(Clone, Default)]
pub struct Market(BTreeMap<String, (u32, u64, f64)>);

/// Spot prices change about once an hour.
const STEP: i64 = 3600;
/// How far back DescribeSpotPriceHistory looks (AWS, "Spot Instance pricing history": 90 days; a week
/// is enough for any reader here).
const LONGEST: i64 = 7 * 24 * 3600;

impl Market {
    pub fn new(types: &[CatalogType]) -> Result<Self, String> {
        let known = |t: &CatalogType| {
            let memory = match (t.memory.strip_suffix("Gi"), t.memory.strip_suffix("Mi")) {
                (Some(n), _) => n.parse::<u64>().ok().map(|n| n << 30),
                (_, Some(n)) => n.parse::<u64>().ok().map(|n| n << 20),
                _ => None,
            };
            let wrong = || format!("the catalog's {} has a memory or price that can't be read", t.name);
            Ok((t.name.clone(), (t.cpu, memory.ok_or_else(wrong)?, t.price.parse().map_err(|_| wrong())?)))
        };
        types.iter().map(known).collect::<Result<_, String>>().map(Self)
    }

    /// vCPUs and bytes.
    pub fn size(&self, instance_type: &str) -> Option<(u32, u64)> {
        self.0.get(instance_type).map(|&(cpu, memory, _)| (cpu, memory))
    }

    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn on_demand(&self, instance_type: &str) -> Option<f64> {
        self.0.get(instance_type).map(|&(_, _, price)| price)
    }

    pub fn spot(&self, instance_type: &str, zone: &str, at: Timestamp) -> Option<f64> {
        let base = self.on_demand(instance_type)?;
        let part = |what: String| f64::from(u16::from_be_bytes([hash(&what, 0), hash(&what, 1)])) / 65536.;
        let hour = at.as_second().div_euclid(STEP);
        let level = 0.22 + 0.22 * part(format!("{instance_type} {zone}"));
        let wander = 0.05 * part(format!("{instance_type} {zone} {hour}"));
        Some(((level + wander) * base * 10_000.).round() / 10_000.)
    }

    /// The items of DescribeSpotPriceHistory, newest first; what was valid at the start is the last.
    /// `said`: what a test wants to be said of a pool, by type and zone.
    pub fn history(
        &self,
        params: &Params,
        zones: &[String],
        now: Timestamp,
        said: impl Fn(&str, &str) -> Option<String>,
    ) -> Vec<XMLNode> {
        let time = |name: &str| params.get(name).and_then(|text| text.parse::<Timestamp>().ok());
        let end = time("EndTime").unwrap_or(now).min(now);
        let start = time("StartTime").unwrap_or(now).min(end).max(now - SignedDuration::from_secs(LONGEST));
        let wanted = |names: Vec<String>, name: &str| names.is_empty() || names.iter().any(|n| n == name);
        let mut types = params.list("InstanceType");
        let mut wanted_zones: Vec<String> = params.get("AvailabilityZone").map(str::to_owned).into_iter().collect();
        let mut products = params.list("ProductDescription");
        for filter in params.groups("Filter") {
            match filter.get("Name") {
                Some("instance-type") => types.extend(filter.list("Value")),
                Some("availability-zone") => wanted_zones.extend(filter.list("Value")),
                Some("product-description") => products.extend(filter.list("Value")),
                _ => {}
            }
        }
        let product = "Linux/UNIX";
        if !wanted(products.clone(), product) && !wanted(products, "Linux/UNIX (Amazon VPC)") {
            return Vec::new();
        }
        let hours = (start.as_second().div_euclid(STEP)..=end.as_second().div_euclid(STEP)).rev();
        let mut found = Vec::new();
        for hour in hours {
            let Ok(at) = Timestamp::from_second(hour * STEP) else { continue };
            for instance_type in self.0.keys().filter(|name| wanted(types.clone(), name)) {
                for zone in zones.iter().filter(|zone| wanted(wanted_zones.clone(), zone)) {
                    let Some(price) = self.spot(instance_type, zone, at) else { continue };
                    found.push(node(
                        "item",
                        vec![
                            leaf("instanceType", instance_type),
                            leaf("productDescription", product),
                            leaf("spotPrice", said(instance_type, zone).unwrap_or_else(|| format!("{price:.6}"))),
                            leaf("timestamp", at.to_string()),
                            leaf("availabilityZone", zone),
                        ],
                    ));
                }
            }
        }
        found
    }
}

fn hash(text: &str, byte: usize) -> u8 {
    Sha256::digest(text)[byte]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn market() -> Market {
        let of = |name: &str, price: &str| CatalogType {
            name: name.to_owned(),
            cpu: 2,
            memory: "1Gi".to_owned(),
            price: price.to_owned(),
        };
        Market::new(&[of("t3.micro", "0.0104"), of("c6i.large", "0.085")]).unwrap()
    }

    #[test]
    fn spot_is_cheaper_than_on_demand_and_differs_by_zone_and_hour() {
        let market = market();
        let at = Timestamp::from_second(1_790_000_000).unwrap();
        let of = |zone: &str, at| market.spot("c6i.large", zone, at).unwrap();
        assert_ne!(of("us-east-1a", at), of("us-east-1b", at));
        assert_ne!(of("us-east-1a", at), of("us-east-1a", at + SignedDuration::from_hours(1)));
        assert_eq!(of("us-east-1a", at), of("us-east-1a", at));
        for hour in 0..200 {
            let price = of("us-east-1a", at + SignedDuration::from_hours(hour));
            assert!((0.2 * 0.085..0.5 * 0.085).contains(&price), "{price}");
        }
    }

    #[test]
    fn history_is_narrowed_by_type_zone_product_and_time() {
        let zones = ["us-east-1a".to_owned(), "us-east-1b".to_owned()];
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let count = |pairs: &[(&str, &str)]| market().history(&Params::of(pairs), &zones, now, |_, _| None).len();
        assert_eq!(count(&[]), 4, "what is valid now: two types in two zones");
        assert_eq!(count(&[("InstanceType.1", "t3.micro")]), 2);
        assert_eq!(count(&[("InstanceType.1", "t3.micro"), ("AvailabilityZone", "us-east-1b")]), 1);
        assert_eq!(count(&[("ProductDescription.1", "Windows")]), 0);
        let two_hours_ago = (now - SignedDuration::from_hours(2)).to_string();
        assert_eq!(count(&[("StartTime", &two_hours_ago)]), 12);
    }
}
