//! A plain Deployment at zero keeps answering from its reserve. Without Knative.

use crate::support::*;
use futures::TryStreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    ResourceExt,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::pin::pin;

const OF: &str = "pilotlight.dev/reserve-of";

/// A server that ends at once when it is told to, and is told so only when Services have had the time to follow: what
/// Kubernetes needs of every Pod that is to be scaled down without a loss.
fn web() -> Value {
    let serve = "trap 'exit 0' TERM; httpd -p 8080 -h /etc; while :; do sleep 1 & wait $!; done";
    let over = json!({
        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        "lifecycle": { "preStop": { "sleep": { "seconds": 10 } } },
    });
    with(shell(serve), over)
}

async fn deploy(space: &Space, replicas: u32) {
    let annotations = json!({ "pilotlight.dev/reserve": "enabled" });
    let grace = json!({ "terminationGracePeriodSeconds": 20 });
    let template = template("cafe", with(spec(&[web()]), grace));
    let spec = json!({ "replicas": replicas, "selector": selector("cafe"), "template": template });
    let metadata = json!({ "name": "cafe", "annotations": annotations });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "cafe" },
        "spec": { "selector": { "app": "cafe" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    space.apply(&service).await;
    space.apply(&json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec })).await;
}

/// Waits until the Deployment's condition says so of its reserve.
async fn until_said(space: &Space, wanted: &str) {
    let said = |deployment: &Deployment| {
        let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ours =
            conditions.into_iter().find(|condition| condition.type_.as_deref() == Some("pilotlight.dev/ReserveReady"));
        ours.and_then(|condition| condition.reason.clone())
    };
    let holds = |deployment: Option<&Deployment>| deployment.and_then(said).as_deref() == Some(wanted);
    space.until::<Deployment>("cafe", &format!("says {wanted}"), holds).await;
}

/// Waits until the Service has this one ready endpoint.
async fn until_only_endpoint(space: &Space, pod: &str) {
    let config = watcher::Config::default().labels("kubernetes.io/service-name=cafe");
    let mut slices = pin!(watcher(space.api::<EndpointSlice>(), config).default_backoff().applied_objects());
    let found = async {
        while let Some(slice) = slices.try_next().await.expect("slices can be watched") {
            let endpoints = slice.endpoints.into_iter().flatten();
            let ready = endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
            if ready.filter_map(|e| e.target_ref?.name).collect::<Vec<_>>() == [pod] {
                return;
            }
        }
        panic!("a watch does not end");
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("{pod} is not the one endpoint within {PATIENCE:?}"));
}

async fn reserves(space: &Space) -> Vec<Pod> {
    space.api::<Pod>().list(&ListParams::default().labels(OF)).await.expect("Pods can be listed").items
}

/// A Pod that asks the Service without a pause, and writes down who answered.
async fn ask_on(space: &Space) {
    let service = space.api::<Service>().get("cafe").await.expect("it was applied");
    let address = service.spec.and_then(|spec| spec.cluster_ip).expect("Services have addresses");
    let ask = format!(
        "while [ ! -e /tmp/enough ]; do
           timeout 20 wget -q -O - http://{address}/hostname >> /tmp/answers 2>> /tmp/errors || echo lost >> /tmp/answers
           sleep 0.02
         done; touch /tmp/done; exec sleep 1000000"
    );
    space.apply(&pod("guest", spec(&[shell(&ask)]))).await;
    space.until_running("guest").await;
}

async fn until_answered_by(space: &Space, pod: &str) {
    space.until_exec("guest", "tail -n 1 /tmp/answers", |last| last.trim() == pod).await;
}

#[tokio::test]
async fn a_plain_deployment_goes_to_zero_on_a_reserve_and_comes_back_without_a_lost_request() {
    let space = Space::new("plain").await;
    deploy(&space, 1).await;
    until_said(&space, "StandardServes").await;
    let [reserve] = reserves(&space).await.try_into().expect("one reserve");
    let (reserve, labels) = (reserve.name_any(), reserve.labels());
    assert!(!labels.contains_key("app"), "no Service finds it yet: {labels:?}");
    ask_on(&space).await;

    for round in ["first", "second"] {
        let [standard] = space.pods_of("cafe").await.try_into().expect("one standard Pod");
        let standard = standard.name_any();
        until_only_endpoint(&space, &standard).await;
        until_answered_by(&space, &standard).await;
        space.kubectl(&["scale", "deployment/cafe", "--replicas=0"]).await;
        until_said(&space, "ReserveServes").await;
        space.until_gone(&standard).await;
        until_only_endpoint(&space, &reserve).await;
        until_answered_by(&space, &reserve).await;
        space.kubectl(&["scale", "deployment/cafe", "--replicas=1"]).await;
        until_said(&space, "ScalingUp").await;
        until_said(&space, "StandardServes").await;
        assert_eq!(reserves(&space).await.len(), 1, "after the {round} time it is parked");
    }

    space.exec("guest", "touch /tmp/enough; until [ -e /tmp/done ]; do sleep 0.1; done").await;
    let lost = space.exec("guest", "grep -c lost /tmp/answers; cat /tmp/errors").await;
    let asked = space.exec("guest", "wc -l < /tmp/answers").await;
    assert_eq!(lost.trim(), "0", "of {asked} requests");
    println!("{} requests, none lost", asked.trim());
}

#[tokio::test]
async fn a_plain_deployments_reserve_at_zero_is_rolled_with_its_template_and_goes_with_it() {
    let space = Space::new("plain-roll").await;
    deploy(&space, 0).await;
    until_said(&space, "ReserveServes").await;
    let [old] = reserves(&space).await.try_into().expect("one reserve");
    assert_eq!((old.labels()["app"].as_str(), old.labels().contains_key("pod-template-hash")), ("cafe", false));
    until_only_endpoint(&space, &old.name_any()).await;
    ask_on(&space).await;
    until_answered_by(&space, &old.name_any()).await;

    space.kubectl(&["set", "env", "deployment/cafe", "VERSION=two"]).await;
    space.until_gone(&old.name_any()).await;
    let [new] = reserves(&space).await.try_into().expect("one reserve");
    until_only_endpoint(&space, &new.name_any()).await;
    until_answered_by(&space, &new.name_any()).await;
    assert_eq!(space.exec(&new.name_any(), "echo $VERSION").await.trim(), "two");
    assert_eq!(space.exec("guest", "grep -c lost /tmp/answers; cat /tmp/errors").await.trim(), "0");

    let deployment = space.api::<Deployment>().get("cafe").await.expect("it is there");
    assert_eq!(deployment.spec.replicas, Some(0), "its scale is other people's");
    space.kubectl(&["delete", "deployment/cafe", "--wait=false"]).await;
    space.until_gone(&new.name_any()).await;
}
