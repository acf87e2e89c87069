//! Listeners and the connections that come in.
//!
//! ```text
//!   accepting --stop--> draining: no new connection; idle ones are closed, the others after the request in flight
//!                          --all closed, or the time is up--> ended
//! ```

use super::forward::{Forwarder, MOST_WAITING};
use super::live::Live;
use super::metrics::{Counted, Metrics};
use super::tls;
use crate::ingress::table::Listener;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::crypto::CryptoProvider;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A TLS handshake that takes longer is not meant, or can't be helped.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections on all listeners together; the next one waits in the kernel's queue.
    pub connections: usize,
    /// Requests at once on an HTTP/2 connection.
    pub streams: u32,
    /// The head of a request, bytes.
    pub head: usize,
    /// A connection without a request, or with one whose head doesn't come to its end, is closed after this. Longer
    /// than clients keep theirs: whoever closes an idle connection must not be the one that doesn't send.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, streams: 250, head: 64 * 1024, idle: Duration::from_secs(300) }
    }
}

/// The data plane. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    forwarder: Arc<Forwarder>,
    tls: TlsAcceptor,
    limits: Limits,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    tunnels: TaskTracker,
    /// Ends what the drain left over.
    abort: CancellationToken,
}

impl Proxy {
    /// An error: the crypto provider can't do TLS.
    pub fn new(
        live: watch::Receiver<Arc<Live>>,
        metrics: Metrics,
        limits: Limits,
        crypto: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let tunnels = TaskTracker::new();
        let tls = tls::acceptor(live.clone(), crypto)?;
        let waiting = Semaphore::new(MOST_WAITING);
        let forwarder = Arc::new(Forwarder { live, metrics, tunnels: tunnels.clone(), waiting });
        let places = Arc::new(Semaphore::new(limits.connections));
        let (connections, abort) = (TaskTracker::new(), CancellationToken::new());
        Ok(Self { forwarder, tls, limits, places, connections, tunnels, abort })
    }

    /// Serves until `stop`, then tells every connection to end after what it is doing, and returns at once.
    pub async fn serve(&self, socket: TcpListener, listener: Listener, stop: CancellationToken) {
        let graceful = GracefulShutdown::new();
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&self.places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = socket.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or a client that is gone already: others may still come.
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (this, watcher) = (self.clone(), graceful.watcher());
            self.connections.spawn(async move { this.connection(stream, peer, listener, place, watcher).await });
        }
        drop(socket);
        // Tells the connections; they are waited for in `drain`, for as long as that allows.
        self.connections.spawn(graceful.shutdown());
    }

    /// Waits until every connection and tunnel is closed, for `at_most`; what is left then is cut off.
    pub async fn drain(&self, at_most: Duration) {
        self.connections.close();
        self.tunnels.close();
        let all = async {
            self.connections.wait().await;
            self.tunnels.wait().await;
        };
        if tokio::time::timeout(at_most, all).await.is_err() {
            tracing::warn!(left = self.connections.len() + self.tunnels.len(), "connections are cut off");
            self.abort.cancel();
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        listener: Listener,
        _place: OwnedSemaphorePermit,
        graceful: hyper_util::server::graceful::Watcher,
    ) {
        let _open = Counted::new(&self.forwarder.metrics.connections);
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        if !listener.tls {
            return self.serve_stream(stream, peer, listener, graceful).await;
        }
        let shaken = tokio::select! {
            () = self.abort.cancelled() => return,
            shaken = tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => self.serve_stream(stream, peer, listener, graceful).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    async fn serve_stream<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        listener: Listener,
        graceful: hyper_util::server::graceful::Watcher,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let (forwarder, asked) = (Arc::clone(&self.forwarder), Arc::clone(&asked));
            move |request| {
                asked.store(true, Ordering::Relaxed);
                let answer = Arc::clone(&forwarder).answer(listener, peer.ip(), request);
                async move { Ok::<_, Infallible>(answer.await) }
            }
        });
        let server = self.server();
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::pin!(connection);
        // Until it is known which protocol is spoken, nothing else limits the wait.
        let silent = async {
            tokio::time::sleep(self.limits.idle).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.abort.cancelled() => {}
            () = silent => {}
            ended = &mut connection => if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a connection ended with an error");
            },
        }
    }

    fn server(&self) -> auto::Builder<TokioExecutor> {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.idle).max_buf_size(self.limits.head);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(u32::try_from(self.limits.head).unwrap_or(u32::MAX))
            // Finds peers that are gone without a word.
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        server
    }
}
