//! To zero and back.

use crate::{
    net::{Load, burst},
    serving::*,
    support::*,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;
use std::time::{Duration, Instant};

/// The Pods of a Revision that are not on their way out.
async fn staying(serving: &Serving, revision: &str) -> Vec<Pod> {
    let label = format!("serving.knative.dev/revision={revision}");
    let all = serving.api::<Pod>().list(&ListParams::default().labels(&label)).await.expect("Pods can be listed");
    all.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
}

#[tokio::test]
async fn a_service_becomes_ready_answers_goes_to_zero_and_answers_again() {
    let serving = Serving::new("zero").await;
    let revision =
        serving.deploy(&ksvc("hello", json!({ "containers": [sample(json!({ "TARGET": "world" }))] }))).await;
    let target = serving.gateway("hello");
    let first = target.get("/").await.sample();
    assert_eq!((first.revision.as_str(), first.target.as_str()), (revision.as_str(), "world"));
    let pods = staying(&serving, &revision).await;
    let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(&first.pod)).expect("a Pod of its name");
    assert_eq!(pod.spec.as_ref().and_then(|s| s.node_name.as_deref()), Some("pilotlight-local-a"));
    assert!(!annotation(pod, "instance-id").is_empty(), "it has an instance of its own");

    serving.until_zero(&revision).await;
    serving.until_gone(&first.pod).await;
    let again = target.get("/").await;
    assert_ne!(again.sample().pod, first.pod);
    assert!(again.took < Duration::from_secs(20), "{:?}", again.took);
}

/// The gate that the reserve stands on: nothing else keeps an idle Revision's Pods.
#[tokio::test]
async fn a_retention_period_on_the_revision_holds_its_idle_pod_until_it_is_taken_away() {
    let serving = Serving::new("gate").await;
    let revision = serving.deploy(&ksvc("held", json!({}))).await;
    serving.annotate(Kind::Revision, &revision, json!({ RETENTION: "1h" })).await;
    let held = |pa: &serde_json::Value| pa["metadata"]["annotations"][RETENTION] == "1h";
    serving.until_is(Kind::PodAutoscaler, &revision, "the hold is on the autoscaler", held).await;
    serving.until_is(Kind::PodAutoscaler, &revision, "is idle", is_idle).await;
    // Without the hold it is at zero some milliseconds after this.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        let deployment = serving.api::<k8s_openapi::api::apps::v1::Deployment>();
        let deployment = deployment.get(&format!("{revision}-deployment")).await.expect("it has a Deployment");
        assert_eq!(deployment.spec.replicas, Some(1), "held for {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held = staying(&serving, &revision).await;
    assert_eq!(held.len(), 1);
    // It is still the one that answers, at once.
    let answer = serving.activator(&revision).get("/").await;
    assert_eq!(Some(answer.sample().pod), held[0].metadata.name);
    assert!(answer.took < Duration::from_secs(1), "{:?}", answer.took);

    serving
        .until_is(Kind::PodAutoscaler, &revision, "is active again", |pa| condition_of(pa, "Active").0 == "True")
        .await;
    serving.until_is(Kind::PodAutoscaler, &revision, "is idle again", is_idle).await;
    assert_eq!(staying(&serving, &revision).await.len(), 1);
    let released = Instant::now();
    serving.annotate(Kind::Revision, &revision, json!({ RETENTION: "0s" })).await;
    serving.until_zero(&revision).await;
    assert!(released.elapsed() < Duration::from_secs(5), "{:?}", released.elapsed());
}

#[tokio::test]
async fn requests_at_zero_wait_for_a_slow_starter_and_none_is_lost() {
    let serving = Serving::new("slow").await;
    let container = sample(json!({ "START_DELAY": "4s" }));
    let service = annotated(
        ksvc("slow", json!({ "containers": [container] })),
        json!({ "autoscaling.knative.dev/initial-scale": "0" }),
    );
    let revision = serving.deploy(&service).await;
    serving.until_zero(&revision).await;
    let report = burst(&serving.gateway("slow"), "/", 20).await;
    report.all_answered();
    assert!(report.slowest() >= Duration::from_secs(4), "it can't have been up sooner: {report}");
}

#[tokio::test]
async fn a_pod_on_its_way_out_finishes_what_it_has_begun() {
    let serving = Serving::new("drain").await;
    let revision = serving.deploy(&ksvc("busy", json!({}))).await;
    let target = serving.gateway("busy");
    let pod = target.get("/").await.sample().pod;
    let slow = tokio::spawn(async move { target.get("/?ms=6000").await });
    // It is inside when the Pod counts it.
    let direct = serving.activator(&revision);
    while direct.get("/").await.sample().concurrent < 2 {
        assert!(!slow.is_finished(), "the slow request was never seen inside");
    }
    delete(&serving.api::<Pod>(), &pod, None).await;
    let answer = slow.await.expect("the request's task does not panic");
    assert_eq!(answer.sample().pod, pod);
    serving.until_gone(&pod).await;
}

#[tokio::test]
async fn no_request_is_lost_while_pods_come_and_go() {
    let serving = Serving::new("swap").await;
    let revision = serving.deploy(&ksvc("steady", json!({}))).await;
    let load = Load::start(&serving.gateway("steady"), "/?ms=50", 20);
    let mut gone = Vec::new();
    for _ in 0..2 {
        let victim = staying(&serving, &revision).await.remove(0).metadata.name.expect("Pods have names");
        delete(&serving.api::<Pod>(), &victim, None).await;
        serving.until_gone(&victim).await;
        gone.push(victim);
    }
    let report = load.stop().await;
    report.all_answered();
    let pods = report.by_pod();
    assert!(gone.iter().all(|pod| pods.contains_key(pod)) && pods.len() > gone.len(), "{gone:?}: {pods:?}");
}
