//! The agent's wiring: the Pod's runtime, the service proxy and the link, in one process.

use super::{
    AgentConfig, AgentError, Preparation, Proof, Rooms, link,
    notices::{self, Metadata},
    pod::{PodRuntime, PodRuntimeConfig},
    proxy::{PodRules, ServiceProxy},
};
use crate::model::{DesiredPod, PortSpec};
use async_trait::async_trait;
use std::{net::IpAddr, sync::Arc};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Runs until cancelled. Containers live on, whichever way this ends.
pub async fn run(config: AgentConfig, cancel: CancellationToken) -> Result<(), AgentError> {
    let cancel = cancel.child_token();
    let _guard = cancel.clone().drop_guard();
    let pod_config = PodRuntimeConfig { state_dir: config.state_dir.clone(), ..PodRuntimeConfig::default() };
    let (runtime, events) = PodRuntime::start(pod_config, cancel.clone()).await.map_err(AgentError::State)?;
    let ended = runtime.ended();
    let (known, standing) = watch::channel(Vec::new());
    let metadata = match (&config.proof, &config.metadata_dir) {
        (Proof::Ec2 { .. }, _) => Some(Metadata::Imds(config.imds())),
        (Proof::Token(_), Some(directory)) => Some(Metadata::Directory(directory.clone())),
        (Proof::Token(_), None) => None,
    };
    // Without a source the channel ends, and nothing is told.
    let _watch = metadata.map(|metadata| {
        let watching = notices::watch(metadata, notices::POLL, known, cancel.clone());
        AbortOnDropHandle::new(tokio::spawn(watching))
    });
    let rooms = Rooms {
        host: Arc::new(runtime),
        preparation: Box::new(Rules { rules: PodRules::new(), placed: None }),
        events,
        notices: standing,
        services: Box::new(ServiceProxy::new().apart_from(config.provider_address())),
    };
    tokio::select! {
        linked = link(config, rooms, cancel.clone()) => linked,
        () = ended.cancelled() => {
            // After a cancellation it has ended because it was asked to.
            if cancel.is_cancelled() { Ok(()) } else { Err(AgentError::RuntimeEnded) }
        }
    }
}

/// The Pod's nftables rules: host ports, and the metadata service out of reach.
struct Rules {
    rules: PodRules,
    placed: Option<(IpAddr, Vec<PortSpec>)>,
}

#[async_trait]
impl Preparation for Rules {
    async fn prepare(&mut self, desired: &DesiredPod) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // With the host's network it has no address of its own, and its ports are the host's.
        let Some(address) = desired.pod_ip.filter(|_| !desired.host_network) else { return Ok(()) };
        let ports: Vec<PortSpec> = desired.containers.iter().flat_map(|container| container.ports.clone()).collect();
        let wanted = (address, ports);
        if self.placed.as_ref() != Some(&wanted) {
            self.rules.set(wanted.0, &wanted.1).await?;
            self.placed = Some(wanted);
        }
        Ok(())
    }
}
