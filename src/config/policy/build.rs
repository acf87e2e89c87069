//! raw::Policy -> Policy: defaults filled in, classes resolved, everything checked.

use super::instances::{globs, lower, overlay, own, within};
use super::unlisted::Use;
use super::{Checker, PolicyError, raw, standby};
use crate::decide::purchase::policy::{
    Class, Commitment, CreditMode, Credits, Ice, Instances, Interruption, Limit, Match, Mix, Overrides, Placement,
    Reservation, Scope, Sizing, Step, Ttl,
};
use crate::decide::purchase::{Catalog, Policy, Sku, is_on_demand, type_name};
use crate::model::{HourlyPrice, Purchase};
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// Serves the Pods that no other class matches.
const DEFAULT: &str = "default";
/// For Pods that request nothing; as provider.yaml's defaults.
const DEFAULT_SIZING: Sizing = Sizing::Requests { cpu_millis: 250, memory_bytes: 256 << 20 };

pub fn policy(check: &Checker, raw: raw::Policy, catalog: &Catalog) -> Result<Policy, PolicyError> {
    let raw::Policy { defaults, classes, limits, standby, commitments, reservations, overrides, reserve } = raw;
    let fallback = fallback(check, &defaults, catalog)?;
    let limits = self::limits(check, &limits, &classes)?;
    let mut resolver = Resolver { check, catalog, classes: &classes, fallback: &fallback, done: BTreeMap::new() };
    let mut names = BTreeSet::new();
    for (index, class) in classes.iter().enumerate() {
        if class.name.is_empty() || class.name == DEFAULT || !names.insert(&class.name) {
            let problem = format!("{:?} is empty, given twice or `default`, which is reserved", class.name);
            return Err(check.error(format!("classes[{index}].name"), problem));
        }
    }
    for index in 0..classes.len() {
        let class = resolver.resolve(index, &mut Vec::new())?;
        cap_holds_base(check, index, class, &limits)?;
    }
    let mut resolved: Vec<Class> = resolver.done.into_values().collect();
    resolved.sort_by(|a, b| b.weight.cmp(&a.weight).then_with(|| a.name.cmp(&b.name)));
    let raw::Defaults { ice, ttl, interruption, .. } = defaults;
    let reserve = super::reserve::policy(check, &reserve, &resolved, catalog)?;
    resolved.push(fallback);
    let duration = |key: &str, given: &Option<raw::Duration>| {
        given.as_ref().map(|d| check.duration(&format!("defaults.{key}"), d)).transpose()
    };
    Ok(Policy {
        classes: resolved,
        limits,
        standby: standby::pools(check, standby, catalog)?,
        commitments: self::commitments(check, commitments, catalog)?,
        reservations: self::reservations(check, reservations, catalog)?,
        ice: Ice {
            quarantine: duration("ice.quarantine", &ice.quarantine)?.unwrap_or(SignedDuration::from_mins(3)),
            max_attempts: match ice.max_attempts {
                Some(0) => return Err(check.error("defaults.ice.maxAttempts", "0: expected at least 1")),
                given => given.unwrap_or(4),
            },
        },
        ttl: Ttl {
            launch: duration("ttl.launch", &ttl.launch)?.unwrap_or(SignedDuration::from_mins(5)),
            register: duration("ttl.register", &ttl.register)?.unwrap_or(SignedDuration::from_mins(10)),
            max_lifetime: duration("ttl.maxLifetime", &ttl.max_lifetime)?,
        },
        interruption: Interruption { notice: interruption.notice, rebalance: interruption.rebalance },
        overrides: Overrides {
            instance_types: overrides.instance_types == raw::Permit::Allow,
            purchase: overrides.purchase == raw::Permit::Allow,
            max_hourly_price: overrides.max_hourly_price == raw::PermitPrice::LowerOnly,
            move_to_class: overrides.move_to_class == raw::Permit::Allow,
            eci: overrides.eci == raw::Permit::Allow,
        },
        reserve,
    })
}

/// The class that the defaults make.
fn fallback(check: &Checker, raw: &raw::Defaults, catalog: &Catalog) -> Result<Class, PolicyError> {
    let on_demand = Step {
        option: Purchase::OnDemand,
        allocation: Default::default(),
        min_pools: 0,
        max_percent_of_on_demand: None,
        after_ice: false,
    };
    Ok(Class {
        name: DEFAULT.to_owned(),
        weight: i32::MIN,
        matches: Match::default(),
        purchase: match &raw.purchase {
            Some(list) => steps(check, "defaults.purchase", list)?,
            None => vec![on_demand],
        },
        instances: own(check, "defaults.instances", &raw.instances, catalog)?,
        sizing: raw.sizing.as_ref().map(|s| sizing(check, "defaults.sizing", s)).transpose()?.unwrap_or(DEFAULT_SIZING),
        credits: match &raw.credits {
            Some(given) => credits(check, "defaults.credits", given)?,
            None => Credits { mode: CreditMode::Unlimited, max_surplus: None },
        },
        mix: None,
        placement: match &raw.placement {
            Some(given) => placement(check, "defaults.placement", given, catalog)?,
            None => Placement::default(),
        },
        max_hourly: cap(check, "defaults.maxHourlyPrice", raw.max_hourly_price.as_ref())?,
        use_commitments: raw.commitments.as_ref().is_none_or(|c| c.used),
    })
}

struct Resolver<'a> {
    check: &'a Checker<'a>,
    catalog: &'a Catalog,
    classes: &'a [raw::Class],
    fallback: &'a Class,
    done: BTreeMap<usize, Class>,
}

impl Resolver<'_> {
    /// `path` is what led here: a class in it twice is a cycle.
    fn resolve(&mut self, index: usize, path: &mut Vec<usize>) -> Result<&Class, PolicyError> {
        if !self.done.contains_key(&index) {
            let class = self.make(index, path)?;
            self.done.insert(index, class);
        }
        Ok(&self.done[&index])
    }

    fn make(&mut self, index: usize, path: &mut Vec<usize>) -> Result<Class, PolicyError> {
        let raw = &self.classes[index];
        let at = |field: &str| format!("classes[{index}].{field}");
        let parent = match &raw.narrows {
            None => None,
            Some(name) => {
                path.push(index);
                let Some(parent) = self.classes.iter().position(|class| class.name == *name) else {
                    return Err(self
                        .check
                        .error(at("narrows"), format!("{name:?}: expected the name of another class")));
                };
                if path.contains(&parent) {
                    let names: Vec<&str> =
                        path.iter().chain([&parent]).map(|i| self.classes[*i].name.as_str()).collect();
                    let problem = format!("{}: expected classes that do not narrow each other", names.join(" -> "));
                    return Err(self.check.error(at("narrows"), problem));
                }
                Some(self.resolve(parent, path)?.clone())
            }
        };
        self.class(index, parent.as_ref())
    }

    fn class(&self, index: usize, parent: Option<&Class>) -> Result<Class, PolicyError> {
        let (check, raw) = (self.check, &self.classes[index]);
        let at = |field: &str| format!("classes[{index}].{field}");
        let base = parent.unwrap_or(self.fallback);
        let purchase = match &raw.purchase {
            None => base.purchase.clone(),
            Some(list) => {
                let own = steps(check, &at("purchase"), list)?;
                match parent {
                    Some(parent) => narrower_steps(check, &at("purchase"), own, parent)?,
                    None => own,
                }
            }
        };
        let instances = own(check, &at("instances"), &raw.instances, self.catalog)?;
        let instances: Instances = match parent {
            Some(parent) => within(check, &at("instances"), &raw.instances, instances, &parent.instances)?,
            None => overlay(&raw.instances, instances, &base.instances),
        };
        let own_cap = cap(check, &at("maxHourlyPrice"), raw.max_hourly_price.as_ref())?;
        let mut credits = match &raw.credits {
            Some(given) => self::credits(check, &at("credits"), given)?,
            None => base.credits,
        };
        let mut placement = match &raw.placement {
            Some(given) => self::placement(check, &at("placement"), given, self.catalog)?,
            None => base.placement.clone(),
        };
        if let Some(parent) = parent {
            if parent.credits.mode == CreditMode::Standard {
                credits.mode = CreditMode::Standard;
            }
            credits.max_surplus = lower(credits.max_surplus, parent.credits.max_surplus);
            if let (Some(own), Some(allowed)) = (&mut placement.zones, &parent.placement.zones) {
                own.retain(|zone| allowed.contains(zone));
                if own.is_empty() {
                    let problem = "expected a zone of the class that it narrows";
                    return Err(check.error(at("placement.zones"), problem));
                }
            } else if placement.zones.is_none() {
                placement.zones.clone_from(&parent.placement.zones);
            }
        }
        let given = raw.mix.as_ref().map(|given| mix(check, &at("mix"), given, &purchase)).transpose()?;
        let mix = match parent.and_then(|parent| parent.mix) {
            Some(parents) => narrower_mix(check, &at("mix.groupBy"), given, parents, &purchase)?,
            None => given,
        };
        let uses = raw.commitments.as_ref().map(|c| c.used);
        Ok(Class {
            name: raw.name.clone(),
            weight: raw.weight,
            matches: Match {
                namespaces: globs(check, &at("match.namespaces"), &raw.matches.namespaces)?,
                labels: raw.matches.labels.clone(),
                annotations: raw.matches.annotations.clone(),
                owner_kinds: raw.matches.owner_kinds.clone(),
            },
            purchase,
            instances,
            sizing: match &raw.sizing {
                Some(given) => sizing(check, &at("sizing"), given)?,
                None => base.sizing,
            },
            credits,
            mix,
            placement,
            max_hourly: match parent {
                Some(parent) => lower(own_cap, parent.max_hourly),
                None => own_cap.or(base.max_hourly),
            },
            use_commitments: match parent {
                Some(parent) => uses.unwrap_or(true) && parent.use_commitments,
                None => uses.unwrap_or(base.use_commitments),
            },
        })
    }
}

fn steps(check: &Checker, key: &str, raw: &[raw::Step]) -> Result<Vec<Step>, PolicyError> {
    if raw.is_empty() {
        return Err(check.error(key, "is empty: expected at least one way of buying"));
    }
    let mut seen = Vec::new();
    let mut steps = Vec::new();
    for (index, step) in raw.iter().enumerate() {
        let at = |field: &str| format!("{key}[{index}].{field}");
        if seen.contains(&step.option) {
            return Err(check.error(at("option"), "is given twice: expected each way of buying once"));
        }
        seen.push(step.option);
        if step.after.is_some() && index == 0 {
            return Err(check.error(at("after"), "ice: expected a step before it"));
        }
        if step.max_percent_of_on_demand.is_some() && step.option != raw::BuyOption::Spot {
            return Err(check.error(at("maxPercentOfOnDemand"), "expected with option spot alone"));
        }
        if step.max_percent_of_on_demand == Some(0) {
            return Err(check.error(at("maxPercentOfOnDemand"), "0: expected a percentage above zero"));
        }
        // Nobody wants an instance that may be taken back at a higher price than one that may not.
        let of_spot = (step.option == raw::BuyOption::Spot).then_some(100);
        steps.push(Step {
            option: step.option.into(),
            allocation: step.allocation,
            min_pools: step.min_pools,
            max_percent_of_on_demand: step.max_percent_of_on_demand.or(of_spot),
            after_ice: step.after.is_some(),
        });
    }
    Ok(steps)
}

fn narrower_steps(check: &Checker, key: &str, own: Vec<Step>, parent: &Class) -> Result<Vec<Step>, PolicyError> {
    let narrower = |(index, mut step): (usize, Step)| {
        let Some(theirs) = parent.purchase.iter().find(|theirs| theirs.option == step.option) else {
            let problem = format!("{}: expected a way of buying of class {}", step.option.as_str(), parent.name);
            return Err(check.error(format!("{key}[{index}].option"), problem));
        };
        step.min_pools = step.min_pools.max(theirs.min_pools);
        // As the first step it would have nothing to come after.
        step.after_ice |= theirs.after_ice && index > 0;
        step.max_percent_of_on_demand = lower(step.max_percent_of_on_demand, theirs.max_percent_of_on_demand);
        Ok(step)
    };
    own.into_iter().enumerate().map(narrower).collect()
}

fn sizing(check: &Checker, key: &str, raw: &raw::Sizing) -> Result<Sizing, PolicyError> {
    let cpu_millis = check.cpu(&format!("{key}.requests.cpu"), &raw.requests.cpu)?;
    let memory_bytes = check.bytes(&format!("{key}.requests.memory"), &raw.requests.memory)?;
    Ok(match raw.mode {
        raw::SizingMode::Requests => Sizing::Requests { cpu_millis, memory_bytes },
        raw::SizingMode::Override => Sizing::Override { cpu_millis, memory_bytes },
    })
}

fn credits(check: &Checker, key: &str, raw: &raw::Credits) -> Result<Credits, PolicyError> {
    let max_surplus = cap(check, &format!("{key}.maxSurplusPerHour"), raw.max_surplus_per_hour.as_ref())?;
    Ok(Credits { mode: raw.mode, max_surplus })
}

fn mix(check: &Checker, key: &str, raw: &raw::Mix, purchase: &[Step]) -> Result<Mix, PolicyError> {
    let percent = check.percent(&format!("{key}.onDemandPercentAboveBase"), raw.on_demand_percent_above_base)?;
    if !buys_both_ways(purchase) {
        return Err(check.error(key, "expected spot and a way of buying on demand in the class's purchase"));
    }
    Ok(Mix { on_demand_base: raw.on_demand_base, on_demand_percent_above_base: percent, group_by: raw.group_by })
}

fn buys_both_ways(purchase: &[Step]) -> bool {
    purchase.iter().any(|s| is_on_demand(s.option)) && purchase.iter().any(|s| !is_on_demand(s.option))
}

/// The larger share on demand. None where there is nothing left to mix.
fn narrower_mix(
    check: &Checker,
    key: &str,
    own: Option<Mix>,
    parents: Mix,
    purchase: &[Step],
) -> Result<Option<Mix>, PolicyError> {
    let own = own.unwrap_or(parents);
    if own.group_by != parents.group_by {
        return Err(check.error(key, "expected the same as in the class that it narrows"));
    }
    let mix = Mix {
        on_demand_base: own.on_demand_base.max(parents.on_demand_base),
        on_demand_percent_above_base: own.on_demand_percent_above_base.max(parents.on_demand_percent_above_base),
        group_by: own.group_by,
    };
    Ok(Some(mix).filter(|_| buys_both_ways(purchase)))
}

fn placement(check: &Checker, key: &str, raw: &raw::Placement, catalog: &Catalog) -> Result<Placement, PolicyError> {
    if raw.zones.as_ref().is_some_and(Vec::is_empty) {
        return Err(check.error(format!("{key}.zones"), "is empty: expected zones, or no key at all"));
    }
    for (index, zone) in raw.zones.iter().flatten().enumerate() {
        check.zone_of_node(&format!("{key}.zones[{index}]"), zone, catalog)?;
    }
    Ok(Placement { zones: raw.zones.clone() })
}

fn cap(check: &Checker, key: &str, raw: Option<&raw::Dollars>) -> Result<Option<HourlyPrice>, PolicyError> {
    raw.map(|dollars| check.price(key, dollars)).transpose()
}

fn limits(check: &Checker, raw: &[raw::Limit], classes: &[raw::Class]) -> Result<Vec<Limit>, PolicyError> {
    let mut limits: Vec<Limit> = Vec::new();
    for (index, limit) in raw.iter().enumerate() {
        let raw::Limit { scope, max_hourly, max_instances, on_exceed: raw::OnExceed::Pend } = limit;
        let key = format!("limits[{index}]");
        if let Scope::Class(name) = scope
            && name != DEFAULT
            && !classes.iter().any(|class| class.name == *name)
        {
            let problem = format!("{name:?}: expected the name of a class");
            return Err(check.error(format!("{key}.scope.class"), problem));
        }
        if max_hourly.is_none() && max_instances.is_none() {
            return Err(check.error(key, "expected maxHourly, maxInstances or both"));
        }
        if limits.iter().any(|other| other.scope == *scope) {
            return Err(check.error(format!("{key}.scope"), "is given twice: expected one limit a scope"));
        }
        let max_hourly = cap(check, &format!("{key}.maxHourly"), max_hourly.as_ref())?;
        limits.push(Limit { scope: scope.clone(), max_hourly, max_instances: *max_instances });
    }
    Ok(limits)
}

/// A mix's base that a limit makes impossible is a mistake.
fn cap_holds_base(check: &Checker, index: usize, class: &Class, limits: &[Limit]) -> Result<(), PolicyError> {
    let Some(mix) = class.mix else { return Ok(()) };
    // Of a class that has Pods of one namespace alone, that one's limit is a limit too.
    let namespace = match class.matches.namespaces.as_slice() {
        [one] if one.is_exact() => Some(one.as_str()),
        _ => None,
    };
    let holds = |limit: &&Limit| match &limit.scope {
        Scope::Cluster => true,
        Scope::Namespace(name) => namespace == Some(name),
        Scope::Class(name) => *name == class.name,
    };
    let cap = limits.iter().filter(holds).filter_map(|limit| limit.max_instances).min();
    match cap {
        Some(cap) if cap < mix.on_demand_base => {
            let problem = format!("{}: expected at most the {cap} instances of its limit", mix.on_demand_base);
            Err(check.error(format!("classes[{index}].mix.onDemandBase"), problem))
        }
        _ => Ok(()),
    }
}

fn commitments(check: &Checker, raw: Vec<raw::Commitment>, catalog: &Catalog) -> Result<Vec<Commitment>, PolicyError> {
    let one = |(index, raw): (usize, raw::Commitment)| match raw {
        raw::Commitment::Zonal(raw::Pool { instance_type, zone, count }) => {
            check.covered_type(&format!("commitments[{index}].zonal.type"), &instance_type, catalog)?;
            check.zone(&format!("commitments[{index}].zonal.zone"), &zone, catalog)?;
            Ok(Commitment::Zonal { instance_type, zone, count })
        }
        raw::Commitment::Regional(raw::Regional { instance_type, count }) => {
            let key = format!("commitments[{index}].regional.type");
            check.covered_type(&key, &instance_type, catalog)?;
            let sku = Sku { name: &instance_type, on_demand: HourlyPrice(0) };
            let Some(units) = sku.normalized_units() else {
                return Err(check.error(key, format!("{instance_type:?}: expected a size such as large or 2xlarge")));
            };
            Ok(Commitment::Regional { family: sku.family().to_owned(), units: units.saturating_mul(u64::from(count)) })
        }
        raw::Commitment::SavingsPlan(raw::SavingsPlan { family, hourly, discount_percent }) => {
            let at = |field: &str| format!("commitments[{index}].savingsPlan.{field}");
            if let Some(family) = &family
                && !catalog.types.iter().any(|t| t.family() == family)
            {
                if !type_name::is_family(family) {
                    let problem = format!("{family:?}: expected a family of the catalog, such as c6i");
                    return Err(check.error(at("family"), problem));
                }
                check.note(&at("family"), family, Use::CoverFamily);
            }
            Ok(Commitment::SavingsPlan {
                family,
                hourly: check.price(&at("hourly"), &hourly)?,
                // At a hundred it would pay for everything.
                discount_percent: check.within(&at("discountPercent"), discount_percent, 0..=99)?,
            })
        }
    };
    raw.into_iter().enumerate().map(one).collect()
}

fn reservations(
    check: &Checker,
    raw: Vec<raw::Reservation>,
    catalog: &Catalog,
) -> Result<Vec<Reservation>, PolicyError> {
    let one = |(index, raw): (usize, raw::Reservation)| {
        let raw::Pool { instance_type, zone, count } = raw;
        check.covered_type(&format!("reservations[{index}].type"), &instance_type, catalog)?;
        check.zone(&format!("reservations[{index}].zone"), &zone, catalog)?;
        Ok(Reservation { instance_type, zone, count })
    };
    raw.into_iter().enumerate().map(one).collect()
}
