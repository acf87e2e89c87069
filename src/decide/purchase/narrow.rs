//! Annotations that narrow what a class allows; none can widen it.
//!
//! | annotation | narrows |
//! |---|---|
//! | `pilotlight.dev/allow-instance-types` | the types, by names and globs |
//! | `pilotlight.dev/allow-purchase` | the ways of buying |
//! | `pilotlight.dev/max-hourly-price` | the price cap |
//! | `k8s.aliyun.com/eci-use-specs` | the types, in order, by names (`ecs.` before them is left off) or `<vCPU>-<memory>` |
//! | `k8s.aliyun.com/eci-instance-family` | the types, by families |
//! | `k8s.aliyun.com/eci-spot-strategy`, `-price-limit`, `-fallback` | the ways of buying, the cap of spot |

use super::glob::Glob;
use super::policy::{Overrides, TypeSelector};
use crate::model::{HourlyPrice, Labels, Purchase, parse_milli, parse_units};

pub const INSTANCE_TYPES: &str = "pilotlight.dev/allow-instance-types";
pub const PURCHASE: &str = "pilotlight.dev/allow-purchase";
pub const MAX_HOURLY: &str = "pilotlight.dev/max-hourly-price";
pub const ECI_SPECS: &str = "k8s.aliyun.com/eci-use-specs";
pub const ECI_FAMILY: &str = "k8s.aliyun.com/eci-instance-family";
pub const ECI_SPOT: &str = "k8s.aliyun.com/eci-spot-strategy";
pub const ECI_SPOT_LIMIT: &str = "k8s.aliyun.com/eci-spot-price-limit";
pub const ECI_SPOT_FALLBACK: &str = "k8s.aliyun.com/eci-spot-fallback";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// A type must be in each of these lists too.
    pub allow: Vec<Vec<TypeSelector>>,
    pub listed: Option<Vec<TypeSelector>>,
    /// None: all that the class has.
    pub purchase: Option<Vec<Purchase>>,
    pub max_hourly: Option<HourlyPrice>,
    /// For spot alone.
    pub max_spot: Option<HourlyPrice>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}: {value:?}: {expected}")]
pub struct NarrowError {
    pub key: &'static str,
    pub value: String,
    pub expected: String,
}

/// What a Pod's annotations ask for. One that the policy doesn't permit is refused, not passed over: its
/// author would wait for something that never happens. ECI's are only read where they are opted into.
pub fn narrowing(annotations: &Labels, overrides: Overrides) -> Result<Narrowing, NarrowError> {
    let mut narrowing = Narrowing::default();
    let error =
        |key, value: &str, expected: &str| NarrowError { key, value: value.to_owned(), expected: expected.to_owned() };
    let own = |key: &'static str, permitted: bool| match annotations.get(key) {
        Some(value) if !permitted => Err(error(key, value, "the cost policy does not permit it (overrides)")),
        value => Ok(value),
    };
    if let Some(text) = own(INSTANCE_TYPES, overrides.instance_types)? {
        let globs = words(text).map(|word| word.parse().map(TypeSelector::Name)).collect::<Result<Vec<_>, _>>();
        let globs = globs.map_err(|e| error(INSTANCE_TYPES, text, &e.to_string()))?;
        narrowing.allow.push(globs);
    }
    if let Some(text) = own(PURCHASE, overrides.purchase)? {
        let expected = "expected on-demand, spot, burstable and capacity-reservation, separated by commas";
        let options = words(text).map(purchase).collect::<Option<Vec<_>>>();
        narrowing.purchase = Some(options.ok_or_else(|| error(PURCHASE, text, expected))?);
    }
    if let Some(text) = own(MAX_HOURLY, overrides.max_hourly_price)? {
        narrowing.max_hourly = Some(price(MAX_HOURLY, text)?);
    }
    if overrides.eci {
        eci(annotations, &mut narrowing)?;
    }
    Ok(narrowing)
}

fn eci(annotations: &Labels, narrowing: &mut Narrowing) -> Result<(), NarrowError> {
    let error =
        |key, value: &str, expected: &str| NarrowError { key, value: value.to_owned(), expected: expected.to_owned() };
    if let Some(text) = annotations.get(ECI_SPECS) {
        let expected = "expected types or sizes such as 2-4Gi,c6i.large";
        let specs = words(text).map(eci_spec).collect::<Option<Vec<_>>>();
        let specs = specs.filter(|s| !s.is_empty()).ok_or_else(|| error(ECI_SPECS, text, expected))?;
        narrowing.listed = Some(specs.clone());
        narrowing.allow.push(specs);
    }
    if let Some(text) = annotations.get(ECI_FAMILY) {
        let family = |word: &str| format!("{}.*", word.trim_start_matches("ecs.")).parse().map(TypeSelector::Name);
        let globs = words(text).map(family).collect::<Result<Vec<_>, _>>();
        narrowing.allow.push(globs.map_err(|e| error(ECI_FAMILY, text, &e.to_string()))?);
    }
    let Some(strategy) = annotations.get(ECI_SPOT) else { return Ok(()) };
    let on_demand = [Purchase::OnDemand, Purchase::Burstable, Purchase::CapacityReservation];
    let mut options = match strategy.as_str() {
        "NoSpot" => on_demand.to_vec(),
        "SpotAsPriceGo" => vec![Purchase::Spot],
        "SpotWithPriceLimit" => {
            let limit = annotations.get(ECI_SPOT_LIMIT);
            let limit = limit.ok_or_else(|| error(ECI_SPOT, strategy, "expected eci-spot-price-limit beside it"))?;
            narrowing.max_spot = Some(price(ECI_SPOT_LIMIT, limit)?);
            vec![Purchase::Spot]
        }
        _ => return Err(error(ECI_SPOT, strategy, "expected NoSpot, SpotAsPriceGo or SpotWithPriceLimit")),
    };
    match annotations.get(ECI_SPOT_FALLBACK).map(String::as_str) {
        Some("true") => options.extend(on_demand),
        None | Some("false") => {}
        Some(other) => return Err(error(ECI_SPOT_FALLBACK, other, "expected true or false")),
    }
    narrowing.purchase = Some(match narrowing.purchase.take() {
        Some(own) => own.into_iter().filter(|option| options.contains(option)).collect(),
        None => options,
    });
    Ok(())
}

fn eci_spec(word: &str) -> Option<TypeSelector> {
    if let Some((cpu, memory)) = word.split_once('-')
        && let (Some(cpu_millis), Some(memory_bytes)) = (parse_milli(cpu), parse_units(memory))
    {
        return Some(TypeSelector::Size { cpu_millis, memory_bytes });
    }
    word.trim_start_matches("ecs.").parse::<Glob>().ok().map(TypeSelector::Name)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn purchase(word: &str) -> Option<Purchase> {
    [Purchase::OnDemand, Purchase::Spot, Purchase::Burstable, Purchase::CapacityReservation]
        .into_iter()
        .find(|option| option.as_str() == word)
}

fn price(key: &'static str, text: &str) -> Result<HourlyPrice, NarrowError> {
    text.parse().map_err(|e: crate::model::PriceError| NarrowError {
        key,
        value: text.to_owned(),
        expected: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Overrides = Overrides { instance_types: true, purchase: true, max_hourly_price: true, eci: true };

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn eci_annotations_narrow_where_they_are_opted_into() {
        let annotations =
            labels(&[(ECI_SPECS, "2-4Gi, ecs.c6i.large"), (ECI_SPOT, "SpotWithPriceLimit"), (ECI_SPOT_LIMIT, "0.03")]);
        let narrowed = narrowing(&annotations, ALL).unwrap();
        let specs = vec![
            TypeSelector::Size { cpu_millis: 2000, memory_bytes: 4 << 30 },
            TypeSelector::Name("c6i.large".parse().unwrap()),
        ];
        assert_eq!(narrowed.listed, Some(specs));
        assert_eq!(narrowed.purchase, Some(vec![Purchase::Spot]));
        assert_eq!(narrowed.max_spot, Some(HourlyPrice(30_000)));
        assert_eq!(narrowing(&annotations, Overrides { eci: false, ..ALL }), Ok(Narrowing::default()));
    }

    #[test]
    fn an_annotation_that_is_wrong_or_not_permitted_is_refused_by_name() {
        for (key, value, overrides) in [
            (PURCHASE, "stolen", ALL),
            (PURCHASE, "spot", Overrides::default()),
            (INSTANCE_TYPES, "c6i.[x]", ALL),
            (MAX_HOURLY, "-1", ALL),
            (ECI_SPECS, "", ALL),
            (ECI_SPOT, "SpotWithPriceLimit", ALL),
            (ECI_SPOT, "Sometimes", ALL),
        ] {
            let error = narrowing(&labels(&[(key, value)]), overrides).unwrap_err();
            assert_eq!((error.key, error.value.as_str()), (key, value));
        }
    }

    #[test]
    fn two_annotations_on_purchase_allow_only_what_both_do() {
        let both = labels(&[(PURCHASE, "spot,on-demand"), (ECI_SPOT, "NoSpot")]);
        assert_eq!(narrowing(&both, ALL).unwrap().purchase, Some(vec![Purchase::OnDemand]));
    }
}
