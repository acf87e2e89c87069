//! One object each, as a watch showed it, in the words of the machine. Pure.
//!
//! The API server's times are whole seconds, cut off: where a moment is waited for after a change, the time counts
//! at which the change was first seen here, if it is later.

use super::build::{self, Kind, Template};
use super::objects::{PodAutoscaler, Revision, Route};
use super::words::*;
use crate::decide::reserve::{Activity, Attachment, Deleting, Fit, Idle, Life, Reason, Reported, Reserve, size::Needs};
use crate::decide::status::INSTANCE_DOOMED;
use crate::model::ObjectName;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::Deployment, core::v1 as core};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

type Words = BTreeMap<String, String>;

/// What may have been seen already: an answer to a write can be ahead of the watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub uid: String,
    number: u64,
}

impl Version {
    pub fn of(metadata: &ObjectMeta) -> Self {
        let number = metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        Self { uid: metadata.uid.clone().unwrap_or_default(), number }
    }

    /// Whether the other is of the same object, and older. (Versions of a resource can be compared: KEP-5504.)
    pub fn overtakes(&self, other: &Self) -> bool {
        self.uid == other.uid && other.number < self.number
    }
}

#[derive(Clone, Debug)]
pub struct SeenRevision {
    pub name: ObjectName,
    pub version: Version,
    pub deleting: bool,
    pub annotations: Words,
    pub labels: Words,
    pub concurrency: i64,
    pub timeout: SignedDuration,
    pub conditions: Vec<Value>,
    /// Since when no Route sends it traffic.
    pub unrouted_since: Timestamp,
}

impl SeenRevision {
    pub fn of(revision: Revision, unrouted_since: Timestamp) -> Self {
        let Revision { metadata, spec, status } = revision;
        Self {
            name: name(&metadata),
            version: Version::of(&metadata),
            deleting: metadata.deletion_timestamp.is_some(),
            annotations: metadata.annotations.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            concurrency: spec.container_concurrency.unwrap_or(0),
            // Serving's default (config-defaults, revision-timeout-seconds).
            timeout: SignedDuration::from_secs(spec.timeout_seconds.filter(|t| *t > 0).unwrap_or(300)),
            conditions: status.conditions.unwrap_or_default(),
            unrouted_since,
        }
    }

    pub fn active(&self) -> bool {
        self.labels.get(ROUTING_STATE).is_none_or(|state| state == "active")
    }

    /// What was learned of its memory before.
    pub fn needs(&self) -> Needs {
        let number = |key: &str| self.annotations.get(key).and_then(|text| text.parse().ok());
        Needs { seen_bytes: number(MEMORY_SEEN), killed_at_bytes: number(MEMORY_KILLED_AT) }
    }
}

#[derive(Clone, Debug)]
pub struct SeenAutoscaler {
    pub annotations: Words,
    pub initialized: bool,
    pub activity: Activity,
}

impl SeenAutoscaler {
    pub fn of(autoscaler: PodAutoscaler, before: Option<&Self>, now: Timestamp) -> Self {
        let PodAutoscaler { metadata, status } = autoscaler;
        let activity = match status.condition("Active") {
            Some(("True", _, since)) => {
                let known = match before.map(|before| before.activity) {
                    Some(Activity::Active { since }) => since,
                    _ => now,
                };
                Activity::Active { since: since.map_or(known, |since| known.max(since).min(now)) }
            }
            Some(("False", "NoTraffic", since)) => Activity::Idle { since: since.unwrap_or(now) },
            _ => Activity::Starting,
        };
        Self {
            annotations: metadata.annotations.unwrap_or_default(),
            initialized: status.condition("ScaleTargetInitialized").is_some_and(|(status, ..)| status == "True"),
            activity,
        }
    }
}

#[derive(Clone, Debug)]
pub struct SeenDeployment {
    pub wanted: u32,
    pub ready: u32,
    pub ready_since: Option<Timestamp>,
    pub template: Arc<Template>,
}

impl SeenDeployment {
    pub fn of(deployment: Deployment, before: Option<&Self>, now: Timestamp) -> Self {
        let Deployment { spec, status, .. } = deployment;
        let count = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok());
        let ready = count(status.and_then(|status| status.ready_replicas)).unwrap_or(0);
        let since = before.and_then(|before| before.ready_since).unwrap_or(now);
        // Most changes are of the status: the template is the largest part, and stays.
        let template = match before {
            Some(before) if before.template.spec == spec.template => Arc::clone(&before.template),
            _ => Arc::new(Template::new(spec.template)),
        };
        Self { wanted: count(spec.replicas).unwrap_or(1), ready, ready_since: (ready > 0).then_some(since), template }
    }
}

/// A Deployment without Knative that asks for a reserve.
#[derive(Clone, Debug)]
pub struct SeenPlain {
    pub name: ObjectName,
    pub version: Version,
    pub deleting: bool,
    pub annotations: Words,
    pub labels: Words,
    pub scale: SeenDeployment,
    /// Its template was rolled out once.
    pub proven: bool,
    pub conditions: Vec<Value>,
}

impl SeenPlain {
    pub fn of(deployment: Deployment, before: Option<&Self>, now: Timestamp) -> Self {
        let metadata = deployment.metadata.clone();
        let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let conditions: Vec<Value> = conditions.filter_map(|c| serde_json::to_value(c).ok()).collect();
        Self {
            name: name(&metadata),
            version: Version::of(&metadata),
            deleting: metadata.deletion_timestamp.is_some(),
            annotations: metadata.annotations.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            scale: SeenDeployment::of(deployment, before.map(|before| &before.scale), now),
            // The Deployment controller's words for "all of it was there once" and "enough of it is there"
            // (deployment_util.go). The first is not said where progressDeadlineSeconds is as large as it can be.
            proven: before.is_some_and(|before| before.proven)
                || conditions.iter().any(|c| {
                    c["type"] == "Progressing" && c["reason"] == "NewReplicaSetAvailable"
                        || c["type"] == "Available" && c["status"] == "True"
                }),
            conditions,
        }
    }
}

/// What was last reported in a list of conditions.
pub fn reported(conditions: &[Value]) -> Option<Reported> {
    let ours = conditions.iter().find(|c| c["type"] == CONDITION)?;
    let reason = Reason::parse(ours["reason"].as_str()?)?;
    let since = ours["lastTransitionTime"].as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MIN);
    Some(Reported { reason, since })
}

/// What one Route sends to one Revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub revision: ObjectName,
    pub percent: bool,
    pub tagged: bool,
}

pub fn shares(route: &Route) -> Vec<Share> {
    let namespace = route.metadata.namespace.clone().unwrap_or_default();
    let traffic = route.status.traffic.iter().flatten();
    traffic
        .filter_map(|traffic| {
            Some(Share {
                revision: ObjectName::new(&namespace, traffic.revision_name.clone()?),
                percent: traffic.percent.unwrap_or(0) > 0,
                tagged: traffic.tag.as_ref().is_some_and(|tag| !tag.is_empty()),
            })
        })
        .collect()
}

#[derive(Clone, Debug)]
pub struct SeenReserve {
    pub name: ObjectName,
    pub version: Version,
    pub kind: Kind,
    pub owner_uid: String,
    pub owner: String,
    pub build: String,
    pub life: Life,
    pub doomed: bool,
    pub labels: Words,
    attached: bool,
    changed: Timestamp,
    deleting: Option<(Timestamp, i64)>,
    pub ip: Option<IpAddr>,
    pub idle: Idle,
    /// Its limit, if it was killed for want of memory, or that of one before it.
    pub killed_at_bytes: Option<u64>,
}

impl SeenReserve {
    pub fn of(pod: core::Pod, before: Option<&Self>, now: Timestamp) -> Option<Self> {
        let metadata = &pod.metadata;
        let labels = metadata.labels.clone().unwrap_or_default();
        let annotations = metadata.annotations.clone().unwrap_or_default();
        let owner_uid = labels.get(RESERVE_OF)?.clone();
        let version = Version::of(metadata);
        let before = before.filter(|before| before.version.uid == version.uid);
        let created = metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let owners = metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.uid == owner_uid);
        let kind = match owner {
            Some(owner) if owner.kind == Kind::Deployment.as_str() => Kind::Deployment,
            _ => Kind::Revision,
        };
        let owner = owner.map(|owner| owner.name.clone()).unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind);
        let life = match (status.phase.as_deref(), condition("Ready")) {
            (Some("Failed" | "Succeeded"), _) => Life::Lost,
            (_, Some(ready)) if ready.status == "True" => {
                let known = match before.map(|before| before.life) {
                    Some(Life::Ready { since }) => since,
                    _ => now,
                };
                Life::Ready { since: known }
            }
            (_, ready) => {
                let since = ready.and_then(|ready| ready.last_transition_time.as_ref()).map_or(created, |time| time.0);
                Life::Unready { since: since.max(created) }
            }
        };
        let grace = metadata.deletion_grace_period_seconds.unwrap_or(0);
        let deleting = metadata.deletion_timestamp.as_ref().map(|end| {
            let since = end.0.saturating_sub(SignedDuration::from_secs(grace)).unwrap_or(now);
            (since.min(now), grace)
        });
        Some(Self {
            name: name(metadata),
            kind,
            owner,
            build: annotations.get(BUILD).cloned().unwrap_or_default(),
            life,
            // Our word for an instance that the cloud takes back, and Kubernetes' for a Pod that is disrupted otherwise.
            doomed: [INSTANCE_DOOMED, "DisruptionTarget"]
                .into_iter()
                .any(|kind| condition(kind).is_some_and(|c| c.status == "True")),
            attached: labels.get(REVISION_UID) == Some(&owner_uid) || labels.contains_key(ATTACHED),
            changed: annotations.get(CHANGED).and_then(|text| text.parse().ok()).unwrap_or(created),
            deleting,
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            idle: before.map_or(Idle::Unasked, |before| before.idle),
            killed_at_bytes: build::memory_limit(&pod)
                .filter(|_| build::ran_out_of_memory(&pod))
                .max(annotations.get(KILLED_AT).and_then(|text| text.parse().ok())),
            version,
            owner_uid,
            labels,
        })
    }

    pub fn is_deleting(&self) -> bool {
        self.deleting.is_some()
    }

    pub fn show(&self, current: Option<&str>) -> Reserve {
        Reserve {
            name: self.name.name.clone(),
            fit: match current {
                _ if self.doomed => Fit::Doomed,
                Some(current) if current != self.build => Fit::Outdated,
                _ => Fit::Current,
            },
            life: self.life,
            attachment: match self.attached {
                true => Attachment::Attached { since: self.changed },
                false => Attachment::Detached { since: self.changed, idle: self.idle },
            },
            deleting: self.deleting.map(|(since, grace_seconds)| Deleting { since, grace_seconds, idle: self.idle }),
        }
    }
}

pub fn name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
