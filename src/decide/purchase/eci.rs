//! The annotations that users of Alibaba Cloud ECI know, where the policy opts into them (`overrides.eci`).
//!
//! | annotation under `k8s.aliyun.com/` | |
//! |---|---|
//! | `eci-use-specs` | the types, in order, by names (`ecs.` before them is left off) or `<vCPU>-<memory>` |
//! | `eci-instance-family` | the types, by families |
//! | `eci-spot-strategy` | `NoSpot`: all but spot; `SpotAsPriceGo`: spot; `SpotWithPriceLimit`: spot up to a price |
//! | `eci-spot-price-limit` | that price, dollars an hour |
//! | `eci-spot-fallback` | `true`: on demand where there is no spot |
//! | `eci-fail-strategy` | `fail-back`, `fail-over`: what happens anyway, a Pod waits and is tried again |
//! | `eci-fail-strategy: fail-fast` | refused: a Pod that fails for want of an instance is replaced at once by its controller, without end |
//! | every other `eci-…` | refused by name: nobody should believe that it does something |
//!
//! All of them only narrow what the Pod's class allows.

use super::glob::{Glob, GlobError};
use super::narrow::{NarrowError, Narrowing, price, words};
use super::policy::TypeSelector;
use crate::model::{Labels, Purchase, parse_milli, parse_units};

const PREFIX: &str = "k8s.aliyun.com/eci-";
const SPECS: &str = "k8s.aliyun.com/eci-use-specs";
const FAMILY: &str = "k8s.aliyun.com/eci-instance-family";
const SPOT: &str = "k8s.aliyun.com/eci-spot-strategy";
const SPOT_LIMIT: &str = "k8s.aliyun.com/eci-spot-price-limit";
const SPOT_FALLBACK: &str = "k8s.aliyun.com/eci-spot-fallback";
const FAIL: &str = "k8s.aliyun.com/eci-fail-strategy";

/// Those that are refused, and what does it here.
const REFUSED: &[(&str, &str)] = &[
    ("max-pending-minute", "a Pod waits as long as it takes; activeDeadlineSeconds bounds a Pod's whole life"),
    ("vswitch", "the node is the zone, and its subnets are the provider's (cloud in provider.yaml)"),
    (
        "schedule-strategy",
        "the scheduler chooses the zone, with the node: topologySpreadConstraints or an affinity say how",
    ),
    ("image-cache", "the machine image brings what is pulled beforehand"),
    ("custom-tags", "tags are the provider's (cloud in provider.yaml)"),
    ("extra-ephemeral-storage", "the root volume's size is the provider's (cloud in provider.yaml)"),
    ("instance-id", "it is written by ECI; here pilotlight.dev/instance-id says it"),
    ("instance-spec", "it is written by ECI; here pilotlight.dev/instance-type says it"),
];

const NOT_FAST: &str = "not supported: a Pod waits and is tried again, because a controller would make another of one that \
                        failed at once, and so on; a Job's activeDeadlineSeconds bounds the wait";

pub fn narrow(annotations: &Labels, narrowing: &mut Narrowing) -> Result<(), NarrowError> {
    for (key, value) in annotations {
        if let Some(name) = key.strip_prefix(PREFIX) {
            known(key, name, value)?;
        }
    }
    if let Some(text) = annotations.get(SPECS) {
        let expected = "expected types or sizes such as 2-4Gi,c6i.large";
        let specs = words(text).map(spec).collect::<Option<Vec<_>>>();
        let specs = specs.filter(|s| !s.is_empty()).ok_or_else(|| NarrowError::new(SPECS, text, expected))?;
        narrowing.listed = Some(specs.clone());
        narrowing.allow.push(specs);
    }
    if let Some(text) = annotations.get(FAMILY) {
        let family = |word: &str| format!("{}.*", word.trim_start_matches("ecs.")).parse().map(TypeSelector::Name);
        let globs: Result<Vec<_>, GlobError> = words(text).map(family).collect();
        let globs = globs.map_err(|e| NarrowError::new(FAMILY, text, e.to_string()))?;
        if globs.is_empty() {
            return Err(NarrowError::new(FAMILY, text, "expected families such as c6i,m6i"));
        }
        narrowing.allow.push(globs);
    }
    spot(annotations, narrowing)
}

/// Whether something is made of it; what its value must be is judged where it is used.
fn known(key: &str, name: &str, value: &str) -> Result<(), NarrowError> {
    match key {
        SPECS | FAMILY | SPOT | SPOT_LIMIT | SPOT_FALLBACK => return Ok(()),
        FAIL => {
            return match value {
                "fail-back" | "fail-over" => Ok(()),
                "fail-fast" => Err(NarrowError::new(key, value, NOT_FAST)),
                _ => Err(NarrowError::new(key, value, "expected fail-back or fail-over")),
            };
        }
        _ => {}
    }
    let instead = REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, instead)| *instead);
    Err(NarrowError::new(
        key,
        value,
        match instead {
            Some(instead) => format!("not supported: {instead}"),
            None => "is no annotation that is known here".to_owned(),
        },
    ))
}

fn spot(annotations: &Labels, narrowing: &mut Narrowing) -> Result<(), NarrowError> {
    let get = |key| annotations.get(key).map(String::as_str);
    let limit = get(SPOT_LIMIT);
    let on_demand = [Purchase::OnDemand, Purchase::Burstable, Purchase::CapacityReservation];
    let mut options = match (get(SPOT), limit) {
        (Some("SpotWithPriceLimit"), Some(limit)) => {
            narrowing.max_spot = Some(price(SPOT_LIMIT, limit)?);
            vec![Purchase::Spot]
        }
        (Some(strategy @ "SpotWithPriceLimit"), None) => {
            return Err(NarrowError::new(SPOT, strategy, "expected eci-spot-price-limit beside it"));
        }
        (_, Some(limit)) => {
            return Err(NarrowError::new(SPOT_LIMIT, limit, "expected eci-spot-strategy SpotWithPriceLimit beside it"));
        }
        (Some("NoSpot"), None) => on_demand.to_vec(),
        (Some("SpotAsPriceGo"), None) => vec![Purchase::Spot],
        (Some(other), None) => {
            return Err(NarrowError::new(SPOT, other, "expected NoSpot, SpotAsPriceGo or SpotWithPriceLimit"));
        }
        (None, None) => {
            return get(SPOT_FALLBACK).map_or(Ok(()), |value| {
                Err(NarrowError::new(SPOT_FALLBACK, value, "expected eci-spot-strategy beside it"))
            });
        }
    };
    match get(SPOT_FALLBACK) {
        Some("true") if options == [Purchase::Spot] => options.extend(on_demand),
        None | Some("true" | "false") => {}
        Some(other) => return Err(NarrowError::new(SPOT_FALLBACK, other, "expected true or false")),
    }
    narrowing.purchase = Some(match narrowing.purchase.take() {
        Some(own) => own.into_iter().filter(|option| options.contains(option)).collect(),
        None => options,
    });
    Ok(())
}

fn spec(word: &str) -> Option<TypeSelector> {
    if let Some((cpu, memory)) = word.split_once('-')
        && let (Some(cpu_millis), Some(memory_bytes)) = (parse_milli(cpu), parse_units(memory))
    {
        return Some(TypeSelector::Size { cpu_millis, memory_bytes });
    }
    word.trim_start_matches("ecs.").parse::<Glob>().ok().map(TypeSelector::Name)
}

#[cfg(test)]
mod tests {
    use super::super::narrow::{PURCHASE, narrowing};
    use super::super::policy::Overrides;
    use super::*;
    use crate::model::HourlyPrice;

    const ALL: Overrides =
        Overrides { instance_types: true, purchase: true, max_hourly_price: true, move_to_class: true, eci: true };

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn they_narrow_where_they_are_opted_into_and_mean_nothing_elsewhere() {
        let annotations = labels(&[
            (SPECS, "2-4Gi, ecs.c6i.large"),
            (SPOT, "SpotWithPriceLimit"),
            (SPOT_LIMIT, "0.03"),
            (FAIL, "fail-back"),
        ]);
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
    fn a_spot_strategy_says_which_ways_of_buying_are_left() {
        let firm = vec![Purchase::OnDemand, Purchase::Burstable, Purchase::CapacityReservation];
        let both = [vec![Purchase::Spot], firm.clone()].concat();
        for (pairs, expected) in [
            (&[(SPOT, "NoSpot")][..], firm.clone()),
            (&[(SPOT, "NoSpot"), (SPOT_FALLBACK, "true")], firm),
            (&[(SPOT, "SpotAsPriceGo"), (SPOT_FALLBACK, "false")], vec![Purchase::Spot]),
            (&[(SPOT, "SpotAsPriceGo"), (SPOT_FALLBACK, "true")], both),
            (&[(SPOT, "NoSpot"), (PURCHASE, "spot,on-demand")], vec![Purchase::OnDemand]),
        ] {
            assert_eq!(narrowing(&labels(pairs), ALL).unwrap().purchase, Some(expected), "{pairs:?}");
        }
    }

    #[test]
    fn families_are_taken_by_name() {
        let narrowed = narrowing(&labels(&[(FAMILY, "ecs.c6i, m6i")]), ALL).unwrap();
        let globs = ["c6i.*", "m6i.*"].map(|text| TypeSelector::Name(text.parse().unwrap()));
        assert_eq!(narrowed.allow, [globs]);
    }

    #[test]
    fn whatever_is_not_honoured_is_refused_by_its_name() {
        let mut wrong = vec![
            (SPECS.to_owned(), ""),
            (SPECS.to_owned(), "c6i.[x]"),
            (FAMILY.to_owned(), ""),
            (SPOT.to_owned(), "SpotWithPriceLimit"),
            (SPOT.to_owned(), "Sometimes"),
            (SPOT_LIMIT.to_owned(), "0.03"),
            (SPOT_FALLBACK.to_owned(), "true"),
            (FAIL.to_owned(), "fail-fast"),
            (FAIL.to_owned(), "give-up"),
            (format!("{PREFIX}invented"), "yes"),
        ];
        wrong.extend(REFUSED.iter().map(|(name, _)| (format!("{PREFIX}{name}"), "x")));
        for (key, value) in wrong {
            let error = narrowing(&labels(&[(&key, value)]), ALL).unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_str()), (key.as_str(), value));
            assert!(!error.expected.is_empty());
        }
        // Of another product of theirs: not ours to judge.
        assert!(narrowing(&labels(&[("k8s.aliyun.com/other", "x")]), ALL).is_ok());
    }
}
