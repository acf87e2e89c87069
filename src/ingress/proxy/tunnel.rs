//! After 101 Switching Protocols: bytes both ways until either side ends.

use super::metrics::Counted;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

pub(super) async fn pump(client: OnUpgrade, backend: OnUpgrade, _open: Counted) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection did not switch protocols");
            return;
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::debug!(%error, "a tunnel broke");
    }
}
