//! The stand-in for EC2, asked from within the cluster's network.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ADDRESS: &str = "http://10.70.0.1:15000";
/// EC2's limits, a launch call's 1.5 s, 5 s of `pending`, a boot of 10 to 14 s.
const API_MILLIS: u64 = 1500;
const PENDING_MILLIS: u64 = 5000;
const BOOT_MILLIS: [u64; 2] = [10_000, 14_000];
/// Those of earlier runs are no burden.
const TERMINATED_MILLIS: u64 = 5000;
/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct StandIn(Client<HttpConnector, Full<Bytes>>);

/// What was asked of EC2 since it was last forgotten.
#[derive(Clone, Debug)]
pub struct Calls(Value);

impl Calls {
    pub fn of(&self, action: &str) -> u64 {
        self.0["actions"][format!("ec2:{action}")]["calls"].as_u64().unwrap_or(0)
    }

    /// RunInstances and CreateFleet.
    pub fn launches(&self) -> u64 {
        self.of("RunInstances") + self.of("CreateFleet")
    }

    /// Of all actions.
    pub fn throttles(&self) -> u64 {
        let actions = self.0["actions"].as_object();
        actions.into_iter().flatten().filter_map(|(_, count)| count["throttled"].as_u64()).sum()
    }

    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or(0)
    }

    /// What moto took, in seconds: for this action, or for all.
    pub fn moto(&self, action: Option<&str>) -> f64 {
        let spent = self.0["moto"].as_object();
        let of = spent.into_iter().flatten().filter(|(name, _)| action.is_none_or(|action| action == *name));
        of.filter_map(|(_, spent)| spent["millis"].as_u64()).sum::<u64>() as f64 / 1000.0
    }

    pub fn json(&self) -> &Value {
        &self.0
    }
}

impl StandIn {
    pub fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    /// Delays, full buckets, nothing counted.
    pub async fn begin(&self) -> Result<()> {
        let script = json!({
            "limits": true, "launchMillis": API_MILLIS, "pendingMillis": PENDING_MILLIS, "bootMillis": BOOT_MILLIS,
            "terminatedMillis": TERMINATED_MILLIS,
        });
        self.ask(Method::PUT, "/standin/script", &script.to_string()).await?;
        self.ask(Method::DELETE, "/standin/calls", "").await.map(drop)
    }

    /// What no launch can be faster than.
    pub fn least_seconds() -> f64 {
        (API_MILLIS + PENDING_MILLIS + BOOT_MILLIS[0]) as f64 / 1000.0
    }

    pub async fn calls(&self) -> Result<Calls> {
        Ok(Calls(serde_json::from_str(&self.ask(Method::GET, "/standin/calls", "").await?)?))
    }

    pub async fn facts(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(Method::GET, "/standin/facts", "").await?)?)
    }

    /// EC2's API. The stand-in checks no signature of it, but the key.
    pub async fn api(&self, request: &str) -> Result<String> {
        self.ask(Method::POST, "/", request).await
    }

    /// Waits until none of the instances costs anything any more.
    pub async fn until_nothing_is_left(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all: Vec<Value> = serde_json::from_str(&self.ask(Method::GET, "/standin/instances", "").await?)?;
            let left = all.iter().filter(|instance| instance["state"] != "terminated").count();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{left} instances are left");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<String> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{ADDRESS}{path}"))
            .header("authorization", "AWS4-HMAC-SHA256 Credential=standin/20260101/us-east-1/ec2/aws4_request")
            .body(Full::new(Bytes::from(body.to_owned())))?;
        let response = self.0.request(request).await.context("the stand-in for EC2 (scripts/standin up)")?;
        let status = response.status();
        let text = String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned();
        if !status.is_success() {
            bail!("the stand-in for EC2 answered {path} with {status}: {text}");
        }
        Ok(text)
    }
}
