//! /containerLogs.

use super::{
    exec, options,
    reply::{Failure, Reply},
    routes::{Api, find},
};
use crate::model::TunnelRequest;
use axum::{
    body::Body,
    extract::{Path, Query, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use tokio_util::io::ReaderStream;

pub(super) async fn logs(
    State(api): Api,
    Path((namespace, pod_name, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Reply {
    let options = options::logs(&query, Timestamp::now())?;
    let pod = find(&api, &namespace, &pod_name, None)
        .map_err(|_| Failure::not_found(format!("pod \"{pod_name}\" does not exist")))?;
    if !pod.containers.contains(&container) {
        return Err(Failure::not_found(format!("container \"{container}\" not found in pod \"{pod_name}\"")));
    }
    let Some(instance) = &pod.instance else {
        if pod.released {
            let why = format!(
                "the instance of pod \"{pod_name}\" has been released, its logs with it (keepCompletedPods says after how long)"
            );
            return Err(Failure::new(StatusCode::BAD_REQUEST, why));
        }
        let why = format!("container \"{container}\" in pod \"{pod_name}\" is waiting to start: ContainerCreating");
        return Err(Failure::new(StatusCode::BAD_REQUEST, why));
    };
    let stream = exec::open(&api, instance, TunnelRequest::Logs { container, options }).await?;
    // The tunnel stays open in both directions while someone reads: its end is how the agent learns
    // that the reader has left.
    Ok(Response::new(Body::from_stream(ReaderStream::new(stream))))
}
