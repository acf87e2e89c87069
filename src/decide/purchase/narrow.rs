//! Annotations that narrow what a class allows; none can widen it.
//!
//! | annotation | narrows |
//! |---|---|
//! | `pilotlight.dev/allow-instance-types` | the types, by names and globs |
//! | `pilotlight.dev/allow-purchase` | the ways of buying |
//! | `pilotlight.dev/max-hourly-price` | the price cap |
//! | `k8s.aliyun.com/eci-…` | what users of Alibaba Cloud ECI know: see [`super::eci`] |

use super::eci;
use super::policy::{Overrides, TypeSelector};
use crate::model::{HourlyPrice, Labels, Purchase};

pub const INSTANCE_TYPES: &str = "pilotlight.dev/allow-instance-types";
pub const PURCHASE: &str = "pilotlight.dev/allow-purchase";
pub const MAX_HOURLY: &str = "pilotlight.dev/max-hourly-price";

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
    pub key: String,
    pub value: String,
    pub expected: String,
}

impl NarrowError {
    pub(super) fn new(key: &str, value: &str, expected: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), expected: expected.into() }
    }
}

/// What a Pod's annotations ask for. One that the policy doesn't permit is refused, not passed over: its
/// author would wait for something that never happens. ECI's are only read where they are opted into.
pub fn narrowing(annotations: &Labels, overrides: Overrides) -> Result<Narrowing, NarrowError> {
    let mut narrowing = Narrowing::default();
    let own = |key: &'static str, permitted: bool| match annotations.get(key) {
        Some(value) if !permitted => {
            Err(NarrowError::new(key, value, "the cost policy does not permit it (overrides)"))
        }
        value => Ok(value),
    };
    if let Some(text) = own(INSTANCE_TYPES, overrides.instance_types)? {
        let globs = words(text).map(|word| word.parse().map(TypeSelector::Name)).collect::<Result<Vec<_>, _>>();
        let globs = globs.map_err(|e| NarrowError::new(INSTANCE_TYPES, text, e.to_string()))?;
        narrowing.allow.push(globs);
    }
    if let Some(text) = own(PURCHASE, overrides.purchase)? {
        let expected = "expected on-demand, spot, burstable and capacity-reservation, separated by commas";
        let options = words(text).map(purchase).collect::<Option<Vec<_>>>();
        narrowing.purchase = Some(options.ok_or_else(|| NarrowError::new(PURCHASE, text, expected))?);
    }
    if let Some(text) = own(MAX_HOURLY, overrides.max_hourly_price)? {
        narrowing.max_hourly = Some(price(MAX_HOURLY, text)?);
    }
    if overrides.eci {
        eci::narrow(annotations, &mut narrowing)?;
    }
    Ok(narrowing)
}

pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn purchase(word: &str) -> Option<Purchase> {
    [Purchase::OnDemand, Purchase::Spot, Purchase::Burstable, Purchase::CapacityReservation]
        .into_iter()
        .find(|option| option.as_str() == word)
}

pub(super) fn price(key: &str, text: &str) -> Result<HourlyPrice, NarrowError> {
    text.parse().map_err(|e: crate::model::PriceError| NarrowError::new(key, text, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Overrides =
        Overrides { instance_types: true, purchase: true, max_hourly_price: true, move_to_class: true, eci: true };

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_annotation_that_is_wrong_or_not_permitted_is_refused_by_name() {
        for (key, value, overrides) in [
            (PURCHASE, "stolen", ALL),
            (PURCHASE, "spot", Overrides::default()),
            (INSTANCE_TYPES, "c6i.[x]", ALL),
            (MAX_HOURLY, "-1", ALL),
        ] {
            let error = narrowing(&labels(&[(key, value)]), overrides).unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_str()), (key, value));
        }
    }
}
