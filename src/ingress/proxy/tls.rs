//! TLS towards clients: the certificate for the name that the client asks for, of the newest picture.

use super::live::Live;
use crate::ingress::certificate;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{fmt, sync::Arc};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Accepts TLS 1.2 and 1.3; HTTP/2 or HTTP/1.1 as the client prefers.
pub(super) fn acceptor(
    live: watch::Receiver<Arc<Live>>,
    crypto: Arc<CryptoProvider>,
) -> Result<TlsAcceptor, rustls::Error> {
    let config = ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(ByName(live)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

struct ByName(watch::Receiver<Arc<Live>>);

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByName")
    }
}

impl ResolvesServerCert for ByName {
    /// None ends the handshake: there is no certificate that would be true for any name.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let live = Arc::clone(&self.0.borrow());
        certificate::for_name(&live.certificates, hello.server_name()?).cloned()
    }
}
