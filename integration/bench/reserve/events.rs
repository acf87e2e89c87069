//! What else happens to a Service, under 50 requests a second.

use crate::{
    net::{Load, Report},
    serving::{Kind, Serving},
    site::{Rest, Site, State, manifest},
    support::{PATIENCE, with},
};
use anyhow::{Context, Result};
use serde_json::json;
use std::net::SocketAddr;

const PER_SECOND: u32 = 50;
const ROLLS: usize = 3;

pub struct Event {
    pub name: &'static str,
    pub report: Report,
}

pub async fn measure() -> Result<Vec<Event>> {
    println!("{PER_SECOND} requests a second through …");
    let serving = Serving::new("bench-events").await;
    let mut events = Vec::new();
    for (name, report) in [
        ("template rolls", rolls(&serving).await?),
        ("template rolls at zero", rolls_at_zero(&serving).await?),
        ("a canary's shift", canary(&serving).await?),
        ("the reserve's process killed at zero", crash(&serving).await?),
        ("the reserve's Pod deleted at zero", deleted(&serving).await?),
        ("a spot notice at zero", notice(&serving, At::Zero).await?),
        ("a spot notice under requests", notice(&serving, At::Once).await?),
    ] {
        println!("  {name}: {report}");
        // They are alike.
        for failure in report.failures().iter().take(3) {
            println!("    FAILED {failure}");
        }
        events.push(Event { name, report });
    }
    Ok(events)
}

/// Applies a new template and waits until its Revision has all traffic.
async fn roll(serving: &Serving, name: &str, number: usize) {
    serving.apply(&manifest(name, Rest::Reserve, json!({ "TARGET": number.to_string() }))).await;
    let revision = format!("{name}-{:05}", number + 1);
    let has_all = |route: &serde_json::Value| {
        let traffic = &route["status"]["traffic"];
        traffic.as_array().is_some_and(|t| t.len() == 1) && traffic[0]["revisionName"] == revision.as_str()
    };
    serving.until_is(Kind::Route, name, "the new Revision has all traffic", has_all).await;
    serving.until_condition(Kind::Service, name, "Ready", "True").await;
}

async fn rolls(serving: &Serving) -> Result<Report> {
    let mut site = Site::deploy(serving, "roll", Rest::Reserve).await;
    let load = Load::start(&site.target, "/?ms=20", PER_SECOND);
    for number in 1..=ROLLS {
        roll(serving, "roll", number).await;
        site.revision = format!("roll-{:05}", number + 1);
        site.until_standing().await?;
    }
    Ok(load.stop().await)
}

/// The new Revision's first traffic comes right after it has become the one.
async fn rolls_at_zero(serving: &Serving) -> Result<Report> {
    let mut site = Site::deploy(serving, "roll-zero", Rest::Reserve).await;
    let mut all = Report { shots: Vec::new() };
    for number in 1..=ROLLS {
        site.until_at_rest().await?;
        let load = Load::start(&site.target, "/", PER_SECOND);
        roll(serving, "roll-zero", number).await;
        site.revision = format!("roll-zero-{:05}", number + 1);
        site.until_standing().await?;
        all.shots.extend(load.stop().await.shots);
    }
    Ok(all)
}

async fn canary(serving: &Serving) -> Result<Report> {
    let site = Site::deploy(serving, "canary", Rest::Reserve).await;
    site.until_at_rest().await?;
    let load = Load::start(&site.target, "/", PER_SECOND);
    let second = manifest("canary", Rest::Reserve, json!({ "TARGET": "new" }));
    for percent in [10, 50, 90, 100] {
        let traffic = json!([
            { "revisionName": "canary-00001", "percent": 100 - percent },
            { "revisionName": "canary-00002", "percent": percent },
        ]);
        serving.apply(&with(second.clone(), json!({ "spec": { "traffic": traffic } }))).await;
        let shifted = |route: &serde_json::Value| {
            let traffic = route["status"]["traffic"].as_array();
            traffic.into_iter().flatten().any(|t| t["revisionName"] == "canary-00002" && t["percent"] == percent)
        };
        serving.until_is(Kind::Route, "canary", &format!("{percent} % shifted"), shifted).await;
        serving.until_condition(Kind::Service, "canary", "Ready", "True").await;
    }
    Ok(load.stop().await)
}

/// Its container ends while nobody asks; traffic comes at once.
async fn crash(serving: &Serving) -> Result<Report> {
    let site = Site::deploy(serving, "crash", Rest::Reserve).await;
    let state = site.until_at_rest().await?;
    let pod = state.attached.first().context("a reserve is attached")?;
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).context("it has an address")?;
    let mut direct = site.target.clone();
    direct.address = SocketAddr::new(ip.parse()?, 8080);
    // It ends without an answer.
    drop(direct.send(http::Method::POST, "/crash").await);
    let load = Load::start(&site.target, "/", PER_SECOND);
    site.until_standing().await?;
    Ok(load.stop().await)
}

/// As if its machine was gone.
async fn deleted(serving: &Serving) -> Result<Report> {
    let site = Site::deploy(serving, "deleted", Rest::Reserve).await;
    let state = site.until_at_rest().await?;
    let pod = state.attached.first().and_then(|pod| pod.metadata.name.clone()).context("a reserve is attached")?;
    let load = Load::start(&site.target, "/", PER_SECOND);
    serving.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0", "--wait=false"]).await;
    tokio::time::timeout(PATIENCE, site.until_standing()).await??;
    Ok(load.stop().await)
}

/// When requests come, after the notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Once,
    /// When another reserve has taken over.
    Zero,
}

/// The cloud takes the reserve's instance back.
async fn notice(serving: &Serving, at: At) -> Result<Report> {
    let name = if at == At::Once { "notice" } else { "notice-zero" };
    let site = Site::deploy(serving, name, Rest::Reserve).await;
    let state = site.until_at_rest().await?;
    let pod = state.attached.first().context("a reserve is attached")?;
    serving.cluster.announce(pod, "interruption", 120).await;
    if at == At::Zero {
        let other = |state: &State| state.attached.len() == 1 && state.attached[0].metadata.uid != pod.metadata.uid;
        site.until("on another reserve", other).await?;
    }
    let load = Load::start(&site.target, "/", PER_SECOND);
    site.until_standing().await?;
    Ok(load.stop().await)
}
