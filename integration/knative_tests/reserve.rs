//! Scaled to zero on a reserve, and back.

use crate::{
    net::{Load, Target, burst},
    reserving::*,
    serving::*,
    support::*,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

#[tokio::test]
async fn at_zero_a_reserve_answers_the_first_request_and_leaves_when_a_standard_pod_does() {
    let serving = Serving::new("reserve").await;
    let revision = serving.deploy(&reserved(ksvc("coffee", json!({})))).await;
    let endpoints = Endpoints::follow(&serving, &revision);
    let first = serving.gateway("coffee").get("/").await.sample();
    assert!(first.pod.starts_with(&format!("{revision}-deployment-")), "{first:?}");

    let reserve = serving.until_alone_on_reserve(&revision).await;
    let answer = serving.gateway("coffee").get("/").await.sample();
    assert_eq!(answer.pod, reserve, "the reserve answers at once, not the standard Pod that is only starting");

    // Without traffic it would soon be idle again, and the next reserve would answer.
    let load = Load::start(&serving.gateway("coffee"), "/?ms=20", 5);
    serving.until_reserve(&revision, "StandardServes").await;
    serving.until_gone(&reserve).await;
    let later = serving.gateway("coffee").get("/").await.sample();
    assert!(later.pod.starts_with(&format!("{revision}-deployment-")), "{later:?}");
    load.stop().await.all_answered();
    let (seen, empty) = endpoints.stop().await;
    assert_eq!(empty, 0, "there was always somebody to answer: {seen:#?}");

    for (reason, about) in [
        ("StandardServes", "held"),
        ("ReserveStarting", "a reserve starts"),
        ("ReserveCreated", reserve.as_str()),
        ("StandardLeaving", "may go"),
        ("ReserveServes", "scaled to zero"),
        ("ScalingUp", "until standard Pods do"),
        ("ReserveDetached", reserve.as_str()),
        ("ReserveReleased", reserve.as_str()),
    ] {
        serving.until_event(&revision, reason, |message| message.contains(about)).await;
    }
}

#[tokio::test]
async fn requests_that_come_and_go_lose_none_in_swap_after_swap() {
    let serving = Serving::new("swaps").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let target = serving.gateway("steady");
    let mut answered = std::collections::BTreeMap::new();
    for _ in 0..3 {
        serving.until_on_reserve(&revision).await;
        let load = Load::start(&target, "/?ms=20", 20);
        serving.until_reserve(&revision, "StandardServes").await;
        serving.until_no_reserve(&revision).await;
        let report = load.stop().await;
        report.all_answered();
        answered.extend(report.by_pod());
    }
    for kind in ["-reserve-", "-deployment-"] {
        assert!(answered.keys().any(|pod| pod.contains(kind)), "none by {kind}: {answered:?}");
    }
}

#[tokio::test]
async fn more_than_the_reserve_holds_waits_and_is_not_lost() {
    let serving = Serving::new("overload").await;
    // The sample itself answers 500 above its limit.
    let over = json!({ "containerConcurrency": 1, "containers": [sample(json!({ "MAX_CONCURRENT": "1" }))] });
    let service = annotated(ksvc("single", over), json!({ "autoscaling.knative.dev/max-scale": "2" }));
    let revision = serving.deploy(&reserved(service)).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let report = burst(&serving.gateway("single"), "/?ms=200", 20).await;
    report.all_answered();
    assert!(report.by_pod().contains_key(&reserve), "{:?}", report.by_pod());
}

#[tokio::test]
async fn a_new_revision_takes_the_reserve_over_and_the_old_one_loses_it() {
    let serving = Serving::new("takeover").await;
    let service = |word: &str| reserved(ksvc("shop", json!({ "containers": [sample(json!({ "TARGET": word }))] })));
    let first = serving.deploy(&service("one")).await;
    let old = serving.until_on_reserve(&first).await;
    serving.apply(&service("two")).await;
    let second = "shop-00002";
    serving.until_on_reserve(second).await;
    serving.until_reserve(&first, "NotRouted").await;
    serving.until_gone(&old).await;
    assert_eq!(serving.gateway("shop").get("/").await.sample().target, "two");
}

#[tokio::test]
async fn each_revision_of_a_canary_has_its_reserve() {
    let serving = Serving::new("canary").await;
    let service = |word: &str, split: Value| {
        let service = reserved(ksvc("split", json!({ "containers": [sample(json!({ "TARGET": word }))] })));
        with(service, json!({ "spec": { "traffic": split } }))
    };
    let (first, second) = ("split-00001", "split-00002");
    let half = |name: &str| json!({ "revisionName": name, "percent": 50 });
    serving.deploy(&service("one", json!([{ "latestRevision": true, "percent": 100 }]))).await;
    serving.apply(&service("two", json!([half(first), { "latestRevision": true, "percent": 50 }]))).await;
    let both = [serving.until_alone_on_reserve(first).await, serving.until_alone_on_reserve(second).await];
    let report = burst(&serving.gateway("split"), "/", 20).await;
    report.all_answered();
    let pods = report.by_pod();
    assert!(both.iter().all(|reserve| pods.contains_key(reserve)), "{both:?}: {pods:?}");

    serving.apply(&service("two", json!([{ "latestRevision": true, "percent": 100 }]))).await;
    serving.until_reserve(first, "NotRouted").await;
    serving.until_no_reserve(first).await;
    serving.until_on_reserve(second).await;
}

/// Of two Revisions the first has no share of the traffic, and a tag.
async fn tag_the_first(serving: &Serving, service: &Value) {
    serving.deploy(service).await;
    let traffic = json!([
        { "latestRevision": true, "percent": 100 },
        { "revisionName": "shop-00001", "tag": "old" },
    ]);
    let template = json!({ "spec": { "containers": [sample(json!({ "TARGET": "two" }))] } });
    serving.apply(&with(service.clone(), json!({ "spec": { "template": template, "traffic": traffic } }))).await;
    serving.until_condition(Kind::Revision, "shop-00002", "Ready", "True").await;
    serving.until_condition(Kind::Service, "shop", "Ready", "True").await;
}

#[tokio::test]
async fn a_tagged_revision_without_traffic_has_a_reserve_where_that_is_asked_for() {
    let serving = Serving::new("tag").await;
    let service = annotated(reserved(ksvc("shop", json!({}))), json!({ "pilotlight.dev/reserve-tags": "enabled" }));
    tag_the_first(&serving, &service).await;
    let reserve = serving.until_alone_on_reserve("shop-00001").await;
    assert_eq!(serving.gateway("old-shop").get("/").await.sample().pod, reserve);
    // It goes with its tag.
    let only = json!({ "spec": { "traffic": [{ "latestRevision": true, "percent": 100 }] } });
    let newest = json!({ "spec": { "template": { "spec": { "containers": [sample(json!({ "TARGET": "two" }))] } } } });
    serving.apply(&with(with(service, newest), only)).await;
    serving.until_reserve("shop-00001", "NotRouted").await;
    serving.until_gone(&reserve).await;
}

#[tokio::test]
async fn a_tagged_revision_without_traffic_has_none_unless_that_is_asked_for() {
    let serving = Serving::new("untag").await;
    tag_the_first(&serving, &reserved(ksvc("shop", json!({})))).await;
    serving.until_reserve("shop-00001", "NotRouted").await;
    serving.until_zero("shop-00001").await;
    serving.until_no_reserve("shop-00001").await;
    let answer = serving.gateway("old-shop").get("/").await.sample();
    assert!(answer.pod.starts_with("shop-00001-deployment-"), "{answer:?}");
    assert!(serving.reserves("shop-00001").await.is_empty());
}

#[tokio::test]
async fn a_slow_starter_s_reserve_is_given_as_much_longer_as_it_has_less_of_a_processor() {
    let serving = Serving::new("jvm").await;
    // Ten seconds are more than a standard Pod is given. A reserve has a tenth of its processor, and ten times as long.
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 5 });
    let container = with(
        sample(json!({ "RESERVE_START_DELAY": "10s" })),
        json!({ "startupProbe": probe, "resources": { "requests": { "cpu": "1" } } }),
    );
    let revision = serving.deploy(&reserved(ksvc("slow", json!({ "containers": [container] })))).await;
    let reserve = serving.until_alone_on_reserve(&revision).await;
    let pod = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    assert_eq!(restarts(&pod, "user-container"), 0, "it was waited for");
    assert_eq!(serving.gateway("slow").get("/").await.sample().pod, reserve);
}

#[tokio::test]
async fn at_zero_a_notice_brings_another_reserve_before_the_first_goes() {
    let serving = Serving::new("notice").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let old = serving.until_on_reserve(&revision).await;
    let endpoints = Endpoints::follow(&serving, &revision);
    let pod = serving.api::<Pod>().get(&old).await.expect("the reserve exists");
    serving.cluster.announce(&pod, "interruption", 120).await;
    serving.until_gone(&old).await;
    let new = serving.until_on_reserve(&revision).await;
    assert_ne!(new, old);
    let (seen, empty) = endpoints.stop().await;
    assert_eq!(empty, 0, "there was always somebody to answer: {seen:#?}");
    assert_eq!(serving.gateway("steady").get("/").await.sample().pod, new);
    serving.until_event(&revision, "ReserveDetached", |message| message.contains(&old)).await;
}

#[tokio::test]
async fn a_notice_under_requests_loses_none_of_them() {
    let serving = Serving::new("taken").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let pod = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    serving.cluster.announce(&pod, "interruption", 120).await;
    let load = Load::start(&serving.gateway("steady"), "/?ms=20", 20);
    serving.until_gone(&reserve).await;
    serving.until_reserve(&revision, "StandardServes").await;
    let report = load.stop().await;
    report.all_answered();
    assert!(report.by_pod().contains_key(&reserve), "it answered first: {:?}", report.by_pod());
}

#[tokio::test]
async fn a_template_that_changes_at_zero_is_rolled_before_the_old_reserve_goes() {
    let serving = Serving::new("roll").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let old = serving.until_on_reserve(&revision).await;
    let endpoints = Endpoints::follow(&serving, &revision);
    serving.patch_template(&revision, json!({ "metadata": { "annotations": { "example.test/turn": "2" } } })).await;
    serving.until_gone(&old).await;
    let new = serving.until_on_reserve(&revision).await;
    assert_ne!(new, old);
    let (seen, empty) = endpoints.stop().await;
    assert_eq!(empty, 0, "there was always somebody to answer: {seen:#?}");
    assert_eq!(serving.gateway("steady").get("/").await.sample().pod, new);
}

#[tokio::test]
async fn a_new_template_that_does_not_start_leaves_the_old_reserve_answering() {
    let serving = Serving::new("badroll").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let old = serving.until_on_reserve(&revision).await;
    let broken =
        json!({ "spec": { "containers": [{ "name": "user-container", "image": "pilotlight.test/nothing:1" }] } });
    serving.patch_template(&revision, broken).await;
    serving.until_reserve(&revision, "RollFailed").await;
    assert_eq!(serving.gateway("steady").get("/").await.sample().pod, old);
}

#[tokio::test]
async fn standard_pods_that_never_come_leave_the_reserve_answering() {
    let serving = Serving::new("never").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let old = serving.until_on_reserve(&revision).await;
    serving.patch_template(&revision, json!({ "spec": { "nodeSelector": { "type": "none" } } })).await;
    serving.until_gone(&old).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let load = Load::start(&serving.gateway("steady"), "/", 5);
    serving.until_reserve(&revision, "ScalingUp").await;
    serving.until_pending(&revision).await;
    let report = load.stop().await;
    report.all_answered();
    assert_eq!(report.by_pod().into_keys().collect::<Vec<_>>(), [reserve]);
}

#[tokio::test]
async fn a_reserve_that_cannot_start_ends_in_plain_zero() {
    let serving = Serving::new("plain").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    serving.until_reserve(&revision, "StandardServes").await;
    // Its new Pod does not start either: the Deployment keeps the old one.
    let broken =
        json!({ "spec": { "containers": [{ "name": "user-container", "image": "pilotlight.test/nothing:1" }] } });
    serving.patch_template(&revision, broken).await;
    serving.until_reserve(&revision, "ReserveFailed").await;
    serving.until_zero(&revision).await;
    serving.until_no_reserve(&revision).await;
}

#[tokio::test]
async fn a_reserve_that_is_lost_at_zero_is_replaced() {
    let serving = Serving::new("lost").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let pod = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    kill_instance(&annotation(&pod, "instance-id"));
    serving.until::<Pod>(&reserve, "is lost or gone", |pod| pod.is_none_or(|pod| phase(pod) == "Failed")).await;
    serving.until_gone(&reserve).await;
    let next = serving.until_on_reserve(&revision).await;
    assert_ne!(next, reserve);
    assert_eq!(serving.gateway("steady").get("/").await.sample().pod, next);
}

#[tokio::test]
async fn a_reserve_that_crashes_is_relieved_like_any_other() {
    let serving = Serving::new("crash").await;
    let revision = serving.deploy(&reserved(ksvc("fragile", json!({})))).await;
    let reserve = serving.until_alone_on_reserve(&revision).await;
    let crash =
        serving.activator(&revision).send(http::Method::POST, "/crash").await.expect("queue-proxy answers for it");
    assert_eq!(crash.status, http::StatusCode::BAD_GATEWAY);
    // Until it is back, queue-proxy answers for it: 502. Whatever came brings standard Pods.
    serving.until_reserve(&revision, "StandardServes").await;
    burst(&serving.gateway("fragile"), "/", 5).await.all_answered();
    serving.until_gone(&reserve).await;
    serving.until_on_reserve(&revision).await;
}

#[tokio::test]
async fn a_reserve_whose_process_ends_under_requests_fails_none_of_them() {
    let serving = Serving::new("gap").await;
    let revision = serving.deploy(&reserved(ksvc("fragile", json!({})))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let process = serving.process(&reserve).await;
    let load = Load::start(&serving.gateway("fragile"), "/?ms=100", 20);
    process.get("/").await;
    let crash = process.send(http::Method::POST, "/crash").await;
    assert!(crash.is_err(), "it ends without an answer: {crash:?}");
    serving.until_reserve(&revision, "StandardServes").await;
    let report = load.stop().await;
    report.all_answered();
}

#[tokio::test]
async fn a_reserve_that_runs_out_of_memory_is_followed_by_a_larger_one() {
    let serving = Serving::new("oom").await;
    let revision = serving.deploy(&reserved(ksvc("hungry", json!({})))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let limit = serving.memory_limit(&reserve).await;
    let megabytes = (limit >> 20) + 32;
    // Past the activator, which may still know a standard Pod: that one would have room.
    let process = serving.process(&reserve).await;
    let crash = process.send(http::Method::POST, &format!("/allocate?mb={megabytes}")).await;
    assert!(crash.is_err(), "it ends without an answer: {crash:?}");
    serving.until_event(&revision, "ReserveOutOfMemory", |message| message.contains("gets more")).await;
    serving.until_gone(&reserve).await;
    let next = serving.until_on_reserve(&revision).await;
    assert!(serving.memory_limit(&next).await >= 2 * limit, "{next}");
    serving.until_event(&revision, "ReserveMemory", |message| message.contains("need more memory")).await;
}

#[tokio::test]
async fn a_service_that_was_seen_to_need_more_memory_gets_a_reserve_that_holds_it() {
    let serving = Serving::new("memory").await;
    let revision = serving.deploy(&reserved(ksvc("large", json!({})))).await;
    // More than the 128 MiB that its reserve would have.
    let taken = serving.activator(&revision).send(http::Method::POST, "/allocate?mb=160").await.expect("an answer");
    assert!(taken.status.is_success(), "{}", taken.text());
    let reserve = serving.until_on_reserve(&revision).await;
    assert!(serving.memory_limit(&reserve).await >= 192 << 20, "{reserve}");
    serving.until_event(&revision, "ReserveMemory", |message| message.contains("instead of 128 MiB")).await;
}

#[tokio::test]
async fn a_namespace_s_annotation_is_its_services_default() {
    let serving = Serving::new("default").await;
    let ask = "pilotlight.dev/reserve";
    serving.kubectl(&["annotate", "namespace", &serving.name, &format!("{ask}=enabled")]).await;
    let asks = serving.deploy(&ksvc("silent", json!({}))).await;
    let declines = serving.deploy(&annotated(ksvc("other", json!({})), json!({ ask: "disabled" }))).await;
    serving.until_on_reserve(&asks).await;
    serving.until_zero(&declines).await;
    assert!(serving.reserves(&declines).await.is_empty());
}

#[tokio::test]
async fn what_is_deleted_leaves_no_reserve_and_no_instance() {
    let serving = Serving::new("deleted").await;
    let revision = serving.deploy(&reserved(ksvc("gone", json!({})))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let pod = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    let disk = serving.cluster.instance_dir(&annotation(&pod, "instance-id")).join("disk");
    assert!(disk.exists(), "{}", disk.display());
    serving.kubectl(&["delete", "ksvc", "gone", "--wait=false"]).await;
    serving.until_gone(&reserve).await;
    until_true("its instance is gone", || !disk.exists()).await;
}

#[tokio::test]
async fn what_cannot_have_a_reserve_is_told_so() {
    let serving = Serving::new("refused").await;
    let scaling = |key: &str| format!("autoscaling.knative.dev/{key}");
    for (name, key, value, reason, says) in [
        ("least", scaling("min-scale"), "1", "RefusedMinScale", "min-scale is 1"),
        (
            "hpa",
            scaling("class"),
            "hpa.autoscaling.knative.dev",
            "RefusedAutoscalerClass",
            "kpa.autoscaling.knative.dev",
        ),
        ("burst", scaling("target-burst-capacity"), "0", "RefusedTargetBurstCapacity", "expected -1 or more than 0"),
        ("word", "pilotlight.dev/reserve".to_owned(), "yes", "RefusedInvalid", "expected enabled or disabled"),
        ("types", "pilotlight.dev/reserve-types".to_owned(), "t9.huge", "RefusedInvalid", "a type of the catalog"),
    ] {
        serving.apply(&annotated(reserved(ksvc(name, json!({}))), json!({ key: value }))).await;
        let revision = format!("{name}-00001");
        let seen = serving.until_reserve(&revision, reason).await;
        let condition = reserve_condition(&seen);
        assert_eq!(condition["status"], "False");
        assert!(condition["message"].as_str().is_some_and(|message| message.contains(says)), "{condition}");
        serving.until_event(&revision, reason, |message| message.contains(says)).await;
        assert!(serving.reserves(&revision).await.is_empty());
    }
}

#[tokio::test]
async fn without_a_limit_on_requests_the_reserve_gets_one() {
    let serving = Serving::new("unbounded").await;
    let revision = serving.deploy(&reserved(ksvc("open", json!({ "containerConcurrency": 0 })))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let pod = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    let containers = pod.spec.expect("it has a spec").containers;
    let proxy = containers.iter().find(|c| c.name == "queue-proxy").expect("a queue-proxy");
    let bound = proxy.env.iter().flatten().find(|v| v.name == "CONTAINER_CONCURRENCY").and_then(|v| v.value.clone());
    assert_eq!(bound.as_deref(), Some("100"));
    let report = burst(&serving.gateway("open"), "/?ms=100", 100).await;
    report.all_answered();
}

#[tokio::test]
async fn the_hold_gives_back_what_the_user_wrote() {
    let serving = Serving::new("retention").await;
    let service = annotated(reserved(ksvc("kept", json!({}))), json!({ RETENTION: "3s" }));
    let revision = serving.deploy(&service).await;
    let held = |revision: &Value| revision["metadata"]["annotations"][RETENTION] == "1h";
    serving.until_is(Kind::Revision, &revision, "is held", held).await;
    serving.until_on_reserve(&revision).await;
    let annotations = serving.get(Kind::Revision, &revision).await["metadata"]["annotations"].clone();
    assert_eq!(annotations[RETENTION], "3s");
    assert!(annotations.as_object().is_some_and(|all| all.keys().all(|key| !key.contains("retention-before"))));
}

#[tokio::test]
async fn the_cpu_credits_of_a_reserve_are_told_by_its_name() {
    let serving = Serving::new("credits").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let reserve = serving.until_on_reserve(&revision).await;
    let metrics = Target { address: ([127, 0, 0, 1], 10280).into(), host: "provider".to_owned(), headers: Vec::new() };
    let of = format!("pilotlight_reserve_cpu_credits{{namespace=\"{}\",pod=\"{reserve}\",kind=", serving.name);
    let told = async {
        loop {
            let text = metrics.get("/metrics").await.text();
            let lines: Vec<String> =
                text.lines().filter_map(|line| line.strip_prefix(&of).map(str::to_owned)).collect();
            if !lines.is_empty() {
                break lines;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    let lines = tokio::time::timeout(PATIENCE, told).await.expect("it is read within half a minute");
    let credits = |kind: &str| {
        let line =
            lines.iter().find_map(|line| line.strip_prefix(&format!("\"{kind}\"}} "))).expect("each kind is told");
        line.parse::<f64>().expect("a number")
    };
    // A t3.micro earns twelve an hour; what its start took may still be borrowed.
    let sum = credits("balance") - credits("surplus");
    assert!(sum != 0.0 && sum.abs() < 12.0, "{lines:?}");
    assert!(credits("charged") < f64::EPSILON, "{lines:?}");
}

#[tokio::test]
async fn alibaba_s_annotations_ask_for_a_reserve_and_its_size() {
    let serving = Serving::new("alias").await;
    let words = json!({
        "knative.aliyun.com/reserve-instance": "enable",
        "knative.aliyun.com/reserve-instance-type": "eci",
        "knative.aliyun.com/reserve-instance-eci-use-specs": "1-384Mi,t3.small",
    });
    let revision = serving.deploy(&annotated(ksvc("tea", json!({})), words)).await;
    let reserve = serving.until_on_reserve(&revision).await;
    assert_eq!(serving.memory_limit(&reserve).await, 384 << 20);
    let pod = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    let bought = |key: &str| annotation(&pod, key);
    assert_eq!((bought("class"), bought("purchase")), ("reserve".to_owned(), "burstable".to_owned()));
    assert!(bought("instance-type").starts_with("t3."), "{}", bought("instance-type"));
}

#[tokio::test]
async fn a_service_that_does_not_ask_has_none() {
    let serving = Serving::new("unasked").await;
    let revision = serving.deploy(&ksvc("plain", json!({}))).await;
    serving.until_zero(&revision).await;
    assert!(serving.reserves(&revision).await.is_empty());
    let seen = serving.get(Kind::Revision, &revision).await;
    assert!(reserve_condition(&seen).is_null(), "{seen}");
}
