//! The listener of one node's kubelet port, and the way of a request up to its route.

use super::{
    access::{Access, Reviews},
    directory::PodDirectory,
    reply::Failure,
    routes,
    stats::Usage,
    tls::{self, BadCertificate, ClientVerifier},
};
use crate::{model::NodeName, ports::AgentLink};
use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{pki_types::CertificateDer, server::ResolvesServerCert};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// Connections at once: each followed log and each exec has its own.
const CONNECTIONS: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a request's head; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// After a failed accept (out of file descriptors): there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct KubeletApiConfig {
    pub node: NodeName,
    pub listen: SocketAddr,
    /// Whose client certificates name callers; None: only tokens do.
    pub client_ca_pem: Option<String>,
    /// What /configz says, as the kubelet's `{"kubeletconfig": …}`.
    pub configz: serde_json::Value,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeletApiError {
    #[error("can't listen for kubelet API requests on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("can't set up the kubelet API's TLS")]
    Tls(#[from] BadCertificate),
}

pub(super) type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What routes work with.
pub(super) struct Shared {
    pub config: KubeletApiConfig,
    pub pods: Arc<dyn PodDirectory>,
    pub link: Arc<dyn AgentLink>,
    pub metrics: MetricsText,
    pub usage: Usage,
}

/// Where a connection comes from.
#[derive(Clone)]
pub(super) struct Peer {
    pub address: SocketAddr,
    certificates: Arc<[CertificateDer<'static>]>,
}

pub struct KubeletApi {
    listener: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
    gate: Arc<Gate>,
}

struct Gate {
    access: Access,
    router: Router,
}

impl KubeletApi {
    /// Listens; nothing is answered before [`KubeletApi::run`].
    pub async fn bind(
        config: KubeletApiConfig,
        serving: Arc<dyn ResolvesServerCert>,
        reviews: Arc<dyn Reviews>,
        pods: Arc<dyn PodDirectory>,
        link: Arc<dyn AgentLink>,
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<Self, KubeletApiError> {
        let clients = Arc::new(ClientVerifier::new(config.client_ca_pem.as_deref())?);
        let tls = tls::server_config(serving, Arc::clone(&clients))?;
        let failed = |error| KubeletApiError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Shared { config, pods, link, metrics: Arc::new(metrics), usage: Usage::default() };
        let gate = Gate { access: Access::new(clients, reviews), router: routes::router(Arc::new(shared)) };
        Ok(Self { listener, address, tls: TlsAcceptor::from(Arc::new(tls)), gate: Arc::new(gate) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until cancelled; then every connection, also an open exec, is closed.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { listener, tls, gate, .. } = self;
        let tasks = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let accept = async {
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let served =
                            serve(stream, address, tls.clone(), Arc::clone(&gate), tasks.clone(), cancel.clone());
                        let cancel = cancel.clone();
                        tasks.spawn(async move {
                            let _slot = slot;
                            tokio::select! {
                                () = served => {}
                                () = cancel.cancelled() => {}
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "can't accept a connection to the kubelet API");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = cancel.cancelled() => {}
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Tasks that outlive their request: upgraded connections.
#[derive(Clone)]
pub(super) struct Owner {
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Owner {
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = cancel.cancelled() => {}
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    gate: Arc<Gate>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let owner = Owner { tasks, cancel };
    // Keystrokes of an exec must not wait for company.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().into();
    let peer = Peer { address, certificates };
    let service = service_fn(move |request| {
        let (gate, peer, owner) = (Arc::clone(&gate), peer.clone(), owner.clone());
        async move { Ok::<_, Infallible>(gate.answer(request, peer, owner).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%address, %error, "a connection to the kubelet API ended");
    }
}

impl Gate {
    async fn answer(&self, request: Request<Incoming>, peer: Peer, owner: Owner) -> Response {
        let checked =
            self.access.check(&peer.certificates, request.headers(), request.method(), request.uri().path()).await;
        if let Err(denied) = checked {
            return Failure::from(denied).into_response();
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(owner);
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
