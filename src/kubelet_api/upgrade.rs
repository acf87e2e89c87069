//! Raw upgraded connections: exec, attach and port-forward without knowing SPDY or WebSocket.
//! As k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go.
//!
//! ```text
//!   caller's head --path replaced by the runtime's--> tunnel --> streaming server
//!   101: its headers, then whatever it has already said, to the caller; bytes both ways;
//!        either end closes: both do
//!   >= 400: relayed;  anything else: 502
//! ```

use super::{
    reply::{Failure, Reply},
    server::{Owner, Peer},
};
use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    time::timeout,
};

/// The runtime answers at once; it may be pulling itself together.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 64 * 1024;
const ERROR_BODY_BYTES: usize = 64 * 1024;
const HEADERS: usize = 100;

/// Refuses what can't become a stream, before anything is asked of the runtime.
pub(super) fn require(headers: &HeaderMap) -> Result<(), Failure> {
    let upgrade = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = upgrade.flat_map(|value| value.split(','));
    if options.any(|option| option.trim().eq_ignore_ascii_case("upgrade")) && headers.contains_key(header::UPGRADE) {
        return Ok(());
    }
    Err(Failure::new(StatusCode::BAD_REQUEST, "Upgrade request required"))
}

/// Joins the caller's connection to the tunnel.
pub(super) async fn proxy(mut request: Request<Body>, mut tunnel: DuplexStream, path: &str) -> Reply {
    let broken = |what: &str| Failure::new(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server {what}"));
    let head = request_head(&request, path);
    let answered = timeout(HEAD_TIMEOUT, async {
        tunnel.write_all(&head).await?;
        read_head(&mut tunnel).await
    });
    let answer = answered
        .await
        .map_err(|_| broken("did not answer in time"))?
        .map_err(|error| broken(&format!("can't be understood: {error}")))?;

    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = hyper::upgrade::on(&mut request);
        let owner = request.extensions().get::<Owner>().cloned().ok_or_else(|| broken("can't be joined"))?;
        let rest = answer.rest;
        owner.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => splice(TokioIo::new(upgraded), tunnel, rest).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = answer.headers;
        return Ok(response);
    }
    if answer.status.as_u16() < 400 {
        return Err(broken(&format!("answered {} to an upgrade", answer.status)));
    }
    let body = error_body(&mut tunnel, &answer.headers, answer.rest).await;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = answer.status;
    if let Some(kind) = answer.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    Ok(response)
}

/// The caller's method and headers, every value of them, with another path.
fn request_head(request: &Request<Body>, path: &str) -> Vec<u8> {
    let mut head = format!("{} {path} HTTP/1.1\r\n", request.method()).into_bytes();
    let forwarded = HeaderName::from_static("x-forwarded-for");
    for (name, value) in request.headers() {
        if *name != forwarded {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    }
    let mut hops: Vec<String> = request
        .headers()
        .get_all(&forwarded)
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    hops.extend(request.extensions().get::<Peer>().map(|peer| peer.address.ip().to_string()));
    if !hops.is_empty() {
        head.extend(format!("x-forwarded-for: {}\r\n", hops.join(", ")).into_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// What was read beyond the head.
    rest: Bytes,
}

async fn read_head(tunnel: &mut (impl AsyncRead + Unpin)) -> io::Result<Answer> {
    let mut buffer = BytesMut::new();
    loop {
        if tunnel.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((length, status, headers)) = parse_head(&buffer)? {
            let rest = buffer.split_off(length).freeze();
            return Ok(Answer { status, headers, rest });
        }
        if buffer.len() > HEAD_BYTES {
            return Err(io::Error::other("its answer's head is too long"));
        }
    }
}

/// None: not all there yet.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(usize, StatusCode, HeaderMap)>> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut slots);
    let httparse::Status::Complete(length) = response.parse(buffer).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(io::Error::other)?;
    let mut headers = HeaderMap::new();
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(io::Error::other)?;
        headers.append(name, HeaderValue::from_bytes(header.value).map_err(io::Error::other)?);
    }
    Ok(Some((length, status, headers)))
}

async fn error_body(tunnel: &mut (impl AsyncRead + Unpin), headers: &HeaderMap, rest: Bytes) -> Vec<u8> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let wanted = length.unwrap_or(ERROR_BODY_BYTES).min(ERROR_BODY_BYTES);
    let mut body = rest.to_vec();
    let mut missing = tunnel.take(wanted.saturating_sub(body.len()) as u64);
    // What came until then is better than nothing.
    let _ = timeout(BODY_TIMEOUT, missing.read_to_end(&mut body)).await;
    body.truncate(wanted);
    body
}

/// Both directions, until either ends; then both are closed.
async fn splice(
    caller: impl AsyncRead + AsyncWrite + Unpin,
    tunnel: impl AsyncRead + AsyncWrite + Unpin,
    first: Bytes,
) {
    let (mut from_caller, mut to_caller) = tokio::io::split(caller);
    let (mut from_tunnel, mut to_tunnel) = tokio::io::split(tunnel);
    let down = async {
        to_caller.write_all(&first).await?;
        tokio::io::copy(&mut from_tunnel, &mut to_caller).await
    };
    let ended = tokio::select! {
        ended = down => ended,
        ended = tokio::io::copy(&mut from_caller, &mut to_tunnel) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an upgraded connection broke");
    }
    let _ = tokio::join!(to_caller.shutdown(), to_tunnel.shutdown());
}
