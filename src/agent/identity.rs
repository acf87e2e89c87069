//! Who this instance is to the provider: a private key that never leaves the machine, and a
//! certificate for it.
//!
//! ```text
//!   no file, or not ours ---register (token, once)---> identity file <---renew at 1/8 of its life---+
//!   file, certificate in time -------------------------^      |                                     |
//!                                                             +-------------------------------------+
//! ```
//!
//! Kept in `<state_dir>/identity` (0600, key and certificate in one file, so that they always match):
//! an agent that starts again needs no new claim, which it would not get.

use super::config::{AgentConfig, Proof};
use crate::{
    files::write_atomic,
    pipe,
    proto::{
        RegisterRequest, RenewRequest, agent_gateway_client::AgentGatewayClient, bootstrap_client::BootstrapClient,
    },
};
use rcgen::{CertificateParams, KeyPair};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use x509_parser::{parse_x509_certificate, pem::Pem};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("can't make a key or a signing request")]
    Key(#[source] rcgen::Error),
    #[error("can't keep the identity in {0}")]
    Write(PathBuf, #[source] io::Error),
    #[error("the connection to {0} can't be set up")]
    Endpoint(String, #[source] tonic::transport::Error),
    #[error("can't connect to {0}")]
    Connect(String, #[source] tonic::transport::Error),
    #[error("the provider does not accept this instance's proof")]
    Refused(#[source] Box<Status>),
    #[error("the provider did not answer the {0}")]
    Call(&'static str, #[source] Box<Status>),
    #[error("the provider's certificate for this instance is not usable: {0}")]
    BadCertificate(&'static str),
}

impl IdentityError {
    /// Whether trying again can't help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Endpoint(..))
    }
}

#[derive(Clone)]
pub struct Identity {
    key_pem: String,
    certificate_pem: String,
    not_before: u64,
    not_after: u64,
}

impl Identity {
    /// The kept identity, if it is one of this instance and in time.
    pub fn load(config: &AgentConfig) -> Option<Self> {
        let text = fs::read_to_string(path(config)).ok()?;
        let start = text.find("-----BEGIN CERTIFICATE-----")?;
        let (key, certificate) = text.split_at(start);
        Self::new(config, key.to_owned(), certificate.to_owned())
            .ok()
            .filter(|identity| identity.not_after > unix_now() && KeyPair::from_pem(&identity.key_pem).is_ok())
    }

    fn new(config: &AgentConfig, key_pem: String, certificate_pem: String) -> Result<Self, IdentityError> {
        let bad = IdentityError::BadCertificate;
        let pem = Pem::iter_from_buffer(certificate_pem.as_bytes()).next();
        let pem = pem.and_then(Result::ok).ok_or(bad("it is not PEM"))?;
        let (_, certificate) = parse_x509_certificate(&pem.contents).map_err(|_| bad("it is not X.509"))?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        if name != Some(config.instance.as_str()) {
            return Err(bad("it is for another instance"));
        }
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let (not_before, not_after) = (
            seconds(certificate.validity().not_before.timestamp()),
            seconds(certificate.validity().not_after.timestamp()),
        );
        Ok(Self { key_pem, certificate_pem, not_before, not_after })
    }

    fn keep(&self, config: &AgentConfig) -> Result<(), IdentityError> {
        let failed = |error| IdentityError::Write(path(config), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir).map_err(failed)?;
        let text = format!("{}{}", self.key_pem, self.certificate_pem);
        write_atomic(&path(config), text.as_bytes(), 0o600).map_err(failed)
    }

    /// Until an eighth of the certificate's life is over: with 24 hours, a provider may be away for
    /// 21 of them before its agents are strangers.
    pub fn renew_in(&self) -> Duration {
        let due = self.not_before + self.not_after.saturating_sub(self.not_before) / 8;
        Duration::from_secs(due.saturating_sub(unix_now()))
    }
}

/// Proves once which instance this is, and keeps what the provider gives for it.
pub async fn register(config: &AgentConfig) -> Result<Identity, IdentityError> {
    let (key_pem, csr_pem) = request()?;
    let channel = connect(config, None).await?;
    let mut register = tonic::Request::new(RegisterRequest {
        instance_id: config.instance.to_string(),
        token: match &config.proof {
            Proof::Token(token) => token.clone(),
            Proof::Ec2 { .. } => String::new(),
        },
        csr_pem,
    });
    register.set_timeout(CALL_TIMEOUT);
    let response = BootstrapClient::new(channel).register(register).await.map_err(|status| match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::InvalidArgument => IdentityError::Refused(Box::new(status)),
        _ => IdentityError::Call("registration", Box::new(status)),
    })?;
    let identity = Identity::new(config, key_pem, response.into_inner().certificate_pem)?;
    identity.keep(config)?;
    Ok(identity)
}

/// A fresh key and certificate over the connection that the old one authenticates.
pub async fn renew(config: &AgentConfig, client: &mut AgentGatewayClient<Channel>) -> Result<Identity, IdentityError> {
    let (key_pem, csr_pem) = request()?;
    let mut renew = tonic::Request::new(RenewRequest { csr_pem });
    renew.set_timeout(CALL_TIMEOUT);
    let response = client.renew(renew).await.map_err(|status| IdentityError::Call("renewal", Box::new(status)))?;
    let identity = Identity::new(config, key_pem, response.into_inner().certificate_pem)?;
    identity.keep(config)?;
    Ok(identity)
}

/// A connection to the provider, trusting the pinned authority alone.
pub async fn connect(config: &AgentConfig, identity: Option<&Identity>) -> Result<Channel, IdentityError> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&config.ca_pem)).timeout(CONNECT_TIMEOUT);
    if let Some(identity) = identity {
        tls = tls.identity(tonic::transport::Identity::from_pem(&identity.certificate_pem, &identity.key_pem));
    }
    let endpoint = Endpoint::from_shared(config.provider.clone())
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| IdentityError::Endpoint(config.provider.clone(), error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(pipe::KEEPALIVE)
        .keep_alive_timeout(pipe::KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(pipe::STREAM_WINDOW)
        .initial_connection_window_size(pipe::CONNECTION_WINDOW);
    endpoint.connect().await.map_err(|error| IdentityError::Connect(config.provider.clone(), error))
}

/// A new key, and a signing request for it. The provider uses its public key alone.
fn request() -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate().map_err(IdentityError::Key)?;
    let csr = CertificateParams::default().serialize_request(&key).map_err(IdentityError::Key)?;
    Ok((key.serialize_pem(), csr.pem().map_err(IdentityError::Key)?))
}

fn path(config: &AgentConfig) -> PathBuf {
    Path::new(&config.state_dir).join("identity")
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
