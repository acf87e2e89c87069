//! Manifests -> Pods to plan for.
//!
//! In: YAML or JSON, of many documents and Lists. Out: a [`Workload`] for each object that makes Pods;
//! kinds that make none are named as skipped. A field that no object of the kind has is an error: it would be a
//! misspelt one.

use crate::model::NodeName;
use anyhow::{Context, bail};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::{fmt, io::Read, path::Path};

/// Of one workload; each is planned for.
const MOST_PODS: u32 = 100_000;

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
    /// The workloads that were given by name.
    named: BTreeSet<String>,
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
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|e| anyhow::anyhow!("{}", e.without_snippet()))?;
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
        let items = items.take();
        let Value::Array(items) = items else { bail!("items: expected a list of objects") };
        for mut item in items {
            of_list(&mut item, &kind, object.get("apiVersion"));
            self::object(item, namespace, into)?;
        }
        return Ok(());
    }
    quantities(&mut object);
    if kind == "Pod" {
        unbind(&mut object);
    }
    let knative = text(&object, "/apiVersion").is_some_and(|version| version.starts_with("serving.knative.dev/"));
    let namespace = text(&object, "/metadata/namespace").unwrap_or_else(|| namespace.to_owned());
    let own_name = text(&object, "/metadata/name");
    let is_named = own_name.is_some();
    let name = own_name.or_else(|| text(&object, "/metadata/generateName"));
    let Some(name) = name else { bail!("{kind}: metadata.name: expected a name") };
    let subject = format!("{kind} {namespace}/{name}");
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
        "Service" if knative => ("/spec/template", knative_scale(&object), made("ReplicaSet")),
        // Refused with the rest planned.
        "DaemonSet" => ("/spec/template", 1, own()),
        _ => {
            into.skipped.push(subject);
            return Ok(());
        }
    };
    let Some(template) = object.pointer(path) else {
        bail!("{subject}: {}: expected a Pod template", path[1..].replace('/', "."))
    };
    check_fields(&kind, &object).with_context(|| subject.clone())?;
    let prefix = path.get(1..).unwrap_or_default().replace('/', ".");
    let template = self::template(template, knative).with_context(|| match prefix.as_str() {
        "" => subject.clone(),
        prefix => format!("{subject}: in {prefix}"),
    })?;
    let workload = Workload { kind, namespace, name, replicas, owner, template };
    if is_named && !into.named.insert(workload.to_string()) {
        bail!("{workload}: is given twice: expected each object once");
    }
    into.workloads.push(workload);
    Ok(())
}

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
