//! The gRPC services: who is calling, and what they may do.

use super::{Shared, hub::Said, session, tunnels};
use crate::{
    gateway::AgentRequest,
    model::{InstanceId, InstanceRecord, InstanceState, TunnelHead, bootstrap::KeyFingerprint},
    ports::{Challenge, Claim, ClaimError, DocumentProof, InstanceProof, StsAudience, StsProof},
    proto::{
        self, AgentMessage, ChallengeRequest, ChallengeResponse, ProviderMessage, RegisterRequest, RegisterResponse,
        RenewRequest, TunnelFrame, agent_gateway_server::AgentGateway, bootstrap_server, register_request::Proof,
        tunnel_frame::Kind,
    },
};
use async_trait::async_trait;
use futures::{StreamExt, stream::Map};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use x509_parser::{certificate::X509Certificate, parse_x509_certificate};

/// Messages to an agent that wait for its connection.
const SESSION_QUEUE: usize = 8;
/// Frames of a tunnel that wait: the frames themselves are bounded in size.
const TUNNEL_QUEUE: usize = 2;
/// EC2's have 19 characters, the local cloud's fewer.
const LONGEST_ID: usize = 64;
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Bootstrap(pub Arc<Shared>);
pub(super) struct Agents(pub Arc<Shared>);

#[async_trait]
impl bootstrap_server::Bootstrap for Bootstrap {
    async fn challenge(&self, request: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let challenge = self.0.cloud.challenge(peer(&request)?);
        let Challenge { nonce, sts, document } =
            challenge.ok_or_else(|| Status::unimplemented("instances of this cloud prove themselves by a token"))?;
        Ok(Response::new(ChallengeResponse {
            nonce: nonce.into(),
            sts: sts.map(|StsAudience { region, host }| proto::StsAudience { region, host }),
            identity_document: document,
        }))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let peer = peer(&request)?;
        let (claim, csr) = claim(peer, request.into_inner()).map_err(|problem| {
            self.0.metrics.registration_refused("malformed");
            tracing::warn!(%peer, problem, "a registration was refused");
            refused()
        })?;
        let record = self.0.cloud.claim(&claim).await.map_err(|error| {
            self.0.metrics.registration_refused(error.reason());
            tracing::warn!(instance = %claim.instance, %peer, reason = error.reason(), error = &error as &dyn std::error::Error, "a registration was refused");
            match error {
                ClaimError::Unsettled(..) => Status::unavailable("the registration can't be settled now"),
                ClaimError::NotAdmitted(..) | ClaimError::BadProof(..) => refused(),
            }
        })?;
        let response = certify(&self.0, &record.id, &csr)?;
        self.0.metrics.registered();
        tracing::info!(instance = %record.id, %peer, "an instance has registered");
        Ok(Response::new(response))
    }
}

/// Which check failed is in our log, not for a stranger.
fn refused() -> Status {
    Status::permission_denied("the proof is not accepted")
}

fn peer<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let peer = request.remote_addr().ok_or_else(|| Status::internal("the peer has no address"))?;
    Ok(peer.ip().to_canonical())
}

/// What can be said of a registration without asking anyone. An error says what has not the right form.
fn claim(peer: IpAddr, request: RegisterRequest) -> Result<(Claim, AgentRequest), &'static str> {
    let id = request.instance_id;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(letter) {
        return Err("its instance id has not the right form");
    }
    let proof = match request.proof.ok_or("it has no proof")? {
        Proof::LocalToken(token) => InstanceProof::Token(token),
        Proof::Sts(proto::StsProof { nonce, access_key_id, date, session_token, signature }) => {
            let (nonce, signature) = (nonce.into(), signature.into());
            InstanceProof::Sts(StsProof { nonce, access_key_id, date, session_token, signature })
        }
        Proof::IdentityDocument(proto::IdentityDocument { document, signature }) => {
            InstanceProof::Document(DocumentProof { document: document.into(), signature })
        }
    };
    let csr = AgentRequest::parse(&request.csr_pem).map_err(|_| "its signing request is not accepted")?;
    Ok((Claim { instance: InstanceId::new(id), peer, key: csr.key(), proof }, csr))
}

#[async_trait]
impl AgentGateway for Agents {
    type SessionStream = Map<ReceiverStream<Said>, fn(Said) -> Result<ProviderMessage, Status>>;
    type TunnelStream = ReceiverStream<Result<TunnelFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let instance = caller(&request)?;
        let (outbound, stream) = mpsc::channel(SESSION_QUEUE);
        self.0.tasks.spawn(session::run(Arc::clone(&self.0), instance, request.into_inner(), outbound));
        Ok(Response::new(ReceiverStream::new(stream).map(|said| *said)))
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
        let key = caller_key(&request)?;
        let csr = AgentRequest::parse(&request.into_inner().csr_pem)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // The instance stays its first key's: who has stolen a certificate for an hour has it for no longer.
        if csr.key() != key {
            tracing::error!(%instance, "an agent tried to renew its certificate for another key");
            return Err(Status::permission_denied("a certificate is renewed for the key that it has"));
        }
        let record = self.0.cloud.find(&instance).await.map_err(|error| {
            tracing::warn!(%instance, error = &error as &dyn std::error::Error, "a renewal can't be settled");
            Status::unavailable("the renewal can't be settled now")
        })?;
        let live = |record: &InstanceRecord| matches!(record.state, InstanceState::Pending | InstanceState::Running);
        if !record.as_ref().is_some_and(live) {
            tracing::warn!(%instance, "a renewal was refused: the instance is gone");
            return Err(Status::permission_denied("the instance is gone"));
        }
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
    certificate(request, |certificate| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if i128::from(certificate.validity().not_after.timestamp()) <= i128::from(now) {
            return Err(Status::unauthenticated("the client certificate has expired"));
        }
        let mut names = certificate.subject().iter_common_name();
        match (names.next().map(|name| name.as_str()), names.next()) {
            (Some(Ok(name)), None) if !name.is_empty() => Ok(InstanceId::new(name)),
            _ => Err(no_certificate()),
        }
    })
}

/// The key that the caller has shown in the handshake.
fn caller_key<T>(request: &Request<T>) -> Result<KeyFingerprint, Status> {
    certificate(request, |certificate| Ok(KeyFingerprint::of(certificate.public_key().raw)))
}

fn certificate<T, R>(
    request: &Request<T>,
    read: impl FnOnce(&X509Certificate<'_>) -> Result<R, Status>,
) -> Result<R, Status> {
    let certificates = request.peer_certs().ok_or_else(no_certificate)?;
    let first = certificates.first().ok_or_else(no_certificate)?;
    let (_, certificate) = parse_x509_certificate(first).map_err(|_| no_certificate())?;
    read(&certificate)
}

fn no_certificate() -> Status {
    Status::unauthenticated("a client certificate is required")
}
