//! The kubelet's paths.

use super::{directory::FoundPod, exec, logs, reply::Failure, resources, server::Shared};
use crate::model::{ObjectName, PodUid};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on, post},
};
use http::{StatusCode, header};
use serde_json::Value;
use std::{collections::HashSet, sync::Arc};

pub(super) type Api = State<Arc<Shared>>;

/// Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let both = MethodFilter::GET.or(MethodFilter::POST);
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(|State(api): Api| async move { objects(&api).await.map(json) }))
        .route("/runningpods/", get(running))
        .route("/stats/summary", get(resources::summary).post(resources::summary))
        .route("/metrics", get(|State(api): Api| async move { metrics((api.metrics)()) }))
        .route("/metrics/resource", get(resources::resource))
        .route("/metrics/cadvisor", get(resources::cadvisor))
        // Probes run in the agents, which keep no counters of them.
        .route("/metrics/probes", get(|| async { metrics(String::new()) }))
        .route("/configz", get(|State(api): Api| async move { axum_json(&api.config.configz) }))
        .route("/run/{namespace}/{pod}/{container}", post(exec::run))
        .route("/run/{namespace}/{pod}/{uid}/{container}", post(exec::run_uid))
        .route("/exec/{namespace}/{pod}/{container}", on(both, exec::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", on(both, exec::exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", on(both, exec::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", on(both, exec::attach_uid))
        .route("/portForward/{namespace}/{pod}", on(both, exec::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", on(both, exec::port_forward_uid))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .fallback(|| async { Failure::not_found("404 page not found") })
        .with_state(shared)
}

async fn running(State(api): Api) -> Result<Response, Failure> {
    let running: HashSet<PodUid> = api.pods.all().into_iter().filter(|pod| pod.running).map(|pod| pod.uid).collect();
    let mut list: Value = serde_json::from_str(&objects(&api).await?).map_err(unavailable)?;
    let runs = |pod: &Value| pod["metadata"]["uid"].as_str().is_some_and(|uid| running.contains(&PodUid::new(uid)));
    if let Some(items) = list["items"].as_array_mut() {
        items.retain(runs);
    }
    Ok(json(list.to_string()))
}

async fn objects(api: &Shared) -> Result<String, Failure> {
    api.pods.objects().await.map_err(unavailable)
}

fn unavailable(why: impl std::fmt::Display) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("the node's pods can't be listed now: {why}"))
}

fn axum_json(value: &Value) -> Response {
    json(value.to_string())
}

pub(super) fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn metrics(text: String) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TEXT)], text).into_response()
}

/// The Pod that a path names, or the kubelet's words for one that isn't here.
pub(super) fn find(api: &Shared, namespace: &str, pod: &str, uid: Option<&str>) -> Result<FoundPod, Failure> {
    let name = ObjectName::new(namespace, pod);
    let uid = uid.filter(|uid| !uid.is_empty()).map(PodUid::new);
    api.pods.find(&name, uid.as_ref()).ok_or_else(|| Failure::not_found("pod does not exist"))
}

/// Where its agent is, if it has that container.
pub(super) fn container<'a>(pod: &'a FoundPod, container: &str) -> Result<&'a crate::model::InstanceId, Failure> {
    let unknown = || Failure::not_found(format!("container not found (\"{container}\")"));
    if !pod.containers.iter().any(|known| known == container) {
        return Err(unknown());
    }
    // Bound to nothing yet: no container exists.
    pod.instance.as_ref().ok_or_else(unknown)
}
