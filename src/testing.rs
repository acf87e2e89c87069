//! What unit tests of all rooms share.

use proptest::test_runner::Config;

/// Where the cases of property tests are asked for more times over: see `scripts/test`.
const TIMES: &str = "PILOTLIGHT_PROPERTY_TIMES";

/// This many cases of a property; what costs more than most says so by a smaller number.
pub fn cases(count: u32) -> Config {
    let times =
        std::env::var(TIMES).ok().map(|text| text.parse::<u32>().expect("PILOTLIGHT_PROPERTY_TIMES is a number"));
    Config::with_cases(count.saturating_mul(times.unwrap_or(1)))
}
