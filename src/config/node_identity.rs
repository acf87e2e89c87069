//! Who the nodes are: to the API server, and to those who call their kubelet ports.

use super::{ConfigError, provider::Checker, raw};
pub use raw::NodeClient;

/// Who signs the kubelet ports' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// By the CertificateSigningRequest API.
    Signer(String),
    /// Nobody: for API servers that don't verify kubelets.
    SelfSigned,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    pub client: NodeClient,
    pub serving: Serving,
}

pub(super) fn node_identity(check: &Checker, raw: raw::NodeIdentity) -> Result<NodeIdentity, ConfigError> {
    let raw::NodeIdentity { client, serving } = raw;
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let part = |text: &str| !text.is_empty() && text.bytes().all(letter);
    let serving = match serving.split_once('/') {
        None if serving == "selfSigned" => Serving::SelfSigned,
        Some((domain, name)) if part(domain) && domain.contains('.') && part(name) => Serving::Signer(serving),
        _ => {
            let expected = format!("expected selfSigned or a signer's name, such as {}", raw::KUBELET_SERVING);
            return Err(check.error("nodeIdentity.serving", format!("{serving:?}: {expected}")));
        }
    };
    Ok(NodeIdentity { client, serving })
}
