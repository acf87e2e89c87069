//! The floor: the calls that any node must make of containerd for such a Pod, and nothing else.

use super::pods::IMAGE;
use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

pub struct Raw {
    client: RuntimeServiceClient<Channel>,
    logs: String,
}

impl Raw {
    pub async fn connect(socket: &Path) -> Result<Self> {
        let logs = socket.with_file_name("logs").display().to_string();
        let socket = socket.to_owned();
        // The address is not used: the connector dials the socket.
        let channel = Endpoint::from_static("http://containerd")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
            }))
            .await
            .context("the containerd of its own")?;
        Ok(Self { client: RuntimeServiceClient::new(channel), logs })
    }

    /// Sandbox, container, start; then stop with a second of grace, and remove.
    pub async fn try_once(&self, name: &str) -> Result<(Duration, Duration)> {
        let mut client = self.client.clone();
        let sandbox_config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: format!("{}/{name}", self.logs),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: vec!["sleep".to_owned(), "1000000".to_owned()],
            log_path: "main/0.log".to_owned(),
            linux: Some(cri::LinuxContainerConfig {
                // As a kubelet says it for a request of 100m.
                resources: Some(cri::LinuxContainerResources { cpu_shares: 102, ..Default::default() }),
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(own_namespaces()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };

        let began = Instant::now();
        let request = cri::RunPodSandboxRequest { config: Some(sandbox_config.clone()), ..Default::default() };
        let pod_sandbox_id = client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let container_id = client.create_container(request).await?.into_inner().container_id;
        client.start_container(cri::StartContainerRequest { container_id: container_id.clone() }).await?;
        let start = began.elapsed();

        let began = Instant::now();
        client.stop_container(cri::StopContainerRequest { container_id: container_id.clone(), timeout: 1 }).await?;
        client.remove_container(cri::RemoveContainerRequest { container_id }).await?;
        client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
        client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await?;
        Ok((start, began.elapsed()))
    }
}

/// A process namespace for each container, the rest one a Pod, as Kubernetes' default is.
fn own_namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}
