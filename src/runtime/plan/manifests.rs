//! Manifests -> Pods to plan for.
//!
//! In: YAML or JSON, of many documents and Lists. Out: a [`Workload`] for each object that makes Pods;
//! kinds that make none are named as skipped. A field that no Pod has is an error: it would be a
//! misspelt one.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};
use std::{io::Read, path::Path};

/// Of one workload; each is planned for.
const MOST_PODS: u32 = 100_000;

pub struct Workload {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub replicas: u32,
    /// The kind of the Pods' controller.
    pub owner_kind: Option<&'static str>,
    pub template: PodTemplateSpec,
}

#[derive(Default)]
pub struct Manifests {
    pub workloads: Vec<Workload>,
    /// `Service default/web`
    pub skipped: Vec<String>,
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
    documents.into_iter().filter(|d| !d.is_null()).try_for_each(|document| object(document, namespace, into))
}

fn object(mut object: Value, namespace: &str, into: &mut Manifests) -> anyhow::Result<()> {
    let text = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = text(&object, "/kind") else { bail!("kind: expected the object's kind, such as Deployment") };
    if let Some(items) = object.get_mut("items").filter(|_| kind.ends_with("List")) {
        let items = items.take();
        let Value::Array(items) = items else { bail!("items: expected a list of objects") };
        return items.into_iter().try_for_each(|item| self::object(item, namespace, into));
    }
    let knative = text(&object, "/apiVersion").is_some_and(|version| version.starts_with("serving.knative.dev/"));
    let namespace = text(&object, "/metadata/namespace").unwrap_or_else(|| namespace.to_owned());
    let name = text(&object, "/metadata/name").or_else(|| text(&object, "/metadata/generateName"));
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
    let (path, replicas, owner_kind) = match kind.as_str() {
        "Pod" => ("", 1, None),
        "Deployment" => ("/spec/template", number("/spec/replicas")?.unwrap_or(1), Some("ReplicaSet")),
        "ReplicaSet" => ("/spec/template", number("/spec/replicas")?.unwrap_or(1), Some("ReplicaSet")),
        "StatefulSet" => ("/spec/template", number("/spec/replicas")?.unwrap_or(1), Some("StatefulSet")),
        "ReplicationController" => {
            ("/spec/template", number("/spec/replicas")?.unwrap_or(1), Some("ReplicationController"))
        }
        "Job" => ("/spec/template", at_once(number("/spec/parallelism")?, number("/spec/completions")?), Some("Job")),
        "CronJob" => {
            let parallel = number("/spec/jobTemplate/spec/parallelism")?;
            let complete = number("/spec/jobTemplate/spec/completions")?;
            ("/spec/jobTemplate/spec/template", at_once(parallel, complete), Some("Job"))
        }
        "Service" if knative => ("/spec/template", knative_scale(&object), Some("ReplicaSet")),
        "DaemonSet" => bail!("{subject}: a DaemonSet is not supported: it would cost an instance each on every node"),
        _ => {
            into.skipped.push(subject);
            return Ok(());
        }
    };
    let Some(template) = object.pointer(path) else {
        bail!("{subject}: {}: expected a Pod template", path[1..].replace('/', "."))
    };
    let prefix = path.get(1..).unwrap_or_default().replace('/', ".");
    let template = self::template(template, knative).with_context(|| match prefix.as_str() {
        "" => subject.clone(),
        prefix => format!("{subject}: in {prefix}"),
    })?;
    into.workloads.push(Workload { kind, namespace, name, replicas, owner_kind, template });
    Ok(())
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
    let mut own = Value::Object(own);
    quantities(&mut own);
    let template: PodTemplateSpec = serde_path_to_error::deserialize(&own)
        .map_err(|error| anyhow::anyhow!("{}: {}", error.path(), error.inner()))?;
    let again = serde_json::to_value(&template).context("a template can be written again")?;
    if let Some(field) = lost(&own, &again) {
        bail!("{field}: unknown field");
    }
    Ok(template)
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
            ("kind: DaemonSet\nmetadata: {name: a}\nspec: {}", "DaemonSet default/a"),
            ("kind: Deployment\nmetadata: {name: a}\nspec: {}", "spec.template: expected a Pod template"),
            ("kind: Deployment\nmetadata: {name: a}\nspec: {replicas: -1}", "spec.replicas: -1"),
            ("kind: Pod\nmetadata: {name: a}\nspec: {containers: 3}", "spec.containers"),
            (
                "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, resurces: {}}]}",
                "spec.containers[0].resurces: unknown field",
            ),
            ("metadata: {name: a}", "kind: expected"),
        ] {
            let refusal = parsed(text).err().expect("refused");
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
    }
}
