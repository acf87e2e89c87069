//! The provider dies while it holds Revisions.
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
