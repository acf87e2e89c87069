//! Where a Pod may run, by its nodeSelector and its required node affinity. As the scheduler reads them:
//! k8s.io/component-helpers/scheduling/corev1/nodeaffinity.

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PodSpec};

pub const ARCH: &str = "kubernetes.io/arch";
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const HOSTNAME: &str = "kubernetes.io/hostname";

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
