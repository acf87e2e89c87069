//! A namespace with Knative Services in it, and waiting for what Serving says of them.

#![allow(dead_code, reason = "a kit: each test uses a part of it")]

use crate::{
    net::Target,
    support::{Cluster, PATIENCE, Space, with},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, ops::Deref};
use tokio::time::timeout;

pub const SAMPLE: &str = "pilotlight.test/sample:1";

/// How long an idle last Pod is kept, written on a Revision: the gate that holds it above zero
/// (knative/serving pkg/reconciler/autoscaling/kpa/scaler.go).
pub const RETENTION: &str = "autoscaling.knative.dev/scale-to-zero-pod-retention-period";

/// The kinds of Serving that tests look at.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Service,
    Route,
    Revision,
    PodAutoscaler,
    ServerlessService,
    /// Knative's own, not Kubernetes'.
    Ingress,
}

impl Kind {
    fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Service => ("serving.knative.dev", "v1", "Service"),
            Self::Route => ("serving.knative.dev", "v1", "Route"),
            Self::Revision => ("serving.knative.dev", "v1", "Revision"),
            Self::PodAutoscaler => ("autoscaling.internal.knative.dev", "v1alpha1", "PodAutoscaler"),
            Self::ServerlessService => ("networking.internal.knative.dev", "v1alpha1", "ServerlessService"),
            Self::Ingress => ("networking.internal.knative.dev", "v1alpha1", "Ingress"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }
}

/// A [`Space`] whose Services are told of when the test fails.
pub struct Serving {
    pub space: Space,
}

impl Deref for Serving {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kubectl = self.space.blocking_kubectl(&["get", "ksvc,rev,pa,sks,king,deploy", "-o", "wide"]).output();
            eprintln!(
                "--- Serving\n{}",
                kubectl.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
            );
        }
    }
}

impl Serving {
    pub async fn new(test: &str) -> Self {
        let space = Space::new(test).await;
        let parts = std::process::Command::new("kill").args(["-0"]).args(pids(space.cluster)).status();
        assert!(
            space.cluster.state.join("run/with-knative").exists() && parts.is_ok_and(|status| status.success()),
            "these tests need Knative Serving and the gateway: cargo build, scripts/cluster up --knative --name {}",
            space.cluster.name
        );
        Self { space }
    }

    pub fn dynamic(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &kind.resource())
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Value {
        let found = self.dynamic(kind).get(name).await.unwrap_or_else(|error| panic!("{kind:?} {name}: {error}"));
        serde_json::to_value(found).expect("an object is JSON")
    }

    /// Waits until the object exists and is as wanted.
    pub async fn until_is(&self, kind: Kind, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let as_wanted = |object: Option<&DynamicObject>| {
            object.and_then(|object| serde_json::to_value(object).ok()).is_some_and(|value| wanted(&value))
        };
        match timeout(PATIENCE, await_condition(self.dynamic(kind), name, as_wanted)).await {
            Ok(found) => serde_json::to_value(found.expect("it can be watched")).expect("an object is JSON"),
            Err(_) => panic!("{kind:?} {name}: not within {PATIENCE:?}: {what}"),
        }
    }

    /// Waits for a condition of the object; status as "True", "False", "Unknown".
    pub async fn until_condition(&self, kind: Kind, name: &str, condition: &str, status: &str) -> Value {
        let what = format!("{condition}={status}");
        self.until_is(kind, name, &what, |object| condition_of(object, condition).0 == status).await
    }

    /// Applies a Service (see [`ksvc`]) and waits until it is ready; the name of its first Revision.
    pub async fn deploy(&self, ksvc: &Value) -> String {
        self.apply(ksvc).await;
        let name = ksvc["metadata"]["name"].as_str().expect("a Service has a name");
        let revision = format!("{name}-00001");
        self.until_condition(Kind::Revision, &revision, "Ready", "True").await;
        self.until_condition(Kind::Service, name, "Ready", "True").await;
        revision
    }

    /// Sets or (null) removes annotations.
    pub async fn annotate(&self, kind: Kind, name: &str, annotations: Value) {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
        let patched = self.dynamic(kind).patch(name, &PatchParams::default(), &patch).await;
        patched.unwrap_or_else(|error| panic!("{kind:?} {name}: {error}"));
    }

    /// A Revision by way of the activator, as an ingress would ask it.
    pub fn activator(&self, revision: &str) -> Target {
        Target {
            address: SocketAddr::from(([10, 70, 0, 1], 8012)),
            host: format!("{revision}.{}.svc.cluster.local", self.name),
            headers: vec![
                ("knative-serving-namespace", self.name.clone()),
                ("knative-serving-revision", revision.to_owned()),
            ],
        }
    }

    /// A Service by the gateway, as anybody outside asks it.
    pub fn gateway(&self, service: &str) -> Target {
        Target {
            address: SocketAddr::from(([10, 70, 0, 1], 80)),
            host: format!("{service}.{}.knative.test", self.name),
            headers: Vec::new(),
        }
    }

    /// Waits until the Revision's Deployment wants this many Pods.
    pub async fn until_scaled(&self, revision: &str, replicas: i32) {
        let wanted = |d: Option<&Deployment>| d.is_some_and(|d| d.spec.replicas == Some(replicas));
        self.until(&format!("{revision}-deployment"), &format!("{replicas} wanted"), wanted).await;
    }

    /// Waits until the Revision is at zero: its Deployment wants no Pod.
    pub async fn until_zero(&self, revision: &str) {
        self.until_scaled(revision, 0).await;
    }
}

/// A Service of the sample on the virtual node, at most 10 requests a Pod at once, with `over` laid over its
/// template's spec (`containers` are replaced whole; see [`sample`]).
pub fn ksvc(name: &str, over: Value) -> Value {
    let spec = json!({
        "containerConcurrency": 10,
        "nodeSelector": { "type": "virtual-kubelet" },
        "tolerations": [{ "key": "virtual-kubelet.io/provider", "value": "pilotlight", "effect": "NoSchedule" }],
        "containers": [sample(json!({}))],
    });
    json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "template": { "spec": with(spec, over) } },
    })
}

/// Annotations of the template, laid over a [`ksvc`].
pub fn annotated(ksvc: Value, annotations: Value) -> Value {
    with(ksvc, json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } }))
}

/// The sample's container with these environment variables.
pub fn sample(env: Value) -> Value {
    let env: Vec<_> =
        env.as_object().into_iter().flatten().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "image": SAMPLE, "env": env })
}

/// Status and reason of a condition.
pub fn condition_of<'a>(object: &'a Value, condition: &str) -> (&'a str, &'a str) {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == condition);
    let text = |key: &str| found.and_then(|c| c[key].as_str()).unwrap_or_default();
    (text("status"), text("reason"))
}

/// Idle as Serving sees it: the PodAutoscaler is not active for want of traffic.
pub fn is_idle(autoscaler: &Value) -> bool {
    condition_of(autoscaler, "Active") == ("False", "NoTraffic")
}

fn pids(cluster: &Cluster) -> Vec<String> {
    let parts = ["webhook", "controller", "autoscaler", "activator", "gateway"].into_iter();
    let files = parts.map(|part| cluster.state.join(format!("run/knative-{part}.pid")));
    let pids = files.map(|file| std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    pids.map(|text| text.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}
