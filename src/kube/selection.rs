//! Where a Pod may run, by its nodeSelector and its required node affinity. As the scheduler reads them:
//! k8s.io/component-helpers/scheduling/corev1/nodeaffinity.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use std::{collections::BTreeMap, fmt};

pub const ARCH: &str = "kubernetes.io/arch";

/// What a Pod requires of a node; of several each.
pub enum Requirement<'a> {
    /// Of its nodeSelector.
    Label(&'a str, &'a str),
    /// Its required node affinity: alternatives.
    Affinity(&'a [NodeSelectorTerm]),
}

/// All that the Pod requires of a node's name and labels.
pub fn requirements(spec: &PodSpec) -> Vec<Requirement<'_>> {
    let selector = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|required| Requirement::Affinity(&required.node_selector_terms));
    selector.map(|(key, value)| Requirement::Label(key, value)).chain(terms).collect()
}

impl Requirement<'_> {
    pub fn met_by(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Label(key, value) => labels.get(*key).is_some_and(|has| has == value),
            Self::Affinity(terms) => terms.iter().any(|term| meets(term, name, labels)),
        }
    }
}

/// A term without anything is met by no node.
fn meets(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let mut fields = term.match_fields.iter().flatten().peekable();
    let mut expressions = term.match_expressions.iter().flatten().peekable();
    (fields.peek().is_some() || expressions.peek().is_some())
        && fields.all(|field| has(field, (field.key == "metadata.name").then_some(name)))
        && expressions.all(|label| has(label, labels.get(&label.key).map(String::as_str)))
}

fn has(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|listed| listed == value));
    let numbers = || {
        let [limit] = requirement.values.as_deref()? else { return None };
        Some((value?.parse::<i64>().ok()?, limit.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, limit)| value > limit),
        "Lt" => numbers().is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

/// `disktype=ssd`; `disktype In [ssd, nvme] and gpu Exists, or …`
impl fmt::Display for Requirement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match self {
            Self::Label(key, value) => return write!(f, "{key}={value}"),
            Self::Affinity(terms) => terms,
        };
        let one = |r: &NodeSelectorRequirement| match r.values.as_deref().unwrap_or_default() {
            [] => format!("{} {}", r.key, r.operator),
            values => format!("{} {} [{}]", r.key, r.operator, values.join(", ")),
        };
        let term = |term: &NodeSelectorTerm| {
            let all = term.match_expressions.iter().chain(&term.match_fields).flatten();
            all.map(one).collect::<Vec<_>>().join(" and ")
        };
        f.write_str(&terms.iter().map(term).collect::<Vec<_>>().join(", or "))
    }
}

/// Which of the `known` values of a label that every node has the Pod allows; None: it says nothing of the label. A value
/// that is not known is allowed by nobody.
pub fn allowed_values(spec: &PodSpec, label: &str, known: &[&str]) -> Option<Vec<String>> {
    let selected = spec.node_selector.as_ref().and_then(|selector| selector.get(label));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    let says = |term: &NodeSelectorTerm| term.match_expressions.iter().flatten().any(|e| e.key == label);
    // Terms are alternatives: one without the label allows every value.
    let by_affinity = !terms.is_empty() && terms.iter().all(says);
    if selected.is_none() && !by_affinity {
        return None;
    }
    let allowed = |value: &&str| {
        selected.is_none_or(|selected| selected == value)
            && (!by_affinity || terms.iter().any(|term| allows(term, label, value)))
    };
    Some(known.iter().filter(|value| allowed(value)).map(|value| (*value).to_owned()).collect())
}

fn allows(term: &NodeSelectorTerm, label: &str, value: &str) -> bool {
    let listed = |values: &Option<Vec<String>>| values.iter().flatten().any(|v| v == value);
    let of_label = term.match_expressions.iter().flatten().filter(|e| e.key == label);
    of_label.into_iter().all(|e| match e.operator.as_str() {
        "In" => listed(&e.values),
        "NotIn" => !listed(&e.values),
        "DoesNotExist" => false,
        // Exists; Gt and Lt compare numbers, which none of these labels is.
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn allowed(selector: Value, terms: Value) -> Option<Vec<String>> {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [],
            "nodeSelector": selector,
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        }))
        .unwrap();
        allowed_values(&spec, "zone", &["a", "b", "c"])
    }

    #[test]
    fn a_node_meets_what_the_scheduler_would_find_met() {
        let labels: BTreeMap<String, String> =
            [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let says =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let all = |requirements: &[Value]| json!([{"matchExpressions": requirements}]);
        for (terms, expected) in [
            (all(&[says("zone", "In", &["a", "b"])]), true),
            (all(&[says("zone", "NotIn", &["a"])]), false),
            (all(&[says("disk", "NotIn", &["ssd"])]), true),
            (all(&[says("disk", "In", &["ssd"])]), false),
            (all(&[says("disk", "Exists", &[])]), false),
            (all(&[says("disk", "DoesNotExist", &[])]), true),
            (all(&[says("cores", "Gt", &["7"]), says("zone", "Exists", &[])]), true),
            (all(&[says("cores", "Lt", &["8"])]), false),
            (all(&[says("zone", "Gt", &["1"])]), false),
            (json!([{"matchFields": [says("metadata.name", "In", &["node-a"])]}]), true),
            (json!([{"matchFields": [says("metadata.name", "In", &["node-b"])]}]), false),
            // Alternatives; one that says nothing is none.
            (
                json!([{"matchExpressions": [says("disk", "Exists", &[])]}, {"matchExpressions": [says("zone", "Exists", &[])]}]),
                true,
            ),
            (json!([{}]), false),
            (json!([]), false),
        ] {
            let spec: PodSpec = serde_json::from_value(json!({
                "containers": [],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
            }))
            .unwrap();
            let met = requirements(&spec).iter().all(|requirement| requirement.met_by("node-a", &labels));
            assert_eq!(met, expected, "{terms}");
        }
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [], "nodeSelector": {"zone": "a", "disk": "ssd"}})).unwrap();
        let unmet: Vec<String> =
            requirements(&spec).iter().filter(|r| !r.met_by("node-a", &labels)).map(ToString::to_string).collect();
        assert_eq!(unmet, ["disk=ssd"]);
    }

    fn term(operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]})
    }

    #[test]
    fn what_is_allowed_comes_from_the_selector_and_every_term_of_the_affinity() {
        let other = json!({"matchExpressions": [{"key": "other", "operator": "Exists"}]});
        for (selector, terms, expected) in [
            (json!({}), json!([]), None),
            (json!({"zone": "b"}), json!([]), Some("b")),
            (json!({"zone": "elsewhere"}), json!([]), Some("")),
            (json!({}), json!([term("In", &["a", "b"]), term("In", &["c"])]), Some("abc")),
            (json!({}), json!([term("NotIn", &["a"])]), Some("bc")),
            (json!({"zone": "a"}), json!([term("NotIn", &["a"])]), Some("")),
            (json!({}), json!([term("Exists", &[])]), Some("abc")),
            (json!({}), json!([term("DoesNotExist", &[])]), Some("")),
            // An alternative that says nothing of it.
            (json!({}), json!([term("In", &["a"]), other.clone()]), None),
            (json!({"zone": "c"}), json!([term("In", &["a"]), other]), Some("c")),
        ] {
            let found = allowed(selector.clone(), terms.clone()).map(|values| values.concat());
            assert_eq!(found.as_deref(), expected, "{selector} {terms}");
        }
        let both = json!([{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["a", "b"]},
            {"key": "zone", "operator": "NotIn", "values": ["b"]},
        ]}]);
        assert_eq!(allowed(json!({}), both), Some(vec!["a".to_owned()]));
    }
}
