//! What an agent says of the Pod it runs: whole each time, so the latest report is enough.

use super::{ContainerKind, Generation, PodUid};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodReport {
    pub uid: PodUid,
    /// The newest desired state that the agent has taken up.
    pub generation: Generation,
    /// When the sandbox and its network were ready; None before.
    pub sandbox_ready_at: Option<Timestamp>,
    pub pod_ip: Option<IpAddr>,
    /// In the order of DesiredPod::containers.
    pub containers: Vec<ContainerReport>,
    /// Every container stopped and the sandbox gone, after `stop` was asked. Nothing follows.
    pub terminated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerReport {
    pub name: String,
    pub kind: ContainerKind,
    pub state: ContainerState,
    /// How it ended the last time, before the present state.
    pub last: Option<Termination>,
    pub restart_count: u32,
    /// `containerd://<id>` of the present or last container.
    pub container_id: Option<String>,
    pub image: String,
    /// The image's digest or id, as the runtime says it.
    pub image_id: String,
    /// Startup probe passed, or none and running.
    pub started: bool,
    /// Readiness probe passes, or none and started.
    pub ready: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Reasons as kubelet's: ContainerCreating, PodInitializing, CrashLoopBackOff, ErrImagePull, …
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        started_at: Timestamp,
    },
    Terminated(Termination),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// Completed, Error, OOMKilled, StartError, ContainerStatusUnknown, …
    pub reason: String,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    pub container_id: Option<String>,
}

/// Something worth an Event on the Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentEvent {
    pub uid: PodUid,
    pub at: Timestamp,
    pub warning: bool,
    /// As kubelet's: Pulling, Pulled, Created, Started, Killing, BackOff, Failed, Unhealthy, …
    pub reason: String,
    pub message: String,
    /// The container it is about: becomes involvedObject.fieldPath `spec.containers{name}`.
    pub container: Option<(ContainerKind, String)>,
}
