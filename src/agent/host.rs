//! What the link needs of whoever runs the Pod, and of whoever keeps its Services: the seam between
//! the session and the rooms `pod` and `proxy`.

use crate::model::{AgentEvent, DesiredPod, Generation, Notice, PodReport, PodStats, PodUid, ServicesUpdate, Streams};
use async_trait::async_trait;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::{mpsc, watch};

/// Runs one Pod.
#[async_trait]
pub trait PodHost: Send + Sync {
    /// Takes up a desired state; one that is older than what it has is ignored.
    fn set_desired(&self, desired: Arc<DesiredPod>);
    /// The Pod and generation it has.
    fn holds(&self) -> Option<(PodUid, Generation)>;
    /// The newest report, whole each time.
    fn report(&self) -> watch::Receiver<Option<Arc<PodReport>>>;
    /// A URL of the runtime's streaming server, good for one connection within a minute.
    async fn exec(&self, container: &str, command: &[String], streams: Streams) -> Result<String, HostError>;
    async fn attach(&self, container: &str, streams: Streams) -> Result<String, HostError>;
    async fn port_forward(&self, ports: &[u16]) -> Result<String, HostError>;
    /// Runs a command to its end.
    async fn exec_sync(&self, container: &str, command: &[String]) -> Result<ExecOutput, HostError>;
    /// Of the running containers.
    async fn stats(&self) -> Result<PodStats, HostError>;
    /// Where a container (by the runtime's id, without `containerd://`) writes its log.
    async fn log_path(&self, container_id: &str) -> Result<PathBuf, HostError>;
    /// Whether it may still write to it.
    async fn is_running(&self, container_id: &str) -> Result<bool, HostError>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    // kubelet's words (pkg/kubelet/kubelet_pods.go, GetExec).
    #[error("container not found (\"{0}\")")]
    NoContainer(String),
    #[error("the Pod has no sandbox yet")]
    NoSandbox,
    #[error("can't {operation}: {message}")]
    Runtime { operation: &'static str, message: String },
}

/// Keeps the Services of this instance.
#[async_trait]
pub trait ServiceSink: Send {
    /// An error means: what it holds is no longer known, send everything.
    async fn apply(&mut self, update: &ServicesUpdate) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
    /// The version it holds; 0: nothing.
    fn version(&self) -> u64;
}

/// Puts in place what must be there before a Pod's network is.
#[async_trait]
pub trait Preparation: Send {
    async fn prepare(&mut self, desired: &DesiredPod) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Everything the link works with.
pub struct Rooms {
    pub host: Arc<dyn PodHost>,
    pub preparation: Box<dyn Preparation>,
    pub events: mpsc::Receiver<AgentEvent>,
    /// All that the cloud announces now.
    pub notices: watch::Receiver<Vec<Notice>>,
    pub services: Box<dyn ServiceSink>,
}
