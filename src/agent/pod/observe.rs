//! What the runtime knows of the Pod, read into the words of `decide::containers`.
//!
//! A list of sandboxes and a list of containers each time; the details of a container only when its
//! state has changed, since what has exited stays as it is, but for its first moments (`may_be_out_of_memory`).

use super::{
    cri::{CriClient, CriError},
    labels, messages,
};
use crate::{
    decide::containers::{Attempt, AttemptState, Sandbox},
    model::{PodUid, Termination},
};
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use std::{collections::HashMap, net::IpAddr, path::Path};

/// As the shell says SIGKILL: 128 + 9.
const KILLED: i32 = 137;
/// How long an end may yet be told otherwise.
const SETTLES: SignedDuration = SignedDuration::from_secs(2);

/// Of one Pod, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub sandboxes: Vec<Sandbox>,
    pub attempts: Vec<Attempt>,
    /// The newest ready sandbox: when it was created, and its address.
    pub ready: Option<ReadySandbox>,
}

#[derive(Clone, Debug)]
pub(super) struct ReadySandbox {
    pub id: String,
    pub created_at: Timestamp,
    pub ip: Option<IpAddr>,
}

impl Seen {
    /// The state of things now; details of what has not changed are taken from `self`.
    pub async fn refresh(self, client: &CriClient, pod: &PodUid, pod_logs: &Path) -> Result<Self, (Self, CriError)> {
        let now = Timestamp::now();
        let wanted = [(labels::POD_UID, pod.as_str())];
        let lists = tokio::try_join!(client.sandboxes(&wanted), client.containers(&wanted));
        let (sandboxes, containers) = match lists {
            Ok(lists) => lists,
            Err(error) => return Err((self, error)),
        };
        let ready = match self.ready_of(client, &sandboxes).await {
            Ok(ready) => ready,
            Err(error) => return Err((self, error)),
        };
        let known: HashMap<&str, &Attempt> =
            self.attempts.iter().map(|attempt| (attempt.id.as_str(), attempt)).collect();
        let mut attempts = Vec::with_capacity(containers.len());
        for container in &containers {
            let same = known
                .get(container.id.as_str())
                .filter(|attempt| is_state(&attempt.state, container.state()) && !may_be_out_of_memory(attempt, now));
            if let Some(attempt) = same {
                attempts.push((*attempt).clone());
                continue;
            }
            match client.container_status(&container.id).await {
                Ok(status) => attempts.push(attempt(container, &status, pod_logs)),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err((self, error)),
            }
        }
        let sandboxes = sandboxes.iter().map(sandbox).collect();
        Ok(Self { sandboxes, attempts, ready })
    }

    /// What was read of an end may yet be told otherwise: look again soon.
    pub fn is_unsettled(&self, now: Timestamp) -> bool {
        self.attempts.iter().any(|attempt| may_be_out_of_memory(attempt, now))
    }

    async fn ready_of(&self, client: &CriClient, list: &[cri::PodSandbox]) -> Result<Option<ReadySandbox>, CriError> {
        let newest = list.iter().max_by_key(|sandbox| attempt_of(sandbox));
        let Some(sandbox) = newest.filter(|sandbox| sandbox.state() == cri::PodSandboxState::SandboxReady) else {
            return Ok(None);
        };
        if let Some(known) = self.ready.as_ref().filter(|known| known.id == sandbox.id) {
            return Ok(Some(known.clone()));
        }
        let status = client.sandbox_status(&sandbox.id).await?;
        let ip = status.network.and_then(|network| network.ip.parse().ok());
        let created_at = timestamp(sandbox.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Some(ReadySandbox { id: sandbox.id.clone(), created_at, ip }))
    }
}

fn attempt_of(sandbox: &cri::PodSandbox) -> u32 {
    sandbox.metadata.as_ref().map(|metadata| metadata.attempt).unwrap_or_default()
}

fn sandbox(sandbox: &cri::PodSandbox) -> Sandbox {
    Sandbox {
        id: sandbox.id.clone(),
        attempt: attempt_of(sandbox),
        ready: sandbox.state() == cri::PodSandboxState::SandboxReady,
    }
}

fn is_state(state: &AttemptState, now: cri::ContainerState) -> bool {
    match state {
        AttemptState::Created => now == cri::ContainerState::ContainerCreated,
        AttemptState::Running { .. } => now == cri::ContainerState::ContainerRunning,
        AttemptState::Exited(_) => now == cri::ContainerState::ContainerExited,
        AttemptState::Unknown => now == cri::ContainerState::ContainerUnknown,
    }
}

/// containerd hears that memory ran out and that the process ended in two ways, and in either order; until the first
/// has come too, an end for want of memory is an `Error` (TaskOOM in its internal/cri/server/events.go).
fn may_be_out_of_memory(attempt: &Attempt, now: Timestamp) -> bool {
    let AttemptState::Exited(end) = &attempt.state else { return false };
    end.exit_code == KILLED && end.reason == "Error" && now.duration_since(end.finished_at) < SETTLES
}

fn attempt(container: &cri::Container, status: &cri::ContainerStatus, pod_logs: &Path) -> Attempt {
    let metadata = container.metadata.clone().unwrap_or_default();
    let annotation = |key: &str| container.annotations.get(key).map(String::as_str);
    let created_at = timestamp(container.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    // The state of the status, not of the list: it may have moved on since.
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => AttemptState::Created,
        cri::ContainerState::ContainerRunning => {
            AttemptState::Running { started_at: timestamp(status.started_at).unwrap_or(created_at) }
        }
        cri::ContainerState::ContainerExited => AttemptState::Exited(termination(container, status, pod_logs)),
        cri::ContainerState::ContainerUnknown => AttemptState::Unknown,
    };
    Attempt {
        id: container.id.clone(),
        name: metadata.name,
        sandbox: container.pod_sandbox_id.clone(),
        number: annotation(labels::CONTAINER_RESTART_COUNT).and_then(|n| n.parse().ok()).unwrap_or(metadata.attempt),
        hash: annotation(labels::CONTAINER_HASH).unwrap_or_default().to_owned(),
        backoff_seconds: annotation(labels::BACKOFF_SECONDS).and_then(|n| n.parse().ok()).unwrap_or_default(),
        created_at,
        image_id: status.image_ref.clone(),
        state,
    }
}

fn termination(container: &cri::Container, status: &cri::ContainerStatus, pod_logs: &Path) -> Termination {
    let finished_at = timestamp(status.finished_at).unwrap_or_else(Timestamp::now);
    let message = match messages::of(status, pod_logs) {
        text if text.is_empty() => status.message.clone(),
        text => text,
    };
    Termination {
        exit_code: status.exit_code,
        signal: None,
        reason: status.reason.clone(),
        message,
        started_at: timestamp(status.started_at),
        finished_at,
        container_id: Some(format!("containerd://{}", container.id)),
    }
}

/// CRI's nanoseconds; 0 means never.
pub(super) fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_code: i32, reason: &str) -> Attempt {
        let container = cri::Container::default();
        let status = cri::ContainerStatus {
            state: cri::ContainerState::ContainerExited.into(),
            exit_code,
            reason: reason.to_owned(),
            finished_at: 1_000_000_000,
            ..Default::default()
        };
        attempt(&container, &status, Path::new("/none"))
    }

    #[test]
    fn a_killed_container_s_end_is_read_again_for_a_while_as_memory_may_have_run_out() {
        let after = |millis: i64| Timestamp::from_millisecond(1000 + millis).expect("a time");
        assert!(may_be_out_of_memory(&ended(137, "Error"), after(0)));
        assert!(may_be_out_of_memory(&ended(137, "Error"), after(1999)));
        assert!(!may_be_out_of_memory(&ended(137, "Error"), after(2000)), "by now it has been told");
        assert!(!may_be_out_of_memory(&ended(137, "OOMKilled"), after(0)), "it has been told");
        assert!(!may_be_out_of_memory(&ended(1, "Error"), after(0)), "it ended by itself");
    }
}
