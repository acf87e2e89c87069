//! The container runtime's socket: every CRI call the agent makes, and nothing that decides.
//!
//! [`CriClient`] is a cheap clone over one HTTP/2 connection that comes back by itself: a call made
//! while containerd is away fails ([`CriError::is_unreachable`]), the next one dials again. Tunnels use
//! it too: [`CriClient::find`] gives the container behind a name, then exec, attach, port-forward.

mod tunnel;

pub use tunnel::{Found, Which};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use std::{
    error::Error as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

/// As the kubelet's (pkg/kubelet/cri: maxMsgSize).
const MAX_MESSAGE: usize = 16 << 20;
/// For calls that only ask.
const ASK: Duration = Duration::from_secs(10);
/// For calls that do: CNI, creating, starting.
const DO: Duration = Duration::from_secs(120);
/// For a command that may take as long as it likes (gRPC deadlines need some number).
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

#[derive(Clone, Debug)]
pub struct CriClient {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

#[derive(Debug, thiserror::Error)]
#[error("CRI {operation} {key}: {:?}: {}", status.code(), status.message())]
pub struct CriError {
    operation: &'static str,
    key: String,
    // Not #[source]: its text is in the message already.
    status: Box<Status>,
}

impl CriError {
    /// The runtime's own words, as a kubelet puts them into a Pod's status.
    pub fn message(&self) -> &str {
        self.status.message()
    }
    /// As Go's gRPC prints an error, which is how a kubelet tells of a failed pull or sandbox.
    pub fn rpc_text(&self) -> String {
        format!("rpc error: code = {:?} desc = {}", self.status.code(), self.status.message())
    }
    /// The object is not there (any more).
    pub fn is_gone(&self) -> bool {
        self.status.code() == Code::NotFound
    }
    /// The runtime did not answer: it is away, or went away in the middle of the call. A status that
    /// came over the wire has no source.
    pub fn is_unreachable(&self) -> bool {
        self.status.source().is_some() || self.status.code() == Code::Unavailable
    }
    pub fn is_timeout(&self) -> bool {
        matches!(self.status.code(), Code::DeadlineExceeded | Code::Cancelled)
    }
}

/// What a command run to its end left.
#[derive(Debug)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl ExecOutput {
    /// What it printed, the start of it (pkg/probe/exec: maxReadLength).
    pub fn text(&self) -> String {
        let both: Vec<u8> = self.stdout.iter().chain(&self.stderr).copied().take(10 << 10).collect();
        String::from_utf8_lossy(&both).into_owned()
    }
}

/// Makes a request with a deadline and names it in the error.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr, $timeout:expr, $key:expr) => {{
        let mut request = tonic::Request::new($request);
        request.set_timeout($timeout);
        match tokio::time::timeout($timeout, $client.clone().$method(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(CriError { operation: stringify!($method), key: $key.to_string(), status: Box::new(status) })
            }
            Err(_) => Err(CriError {
                operation: stringify!($method),
                key: $key.to_string(),
                status: Box::new(tonic::Status::deadline_exceeded("context deadline exceeded")),
            }),
        }
    }};
}
use call;

impl CriClient {
    /// Does not dial yet.
    pub fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        // The address is not used: the connector dials the socket.
        let channel =
            Endpoint::from_static("http://containerd").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
            }));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
    }

    /// `containerd 2.2.9` and the like.
    pub async fn version(&self) -> Result<cri::VersionResponse, CriError> {
        call!(self.runtime, version, cri::VersionRequest { version: "v1".to_owned() }, ASK, "")
    }

    /// With the CNI configuration that the runtime has loaded, as JSON.
    pub async fn cni_config(&self) -> Result<String, CriError> {
        let mut status = call!(self.runtime, status, cri::StatusRequest { verbose: true }, ASK, "")?;
        Ok(status.info.remove("cniconfig").unwrap_or_default())
    }

    pub async fn sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<cri::PodSandbox>, CriError> {
        let filter = cri::PodSandboxFilter { label_selector: selector(labels), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        Ok(call!(self.runtime, list_pod_sandbox, request, ASK, "")?.items)
    }

    pub async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, CriError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        Ok(call!(self.runtime, pod_sandbox_status, request, ASK, id)?.status.unwrap_or_default())
    }

    pub async fn run_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String, CriError> {
        let key = config.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok(call!(self.runtime, run_pod_sandbox, request, DO, key)?.pod_sandbox_id)
    }

    /// Also kills what runs in it. Of one that is gone: well.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        unless_gone(call!(self.runtime, stop_pod_sandbox, request, DO, id).map(drop))
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        unless_gone(call!(self.runtime, remove_pod_sandbox, request, DO, id).map(drop))
    }

    pub async fn containers(&self, labels: &[(&str, &str)]) -> Result<Vec<cri::Container>, CriError> {
        let filter = cri::ContainerFilter { label_selector: selector(labels), ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        Ok(call!(self.runtime, list_containers, request, ASK, "")?.containers)
    }

    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, CriError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Ok(call!(self.runtime, container_status, request, ASK, id)?.status.unwrap_or_default())
    }

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let key = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime, create_container, request, DO, key)?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        call!(self.runtime, start_container, request, DO, id).map(drop)
    }

    /// SIGTERM (or the image's signal), and SIGKILL after `grace`. Returns when it has ended. When the
    /// call is dropped and made again with less grace, the runtime does not send SIGTERM again.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout = i64::try_from(grace.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        unless_gone(call!(self.runtime, stop_container, request, grace + DO, id).map(drop))
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        unless_gone(call!(self.runtime, remove_container, request, DO, id).map(drop))
    }

    /// After its log file has been renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime, reopen_container_log, request, ASK, id).map(drop)
    }

    /// None: as long as it takes.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, CriError> {
        let seconds = timeout.map_or(0, |timeout| i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).max(1));
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
        // The runtime keeps the time; this is for a runtime that doesn't answer.
        let answer = call!(self.runtime, exec_sync, request, timeout.map_or(FOREVER, |timeout| timeout + ASK), id)?;
        Ok(ExecOutput { exit_code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr })
    }

    /// Every change of every container, until the connection ends.
    pub async fn container_events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>, CriError> {
        let stream = self.runtime.clone().get_container_events(cri::GetEventsRequest {}).await;
        stream.map(tonic::Response::into_inner).map_err(|status| CriError {
            operation: "get_container_events",
            key: String::new(),
            status: Box::new(status),
        })
    }

    /// None: not on this machine.
    pub async fn image(&self, image: &str) -> Result<Option<cri::Image>, CriError> {
        let request = cri::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        Ok(call!(self.images, image_status, request, ASK, image)?.image)
    }

    /// The image's reference in the runtime. No deadline: a slow registry is the runtime's to judge
    /// (it gives up when nothing comes for a while).
    pub async fn pull(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = cri::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config: Some(sandbox) };
        let answer = self.images.clone().pull_image(request).await;
        answer.map(|answer| answer.into_inner().image_ref).map_err(|status| CriError {
            operation: "pull_image",
            key: image.to_owned(),
            status: Box::new(status),
        })
    }
}

fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn selector(labels: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn unless_gone(result: Result<(), CriError>) -> Result<(), CriError> {
    result.or_else(|error| if error.is_gone() { Ok(()) } else { Err(error) })
}
