//! A class that `narrows` another, as the policy file is read: whatever it buys, what it narrows allows too, and so do
//! its own words.
//!
//! What is allowed is the oracle's [`Question::shelf`], where nothing is preferred: types, denials, architecture,
//! generation, burstable types and their credits, sizes, zones, ways of paying with their caps and `minPools`, the
//! price; and a mix has the same or a larger share on demand. A class's own are its sizing, match and weight, the limits
//! of its name, and what it likes best of what is left: the order of ways of paying and of types, and
//! `after`, which means nothing on the first way.

use super::*;
use crate::config::{Source, policy::policy_of};
use oracle::share;
use serde_json::{Map, Value, json};

const CHAIN: [&str; 3] = ["web", "part", "bit"];

/// A class, or the defaults, as written.
#[derive(Clone, Debug, Default, PartialEq)]
struct Written {
    purchase: Option<Vec<Step>>,
    allow: Option<Vec<&'static str>>,
    listed: bool,
    deny: Vec<&'static str>,
    architectures: Option<Vec<Architecture>>,
    min_generation: Option<u32>,
    burstable: Option<bool>,
    max_cpu_millis: Option<u64>,
    max_memory_bytes: Option<u64>,
    max_candidates: Option<u32>,
    sizing: Option<Sizing>,
    credits: Option<Credits>,
    mix: Option<Mix>,
    zones: Option<Vec<&'static str>>,
    cap: Option<u64>,
    commitments: Option<bool>,
}

fn dollars(micros: u64) -> String {
    format!("0.{micros:06}")
}

impl Written {
    fn json(&self) -> Map<String, Value> {
        let steps = |steps: &Vec<Step>| -> Vec<Value> {
            let one = |step: &Step| {
                let mut one = json!({"option": step.option.as_str(), "minPools": step.min_pools});
                if let Some(percent) = step.max_percent_of_on_demand {
                    one["maxPercentOfOnDemand"] = percent.into();
                }
                if step.after_ice {
                    one["after"] = "ice".into();
                }
                one
            };
            steps.iter().map(one).collect()
        };
        let instances = json!({
            "allow": self.allow,
            "order": self.listed.then_some("listed"),
            "deny": self.deny,
            "architectures": self.architectures,
            "minGeneration": self.min_generation,
            "burstable": self.burstable,
            "maxVcpu": self.max_cpu_millis.map(|n| format!("{n}m")),
            "maxMemory": self.max_memory_bytes,
            "maxCandidates": self.max_candidates,
        });
        let sizing = self.sizing.map(|sizing| {
            let (mode, cpu, memory) = match sizing {
                Sizing::Override { cpu_millis, memory_bytes } => ("override", cpu_millis, memory_bytes),
                Sizing::Requests { cpu_millis, memory_bytes } => ("requests", cpu_millis, memory_bytes),
            };
            json!({"mode": mode, "requests": {"cpu": format!("{cpu}m"), "memory": memory}})
        });
        let mix = self.mix.map(|mix| {
            json!({
                "onDemandBase": mix.on_demand_base,
                "onDemandPercentAboveBase": mix.on_demand_percent_above_base,
                "groupBy": mix.group_by,
            })
        });
        let credits = self.credits.map(
            |credits| json!({"mode": credits.mode, "maxSurplusPerHour": credits.max_surplus.map(|max| dollars(max.0))}),
        );
        let all = json!({
            "purchase": self.purchase.as_ref().map(steps),
            "instances": instances,
            "sizing": sizing,
            "credits": credits,
            "mix": mix,
            "placement": self.zones.as_ref().map(|zones| json!({"zones": zones})),
            "maxHourlyPrice": self.cap.map(dollars),
            "commitments": self.commitments.map(|used| json!({"use": used})),
        });
        without_nulls(all).as_object().cloned().unwrap_or_default()
    }

    /// A class of these words alone: what they do not speak of is allowed.
    fn alone(&self, parent: &Class) -> Class {
        let anyhow = || OPTIONS.map(step).to_vec();
        let own: Option<Vec<TypeSelector>> = self.allow.as_deref().map(names);
        Class {
            instances: Instances {
                // Without a list of its own its types are named as its parent names them.
                allow: own.map_or_else(|| parent.instances.allow.clone(), |own| vec![own]),
                deny: self.deny.iter().map(|glob| glob.parse().unwrap()).collect(),
                architectures: self.architectures.clone().unwrap_or_default(),
                min_generation: self.min_generation,
                burstable: self.burstable.unwrap_or(true),
                max_cpu_millis: self.max_cpu_millis,
                max_memory_bytes: self.max_memory_bytes,
                ..Instances::default()
            },
            credits: self.credits.unwrap_or(Credits { mode: CreditMode::Unlimited, max_surplus: None }),
            placement: Placement { zones: self.zones.as_ref().map(|all| strings(all)) },
            max_hourly: self.cap.map(HourlyPrice),
            use_commitments: self.commitments.unwrap_or(true),
            ..class("alone", 0, self.purchase.clone().unwrap_or_else(anyhow))
        }
    }
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(all) => all
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        other => other,
    }
}

/// What a class has, as far as the file's reader refuses another that asks for more.
#[derive(Clone, Debug)]
struct Has {
    options: Vec<Purchase>,
    burstable: bool,
    zones: Vec<&'static str>,
    architectures: Vec<Architecture>,
    group_by: Option<GroupBy>,
}

impl Has {
    fn both_ways(&self) -> bool {
        self.options.contains(&Purchase::Spot) && self.options.len() > 1
    }

    /// With what a class says in place of this.
    fn and(&self, own: &Written) -> Self {
        let options: Option<Vec<Purchase>> =
            own.purchase.as_ref().map(|steps| steps.iter().map(|step| step.option).collect());
        let has = Self {
            options: options.unwrap_or_else(|| self.options.clone()),
            burstable: own.burstable.unwrap_or(self.burstable),
            zones: own.zones.clone().unwrap_or_else(|| self.zones.clone()),
            architectures: own.architectures.clone().unwrap_or_else(|| self.architectures.clone()),
            group_by: own.mix.map(|mix| mix.group_by).or(self.group_by),
        };
        let group_by = has.group_by.filter(|_| has.both_ways());
        Self { group_by, ..has }
    }

    /// What is in both.
    fn within(&self, own: &Self) -> Self {
        Self {
            zones: self.zones.iter().filter(|zone| own.zones.contains(zone)).copied().collect(),
            architectures: self.architectures.iter().filter(|one| own.architectures.contains(one)).copied().collect(),
            ..own.clone()
        }
    }

    /// Leaves out what a class that narrows this one may not ask for.
    fn tame(&self, mut own: Written) -> Written {
        if let Some(steps) = &mut own.purchase {
            steps.retain(|step| self.options.contains(&step.option));
            steps.iter_mut().take(1).for_each(|first| first.after_ice = false);
        }
        own.purchase = own.purchase.filter(|steps| !steps.is_empty());
        own.burstable = own.burstable.filter(|burstable| !burstable || self.burstable);
        own.zones = own.zones.filter(|zones| zones.iter().any(|zone| self.zones.contains(zone)));
        own.architectures = own.architectures.filter(|all| all.iter().any(|one| self.architectures.contains(one)));
        let both_ways = self.and(&Written { mix: None, ..own.clone() }).both_ways();
        own.mix = own.mix.filter(|_| both_ways);
        if let (Some(mix), Some(group_by)) = (&mut own.mix, self.group_by) {
            mix.group_by = group_by;
        }
        own
    }
}

fn written() -> impl Strategy<Value = Written> {
    let types = (
        prop::option::weighted(0.4, words()),
        any::<bool>(),
        prop_oneof![
            6 => Just(vec![]),
            1 => prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4),
            1 => prop::collection::vec(prop::sample::select(GLOBS[1..].to_vec()), 1..2),
        ],
        seldom(prop::sample::subsequence(vec![Architecture::Amd64, Architecture::Arm64], 1..=2)),
        seldom(4u32..8),
        prop::option::weighted(0.4, prop::bool::weighted(0.6)),
        seldom(1800u64..4500),
        seldom(1800u64..4500),
        prop::option::weighted(0.3, 1u32..5),
    );
    let money = (
        prop::option::weighted(0.4, (prop::bool::weighted(0.25), prop::option::of(0u64..5))),
        prop::option::weighted(0.4, mix()),
        seldom(prop::sample::subsequence(ZONES.to_vec(), 1..=3)),
        seldom(5u64..20),
        seldom(any::<bool>()),
        seldom((any::<bool>(), 1u64..15, 1u64..15)),
    );
    (prop::option::weighted(0.6, steps()), types, money).prop_map(
        |(
            purchase,
            (allow, listed, deny, architectures, min_generation, burstable, max_cpu, max_memory, max_candidates),
            (credits, mix, zones, cap, commitments, sizing),
        )| Written {
            purchase,
            listed: listed && allow.is_some(),
            deny,
            allow,
            architectures,
            min_generation,
            burstable,
            max_cpu_millis: max_cpu,
            max_memory_bytes: max_memory,
            max_candidates,
            credits: credits.map(|(standard, surplus)| Credits {
                mode: if standard { CreditMode::Standard } else { CreditMode::Unlimited },
                max_surplus: surplus.map(HourlyPrice),
            }),
            mix,
            zones,
            cap,
            commitments,
            sizing: sizing.map(|(all, cpu, memory)| {
                let (cpu_millis, memory_bytes) = (cpu * 100, memory * 100);
                match all {
                    true => Sizing::Override { cpu_millis, memory_bytes },
                    false => Sizing::Requests { cpu_millis, memory_bytes },
                }
            }),
        },
    )
}

/// Defaults, a class, one that narrows it and one that narrows that; and whether nothing of them may be refused.
#[derive(Clone, Debug)]
struct Drawn {
    defaults: Written,
    chain: Vec<Written>,
    tame: bool,
}

prop_compose! {
    fn drawn()(
        defaults in written(),
        all in prop::collection::vec(written(), CHAIN.len()),
        wild in prop::bool::weighted(0.2),
    ) -> Drawn {
        let everything = Has {
            options: vec![Purchase::OnDemand],
            burstable: false,
            zones: ZONES.to_vec(),
            architectures: Architecture::ALL.to_vec(),
            group_by: None,
        };
        let open = |burstable: Option<bool>| burstable.or(Some(true));
        let defaults = Written { mix: None, burstable: open(defaults.burstable), ..defaults };
        let mut has = everything.and(&defaults);
        let (mut chain, mut tame): (Vec<Written>, bool) = (Vec::new(), true);
        for own in all {
            let tamed = match chain.len() {
                0 => {
                    let both_ways = has.and(&own).both_ways();
                    Written { mix: own.mix.filter(|_| both_ways), ..own.clone() }
                }
                _ => has.tame(own.clone()),
            };
            let own = if wild && !chain.is_empty() { own } else { tamed.clone() };
            tame &= own == tamed;
            has = if chain.is_empty() { has.and(&own) } else { has.within(&has.and(&own)) };
            chain.push(own);
        }
        Drawn { defaults, chain, tame }
    }
}

impl Drawn {
    fn text(&self) -> String {
        let class = |(index, own): (usize, &Written)| {
            let mut class = own.json();
            class.insert("name".to_owned(), CHAIN[index].into());
            class.insert("weight".to_owned(), index.into());
            if index > 0 {
                class.insert("narrows".to_owned(), CHAIN[index - 1].into());
                class.insert("match".to_owned(), json!({"labels": {"tier": if index == 1 { "web" } else { "jobs" }}}));
            }
            class
        };
        // What narrows may stand before what it narrows.
        let classes: Vec<_> = self.chain.iter().enumerate().map(class).rev().collect();
        let limits = json!([
            {"scope": "cluster", "maxHourly": dollars(70)},
            {"scope": {"class": "web"}, "maxInstances": 4},
            {"scope": {"class": "part"}, "maxInstances": 5},
        ]);
        let commitments = json!([
            {"savingsPlan": {"hourly": dollars(5), "discountPercent": 20}},
            {"zonal": {"type": "c6.large", "zone": "a", "count": 1}},
            {"regional": {"type": "m7.medium", "count": 1}},
        ]);
        let permitted = json!({
            "instance-types": "allow", "purchase": "allow", "max-hourly-price": "lower-only", "eci": "allow",
        });
        let reservations =
            json!([{"type": "c6.large", "zone": "b", "count": 2}, {"type": "m7.xlarge", "zone": "a", "count": 1}]);
        let all = json!({
            "defaults": self.defaults.json(),
            "classes": classes,
            "limits": limits,
            "commitments": commitments,
            "reservations": reservations,
            "overrides": permitted,
        });
        all.to_string()
    }
}

/// Whether a class lets one be bought so, whatever it prefers; or why not.
fn permits(question: &Question, class: &Class, need: (u64, u64), taken: &Bought) -> Result<(), String> {
    let found = class.purchase.iter().find(|step| step.option == taken.option);
    let step = found.ok_or_else(|| format!("{:?} is no way of paying of class {}", taken.option, class.name))?;
    let offers = question.shelf(class, need, step).offers;
    let same = offers.iter().find(|offer| offer.bought.pool == taken.pool);
    let same = same.ok_or_else(|| format!("class {} has no {taken:?}", class.name))?;
    // It may be dearer by a commitment that it is not to use, but not above the cap.
    if same.bought.price > taken.price || class.max_hourly.is_some_and(|cap| taken.price > cap.0) {
        return Err(format!("{taken:?} at another price than {same:?}"));
    }
    if offers.len() < step.min_pools as usize {
        return Err(format!("class {} wants more pools than {}", class.name, offers.len()));
    }
    match class.use_commitments || taken.drawn.is_empty() {
        true => Ok(()),
        false => Err(format!("class {} uses no commitments", class.name)),
    }
}

/// Whether a mix has the larger share, or the smaller class does not buy both ways.
fn mixes_more(class: &Class, parent: &Class) -> bool {
    let both_ways = class.purchase.iter().any(|step| oracle::firm(step.option))
        && class.purchase.iter().any(|step| !oracle::firm(step.option));
    match (class.mix, parent.mix) {
        (_, None) => true,
        (None, Some(_)) => !both_ways,
        (Some(own), Some(theirs)) => {
            own.group_by == theirs.group_by && (0..60).all(|n| share(own, n) >= share(theirs, n))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1200))]

    #[test]
    fn a_class_that_narrows_another_buys_nothing_that_this_one_or_its_own_words_do_not_allow(
        (drawn, market, demands) in (drawn(), market_of(NAMES.len()..=NAMES.len(), 3..=3), demands()),
        served in prop::collection::vec(prop::sample::select(vec![None, Some("part"), Some("bit")]), 12),
    ) {
        let text = drawn.text();
        let policy = match policy_of(&Source::new("drawn.yaml", text.as_str()), &market.catalog) {
            Ok(loaded) => loaded.policy,
            Err(error) => {
                let said = error.to_string();
                prop_assert!(!drawn.tame, "{said}: {text}");
                let widening =
                    [".purchase[", ".instances.burstable", ".instances.architectures", ".placement.zones", ".mix"];
                prop_assert!(widening.iter().any(|key| said.contains(key)), "{said}: {text}");
                return Ok(());
            }
        };
        let class = |name: &str| policy.classes.iter().find(|class| class.name == name).unwrap();
        let demands: Vec<Demand> = demands
            .into_iter()
            .zip(served)
            .map(|(demand, class)| Demand { class: class.map(str::to_owned), ..demand })
            .collect();
        let planner = Planner::new(&policy, &market, now());
        let decisions = planner.decide_all(&demands, &mut Ledger::new(&policy, &market));
        // The limits of a class are its own.
        let mut common = policy.clone();
        common.limits.retain(|limit| !matches!(limit.scope, Scope::Class(_)));
        let mut bought: Vec<Bought> = Vec::new();
        for (demand, decision) in demands.iter().zip(&decisions) {
            let own = class(decision.class);
            let Some(taken) = taken(decision, own, demand) else { continue };
            let Outcome::Plan(choice) = &decision.outcome else { continue };
            let others = choice.alternatives.iter().map(|(pool, price)| Bought {
                pool: (planner.type_of(pool.instance_type).name.clone(), planner.zone(pool.zone).to_owned()),
                price: price.0,
                drawn: Vec::new(),
                ..taken.clone()
            });
            let all: Vec<Bought> = [taken.clone()].into_iter().chain(others).collect();
            let question = Question { policy: &common, market: &market, demand, bought: &bought };
            let place = CHAIN.iter().position(|name| *name == own.name).unwrap_or(0);
            for above in (1..=place).rev() {
                let parent = class(CHAIN[above - 1]);
                let alone = drawn.chain[above].alone(parent);
                for one in &all {
                    let permitted = permits(&question, parent, oracle::need(own, demand), one)
                        .and_then(|()| permits(&question, &alone, oracle::need(own, demand), one));
                    prop_assert!(permitted.is_ok(), "{} of class {}: {permitted:?} by {text}", demand.uid, own.name);
                }
            }
            bought.push(taken);
        }
        for (parent, own) in CHAIN.iter().zip(&CHAIN[1..]) {
            prop_assert!(mixes_more(class(own), class(parent)), "{:?} of {:?}", class(own).mix, class(parent).mix);
        }
    }
}
