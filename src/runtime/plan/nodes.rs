//! The virtual nodes as the scheduler sees them, one a zone, and which of them each Pod is bound to.
//!
//! A Pod's node is chosen before anything is bought for it, and with it its zone. Here as by kube-scheduler among nodes
//! that are alike: of those that the Pod allows and that have room for it, the one with the fewest Pods of its controller,
//! then with the fewest at all, then the first. What it merely prefers, and other Pods that it is to be near to or apart
//! from, are not looked at; nor is what runs on the nodes already.

use crate::config::Limits;
use crate::decide::purchase::Catalog;
use crate::decide::purchase::policy::Architecture;
use crate::kube::node;
use crate::kube::selection::{Requirement, requirements};
use crate::model::{Labels, NodeName};
use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::{BTreeMap, BTreeSet};

pub struct Nodes {
    all: Vec<Node>,
    /// Each node's capacity, where it is known.
    limits: Option<Limits>,
    /// By controller, how many of its Pods each node has.
    of_controllers: BTreeMap<String, Vec<u32>>,
}

struct Node {
    name: NodeName,
    zone: String,
    labels: BTreeMap<String, String>,
    pods: u32,
    cpu_millis: u64,
    memory_bytes: u64,
}

/// What a Pod needs of its node.
#[derive(Clone, Copy, Default)]
pub struct Need {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// Pods that are alike.
pub struct Template<'a> {
    pub namespace: &'a str,
    pub labels: &'a Labels,
    pub spec: &'a PodSpec,
    /// Each one's.
    pub need: Need,
    /// What names their controller.
    pub controller: String,
}

impl Nodes {
    pub fn of(catalog: &Catalog, limits: Option<Limits>) -> Self {
        // A node says amd64 unless there is no image for it, and then its types are not in the catalog.
        let amd64 = catalog.types.iter().any(|spec| spec.architecture == Architecture::Amd64);
        let architecture = if amd64 { Architecture::Amd64 } else { Architecture::Arm64 };
        let node = |zone: &String| {
            let name = NodeName::of_zone(zone);
            let mut labels = node::labels(&name, zone, &catalog.region, architecture);
            // The node lifecycle controller adds these.
            for (of, old) in
                [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")]
            {
                labels.extend(labels.get(of).cloned().map(|value| (old.to_owned(), value)));
            }
            Node { name, zone: zone.clone(), labels, pods: 0, cpu_millis: 0, memory_bytes: 0 }
        };
        Self { all: catalog.zones.iter().map(node).collect(), limits, of_controllers: BTreeMap::new() }
    }

    pub fn zones(&self) -> Vec<String> {
        self.all.iter().map(|node| node.zone.clone()).collect()
    }

    /// Each node's zone.
    pub fn by_name(&self) -> BTreeMap<NodeName, String> {
        self.all.iter().map(|node| (node.name.clone(), node.zone.clone())).collect()
    }

    /// The zone that each of so many Pods gets with its node, or why none does.
    pub fn bind(&mut self, template: &Template, pods: u32) -> Vec<Result<String, String>> {
        let allowed = match self.allowed(template.spec) {
            Ok(allowed) => allowed,
            Err(why) => return (0..pods).map(|_| Err(why.clone())).collect(),
        };
        let bound = is_bound(template.spec);
        let near = if bound { Vec::new() } else { to_its_own(template, near) };
        let apart = if bound { Vec::new() } else { to_its_own(template, apart) };
        let none = vec![0; self.all.len()];
        let mut own = self.of_controllers.remove(&template.controller).unwrap_or(none);
        let one = |_| {
            let first = own.iter().all(|count| *count == 0);
            let may = |at: &usize| {
                (first || near.iter().all(|key| self.beside(*at, key, &own)))
                    && !apart.iter().any(|key| self.beside(*at, key, &own))
            };
            let may: Vec<usize> = allowed.iter().copied().filter(may).collect();
            let room = |at: &usize| bound || self.lacks(*at, template.need).is_empty();
            let chosen = may.iter().copied().filter(room).min_by_key(|&at| (own[at], self.all[at].pods, at));
            let Some(at) = chosen else {
                return Err(if may.is_empty() { crowded(&near, &apart) } else { self.full(&may, template.need) });
            };
            own[at] += 1;
            self.all[at].take(template.need);
            Ok(self.all[at].zone.clone())
        };
        let zones = (0..pods).map(one).collect();
        self.of_controllers.insert(template.controller.clone(), own);
        zones
    }

    fn allowed(&self, spec: &PodSpec) -> Result<Vec<usize>, String> {
        let (numbers, all) = (0..self.all.len(), &self.all);
        if let Some(name) = bound_to(spec) {
            let at = numbers.filter(|&at| all[at].name.as_str() == name).collect::<Vec<_>>();
            return if at.is_empty() { Err(format!("spec.nodeName: {name} is no virtual node")) } else { Ok(at) };
        }
        // As the scheduler has it, also for the first Pod, which is near to none.
        let topologies = || near(spec).into_iter().flatten().map(|term| &term.topology_key);
        let is_somewhere = |at: usize| topologies().all(|key| all[at].labels.contains_key(key));
        let requirements = requirements(spec);
        let meets = |at: usize, r: &Requirement| r.met_by(all[at].name.as_str(), &all[at].labels);
        let met: Vec<usize> = numbers.clone().filter(|&at| requirements.iter().all(|r| meets(at, r))).collect();
        if !met.is_empty() {
            let met: Vec<usize> = met.into_iter().filter(|&at| is_somewhere(at)).collect();
            let keys = || topologies().map(String::as_str).collect::<Vec<_>>().join(", ");
            return if met.is_empty() {
                Err(format!("no virtual node has the labels of its affinity: {}", keys()))
            } else {
                Ok(met)
            };
        }
        // Each may be met by some node, and all together by none.
        let unmet = requirements.iter().find(|r| !numbers.clone().any(|at| meets(at, r)));
        Err(match unmet {
            Some(Requirement::Label(key, value)) => format!("no virtual node has {key}={value}{}", self.values(key)),
            Some(affinity) => format!("no virtual node meets the required node affinity: {affinity}"),
            None => {
                let all: Vec<String> = requirements.iter().map(ToString::to_string).collect();
                format!("no virtual node has all of: {}", all.join("; "))
            }
        })
    }

    /// Why the Pod has no room on the node, in the scheduler's words (NodeResourcesFit).
    fn lacks(&self, node: usize, need: Need) -> Vec<&'static str> {
        let Some(Limits { cpu_millis, memory_bytes, pods }) = self.limits else { return Vec::new() };
        let node = &self.all[node];
        let over = |need: u64, used: u64, limit: u64| need > 0 && used.saturating_add(need) > limit;
        [
            (node.pods >= pods, "Too many pods"),
            (over(need.cpu_millis, node.cpu_millis, cpu_millis), "Insufficient cpu"),
            (over(need.memory_bytes, node.memory_bytes, memory_bytes), "Insufficient memory"),
        ]
        .into_iter()
        .filter_map(|(lacks, why)| lacks.then_some(why))
        .collect()
    }

    /// `no virtual node has room by provider.yaml's limits: 2 Too many pods, 1 Insufficient cpu`
    fn full(&self, nodes: &[usize], need: Need) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for why in nodes.iter().flat_map(|&node| self.lacks(node, need)) {
            *counts.entry(why).or_default() += 1;
        }
        let counts: Vec<String> = counts.into_iter().map(|(why, count)| format!("{count} {why}")).collect();
        format!("no virtual node has room by provider.yaml's limits: {}", counts.join(", "))
    }

    /// `; they have a, b`
    fn values(&self, label: &str) -> String {
        let values: BTreeSet<&str> = self.all.iter().filter_map(|n| n.labels.get(label)).map(String::as_str).collect();
        match values.into_iter().collect::<Vec<_>>() {
            values if values.is_empty() => String::new(),
            values => format!("; they have {}", values.join(", ")),
        }
    }

    /// Whether one of the controller's Pods is where the node is, by this label.
    fn beside(&self, node: usize, topology: &str, own: &[u32]) -> bool {
        let place = self.all[node].labels.get(topology);
        place.is_some() && self.all.iter().zip(own).any(|(n, &pods)| pods > 0 && n.labels.get(topology) == place)
    }
}

impl Node {
    fn take(&mut self, need: Need) {
        self.pods += 1;
        self.cpu_millis = self.cpu_millis.saturating_add(need.cpu_millis);
        self.memory_bytes = self.memory_bytes.saturating_add(need.memory_bytes);
    }
}

/// The scheduler is not asked then.
fn bound_to(spec: &PodSpec) -> Option<&str> {
    spec.node_name.as_deref().filter(|name| !name.is_empty())
}

pub fn is_bound(spec: &PodSpec) -> bool {
    bound_to(spec).is_some()
}

fn near(spec: &PodSpec) -> Option<&Vec<PodAffinityTerm>> {
    spec.affinity.as_ref()?.pod_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

fn apart(spec: &PodSpec) -> Option<&Vec<PodAffinityTerm>> {
    spec.affinity.as_ref()?.pod_anti_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

/// The topologies of those terms that speak of the Pods' own controller.
fn to_its_own<'a>(template: &Template<'a>, terms: fn(&'a PodSpec) -> Option<&'a Vec<PodAffinityTerm>>) -> Vec<&'a str> {
    let own = |term: &&PodAffinityTerm| {
        let namespaces = term.namespaces.as_deref().unwrap_or_default();
        let other = namespaces.is_empty() && term.namespace_selector.is_none();
        // A selector of namespaces by their labels, which nothing here tells.
        let every = term.namespace_selector.as_ref().is_some_and(|selector| *selector == LabelSelector::default());
        let mismatched = term.mismatch_label_keys.iter().flatten().any(|key| template.labels.contains_key(key));
        (other || every || namespaces.iter().any(|namespace| namespace == template.namespace))
            && !mismatched
            && term.label_selector.as_ref().is_some_and(|selector| selects(selector, template.labels))
    };
    terms(template.spec).into_iter().flatten().filter(own).map(|term| term.topology_key.as_str()).collect()
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let holds = |r: &LabelSelectorRequirement| {
        let value = labels.get(&r.key);
        let listed = value.is_some_and(|value| r.values.iter().flatten().any(|listed| listed == value));
        match r.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(holds)
}

fn crowded(near: &[&str], apart: &[&str]) -> String {
    let of = |what: &str, keys: &[&str]| (!keys.is_empty()).then(|| format!("{what} (by {})", keys.join(", ")));
    let rules: Vec<String> = [of("affinity", near), of("anti-affinity", apart)].into_iter().flatten().collect();
    format!("what it requires of its own Pods leaves no virtual node: {}", rules.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::purchase::TypeSpec;
    use serde_json::{Value, json};

    fn nodes(zones: &[&str]) -> Nodes {
        limited(zones, None)
    }

    fn limited(zones: &[&str], limits: Option<Limits>) -> Nodes {
        let spec = |architecture| TypeSpec {
            name: "c6i.large".to_owned(),
            architecture,
            cpu_millis: 2000,
            memory_bytes: 4 << 30,
            on_demand: Default::default(),
            burst: None,
        };
        let catalog = Catalog {
            region: "home".to_owned(),
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            types: [Architecture::Amd64, Architecture::Arm64].map(spec).into(),
        };
        Nodes::of(&catalog, limits)
    }

    /// A Pod's zone is its name's letter; `-` where it gets none. And why the last gets none.
    fn bound(nodes: &mut Nodes, controller: &str, pods: u32, spec: Value) -> (String, Option<String>) {
        needing(nodes, controller, pods, spec, Need::default())
    }

    fn needing(
        nodes: &mut Nodes,
        controller: &str,
        pods: u32,
        mut spec: Value,
        need: Need,
    ) -> (String, Option<String>) {
        spec["containers"] = json!([]);
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let labels: Labels = [("app".to_owned(), "web".to_owned())].into();
        let template =
            Template { namespace: "shop", labels: &labels, spec: &spec, need, controller: controller.to_owned() };
        let zones = nodes.bind(&template, pods);
        let why = zones.iter().filter_map(|zone| zone.clone().err()).next_back();
        (zones.into_iter().map(|zone| zone.unwrap_or("-".to_owned())).collect(), why)
    }

    fn to_own(kind: &str, topology: &str, more: &Value) -> Value {
        let mut term = json!({"topologyKey": topology, "labelSelector": {"matchLabels": {"app": "web"}}});
        term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    #[test]
    fn a_controllers_pods_are_spread_evenly_and_so_are_all_together() {
        let mut nodes = nodes(&["a", "b", "c"]);
        assert_eq!(bound(&mut nodes, "one", 4, json!({})).0, "abca");
        assert_eq!(bound(&mut nodes, "two", 4, json!({})).0, "bcab");
        assert_eq!(bound(&mut nodes, "three", 1, json!({})).0, "c");
        assert_eq!(
            bound(&mut nodes, "four", 3, json!({"nodeSelector": {"topology.kubernetes.io/zone": "b"}})).0,
            "bbb"
        );
        // What the controller has already counts first.
        assert_eq!(bound(&mut nodes, "three", 2, json!({})).0, "ab");
    }

    #[test]
    fn a_pod_that_no_virtual_node_is_for_is_told_why() {
        let required = |requirements: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": requirements}]}}}})
        };
        let mut nodes = nodes(&["a", "b"]);
        for (spec, expected) in [
            (json!({"nodeSelector": {"disktype": "ssd"}}), "no virtual node has disktype=ssd"),
            (
                json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
                "no virtual node has kubernetes.io/arch=arm64; they have amd64",
            ),
            (
                json!({"nodeSelector": {"topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": "pilotlight-b"}}),
                "no virtual node has all of: kubernetes.io/hostname=pilotlight-b; topology.kubernetes.io/zone=a",
            ),
            (
                required(
                    json!([{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["c6i.large"]}]),
                ),
                "no virtual node meets the required node affinity: node.kubernetes.io/instance-type In [c6i.large]",
            ),
            (json!({"nodeName": "ip-10-0-0-1"}), "spec.nodeName: ip-10-0-0-1 is no virtual node"),
        ] {
            assert_eq!(bound(&mut nodes, "web", 1, spec), ("-".to_owned(), Some(expected.to_owned())));
        }
        for (spec, zone) in [
            (json!({"nodeSelector": {"type": "virtual-kubelet", "beta.kubernetes.io/os": "linux"}}), "a"),
            (json!({"nodeSelector": {"topology.kubernetes.io/region": "home"}}), "b"),
            (required(json!([{"key": "disktype", "operator": "NotIn", "values": ["hdd"]}])), "a"),
            // The scheduler is not asked.
            (json!({"nodeName": "pilotlight-b", "nodeSelector": {"disktype": "ssd"}}), "b"),
        ] {
            assert_eq!(bound(&mut nodes, "web", 1, spec.clone()).0, zone, "{spec}");
        }
    }

    #[test]
    fn pods_that_keep_apart_from_each_other_get_a_node_each_as_far_as_there_are() {
        let host = "kubernetes.io/hostname";
        for (spec, expected) in [
            (to_own("podAntiAffinity", host, &json!({})), "ab-"),
            (to_own("podAntiAffinity", "topology.kubernetes.io/region", &json!({})), "a--"),
            // A label that no node has keeps nobody apart.
            (to_own("podAntiAffinity", "rack", &json!({})), "aba"),
            (to_own("podAntiAffinity", host, &json!({"namespaces": ["shop"]})), "ab-"),
            (to_own("podAntiAffinity", host, &json!({"namespaceSelector": {}})), "ab-"),
            (to_own("podAntiAffinity", host, &json!({"namespaces": ["other"]})), "aba"),
            (to_own("podAntiAffinity", host, &json!({"labelSelector": {"matchLabels": {"app": "other"}}})), "aba"),
            (to_own("podAntiAffinity", host, &json!({"mismatchLabelKeys": ["app"]})), "aba"),
            (to_own("podAffinity", host, &json!({})), "aaa"),
            (to_own("podAffinity", "topology.kubernetes.io/region", &json!({})), "aba"),
            // Nobody is near by a label that no node has: neither the first, nor to others.
            (to_own("podAffinity", "rack", &json!({})), "---"),
            (to_own("podAffinity", "rack", &json!({"namespaces": ["other"]})), "---"),
        ] {
            assert_eq!(bound(&mut nodes(&["a", "b"]), "web", 3, spec.clone()).0, expected, "{spec}");
        }
        let (_, why) = bound(&mut nodes(&["a", "b"]), "web", 3, to_own("podAntiAffinity", host, &json!({})));
        let expected =
            "what it requires of its own Pods leaves no virtual node: anti-affinity (by kubernetes.io/hostname)";
        assert_eq!(why.as_deref(), Some(expected));
        let (_, why) = bound(&mut nodes(&["a", "b"]), "web", 1, to_own("podAffinity", "rack", &json!({})));
        assert_eq!(why.as_deref(), Some("no virtual node has the labels of its affinity: rack"));
    }

    #[test]
    fn no_node_gets_more_pods_than_it_has_room_for_and_who_waits_is_told_what_is_lacking() {
        let limits = |pods, cpu_millis, memory_bytes| Some(Limits { cpu_millis, memory_bytes, pods });
        let need = |cpu_millis, memory_bytes| Need { cpu_millis, memory_bytes };
        let none = "no virtual node has room by provider.yaml's limits: ";
        for (limits, need, expected, lacking) in [
            (limits(1, 9, 9), need(1, 1), "ab--", "2 Too many pods"),
            (limits(9, 3, 9), need(2, 1), "ab--", "2 Insufficient cpu"),
            (limits(9, 9, 4), need(1, 2), "abab", ""),
            (limits(9, 9, 3), need(1, 2), "ab--", "2 Insufficient memory"),
            (limits(1, 1, 1), need(1, 1), "ab--", "2 Insufficient cpu, 2 Insufficient memory, 2 Too many pods"),
            // What asks for nothing needs nothing.
            (limits(9, 0, 0), need(0, 0), "abab", ""),
            (None, need(1 << 40, 1 << 60), "abab", ""),
        ] {
            let (zones, why) = needing(&mut limited(&["a", "b"], limits), "web", 4, json!({}), need);
            let lacking = (!lacking.is_empty()).then(|| format!("{none}{lacking}"));
            assert_eq!((zones.as_str(), why), (expected, lacking), "{limits:?}");
        }
        // The scheduler is not asked of a Pod that names its node; what it takes is taken.
        let mut nodes = limited(&["a", "b"], limits(1, 9, 9));
        assert_eq!(bound(&mut nodes, "own", 2, json!({"nodeName": "pilotlight-b"})).0, "bb");
        assert_eq!(bound(&mut nodes, "web", 2, json!({})).0, "a-");
    }
}
