//! One request: find its route, choose an endpoint, pass it on.
//!
//! | answer of our own | when |
//! |---|---|
//! | 301 | plain HTTP to an Ingress whose httpOption is Redirected |
//! | 400 | no host, or one that is not a host |
//! | 404 | no Ingress has this host and path |
//! | 501 | CONNECT |
//! | 502 | an endpoint took the request and broke the connection, and it is not to be sent again |
//! | 503 | no endpoint, or none that could be reached; nothing was sent |
//! | 508 | the request came through here several times already |

use super::body::{Leased, Outgoing, ProxyBody};
use super::headers;
use super::live::Live;
use super::metrics::{Counted, Metrics};
use super::pool::{Endpoint, SendError};
use super::tunnel;
use crate::ingress::again::{self, Cause, End};
use crate::ingress::backends::Protocol;
use crate::ingress::balance::{Load, choose};
use crate::ingress::hash::{HASH_HEADER, OVERRIDE};
use crate::ingress::table::{Found, Listener, PlainHttp, Route, Split};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri};
use hyper::body::{Body as _, Incoming};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

const HASH: HeaderName = HeaderName::from_static(HASH_HEADER);

/// When no endpoint could be reached the endpoints are probably changing: the newest are tried, so many times, with
/// these pauses. Nothing has been sent, so that nothing can be done twice.
const ROUNDS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// So many requests may wait to be sent once more; the next one gets the answer that there is.
pub(super) const MOST_WAITING: usize = 1024;

pub(super) struct Forwarder {
    pub live: watch::Receiver<Arc<Live>>,
    pub metrics: Metrics,
    pub tunnels: TaskTracker,
    /// Of [`MOST_WAITING`] places.
    pub waiting: Semaphore,
}

/// An answer of our own.
struct Refused(StatusCode, String);

/// Why a request has no answer.
enum Failed {
    Refused(Refused),
    /// An endpoint had taken it.
    Broken,
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Forwarder {
    pub async fn answer(
        self: Arc<Self>,
        listener: Listener,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Response<ProxyBody> {
        let (began, in_flight) = (Instant::now(), Counted::new(&self.metrics.in_flight));
        let response = self.forward(listener, peer, request).await.unwrap_or_else(|Refused(code, why)| {
            let mut response = Response::new(ProxyBody::text(format!("{why}\n")));
            *response.status_mut() = code;
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        });
        self.metrics.answered(response.status().as_u16(), began.elapsed());
        response.map(|body| body.counted(in_flight))
    }

    async fn forward(
        &self,
        listener: Listener,
        peer: IpAddr,
        mut request: Request<Incoming>,
    ) -> Result<Response<ProxyBody>, Refused> {
        if request.method() == Method::CONNECT {
            return Err(Refused(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported".to_owned()));
        }
        let authority = authority(&request)?;
        let live = Arc::clone(&self.live.borrow());
        let route = match live.table.find(listener, authority.as_str(), request.uri().path(), request.headers()) {
            Found::Route(route) => Arc::clone(route),
            Found::NoHost => return Err(Refused(StatusCode::NOT_FOUND, "no such host".to_owned())),
            Found::NoPath => return Err(Refused(StatusCode::NOT_FOUND, "no such path on this host".to_owned())),
        };
        if !listener.tls && route.plain_http == PlainHttp::Redirect {
            return redirect(&authority, request.uri());
        }
        let wants = headers::upgrade(request.version(), request.headers());
        let client = wants.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        headers::prepare(&mut parts, peer, listener.tls).map_err(|_| {
            Refused(StatusCode::LOOP_DETECTED, "this request has come through here too often".to_owned())
        })?;
        if let Some(wants) = &wants {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, wants.clone());
        }
        if parts.headers.get(HASH).is_some_and(|value| value == OVERRIDE) {
            parts.headers.insert(HASH, route.ingress.hash.clone());
        }
        let point = rand::random_range(0..100);
        let split = route.split(point).ok_or_else(|| unavailable("the route has no backend"))?;
        for (name, value) in route.set.iter().chain(&split.set) {
            parts.headers.insert(name.clone(), value.clone());
        }
        let authority = match &route.rewrite_host {
            Some(host) => host.clone(),
            None => HeaderValue::from_str(authority.as_str())
                .map_err(|_| Refused(StatusCode::BAD_REQUEST, "the host is not a header value".to_owned()))?,
        };
        let request = Request::from_parts(parts, body);
        let mut response = self.send(live, &route, point, request, &authority, wants.is_some()).await?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let backend = switched.then(|| hyper::upgrade::on(&mut response));
        let protocol = response.headers().get(header::UPGRADE).cloned();
        headers::strip_hop_by_hop(response.headers_mut());
        if let (Some(client), Some(backend)) = (client, backend) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            if let Some(protocol) = protocol {
                response.headers_mut().insert(header::UPGRADE, protocol);
            }
            self.tunnels.spawn(tunnel::pump(client, backend, Counted::new(&self.metrics.tunnels)));
        } else if switched {
            return Err(Refused(StatusCode::BAD_GATEWAY, "the backend switched protocols unasked".to_owned()));
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(ProxyBody::backend))
    }

    /// Sends it until there is an answer to be passed on.
    async fn send(
        &self,
        mut live: Arc<Live>,
        route: &Route,
        point: u8,
        request: Request<Incoming>,
        authority: &HeaderValue,
        upgrade: bool,
    ) -> Result<Response<Leased>, Refused> {
        let split = route.split(point).ok_or_else(|| unavailable("the route has no backend"))?;
        let spare = again::repeatable(request.method(), request.body().is_end_stream(), upgrade);
        let spare = spare.then(|| copy(&request));
        let mut request = request.map(Outgoing::Client);
        let (began, mut sent, mut before) = (Instant::now(), 1, None);
        loop {
            let answer = self.send_once(&mut live, split, request, authority, upgrade).await;
            let Some((spare, cause)) = spare.as_ref().zip(cause(&answer, before)) else { return passed_on(answer) };
            let Some(pause) = again::pause(sent, began.elapsed(), rand::random()) else { return passed_on(answer) };
            let Ok(_place) = self.waiting.try_acquire() else { return passed_on(answer) };
            // What it holds on to is free for others meanwhile.
            drop(answer);
            self.metrics.repeated(cause.as_str());
            tokio::time::sleep(pause).await;
            live = Arc::clone(&self.live.borrow());
            request = copy(spare);
            (sent, before) = (sent + 1, Some(cause));
        }
    }

    /// Tries endpoints until one has taken the request.
    async fn send_once(
        &self,
        live: &mut Arc<Live>,
        split: &Split,
        mut request: Request<Outgoing>,
        authority: &HeaderValue,
        upgrade: bool,
    ) -> Result<Response<Leased>, Failed> {
        for round in 0..ROUNDS {
            let Some(backend) = live.backends.get(split.backend.as_ref()) else {
                return Err(unavailable(format!("no endpoint of {} is ready", split.backend)).into());
            };
            let mut tried = vec![false; backend.endpoints.len()];
            while let Some(index) = choose(&loads(&backend.endpoints, &tried), rand::random()) {
                tried[index] = true;
                let endpoint = &backend.endpoints[index];
                let h2c = backend.protocol == Protocol::H2c && !upgrade;
                address(&mut request, authority, h2c)?;
                match endpoint.send(request, upgrade).await {
                    Ok(response) => return Ok(response),
                    Err(SendError::NotSent { request: unsent, why }) => {
                        self.metrics.failed("connect");
                        tracing::debug!(endpoint = %endpoint.address, error = %why, "an endpoint was not reached");
                        request = *unsent;
                    }
                    Err(SendError::Broken(error)) => {
                        self.metrics.failed("send");
                        tracing::debug!(endpoint = %endpoint.address, %error, "an endpoint broke off");
                        return Err(Failed::Broken);
                    }
                }
            }
            if round + 1 < ROUNDS {
                let mut changes = self.live.clone();
                changes.mark_unchanged();
                if Arc::ptr_eq(live, &changes.borrow()) {
                    drop(tokio::time::timeout(PAUSE * (round + 1), changes.changed()).await);
                }
                *live = Arc::clone(&self.live.borrow());
            }
        }
        Err(unavailable(format!("no endpoint of {} could be reached", split.backend)).into())
    }
}

/// Of a request without a body.
fn copy<B>(request: &Request<B>) -> Request<Outgoing> {
    let mut copy = Request::new(Outgoing::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Why sending it once more may help.
fn cause(answer: &Result<Response<Leased>, Failed>, before: Option<Cause>) -> Option<Cause> {
    let end = match answer {
        Ok(response) => End::Answer(response.status(), response.headers()),
        Err(Failed::Broken) => End::Broken,
        Err(Failed::Refused(_)) => End::Unreached,
    };
    again::cause(end, before)
}

fn passed_on(answer: Result<Response<Leased>, Failed>) -> Result<Response<Leased>, Refused> {
    answer.map_err(|failed| match failed {
        Failed::Refused(refused) => refused,
        Failed::Broken => {
            Refused(StatusCode::BAD_GATEWAY, "the backend broke the connection before it answered".to_owned())
        }
    })
}

fn loads(endpoints: &[Arc<Endpoint>], tried: &[bool]) -> Vec<Load> {
    let load = |(endpoint, tried): (&Arc<Endpoint>, &bool)| Load {
        in_flight: endpoint.in_flight(),
        suspect: endpoint.suspect(),
        tried: *tried,
    };
    endpoints.iter().zip(tried).map(load).collect()
}

fn unavailable(why: impl Into<String>) -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, why.into())
}

/// The host that the client asked for: the URI's if it has one (HTTP/2, or a request as to a proxy), else the header.
fn authority(request: &Request<Incoming>) -> Result<uri::Authority, Refused> {
    let refused = |why: &str| Refused(StatusCode::BAD_REQUEST, why.to_owned());
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.clone());
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().ok_or_else(|| refused("a request needs a host"))?;
    if hosts.next().is_some() {
        return Err(refused("a request has one host"));
    }
    uri::Authority::try_from(host.as_bytes()).map_err(|_| refused("the host is malformed"))
}

/// Gives the request the target in the form that the endpoint's protocol wants.
fn address(request: &mut Request<Outgoing>, authority: &HeaderValue, h2c: bool) -> Result<(), Refused> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    let malformed = |_| Refused(StatusCode::BAD_REQUEST, "the target is malformed".to_owned());
    if h2c {
        request.headers_mut().remove(header::HOST);
        *request.version_mut() = Version::HTTP_2;
        let target = Uri::builder().scheme("http").authority(authority.as_bytes()).path_and_query(path);
        *request.uri_mut() = target.build().map_err(malformed)?;
    } else {
        request.headers_mut().insert(header::HOST, authority.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = Uri::from(path);
    }
    Ok(())
}

fn redirect(authority: &uri::Authority, target: &Uri) -> Result<Response<ProxyBody>, Refused> {
    let path = target.path_and_query().map_or("/", uri::PathAndQuery::as_str);
    // The port was that of plain HTTP.
    let location = HeaderValue::try_from(format!("https://{}{path}", authority.host()))
        .map_err(|_| Refused(StatusCode::BAD_REQUEST, "the target is malformed".to_owned()))?;
    let mut response = Response::new(ProxyBody::text(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    *response.headers_mut() = HeaderMap::from_iter([(header::LOCATION, location)]);
    Ok(response)
}
