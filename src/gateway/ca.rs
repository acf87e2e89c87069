//! The provider's own certificate authority for agents. It signs two kinds of certificates and is
//! trusted by nobody but agents and this provider:
//!
//! - the gateway's own, made anew at each start, its key only in memory;
//! - one for each agent: 24 hours, common name = instance id, for client authentication.
//!
//! Kept in `<state_dir>/pki/`: `agent-ca.crt`, `agent-ca.key` (0600), or by the caller ([`Ca::make`],
//! [`Ca::from_pem`]). Made once: agents pin it.

use crate::{
    files::write_atomic,
    model::{InstanceId, bootstrap::KeyFingerprint},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long an agent's certificate is good. Renewed at an eighth; long enough to outlast a provider
/// that is down for a night, short enough to need no revocation list.
pub const AGENT_CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are good from a little earlier on: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
const CA_NAME: &str = "pilotlight-agent-ca";

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("can't {operation} {path}")]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't {operation}")]
    Crypto {
        operation: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("the signing request is not accepted")]
    BadRequest(#[source] rcgen::Error),
}

/// A certificate with its private key, both PEM.
pub struct KeyAndCertificate {
    pub key_pem: String,
    pub certificate_pem: String,
}

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl Ca {
    /// Reads the authority kept under `state_dir`, or makes it if there is none.
    pub fn open(state_dir: &Path) -> Result<Self, CaError> {
        let dir = state_dir.join("pki");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(file("create", &dir))?;
        let (key_path, certificate_path) = (dir.join("agent-ca.key"), dir.join("agent-ca.crt"));
        match fs::read_to_string(&key_path) {
            Ok(key_pem) => Self::load(key_pem, &certificate_path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = make_ca()?;
                // The key comes last: where it is, the certificate is. A crash in between leaves a
                // certificate that the next start replaces.
                write_atomic(&certificate_path, made.certificate_pem.as_bytes(), 0o644)
                    .map_err(file("write", &certificate_path))?;
                write_atomic(&key_path, made.key_pem.as_bytes(), 0o600).map_err(file("write", &key_path))?;
                Self::from_pem(made)
            }
            Err(error) => Err(file("read", &key_path)(error)),
        }
    }

    /// A new authority, for [`Ca::from_pem`].
    pub fn make() -> Result<KeyAndCertificate, CaError> {
        make_ca()
    }

    pub fn from_pem(pem: KeyAndCertificate) -> Result<Self, CaError> {
        let KeyAndCertificate { key_pem, certificate_pem } = pem;
        let key = KeyPair::from_pem(&key_pem).map_err(crypto("read the agent CA's key"))?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(crypto("read the agent CA's certificate"))?;
        Ok(Self { issuer, certificate_pem })
    }

    fn load(key_pem: String, certificate_path: &Path) -> Result<Self, CaError> {
        let certificate_pem = fs::read_to_string(certificate_path).map_err(file("read", certificate_path))?;
        Self::from_pem(KeyAndCertificate { key_pem, certificate_pem })
    }

    /// What agents pin.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for the gateway itself, good for these addresses and names.
    pub fn server_certificate(&self, names: &[String]) -> Result<KeyAndCertificate, CaError> {
        let operation = "make the gateway's certificate";
        let key = KeyPair::generate().map_err(crypto(operation))?;
        let mut params = CertificateParams::new(names).map_err(crypto(operation))?;
        // Its key dies with the process, so it needs no short life.
        fill(&mut params, "pilotlight-gateway", CA_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto(operation))?;
        Ok(KeyAndCertificate { key_pem: key.serialize_pem(), certificate_pem: certificate.pem() })
    }

    /// A certificate for one agent. Only the request's public key is used (after checking that the
    /// sender has the private one): who it is for is ours to say.
    pub fn agent_certificate(&self, instance: &InstanceId, request: &AgentRequest) -> Result<String, CaError> {
        let operation = "sign an agent's certificate";
        let mut params = CertificateParams::default();
        fill(&mut params, instance.as_str(), AGENT_CERTIFICATE_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.0.public_key, &self.issuer).map_err(crypto(operation))?;
        Ok(certificate.pem())
    }
}

/// A signing request whose signature is right.
pub struct AgentRequest(CertificateSigningRequestParams);

impl AgentRequest {
    pub fn parse(csr_pem: &str) -> Result<Self, CaError> {
        CertificateSigningRequestParams::from_pem(csr_pem).map(Self).map_err(CaError::BadRequest)
    }

    /// Which key it is for.
    pub fn key(&self) -> KeyFingerprint {
        KeyFingerprint::of(&self.0.public_key.subject_public_key_info())
    }
}

fn make_ca() -> Result<KeyAndCertificate, CaError> {
    let operation = "make the agent CA";
    let key = KeyPair::generate().map_err(crypto(operation))?;
    let mut params = CertificateParams::default();
    fill(&mut params, CA_NAME, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).map_err(crypto(operation))?;
    Ok(KeyAndCertificate { key_pem: key.serialize_pem(), certificate_pem: certificate.pem() })
}

fn fill(params: &mut CertificateParams, common_name: &str, life: Duration) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + since_epoch;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
}

fn file<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CaError + 'a {
    move |source| CaError::File { operation, path: path.to_owned(), source }
}

fn crypto(operation: &'static str) -> impl FnOnce(rcgen::Error) -> CaError {
    move |source| CaError::Crypto { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use x509_parser::{parse_x509_certificate, pem::parse_x509_pem};

    fn csr(common_name: &str) -> String {
        let mut params = CertificateParams::new(vec!["somewhere.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::open(dir.path()).unwrap();
        let second = Ca::open(dir.path()).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        let key = dir.path().join("pki/agent-ca.key");
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(dir.path().join("pki")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn an_agents_certificate_names_the_instance_whatever_its_request_says() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path()).unwrap();
        let request = AgentRequest::parse(&csr("i-someone-else")).unwrap();
        let pem = ca.agent_certificate(&InstanceId::new("i-1"), &request).unwrap();
        let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = parse_x509_certificate(&pem.contents).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=i-1");
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert_eq!(life, (AGENT_CERTIFICATE_LIFE + CLOCK_SKEW).as_secs() as i64);
    }

    #[test]
    fn a_request_that_is_none_or_was_altered_is_refused() {
        assert!(AgentRequest::parse("nonsense").is_err());
        let good = csr("x");
        let (_, pem) = parse_x509_pem(good.as_bytes()).unwrap();
        let mut der = pem.contents;
        let last = der.len() - 1;
        der[last] ^= 1;
        let altered = rustls::pki_types::CertificateSigningRequestDer::from(der);
        assert!(CertificateSigningRequestParams::from_der(&altered).is_err());
    }
}
