//! `pilotlight gateway`: the ingress for Knative, made and connected in one place.
//!
//! ```text
//!   start -> listed and published: /readyz 200 -> SIGTERM: /readyz 503, for DRAIN_DELAY as before
//!                                                  -> no new connections, the rest ends within drain-timeout
//! ```

use super::http;
use crate::ingress::{
    control,
    proxy::{Limits, Live, Metrics, Proxy},
    spec::DEFAULT_CLASS,
    status::Addresses,
    table::Listener,
};
use crate::telemetry::LogFormat;
use anyhow::Context;
use clap::Args;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub struct GatewayArgs {
    /// Where everyone's requests come in: plain HTTP (HTTP/1.1, and HTTP/2 with prior knowledge)
    #[arg(long, default_value = "[::]:8080")]
    external_http: SocketAddr,
    /// Where everyone's requests come in over TLS, with the certificates that Ingresses name
    #[arg(long, default_value = "[::]:8443")]
    external_https: SocketAddr,
    /// Where the cluster's own requests come in: also to hosts that are visible in the cluster only
    #[arg(long, default_value = "[::]:8081")]
    internal_http: SocketAddr,
    /// /metrics, /healthz, /readyz
    #[arg(long, default_value = "[::]:9090")]
    admin: SocketAddr,
    /// The Service in front of the external listeners, as NAMESPACE/NAME: goes into the Ingresses' status
    #[arg(long)]
    external_service: ServiceName,
    /// The Service in front of the internal listeners, as NAMESPACE/NAME
    #[arg(long)]
    internal_service: ServiceName,
    /// Serve the Ingresses of this class
    #[arg(long, default_value = DEFAULT_CLASS)]
    class: String,
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Unless given: KUBECONFIG, or the Pod's service account
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The most connections from clients
    #[arg(long, default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// Seconds after SIGTERM in which new connections are still taken, so that nobody is sent here any more
    #[arg(long, default_value_t = 5)]
    drain_delay: u64,
    /// Seconds after that for requests to end
    #[arg(long, default_value_t = 60)]
    drain_timeout: u64,
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[derive(Clone)]
struct ServiceName {
    namespace: String,
    name: String,
}

impl std::str::FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        match text.split_once('/') {
            Some((namespace, name)) if label(namespace) && label(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected NAMESPACE/NAME".to_owned()),
        }
    }
}

impl ServiceName {
    fn domain(&self, cluster_domain: &str) -> String {
        format!("{}.{}.svc.{cluster_domain}", self.name, self.namespace)
    }
}

/// Runs until a signal asks for the end (Ok), or a part fails (Err).
pub async fn run(args: GatewayArgs) -> anyhow::Result<()> {
    crate::gateway::install_crypto_provider();
    let client = crate::kube::client::client(crate::kube::identity::provider_config(args.kubeconfig.as_deref()).await?)
        .context("the API server's client")?;
    let metrics = Metrics::default();
    let (live, live_seen) = watch::channel(Arc::new(Live::default()));
    let (synced, mut is_synced) = watch::channel(false);
    let (problem, problem_seen) = watch::channel(Some("the Ingresses have not been listed yet".to_owned()));
    let limits = Limits { connections: args.max_connections, ..Limits::default() };
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let proxy = Proxy::new(live_seen, metrics.clone(), limits, Arc::clone(&crypto)).context("TLS")?;

    // All are bound before anything is said.
    let external = bind(args.external_http).await?;
    let external_tls = bind(args.external_https).await?;
    let internal = bind(args.internal_http).await?;
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let config = control::Config {
        class: args.class,
        addresses: Addresses {
            external: args.external_service.domain(&args.cluster_domain),
            internal: args.internal_service.domain(&args.cluster_domain),
        },
        cluster_domain: args.cluster_domain,
    };
    let controller = control::run(client, config, crypto, live, metrics.clone(), synced, stop.clone());
    tasks.spawn(named("the controller", controller));
    let admin = http::serve(args.admin, move || metrics.text(), problem_seen, end.clone());
    tasks.spawn(named("the admin server", async { report(admin.await) }));
    // Before the first picture nothing would be found: whoever connects meanwhile waits.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        known = is_synced.wait_for(|synced| *synced) => drop(known.context("the controller ended")?),
        Some(ended) = tasks.join_next() => anyhow::bail!("{} ended", ended?),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    for (socket, external, tls) in [(external, true, false), (external_tls, true, true), (internal, false, false)] {
        let (proxy, stop) = (proxy.clone(), stop.clone());
        let listener = Listener { external, tls };
        tasks.spawn(named("a listener", async move { proxy.serve(socket, listener, stop).await }));
    }
    problem.send_replace(None);
    let (external, tls, internal) = (args.external_http, args.external_https, args.internal_http);
    tracing::info!(%external, %tls, %internal, "the gateway is ready");

    tokio::select! {
        Some(ended) = tasks.join_next() => anyhow::bail!("{} ended", ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    problem.send_replace(Some("ending".to_owned()));
    tracing::info!(seconds = args.drain_delay, "ending: new connections are still taken for a while");
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(args.drain_delay)) => {}
        // Twice means at once.
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    proxy.drain(Duration::from_secs(args.drain_timeout)).await;
    end.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "the admin server failed");
    }
}
