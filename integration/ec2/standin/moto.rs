//! moto: the process, and questions to it.
//!
//! It takes seconds to list hundreds of instances, so what it says of each is kept until a call that may change that was
//! made: every one whose name is not Describe… or Get…, launches and terminations excepted, whose states the stand-in
//! knows better anyway.

use super::{
    describe::{Listed, listed},
    params::Params,
    refusal::Refusal,
    xml,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};
use xmltree::Element;

/// It loads for two seconds on a free machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Asked about at once: so its other callers get a turn.
const MOST_AT_ONCE: usize = 100;

pub struct Moto {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    region: String,
    /// How many calls may have changed what it says of instances.
    changes: AtomicU64,
    /// That, by id, and how many changes it shows.
    kept: tokio::sync::Mutex<(u64, BTreeMap<String, Listed>)>,
    spent: Mutex<BTreeMap<String, Spent>>,
    /// Ends with this.
    _process: Child,
}

/// What moto took of the answers' times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spent {
    pub calls: u64,
    pub millis: u64,
}

impl Moto {
    pub async fn start(program: &Path, address: SocketAddr, region: &str, log: &Path) -> Result<Self, String> {
        let out = File::create(log).map_err(|error| format!("can't write {}: {error}", log.display()))?;
        let err = out.try_clone().map_err(|error| format!("can't write {}: {error}", log.display()))?;
        // It ends with this process, also when that is killed.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()])
            // Hundreds of images that nobody asks for.
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("can't start setpriv (Debian: util-linux): {error}"))?;
        let began = Instant::now();
        loop {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                break;
            }
            if let Ok(Some(status)) = process.try_wait() {
                return Err(format!("moto (scripts/tools moto) ended at its start, {status}: see {}", log.display()));
            }
            if began.elapsed() > START_LIMIT {
                return Err(format!("moto does not listen on {address}: see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self {
            client,
            address,
            region: region.to_owned(),
            changes: AtomicU64::new(0),
            kept: tokio::sync::Mutex::default(),
            spent: Mutex::default(),
            _process: process,
        })
    }

    /// By action, since it was last forgotten.
    pub fn spent(&self) -> MutexGuard<'_, BTreeMap<String, Spent>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept of its answers is out of date.
    pub fn look_again(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// What it says of these instances, all of which it must know.
    pub async fn instances(&self, ids: &[String]) -> Result<Vec<Listed>, Refusal> {
        // Who comes meanwhile waits, and finds them.
        let mut kept = self.kept.lock().await;
        let changes = self.changes.load(Ordering::SeqCst);
        if kept.0 != changes {
            *kept = (changes, BTreeMap::new());
        }
        let unknown: Vec<&String> = ids.iter().filter(|id| !kept.1.contains_key(*id)).collect();
        for ids in unknown.chunks(MOST_AT_ONCE) {
            let mut ask = Params::parse("Action=DescribeInstances&Version=2016-11-15");
            for (n, id) in ids.iter().enumerate() {
                ask.set(format!("InstanceId.{}", n + 1), *id);
            }
            let found = listed(&self.query(&ask).await?);
            kept.1.extend(found.into_iter().map(|listed| (listed.id.clone(), listed)));
        }
        Ok(ids.iter().filter_map(|id| kept.1.get(id).cloned()).collect())
    }

    /// The status and text of its answer, by EC2's protocol.
    async fn ask(&self, params: &Params) -> Result<(u16, String), Refusal> {
        self.post("ec2", &[("content-type", "application/x-www-form-urlencoded")], params.encode()).await
    }

    /// The same by AWS's JSON 1.0.
    pub async fn json(&self, service: &str, target: &str, body: &str) -> Result<(u16, String), Refusal> {
        let headers = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target)];
        self.post(service, &headers, body.to_owned()).await
    }

    async fn post(&self, service: &str, headers: &[(&str, &str)], body: String) -> Result<(u16, String), Refusal> {
        let failed = |what: String| Refusal::new("InternalError", format!("moto: {what}"));
        // It takes the service and region from the credential's scope, and checks nothing.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=standin/20260101/{}/{service}/aws4_request, SignedHeaders=host, Signature=0",
            self.region
        );
        let request = http::Request::post(format!("http://{}/", self.address)).header("authorization", authorization);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| failed(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| failed(error.to_string()))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Its answer, as text and read; what it refuses is refused.
    pub async fn query(&self, params: &Params) -> Result<Element, Refusal> {
        self.query_text(params).await.map(|(root, _)| root)
    }

    pub async fn query_text(&self, params: &Params) -> Result<(Element, String), Refusal> {
        let began = Instant::now();
        let answer = self.ask(params).await;
        let action = params.action();
        // Also when no answer came: the call may have been heard.
        let harmless = ["RunInstances", "TerminateInstances"].contains(&action);
        if !harmless && !action.starts_with("Describe") && !action.starts_with("Get") {
            self.look_again();
        }
        {
            let mut spent = self.spent();
            let spent = spent.entry(action.to_owned()).or_default();
            spent.calls += 1;
            spent.millis += u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        let (status, text) = answer?;
        let failed = |what: String| Refusal::new("InternalError", format!("moto, {}: {what}", params.action()));
        let root = xml::parse(&text).map_err(&failed)?;
        if status == 200 {
            return Ok((root, text));
        }
        let at = |name: &str| xml::text(&root, &format!("Errors/Error/{name}"));
        match (at("Code"), at("Message")) {
            (Some(code), Some(message)) => Err(Refusal { code, message, status }),
            _ => Err(failed(format!("status {status}"))),
        }
    }
}
