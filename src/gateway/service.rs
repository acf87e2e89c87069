//! The gRPC services: who is calling, and what they may do.

use super::{Shared, session, tunnels};
use crate::{
    gateway::AgentRequest,
    model::{InstanceId, TunnelHead},
    ports::{ClaimError, InstanceProof},
    proto::{
        AgentMessage, ProviderMessage, RegisterRequest, RegisterResponse, RenewRequest, TunnelFrame,
        agent_gateway_server::AgentGateway, bootstrap_server, tunnel_frame::Kind,
    },
};
use async_trait::async_trait;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use x509_parser::parse_x509_certificate;

/// Messages to an agent that wait for its connection.
const SESSION_QUEUE: usize = 8;
/// Frames of a tunnel that wait: the frames themselves are bounded in size.
const TUNNEL_QUEUE: usize = 2;
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Bootstrap(pub Arc<Shared>);
pub(super) struct Agents(pub Arc<Shared>);

#[async_trait]
impl bootstrap_server::Bootstrap for Bootstrap {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let peer =
            request.remote_addr().ok_or_else(|| Status::internal("the peer has no address"))?.ip().to_canonical();
        let request = request.into_inner();
        // Before the claim, which can be made only once.
        let csr = AgentRequest::parse(&request.csr_pem).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let proof = InstanceProof { instance: InstanceId::new(request.instance_id), token: request.token, peer };
        let record = self.0.cloud.claim(&proof).await.map_err(|error| {
            tracing::warn!(instance = %proof.instance, %peer, error = &error as &dyn std::error::Error, "a registration was refused");
            match error {
                ClaimError::NotRecorded(..) => Status::unavailable("the claim could not be recorded"),
                // Which check failed is in our log, not for a stranger.
                _ => Status::permission_denied("the proof is not accepted"),
            }
        })?;
        let response = certify(&self.0, &record.id, &csr)?;
        tracing::info!(instance = %record.id, %peer, "an instance has registered");
        Ok(Response::new(response))
    }
}

#[async_trait]
impl AgentGateway for Agents {
    type SessionStream = ReceiverStream<Result<ProviderMessage, Status>>;
    type TunnelStream = ReceiverStream<Result<TunnelFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let instance = caller(&request)?;
        let (outbound, stream) = mpsc::channel(SESSION_QUEUE);
        self.0.tasks.spawn(session::run(Arc::clone(&self.0), instance, request.into_inner(), outbound));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelFrame>>) -> Result<Response<Self::TunnelStream>, Status> {
        let instance = caller(&request)?;
        let gone = self.0.hub.gone(&instance).ok_or_else(|| Status::not_found("no such instance"))?;
        let mut inbound = request.into_inner();
        let first = timeout(FIRST_FRAME_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no first frame"))??;
        let Some(TunnelFrame { kind: Some(Kind::Opened(opened)) }) = first else {
            return Err(Status::invalid_argument("the first frame must say which tunnel this is"));
        };
        let head: TunnelHead = serde_json::from_slice(&opened.head)
            .map_err(|error| Status::invalid_argument(format!("the tunnel's head is not understood: {error}")))?;
        let taken = self.0.tunnels.take(&instance, &opened.id).map_err(|refused| {
            if refused == tunnels::NotWaiting::OtherInstance {
                tracing::error!(%instance, "an agent tried to take up a tunnel of another instance");
            }
            Status::not_found("nobody waits for this tunnel")
        })?;
        let (outbound, stream) = mpsc::channel(TUNNEL_QUEUE);
        self.0.tasks.spawn(tunnels::carry(taken, head, inbound, outbound, gone));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RegisterResponse>, Status> {
        let instance = caller(&request)?;
        let csr = AgentRequest::parse(&request.into_inner().csr_pem)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(%instance, "an instance renews its certificate");
        certify(&self.0, &instance, &csr).map(Response::new)
    }
}

fn certify(shared: &Shared, instance: &InstanceId, csr: &AgentRequest) -> Result<RegisterResponse, Status> {
    let certificate_pem = shared.ca.agent_certificate(instance, csr).map_err(|error| {
        tracing::error!(%instance, error = &error as &dyn std::error::Error, "can't certify an instance");
        Status::internal("the certificate could not be made")
    })?;
    Ok(RegisterResponse { certificate_pem, ca_pem: shared.ca.certificate_pem().to_owned() })
}

/// Which instance is calling: the common name of its certificate. TLS has checked that our authority
/// signed it for client authentication and that it was in time then; a connection may outlive it.
fn caller<T>(request: &Request<T>) -> Result<InstanceId, Status> {
    let refused = || Status::unauthenticated("a client certificate is required");
    let certificates = request.peer_certs().ok_or_else(refused)?;
    let (_, certificate) = parse_x509_certificate(certificates.first().ok_or_else(refused)?).map_err(|_| refused())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if i128::from(certificate.validity().not_after.timestamp()) <= i128::from(now) {
        return Err(Status::unauthenticated("the client certificate has expired"));
    }
    let mut names = certificate.subject().iter_common_name();
    match (names.next().map(|name| name.as_str()), names.next()) {
        (Some(Ok(name)), None) if !name.is_empty() => Ok(InstanceId::new(name)),
        _ => Err(refused()),
    }
}
