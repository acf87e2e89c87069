//! Which types a class may take: over the defaults, or within the class that it narrows.

use super::{Checker, PolicyError, raw, unlisted};
use crate::decide::purchase::policy::{Instances, TypeSelector};
use crate::decide::purchase::{Catalog, Glob, GlobError, type_name};

/// What EC2 Fleet is offered at most where nothing is said, as Karpenter has it.
const MAX_CANDIDATES: usize = 60;

/// The section under `key` alone, nothing taken from elsewhere.
pub fn own(check: &Checker, key: &str, raw: &raw::Instances, catalog: &Catalog) -> Result<Instances, PolicyError> {
    let at = |field: &str| format!("{key}.{field}");
    let allow = match &raw.allow {
        None => Vec::new(),
        Some(list) if list.is_empty() => {
            return Err(check.error(at("allow"), "is empty: expected names or globs, or no key at all"));
        }
        Some(list) => {
            let names = types(check, &at("allow"), list, catalog)?;
            for (index, (glob, _)) in names.iter().enumerate().filter(|(_, (_, listed))| !listed) {
                check.note(&at(&format!("allow[{index}]")), glob.as_str(), unlisted::Use::Buy);
            }
            vec![names.into_iter().map(|(glob, _)| TypeSelector::Name(glob)).collect::<Vec<_>>()]
        }
    };
    let listed = match raw.order {
        None | Some(raw::Order::Price) => None,
        Some(raw::Order::Listed) => match allow.first() {
            Some(list) => Some(list.clone()),
            None => return Err(check.error(at("order"), "listed: expected `allow` beside it, whose order is meant")),
        },
    };
    if raw.architectures.as_ref().is_some_and(Vec::is_empty) {
        return Err(check.error(at("architectures"), "is empty: expected amd64, arm64 or both"));
    }
    if raw.max_candidates == Some(0) {
        return Err(check.error(at("maxCandidates"), "0: expected at least 1"));
    }
    Ok(Instances {
        allow,
        deny: types(check, &at("deny"), &raw.deny, catalog)?.into_iter().map(|(glob, _)| glob).collect(),
        architectures: raw.architectures.clone().unwrap_or_default(),
        min_generation: raw.min_generation,
        strict_generation: None,
        burstable: raw.burstable.unwrap_or(false),
        max_cpu_millis: raw.max_vcpu.as_ref().map(|a| check.cpu(&at("maxVcpu"), a)).transpose()?,
        max_memory_bytes: raw.max_memory.as_ref().map(|a| check.bytes(&at("maxMemory"), a)).transpose()?,
        listed,
        max_candidates: raw.max_candidates.map_or(MAX_CANDIDATES, |n| usize::try_from(n).unwrap_or(usize::MAX)),
    })
}

/// Each with whether a type of the catalog has it. What none has, and none of EC2's could have, is refused.
fn types(check: &Checker, key: &str, list: &[String], catalog: &Catalog) -> Result<Vec<(Glob, bool)>, PolicyError> {
    let globs = globs(check, key, list)?;
    let judged = globs.into_iter().enumerate().map(|(index, glob)| {
        let listed = catalog.types.iter().any(|spec| glob.matches(&spec.name));
        if !listed && !type_name::may_be_a_type(&glob) {
            let problem = format!("{:?} is no type of the catalog: {}", glob.as_str(), type_name::EXPECTED);
            return Err(check.error(format!("{key}[{index}]"), problem));
        }
        Ok((glob, listed))
    });
    judged.collect()
}

pub fn globs(check: &Checker, key: &str, list: &[String]) -> Result<Vec<Glob>, PolicyError> {
    let one = |(index, text): (usize, &String)| {
        text.parse().map_err(|e: GlobError| check.error(format!("{key}[{index}]"), e.to_string()))
    };
    list.iter().enumerate().map(one).collect()
}

/// What the class says, else the defaults; denials add up.
pub fn overlay(raw: &raw::Instances, own: Instances, defaults: &Instances) -> Instances {
    let deny = union(&defaults.deny, own.deny);
    let given = raw.allow.is_some();
    Instances {
        listed: if given || raw.order.is_some() { own.listed } else { defaults.listed.clone() },
        allow: if given { own.allow } else { defaults.allow.clone() },
        deny,
        architectures: if raw.architectures.is_some() { own.architectures } else { defaults.architectures.clone() },
        min_generation: own.min_generation.or(defaults.min_generation),
        strict_generation: None,
        burstable: raw.burstable.unwrap_or(defaults.burstable),
        max_cpu_millis: own.max_cpu_millis.or(defaults.max_cpu_millis),
        max_memory_bytes: own.max_memory_bytes.or(defaults.max_memory_bytes),
        max_candidates: if raw.max_candidates.is_some() { own.max_candidates } else { defaults.max_candidates },
    }
}

/// What both the class and its parent allow.
pub fn within(
    check: &Checker,
    key: &str,
    raw: &raw::Instances,
    own: Instances,
    parent: &Instances,
) -> Result<Instances, PolicyError> {
    let mut allow = parent.allow.clone();
    allow.extend(own.allow);
    let architectures = match (own.architectures.is_empty(), parent.architectures.is_empty()) {
        (true, _) => parent.architectures.clone(),
        (false, true) => own.architectures,
        (false, false) => {
            let both: Vec<_> = own.architectures.into_iter().filter(|a| parent.architectures.contains(a)).collect();
            if both.is_empty() {
                let problem = "expected an architecture of the class that it narrows";
                return Err(check.error(format!("{key}.architectures"), problem));
            }
            both
        }
    };
    if raw.burstable == Some(true) && !parent.burstable {
        let problem = "true: expected false, as in the class that it narrows";
        return Err(check.error(format!("{key}.burstable"), problem));
    }
    Ok(Instances {
        allow,
        deny: union(&parent.deny, own.deny),
        architectures,
        min_generation: own.min_generation.max(parent.min_generation),
        strict_generation: if parent.allow.is_empty() { parent.min_generation } else { parent.strict_generation },
        burstable: raw.burstable.unwrap_or(parent.burstable),
        max_cpu_millis: lower(own.max_cpu_millis, parent.max_cpu_millis),
        max_memory_bytes: lower(own.max_memory_bytes, parent.max_memory_bytes),
        listed: if raw.order.is_some() { own.listed } else { parent.listed.clone() },
        max_candidates: if raw.max_candidates.is_some() {
            own.max_candidates.min(parent.max_candidates)
        } else {
            parent.max_candidates
        },
    })
}

/// The lower of two caps, where None is no cap.
pub fn lower<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn union(a: &[Glob], b: Vec<Glob>) -> Vec<Glob> {
    let mut all = a.to_vec();
    all.extend(b.into_iter().filter(|glob| !a.contains(glob)));
    all
}
