//! Manifests -> Pods to plan for.
//!
//! In: YAML or JSON, of many documents and Lists, as people write them and as a cluster tells them. Out: a [`Workload`] for
//! each object that makes Pods; kinds that make none are named as skipped, and so are Pods that have ended. Of an object and
//! what it is made by, at any remove, one is planned for ([`Manifests::settle`]). A field that no object of the kind has is
//! an error: it would be a misspelt one. A null is what was not given, as for Go.

mod made_by;
#[cfg(test)]
mod tests;

use crate::model::NodeName;
use anyhow::{Context, bail};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use made_by::{Id, Objects};
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
    /// What was left out by [`Self::settle`].
    pub made_by_others: Vec<String>,
    /// The workloads that were given by name.
    named: BTreeSet<String>,
    /// All objects that have a name.
    objects: Objects,
}

impl Manifests {
    /// Leaves out what is made by an object that is planned for: the ReplicaSets and Pods of a Deployment. To be called once all
    /// is read.
    pub fn settle(&mut self) {
        let left_out = self.objects.made_by_workloads();
        let (made, planned): (Vec<_>, Vec<_>) =
            self.workloads.drain(..).enumerate().partition(|(index, _)| left_out.contains(index));
        self.workloads = planned.into_iter().map(|(_, workload)| workload).collect();
        self.made_by_others.extend(made.into_iter().map(|(_, workload)| workload.to_string()));
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
        into.objects.note(id.clone(), &object);
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
    if let Some(id) = id {
        into.objects.is_workload(&id, into.workloads.len());
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
