//! Requests from inside the cluster's network, one or many, with their times and failures.
//!
//! A test runs in the machine's network. What is spawned on [`runtime`] runs on threads that have entered
//! the cluster's network namespace, so its sockets are there.

#![allow(dead_code, reason = "a kit: each test uses a part of it")]

use crate::support::{Cluster, PATIENCE};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    runtime::Runtime,
    task::{JoinHandle, JoinSet},
    time::{sleep_until, timeout},
};

/// Whose tasks have their sockets in the cluster's network.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let file = format!("/run/netns/pilotlight-{}", Cluster::get().name);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || {
                let namespace = std::fs::File::open(&file).expect("the cluster's network namespace");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
            })
            .enable_all()
            .build()
            .expect("a runtime can be made")
    })
}

/// Where to send requests, and what each carries.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub headers: Vec<(&'static str, String)>,
}

/// What one request came to. An answer of any status is an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub took: Duration,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The sample's word about itself; fails the test if this is none.
    pub fn sample(&self) -> Sample {
        let text = self.text();
        assert_eq!(self.status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not the sample's answer: {error}: {text}"))
    }
}

/// What the sample says of itself (integration/knative/sample/site.go).
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Sample {
    pub pod: String,
    pub revision: String,
    pub target: String,
    pub protocol: String,
    pub served: i64,
    pub concurrent: i64,
    pub peak: i64,
}

impl Target {
    /// One GET on a connection of its own. Err: no answer, and why.
    pub async fn try_get(&self, path: &str) -> Result<Answer, String> {
        self.send(Method::GET, path).await
    }

    /// A GET that must be answered.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap_or_else(|error| panic!("GET {path} of {}: {error}", self.host))
    }

    pub async fn send(&self, method: Method, path: &str) -> Result<Answer, String> {
        let (target, path) = (self.clone(), path.to_owned());
        let sent = runtime().spawn(async move { timeout(PATIENCE, target.exchange(None, method, &path)).await });
        let result = sent.await.expect("the request's task does not panic");
        result.map_err(|_| format!("no answer within {PATIENCE:?}"))?.map(|(answer, _)| answer)
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(path).header("host", &self.host);
        self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    /// Sends on the given connection if it still lives, else on a new one; gives the connection back.
    async fn exchange(
        &self,
        kept: Option<http1::SendRequest<Full<Bytes>>>,
        method: Method,
        path: &str,
    ) -> Result<(Answer, http1::SendRequest<Full<Bytes>>), String> {
        let began = Instant::now();
        let mut sender = match kept.filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(self.address).await.map_err(|error| format!("connect: {error}"))?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(chain)?;
                // It ends with its sender; what breaks it fails the request too.
                tokio::spawn(connection);
                sender
            }
        };
        sender.ready().await.map_err(chain)?;
        let request = self.request(method, path).body(Full::default()).map_err(chain)?;
        let (head, body) = sender.send_request(request).await.map_err(chain)?.into_parts();
        let body = body.collect().await.map_err(chain)?.to_bytes();
        let answer = Answer { status: head.status, headers: head.headers, body, took: began.elapsed() };
        Ok((answer, sender))
    }
}

/// An error and its sources in one line.
pub fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// One request of a load: when it was due since the load began, and what it came to.
#[derive(Clone, Debug)]
pub struct Shot {
    pub due: Duration,
    pub result: Result<Answer, String>,
}

impl Shot {
    /// Anything but 200 is a failure.
    pub fn failure(&self) -> Option<String> {
        match &self.result {
            Ok(answer) if answer.status == StatusCode::OK => None,
            Ok(answer) => Some(format!("{}: {}", answer.status, answer.text().trim())),
            Err(error) => Some(error.clone()),
        }
    }
}

/// GETs at fixed times, however long the answers take (an open loop): a stall shows as the latency of every
/// request that was due in it.
pub struct Load {
    stop: Arc<AtomicBool>,
    shots: JoinHandle<Vec<Shot>>,
}

impl Load {
    /// Begins to send `per_second` requests a second.
    pub fn start(target: &Target, path: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, target, path) = (stop.clone(), target.clone(), path.to_owned());
        let shots = runtime().spawn(async move {
            let idle = Arc::new(Mutex::new(Vec::new()));
            let (mut flying, mut shots) = (JoinSet::new(), Vec::new());
            let began = tokio::time::Instant::now();
            for number in 0_u32.. {
                let due = Duration::from_secs(1) * number / per_second;
                sleep_until(began + due).await;
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let (target, path, idle) = (target.clone(), path.clone(), idle.clone());
                flying.spawn(async move {
                    // The lock is not held across an await.
                    let kept = idle.lock().expect("nobody panics with it").pop();
                    let result = match timeout(PATIENCE, target.exchange(kept, Method::GET, &path)).await {
                        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
                        Ok(Err(error)) => Err(error),
                        Ok(Ok((answer, sender))) => {
                            idle.lock().expect("nobody panics with it").push(sender);
                            // Counted from when it was due, so that a late start counts too.
                            Ok(Answer { took: began.elapsed().saturating_sub(due), ..answer })
                        }
                    };
                    Shot { due, result }
                });
                while let Some(shot) = flying.try_join_next() {
                    shots.push(shot.expect("a shot does not panic"));
                }
            }
            shots.extend(flying.join_all().await);
            shots.sort_by_key(|shot| shot.due);
            shots
        });
        Self { stop, shots }
    }

    /// Sends no more, waits for the answers still due, and says what it came to.
    pub async fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        Report { shots: self.shots.await.expect("the load's task does not panic") }
    }
}

/// Many at once, each on a connection of its own: a burst.
pub async fn burst(target: &Target, path: &str, count: usize) -> Report {
    let began = Instant::now();
    let all = (0..count).map(|_| async {
        let due = began.elapsed();
        Shot { due, result: target.try_get(path).await }
    });
    Report { shots: futures::future::join_all(all).await }
}

/// What a load came to.
#[derive(Debug)]
pub struct Report {
    pub shots: Vec<Shot>,
}

impl Report {
    pub fn failures(&self) -> Vec<String> {
        self.shots.iter().filter_map(|shot| Some(format!("at {:?}: {}", shot.due, shot.failure()?))).collect()
    }

    /// The latency that this part (0.0 to 1.0) of the answers did not exceed.
    pub fn percentile(&self, part: f64) -> Duration {
        let mut took: Vec<_> = self.shots.iter().filter_map(|s| Some(s.result.as_ref().ok()?.took)).collect();
        took.sort();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = (part * took.len().saturating_sub(1) as f64).ceil() as usize;
        took.get(index).copied().unwrap_or_default()
    }

    pub fn slowest(&self) -> Duration {
        self.percentile(1.0)
    }

    /// How many each Pod answered.
    pub fn by_pod(&self) -> BTreeMap<String, usize> {
        let mut pods = BTreeMap::new();
        for answer in self.shots.iter().filter_map(|shot| shot.result.as_ref().ok()) {
            if answer.status == StatusCode::OK {
                *pods.entry(answer.sample().pod).or_default() += 1;
            }
        }
        pods
    }

    /// Fails the test unless every request was answered with 200.
    pub fn all_answered(&self) -> &Self {
        let failures = self.failures();
        assert!(failures.is_empty(), "{self}; failures: {failures:#?}");
        assert!(!self.shots.is_empty(), "nothing was sent");
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, failed) = (self.shots.len(), self.failures().len());
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|part| self.percentile(part));
        write!(f, "{sent} sent, {failed} failed, p50 {p50:.1?}, p99 {p99:.1?}, slowest {most:.1?}")
    }
}
