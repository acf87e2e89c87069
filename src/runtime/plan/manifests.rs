//! Manifests -> Pods to plan for.
//!
//! In: YAML or JSON, of many documents and Lists, as people write them and as a cluster tells them. Out: a [`Workload`] for
//! each object that makes Pods; kinds that make none are named as skipped, and so are Pods that have ended. Of an object and
//! what it is made by, at any remove, one is planned for ([`Manifests::settle`]). A field that no object of the kind has is
//! an error: it would be a misspelt one. A null is what was not given, as for Go.

use crate::model::NodeName;
use anyhow::{Context, bail};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, io::Read, path::Path};

/// Of one workload; each is planned for.
const MOST_PODS: u32 = 100_000;

/// Objects that are made by each other are no deeper: a Pod of a Knative Service is at the fifth remove.
const DEEPEST: usize = 16;

/// The label of a reserve's Pod (`kube::reserve`).
const RESERVE_OF: &str = "pilotlight.dev/reserve-of";

pub struct Workload {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub replicas: u32,
    /// The Pods' controller, by kind and name; None: as the Pod itself says.
    pub owner: Option<(String, String)>,
    pub template: PodTemplateSpec,
}

/// `Deployment default/web`
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Default)]
pub struct Manifests {
    pub workloads: Vec<Workload>,
    /// `Service default/web`
    pub skipped: Vec<String>,
    /// What was left out by [`Self::settle`].
    pub made_by_others: Vec<String>,
    /// The workloads that were given by name.
    named: BTreeSet<String>,
    /// All objects that have a name.
    objects: BTreeMap<Id, Given>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    group: String,
    kind: String,
    namespace: String,
    name: String,
}

struct Given {
    controller: Option<Id>,
    /// Who makes controllers of that name, if it is not given itself.
    behind: Option<Id>,
    /// Among the workloads.
    workload: Option<usize>,
}

impl Manifests {
    /// Leaves out what is made by an object that is planned for: the ReplicaSets and Pods of a Deployment. To be called once all
    /// is read.
    pub fn settle(&mut self) {
        let made_by_planned = |given: &Given| {
            let by = |given: &Given| {
                let by = given.controller.as_ref().and_then(|id| self.objects.get(id));
                by.or_else(|| self.objects.get(given.behind.as_ref()?))
            };
            let mut controllers = std::iter::successors(by(given), |given| by(given));
            // Objects that claim to be made by each other, in a circle, are no cluster's.
            controllers.by_ref().take(DEEPEST).any(|controller| controller.workload.is_some())
        };
        let left_out = self.objects.values().filter(|given| made_by_planned(given));
        let left_out: BTreeSet<usize> = left_out.filter_map(|given| given.workload).collect();
        let (made, planned): (Vec<_>, Vec<_>) =
            self.workloads.drain(..).enumerate().partition(|(index, _)| left_out.contains(index));
        self.workloads = planned.into_iter().map(|(_, workload)| workload).collect();
        self.made_by_others.extend(made.into_iter().map(|(_, workload)| workload.to_string()));
        self.objects.clear();
    }
}

/// Reads a file, or the standard input where it is `-`.
pub fn read(file: &Path, namespace: &str, into: &mut Manifests) -> anyhow::Result<()> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read the standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    }
    parse(&text, namespace, into).with_context(|| file.display().to_string())
}

pub fn parse(text: &str, namespace: &str, into: &mut Manifests) -> anyhow::Result<()> {
    // What a cluster holds is long, and whoever gives it has it: only aliases and depth are bounded.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|e| anyhow::anyhow!("{}", e.without_snippet()))?;
    let many = documents.len() > 1;
    for (number, document) in (1..).zip(documents).filter(|(_, document)| !document.is_null()) {
        let read = object(document, namespace, into);
        if many {
            read.with_context(|| format!("document {number}"))?;
        } else {
            read?;
        }
    }
    Ok(())
}

fn object(mut object: Value, namespace: &str, into: &mut Manifests) -> anyhow::Result<()> {
    let text = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = text(&object, "/kind") else { bail!("kind: expected the object's kind, such as Deployment") };
    if let Some(items) = object.get_mut("items").filter(|_| kind.ends_with("List")) {
        let items = match items.take() {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            _ => bail!("items: expected a list of objects"),
        };
        for mut item in items {
            of_list(&mut item, &kind, object.get("apiVersion"));
            self::object(item, namespace, into)?;
        }
        return Ok(());
    }
    drop_nulls(&mut object);
    quantities(&mut object);
    if kind == "Pod" {
        unbind(&mut object);
    }
    let version = text(&object, "/apiVersion");
    let group = group(&kind, version.as_deref());
    let is_planned = groups(&kind).contains(&group.as_str());
    let namespace = text(&object, "/metadata/namespace").unwrap_or_else(|| namespace.to_owned());
    let own_name = text(&object, "/metadata/name");
    let is_named = own_name.is_some();
    let name = own_name.or_else(|| text(&object, "/metadata/generateName"));
    let Some(name) = name else { bail!("{kind}: metadata.name: expected a name") };
    let subject = format!("{kind} {namespace}/{name}");
    let id = is_named.then(|| Id { group, kind: kind.clone(), namespace: namespace.clone(), name: name.clone() });
    if let Some(id) = &id {
        let controller = controller(&object, &namespace);
        let behind = controller.as_ref().and_then(|controller| behind(controller, &object));
        into.objects.entry(id.clone()).or_insert(Given { controller, behind, workload: None });
    }
    if !is_planned {
        // A kind that is planned for has a namesake in another group, or is given in one that never had it.
        let namesake = version.filter(|_| kind != "Service" && !groups(&kind).is_empty());
        into.skipped.push(namesake.map_or(subject.clone(), |version| format!("{subject} ({version})")));
        return Ok(());
    }
    let number = |pointer: &str| -> anyhow::Result<Option<u32>> {
        match object.pointer(pointer) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= MOST_PODS) {
                Some(number) => Ok(Some(number)),
                None => bail!(
                    "{subject}: {}: {value}: expected a number of Pods up to {MOST_PODS}",
                    pointer[1..].replace('/', ".")
                ),
            },
        }
    };
    if let Some(why) = idle(&kind, &object) {
        into.skipped.push(format!("{subject} ({why})"));
        return Ok(());
    }
    // What another controller makes for the object has a name of its own; no object's has a slash.
    let made = |kind: &str| Some((kind.to_owned(), format!("{name}/{}", into.workloads.len())));
    let own = || if is_named { Some((kind.clone(), name.clone())) } else { made(&kind) };
    let one = || Ok::<_, anyhow::Error>(number("/spec/replicas")?.unwrap_or(1));
    let (path, replicas, owner) = match kind.as_str() {
        "Pod" => ("", 1, None),
        "Deployment" => ("/spec/template", one()?, made("ReplicaSet")),
        "ReplicaSet" | "StatefulSet" | "ReplicationController" => ("/spec/template", one()?, own()),
        "Job" => ("/spec/template", at_once(number("/spec/parallelism")?, number("/spec/completions")?), own()),
        "CronJob" => {
            let parallel = number("/spec/jobTemplate/spec/parallelism")?;
            let complete = number("/spec/jobTemplate/spec/completions")?;
            ("/spec/jobTemplate/spec/template", at_once(parallel, complete), made("Job"))
        }
        // Refused with the rest planned.
        "DaemonSet" => ("/spec/template", 1, own()),
        // Knative's Service.
        _ => ("/spec/template", knative_scale(&object), made("ReplicaSet")),
    };
    let Some(template) = object.pointer(path) else {
        bail!("{subject}: {}: expected a Pod template", path[1..].replace('/', "."))
    };
    check_fields(&kind, &object).with_context(|| subject.clone())?;
    let prefix = path.get(1..).unwrap_or_default().replace('/', ".");
    let template = self::template(template, kind == "Service").with_context(|| match prefix.as_str() {
        "" => subject.clone(),
        prefix => format!("{subject}: in {prefix}"),
    })?;
    let workload = Workload { kind, namespace, name, replicas, owner, template };
    if is_named && !into.named.insert(workload.to_string()) {
        bail!("{workload}: is given twice: expected each object once");
    }
    if let Some(given) = id.and_then(|id| into.objects.get_mut(&id)) {
        given.workload = Some(into.workloads.len());
    }
    into.workloads.push(workload);
    Ok(())
}

/// The API groups in which a kind is the one that is planned for; none: it is not.
fn groups(kind: &str) -> &'static [&'static str] {
    match kind {
        "Pod" | "ReplicationController" => &[""],
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => &["apps"],
        "Job" | "CronJob" => &["batch"],
        "Service" => &["serving.knative.dev"],
        _ => &[],
    }
}

/// A kind's API group, as its apiVersion says it; without one that of Kubernetes' own kind.
fn group(kind: &str, version: Option<&str>) -> String {
    let group = match version {
        Some(version) => version.split_once('/').map_or("", |(group, _)| group),
        None if kind == "Service" => "",
        None => groups(kind).first().copied().unwrap_or_default(),
    };
    // Where those of apps were once.
    if group == "extensions" { "apps".to_owned() } else { group.to_owned() }
}

/// What the object is made by, as its ownerReferences say it. A reserve is kept beside what its owner makes.
fn controller(object: &Value, namespace: &str) -> Option<Id> {
    if object.pointer("/metadata/labels").is_some_and(|labels| labels.get(RESERVE_OF).is_some()) {
        return None;
    }
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let controller = owners.iter().find(|owner| owner["controller"] == true)?;
    let text = |key: &str| controller[key].as_str();
    let (kind, name) = (text("kind")?, text("name")?);
    let group = group(kind, text("apiVersion"));
    Some(Id { group, kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Of a Pod's ReplicaSet `web-5d9c` the Deployment `web`, as the Pod's label says; of its Job `nightly-29384` the CronJob
/// `nightly`, which gives its Jobs the minute for a name.
fn behind(controller: &Id, object: &Value) -> Option<Id> {
    let Id { group, kind, namespace, name } = controller;
    let (stem, last) = name.rsplit_once('-')?;
    let of = |kind: &str| {
        Some(Id { group: group.clone(), kind: kind.to_owned(), namespace: namespace.clone(), name: stem.to_owned() })
    };
    match (group.as_str(), kind.as_str()) {
        ("apps", "ReplicaSet") if object.pointer("/metadata/labels/pod-template-hash").is_some_and(|h| h == last) => {
            of("Deployment")
        }
        ("batch", "Job") if last.bytes().all(|b| b.is_ascii_digit()) => of("CronJob"),
        _ => None,
    }
}

/// Why a Job makes no Pods, or no more.
fn idle(kind: &str, object: &Value) -> Option<String> {
    let is_set = |value: Option<&Value>| value.is_some_and(|value| *value == true);
    match kind {
        "Job" | "CronJob" if is_set(object.pointer("/spec/suspend")) => Some("suspended".to_owned()),
        "Job" => {
            let conditions = object.pointer("/status/conditions")?.as_array()?;
            let ended = |c: &&Value| c["status"] == "True" && (c["type"] == "Complete" || c["type"] == "Failed");
            conditions.iter().find(ended)?["type"].as_str().map(str::to_owned)
        }
        "Pod" => {
            let phase = object.pointer("/status/phase")?.as_str()?;
            matches!(phase, "Succeeded" | "Failed").then(|| phase.to_owned())
        }
        _ => None,
    }
}

/// What Go makes of a null: nothing, but an empty text where any text may be. In a list it is left, and refused.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            for (key, value) in map {
                if let (true, Value::Object(texts)) = (TEXTS.contains(&key.as_str()), &mut *value) {
                    texts
                        .values_mut()
                        .filter(|text| text.is_null())
                        .for_each(|text| *text = Value::String(String::new()));
                }
                drop_nulls(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

const TEXTS: [&str; 4] = ["annotations", "labels", "matchLabels", "nodeSelector"];

/// Where a cluster's scheduler has put a Pod says nothing of where it may run; who writes a Pod may name a node.
fn unbind(pod: &mut Value) {
    let of_a_cluster = pod.pointer("/metadata/uid").is_some();
    let virtual_node = |node: &Value| node.as_str().is_some_and(|name| name.starts_with(NodeName::PREFIX));
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut).filter(|_| of_a_cluster)
        && spec.get("nodeName").is_some_and(|node| !virtual_node(node))
    {
        spec.remove("nodeName");
    }
}

/// The items of a DeploymentList need not say what they are.
fn of_list(item: &mut Value, list: &str, version: Option<&Value>) {
    let kind = list.strip_suffix("List").filter(|kind| !kind.is_empty());
    let (Some(item), Some(kind)) = (item.as_object_mut(), kind) else { return };
    item.entry("kind").or_insert_with(|| kind.into());
    if let Some(version) = version {
        item.entry("apiVersion").or_insert_with(|| version.clone());
    }
}

/// That the object has no fields which none of its kind has; what a cluster says of its status aside.
fn check_fields(kind: &str, object: &Value) -> anyhow::Result<()> {
    match kind {
        "Pod" => check_as::<Pod>(object),
        "Deployment" => check_as::<Deployment>(object),
        "ReplicaSet" => check_as::<ReplicaSet>(object),
        "StatefulSet" => check_as::<StatefulSet>(object),
        "DaemonSet" => check_as::<DaemonSet>(object),
        "ReplicationController" => check_as::<ReplicationController>(object),
        "Job" => check_as::<Job>(object),
        "CronJob" => check_as::<CronJob>(object),
        // Knative's Service.
        _ => {
            let spec = object.get("spec").and_then(Value::as_object).into_iter().flatten();
            match spec.map(|(key, _)| key).find(|key| !["template", "traffic"].contains(&key.as_str())) {
                Some(key) => bail!("spec.{key}: unknown field: expected template or traffic"),
                None => Ok(()),
            }
        }
    }
}

fn check_as<T: DeserializeOwned + Serialize + Resource>(object: &Value) -> anyhow::Result<()> {
    let mut given = object.clone();
    if let Some(given) = given.as_object_mut() {
        given.retain(|key, _| !["apiVersion", "kind", "status"].contains(&key.as_str()));
    }
    let (_, unknown) = understood::<T>(&given)?;
    match unknown {
        Some(field) => bail!("{field}: unknown field: expected one of {} {}", T::API_VERSION, T::KIND),
        None => Ok(()),
    }
}

/// What is given as a `T`, and the first field of it that a `T` does not have.
fn understood<T: DeserializeOwned + Serialize>(given: &Value) -> anyhow::Result<(T, Option<String>)> {
    let understood: T = serde_path_to_error::deserialize(given)
        .map_err(|error| anyhow::anyhow!("{}: {}", error.path(), error.inner()))?;
    let again = serde_json::to_value(&understood).context("what was read can be written again")?;
    let unknown = lost(given, &again);
    Ok((understood, unknown))
}

/// How many of a Job's Pods run at a time.
fn at_once(parallelism: Option<u32>, completions: Option<u32>) -> u32 {
    parallelism.unwrap_or(1).min(completions.unwrap_or(u32::MAX))
}

/// A Revision at work has at least one Pod.
fn knative_scale(object: &Value) -> u32 {
    let annotations = object.pointer("/spec/template/metadata/annotations");
    let scale = annotations.and_then(|all| all.get("autoscaling.knative.dev/min-scale")).and_then(Value::as_str);
    scale.and_then(|text| text.parse().ok()).unwrap_or(1).clamp(1, MOST_PODS)
}

/// The Pod's metadata and spec, of a template or a Pod.
fn template(value: &Value, knative: bool) -> anyhow::Result<PodTemplateSpec> {
    let mut own = Map::new();
    for key in ["metadata", "spec"] {
        if let Some(part) = value.get(key).filter(|part| !part.is_null()) {
            own.insert(key.to_owned(), part.clone());
        }
    }
    let spec = own.get_mut("spec").and_then(Value::as_object_mut);
    let Some(spec) = spec else { bail!("spec: expected a Pod's spec") };
    if knative {
        // A Revision's own fields beside the Pod's (serving.knative.dev/v1, RevisionSpec).
        for key in ["containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"] {
            spec.remove(key);
        }
    }
    match understood(&Value::Object(own))? {
        (_, Some(field)) => bail!("{field}: unknown field: expected one of a Pod"),
        (template, None) => Ok(template),
    }
}

/// The API server takes `cpu: 2` as well as `cpu: "2"`.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let (true, Value::Object(amounts)) =
                    (matches!(key.as_str(), "requests" | "limits" | "overhead"), &mut *value)
                {
                    for amount in amounts.values_mut().filter(|amount| amount.is_number()) {
                        *amount = Value::String(amount.to_string());
                    }
                }
                quantities(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}

/// A field that was given and not understood.
fn lost(given: &Value, understood: &Value) -> Option<String> {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            given.iter().find_map(|(key, value)| match (value, understood.get(key)) {
                (Value::Null, _) => None,
                (_, None) => Some(key.clone()),
                (value, Some(other)) => lost(value, other).map(|rest| match rest.strip_prefix('[') {
                    Some(_) => format!("{key}{rest}"),
                    None => format!("{key}.{rest}"),
                }),
            })
        }
        (Value::Array(given), Value::Array(understood)) => given
            .iter()
            .zip(understood)
            .enumerate()
            .find_map(|(index, (value, other))| lost(value, other).map(|rest| format!("[{index}].{rest}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Manifests, String> {
        let mut manifests = Manifests::default();
        parse(text, "default", &mut manifests).map(|()| manifests).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn documents_and_lists_give_their_workloads_and_name_what_makes_no_pods() {
        let manifests = parsed(
            "kind: Service\nmetadata: {name: web}\n---\n---\nkind: List\nitems:\n\
             - {kind: Pod, metadata: {name: one}, spec: {containers: [{name: a, image: b, resources: {requests: {cpu: 2}}}]}}\n\
             - {kind: Job, metadata: {name: two, namespace: jobs}, spec: {parallelism: 5, completions: 3, template: {spec: {containers: [{name: a}]}}}}\n",
        )
        .unwrap();
        let found: Vec<_> =
            manifests.workloads.iter().map(|w| (w.kind.as_str(), w.namespace.as_str(), w.replicas)).collect();
        assert_eq!(found, [("Pod", "default", 1), ("Job", "jobs", 3)]);
        assert_eq!(manifests.skipped, ["Service default/web"]);
    }

    #[test]
    fn what_cannot_be_planned_is_refused_with_its_field() {
        for (text, expected) in [
            ("kind: Deployment\nmetadata: {name: a}\nspec: {}", "spec.template: expected a Pod template"),
            ("kind: Deployment\nmetadata: {name: a}\nspec: {replicas: -1}", "spec.replicas: -1"),
            ("kind: Pod\nmetadata: {name: a}\nspec: {containers: 3}", "spec.containers"),
            (
                "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, resurces: {}}]}",
                "Pod default/a: spec.containers[0].resurces: unknown field: expected one of v1 Pod",
            ),
            (
                "kind: Deployment\nmetadata: {name: a}\nspec: {replica: 3, template: {spec: {containers: []}}}",
                "Deployment default/a: spec.replica: unknown field: expected one of apps/v1 Deployment",
            ),
            (
                "---\nkind: Service\nmetadata: {name: a}\n---\nkind: CronJob\nmetadata: {name: a}\n\
                 spec: {jobTemplate: {spec: {paralelism: 3, template: {spec: {containers: []}}}}}",
                "document 2: CronJob default/a: spec.jobTemplate.spec.paralelism: unknown field",
            ),
            (
                "kind: StatefulSet\nmetadata: {name: a}\nreplicas: 3\nspec: {template: {spec: {containers: []}}}",
                "StatefulSet default/a: replicas: unknown field",
            ),
            (
                "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n\
                 spec: {tempalte: {}, template: {spec: {containers: []}}}",
                "Service default/a: spec.tempalte: unknown field: expected template or traffic",
            ),
            (
                "{kind: List, items: [{kind: Pod, metadata: {name: a}, spec: {containers: []}}, \
                 {kind: Pod, metadata: {name: a}, spec: {containers: []}}]}",
                "Pod default/a: is given twice",
            ),
            ("metadata: {name: a}", "kind: expected"),
        ] {
            let refusal = parsed(text).err().expect("refused");
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
    }

    #[test]
    fn what_a_cluster_says_of_its_objects_is_read_as_it_is() {
        let manifests = parsed(
            "kind: DeploymentList\napiVersion: apps/v1\nitems:\n\
             - metadata: {name: web, uid: abc, creationTimestamp: null, managedFields: [{manager: kubectl, fieldsV1: {\"f:spec\": {}}}]}\n  \
               spec: {replicas: 2, selector: {matchLabels: {app: web}}, strategy: {rollingUpdate: {maxSurge: 25%}}, \
               template: {metadata: {creationTimestamp: null}, spec: {containers: [{name: a, image: b, resources: {}}], volumes: []}}}\n  \
               status: {replicas: 2, ofALaterVersion: 3}\n",
        );
        let manifests = manifests.unwrap();
        assert_eq!(
            (manifests.workloads[0].to_string().as_str(), manifests.workloads[0].replicas),
            ("Deployment default/web", 2)
        );
    }

    #[test]
    fn a_kind_is_that_of_its_api_group() {
        let spec = "spec: {tasks: 3, template: {spec: {containers: []}}}";
        let manifests = parsed(&format!(
            "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {{name: a}}\n{spec}\n---\n\
             apiVersion: apps.kruise.io/v1beta1\nkind: StatefulSet\nmetadata: {{name: a}}\n{spec}\n---\n\
             apiVersion: apps.kruise.io/v1alpha1\nkind: DaemonSetList\nitems: [{{metadata: {{name: a}}, {spec}}}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: None}}\n---\n\
             apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {{name: a}}\n\
             spec: {{template: {{spec: {{containers: []}}}}}}\n"
        ))
        .unwrap();
        let workloads: Vec<String> = manifests.workloads.iter().map(ToString::to_string).collect();
        assert_eq!(workloads, ["Deployment default/a"]);
        let skipped = [
            "Job default/a (batch.volcano.sh/v1alpha1)",
            "StatefulSet default/a (apps.kruise.io/v1beta1)",
            "DaemonSet default/a (apps.kruise.io/v1alpha1)",
            "Service default/a",
        ];
        assert_eq!(manifests.skipped, skipped);
    }

    /// An object as a cluster tells it, by what it is made by.
    fn made(kind: &str, name: &str, by: Option<(&str, &str, &str)>) -> String {
        let owner = by.map_or(String::new(), |(version, kind, name)| {
            format!(
                ", ownerReferences: [{{apiVersion: {version}, kind: {kind}, name: {name}, uid: u, controller: true}}]"
            )
        });
        let spec = if kind.ends_with("Pod") { "containers: []" } else { "template: {spec: {containers: []}}" };
        format!("- {{kind: {kind}, metadata: {{name: {name}, namespace: shop{owner}}}, spec: {{{spec}}}}}\n")
    }

    #[test]
    fn of_an_object_and_what_it_is_made_by_one_is_planned_for() {
        let knative = |kind: &str, name: &str, by| {
            let version = "apiVersion: serving.knative.dev/v1, kind";
            made(kind, name, by).replacen("kind", version, 1)
        };
        let all = [
            // In any order.
            made("Pod", "web-1-a", Some(("apps/v1", "ReplicaSet", "web-1"))),
            made("ReplicaSet", "web-1", Some(("apps/v1", "Deployment", "web"))),
            made("Deployment", "web", None),
            // The Deployment was not asked for, or its like is another namespace's or another's.
            made("ReplicaSet", "shop-1", Some(("apps/v1", "Deployment", "shop"))),
            made("Deployment", "shop", None).replace("namespace: shop", "namespace: other"),
            made("Pod", "shop-1-a", Some(("apps/v1", "ReplicaSet", "shop-1"))),
            made("Pod", "train-a", Some(("batch.volcano.sh/v1alpha1", "Job", "train"))),
            made("Job", "train", None),
            made("Pod", "alone", None),
            made("Pod", "reserve", Some(("apps/v1", "Deployment", "web")))
                .replace("namespace", "labels: {pilotlight.dev/reserve-of: u}, namespace"),
            // By way of what makes no Pods itself.
            knative("Service", "hello", None),
            knative("Configuration", "hello", Some(("serving.knative.dev/v1", "Service", "hello"))),
            knative("Revision", "hello-1", Some(("serving.knative.dev/v1", "Configuration", "hello"))),
            made("Deployment", "hello-1-d", Some(("serving.knative.dev/v1", "Revision", "hello-1"))),
            // What is skipped is not planned for in its place.
            made("ReplicaSet", "roll-1", Some(("argoproj.io/v1alpha1", "Rollout", "roll"))),
            made("Rollout", "roll", None).replacen("kind", "apiVersion: argoproj.io/v1alpha1, kind", 1),
        ];
        let mut manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
        manifests.settle();
        let names: Vec<String> = manifests.workloads.iter().map(ToString::to_string).collect();
        let planned = [
            "Deployment shop/web",
            "ReplicaSet shop/shop-1",
            "Deployment other/shop",
            "Pod shop/train-a",
            "Job shop/train",
            "Pod shop/alone",
            "Pod shop/reserve",
            "Service shop/hello",
            "ReplicaSet shop/roll-1",
        ];
        assert_eq!(names, planned);
        let made_by_others =
            ["Pod shop/web-1-a", "ReplicaSet shop/web-1", "Pod shop/shop-1-a", "Deployment shop/hello-1-d"];
        assert_eq!(manifests.made_by_others, made_by_others);
    }

    #[test]
    fn a_pod_is_found_to_be_of_what_is_given_though_what_is_between_them_is_not() {
        let hashed = |name: &str, set: &str, hash: &str| {
            made("Pod", name, Some(("apps/v1", "ReplicaSet", set)))
                .replace("namespace", &format!("labels: {{pod-template-hash: '{hash}'}}, namespace"))
        };
        let job = |name: &str, job: &str| made("Pod", name, Some(("batch/v1", "Job", job)));
        let nightly = "- {kind: CronJob, metadata: {name: nightly, namespace: shop}, \
                       spec: {jobTemplate: {spec: {template: {spec: {containers: []}}}}}}\n";
        let all = [
            made("Deployment", "web", None),
            nightly.to_owned(),
            hashed("web-5d9c-x", "web-5d9c", "5d9c"),
            hashed("web-set-x", "web-set", "5d9c"),
            job("nightly-293-x", "nightly-293"),
            job("nightly-by-hand-x", "nightly-by-hand"),
        ];
        let mut manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
        manifests.settle();
        assert_eq!(manifests.made_by_others, ["Pod shop/web-5d9c-x", "Pod shop/nightly-293-x"]);
    }

    #[test]
    fn jobs_that_have_ended_or_are_suspended_are_not_planned_for() {
        let job = |name: &str, with: &str, status: &str| {
            format!(
                "- {{kind: Job, metadata: {{name: {name}}}, spec: {{{with}template: {{spec: {{containers: []}}}}}}, \
                 status: {{conditions: [{{type: {status}, status: 'True'}}]}}}}\n"
            )
        };
        let all = [
            job("done", "", "Complete"),
            job("broken", "", "Failed"),
            job("waits", "suspend: true, ", "Suspended"),
            job("runs", "suspend: false, ", "FailureTarget"),
        ];
        let manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
        let named = ["Job default/done (Complete)", "Job default/broken (Failed)", "Job default/waits (suspended)"];
        assert_eq!((manifests.workloads.len(), manifests.skipped.as_slice()), (1, named.map(str::to_owned).as_slice()));
    }

    #[test]
    fn objects_that_claim_to_be_made_by_each_other_end_the_search() {
        let by = |name| Some(("example.com/v1", "Ring", name));
        let ring = |name, of| made("Ring", name, by(of)).replacen("kind", "apiVersion: example.com/v1, kind", 1);
        let all = [made("Pod", "one", by("a")), ring("a", "b"), ring("b", "a")];
        let mut manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
        manifests.settle();
        assert_eq!(manifests.workloads.len(), 1);
    }

    #[test]
    fn pods_that_have_ended_are_not_planned_for() {
        let pod = |phase: &str| {
            made("Pod", &phase.to_lowercase(), None).replace("}}\n", &format!("}}, status: {{phase: {phase}}}}}\n"))
        };
        let all = ["Succeeded", "Failed", "Running", "Pending"].map(pod).concat();
        let manifests = parsed(&format!("kind: List\nitems:\n{all}")).unwrap();
        assert_eq!(manifests.workloads.len(), 2);
        assert_eq!(manifests.skipped, ["Pod shop/succeeded (Succeeded)", "Pod shop/failed (Failed)"]);
    }

    #[test]
    fn a_clusters_worth_of_objects_is_read() {
        // Beyond what a YAML reader takes of a stranger: of values, and of documents.
        let values = "0, ".repeat(260_000);
        let list = format!("kind: List\nitems:\n- {{kind: Thing, metadata: {{name: a}}, spec: [{values}]}}\n");
        assert_eq!(parsed(&list).unwrap().skipped, ["Thing default/a"]);
        let documents: String =
            (0..1500).map(|number| format!("---\n{{kind: Service, metadata: {{name: s-{number}}}}}\n")).collect();
        assert_eq!(parsed(&documents).unwrap().skipped.len(), 1500);
    }

    #[test]
    fn a_null_is_what_was_not_given() {
        let manifests = parsed(
            "kind: Deployment\nmetadata: {name: web, labels: null}\nspec:\n  replicas: null\n  template:\n    \
             metadata: {annotations: {checksum/config: }}\n    \
             spec: {nodeSelector: {disktype: null}, volumes: null, containers: [{name: a, image: b, \
             command: null, resources: {limits: {cpu: null, memory: 1Gi}, requests: }}]}\n---\nkind: List\nitems: null\n",
        )
        .unwrap();
        let workload = &manifests.workloads[0];
        let spec = workload.template.spec.as_ref().unwrap();
        // The API server's, too, is an empty text.
        assert_eq!(spec.node_selector.as_ref().unwrap()["disktype"], "");
        let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert_eq!((workload.replicas, limits.keys().collect::<Vec<_>>()), (1, vec![&"memory".to_owned()]));
        let in_a_list = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [null]}";
        assert!(parsed(in_a_list).err().unwrap().contains("spec.containers"));
    }

    #[test]
    fn no_two_objects_share_a_controller() {
        let spec = "template: {spec: {containers: []}}";
        let manifests = parsed(&format!(
            "kind: List\nitems:\n\
             - {{kind: Job, metadata: {{name: a}}, spec: {{{spec}}}}}\n\
             - {{kind: CronJob, metadata: {{name: a}}, spec: {{jobTemplate: {{spec: {{{spec}}}}}}}}}\n\
             - {{kind: ReplicaSet, metadata: {{name: a}}, spec: {{{spec}}}}}\n\
             - {{kind: Deployment, metadata: {{name: a}}, spec: {{{spec}}}}}\n\
             - {{kind: Job, metadata: {{generateName: a}}, spec: {{{spec}}}}}\n\
             - {{kind: Job, metadata: {{generateName: a}}, spec: {{{spec}}}}}\n"
        ))
        .unwrap();
        let owners: BTreeSet<_> = manifests.workloads.iter().map(|workload| workload.owner.clone()).collect();
        assert_eq!(owners.len(), manifests.workloads.len(), "{owners:?}");
        assert!(owners.contains(&Some(("Job".to_owned(), "a".to_owned()))));
    }
}
