//! The virtual node's own objects: Node, its status, its Lease.
//!
//! Registered and renewed under the node's identity, at a kubelet's cadence
//! (pkg/kubelet/kubelet_node_status.go): Lease every 10 s, status on change or every 5 min.

use super::KubeError;
use crate::config::{Limits, NodeConfig};
use crate::decide::purchase::policy::Architecture;
use crate::model::NodeName;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PodSpec};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// nodeLeaseDurationSeconds and a quarter of it: the kubelet's defaults.
const LEASE_SECONDS: u64 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(300);

/// The taint that keeps everything away that doesn't ask for us.
pub const TAINT: &str = "virtual-kubelet.io/provider";
const TAINT_VALUE: &str = "pilotlight";
const TAINT_EFFECT: &str = "NoSchedule";

/// The Kubernetes release whose kubelet this behaves as.
const BEHAVES_AS: (u32, u32, u32) = (1, 37, 0);

/// Heartbeats wait for it.
const VERSION_TIMEOUT: Duration = Duration::from_secs(3);
const VERSION_TRIES: usize = 3;

/// What the node says its kubelet is: no newer than the API server, as Kubernetes' version skew policy has it, and as upgrade
/// checks read it. Fields that an older API server does not have reach no Pod.
pub async fn kubelet_version(client: &Client) -> String {
    for _ in 0..VERSION_TRIES {
        match tokio::time::timeout(VERSION_TIMEOUT, client.apiserver_version()).await {
            Ok(Ok(info)) => return version_beside(Some(&info.git_version)),
            Ok(Err(error)) => tracing::warn!(error = super::why(&error), "the API server does not tell its version"),
            Err(_) => tracing::warn!("the API server does not tell its version in time"),
        }
    }
    version_beside(None)
}

fn version_beside(server: Option<&str>) -> String {
    let server = server.and_then(release);
    let (major, minor, patch) = server.map_or(BEHAVES_AS, |server| server.min(BEHAVES_AS));
    format!("v{major}.{minor}.{patch}-pilotlight.{}", env!("CARGO_PKG_VERSION"))
}

/// Of `v1.33.5-eks-113cf36` 1, 33 and 5.
fn release(git_version: &str) -> Option<(u32, u32, u32)> {
    let numbers = git_version.strip_prefix('v')?.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub node: NodeConfig,
    pub region: String,
    pub address: IpAddr,
    pub limits: Limits,
    pub cluster: String,
    /// What the node says of itself: amd64, if there is an image for that.
    pub architecture: Architecture,
    pub prices: watch::Receiver<PriceNote>,
    /// From [`kubelet_version`].
    pub kubelet_version: String,
}

/// A scheme of our own: a cloud controller that knows only its own scheme leaves the node alone.
pub const PROVIDER_ID_SCHEME: &str = "pilotlight://";
/// The condition that says of when the prices are that instances are bought by.
pub const PRICES: &str = "pilotlight.dev/PricesRefreshed";

/// Where the prices in use are from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceNote {
    /// The cloud has told them; else they are those of the files.
    pub refreshed: bool,
    pub message: String,
}

/// Whether the node can take Pods, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    pub reason: String,
    pub message: String,
}

impl Readiness {
    pub fn ready() -> Self {
        Self {
            ready: true,
            reason: "PilotlightReady".to_owned(),
            message: "the provider runs and its cloud answers".to_owned(),
        }
    }
}

/// A node's labels, as it is registered with.
pub fn labels(name: &NodeName, zone: &str, region: &str, architecture: Architecture) -> BTreeMap<String, String> {
    let all = [
        ("type", "virtual-kubelet"),
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture.as_str()),
        ("topology.kubernetes.io/region", region),
        ("topology.kubernetes.io/zone", zone),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
    ];
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Whether the scheduler lets the Pod onto a node in spite of the taint.
pub fn tolerates_taint(spec: &PodSpec) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        (key == TAINT || key.is_empty() && exists)
            && (exists || value == TAINT_VALUE)
            && (effect.is_empty() || effect == TAINT_EFFECT)
    })
}

fn object(facts: &NodeFacts) -> Node {
    let name = &facts.node.name;
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": labels(name, &facts.node.zone, &facts.region, facts.architecture),
        },
        "spec": {
            "providerID": format!("{PROVIDER_ID_SCHEME}{}/{}", facts.cluster, facts.node.zone),
            "taints": [{ "key": TAINT, "value": TAINT_VALUE, "effect": TAINT_EFFECT }],
        },
    }))
    .expect("a node of this shape is valid")
}

fn status(facts: &NodeFacts, readiness: &Readiness, since: Timestamp, now: Timestamp) -> Value {
    let prices = facts.prices.borrow().clone();
    let from = if prices.refreshed { "FromCloud" } else { "FromFiles" };
    let capacity = json!({
        "cpu": format!("{}m", facts.limits.cpu_millis),
        "memory": facts.limits.memory_bytes.to_string(),
        "pods": facts.limits.pods.to_string(),
        "ephemeral-storage": "1Ti",
    });
    let fine = |kind: &str, reason: &str| condition(kind, false, reason, "", since, now);
    json!({ "status": {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            { "type": "InternalIP", "address": facts.address },
            { "type": "Hostname", "address": facts.node.name },
        ],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": facts.node.kubelet_port } },
        "nodeInfo": {
            "architecture": facts.architecture.as_str(),
            "operatingSystem": "linux",
            "kubeletVersion": facts.kubelet_version,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "containerd://2.2",
            "osImage": "Pilotlight virtual node",
            "kernelVersion": "virtual",
            "machineID": facts.node.name,
            "systemUUID": facts.node.name,
            "bootID": facts.node.name,
        },
        "conditions": [
            condition("Ready", readiness.ready, &readiness.reason, &readiness.message, since, now),
            fine("MemoryPressure", "InstancePerPod"),
            fine("DiskPressure", "InstancePerPod"),
            fine("PIDPressure", "InstancePerPod"),
            condition(PRICES, prices.refreshed, from, &prices.message, since, now),
        ],
    }})
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str, since: Timestamp, now: Timestamp) -> Value {
    let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": time(now),
        "lastTransitionTime": time(since),
    })
}

/// Registers the node and keeps it alive until cancelled. `readiness` decides the Ready condition.
pub async fn keep(
    client: Client,
    mut facts: NodeFacts,
    mut readiness: watch::Receiver<Readiness>,
    cancel: CancellationToken,
) -> Result<(), KubeError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let name = facts.node.name.clone();
    let node = register(&nodes, &facts).await?;
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let owner = node.metadata.uid.clone().unwrap_or_default();
    let mut current = readiness.borrow_and_update().clone();
    let mut since = Timestamp::now();
    write_status(&nodes, &facts, &current, since).await;
    let mut status_due = tokio::time::Instant::now() + STATUS_EVERY;
    let mut renew = tokio::time::interval(RENEW_EVERY);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = renew.tick() => {
                if let Err(error) = renew_lease(&leases, &name, &owner).await {
                    tracing::warn!(node = %name, error = super::why(&error), "the node's lease was not renewed");
                }
            }
            () = tokio::time::sleep_until(status_due) => {
                write_status(&nodes, &facts, &current, since).await;
                status_due = tokio::time::Instant::now() + STATUS_EVERY;
            }
            Ok(()) = facts.prices.changed() => {
                write_status(&nodes, &facts, &current, since).await;
            }
            changed = readiness.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let next = readiness.borrow_and_update().clone();
                if next.ready != current.ready {
                    since = Timestamp::now();
                }
                current = next;
                write_status(&nodes, &facts, &current, since).await;
            }
        }
    }
}

async fn register(nodes: &Api<Node>, facts: &NodeFacts) -> Result<Node, KubeError> {
    let name = facts.node.name.as_str();
    let wanted = object(facts);
    match nodes.create(&PostParams::default(), &wanted).await {
        Ok(node) => {
            tracing::info!(node = name, "registered");
            Ok(node)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // It exists from before. Labels may have changed; a node may not touch its taints.
            let labels = json!({ "metadata": { "labels": wanted.metadata.labels } });
            nodes
                .patch(name, &PatchParams::default(), &Patch::Strategic(labels))
                .await
                .map_err(|source| KubeError::new("patch", format!("node {name}"), &source))
        }
        Err(source) => Err(KubeError::new("create", format!("node {name}"), &source)),
    }
}

async fn write_status(nodes: &Api<Node>, facts: &NodeFacts, readiness: &Readiness, since: Timestamp) {
    let name = facts.node.name.as_str();
    let patch = status(facts, readiness, since, Timestamp::now());
    if let Err(error) = nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        tracing::warn!(node = name, error = super::why(&error), "the node's status was not written");
    }
}

async fn renew_lease(leases: &Api<Lease>, node: &NodeName, owner: &str) -> Result<(), kube::Error> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let spec = json!({ "holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now });
    let patch = json!({ "spec": spec });
    match leases.patch(node.as_str(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease: Lease = serde_json::from_value(json!({
                "metadata": {
                    "name": node,
                    "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": owner }],
                },
                "spec": spec,
            }))
            .expect("a lease of this shape is valid");
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::version_beside;

    #[test]
    fn the_kubelet_is_no_newer_than_the_api_server_nor_than_what_it_behaves_as() {
        let own = env!("CARGO_PKG_VERSION");
        for (server, said) in [
            (Some("v1.33.5-eks-113cf36"), "v1.33.5"),
            (Some("v1.36.0+k3s1"), "v1.36.0"),
            (Some("v1.37.0"), "v1.37.0"),
            (Some("v1.38.1"), "v1.37.0"),
            (Some("something"), "v1.37.0"),
            (None, "v1.37.0"),
        ] {
            assert_eq!(version_beside(server), format!("{said}-pilotlight.{own}"), "{server:?}");
        }
    }
}
