//! What tunnels ask of the runtime: which container a name means, streaming, usage.

use super::{ASK, CriClient, CriError, call};
use crate::{
    agent::pod::labels,
    model::{ContainerStats, PodStats, PodUid, Streams},
};
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use std::path::{Path, PathBuf};

/// Which start of a container is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that runs now (exec, attach).
    Running,
    /// The newest, running or not (logs).
    Newest,
    /// The one before the newest (`logs --previous`).
    Previous,
}

/// A container that was found by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    /// The restart count: its log is `<attempt>.log`.
    pub attempt: u32,
    pub running: bool,
}

impl Found {
    /// Where its log is, under the directory of one Pod's logs (`<root>/<namespace>_<name>_<uid>`).
    pub fn log_path(&self, pod_logs: &Path, container: &str) -> PathBuf {
        pod_logs.join(container).join(format!("{}.log", self.attempt))
    }
}

impl CriClient {
    /// The container behind a name; None: there is none such (any more).
    pub async fn find(&self, pod: &PodUid, container: &str, which: Which) -> Result<Option<Found>, CriError> {
        let wanted = [(labels::POD_UID, pod.as_str()), (labels::CONTAINER_NAME, container)];
        let mut found: Vec<Found> = self
            .containers(&wanted)
            .await?
            .into_iter()
            .map(|container| Found {
                running: container.state() == cri::ContainerState::ContainerRunning,
                attempt: container.metadata.map(|metadata| metadata.attempt).unwrap_or_default(),
                id: container.id,
            })
            .collect();
        found.sort_by_key(|container| std::cmp::Reverse(container.attempt));
        Ok(match which {
            Which::Running => found.into_iter().find(|container| container.running),
            Which::Newest => found.into_iter().next(),
            Which::Previous => found.into_iter().nth(1),
        })
    }

    /// The URL of the runtime's streaming server for one exec: good once, for a minute.
    pub async fn exec(&self, id: &str, command: &[String], streams: Streams) -> Result<String, CriError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request =
            cri::ExecRequest { container_id: id.to_owned(), cmd: command.to_vec(), tty, stdin, stdout, stderr };
        Ok(call!(self.runtime, exec, request, ASK, id)?.url)
    }

    pub async fn attach(&self, id: &str, streams: Streams) -> Result<String, CriError> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request = cri::AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
        Ok(call!(self.runtime, attach, request, ASK, id)?.url)
    }

    /// None: the Pod has no sandbox that is ready.
    pub async fn port_forward(&self, pod: &PodUid, ports: &[u16]) -> Result<Option<String>, CriError> {
        let sandboxes = self.sandboxes(&[(labels::POD_UID, pod.as_str())]).await?;
        let ready = sandboxes.into_iter().find(|sandbox| sandbox.state() == cri::PodSandboxState::SandboxReady);
        let Some(sandbox) = ready else { return Ok(None) };
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
        Ok(Some(call!(self.runtime, port_forward, request, ASK, sandbox.id)?.url))
    }

    /// What the Pod's running containers use.
    pub async fn stats(&self, pod: &PodUid) -> Result<PodStats, CriError> {
        let wanted = [(labels::POD_UID, pod.as_str())];
        let filter = cri::ContainerStatsFilter { label_selector: super::selector(&wanted), ..Default::default() };
        let request = cri::ListContainerStatsRequest { filter: Some(filter) };
        let answer = call!(self.runtime, list_container_stats, request, ASK, pod)?;
        let mut containers = Vec::with_capacity(answer.stats.len());
        for stats in answer.stats {
            let (Some(attributes), Some(cpu), Some(memory)) = (stats.attributes, stats.cpu, stats.memory) else {
                continue;
            };
            let status = match self.container_status(&attributes.id).await {
                Ok(status) => status,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            };
            let value = |amount: Option<cri::UInt64Value>| amount.map(|amount| amount.value).unwrap_or_default();
            containers.push(ContainerStats {
                name: attributes.metadata.map(|metadata| metadata.name).unwrap_or_default(),
                started_at: super::super::observe::timestamp(status.started_at).unwrap_or(Timestamp::UNIX_EPOCH),
                cpu_usage_core_nanos: value(cpu.usage_core_nano_seconds),
                memory_working_set_bytes: value(memory.working_set_bytes),
                memory_usage_bytes: value(memory.usage_bytes),
            });
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(PodStats { at: Timestamp::now(), containers })
    }
}
