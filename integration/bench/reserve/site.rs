//! A Service that goes to zero, and where it stands.

use crate::{
    net::{Answer, Target},
    serving::{Kind, Serving, annotated, condition_of, ksvc},
    support::condition,
};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::ListParams;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Far above what any of it takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks: what is measured is measured by requests, not by these.
const LOOK: Duration = Duration::from_millis(100);

const REVISION_UID: &str = "serving.knative.dev/revisionUID";
const REVISION: &str = "serving.knative.dev/revision";
const ASK: &str = "pilotlight.dev/reserve";

/// What answers while nothing is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Reserve,
    Nothing,
    /// One Pod that always runs.
    Standard,
}

pub struct Site<'a> {
    pub serving: &'a Serving,
    pub name: String,
    pub revision: String,
    pub target: Target,
    rest: Rest,
}

/// What there is of a Revision.
#[derive(Debug)]
pub struct State {
    /// Pods that its autoscaler wants.
    pub wanted: i32,
    pub ready: i32,
    /// No traffic, says the autoscaler.
    pub idle: bool,
    /// Reserves that are ready and among the endpoints.
    pub attached: Vec<Pod>,
}

impl<'a> Site<'a> {
    pub async fn deploy(serving: &'a Serving, name: &str, rest: Rest) -> Self {
        let revision = serving.deploy(&manifest(name, rest, json!({}))).await;
        Self { serving, name: name.to_owned(), revision, target: serving.gateway(name), rest }
    }

    pub async fn state(&self) -> Result<State> {
        let deployment = self.serving.api::<Deployment>().get(&format!("{}-deployment", self.revision)).await?;
        let autoscaler = self.serving.get(Kind::PodAutoscaler, &self.revision).await;
        let uid = self.serving.get(Kind::Revision, &self.revision).await["metadata"]["uid"].clone();
        let uid = uid.as_str().context("a Revision has a UID")?;
        // Among the endpoints, and not the autoscaler's.
        let labels = format!("{REVISION_UID}={uid},!{REVISION}");
        let pods = self.serving.api::<Pod>().list(&ListParams::default().labels(&labels)).await?.items;
        let lives = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && condition(pod, "Ready");
        Ok(State {
            wanted: deployment.spec.replicas.unwrap_or(1),
            ready: deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0),
            idle: condition_of(&autoscaler, "Active") == ("False", "NoTraffic"),
            attached: pods.into_iter().filter(lives).collect(),
        })
    }

    pub async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) -> Result<State> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state().await?;
            if wanted(&state) {
                return Ok(state);
            }
            if Instant::now() > deadline {
                bail!("{}: not within {PATIENCE:?}: {what}; it is at {state:?}", self.revision);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// No standard Pod is wanted, and what is to answer meanwhile is there.
    pub async fn until_at_rest(&self) -> Result<State> {
        let rest = self.rest;
        self.until("at rest", |state| match rest {
            Rest::Reserve => state.wanted == 0 && !state.attached.is_empty(),
            Rest::Nothing => state.wanted == 0 && state.ready == 0,
            Rest::Standard => state.ready > 0,
        })
        .await
    }

    /// A standard Pod answers, and it alone.
    pub async fn until_standing(&self) -> Result<State> {
        self.until("standing", |state| state.ready > 0 && state.attached.is_empty()).await
    }

    /// One GET on a connection of its own; Err unless it is answered with 200.
    pub async fn ask(&self) -> Result<Answer> {
        let answer = self.target.try_get("/").await.map_err(anyhow::Error::msg)?;
        match answer.status.as_u16() {
            200 => Ok(answer),
            code => bail!("{}: {code}: {}", self.name, answer.text()),
        }
    }
}

/// A Service of the sample, with environment variables.
pub fn manifest(name: &str, rest: Rest, env: Value) -> Value {
    let annotations = match rest {
        Rest::Reserve => json!({ ASK: "enabled" }),
        Rest::Nothing => json!({ ASK: "disabled" }),
        Rest::Standard => json!({ "autoscaling.knative.dev/min-scale": "1" }),
    };
    let container = crate::serving::sample(env);
    annotated(ksvc(name, json!({ "containers": [container] })), annotations)
}

/// Whether a reserve gave this answer.
pub fn by_reserve(answer: &Answer) -> bool {
    answer.sample().pod.contains("-reserve-")
}
