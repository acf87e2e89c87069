//! A node's own identity: certificates signed through the CertificateSigningRequest API, as a kubelet
//! gets them. Where a cluster signs none, the node acts as the provider's own account (`nodeIdentity` in
//! provider.yaml), and what is served on its kubelet port may be signed by another signer or by itself.
//!
//! ```text
//!   saved, fresh and of this address? --yes--> use it
//!        | no
//!        v
//!   key made here -> CSR object -> approved -> signed by the cluster -> saved (0600) -> use it
//! ```
//!
//! - The client certificate (`kubernetes.io/kube-apiserver-client-kubelet`, user `system:node:<name>`)
//!   is approved by kube-controller-manager when the provider may create
//!   `certificatesigningrequests/nodeclient`.
//! - The serving certificate (`kubernetes.io/kubelet-serving`) has no approver in Kubernetes; the
//!   provider's own identity approves those it asked for itself, and no others.
//! - EKS signs neither; its own signer for serving certificates is beta.eks.amazonaws.com/app-serving.
//!
//! Sources: pkg/kubelet/certificate, and the signers' page of the Kubernetes documentation.

use crate::config::Serving;
use crate::model::NodeName;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Api(#[from] super::KubeError),
    #[error("the certificate request {name} was {verdict}: {message}")]
    Refused { name: String, verdict: &'static str, message: String },
    #[error(
        "the certificate request {name} was not signed within {seconds} s: does the cluster sign {signer} \
         (kube-controller-manager with --cluster-signing-cert-file)?"
    )]
    NotSigned { name: String, signer: String, seconds: u64 },
    #[error("a key or request for {name} could not be made")]
    Crypto { name: String, source: rcgen::Error },
    #[error("the API server does not know the kept certificate of {0}; a new one is asked for")]
    Stranger(String),
    #[error("{} cannot be written", path.display())]
    Save { path: PathBuf, source: std::io::Error },
}

/// As long as kube-controller-manager's certificates last by default.
const SELF_SIGNED_LASTS: Duration = Duration::from_secs(365 * 24 * 3600);
/// Callers' clocks may be this much behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// How long kube-controller-manager may take to sign.
const SIGNING: Duration = Duration::from_secs(30);

/// The provider's own connection configuration: a kubeconfig file, or in-cluster, or KUBECONFIG.
pub async fn provider_config(kubeconfig: Option<&Path>) -> Result<Config, IdentityError> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| IdentityError::Kubeconfig(e);
    match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| failed(Box::new(e)))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|e| failed(Box::new(e)))
        }
        None => Config::infer().await.map_err(|e| failed(Box::new(e))),
    }
}

/// A client that acts as the node, by its own certificate.
pub fn node_client(provider: &Config, identity: &Identity) -> Result<Client, IdentityError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut config = provider.clone();
    config.auth_info = AuthInfo {
        client_certificate_data: Some(STANDARD.encode(&identity.certificate_pem)),
        client_key_data: Some(STANDARD.encode(&identity.key_pem).into()),
        ..AuthInfo::default()
    };
    super::client::client(config).map_err(|e| IdentityError::Kubeconfig(Box::new(e)))
}

/// The node's client identity, from `dir` or newly signed.
pub async fn client_identity(provider: &Client, dir: &Path, node: &NodeName) -> Result<Identity, IdentityError> {
    let request =
        Request { signer: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth", node, ips: &[] };
    obtain(dir, &request, sign(provider, provider, &request)).await
}

/// The serving identity of the node's kubelet port. Asked for as the node, approved as the provider.
pub async fn serving_identity(
    node_client: &Client,
    provider: &Client,
    dir: &Path,
    node: &NodeName,
    ip: IpAddr,
    serving: &Serving,
) -> Result<Identity, IdentityError> {
    match serving {
        Serving::Signer(signer) => {
            let request = Request { signer, usage: "server auth", node, ips: &[ip] };
            obtain(dir, &request, sign(node_client, provider, &request)).await
        }
        Serving::SelfSigned => {
            let request = Request { signer: SELF, usage: "server auth", node, ips: &[ip] };
            obtain(dir, &request, std::future::ready(self_signed(&request))).await
        }
    }
}

/// Whether the API server refuses this identity (401): its certificate is of another authority.
pub async fn is_stranger(client: &Client, node: &NodeName) -> bool {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    matches!(nodes.get_opt(node.as_str()).await, Err(kube::Error::Api(status)) if status.code == 401)
}

/// Forgets what is kept of a node's identity.
pub fn forget(dir: &Path, node: &NodeName) {
    for suffix in ["client", "serving", SELF] {
        // Absent is as good as removed; anything else shows when the new one is saved.
        drop(std::fs::remove_file(dir.join(format!("{node}.{suffix}.pem"))));
    }
}

/// In place of a signer's name.
const SELF: &str = "self-signed";

struct Request<'a> {
    signer: &'a str,
    usage: &'static str,
    node: &'a NodeName,
    ips: &'a [IpAddr],
}

impl Request<'_> {
    fn serving(&self) -> bool {
        self.usage == "server auth"
    }

    fn user(&self) -> String {
        format!("system:node:{}", self.node)
    }

    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut names: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
        if self.serving() {
            names.push(self.node.to_string());
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, self.user());
        Ok(params)
    }
}

/// What is kept, or else what `make` makes.
async fn obtain(
    dir: &Path,
    request: &Request<'_>,
    make: impl Future<Output = Result<Identity, IdentityError>>,
) -> Result<Identity, IdentityError> {
    let suffix = match (request.serving(), request.signer) {
        (false, _) => "client",
        (true, SELF) => SELF,
        (true, _) => "serving",
    };
    let file = dir.join(format!("{}.{suffix}.pem", request.node));
    if let Some(identity) = load(&file)
        && fresh(&identity, Timestamp::now())
        && names(&identity, request.ips)
    {
        return Ok(identity);
    }
    let identity = make.await?;
    save(&file, &identity).map_err(|source| IdentityError::Save { path: file, source })?;
    Ok(identity)
}

async fn sign(asker: &Client, approver: &Client, request: &Request<'_>) -> Result<Identity, IdentityError> {
    let crypto = |source| IdentityError::Crypto { name: request.user(), source };
    let key = KeyPair::generate().map_err(crypto)?;
    let params = request.params().map_err(crypto)?;
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(crypto)?;

    let requests: Api<CertificateSigningRequest> = Api::all(asker.clone());
    let object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": { "generateName": format!("{}-", request.node) },
        "spec": {
            "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, csr),
            "signerName": request.signer,
            "usages": ["digital signature", request.usage],
        },
    }))
    .expect("a certificate request of this shape is valid");
    let api = |operation, name: &str| {
        let object = format!("the certificate request {name}");
        move |source: kube::Error| super::KubeError::new(operation, object, &source)
    };
    let created =
        requests.create(&PostParams::default(), &object).await.map_err(api("create", request.node.as_str()))?;
    let name = created.metadata.name.unwrap_or_default();
    if request.serving() {
        approve(approver, &name).await.map_err(api("approve", &name))?;
    }
    let certificate_pem = wait_signed(&requests, &name, request.signer).await?;
    // Signed requests are garbage, which kube-controller-manager collects after an hour.
    Ok(Identity { certificate_pem, key_pem: key.serialize_pem() })
}

/// Nobody stands behind it: it only hides what is said from those who listen.
fn self_signed(request: &Request<'_>) -> Result<Identity, IdentityError> {
    let crypto = |source| IdentityError::Crypto { name: request.user(), source };
    let key = KeyPair::generate().map_err(crypto)?;
    let mut params = request.params().map_err(crypto)?;
    let since_epoch = Duration::from_secs(u64::try_from(Timestamp::now().as_second()).unwrap_or_default());
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch - CLOCK_SKEW;
    params.not_after = params.not_before + SELF_SIGNED_LASTS;
    let certificate = params.self_signed(&key).map_err(crypto)?;
    Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

async fn approve(approver: &Client, name: &str) -> Result<(), kube::Error> {
    let requests: Api<CertificateSigningRequest> = Api::all(approver.clone());
    let approval = json!({ "status": { "conditions": [{
        "type": "Approved",
        "status": "True",
        "reason": "PilotlightServingCertificate",
        "message": "asked for by this provider for the kubelet port of its own virtual node",
    }]}});
    requests.patch_approval(name, &PatchParams::default(), &Patch::Merge(approval)).await.map(drop)
}

async fn wait_signed(
    requests: &Api<CertificateSigningRequest>,
    name: &str,
    signer: &str,
) -> Result<String, IdentityError> {
    let deadline = tokio::time::Instant::now() + SIGNING;
    let mut pause = Duration::from_millis(20);
    loop {
        let request = requests
            .get(name)
            .await
            .map_err(|source| super::KubeError::new("return", format!("the certificate request {name}"), &source))?;
        let status = request.status.unwrap_or_default();
        for condition in status.conditions.into_iter().flatten() {
            let verdict = match condition.type_.as_str() {
                "Denied" => "denied",
                "Failed" => "not signed",
                _ => continue,
            };
            let message = condition.message.unwrap_or_default();
            return Err(IdentityError::Refused { name: name.to_owned(), verdict, message });
        }
        if let Some(certificate) = status.certificate
            && let Ok(pem) = String::from_utf8(certificate.0)
        {
            return Ok(pem);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(IdentityError::NotSigned {
                name: name.to_owned(),
                signer: signer.to_owned(),
                seconds: SIGNING.as_secs(),
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// When the certificate should be replaced: after 80 % of its life, as a kubelet does
/// (k8s.io/client-go/util/certificate: between 70 and 90 %).
pub fn renew_at(identity: &Identity) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(identity.certificate_pem.as_bytes()).ok()?;
    let validity = pem.parse_x509().ok()?.validity().clone();
    let (start, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Timestamp::from_second(start + (end - start) / 5 * 4).ok()
}

fn fresh(identity: &Identity, now: Timestamp) -> bool {
    renew_at(identity).is_some_and(|at| now < at)
}

/// Whether the certificate is for all these addresses: the configured one may have changed since it was signed.
fn names(identity: &Identity, ips: &[IpAddr]) -> bool {
    let named = || -> Option<Vec<IpAddr>> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(identity.certificate_pem.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let names = certificate.subject_alternative_name().ok()??.value.general_names.iter();
        let address = |octets: &[u8]| match octets.len() {
            4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        };
        Some(
            names
                .filter_map(|name| match name {
                    x509_parser::extensions::GeneralName::IPAddress(octets) => address(octets),
                    _ => None,
                })
                .collect(),
        )
    };
    ips.is_empty() || named().is_some_and(|named| ips.iter().all(|ip| named.contains(ip)))
}

fn load(file: &Path) -> Option<Identity> {
    let text = std::fs::read_to_string(file).ok()?;
    let split = text.find("-----BEGIN PRIVATE KEY-----")?;
    Some(Identity { certificate_pem: text[..split].to_owned(), key_pem: text[split..].to_owned() })
}

fn save(file: &Path, identity: &Identity) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let temporary = file.with_extension("tmp");
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(out, "{}\n{}", identity.certificate_pem.trim_end(), identity.key_pem.trim_end())?;
    out.sync_all()?;
    std::fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn kept(dir: &Path, ip: [u8; 4]) -> Identity {
        let node = NodeName::new("pilotlight-a");
        let ips = [IpAddr::from(ip)];
        let request = Request { signer: SELF, usage: "server auth", node: &node, ips: &ips };
        obtain(dir, &request, std::future::ready(self_signed(&request))).await.unwrap()
    }

    #[tokio::test]
    async fn a_kept_serving_certificate_is_used_again_unless_the_address_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let first = kept(dir.path(), [10, 0, 0, 1]).await;
        let same = |other: &Identity| first.certificate_pem.trim_end() == other.certificate_pem.trim_end();
        assert!(same(&kept(dir.path(), [10, 0, 0, 1]).await));
        assert!(!same(&kept(dir.path(), [10, 0, 0, 2]).await));
    }
}
