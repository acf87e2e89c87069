//! The reserve Pod: the Deployment's template with another size, other labels and another place. Pure.
//!
//! - Labels: `serving.knative.dev/revisionUID` makes it an endpoint; without `serving.knative.dev/revision` the
//!   autoscaler doesn't count it, and without `pod-template-hash` no ReplicaSet takes it for its own.
//! - The Revision (or the plain Deployment) is its controller: it goes with it, and nobody else adopts it. A plain
//!   Deployment's reserve is an endpoint while it bears the template's labels.
//! - Its user containers share the reserve's size; queue-proxy keeps what the template gives it. Memory is limited
//!   to what it requests, CPU is not: a burstable instance is there to burst.
//! - On less CPU it starts more slowly: its startup and liveness probes are as much more patient.
//! - It runs on a virtual node, whatever node the template wants.

use super::words::*;
use crate::decide::purchase;
use crate::decide::reserve::size::{self, Needs, Size, Sized, Sizing};
use crate::model::{parse_milli, parse_units};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{ObjectMeta, OwnerReference},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Part of every build's hash: another number rolls all reserves, when what is made of a template changes.
const RECIPE: u32 = 1;
/// Labels of nodes that say where and what, not which; the others of a template's selector don't hold here.
const PLACES: [&str; 4] =
    ["topology.kubernetes.io/zone", "topology.kubernetes.io/region", "kubernetes.io/arch", "kubernetes.io/os"];
/// What narrows the purchase of standard Pods is not about reserves, which have a class of their own.
const NARROWING: [&str; 3] = [purchase::INSTANCE_TYPES, purchase::PURCHASE, purchase::MAX_HOURLY];
const ECI: &str = "k8s.aliyun.com/eci-";

/// A Deployment's template, with what is asked of it often.
#[derive(Clone, Debug)]
pub struct Template {
    pub spec: api::PodTemplateSpec,
    digest: [u8; 32],
    /// What the user containers request together.
    cpu_millis: Option<u64>,
    memory_bytes: Option<u64>,
    /// How long its startup probes wait.
    patience: Option<SignedDuration>,
}

/// What a reserve is made by, besides its template.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    pub sizing: &'a Sizing,
    pub needs: Needs,
    pub most_memory_bytes: Option<u64>,
    /// What a template requests that requests nothing.
    pub unsaid: Size,
    pub class: &'a str,
    pub bound: Option<u32>,
    pub startup: SignedDuration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blueprint {
    /// Of everything that makes the Pod what it is.
    pub hash: String,
    pub sized: Sized,
    pub startup: SignedDuration,
    slowdown: u32,
    class: String,
    bound: Option<u32>,
    killed_at_bytes: Option<u64>,
}

/// Whose reserve it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Revision,
    /// Without Knative: its Services find Pods by the template's labels.
    Deployment,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revision => "Revision",
            Self::Deployment => "Deployment",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Self::Revision => "serving.knative.dev/v1",
            Self::Deployment => "apps/v1",
        }
    }
}

/// Which Pod.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub namespace: &'a str,
    pub kind: Kind,
    pub owner: &'a str,
    pub owner_uid: &'a str,
    pub name: &'a str,
    pub attached: bool,
    pub now: Timestamp,
}

impl Template {
    pub fn new(spec: api::PodTemplateSpec) -> Self {
        let json = serde_json::to_vec(&spec).expect("a template is plain JSON");
        let containers = || spec.spec.iter().flat_map(|pod| &pod.containers).filter(|c| c.name != QUEUE_PROXY);
        let sum = |name: &str, parse: fn(&str) -> Option<u64>| {
            let amounts = containers().filter_map(|c| parse(&c.resources.as_ref()?.requests.as_ref()?.get(name)?.0));
            amounts.reduce(u64::saturating_add)
        };
        let patience = containers().filter_map(|c| c.startup_probe.as_ref()).map(patience).max();
        Self {
            digest: Sha256::digest(&json).into(),
            cpu_millis: sum("cpu", parse_milli),
            memory_bytes: sum("memory", parse_units),
            patience,
            spec,
        }
    }
}

/// All tries of a probe together; defaults are the API server's.
fn patience(probe: &api::Probe) -> SignedDuration {
    let tries = i64::from(probe.failure_threshold.unwrap_or(3)) * i64::from(probe.period_seconds.unwrap_or(10));
    SignedDuration::from_secs(i64::from(probe.initial_delay_seconds.unwrap_or(0)) + tries)
}

pub fn blueprint(template: &Template, order: &Order) -> Blueprint {
    let standard = Size {
        cpu_millis: template.cpu_millis.unwrap_or(order.unsaid.cpu_millis),
        memory_bytes: template.memory_bytes.unwrap_or(order.unsaid.memory_bytes),
    };
    let sized = size::size(order.sizing, standard, order.needs, order.most_memory_bytes);
    let slowdown = size::slowdown(standard, sized.size);
    let Size { cpu_millis, memory_bytes } = sized.size;
    let mut hash = Sha256::new();
    hash.update(template.digest);
    hash.update(format!("{RECIPE} {cpu_millis} {memory_bytes} {slowdown} {:?} {}", order.bound, order.class));
    let hash = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let probe = template.patience.map(|patience| patience.saturating_mul(i32::try_from(slowdown).unwrap_or(i32::MAX)));
    Blueprint {
        hash,
        sized,
        startup: size::startup(order.startup, probe),
        slowdown,
        class: order.class.to_owned(),
        bound: order.bound,
        killed_at_bytes: order.needs.killed_at_bytes,
    }
}

pub fn pod(template: &Template, plan: &Blueprint, who: &Identity) -> api::Pod {
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut labels = match who.kind {
        Kind::Revision => given.labels.unwrap_or_default(),
        Kind::Deployment => BTreeMap::new(),
    };
    for gone in [REVISION, REVISION_UID, TEMPLATE_HASH] {
        labels.remove(gone);
    }
    labels.insert(RESERVE_OF.to_owned(), who.owner_uid.to_owned());
    if who.attached {
        labels.extend(attaching(template, who.kind, who.owner_uid));
    }
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.retain(|key, _| !NARROWING.contains(&key.as_str()) && !key.starts_with(ECI));
    annotations.insert(USE_CLASS.to_owned(), plan.class.clone());
    annotations.insert(BUILD.to_owned(), plan.hash.clone());
    annotations.insert(CHANGED.to_owned(), who.now.to_string());
    if let Some(bytes) = plan.killed_at_bytes {
        annotations.insert(KILLED_AT.to_owned(), bytes.to_string());
    }
    let mut spec = template.spec.spec.clone().unwrap_or_default();
    place(&mut spec);
    resize(&mut spec, plan.sized.size);
    for container in &mut spec.containers {
        if container.name == QUEUE_PROXY {
            bound(container, plan.bound);
        } else {
            wait_longer(container, plan.slowdown);
        }
    }
    api::Pod {
        metadata: ObjectMeta {
            name: Some(who.name.to_owned()),
            namespace: Some(who.namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: who.kind.api_version().to_owned(),
                kind: who.kind.as_str().to_owned(),
                name: who.owner.to_owned(),
                uid: who.owner_uid.to_owned(),
                controller: Some(true),
                // Setting it would need a right on the Revision's finalizers, and nobody waits for a reserve.
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The labels that make it an endpoint.
pub fn attaching(template: &Template, kind: Kind, owner_uid: &str) -> BTreeMap<String, String> {
    match kind {
        Kind::Revision => [(REVISION_UID.to_owned(), owner_uid.to_owned())].into(),
        Kind::Deployment => {
            let mut labels = template.spec.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
            labels.remove(TEMPLATE_HASH);
            labels.insert(ATTACHED.to_owned(), "true".to_owned());
            labels
        }
    }
}

/// What a plain Deployment's reserve bears whether it is an endpoint or not: whose it is, and what the API server wrote
/// at its binding (admission plugin PodTopologyLabels).
pub fn stays(label: &str) -> bool {
    label == RESERVE_OF || PLACES[..2].contains(&label)
}

/// On a virtual node, where nothing else is.
fn place(spec: &mut api::PodSpec) {
    let mut selector = spec.node_selector.take().unwrap_or_default();
    selector.retain(|key, _| PLACES.contains(&key.as_str()));
    selector.insert("type".to_owned(), "virtual-kubelet".to_owned());
    spec.node_selector = Some(selector);
    if let Some(affinity) = &mut spec.affinity {
        affinity.node_affinity = None;
    }
    spec.topology_spread_constraints = None;
    spec.node_name = None;
    let ours = api::Toleration {
        key: Some("virtual-kubelet.io/provider".to_owned()),
        operator: Some("Equal".to_owned()),
        value: Some("pilotlight".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..api::Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&ours) {
        tolerations.push(ours);
    }
}

/// The reserve's size for the user containers together: memory as the template splits it, CPU likewise.
fn resize(spec: &mut api::PodSpec, size: Size) {
    let users: Vec<&mut api::Container> = spec.containers.iter_mut().filter(|c| c.name != QUEUE_PROXY).collect();
    let weight = |container: &api::Container| {
        let memory = container.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("memory"));
        memory.and_then(|amount| parse_units(&amount.0)).unwrap_or(0).max(1)
    };
    let total: u128 = users.iter().map(|c| u128::from(weight(c))).sum();
    for container in users {
        let share = |of: u64| {
            let part = u128::from(of) * u128::from(weight(container)) / total.max(1);
            u64::try_from(part).unwrap_or(of).max(1)
        };
        let (cpu, memory) = (share(size.cpu_millis), share(size.memory_bytes));
        let resources = container.resources.get_or_insert_default();
        let requests = resources.requests.get_or_insert_default();
        requests.insert("cpu".to_owned(), Quantity(format!("{cpu}m")));
        requests.insert("memory".to_owned(), Quantity(memory.to_string()));
        let limits = resources.limits.get_or_insert_default();
        limits.insert("memory".to_owned(), Quantity(memory.to_string()));
        if limits.get("cpu").and_then(|limit| parse_milli(&limit.0)).is_some_and(|limit| limit < cpu) {
            limits.remove("cpu");
        }
    }
}

fn wait_longer(container: &mut api::Container, slowdown: u32) {
    let slowdown = i32::try_from(slowdown).unwrap_or(i32::MAX);
    if let Some(probe) = &mut container.startup_probe {
        probe.failure_threshold = Some(probe.failure_threshold.unwrap_or(3).saturating_mul(slowdown));
        probe.timeout_seconds = Some(probe.timeout_seconds.unwrap_or(1).saturating_mul(slowdown));
    } else if let Some(probe) = &mut container.liveness_probe {
        // Nothing else keeps it alive while it starts.
        let tries = probe.failure_threshold.unwrap_or(3).saturating_mul(probe.period_seconds.unwrap_or(10));
        let whole = probe.initial_delay_seconds.unwrap_or(0).saturating_add(tries);
        let longer = whole.saturating_mul(slowdown.saturating_sub(1));
        probe.initial_delay_seconds = Some(probe.initial_delay_seconds.unwrap_or(0).saturating_add(longer));
    }
}

/// Tells queue-proxy how many requests to let in, where the Revision leaves that open.
fn bound(queue_proxy: &mut api::Container, bound: Option<u32>) {
    let Some(bound) = bound else { return };
    for variable in queue_proxy.env.iter_mut().flatten().filter(|v| v.name == "CONTAINER_CONCURRENCY") {
        variable.value = Some(bound.to_string());
    }
}

/// What a Pod's user containers may use of memory together; None where one may use any amount.
pub fn memory_limit(pod: &api::Pod) -> Option<u64> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).filter(|c| c.name != QUEUE_PROXY);
    let limit = |c: &api::Container| parse_units(&c.resources.as_ref()?.limits.as_ref()?.get("memory")?.0);
    containers.map(limit).try_fold(0_u64, |sum, limit| Some(sum.saturating_add(limit?)))
}

/// Whether one of its user containers was killed for want of memory.
pub fn ran_out_of_memory(pod: &api::Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.filter(|status| status.name != QUEUE_PROXY).any(|status| {
        let ends = [&status.state, &status.last_state].into_iter().flatten().filter_map(|s| s.terminated.as_ref());
        ends.into_iter().any(|end| end.reason.as_deref() == Some("OOMKilled"))
    })
}

#[cfg(test)]
mod tests;
