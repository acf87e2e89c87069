//! The section `reserve`.

use super::{Checker, PolicyError, instances::globs, raw};
use crate::decide::purchase::{
    Catalog,
    policy::{Class, Sizing as Requested},
};
use crate::decide::reserve::{
    AppliesTo, MOST_SPECS, OnFailure, Parking, Policy, PolicySizing, Unbounded,
    size::{self, Size, Sizing},
};

pub fn policy(
    check: &Checker,
    raw: &raw::Reserve,
    classes: &[Class],
    catalog: &Catalog,
) -> Result<Policy, PolicyError> {
    let raw::Reserve {
        applies_to,
        class,
        sizing,
        max_memory,
        startup_timeout,
        on_failure,
        retry_after,
        parking,
        tags,
        unbounded_concurrency,
    } = raw;
    let mut policy = Policy { tags: *tags, ..Policy::default() };
    if let Some(name) = class {
        match classes.iter().find(|class| class.name == *name) {
            None => {
                let problem = format!("{name:?}: expected the name of a class");
                return Err(check.error("reserve.class", problem));
            }
            Some(Class { sizing: Requested::Override { .. }, .. }) => {
                let problem = format!(
                    "{name:?} buys by its own sizes, whatever a Pod requests: expected a class of sizing.mode requests, \
                     because a reserve requests what its service was seen to need"
                );
                return Err(check.error("reserve.class", problem));
            }
            Some(_) => policy.class.clone_from(name),
        }
    }
    if let Some(sizing) = sizing {
        policy.sizing = self::sizing(check, sizing, catalog)?;
    }
    for (index, to) in applies_to.iter().enumerate() {
        let raw::AppliesTo { namespaces, labels } = to;
        let key = format!("reserve.appliesTo[{index}]");
        if namespaces.is_empty() && labels.is_empty() {
            return Err(check.error(key, "is empty: expected namespaces (`*` for all), labels or both"));
        }
        let namespaces = globs(check, &format!("{key}.namespaces"), namespaces)?;
        policy.applies_to.push(AppliesTo { namespaces, labels: labels.clone() });
    }
    policy.most_memory_bytes = max_memory.as_ref().map(|a| check.bytes("reserve.maxMemory", a)).transpose()?;
    if let Some(startup) = startup_timeout {
        policy.startup = check.duration("reserve.startupTimeout", startup)?;
    }
    if let Some(retry) = retry_after {
        policy.rules.retry_after = check.duration("reserve.retryAfter", retry)?;
    }
    policy.rules.on_failure = match on_failure {
        raw::OnReserveFailure::PlainZero => OnFailure::PlainZero,
        raw::OnReserveFailure::HoldStandard => OnFailure::HoldStandard,
    };
    policy.rules.parking = match parking.as_deref() {
        None | Some("release") => Parking::Release,
        Some("always") => Parking::Always,
        Some(time) => {
            let time = check.duration("reserve.parking", &raw::Duration(time.to_owned())).map_err(|_| {
                check.error("reserve.parking", format!("{time:?}: expected release, always or a duration such as 10m"))
            })?;
            Parking::For(time)
        }
    };
    policy.unbounded = match unbounded_concurrency {
        None => policy.unbounded,
        Some(raw::Concurrency::Bound(bound @ 1..)) => Unbounded::Bound(*bound),
        Some(raw::Concurrency::Word(word)) if word == "refuse" => Unbounded::Refuse,
        Some(other) => {
            let given = match other {
                raw::Concurrency::Bound(bound) => bound.to_string(),
                raw::Concurrency::Word(word) => format!("{word:?}"),
            };
            let problem = format!("{given}: expected a number above zero, or refuse");
            return Err(check.error("reserve.unboundedConcurrency", problem));
        }
    };
    Ok(policy)
}

fn sizing(check: &Checker, raw: &raw::ReserveSizing, catalog: &Catalog) -> Result<PolicySizing, PolicyError> {
    let size = |key: &str, requests: &raw::Requests| {
        Ok(Size {
            cpu_millis: check.cpu(&format!("{key}.cpu"), &requests.cpu)?,
            memory_bytes: check.bytes(&format!("{key}.memory"), &requests.memory)?,
        })
    };
    let sizing = match raw {
        raw::ReserveSizing::Absolute(requests) => Sizing::Absolute(size("reserve.sizing.absolute", requests)?),
        raw::ReserveSizing::Fraction(raw::Fraction { cpu_percent, memory_percent, least }) => Sizing::Fraction {
            cpu_percent: check.percent("reserve.sizing.fraction.cpuPercent", *cpu_percent)?,
            memory_percent: check.percent("reserve.sizing.fraction.memoryPercent", *memory_percent)?,
            least: size("reserve.sizing.fraction.least", least)?,
        },
        raw::ReserveSizing::Listed(list) => {
            let key = "reserve.sizing.listed";
            if list.is_empty() || list.len() > MOST_SPECS {
                let problem = format!("has {} entries: expected 1 to {MOST_SPECS}", list.len());
                return Err(check.error(key, problem));
            }
            for (index, text) in list.iter().enumerate() {
                if catalog.types.iter().all(|known| known.name != *text) && size::parse(text).is_none() {
                    let expected = "expected a type of the catalog, or vCPUs and memory as 1-2Gi";
                    return Err(check.error(format!("{key}[{index}]"), format!("{text:?}: {expected}")));
                }
            }
            return Ok(PolicySizing::Listed(list.clone()));
        }
    };
    Ok(PolicySizing::Given(sizing))
}
