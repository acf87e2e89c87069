//! Whether a Revision is to have a reserve, and on what terms. Pure.
//!
//! ```text
//!   its own annotation, or Alibaba's ── else its Namespace's ── else the policy's appliesTo ── else: not asked
//!        │ enabled
//!        v
//!   every word about it understood?     ── no ──> refused: the annotation, its value, what was expected
//!   an autoscaler that it works with?   ── no ──> refused: min-scale, class, burst capacity, concurrency
//!        │ yes
//!        v
//!   granted: sizes, the bound on requests at once, whether a tag counts as traffic
//! ```

use super::words::*;
use crate::decide::purchase::Buying;
use crate::decide::reserve::{
    MOST_SPECS, Policy, PolicySizing, Refusal, Unbounded,
    size::{self, Size, Sizing},
};
use std::collections::BTreeMap;

type Words = BTreeMap<String, String>;

/// What config-autoscaler says for every Revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Globals {
    pub target_burst_capacity: Option<f64>,
    pub min_scale: u32,
}

impl Globals {
    pub fn of(data: &Words) -> Self {
        let number = |key: &str| data.get(key).and_then(|text| text.trim().parse::<f64>().ok());
        Self {
            target_burst_capacity: number("target-burst-capacity"),
            min_scale: data.get("min-scale").and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub namespace: &'a str,
    /// The Revision's.
    pub annotations: &'a Words,
    pub labels: &'a Words,
    /// The Namespace's word, if it has one.
    pub of_namespace: Option<&'a str>,
    /// The PodAutoscaler's: defaults are filled in there.
    pub autoscaler: &'a Words,
    pub concurrency: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terms {
    NotAsked,
    Refused(Refusal),
    Granted(Granted),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub sizing: Sizing,
    /// What its queue-proxy must be told, as the Revision sets no bound.
    pub bound: Option<u32>,
    pub tags: bool,
}

pub fn terms(asker: &Asker, globals: &Globals, buying: &Buying) -> Terms {
    let policy = &buying.policy.reserve;
    match asked(asker, policy) {
        Ok(false) => Terms::NotAsked,
        Err(problem) => Terms::Refused(Refusal::Invalid(problem)),
        Ok(true) => match granted(asker, globals, buying) {
            Ok(granted) => Terms::Granted(granted),
            Err(refusal) => Terms::Refused(refusal),
        },
    }
}

fn asked(asker: &Asker, policy: &Policy) -> Result<bool, String> {
    if let Some(word) = asker.annotations.get(ASK) {
        return switch(ASK, word, ["enabled", "disabled"]);
    }
    if let Some(word) = asker.annotations.get(ALI_ASK) {
        return switch(ALI_ASK, word, ["enable", "disable"]);
    }
    if let Some(word) = asker.of_namespace {
        return switch(ASK, word, ["enabled", "disabled"])
            .map_err(|problem| format!("namespace {}: {problem}", asker.namespace));
    }
    Ok(policy.applies(asker.namespace, asker.labels))
}

fn switch(key: &str, word: &str, [on, off]: [&str; 2]) -> Result<bool, String> {
    match word {
        word if word == on => Ok(true),
        word if word == off => Ok(false),
        _ => Err(format!("annotation {key} is {word:?}: expected {on} or {off}")),
    }
}

fn granted(asker: &Asker, globals: &Globals, buying: &Buying) -> Result<Granted, Refusal> {
    let policy = &buying.policy.reserve;
    let words = asker.annotations;
    let invalid = Refusal::Invalid;
    let tags = match words.get(ASK_TAGS) {
        Some(word) => switch(ASK_TAGS, word, ["enabled", "disabled"]).map_err(invalid)?,
        None => policy.tags,
    };
    if let Some(kind) = words.get(ALI_TYPE).filter(|kind| !["eci", "ecs", "acs"].contains(&kind.as_str())) {
        return Err(invalid(format!("annotation {ALI_TYPE} is {kind:?}: expected eci, ecs or acs")));
    }
    if let Some(count) = words.get(ALI_REPLICAS).filter(|count| *count != "1") {
        return Err(invalid(format!("annotation {ALI_REPLICAS} is {count:?}: expected 1, there is one reserve")));
    }
    let listed = [ASK_TYPES, ALI_SPECS].into_iter().find_map(|key| Some((key, words.get(key)?)));
    let sizing = match (listed, &policy.sizing) {
        (Some((key, text)), _) => Sizing::Listed(sizes(key, text, buying).map_err(invalid)?),
        (None, PolicySizing::Given(sizing)) => sizing.clone(),
        (None, PolicySizing::Listed(specs)) => {
            Sizing::Listed(specs.iter().filter_map(|spec| offered(spec, buying)).collect())
        }
    };
    let get = |keys: [&str; 2]| keys.into_iter().find_map(|key| asker.autoscaler.get(key));
    if let Some(class) = asker.autoscaler.get(CLASS).filter(|class| *class != KPA) {
        return Err(Refusal::Class(class.clone()));
    }
    let min_scale = get(MIN_SCALE).and_then(|text| text.parse().ok()).unwrap_or(globals.min_scale);
    if min_scale > 0 {
        return Err(Refusal::MinScale(min_scale));
    }
    let burst = get(BURST).and_then(|text| text.parse::<f64>().ok()).or(globals.target_burst_capacity);
    if burst == Some(0.0) {
        return Err(Refusal::NoBurstCapacity);
    }
    let bound = match (asker.concurrency, policy.unbounded) {
        (1.., _) => None,
        (_, Unbounded::Bound(bound)) => Some(bound),
        (_, Unbounded::Refuse) => return Err(Refusal::Unbounded),
    };
    Ok(Granted { sizing, bound, tags })
}

/// `t3.micro,t3.small` or `1-2Gi`, as an instance offers them to a Pod.
fn sizes(key: &str, text: &str, buying: &Buying) -> Result<Vec<Size>, String> {
    let specs: Vec<&str> = text.split(',').map(str::trim).collect();
    if specs.len() > MOST_SPECS {
        return Err(format!("annotation {key} has {} entries: expected at most {MOST_SPECS}", specs.len()));
    }
    let one = |spec: &str| {
        offered(spec, buying).ok_or_else(|| {
            format!("annotation {key} has {spec:?}: expected a type of the catalog, or vCPUs and memory as 1-2Gi")
        })
    };
    specs.into_iter().map(one).collect()
}

fn offered(spec: &str, buying: &Buying) -> Option<Size> {
    // As ECI writes them.
    let spec = spec.strip_prefix("ecs.").unwrap_or(spec);
    match buying.market.catalog.types.iter().find(|known| known.name == spec) {
        Some(known) => Some(Size {
            cpu_millis: known.cpu_millis,
            memory_bytes: known.memory_bytes.saturating_sub(buying.market.reserved_memory_bytes),
        }),
        None => size::parse(spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plain_policy;
    use crate::decide::purchase::{Catalog, Market, TypeSpec, policy::Architecture};
    use crate::decide::reserve::AppliesTo;
    use crate::model::HourlyPrice;
    use jiff::SignedDuration;

    fn buying() -> Buying {
        let micro = TypeSpec {
            name: "t3.micro".to_owned(),
            architecture: Architecture::Amd64,
            cpu_millis: 2000,
            memory_bytes: 1 << 30,
            on_demand: HourlyPrice(10_400),
            burst: None,
        };
        let catalog = Catalog { types: vec![micro], ..Catalog::default() };
        Buying {
            policy: plain_policy(250, 256 << 20, SignedDuration::from_mins(2)),
            market: Market { catalog, reserved_memory_bytes: 128 << 20, ..Market::default() },
        }
    }

    fn words(pairs: &[(&str, &str)]) -> Words {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn ask(revision: &[(&str, &str)], autoscaler: &[(&str, &str)], concurrency: i64) -> Terms {
        let (annotations, autoscaler, labels) = (words(revision), words(autoscaler), Words::new());
        let asker = Asker {
            namespace: "shop",
            annotations: &annotations,
            labels: &labels,
            of_namespace: None,
            autoscaler: &autoscaler,
            concurrency,
        };
        terms(&asker, &Globals::default(), &buying())
    }

    fn granted(terms: Terms) -> Granted {
        match terms {
            Terms::Granted(granted) => granted,
            other => panic!("{other:?}"),
        }
    }

    const ON: (&str, &str) = (ASK, "enabled");

    #[test]
    fn nobody_has_a_reserve_who_did_not_ask() {
        assert_eq!(ask(&[], &[], 10), Terms::NotAsked);
        assert_eq!(ask(&[(ASK, "disabled"), (ALI_ASK, "enable")], &[], 10), Terms::NotAsked);
    }

    #[test]
    fn the_revision_s_word_goes_before_its_namespace_s_and_that_before_the_policy_s() {
        let mut buying = buying();
        let to = AppliesTo { namespaces: vec!["sh*".parse().unwrap()], labels: words(&[("tier", "web")]) };
        buying.policy.reserve.applies_to = vec![to];
        let none = Words::new();
        for (own, namespace, labels, expected) in [
            (None, None, words(&[("tier", "web")]), true),
            (None, None, none.clone(), false),
            (None, Some("enabled"), none.clone(), true),
            (None, Some("disabled"), words(&[("tier", "web")]), false),
            (Some("disabled"), Some("enabled"), words(&[("tier", "web")]), false),
            (Some("enabled"), Some("disabled"), none.clone(), true),
        ] {
            let annotations = own.map(|own| words(&[(ASK, own)])).unwrap_or_default();
            let asker = Asker {
                namespace: "shop",
                annotations: &annotations,
                labels: &labels,
                of_namespace: namespace,
                autoscaler: &none,
                concurrency: 1,
            };
            let is = matches!(terms(&asker, &Globals::default(), &buying), Terms::Granted(_));
            assert_eq!(is, expected, "{asker:?}");
        }
    }

    #[test]
    fn alibaba_s_words_are_understood() {
        let specs = (ALI_SPECS, "ecs.t3.micro, 1-2Gi");
        let asked = ask(&[(ALI_ASK, "enable"), (ALI_TYPE, "eci"), (ALI_REPLICAS, "1"), specs], &[], 10);
        let sizes = vec![
            Size { cpu_millis: 2000, memory_bytes: (1 << 30) - (128 << 20) },
            Size { cpu_millis: 1000, memory_bytes: 2 << 30 },
        ];
        assert_eq!(granted(asked), Granted { sizing: Sizing::Listed(sizes), bound: None, tags: false });
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_the_annotation_and_what_was_expected() {
        for (key, value, expected) in [
            (ASK, "yes", "enabled or disabled"),
            (ALI_ASK, "enabled", "enable or disable"),
            (ASK_TAGS, "", "enabled or disabled"),
            (ALI_TYPE, "ecx", "eci, ecs or acs"),
            (ALI_REPLICAS, "2", "expected 1"),
            (ASK_TYPES, "t9.micro", "a type of the catalog"),
            (ASK_TYPES, "0-2Gi", "a type of the catalog"),
            (ASK_TYPES, "1-1Gi,1-1Gi,1-1Gi,1-1Gi,1-1Gi,1-1Gi", "at most 5"),
            (ALI_SPECS, "", "a type of the catalog"),
        ] {
            let mut all = vec![(key, value)];
            if key != ASK && key != ALI_ASK {
                all.push(ON);
            }
            let Terms::Refused(Refusal::Invalid(why)) = ask(&all, &[], 10) else { panic!("{key} {value}") };
            assert!(why.contains(key) && why.contains(expected), "{why}");
        }
    }

    #[test]
    fn an_autoscaler_that_it_does_not_work_with_is_refused() {
        let hpa = "hpa.autoscaling.knative.dev";
        for (annotation, refusal) in [
            ((CLASS, hpa), Refusal::Class(hpa.to_owned())),
            ((MIN_SCALE[0], "2"), Refusal::MinScale(2)),
            ((MIN_SCALE[1], "1"), Refusal::MinScale(1)),
            ((BURST[0], "0"), Refusal::NoBurstCapacity),
            ((BURST[1], "0.0"), Refusal::NoBurstCapacity),
        ] {
            assert_eq!(ask(&[ON], &[annotation], 10), Terms::Refused(refusal));
        }
        for fine in [(CLASS, KPA), (MIN_SCALE[0], "0"), (BURST[0], "-1"), (BURST[0], "211")] {
            granted(ask(&[ON], &[fine], 10));
        }
    }

    #[test]
    fn what_holds_for_all_revisions_holds_where_one_says_nothing() {
        let globals = Globals::of(&words(&[("target-burst-capacity", "0"), ("min-scale", "0"), ("other", "x")]));
        let (on, none, back) = (words(&[ON]), Words::new(), words(&[(BURST[0], "-1")]));
        let asker = |autoscaler| Asker {
            namespace: "shop",
            annotations: &on,
            labels: &none,
            of_namespace: None,
            autoscaler,
            concurrency: 1,
        };
        assert_eq!(terms(&asker(&none), &globals, &buying()), Terms::Refused(Refusal::NoBurstCapacity));
        granted(terms(&asker(&back), &globals, &buying()));
        let globals = Globals { min_scale: 3, ..Globals::default() };
        assert_eq!(terms(&asker(&none), &globals, &buying()), Terms::Refused(Refusal::MinScale(3)));
    }

    #[test]
    fn without_a_limit_on_requests_the_reserve_gets_one_or_there_is_none() {
        assert_eq!(granted(ask(&[ON], &[], 10)).bound, None);
        assert_eq!(granted(ask(&[ON], &[], 0)).bound, Some(100));
        let (on, none) = (words(&[ON]), Words::new());
        let asker = Asker {
            namespace: "shop",
            annotations: &on,
            labels: &none,
            of_namespace: None,
            autoscaler: &none,
            concurrency: 0,
        };
        let mut buying = buying();
        buying.policy.reserve.unbounded = Unbounded::Refuse;
        assert_eq!(terms(&asker, &Globals::default(), &buying), Terms::Refused(Refusal::Unbounded));
    }
}
