//! Carries effects out: one request each, in their order, and no choice made.
//!
//! No GET before a write: the UID in it makes it fail on a successor of the same name, and what the API server
//! answers goes back as if the watch had shown it. Nothing is lost by failing anywhere: the watch shows what was
//! reached, and the machine asks again for the rest.

use super::build::{self, Identity, Kind};
use super::idle;
use super::objects::Revision;
use super::seen::SeenReserve;
use super::words::*;
use super::world::Subject;
use crate::decide::reserve::{
    Effect, Grace, Idle, Report, Truth,
    size::{Advice, Needs},
};
use crate::kube::KubeError;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What became known by doing it.
pub enum Learned {
    Revision(Box<Revision>),
    Deployment(Box<Deployment>),
    Pod(Box<Pod>),
    Idle { pod: String, pod_uid: String, idle: Idle },
}

/// For people: an event on the Revision or Deployment.
struct Said {
    warning: bool,
    reason: &'static str,
    message: String,
}

pub struct Outcome {
    pub learned: Vec<Learned>,
    /// What was not reached, each by its request.
    pub failures: Vec<KubeError>,
}

pub async fn carry_out(client: &Client, subject: &Subject, effects: &[Effect]) -> Outcome {
    let mut job =
        Job { client, subject, said: Vec::new(), outcome: Outcome { learned: Vec::new(), failures: Vec::new() } };
    if let Some(needs) = subject.learned {
        job.write_down(needs).await;
    }
    let mut reported = true;
    for effect in effects {
        // That a try failed must be known before its traces are removed.
        if !reported && matches!(effect, Effect::Delete { .. }) {
            break;
        }
        match job.one(effect).await {
            Ok(()) => {}
            Err(error) => {
                reported &= !matches!(effect, Effect::Report(_));
                job.outcome.failures.push(error);
            }
        }
    }
    job.tell().await;
    job.outcome
}

struct Job<'a> {
    client: &'a Client,
    subject: &'a Subject,
    said: Vec<Said>,
    outcome: Outcome,
}

impl Job<'_> {
    async fn one(&mut self, effect: &Effect) -> Result<(), KubeError> {
        match effect {
            Effect::SetHold => {
                let before = self.annotation(RETENTION).unwrap_or_default().to_owned();
                self.annotate(json!({ RETENTION: HOLD, HELD: before })).await
            }
            Effect::ClearHold => {
                let before = self.annotation(HELD).filter(|before| !before.is_empty()).map(str::to_owned);
                self.annotate(json!({ RETENTION: before, HELD: null })).await
            }
            Effect::Create { name, attached, why } => {
                if self.create(name, *attached).await? {
                    self.say("ReserveCreated", format!("reserve {name} is started: {why}"));
                }
                Ok(())
            }
            Effect::Attach { name, why } => {
                self.label(name, true).await?;
                self.say("ReserveAttached", format!("reserve {name} answers from now on: {why}"));
                Ok(())
            }
            Effect::Detach { name, why } => {
                self.label(name, false).await?;
                self.say("ReserveDetached", format!("reserve {name} gets no new request from now on: {why}"));
                Ok(())
            }
            Effect::CheckIdle { name } => {
                let Some(reserve) = self.reserve(name) else { return Ok(()) };
                let (pod, pod_uid) = (reserve.name.name.clone(), reserve.version.uid.clone());
                let idle = match self.subject.kind {
                    Kind::Revision => idle::ask(reserve.ip, Timestamp::now()).await,
                    // Without queue-proxy there is nobody to ask.
                    Kind::Deployment => Idle::Silent { at: Timestamp::now() },
                };
                self.outcome.learned.push(Learned::Idle { pod, pod_uid, idle });
                Ok(())
            }
            Effect::Delete { name, grace, why } => {
                self.delete(name, *grace).await?;
                // Deleting it with less grace is no news.
                if self.reserve(name).is_none_or(SeenReserve::is_deleting) {
                    return Ok(());
                }
                self.say("ReserveReleased", format!("reserve {name} is released: {why}"));
                Ok(())
            }
            Effect::Report(report) => self.report(report.as_ref()).await,
        }
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.subject.revision.as_ref()?.annotations.get(key).map(String::as_str)
    }

    fn reserve(&self, name: &str) -> Option<&SeenReserve> {
        self.subject.reserves.iter().find(|reserve| reserve.name.name == name)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.subject.name.namespace)
    }

    fn revisions(&self) -> Api<Revision> {
        Api::namespaced(self.client.clone(), &self.subject.name.namespace)
    }

    async fn annotate(&mut self, annotations: Value) -> Result<(), KubeError> {
        let patch = json!({ "metadata": { "uid": self.subject.uid, "annotations": annotations } });
        let name = &self.subject.name.name;
        match self.revisions().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(revision) => self.outcome.learned.push(Learned::Revision(Box::new(revision))),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(KubeError::new("annotate Revision", self.subject.name.to_string(), &error)),
        }
        Ok(())
    }

    async fn write_down(&mut self, needs: Needs) {
        let known = self.subject.revision.as_ref().map(|revision| revision.needs()).unwrap_or_default();
        if let Some(limit) = needs.killed_at_bytes.filter(|limit| known.killed_at_bytes.is_none_or(|k| k < *limit)) {
            let message = format!("a reserve was killed for want of memory at {} MiB: the next gets more", limit >> 20);
            self.said.push(Said { warning: true, reason: "ReserveOutOfMemory", message });
        }
        let text = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string());
        let words = json!({ MEMORY_SEEN: text(needs.seen_bytes), MEMORY_KILLED_AT: text(needs.killed_at_bytes) });
        if let Err(error) = self.annotate(words).await {
            self.outcome.failures.push(error);
        }
    }

    /// Whether it is there.
    async fn create(&mut self, name: &str, attached: bool) -> Result<bool, KubeError> {
        let Some((template, plan)) = &self.subject.plan else { return Ok(false) };
        let who = Identity {
            namespace: &self.subject.name.namespace,
            kind: self.subject.kind,
            owner: &self.subject.name.name,
            owner_uid: &self.subject.uid,
            name,
            attached,
            now: Timestamp::now(),
        };
        let pod = build::pod(template, plan, &who);
        match self.pods().create(&PostParams::default(), &pod).await {
            Ok(pod) => self.outcome.learned.push(Learned::Pod(Box::new(pod))),
            // Made before, and not yet seen.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => return Ok(true),
            // With its namespace its owner goes too, and then it is wanted no more.
            Err(error) if in_ending_namespace(&error) => return Ok(false),
            Err(error) => {
                let error = KubeError::new("create Pod", name, &error);
                let message = error.to_string();
                self.said.push(Said { warning: true, reason: "ReserveNotCreated", message });
                return Err(error);
            }
        }
        if let Some(advice) = &plan.sized.advice {
            let message = advise(advice);
            self.said.push(Said { warning: true, reason: "ReserveMemory", message });
        }
        Ok(true)
    }

    async fn label(&mut self, name: &str, attach: bool) -> Result<(), KubeError> {
        let Some(reserve) = self.reserve(name) else { return Ok(()) };
        let labels: BTreeMap<String, Option<String>> = match (&self.subject.plan, self.subject.kind) {
            (_, Kind::Revision) => [(REVISION_UID.to_owned(), attach.then(|| self.subject.uid.clone()))].into(),
            (Some((template, _)), kind) if attach => {
                let labels = build::attaching(template, kind, &self.subject.uid).into_iter();
                labels.map(|(key, value)| (key, Some(value))).collect()
            }
            // Whatever it bears, of whichever template: no Service finds it by what is left.
            _ => reserve.labels.keys().filter(|key| !build::stays(key)).map(|key| (key.clone(), None)).collect(),
        };
        let patch = json!({ "metadata": {
            "uid": reserve.version.uid,
            "labels": labels,
            "annotations": { CHANGED: Timestamp::now().to_string() },
        } });
        match self.pods().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(pod) => self.outcome.learned.push(Learned::Pod(Box::new(pod))),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(KubeError::new("label Pod", name, &error)),
        }
        Ok(())
    }

    async fn delete(&mut self, name: &str, grace: Grace) -> Result<(), KubeError> {
        let Some(reserve) = self.reserve(name) else { return Ok(()) };
        let params = DeleteParams {
            grace_period_seconds: match grace {
                Grace::None => Some(0),
                Grace::Idle => Some(1),
                Grace::Full => None,
            },
            preconditions: Some(Preconditions { uid: Some(reserve.version.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.pods().delete(name, &params).await {
            Ok(answer) => {
                if let Some(pod) = answer.left() {
                    self.outcome.learned.push(Learned::Pod(Box::new(pod)));
                }
            }
            Err(error) if gone(&error) => {}
            Err(error) => return Err(KubeError::new("delete Pod", name, &error)),
        }
        Ok(())
    }

    /// The condition, beside Serving's own. Addressed by its place, with a test that it is still there: a merge
    /// would replace all conditions, and undo what Serving wrote meanwhile.
    async fn report(&mut self, report: Option<&Report>) -> Result<(), KubeError> {
        let Some(conditions) = &self.subject.conditions else { return Ok(()) };
        let place = conditions.iter().position(|condition| condition["type"] == CONDITION);
        let value = report.map(|report| condition(self.subject.kind, report, Timestamp::now()));
        let patch = match (place, value) {
            (None, None) => return Ok(()),
            (Some(place), value) => {
                let path = format!("/status/conditions/{place}");
                let test = json!({ "op": "test", "path": format!("{path}/type"), "value": CONDITION });
                match value {
                    Some(value) => json!([test, { "op": "replace", "path": path, "value": value }]),
                    None => json!([test, { "op": "remove", "path": path }]),
                }
            }
            (None, Some(value)) if conditions.is_empty() => {
                // Its own controller has not begun with it yet.
                let message = format!("nothing to add {} to", value["reason"]);
                tracing::debug!(revision = %self.subject.name, message, "not reported yet");
                return Ok(());
            }
            (None, Some(value)) => json!([{ "op": "add", "path": "/status/conditions/-", "value": value }]),
        };
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("operations of these shapes are valid");
        let name = &self.subject.name.name;
        let (params, patch) = (PatchParams::default(), Patch::<()>::Json(patch));
        let written = match self.subject.kind {
            Kind::Revision => {
                self.revisions().patch_status(name, &params, &patch).await.map(|r| Learned::Revision(Box::new(r)))
            }
            Kind::Deployment => {
                let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.subject.name.namespace);
                deployments.patch_status(name, &params, &patch).await.map(|d| Learned::Deployment(Box::new(d)))
            }
        };
        match written {
            Ok(learned) => self.outcome.learned.push(learned),
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(KubeError::new("write a condition of", self.subject.name.to_string(), &error)),
        }
        // Serving writes all conditions as it knew them, so ours may have to be written again.
        if let Some(report) = report.filter(|report| Some(report.reason) != self.subject.told) {
            let warning = report.reason.is_warning();
            self.said.push(Said { warning, reason: report.reason.as_str(), message: report.message.clone() });
        }
        Ok(())
    }

    fn say(&mut self, reason: &'static str, message: String) {
        self.said.push(Said { warning: false, reason, message });
    }

    /// Events are for people: one that cannot be written is logged, and not tried again.
    async fn tell(&mut self) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.subject.name.namespace);
        for (index, said) in (0_i64..).zip(std::mem::take(&mut self.said)) {
            let Said { warning, reason, message } = said;
            tracing::info!(revision = %self.subject.name, reason, message, "reserve");
            let now = Timestamp::now();
            let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let name = &self.subject.name;
            let event: Event = serde_json::from_value(json!({
                "metadata": {
                    // client-go's names: the object's name and the time in hexadecimal nanoseconds.
                    "name": format!("{}.{:x}", name.name, now.as_nanosecond() + i128::from(index)),
                    "namespace": name.namespace,
                },
                "involvedObject": {
                    "apiVersion": self.subject.kind.api_version(),
                    "kind": self.subject.kind.as_str(),
                    "namespace": name.namespace,
                    "name": name.name,
                    "uid": self.subject.uid,
                },
                "type": if warning { "Warning" } else { "Normal" },
                "reason": reason,
                "message": &message[..message.floor_char_boundary(1024)],
                "source": { "component": "pilotlight" },
                "reportingComponent": "pilotlight",
                "firstTimestamp": at,
                "lastTimestamp": at,
                "count": 1,
            }))
            .expect("an event of this shape is valid");
            if let Err(error) = events.create(&PostParams::default(), &event).await {
                let why = crate::kube::why(&error);
                tracing::debug!(revision = %name, reason, why, "an event was not written");
            }
        }
    }
}

fn condition(kind: Kind, report: &Report, now: Timestamp) -> Value {
    let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut condition = json!({
        "type": CONDITION,
        "status": match report.reason.truth() {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        },
        "reason": report.reason.as_str(),
        "message": report.message,
        "lastTransitionTime": at,
    });
    match kind {
        // Anything but Info would count for the Revision's own readiness (knative.dev/pkg/apis/condition_set.go).
        Kind::Revision => condition["severity"] = json!("Info"),
        Kind::Deployment => condition["lastUpdateTime"] = json!(at),
    }
    condition
}

fn advise(advice: &Advice) -> String {
    let mi = |bytes: u64| bytes >> 20;
    match advice {
        Advice::Raised { from_bytes, floor_bytes } => format!(
            "the service was seen to need more memory than its reserve would have: {} MiB instead of {} MiB",
            mi(*floor_bytes),
            mi(*from_bytes)
        ),
        Advice::TooSmall { largest_bytes, floor_bytes } => format!(
            "the reserve would not fit the service, which was seen to need {} MiB: it gets the most that the policy \
             allows, {} MiB",
            mi(*floor_bytes),
            mi(*largest_bytes)
        ),
    }
}

/// The API server makes nothing more in a namespace that is being deleted, and says so by this cause (NamespaceLifecycle).
fn in_ending_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// It does not exist, or is another one of the same name.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}
