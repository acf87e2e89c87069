//! Many Revisions at zero, each with a reserve: what the provider takes while nothing happens.
//!
//! So many instances would not fit on this machine. The reserves are on a node that is none: this bench is its
//! kubelet, and says of each Pod that it runs. What the provider does for Revisions is measured, then, and not what
//! its own nodes do for Pods (scripts/bench startup has that).

use crate::{
    audit, procs,
    serving::{Serving, annotated, ksvc},
    support::{Cluster, condition},
};
use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use std::{
    pin::pin,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const NODE: &str = "bench-none";
/// What the virtual node is known by, and this one for a while.
const TYPE: &str = "virtual-kubelet";
const WINDOW: Duration = Duration::from_secs(120);
const AT_ONCE: usize = 8;
/// A Revision takes Serving some hundred milliseconds; the machine may be slow.
const PATIENCE_EACH: Duration = Duration::from_secs(3);

pub struct Idle {
    pub revisions: usize,
    /// Attached and ready.
    pub reserves: usize,
    pub before: procs::Memory,
    pub memory: procs::Memory,
    /// Of one processor.
    pub processor: f64,
    pub window: Duration,
    pub requests: audit::Requests,
}

impl Idle {
    pub fn per_revision_minute(&self) -> f64 {
        let requests: u64 = self.requests.by_kind.values().sum();
        requests as f64 / self.revisions as f64 / (self.window.as_secs_f64() / 60.0)
    }
}

pub async fn measure(revisions: usize) -> Result<Idle> {
    println!("{revisions} Revisions at zero");
    let serving = Serving::new("bench-idle").await;
    let cluster = Cluster::get();
    let provider = procs::recorded(&cluster.state.join("provider/pid"))?;
    let before = procs::memory(provider)?;
    let node = NoNode::start(&serving.client, revisions).await?;
    let deployed = Instant::now();
    let deploy = |number: usize| {
        let serving = &serving;
        async move {
            let service = annotated(
                ksvc(&format!("idle-{number:04}"), json!({})),
                json!({ "pilotlight.dev/reserve": "enabled", "autoscaling.knative.dev/initial-scale": "0" }),
            );
            serving.apply(&service).await;
        }
    };
    stream::iter(0..revisions).for_each_concurrent(AT_ONCE, deploy).await;
    let reserves = until_reserved(&serving, revisions, deployed).await?;
    println!("  {reserves} reserves after {:.0} s", deployed.elapsed().as_secs_f64());
    // What came with them must have settled.
    until_silent(cluster).await?;

    let log = audit::Log::at_its_end(&cluster.state.join("audit.log"))?;
    let (cpu, began) = (procs::cpu(provider)?, Instant::now());
    tokio::time::sleep(WINDOW).await; // a window of measurement, not a wait for something
    let window = began.elapsed();
    let processor = (procs::cpu(provider)? - cpu).as_secs_f64() / window.as_secs_f64();
    let requests = log.since(&audit::Of::pilotlight()).context("the audit log")?;
    let memory = procs::memory(provider)?;
    node.stop().await?;
    Ok(Idle { revisions, reserves, before, memory, processor, window, requests })
}

/// Waits until each has a reserve that is ready.
async fn until_reserved(serving: &Serving, revisions: usize, since: Instant) -> Result<usize> {
    let deadline = since + PATIENCE_EACH * u32::try_from(revisions)? + Duration::from_secs(120);
    loop {
        let all = serving.api::<Pod>().list(&ListParams::default().labels("pilotlight.dev/reserve-of")).await?;
        let ready = all.items.iter().filter(|pod| condition(pod, "Ready")).count();
        if ready >= revisions {
            return Ok(ready);
        }
        if Instant::now() > deadline {
            bail!("{ready} of {revisions} Revisions have a reserve that is ready");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Waits until the provider has written nothing for a while.
async fn until_silent(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let log = audit::Log::at_its_end(&cluster.state.join("audit.log"))?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let requests = log.since(&audit::Of::pilotlight())?;
        if requests.pods + requests.events == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            println!("  the provider does not come to rest: {:?}", requests.by_kind);
            return Ok(());
        }
    }
}

/// A node without a kubelet; the provider's own take no new Pods meanwhile.
struct NoNode {
    client: Client,
    cordoned: Vec<String>,
    kubelet: JoinHandle<()>,
    heart: JoinHandle<()>,
}

impl NoNode {
    async fn start(client: &Client, pods: usize) -> Result<Self> {
        let nodes: Api<Node> = Api::all(client.clone());
        let mut cordoned = Vec::new();
        for node in nodes.list(&ListParams::default().labels(&format!("type={TYPE}"))).await? {
            let name = node.name_any();
            cordon(&nodes, &name, true).await?;
            cordoned.push(name);
        }
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": NODE, "labels": { "type": TYPE, "kubernetes.io/hostname": NODE } },
        }))?;
        drop(nodes.delete(NODE, &DeleteParams::default()).await);
        nodes.create(&PostParams::default(), &node).await?;
        let room = (pods + 100).to_string();
        let status = json!({ "status": {
            "capacity": { "cpu": "100000", "memory": "100000Gi", "pods": room },
            "allocatable": { "cpu": "100000", "memory": "100000Gi", "pods": room },
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Bench", "message": "",
                "lastHeartbeatTime": jiff::Timestamp::now(), "lastTransitionTime": jiff::Timestamp::now() }],
        }});
        nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await?;
        let kubelet = tokio::spawn(run_pods(client.clone()));
        let heart = tokio::spawn(beat(client.clone()));
        Ok(Self { client: client.clone(), cordoned, kubelet, heart })
    }

    async fn stop(self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client);
        for name in self.cordoned {
            cordon(&nodes, &name, false).await?;
        }
        nodes.delete(NODE, &DeleteParams::default()).await?;
        self.kubelet.abort();
        self.heart.abort();
        Ok(())
    }
}

/// Without its Lease the node would be taken for dead after 40 s.
async fn beat(client: Client) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": NODE },
            "spec": { "holderIdentity": NODE, "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", jiff::Timestamp::now()) },
        });
        if let Err(error) = leases.patch(NODE, &PatchParams::apply("bench").force(), &Patch::Apply(lease)).await {
            eprintln!("  the node's Lease: {error}");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

async fn cordon(nodes: &Api<Node>, name: &str, cordoned: bool) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "unschedulable": cordoned } }));
    nodes.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Says of every Pod on the node that it runs, and lets those go that are deleted.
async fn run_pods(client: Client) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
    let pods = watcher(Api::<Pod>::all(client.clone()), config).default_backoff().touched_objects();
    let mut number = 0_u32;
    let mut pods = pin!(pods);
    while let Ok(Some(pod)) = pods.try_next().await {
        let (name, api) =
            (pod.name_any(), Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default()));
        if pod.metadata.deletion_timestamp.is_some() {
            drop(api.delete(&name, &DeleteParams::default().grace_period(0)).await);
            continue;
        }
        if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running") {
            continue;
        }
        number += 1;
        let now = jiff::Timestamp::now();
        let condition = |kind| json!({ "type": kind, "status": "True", "lastTransitionTime": now });
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
            json!({ "name": container.name, "ready": true, "started": true, "restartCount": 0,
                "image": container.image, "imageID": "", "state": { "running": { "startedAt": now } } })
        });
        // Nobody is there: the address only has to be one.
        let ip = format!("10.79.{}.{}", number / 250, number % 250 + 1);
        let status = json!({ "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "startTime": now,
            "conditions": conditions,
            "containerStatuses": containers.collect::<Vec<_>>(),
        }});
        if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await {
            eprintln!("  {name}: {error}");
        }
    }
}
