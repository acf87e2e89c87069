//! What the link asks of the Pod's runtime.

use super::{CriError, PodRuntime, Which, labels};
use crate::{
    agent::{ExecOutput, HostError, PodHost},
    model::{DesiredPod, Generation, PodReport, PodStats, PodUid, Streams},
};
use async_trait::async_trait;
use k8s_cri::v1 as cri;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::watch;

#[async_trait]
impl PodHost for PodRuntime {
    fn set_desired(&self, desired: Arc<DesiredPod>) {
        Self::set_desired(self, desired);
    }
    fn holds(&self) -> Option<(PodUid, Generation)> {
        Self::holds(self)
    }
    fn report(&self) -> watch::Receiver<Option<Arc<PodReport>>> {
        Self::report(self)
    }
    async fn exec(&self, container: &str, command: &[String], streams: Streams) -> Result<String, HostError> {
        let id = self.running(container).await?;
        self.cri.exec(&id, command, streams).await.map_err(fault("exec"))
    }
    async fn attach(&self, container: &str, streams: Streams) -> Result<String, HostError> {
        let id = self.running(container).await?;
        self.cri.attach(&id, streams).await.map_err(fault("attach"))
    }
    async fn port_forward(&self, ports: &[u16]) -> Result<String, HostError> {
        let (uid, _) = self.holds().ok_or(HostError::NoSandbox)?;
        self.cri.port_forward(&uid, ports).await.map_err(fault("forward ports"))?.ok_or(HostError::NoSandbox)
    }
    async fn exec_sync(&self, container: &str, command: &[String]) -> Result<ExecOutput, HostError> {
        let id = self.running(container).await?;
        let output = self.cri.exec_sync(&id, command, None).await.map_err(fault("run a command"))?;
        Ok(ExecOutput { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
    }
    async fn stats(&self) -> Result<PodStats, HostError> {
        let (uid, _) = self.holds().ok_or(HostError::NoSandbox)?;
        self.cri.stats(&uid).await.map_err(fault("read usage"))
    }
    async fn log_path(&self, container_id: &str) -> Result<PathBuf, HostError> {
        let status = self.status(container_id).await?;
        if !status.log_path.is_empty() {
            return Ok(PathBuf::from(status.log_path));
        }
        let metadata = status.metadata.unwrap_or_default();
        let label = |key: &str| status.labels.get(key).cloned().unwrap_or_default();
        let name = crate::model::ObjectName::new(label(labels::POD_NAMESPACE), label(labels::POD_NAME));
        let logs = self.pod_logs(&name, &PodUid::new(label(labels::POD_UID)));
        Ok(logs.join(&metadata.name).join(format!("{}.log", metadata.attempt)))
    }
    async fn is_running(&self, container_id: &str) -> Result<bool, HostError> {
        Ok(self.status(container_id).await?.state() == cri::ContainerState::ContainerRunning)
    }
}

impl PodRuntime {
    async fn running(&self, container: &str) -> Result<String, HostError> {
        let absent = || HostError::NoContainer(container.to_owned());
        let (uid, _) = self.holds().ok_or_else(absent)?;
        let found = self.cri.find(&uid, container, Which::Running).await.map_err(fault("find the container"))?;
        found.map(|found| found.id).ok_or_else(absent)
    }

    async fn status(&self, id: &str) -> Result<cri::ContainerStatus, HostError> {
        self.cri.container_status(id).await.map_err(|error| {
            if error.is_gone() { HostError::NoContainer(id.to_owned()) } else { fault("look at the container")(error) }
        })
    }
}

fn fault(operation: &'static str) -> impl Fn(CriError) -> HostError {
    move |error| HostError::Runtime { operation, message: error.message().to_owned() }
}
