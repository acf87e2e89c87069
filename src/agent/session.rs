//! The agent's end of the link.
//!
//! ```text
//!        +--------- jittered wait, 50 ms .. 5 s <---------+----------------------+
//!        v                                                |                      |
//!   connect (own certificate) ---failed-------------------+                      |
//!        | Session: Hello(what we run)                                           |
//!        v                                                                       |
//!   live:  desired -> orders      services -> service proxy                    |
//!          tunnels -> tasks         reports, events, notices -> provider         |
//!        | stream ended / services out of step / keepalive failed ---------------+
//!        | certificate renewed: the next connection at once, with the new one
//!        | certificate run out: proved anew, for the same key (identity.rs)
//! ```
//!
//! Tunnels belong to the connection that they were opened on, not to the session: they outlive a
//! renewal. Everything the provider must know is said again on each session (the whole report; the
//! Hello), so nothing is lost when one breaks.

use super::{
    config::AgentConfig,
    host::PodHost,
    identity::{self, Identity, IdentityError},
    outbox::Outbox,
    services::ServicesHandle,
    tunnel::{self, TunnelContext},
};
use crate::{
    model::{DesiredPod, Notice, ObjectName, ServicesUpdate, TunnelRequest},
    proto::{
        AgentMessage, Hello, OpenTunnel, agent_gateway_client::AgentGatewayClient, agent_message, provider_message,
    },
    retry::Backoff,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, transport::Channel};

/// Short: when the provider was restarted, its agents should be back within about a second.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
const QUEUE: usize = 8;
/// A Pod may refer to many Secrets and ConfigMaps of 1 MiB each, which base64 makes a third larger.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connect(#[from] IdentityError),
    #[error("the session was refused or broke")]
    Broken(#[source] Box<Status>),
    #[error("the provider ended the session")]
    Ended,
    #[error("the services are out of step")]
    OutOfStep,
    #[error("the certificate has run out")]
    Expired,
}

/// Why there are no more sessions with an identity.
pub(super) enum Left {
    Cancelled,
    Expired,
}

enum End {
    Cancelled,
    /// Connect again at once.
    Renewed(Box<Identity>),
}

/// What lives longer than a session.
pub(super) struct Link {
    pub config: AgentConfig,
    pub host: Arc<dyn PodHost>,
    /// Desired states on their way to the host.
    pub orders: watch::Sender<Option<Arc<DesiredPod>>>,
    pub outbox: Arc<Outbox>,
    pub notices: watch::Receiver<Vec<Notice>>,
    pub services: ServicesHandle,
    /// The Pod's name, for messages to people.
    pub pod: watch::Sender<Option<ObjectName>>,
    pub tunnels: TaskTracker,
    pub cancel: CancellationToken,
}

type Client = AgentGatewayClient<Channel>;

impl Link {
    /// Keeps a session with the provider until cancelled, or until it is not let in any more.
    pub async fn run(&self, mut identity: Identity) -> Left {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            match self.session(&identity, &mut backoff).await {
                Ok(End::Cancelled) => return Left::Cancelled,
                Ok(End::Renewed(renewed)) => {
                    tracing::info!("the certificate was renewed");
                    identity = *renewed;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not connected to the provider");
                }
            }
            if identity.has_expired() {
                return Left::Expired;
            }
            tokio::select! {
                () = sleep(backoff.next_wait()) => {}
                () = self.cancel.cancelled() => return Left::Cancelled,
            }
        }
    }

    async fn session(&self, identity: &Identity, backoff: &mut Backoff) -> Result<End, SessionError> {
        let work = async {
            let channel = identity::connect(&self.config, Some(identity)).await?;
            let client = AgentGatewayClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let (outbound, stream) = mpsc::channel(QUEUE);
            // There is room: it is the first.
            let _ = outbound.try_send(message(agent_message::Kind::Hello(self.hello())));
            let broken = |status| SessionError::Broken(Box::new(status));
            let inbound = client.clone().session(ReceiverStream::new(stream)).await.map_err(broken)?.into_inner();
            backoff.reset();
            tracing::info!(provider = self.config.provider, "connected to the provider");
            tokio::select! {
                ended = self.read(inbound, &client) => ended,
                error = self.write(outbound) => Err(error),
                renewed = self.renew(identity, client.clone()) => renewed,
                () = self.services.out_of_step() => Err(SessionError::OutOfStep),
            }
        };
        tokio::select! {
            ended = work => ended,
            () = self.cancel.cancelled() => Ok(End::Cancelled),
        }
    }

    fn hello(&self) -> Hello {
        let (pod_uid, generation) = match self.host.holds() {
            Some((uid, generation)) => (uid.to_string(), generation.0),
            None => Default::default(),
        };
        Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            pod_uid,
            generation,
            services_version: self.services.version(),
            takes_pieces: true,
        }
    }

    /// What the provider says.
    async fn read(
        &self,
        mut inbound: tonic::Streaming<crate::proto::ProviderMessage>,
        client: &Client,
    ) -> Result<End, SessionError> {
        // The beginning of what comes in pieces.
        let mut begun: Vec<u8> = Vec::new();
        loop {
            let message = inbound.message().await.map_err(|status| SessionError::Broken(Box::new(status)))?;
            let mut whole = |last: Bytes| {
                begun.extend_from_slice(&last);
                std::mem::take(&mut begun)
            };
            match message.ok_or(SessionError::Ended)?.kind {
                Some(provider_message::Kind::Piece(bytes)) => {
                    begun.extend_from_slice(&bytes);
                    if begun.len() > MAX_MESSAGE_BYTES {
                        let endless = Status::out_of_range(format!("pieces of more than {MAX_MESSAGE_BYTES} bytes"));
                        return Err(SessionError::Broken(Box::new(endless)));
                    }
                }
                Some(provider_message::Kind::Desired(bytes)) => {
                    match serde_json::from_slice::<DesiredPod>(&whole(bytes)) {
                        Ok(desired) => {
                            self.pod.send_replace(Some(desired.name.clone()));
                            self.orders.send_replace(Some(Arc::new(desired)));
                        }
                        Err(error) => {
                            tracing::error!(error = %without_content(&error), "a desired state is not understood")
                        }
                    }
                }
                Some(provider_message::Kind::Services(bytes)) => {
                    match serde_json::from_slice::<ServicesUpdate>(&whole(bytes)) {
                        Ok(update) => self.services.apply(update).await,
                        Err(error) => {
                            tracing::error!(%error, "a services update is not understood");
                            return Err(SessionError::OutOfStep);
                        }
                    }
                }
                Some(provider_message::Kind::OpenTunnel(open)) => self.open_tunnel(open, client.clone()),
                // Of a later version.
                None => {}
            }
        }
    }

    /// What the provider must hear: the newest report, what the cloud announces, and events. Ends when it can't be told any more.
    async fn write(&self, outbound: mpsc::Sender<AgentMessage>) -> SessionError {
        let mut reports = self.host.report();
        reports.mark_changed();
        let mut notices = self.notices.clone();
        notices.mark_changed();
        let (mut reporting, mut noticing) = (true, true);
        loop {
            let mut event_number = None;
            let kind = tokio::select! {
                biased;
                changed = reports.changed(), if reporting => {
                    let report = reports.borrow_and_update().clone();
                    reporting = changed.is_ok();
                    match report.map(|report| serde_json::to_vec(&*report)) {
                        Some(Ok(bytes)) => agent_message::Kind::Report(bytes.into()),
                        Some(Err(error)) => {
                            tracing::error!(%error, "a report can't be encoded");
                            continue;
                        }
                        None => continue,
                    }
                }
                changed = notices.changed(), if noticing => {
                    noticing = changed.is_ok();
                    let standing = notices.borrow_and_update().clone();
                    match serde_json::to_vec(&standing) {
                        Ok(bytes) if noticing => agent_message::Kind::Notices(bytes.into()),
                        Ok(_) => continue,
                        Err(error) => {
                            tracing::error!(%error, "announcements can't be encoded");
                            continue;
                        }
                    }
                }
                (number, event) = self.outbox.oldest() => {
                    event_number = Some(number);
                    match self.outbox.take_dropped() {
                        0 => {}
                        dropped => tracing::warn!(dropped, "events were dropped while the provider was away"),
                    }
                    match serde_json::to_vec(&event) {
                        Ok(bytes) => agent_message::Kind::Event(bytes.into()),
                        Err(error) => {
                            tracing::error!(%error, "an event can't be encoded");
                            self.outbox.sent(number);
                            continue;
                        }
                    }
                }
                () = outbound.closed() => return SessionError::Ended,
            };
            if outbound.send(message(kind)).await.is_err() {
                return SessionError::Ended;
            }
            if let Some(number) = event_number {
                self.outbox.sent(number);
            }
        }
    }

    async fn renew(&self, identity: &Identity, mut client: Client) -> Result<End, SessionError> {
        let mut wait = identity.renew_in();
        loop {
            sleep(wait).await;
            match identity::renew(&self.config, identity, &mut client).await {
                Ok(renewed) => return Ok(End::Renewed(Box::new(renewed))),
                // The session could go on, but nothing else would be let in.
                Err(_) if identity.has_expired() => return Err(SessionError::Expired),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the certificate was not renewed");
                    wait = RENEWAL_RETRY;
                }
            }
        }
    }

    fn open_tunnel(&self, open: OpenTunnel, client: Client) {
        if self.tunnels.len() >= crate::pipe::MAX_TUNNELS {
            // The provider keeps count too; its caller runs into the timeout.
            tracing::warn!("too many tunnels at once");
            return;
        }
        let request = serde_json::from_slice::<TunnelRequest>(&open.request);
        let context = TunnelContext { host: Arc::clone(&self.host), pod: self.pod.borrow().clone() };
        let cancel = self.cancel.clone();
        self.tunnels.spawn(async move {
            tokio::select! {
                () = tunnel::serve(context, open.id, request, client) => {}
                () = cancel.cancelled() => {}
            }
        });
    }
}

fn message(kind: agent_message::Kind) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

/// serde_json's message may quote what it stumbled over, which could be a secret.
fn without_content(error: &serde_json::Error) -> String {
    format!("{:?} error at byte {}", error.classify(), error.column())
}
