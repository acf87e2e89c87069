//! /stats/summary, /metrics/resource, /metrics/cadvisor: asks the agents, and tells.

use super::{
    directory::FoundPod,
    exec,
    routes::{Api, json, metrics},
    server::Shared,
    stats::{Sample, Snapshot},
};
use crate::model::TunnelRequest;
use axum::{extract::State, response::Response};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::timeout;

/// Agents asked at once.
const AT_ONCE: usize = 32;
/// A scraper waits some 10 s for all of them (metrics-server: --metric-resolution's two thirds).
const AGENT_TIMEOUT: Duration = Duration::from_secs(3);
const STATS_BYTES: u64 = 1024 * 1024;

pub(super) async fn summary(State(api): Api) -> Response {
    let (samples, failed) = collect(&api).await;
    let snapshot = take(&api, &samples, failed);
    json(snapshot.summary(api.config.node.as_str()).to_string())
}

pub(super) async fn resource(State(api): Api) -> Response {
    let (samples, failed) = collect(&api).await;
    metrics(take(&api, &samples, failed).resource())
}

pub(super) async fn cadvisor(State(api): Api) -> Response {
    let (samples, failed) = collect(&api).await;
    metrics(take(&api, &samples, failed).cadvisor())
}

fn take<'a>(api: &Shared, samples: &'a [Sample], failed: usize) -> Snapshot<'a> {
    api.usage.take(Timestamp::now(), samples, failed)
}

/// What the running Pods use, and how many of them did not say.
async fn collect(api: &Shared) -> (Vec<Sample>, usize) {
    let mut running = api.pods.all();
    running.retain(|pod| pod.running && pod.instance.is_some());
    let asked = stream::iter(running.into_iter().map(async |pod| ask(api, &pod).await)).buffer_unordered(AT_ONCE);
    let answers: Vec<Option<Sample>> = asked.collect().await;
    let failed = answers.iter().filter(|answer| answer.is_none()).count();
    let mut samples: Vec<Sample> = answers.into_iter().flatten().collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    (samples, failed)
}

async fn ask(api: &Shared, pod: &FoundPod) -> Option<Sample> {
    let instance = pod.instance.as_ref()?;
    let answer = timeout(AGENT_TIMEOUT, exec::read_all(api, instance, TunnelRequest::Stats, STATS_BYTES)).await;
    let why = match answer {
        Ok(Ok(bytes)) => match serde_json::from_slice(&bytes) {
            Ok(stats) => return Some(Sample { name: pod.name.clone(), uid: pod.uid.clone(), stats }),
            Err(error) => error.to_string(),
        },
        Ok(Err(failure)) => failure.message,
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::debug!(pod = %pod.name, why, "a Pod's usage is not known");
    None
}
