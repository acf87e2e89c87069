//! TLS of the kubelet API: a serving certificate that can be replaced while connections live, and client
//! certificates that are asked for but judged only when a request comes, as the kubelet does: one
//! that is not good must not keep out a caller whose token is.

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    #[error("the {0} is not PEM")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    #[error("the {0} can't be used")]
    Unusable(&'static str, #[source] rustls::Error),
    #[error("the client CA can't be used")]
    ClientCa(#[source] rustls::server::VerifierBuilderError),
}

/// The serving certificate; `replace` affects the connections that come after it.
pub struct ServingCertificate(RwLock<Arc<CertifiedKey>>);

impl ServingCertificate {
    pub fn new(certificate_pem: &str, key_pem: &str) -> Result<Self, BadCertificate> {
        certified_key(certificate_pem, key_pem).map(|key| Self(RwLock::new(Arc::new(key))))
    }

    /// A bad one is refused and the present one stays.
    pub fn replace(&self, certificate_pem: &str, key_pem: &str) -> Result<(), BadCertificate> {
        let key = Arc::new(certified_key(certificate_pem, key_pem)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingCertificate")
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified_key(certificate_pem: &str, key_pem: &str) -> Result<CertifiedKey, BadCertificate> {
    let chain = certificates(certificate_pem, "serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| BadCertificate::Pem("serving key", e))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| BadCertificate::Unusable("serving certificate", error))
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, BadCertificate> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| BadCertificate::Pem(what, e))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Judges client certificates by the client CA.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    trusted: Option<Arc<dyn ClientCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    /// Without a client CA no certificate names anyone.
    pub fn new(client_ca_pem: Option<&str>) -> Result<Self, BadCertificate> {
        let provider = provider();
        let trusted = match client_ca_pem {
            None => None,
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem, "client CA")? {
                    roots.add(certificate).map_err(|error| BadCertificate::Unusable("client CA", error))?;
                }
                let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
                Some(builder.build().map_err(BadCertificate::ClientCa)?)
            }
        };
        Ok(Self { trusted, provider })
    }

    /// The caller's own certificate, if the client CA stands behind it now.
    pub fn verify<'a>(&self, chain: &'a [CertificateDer<'static>]) -> Option<&'a CertificateDer<'static>> {
        let (own, intermediates) = chain.split_first()?;
        self.trusted.as_ref()?.verify_client_cert(own, intermediates, UnixTime::now()).ok()?;
        Some(own)
    }
}

/// At the handshake: the caller must have the key of whatever certificate it shows, no more.
impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trusted.as_ref().map_or(&[], |trusted| trusted.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // `verify` decides, when a request comes.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn server_config(
    serving: Arc<dyn ResolvesServerCert>,
    clients: Arc<ClientVerifier>,
) -> Result<ServerConfig, BadCertificate> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| BadCertificate::Unusable("TLS protocol versions", error))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(serving);
    // HTTP/1.1 alone: an upgrade to SPDY or WebSocket needs the whole connection.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
