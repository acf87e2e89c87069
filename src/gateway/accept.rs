//! Who is let in to the port at all: handshakes, and the connections of those that have shown no certificate yet,
//! are few, short and shared out among addresses.
//!
//! ```text
//!   TCP --a place, of all and of its address?--> TLS (10 s) --a certificate--> let in; few with the same one
//!    |                                            | none
//!    v no                                         v
//!   closed, counted <--no-- a place among strangers? --yes--> let in for a minute and 128 KiB
//! ```
//!
//! So one who opens as many connections as he can holds the few places of his address, for a minute, and what
//! he makes us remember is bounded. Agents that have registered are not among strangers.

use crate::telemetry::Metrics;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    hash::Hash,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of accept: too many open files, mostly. Others may be closed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that are let in and not served yet.
const QUEUE: usize = 64;

/// How many at a time.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// All agents of a provider come back at once after it was restarted.
    pub handshakes: usize,
    pub strangers: usize,
    /// Handshakes and strangers. Behind one address there is one instance, with a broken connection or two.
    pub of_one_address: usize,
    /// A session, and what is left of those before it.
    pub of_one_certificate: usize,
    /// A registration takes a second, with a slow STS five.
    pub stranger_life: Duration,
    /// What a stranger may send. A registration has at most some 30 KiB.
    pub stranger_bytes: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            handshakes: 1024,
            strangers: 1024,
            of_one_address: 32,
            of_one_certificate: 16,
            stranger_life: Duration::from_secs(60),
            stranger_bytes: 128 << 10,
        }
    }
}

/// A server that asks for a certificate of `ca_pem` and lets in who has none.
pub fn tls(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // An agent connects once or twice in its life: nothing is kept for the next time, and each time it shows its
    // certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until cancelled; what is let in comes out of the queue.
pub async fn run(
    listener: TcpListener,
    tls: TlsAcceptor,
    places: Places,
    metrics: Metrics,
    let_in: mpsc::Sender<io::Result<Admitted>>,
    cancel: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(places.handshakes));
    let door = Arc::new(Door {
        tls,
        places,
        strangers: Arc::new(Semaphore::new(places.strangers)),
        addresses: Arc::default(),
        certificates: Arc::default(),
        metrics,
        let_in,
    });
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = cancel.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an agent's connection could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
            door.metrics.connection_refused("handshakes");
            continue;
        };
        let address = peer.ip().to_canonical();
        let Some(of_one) = door.addresses.enter(address, places.of_one_address) else {
            door.metrics.connection_refused("one-address");
            continue;
        };
        tasks.spawn(Arc::clone(&door).welcome(stream, of_one, handshake));
    }
}

/// The queue's sender; use [`channel`].
pub fn channel() -> (mpsc::Sender<io::Result<Admitted>>, mpsc::Receiver<io::Result<Admitted>>) {
    mpsc::channel(QUEUE)
}

struct Door {
    tls: TlsAcceptor,
    places: Places,
    strangers: Arc<Semaphore>,
    addresses: Arc<Counts<IpAddr>>,
    /// By their SHA-256.
    certificates: Arc<Counts<[u8; 32]>>,
    metrics: Metrics,
    let_in: mpsc::Sender<io::Result<Admitted>>,
}

impl Door {
    async fn welcome(self: Arc<Self>, stream: TcpStream, of_one: Counted<IpAddr>, handshake: OwnedSemaphorePermit) {
        let address = of_one.key;
        // Without it small messages wait for the acknowledgement of those before.
        let _ = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "a handshake failed"),
            Err(_) => return tracing::debug!(%address, "a handshake took too long"),
        };
        drop(handshake);
        let place = match self.place(&stream, of_one) {
            Ok(place) => place,
            Err(reason) => return self.metrics.connection_refused(reason),
        };
        // An error: the server has ended.
        let _ = self.let_in.send(Ok(Admitted { stream: Box::new(stream), place })).await;
    }

    fn place(&self, stream: &TlsStream<TcpStream>, of_one: Counted<IpAddr>) -> Result<Place, &'static str> {
        let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        if let Some(certificate) = shown {
            let digest = Sha256::digest(certificate).into();
            let counted = self.certificates.enter(digest, self.places.of_one_certificate);
            return counted.map(|counted| Place::Known { _counted: counted }).ok_or("one-certificate");
        }
        let all = Arc::clone(&self.strangers).try_acquire_owned().map_err(|_| "strangers")?;
        let until = Box::pin(sleep(self.places.stranger_life));
        Ok(Place::Stranger { until, bytes: self.places.stranger_bytes, _counted: of_one, _all: all })
    }
}

/// How many there are of each key; those with none are forgotten.
struct Counts<K>(Mutex<HashMap<K, usize>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

struct Counted<K: Clone + Eq + Hash> {
    counts: Arc<Counts<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn enter(self: &Arc<Self>, key: K, most: usize) -> Option<Counted<K>> {
        // Single steps under this lock: a panic leaves no half of one.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { counts: Arc::clone(self), key })
    }
}

impl<K: Clone + Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

enum Place {
    Known { _counted: Counted<[u8; 32]> },
    Stranger { until: Pin<Box<Sleep>>, bytes: usize, _counted: Counted<IpAddr>, _all: OwnedSemaphorePermit },
}

/// A connection that was let in. A stranger's ends after its time, or when it has sent too much.
pub struct Admitted {
    /// Boxed: on its way into the connection's task it is moved often, and that task has room for each move.
    stream: Box<TlsStream<TcpStream>>,
    place: Place,
}

impl Connected for Admitted {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, place } = self.get_mut();
        let before = buffer.filled().len();
        if let Place::Stranger { until, bytes, .. } = place
            && (*bytes == 0 || until.as_mut().poll(cx).is_ready())
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no certificate in time")));
        }
        let read = Pin::new(stream).poll_read(cx, buffer);
        if let Place::Stranger { bytes, .. } = place {
            *bytes = bytes.saturating_sub(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
