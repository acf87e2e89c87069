//! A plain Deployment at zero keeps answering from its reserve. Without Knative.

use crate::support::*;
use futures::TryStreamExt;
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::pin::pin;

const OF: &str = "pilotlight.dev/reserve-of";

fn manifests(replicas: u32) -> [Value; 2] {
    let web =
        with(shell("exec httpd -f -p 8080 -h /etc"), json!({ "readinessProbe": { "tcpSocket": { "port": 8080 } } }));
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "cafe", "annotations": { "pilotlight.dev/reserve": "enabled" } },
        "spec": { "replicas": replicas, "selector": selector("cafe"), "template": template("cafe", spec(&[web])) },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "cafe" },
        "spec": { "selector": { "app": "cafe" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    [deployment, service]
}

/// Waits until the Service's one ready endpoint is a reserve, or none; its name.
async fn until_endpoint(space: &Space, reserve: bool) -> String {
    let config = watcher::Config::default().labels("kubernetes.io/service-name=cafe");
    let mut slices = pin!(watcher(space.api::<EndpointSlice>(), config).default_backoff().applied_objects());
    let found = async {
        while let Some(slice) = slices.try_next().await.expect("slices can be watched") {
            let endpoints = slice.endpoints.into_iter().flatten();
            let ready = endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
            let names: Vec<String> = ready.filter_map(|e| e.target_ref?.name).collect();
            if let [one] = names.as_slice()
                && one.starts_with("cafe-reserve-") == reserve
            {
                return one.clone();
            }
        }
        panic!("a watch does not end");
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("no endpoint (reserve: {reserve}) within {PATIENCE:?}"))
}

#[tokio::test]
async fn a_plain_deployment_scaled_to_zero_answers_from_its_reserve_and_gives_it_up_again() {
    let space = Space::new("plain").await;
    for manifest in manifests(1) {
        space.apply(&manifest).await;
    }
    let standard = until_endpoint(&space, false).await;
    space.until_event("cafe", "ReserveCreated", |message| message.contains("kept ready")).await;
    let reserves = space.api::<Pod>().list(&ListParams::default().labels(OF)).await.expect("Pods can be listed");
    let reserve = reserves.items[0].metadata.name.clone().expect("Pods have names");
    let kept = space.until_running(&reserve).await;
    assert!(!kept.metadata.labels.unwrap_or_default().contains_key("app"), "no Service finds it yet");

    space.kubectl(&["scale", "deployment/cafe", "--replicas=0"]).await;
    assert_eq!(until_endpoint(&space, true).await, reserve);
    space.until_gone(&standard).await;
    space.apply(&pod("guest", spec(&[idle()]))).await;
    space.until_running("guest").await;
    space
        .until_exec("guest", "wget -q -O - http://cafe/hostname || cat /dev/null", |text| text.contains(&reserve))
        .await;

    space.kubectl(&["scale", "deployment/cafe", "--replicas=1"]).await;
    space.until_event("cafe", "ReserveDetached", |message| message.contains(&reserve)).await;
    until_endpoint(&space, false).await;
    space.kubectl(&["delete", "deployment/cafe", "--wait=false"]).await;
    space.until_gone(&reserve).await;
}
