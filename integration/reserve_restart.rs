//! The provider dies while it holds Revisions, or has another policy for them.
//!
//! These kill the provider of the cluster that the tests share: `scripts/test knative` runs them when nothing else
//! uses it.

#[path = "support/mod.rs"]
mod support;

#[path = "knative_tests/net.rs"]
mod net;
#[path = "knative_tests/reserving.rs"]
mod reserving;
#[path = "knative_tests/serving.rs"]
mod serving;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use net::Load;
use reserving::*;
use serde_json::{Value, json};
use serving::*;
use support::*;
use tokio::sync::{Mutex, MutexGuard};

async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

fn provider(action: &str) {
    let output = Cluster::get().script("provider", &[action]).output().expect("scripts/provider can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/provider {action}: {text}");
}

/// Brings the provider back, also when the test fails.
struct Away;

impl Away {
    fn now() -> Self {
        provider("kill");
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        provider("up");
    }
}

fn held(autoscaler: &Value) -> bool {
    autoscaler["metadata"]["annotations"][RETENTION] == "1h"
}

#[tokio::test]
async fn while_the_provider_is_away_a_held_revision_stays_and_goes_to_zero_on_its_return() {
    let _turn = alone().await;
    let serving = Serving::new("away").await;
    let revision = serving.deploy(&reserved(ksvc("held", json!({})))).await;
    serving.until_is(Kind::PodAutoscaler, &revision, "is held", held).await;
    let away = Away::now();
    serving.until_is(Kind::PodAutoscaler, &revision, "is idle", is_idle).await;
    // Idle and held: it is still answered, at once and by a standard Pod.
    let answer = serving.gateway("held").get("/").await.sample();
    assert!(answer.pod.starts_with(&format!("{revision}-deployment-")), "{answer:?}");
    serving.until_is(Kind::PodAutoscaler, &revision, "is idle again", is_idle).await;
    drop(away);
    let reserve = serving.until_on_reserve(&revision).await;
    assert_eq!(serving.gateway("held").get("/").await.sample().pod, reserve);
}

#[tokio::test]
async fn a_hold_that_nobody_needs_any_more_is_released_on_the_provider_s_return() {
    let _turn = alone().await;
    let serving = Serving::new("unheld").await;
    let revision = serving.deploy(&reserved(ksvc("held", json!({})))).await;
    serving.until_is(Kind::PodAutoscaler, &revision, "is held", held).await;
    let away = Away::now();
    serving.annotate(Kind::Revision, &revision, json!({ "pilotlight.dev/reserve": "disabled" })).await;
    drop(away);
    let released = |seen: &Value| seen["metadata"]["annotations"].get(RETENTION).is_none();
    serving.until_is(Kind::Revision, &revision, "is not held", released).await;
    serving.until_zero(&revision).await;
    assert!(serving.reserves(&revision).await.is_empty());
}

#[tokio::test]
async fn a_provider_that_is_killed_in_every_step_of_a_swap_loses_no_request() {
    let _turn = alone().await;
    let serving = Serving::new("killed").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let target = serving.gateway("steady");
    for reason in ["ReserveStarting", "ReserveServes", "ScalingUp"] {
        let load = if reason == "ScalingUp" { Some(Load::start(&target, "/?ms=20", 10)) } else { None };
        serving.until_reserve(&revision, reason).await;
        drop(Away::now());
        if let Some(load) = load {
            serving.until_reserve(&revision, "StandardServes").await;
            serving.until_no_reserve(&revision).await;
            load.stop().await.all_answered();
        } else {
            let reserve = serving.until_on_reserve(&revision).await;
            if reason == "ReserveStarting" {
                assert_eq!(target.get("/").await.sample().pod, reserve);
                serving.until_reserve(&revision, "StandardServes").await;
            }
        }
    }
}

/// The provider with other settings of the cost policy's section `reserve`, until this is dropped.
struct Policy {
    config: std::path::PathBuf,
    before: String,
}

impl Policy {
    /// Each setting takes the place of the one of its name.
    fn with(settings: &[(&str, &str)]) -> Self {
        let dir = Cluster::get().state.join("provider");
        let config = dir.join("provider.yaml");
        let before = std::fs::read_to_string(&config).expect("the provider is configured");
        let usual = repo().join("integration/knative/config/cost-policy.yaml");
        let mut policy = std::fs::read_to_string(usual).expect("the tests' cost policy");
        // The section is the last one of the file.
        for (name, value) in settings {
            let begins = format!("  {name}: ");
            let mut lines: Vec<_> =
                policy.lines().filter(|line| !line.starts_with(&begins)).map(str::to_owned).collect();
            lines.push(begins + value);
            policy = lines.join("\n");
        }
        let other = dir.join("other-cost-policy.yaml");
        std::fs::write(&other, policy).expect("it can be written");
        let line = |line: &str| match line.strip_prefix("costPolicy: ") {
            Some(_) => format!("costPolicy: {}\n", other.display()),
            None => format!("{line}\n"),
        };
        let changed: String = before.lines().map(line).collect();
        assert_ne!(changed, before, "{} names a cost policy", config.display());
        // Made first: whatever happens from now on is undone.
        let this = Self { config, before };
        std::fs::write(&this.config, changed).expect("it can be written");
        this.restart();
        this
    }

    fn restart(&self) {
        provider("kill");
        provider("up");
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        std::fs::write(&self.config, &self.before).expect("it can be written");
        self.restart();
    }
}

#[tokio::test]
async fn under_hold_standard_a_reserve_that_does_not_start_leaves_the_standard_pods_until_one_does() {
    let _turn = alone().await;
    let _policy = Policy::with(&[("onFailure", "hold-standard"), ("startupTimeout", "15s"), ("retryAfter", "5s")]);
    let serving = Serving::new("holds").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    serving.until_reserve(&revision, "StandardServes").await;
    let image = |image: &str| json!({ "spec": { "containers": [{ "name": "user-container", "image": image }] } });
    // Its new Pod does not start either: the Deployment keeps the old one.
    serving.patch_template(&revision, image("pilotlight.test/nothing:1")).await;
    serving.until_reserve(&revision, "ReserveFailed").await;
    // Another try, which comes after a while, and fails too.
    serving.until_reserve(&revision, "ReserveStarting").await;
    let failed = serving.until_reserve(&revision, "ReserveFailed").await;
    let message = reserve_condition(&failed)["message"].clone();
    assert!(message.as_str().is_some_and(|message| message.contains("the standard Pods stay")), "{message}");
    let deployment = serving.api::<Deployment>().get(&format!("{revision}-deployment")).await;
    assert_eq!(deployment.expect("it has a Deployment").spec.replicas, Some(1));
    let answer = serving.gateway("steady").get("/").await.sample();
    assert!(answer.pod.starts_with(&format!("{revision}-deployment-")), "{answer:?}");

    serving.patch_template(&revision, image(SAMPLE)).await;
    let reserve = serving.until_on_reserve(&revision).await;
    assert_eq!(serving.gateway("steady").get("/").await.sample().pod, reserve);
}

#[tokio::test]
async fn a_parked_reserve_is_kept_and_answers_again_and_goes_when_its_time_is_up() {
    let _turn = alone().await;
    let policy = Policy::with(&[("parking", "1h")]);
    let serving = Serving::new("parked").await;
    let revision = serving.deploy(&reserved(ksvc("steady", json!({})))).await;
    let target = serving.gateway("steady");
    let reserve = serving.until_on_reserve(&revision).await;
    let first = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    let load = Load::start(&target, "/?ms=20", 10);
    let parked = |pod: &Pod| {
        let attached = pod.metadata.labels.iter().flatten().any(|(key, _)| key == "serving.knative.dev/revisionUID");
        !attached && condition(pod, "Ready")
    };
    serving.until_pod(&reserve, "is parked", parked).await;
    serving.until_reserve(&revision, "StandardServes").await;
    load.stop().await.all_answered();

    assert_eq!(serving.until_on_reserve(&revision).await, reserve);
    let again = serving.api::<Pod>().get(&reserve).await.expect("the reserve exists");
    assert_eq!(again.metadata.uid, first.metadata.uid, "it is the same Pod");
    assert_eq!(annotation(&again, "instance-id"), annotation(&first, "instance-id"), "on the same instance");
    assert_eq!(target.get("/").await.sample().pod, reserve);
    serving.until_event(&revision, "ReserveAttached", |message| message.contains(&reserve)).await;
    serving.until_pod(&reserve, "is parked again", parked).await;

    // The usual policy keeps none.
    drop(policy);
    let load = Load::start(&target, "/?ms=20", 10);
    serving.until_gone(&reserve).await;
    load.stop().await.all_answered();
}
