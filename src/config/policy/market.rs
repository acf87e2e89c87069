//! Catalogs and price lists.

use super::{Checker, PolicyError, raw};
use crate::decide::purchase::{Burst, Catalog, Market, Origin, Origins, TypeSpec};
use std::collections::BTreeSet;

/// `home`: the region and the zones that are meant where it names none.
pub fn catalog(check: &Checker, raw: raw::Catalog, home: Option<(&str, &[String])>) -> Result<Market, PolicyError> {
    let raw::Catalog { source, date, region, zones, types } = raw;
    let missing = |key: &str| check.error(key, "is missing: expected what the types and prices are of");
    let region = region.or(home.map(|(region, _)| region.to_owned())).ok_or_else(|| missing("region"))?;
    let zones = zones.or(home.map(|(_, zones)| zones.to_vec())).ok_or_else(|| missing("zones"))?;
    if zones.is_empty() {
        return Err(check.error("zones", "is empty: expected at least one zone"));
    }
    let mut seen = BTreeSet::new();
    for (index, zone) in zones.iter().enumerate() {
        if zone.is_empty() || !seen.insert(zone) {
            return Err(check.error(format!("zones[{index}]"), format!("{zone:?} is empty or given twice")));
        }
    }
    let mut names = BTreeSet::new();
    let mut specs = Vec::new();
    for (index, raw) in types.into_iter().enumerate() {
        let key = |field: &str| format!("types[{index}].{field}");
        let raw::CatalogType { name, architecture, cpu, memory, price, burst } = raw;
        if name.is_empty() || !names.insert(name.clone()) {
            return Err(check.error(key("name"), format!("{name:?} is empty or given twice")));
        }
        let cpu_millis = check.cpu(&key("cpu"), &cpu)?;
        let burst = match burst {
            None => None,
            Some(raw::Burst { baseline_percent, surplus }) => Some(Burst {
                baseline_millis: cpu_millis
                    .saturating_mul(u64::from(check.percent(&key("burst.baselinePercent"), baseline_percent)?))
                    / 100,
                surplus: check.price(&key("burst.surplus"), &surplus)?,
            }),
        };
        specs.push(TypeSpec {
            architecture,
            cpu_millis,
            memory_bytes: check.bytes(&key("memory"), &memory)?,
            on_demand: check.price(&key("price"), &price)?,
            burst,
            name,
        });
    }
    if specs.is_empty() {
        return Err(check.error("types", "is empty: expected at least one instance type"));
    }
    let origins = Origins { on_demand: Origin { source, date }, spot: None };
    Ok(Market { catalog: Catalog { region, zones, types: specs }, origins, ..Market::default() })
}

/// Puts a price list over the catalog. A price for a type or zone that the catalog does not have is an error: it would
/// never be used.
pub fn prices(check: &Checker, raw: raw::Prices, market: &mut Market) -> Result<(), PolicyError> {
    let raw::Prices { source, date, on_demand, spot } = raw;
    let catalog = &mut market.catalog;
    for (index, entry) in on_demand.into_iter().enumerate() {
        let key = |field: &str| format!("onDemand[{index}].{field}");
        check.instance_type(&key("type"), &entry.instance_type, catalog)?;
        let price = check.price(&key("price"), &entry.price)?;
        catalog.types.iter_mut().filter(|t| t.name == entry.instance_type).for_each(|t| t.on_demand = price);
        if !market.own_prices.insert(entry.instance_type) {
            return Err(check.error(format!("onDemand[{index}]"), "this type is given twice"));
        }
    }
    for (index, entry) in spot.into_iter().enumerate() {
        let key = |field: &str| format!("spot[{index}].{field}");
        check.instance_type(&key("type"), &entry.instance_type, catalog)?;
        check.zone(&key("zone"), &entry.zone, catalog)?;
        let price = check.price(&key("price"), &entry.price)?;
        if market.spot.insert((entry.instance_type, entry.zone), price).is_some() {
            return Err(check.error(format!("spot[{index}]"), "this type and zone is given twice"));
        }
    }
    let origin = Origin { source, date };
    if !market.own_prices.is_empty() {
        market.origins.on_demand = origin.clone();
    }
    market.origins.spot = (!market.spot.is_empty()).then_some(origin);
    Ok(())
}
