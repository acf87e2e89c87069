//! /exec, /attach, /portForward and /run.

use super::{
    directory::FoundPod,
    options,
    reply::{Failure, Reply},
    routes::{Api, container, find, json},
    server::Shared,
    upgrade,
};
use crate::model::{InstanceId, TunnelHead, TunnelRequest};
use axum::{
    body::Body,
    extract::{Path, Query, State},
};
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, DuplexStream};

type Pairs = Query<Vec<(String, String)>>;
type Named = Path<(String, String, String)>;
type NamedUid = Path<(String, String, String, String)>;

pub(super) async fn exec(State(api): Api, Path((ns, pod, name)): Named, query: Pairs, request: Request<Body>) -> Reply {
    exec_in(&api, (&ns, &pod, None, &name), &query, request).await
}

pub(super) async fn exec_uid(
    State(api): Api,
    Path((ns, pod, uid, name)): NamedUid,
    query: Pairs,
    request: Request<Body>,
) -> Reply {
    exec_in(&api, (&ns, &pod, Some(&uid), &name), &query, request).await
}

pub(super) async fn attach(
    State(api): Api,
    Path((ns, pod, name)): Named,
    query: Pairs,
    request: Request<Body>,
) -> Reply {
    attach_to(&api, (&ns, &pod, None, &name), &query, request).await
}

pub(super) async fn attach_uid(
    State(api): Api,
    Path((ns, pod, uid, name)): NamedUid,
    query: Pairs,
    request: Request<Body>,
) -> Reply {
    attach_to(&api, (&ns, &pod, Some(&uid), &name), &query, request).await
}

pub(super) async fn port_forward(
    State(api): Api,
    Path((ns, pod)): Path<(String, String)>,
    query: Pairs,
    request: Request<Body>,
) -> Reply {
    forward_to(&api, (&ns, &pod, None), &query, request).await
}

pub(super) async fn port_forward_uid(
    State(api): Api,
    Path((ns, pod, uid)): Named,
    query: Pairs,
    request: Request<Body>,
) -> Reply {
    forward_to(&api, (&ns, &pod, Some(&uid)), &query, request).await
}

pub(super) async fn run(State(api): Api, Path((ns, pod, name)): Named, query: Pairs) -> Reply {
    run_in(&api, (&ns, &pod, None, &name), &query).await
}

pub(super) async fn run_uid(State(api): Api, Path((ns, pod, uid, name)): NamedUid, query: Pairs) -> Reply {
    run_in(&api, (&ns, &pod, Some(&uid), &name), &query).await
}

/// Namespace, Pod, uid, container.
type Target<'a> = (&'a str, &'a str, Option<&'a str>, &'a str);

async fn exec_in(
    api: &Shared,
    (ns, pod, uid, name): Target<'_>,
    query: &options::Query,
    request: Request<Body>,
) -> Reply {
    let streams = options::streams(query)?;
    let command = options::command(query);
    let pod = find(api, ns, pod, uid)?;
    let instance = container(&pod, name)?;
    let asked = TunnelRequest::Exec { container: name.to_owned(), command, streams };
    stream(api, instance, asked, request).await
}

async fn attach_to(
    api: &Shared,
    (ns, pod, uid, name): Target<'_>,
    query: &options::Query,
    request: Request<Body>,
) -> Reply {
    let streams = options::streams(query)?;
    let pod = find(api, ns, pod, uid)?;
    let instance = container(&pod, name)?;
    stream(api, instance, TunnelRequest::Attach { container: name.to_owned(), streams }, request).await
}

async fn forward_to(
    api: &Shared,
    (ns, pod, uid): (&str, &str, Option<&str>),
    query: &options::Query,
    request: Request<Body>,
) -> Reply {
    let ports = options::ports(query)?;
    let pod: FoundPod = find(api, ns, pod, uid)?;
    let instance = pod.instance.as_ref().ok_or_else(|| Failure::not_found("pod not found"))?;
    stream(api, instance, TunnelRequest::PortForward { ports }, request).await
}

/// Asks the agent for a way to the runtime's streaming server, and joins the caller to it.
async fn stream(api: &Shared, instance: &InstanceId, asked: TunnelRequest, request: Request<Body>) -> Reply {
    upgrade::require(request.headers())?;
    let (head, tunnel) = api.link.open_tunnel(instance, asked).await?;
    match head {
        TunnelHead::StreamingServer { path } => upgrade::proxy(request, tunnel, &path).await,
        TunnelHead::Refused { status, message } => Err(Failure::refused(status, message)),
        TunnelHead::Open => Err(odd_head()),
    }
}

/// /run: `cmd` is one string, split at blanks, "for legacy reasons" (server.go, getRun).
async fn run_in(api: &Shared, (ns, pod, uid, name): Target<'_>, query: &options::Query) -> Reply {
    let text = query.iter().find(|(key, _)| key == "cmd").map_or("", |(_, value)| value.as_str());
    let command = text.split(' ').map(str::to_owned).collect();
    let pod = find(api, ns, pod, uid)?;
    let instance = container(&pod, name)?;
    let asked = TunnelRequest::ExecSync { container: name.to_owned(), command };
    let printed = read_all(api, instance, asked, RUN_BYTES).await?;
    Ok(json(String::from_utf8_lossy(&printed).into_owned()))
}

/// CRI's ExecSync keeps at most this much of each output.
const RUN_BYTES: u64 = 2 * 16 * 1024 * 1024;

/// A tunnel's whole answer.
pub(super) async fn read_all(
    api: &Shared,
    instance: &InstanceId,
    asked: TunnelRequest,
    limit: u64,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let stream = open(api, instance, asked).await?;
    let read = stream.take(limit).read_to_end(&mut bytes).await;
    read.map_err(|error| Failure::new(StatusCode::BAD_GATEWAY, format!("the agent's answer broke off: {error}")))?;
    Ok(bytes)
}

/// A tunnel whose bytes are the answer.
pub(super) async fn open(api: &Shared, instance: &InstanceId, asked: TunnelRequest) -> Result<DuplexStream, Failure> {
    match api.link.open_tunnel(instance, asked).await? {
        (TunnelHead::Open, stream) => Ok(stream),
        (TunnelHead::Refused { status, message }, _) => Err(Failure::refused(status, message)),
        (TunnelHead::StreamingServer { .. }, _) => Err(odd_head()),
    }
}

fn odd_head() -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, "the agent answered something else than was asked")
}
