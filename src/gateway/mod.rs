//! The provider's end of all agents' connections: a gRPC server with mutual TLS (proto/agent.proto).
//!
//! In: agents that dial in; desired states, services and tunnel requests through
//! [`crate::ports::AgentLink`]. Out: [`AgentUpdate`]s over one bounded queue, tunnels as byte streams.
//!
//! Trust: the gateway has an authority of its own ([`Ca`]). `Bootstrap` is answered without a client
//! certificate and gives one for a proof that the cloud accepts, for one key for ever. Everything else
//! demands a certificate of that authority, and takes the instance from it: no message says who its sender is.
//!
//! A connection's life:
//!
//! ```text
//!   TLS, no certificate -> Challenge -> Register --cloud accepts--> certificate (24 h)
//!   TLS, certificate    -> Session: Hello -> Connected -> desired, services ... -> Disconnected
//!                       -> Tunnel  (one call each, over the same connection)
//!                       -> Renew   (a fresh certificate over the old one, for the same key)
//! ```
//!
//! How many connections there are at a time, of whom, and for how long without a certificate: `accept`.
//!
//! A newer session of the same instance ends the older one, whose end is then not told: the updates of
//! an instance read Connected, (Report | Event)*, then Disconnected or the next Connected. After
//! `forget` nothing more is told of an instance, unless it dials in again.

mod accept;
mod ca;
mod hub;
mod service;
mod services;
mod session;
#[cfg(test)]
mod tests;
mod tunnels;

pub use accept::Places;
pub use ca::{AGENT_CERTIFICATE_LIFE, AgentRequest, Ca, CaError, KeyAndCertificate};

use crate::{
    model::{DesiredPod, InstanceId, ServicesUpdate, TunnelHead, TunnelRequest},
    pipe,
    ports::{AgentLink, AgentUpdate, Cloud, TunnelError},
    proto::{
        OpenTunnel, ProviderMessage, agent_gateway_server::AgentGatewayServer, bootstrap_server::BootstrapServer,
        provider_message::Kind,
    },
    telemetry::Metrics,
};
use async_trait::async_trait;
use hub::Hub;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::DuplexStream,
    net::TcpSocket,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tunnels::Tunnels;

/// How long an agent has for taking up a tunnel.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(10);
/// And for coming back before that, if it is not connected: its longest pause, a connection that is not made, and one that is.
const COMING_BACK: Duration = Duration::from_secs(15);
/// Connections that the kernel may hold for us: all agents of a provider come back at once after it
/// was restarted.
const BACKLOG: u32 = 1024;
/// A report holds at most 12 KiB of termination messages and some text a container.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// A signing request and a proof, of which the identity document with its signature is the largest.
const MAX_BOOTSTRAP_BYTES: usize = 32 * 1024;

#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub listen: SocketAddr,
    /// Addresses and names that agents dial: what the gateway's certificate is good for.
    pub names: Vec<String>,
    pub places: Places,
}

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("can't make the gateway's certificate")]
    Certificate(#[from] CaError),
    #[error("can't listen for agents on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("can't set up TLS for agents")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the gRPC services and the link share.
struct Shared {
    ca: Arc<Ca>,
    cloud: Arc<dyn Cloud>,
    hub: Hub,
    tunnels: Tunnels,
    updates: mpsc::Sender<AgentUpdate>,
    metrics: Metrics,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Gateway {
    /// Listens and serves until `cancel`; [`Gateway::stopped`] then waits for everything to end.
    pub fn start(
        config: &GatewayConfig,
        ca: Arc<Ca>,
        cloud: Arc<dyn Cloud>,
        updates: mpsc::Sender<AgentUpdate>,
        metrics: Metrics,
        cancel: CancellationToken,
    ) -> Result<Self, GatewayError> {
        install_crypto_provider();
        let own = ca.server_certificate(&config.names)?;
        let tls = accept::tls(ca.certificate_pem(), &own.certificate_pem, &own.key_pem).map_err(GatewayError::Tls)?;
        let listener = listen(config.listen).map_err(|error| GatewayError::Listen(config.listen, error))?;
        let address = listener.local_addr().map_err(|error| GatewayError::Listen(config.listen, error))?;

        let shared = Arc::new(Shared {
            ca,
            cloud,
            hub: Hub::new(cancel.clone()),
            tunnels: Tunnels::default(),
            updates,
            metrics,
            tasks: TaskTracker::new(),
            cancel: cancel.clone(),
        });
        let server = Server::builder()
            .http2_keepalive_interval(Some(pipe::KEEPALIVE))
            .http2_keepalive_timeout(Some(pipe::KEEPALIVE))
            .initial_stream_window_size(pipe::STREAM_WINDOW)
            .initial_connection_window_size(pipe::CONNECTION_WINDOW)
            .add_service(
                BootstrapServer::new(service::Bootstrap(Arc::clone(&shared)))
                    .max_decoding_message_size(MAX_BOOTSTRAP_BYTES),
            )
            .add_service(
                AgentGatewayServer::new(service::Agents(Arc::clone(&shared)))
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(usize::MAX),
            );
        let (let_in, incoming) = accept::channel();
        let metrics = shared.metrics.clone();
        shared.tasks.spawn(accept::run(listener, tls, config.places, metrics, let_in, cancel.clone()));
        shared.tasks.spawn({
            let cancel = cancel.clone();
            async move {
                if let Err(error) = server
                    .serve_with_incoming_shutdown(ReceiverStream::new(incoming), cancel.clone().cancelled_owned())
                    .await
                {
                    tracing::error!(error = &error as &dyn std::error::Error, "the agents' gateway failed");
                }
                // Without it no agent can be reached: whoever watches this token ends the process.
                cancel.cancel();
            }
        });
        tracing::info!(%address, "listening for agents");
        Ok(Self { shared, address })
    }

    /// The address that was bound (the port, when 0 was asked for).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// After the cancellation: waits until sessions, tunnels and the listener are gone.
    pub async fn stopped(&self) {
        self.shared.cancel.cancelled().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Makes aws-lc-rs the process' TLS provider. Other crates of the graph could choose one, or fail to
/// choose between two; harmless when it was done before.
pub(crate) fn install_crypto_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A new provider must be able to listen while connections of its killed predecessor linger.
fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[async_trait]
impl AgentLink for Gateway {
    fn set_desired(&self, instance: &InstanceId, desired: Arc<DesiredPod>) {
        self.shared.hub.set_desired(instance, || desired.to_json().into());
    }

    fn publish_services(&self, update: Arc<ServicesUpdate>, whole: Arc<ServicesUpdate>) {
        self.shared.hub.publish_services(&update, whole);
    }

    fn forget(&self, instance: &InstanceId) {
        self.shared.hub.forget(instance);
        self.shared.tunnels.forget(instance);
    }

    async fn open_tunnel(
        &self,
        instance: &InstanceId,
        request: TunnelRequest,
    ) -> Result<(TunnelHead, DuplexStream), TunnelError> {
        let broken = |why: &str| TunnelError::Broken(instance.clone(), why.to_owned());
        let not_connected = || TunnelError::NotConnected(instance.clone());
        let session = match request {
            // Asked of every Pod at once, and again soon: one that is away keeps the others waiting for nothing.
            TunnelRequest::Stats => self.shared.hub.outbound(instance),
            _ => timeout(COMING_BACK, self.shared.hub.until_outbound(instance)).await.ok(),
        };
        let session = session.ok_or_else(not_connected)?;
        let deadline = Instant::now() + TUNNEL_TIMEOUT;
        let mut pending = self.shared.tunnels.ask(instance)?;
        let request = serde_json::to_vec(&request).map_err(|error| broken(&error.to_string()))?;
        let open = Kind::OpenTunnel(OpenTunnel { id: pending.id.clone(), request: request.into() });
        let timed_out = |_| TunnelError::TimedOut(instance.clone());
        timeout_at(deadline, session.send(Box::new(Ok(ProviderMessage { kind: Some(open) }))))
            .await
            .map_err(timed_out)?
            .map_err(|_| not_connected())?;
        let session_ended = session.closed();
        tokio::select! {
            answer = timeout_at(deadline, &mut pending.answer) => {
                answer.map_err(timed_out)?.map_err(|_| broken("the instance was forgotten"))
            }
            () = session_ended => Err(broken("its session ended")),
        }
    }
}
