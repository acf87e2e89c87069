//! Who this instance is to the provider: a private key that never leaves the machine, and a
//! certificate for it.
//!
//! ```text
//!   no file --make a key--> key --register (a proof)--> key + certificate <---renew at 1/8 of its life---+
//!                            ^                            |         |                                    |
//!                            +----- it has run out -------+         +------------------------------------+
//! ```
//!
//! Kept in `<state_dir>/identity` (0600, one file, so that key and certificate always match). The provider
//! gives this instance to the first key that proves it, and to no other: so the key is kept before it is
//! shown, and stays the same. One who asks again with it (the answer was lost, the agent was restarted, the
//! certificate ran out while the provider was away) is answered again.

use super::{
    attest::{self, AttestError},
    config::{AgentConfig, Proof},
};
use crate::{
    files::write_atomic,
    model::bootstrap::KeyFingerprint,
    pipe,
    proto::{
        ChallengeRequest, RegisterRequest, RenewRequest, agent_gateway_client::AgentGatewayClient,
        bootstrap_client::BootstrapClient, register_request,
    },
};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
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
/// Two certificates, or a challenge.
const LONGEST_ANSWER: usize = 64 << 10;

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
    #[error("this instance can't prove which one it is")]
    Proof(#[from] AttestError),
}

impl IdentityError {
    /// Whether trying again can't help. What EC2 attests may be refused for a while: the provider may not
    /// have heard of a new instance yet.
    pub fn is_final(&self, proof: &Proof) -> bool {
        match self {
            Self::Refused(_) => matches!(proof, Proof::Token(_)),
            Self::Endpoint(..) | Self::Key(_) => true,
            _ => false,
        }
    }
}

#[derive(Clone)]
pub struct Identity {
    key_pem: String,
    certificate_pem: String,
    not_before: u64,
    not_after: u64,
}

/// What the file says.
pub enum Kept {
    Whole(Identity),
    /// Its certificate is not there yet, or has run out.
    Key(Key),
}

/// The instance's private key.
pub struct Key(KeyPair);

impl Key {
    /// A new one, kept before anybody sees it.
    fn make(config: &AgentConfig) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::Key)?;
        keep(config, &key.serialize_pem())?;
        Ok(Self(key))
    }

    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of(&self.0.subject_public_key_info())
    }

    /// A signing request. The provider uses its public key alone.
    fn request(&self) -> Result<String, IdentityError> {
        let csr = CertificateParams::default().serialize_request(&self.0).map_err(IdentityError::Key)?;
        csr.pem().map_err(IdentityError::Key)
    }
}

impl Kept {
    /// What was kept, if it can be used; else a new key.
    pub fn load(config: &AgentConfig) -> Result<Self, IdentityError> {
        let text = fs::read_to_string(path(config)).unwrap_or_default();
        let (key_pem, certificate_pem) = match text.find("-----BEGIN CERTIFICATE-----") {
            Some(start) => text.split_at(start),
            None => (text.as_str(), ""),
        };
        let Ok(key) = KeyPair::from_pem(key_pem) else { return Key::make(config).map(Self::Key) };
        if certificate_pem.is_empty() {
            return Ok(Self::Key(Key(key)));
        }
        match Identity::new(config, key_pem.to_owned(), certificate_pem.to_owned()) {
            Ok(identity) if !identity.has_expired() => Ok(Self::Whole(identity)),
            Ok(_) => Ok(Self::Key(Key(key))),
            // Of another instance, from an image that was made carelessly.
            Err(_) => Key::make(config).map(Self::Key),
        }
    }
}

impl Identity {
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
        keep(config, &format!("{}{}", self.key_pem, self.certificate_pem))
    }

    /// The provider takes it no longer.
    pub fn has_expired(&self) -> bool {
        self.not_after <= unix_now()
    }

    /// Until an eighth of the certificate's life is over: with 24 hours, a provider may be away for
    /// 21 of them before its agents are strangers.
    pub fn renew_in(&self) -> Duration {
        let due = self.not_before + self.not_after.saturating_sub(self.not_before) / 8;
        Duration::from_secs(due.saturating_sub(unix_now()))
    }
}

/// Proves which instance this is, and keeps what the provider gives for it.
pub async fn register(config: &AgentConfig, key: &Key) -> Result<Identity, IdentityError> {
    let csr_pem = key.request()?;
    let mut client = BootstrapClient::new(connect(config, None).await?).max_decoding_message_size(LONGEST_ANSWER);
    let proof = match &config.proof {
        Proof::Token(token) => register_request::Proof::LocalToken(token.clone()),
        Proof::Ec2 { cluster } => {
            let mut ask = tonic::Request::new(ChallengeRequest {});
            ask.set_timeout(CALL_TIMEOUT);
            let call = |status| IdentityError::Call("challenge", Box::new(status));
            let challenge = client.challenge(ask).await.map_err(call)?.into_inner();
            attest::prove(&config.imds(), cluster, &key.fingerprint(), &challenge, SystemTime::now()).await?
        }
    };
    let mut register =
        tonic::Request::new(RegisterRequest { instance_id: config.instance.to_string(), csr_pem, proof: Some(proof) });
    register.set_timeout(CALL_TIMEOUT);
    let response = client.register(register).await.map_err(|status| match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::InvalidArgument => IdentityError::Refused(Box::new(status)),
        _ => IdentityError::Call("registration", Box::new(status)),
    })?;
    let identity = Identity::new(config, key.0.serialize_pem(), response.into_inner().certificate_pem)?;
    identity.keep(config)?;
    Ok(identity)
}

/// A fresh certificate for the same key, over the connection that the old one authenticates.
pub async fn renew(
    config: &AgentConfig,
    identity: &Identity,
    client: &mut AgentGatewayClient<Channel>,
) -> Result<Identity, IdentityError> {
    let key = Key(KeyPair::from_pem(&identity.key_pem).map_err(IdentityError::Key)?);
    let mut renew = tonic::Request::new(RenewRequest { csr_pem: key.request()? });
    renew.set_timeout(CALL_TIMEOUT);
    let response = client.renew(renew).await.map_err(|status| IdentityError::Call("renewal", Box::new(status)))?;
    let identity = Identity::new(config, identity.key_pem.clone(), response.into_inner().certificate_pem)?;
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
        .local_address(config.address)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(pipe::KEEPALIVE)
        .keep_alive_timeout(pipe::KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(pipe::STREAM_WINDOW)
        .initial_connection_window_size(pipe::CONNECTION_WINDOW);
    endpoint.connect().await.map_err(|error| IdentityError::Connect(config.provider.clone(), error))
}

fn keep(config: &AgentConfig, text: &str) -> Result<(), IdentityError> {
    let failed = |error| IdentityError::Write(path(config), error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir).map_err(failed)?;
    write_atomic(&path(config), text.as_bytes(), 0o600).map_err(failed)
}

fn path(config: &AgentConfig) -> PathBuf {
    Path::new(&config.state_dir).join("identity")
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
