//! Work that brings things up: the sandbox, and one start of one container.

use super::{
    Shared, Teller, hooks, network,
    spec::{self, Birth, ImageUser},
    volumes,
};
use crate::{
    decide::containers::Fault,
    model::{DesiredContainer, DesiredPod},
};
use std::{fs, sync::Arc};
use tokio_util::sync::CancellationToken;

/// How a piece of work failed.
#[derive(Debug)]
pub(super) enum Failure {
    Fault(Fault),
    /// The runtime is away: no one's fault, to be done again when it is back.
    Unreachable,
    /// Given up because the Pod stops.
    Cancelled,
}

/// Stops what is left of earlier sandboxes, which also frees their network, and makes a new one.
pub(super) async fn sandbox(
    shared: &Shared,
    pod: &DesiredPod,
    attempt: u32,
    old: &[String],
    tell: &Teller,
) -> Result<(), Failure> {
    let failed = |text: String| {
        tell.pod(true, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {text}"));
        Failure::Fault(Fault { reason: "FailedCreatePodSandBox".to_owned(), message: text })
    };
    for id in old {
        shared
            .cri
            .stop_sandbox(id)
            .await
            .map_err(|error| if error.is_unreachable() { Failure::Unreachable } else { failed(error.rpc_text()) })?;
    }
    let logs = shared.pod_logs(pod);
    fs::create_dir_all(&logs).map_err(|error| failed(format!("make {}: {error}", logs.display())))?;
    if !pod.host_network {
        let conf = &shared.config;
        let prepared = network::prepare(&shared.cri, &conf.cni_conf_dir, conf.uplink.as_deref(), pod).await;
        prepared.map_err(|error| match error {
            network::NetworkError::Runtime(error) if error.is_unreachable() => Failure::Unreachable,
            other => failed(other.to_string()),
        })?;
    }
    let made = shared.cri.run_sandbox(spec::sandbox(pod, attempt, &logs)).await;
    made.map(drop).map_err(|error| if error.is_unreachable() { Failure::Unreachable } else { failed(error.rpc_text()) })
}

/// One start of one container.
pub(super) struct Starting {
    pub pod: Arc<DesiredPod>,
    pub container: DesiredContainer,
    pub sandbox: String,
    /// The sandbox's own attempt number, for its configuration.
    pub sandbox_attempt: u32,
    pub number: u32,
    pub backoff_seconds: u32,
    pub image: ImageUser,
    pub pod_ip: String,
}

/// Creates, starts, and runs the postStart hook. When the Pod stops meanwhile, it goes no further; a
/// container that was created or started is then the stop's to deal with.
pub(super) async fn container(
    shared: &Shared,
    starting: Starting,
    tell: &Teller,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let Starting { pod, container, sandbox, sandbox_attempt, number, backoff_seconds, image, pod_ip } = starting;
    let failed = |reason: &str, message: String| {
        tell.container(&container, true, "Failed", &format!("Error: {message}"));
        Failure::Fault(Fault { reason: reason.to_owned(), message })
    };
    if let Some(message) = spec::non_root_fault(&pod, &container, &image) {
        return Err(failed("CreateContainerConfigError", message));
    }
    let mounts = {
        let (pod, container, dir) = (pod.clone(), container.clone(), shared.pod_dir(&pod));
        tokio::task::spawn_blocking(move || volumes::of_container(&pod, &container, number, &dir)).await
    };
    let mounts = match mounts {
        Ok(Ok(mounts)) => mounts,
        Ok(Err(error)) => return Err(failed("CreateContainerConfigError", error.to_string())),
        Err(error) => return Err(failed("CreateContainerConfigError", error.to_string())),
    };
    if cancel.is_cancelled() {
        return Err(Failure::Cancelled);
    }
    let birth = Birth { pod: &pod, container: &container, number, backoff_seconds, image: &image, mounts };
    let config = spec::container(birth, &shared.machine);
    let sandbox_config = spec::sandbox(&pod, sandbox_attempt, &shared.pod_logs(&pod));
    let id = shared.cri.create_container(&sandbox, config, sandbox_config).await.map_err(|error| {
        if error.is_unreachable() {
            return Failure::Unreachable;
        }
        failed("CreateContainerError", error.message().to_owned())
    })?;
    tell.container(&container, false, "Created", "Container created");
    if cancel.is_cancelled() {
        return Err(Failure::Cancelled);
    }
    shared.cri.start_container(&id).await.map_err(|error| {
        if error.is_unreachable() {
            return Failure::Unreachable;
        }
        failed("RunContainerError", error.message().to_owned())
    })?;
    tell.container(&container, false, "Started", "Container started");
    let Some(hook) = &container.lifecycle.post_start else { return Ok(()) };
    let ran = tokio::select! {
        () = cancel.cancelled() => return Err(Failure::Cancelled),
        ran = hooks::run(hook, &id, &pod_ip, &shared.cri, None) => ran,
    };
    let Err(message) = ran else { return Ok(()) };
    // Not the error: it holds the command and what it printed, which may be secret.
    tracing::warn!(container = container.name, "postStart hook failed");
    tell.container(&container, true, "FailedPostStartHook", "PostStartHook failed");
    Err(Failure::Fault(Fault { reason: POST_START.to_owned(), message }))
}

/// Tells the worker that the container runs, and must be killed.
pub(super) const POST_START: &str = "PostStartHookError";
