//! Our words to the API server's: a [`PodStatus`] as a strategic merge patch, and back.

use crate::decide::status::{Condition, Phase, PodStatus, is_ours};
use crate::model::{ContainerKind, ContainerReport, ContainerState, PodUid, Termination};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The patch for pods/status. The uid makes it fail on another Pod of the same name, so that no GET
/// is needed before. Conditions of others are kept: the list merges by type.
pub fn status_patch(uid: &PodUid, status: &PodStatus) -> Value {
    // These lists merge by address (patchMergeKey: ip): another instance's would be added to the old one's.
    let ips = |ip: Option<std::net::IpAddr>| ip.map(|ip| json!([{ "$patch": "replace" }, { "ip": ip }]));
    json!({
        "metadata": { "uid": uid, "annotations": status.annotations },
        "status": {
            "phase": status.phase.as_str(),
            "reason": status.reason,
            "message": status.message,
            "observedGeneration": status.observed_generation,
            "startTime": time(status.start_time),
            "hostIP": status.host_ip,
            "hostIPs": ips(status.host_ip),
            "podIP": status.pod_ip,
            "podIPs": ips(status.pod_ip),
            "conditions": status.conditions.iter().map(|c| json!({
                "type": c.kind,
                "status": if c.status { "True" } else { "False" },
                "reason": c.reason,
                "message": c.message,
                "lastTransitionTime": time(c.since),
                "lastProbeTime": null,
                "observedGeneration": status.observed_generation,
            })).collect::<Vec<_>>(),
            "initContainerStatuses": list(&status.init_containers),
            "containerStatuses": list(&status.containers),
        },
    })
}

/// Null for an empty list: an absent list merges more cheaply than an empty one.
fn list(containers: &[ContainerReport]) -> Option<Vec<Value>> {
    (!containers.is_empty()).then(|| containers.iter().map(container_status).collect())
}

fn container_status(c: &ContainerReport) -> Value {
    let state = match &c.state {
        ContainerState::Waiting { reason, message } => {
            json!({ "waiting": { "reason": reason, "message": Some(message).filter(|m| !m.is_empty()) } })
        }
        ContainerState::Running { started_at } => json!({ "running": { "startedAt": time(*started_at) } }),
        ContainerState::Terminated(t) => json!({ "terminated": terminated(t) }),
    };
    json!({
        "name": c.name,
        "state": state,
        "lastState": c.last.as_ref().map_or(json!({}), |t| json!({ "terminated": terminated(t) })),
        "ready": c.ready,
        "started": c.started,
        "restartCount": c.restart_count,
        "image": c.image,
        "imageID": c.image_id,
        "containerID": c.container_id,
    })
}

fn terminated(t: &Termination) -> Value {
    json!({
        "exitCode": t.exit_code,
        "signal": t.signal,
        "reason": t.reason,
        "message": Some(&t.message).filter(|m| !m.is_empty()),
        "startedAt": t.started_at.map(time),
        "finishedAt": time(t.finished_at),
        "containerID": t.container_id,
    })
}

/// metav1.Time: whole seconds.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the API server has, in our words: what a provider that comes back starts from.
/// None if no node has written a status yet.
pub fn observed_status(pod: &Pod) -> Option<PodStatus> {
    let status = pod.status.as_ref()?;
    let phase = Phase::parse(status.phase.as_deref()?)?;
    let start_time = status.start_time.as_ref()?.0;
    let ip = |text: &Option<String>| text.as_ref().and_then(|t| t.parse().ok());
    let sidecar = |name: &str| {
        let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref());
        init.into_iter().flatten().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let reports = |list: &Option<Vec<ContainerStatus>>, init: bool| {
        list.iter()
            .flatten()
            .map(|c| {
                let kind = match (init, sidecar(&c.name)) {
                    (false, _) => ContainerKind::App,
                    (true, false) => ContainerKind::Init,
                    (true, true) => ContainerKind::Sidecar,
                };
                container_report(c, kind)
            })
            .collect()
    };
    Some(PodStatus {
        phase,
        reason: status.reason.clone(),
        message: status.message.clone(),
        observed_generation: status.observed_generation.unwrap_or(0),
        start_time,
        host_ip: ip(&status.host_ip),
        pod_ip: ip(&status.pod_ip),
        conditions: status
            .conditions
            .iter()
            .flatten()
            .filter(|c| c.type_ != "PodScheduled")
            .map(|c| Condition {
                kind: c.type_.clone(),
                status: c.status == "True",
                reason: c.reason.clone(),
                message: c.message.clone(),
                since: c.last_transition_time.as_ref().map_or(start_time, |t| t.0),
            })
            .collect(),
        init_containers: reports(&status.init_container_statuses, true),
        containers: reports(&status.container_statuses, false),
        annotations: pod
            .metadata
            .annotations
            .iter()
            .flatten()
            .filter(|(key, _)| is_ours(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    })
}

/// Every condition's type and whether it is True: what readiness gates look at.
pub fn gates(pod: &Pod) -> BTreeMap<String, bool> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().map(|c| (c.type_.clone(), c.status == "True")).collect()
}

fn container_report(c: &ContainerStatus, kind: ContainerKind) -> ContainerReport {
    let termination = |t: &k8s_openapi::api::core::v1::ContainerStateTerminated| Termination {
        exit_code: t.exit_code,
        signal: t.signal,
        reason: t.reason.clone().unwrap_or_default(),
        message: t.message.clone().unwrap_or_default(),
        started_at: t.started_at.as_ref().map(|t| t.0),
        finished_at: t.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        container_id: t.container_id.clone(),
    };
    let state = c.state.as_ref();
    ContainerReport {
        name: c.name.clone(),
        kind,
        state: if let Some(running) = state.and_then(|s| s.running.as_ref()) {
            let started_at = running.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
            ContainerState::Running { started_at }
        } else if let Some(t) = state.and_then(|s| s.terminated.as_ref()) {
            ContainerState::Terminated(termination(t))
        } else {
            let waiting = state.and_then(|s| s.waiting.clone()).unwrap_or_default();
            ContainerState::Waiting {
                reason: waiting.reason.unwrap_or_default(),
                message: waiting.message.unwrap_or_default(),
            }
        },
        last: c.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(termination),
        restart_count: u32::try_from(c.restart_count).unwrap_or(0),
        container_id: c.container_id.clone(),
        image: c.image.clone(),
        image_id: c.image_id.clone(),
        started: c.started.unwrap_or(false),
        ready: c.ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read as ours is written back with every status: a user's wish would be undone by it.
    #[test]
    fn of_the_annotations_only_those_that_we_write_are_taken_for_ours() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "annotations": {
                "pilotlight.dev/instance-id": "i-1", "pilotlight.dev/moved": "1", "pilotlight.dev/move": "2",
                "pilotlight.dev/max-hourly-price": "0.1", "other.example/x": "y",
            } },
            "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z" },
        }))
        .expect("a Pod");
        let status = observed_status(&pod).expect("a status");
        let keys: Vec<&str> = status.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["pilotlight.dev/instance-id", "pilotlight.dev/moved"]);
    }
}
