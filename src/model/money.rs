//! Money as integer micro-dollars: no float ever touches a price.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A price in micro-dollars an hour. `0.0104` $/h is `HourlyPrice(10_400)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HourlyPrice(pub u64);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a price: expected dollars an hour with at most six decimals, such as 0.0104")]
pub struct PriceError(pub String);

impl HourlyPrice {
    /// As [`str::parse`], but with any number of decimals: rounded up to a micro-dollar, so that nothing is
    /// thought to be cheaper than it is.
    pub fn rounded_up(text: &str) -> Result<Self, PriceError> {
        let Some((_, rest)) = text.split_once('.').and_then(|(_, fraction)| fraction.split_at_checked(6)) else {
            return text.parse();
        };
        if !rest.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PriceError(text.to_owned()));
        }
        let Self(down) = text[..text.len() - rest.len()].parse()?;
        let up = u64::from(rest.bytes().any(|b| b != b'0'));
        down.checked_add(up).map(Self).ok_or_else(|| PriceError(text.to_owned()))
    }

    /// The cost of running for `seconds`, rounded up to a micro-dollar.
    pub fn cost_of_seconds(self, seconds: u64) -> u64 {
        let product = u128::from(self.0) * u128::from(seconds);
        u64::try_from(product.div_ceil(3600)).unwrap_or(u64::MAX)
    }
}

impl FromStr for HourlyPrice {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let error = || PriceError(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 6 {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let micros: u64 = format!("{fraction:0<6}").parse().map_err(|_| error())?;
        whole.checked_mul(1_000_000).and_then(|w| w.checked_add(micros)).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for HourlyPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let trimmed = text.trim_end_matches('0');
        f.write_str(trimmed.strip_suffix('.').unwrap_or(trimmed))
    }
}

impl Serialize for HourlyPrice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HourlyPrice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_price_written_and_read_again_is_the_same(micros in 0u64..10_000_000_000) {
            let price = HourlyPrice(micros);
            prop_assert_eq!(price.to_string().parse::<HourlyPrice>(), Ok(price));
        }
    }

    #[test]
    fn a_price_is_refused_unless_it_is_plain_dollars() {
        for bad in ["", "-1", "1e3", "0.0000001", ".5", "1,5", "$1"] {
            assert!(bad.parse::<HourlyPrice>().is_err(), "{bad}");
        }
        assert_eq!("0.0104".parse(), Ok(HourlyPrice(10_400)));
    }

    #[test]
    fn finer_prices_are_rounded_up() {
        for (text, micros) in [
            ("0.0960000000", 96_000),
            ("0.0000001", 1),
            ("1.0000010", 1_000_001),
            ("1.00000101", 1_000_002),
            ("3", 3_000_000),
        ] {
            assert_eq!(HourlyPrice::rounded_up(text), Ok(HourlyPrice(micros)), "{text}");
        }
        for bad in ["", "-1", "1e3", ".5", "0.000000x", "0.1234567-", "99999999999999999999.1234567"] {
            assert!(HourlyPrice::rounded_up(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_started_hour_costs_its_seconds() {
        assert_eq!(HourlyPrice(10_400).cost_of_seconds(3600), 10_400);
        assert_eq!(HourlyPrice(10_400).cost_of_seconds(1), 3);
    }
}
