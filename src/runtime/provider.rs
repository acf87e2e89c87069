//! `pilotlight node`: everything made, connected and owned in one place.
//!
//! Every task is critical: if one ends, all end and the process exits with an error, to be started
//! again by whoever runs it. That is safe at any moment: a provider adopts what it finds.

use super::{
    buying::{Files, Keeper},
    cloud,
    credits::Credits,
    http, leading,
    node_identity::{node_identity, until_renewal},
    node_pods::NodePods,
    pod_usage::PodUsage,
    reload,
};
use crate::config::{CloudConfig, NodeConfig, ProviderConfig};
use crate::decide::placement::BatchWindow;
use crate::decide::purchase::policy::Architecture;
use crate::gateway::{Ca, Gateway, GatewayConfig, KeyAndCertificate, Places};
use crate::kube::{
    authority::{self, AuthorityPem},
    client::client,
    client_ca::client_ca,
    events::EventRecorder,
    identity::{self, Identity},
    leader_label,
    node::{self, NodeFacts, Readiness},
    pods,
    refs::RefStore,
    reserve,
    reviews::ApiReviews,
    services::{self, ServiceStore},
    writer::StatusWriter,
};
use crate::kubelet_api::{KubeletApi, KubeletApiConfig, ServingCertificate};
use crate::model::NodeName;
use crate::ports::AgentLink;
use crate::reconcile::{Directory, Engine, EngineConfig, Input, WorldConfig};
use crate::telemetry::Metrics;
use anyhow::Context;
use kube::Client;
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Pods and agents may be this far ahead of the reconciler before they wait for it.
const QUEUE: usize = 4096;

/// What there is before this replica leads.
pub(super) struct Begun {
    pub(super) tasks: JoinSet<anyhow::Result<&'static str>>,
    pub(super) cancel: CancellationToken,
    pub(super) metrics: Metrics,
    /// Told to /readyz: why this replica is not ready.
    pub(super) problem: watch::Sender<Option<String>>,
    kube_config: kube::Config,
    pub(super) provider: Client,
}

/// Runs until a signal asks for the end (Ok), or a part fails (Err). With leader election it first waits
/// until it leads, and hands over when everything has ended; if it loses the lease, the process ends there.
pub async fn run(config: ProviderConfig) -> anyhow::Result<()> {
    crate::gateway::install_crypto_provider();
    let mut seen = reload::Seen::of(&config.sources);
    reload::warn(&config);
    reload::keep_as_last_good(&config);
    let cancel = CancellationToken::new();
    let mut tasks: JoinSet<anyhow::Result<&'static str>> = JoinSet::new();
    tasks.spawn(signals(cancel.clone()));
    let metrics = Metrics::default();
    let (problem, ready) = watch::channel(Some("starting".to_owned()));
    if let Some(listen) = config.telemetry_listen {
        let metrics = metrics.clone();
        let cancel = cancel.clone();
        tasks.spawn(async move {
            http::serve(listen, move || metrics.text(), ready, cancel).await.context("the telemetry port")?;
            Ok("the telemetry port")
        });
    }
    let kube_config = identity::provider_config(config.kubeconfig.as_deref()).await?;
    let provider = client(kube_config.clone()).context("the API server's client")?;
    let mut begun = Begun { tasks, cancel, metrics, problem, kube_config, provider };
    let (leads, told) = watch::channel(false);
    if let Some(pod) = config.leader_election.as_ref().and_then(|election| election.labelled.clone()) {
        let label = leader_label::keep(begun.provider.clone(), pod, told, begun.cancel.clone());
        spawn(&mut begun.tasks, "the leader's label", label);
    }
    let leadership = match &config.leader_election {
        Some(election) => match leading::win(election, &mut begun).await? {
            Some(leadership) => Some(leadership),
            None => return supervise(begun.tasks, &begun.cancel).await,
        },
        None => None,
    };
    begun.metrics.set_leader(true);
    leads.send_replace(true);
    let config = seen.renew(config);
    let outcome = lead(&config, seen, begun).await;
    if let Some(leadership) = leadership {
        leadership.hand_over().await;
    }
    outcome
}

/// Everything that only one replica may do. All of it has ended when this returns.
async fn lead(config: &ProviderConfig, seen: reload::Seen, begun: Begun) -> anyhow::Result<()> {
    let Begun { mut tasks, cancel, metrics, problem, kube_config, provider } = begun;
    let pki = config.state_dir.join(&config.cluster).join("pki");
    let ca = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        ca = authority(config, &provider) => Arc::new(ca.context("the agents' authority")?),
    };
    let (agent_updates, agents) = mpsc::channel(QUEUE);
    let (bought_by, buying) = watch::channel(Arc::clone(&config.buying));
    let around = cloud::Surroundings {
        ca: &ca,
        provider: &provider,
        updates: &agent_updates,
        metrics: &metrics,
        buying: &buying,
        cancel: &cancel,
    };
    let cloud::Made { cloud, tasks: of_the_cloud, asked } = cloud::make(config, &around).await?;
    for (name, task) in of_the_cloud {
        spawn(&mut tasks, name, task);
    }
    let mut clients = HashMap::new();
    let mut serving = HashMap::new();
    let mut renewals = Vec::new();
    for node in &config.nodes {
        let (client, certificate, renew) = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            made = node_identity(config, node, &kube_config, &provider, &pki) => made?,
        };
        clients.insert(node.name.clone(), client);
        serving.insert(node.name.clone(), certificate);
        renewals.push(renew);
    }

    let names = vec![config.agents_advertise.host.clone()];
    let gateway_config = GatewayConfig { listen: config.agents_listen, names, places: Places::default() };
    let gateway = Arc::new(Gateway::start(
        &gateway_config,
        ca,
        Arc::clone(&cloud),
        agent_updates,
        metrics.clone(),
        cancel.clone(),
    )?);
    let link: Arc<dyn AgentLink> = Arc::clone(&gateway) as Arc<dyn AgentLink>;

    let directory = Directory::default();
    let writer = StatusWriter::new(clients.clone());
    spawn(&mut tasks, "the status writer", writer.clone().run(cancel.clone()));
    let (events, write_events) = EventRecorder::new(clients.clone(), cancel.clone());
    spawn(&mut tasks, "the event writer", write_events);

    let store = ServiceStore::default();
    let (refs_changed, refs_input) = mpsc::unbounded_channel();
    let refs = RefStore::new(clients.clone(), store.clone(), refs_changed, cancel.clone());
    let own_nodes: BTreeSet<NodeName> = config.nodes.iter().map(|n| n.name.clone()).collect();
    let (listed, mut services_listed) = watch::channel(false);
    spawn(
        &mut tasks,
        "the watch on services",
        services::watch(provider.clone(), own_nodes, store, Arc::clone(&link), listed, cancel.clone()),
    );
    // A Pod's environment tells of Services: none is resolved before they are known.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        known = services_listed.wait_for(|listed| *listed) => drop(known.context("the watch on services ended")?),
    }

    let (pod_updates, pods_input) = mpsc::channel(QUEUE);
    for node in &config.nodes {
        let client = clients[&node.name].clone();
        let watch = pods::watch(client, node.name.clone(), pod_updates.clone(), cancel.clone());
        spawn(&mut tasks, "the watch on pods", watch);
    }
    let (taken_up, reloads) = mpsc::channel(1);
    let files = Files { buying: Arc::clone(&config.buying), keep_completed: config.keep_completed_pods };
    let (edited, files) = watch::channel(files);
    let watch = reload::Watch {
        config: config.clone(),
        seen,
        clients: clients.clone(),
        metrics: metrics.clone(),
        files: edited,
    };
    spawn(&mut tasks, "the watch on the configuration", watch.run(cancel.clone()));
    let (note, prices) = watch::channel(node::PriceNote::default());
    let keeper = Keeper { files, asked, metrics: metrics.clone(), taken_up, buying: bought_by, note };
    spawn(&mut tasks, "what is bought by", keeper.run(cancel.clone()));
    let (cloud_answers, health) = watch::channel(Err("the cloud has not been asked yet".to_owned()));
    let engine = Engine::new(
        EngineConfig {
            cluster: config.cluster.clone(),
            world: world_config(config),
            cloud,
            link: Arc::clone(&link),
            status: Arc::new(writer),
            events: Arc::new(events),
            refs: Arc::new(refs),
            directory: directory.clone(),
            metrics: metrics.clone(),
            cloud_answers,
        },
        Input { pods: pods_input, agents, refs: refs_input, reloads },
    );
    spawn(&mut tasks, "the reconciler", engine.run(cancel.clone()));
    let usage = PodUsage { directory: directory.clone(), link: Arc::clone(&link) };
    let credits = Credits {
        directory: directory.clone(),
        link: Arc::clone(&link),
        buying: buying.clone(),
        metrics: metrics.clone(),
    };
    spawn(&mut tasks, "the accounts of CPU credits", credits.run(cancel.clone()));
    let reserves =
        reserve::Config { client: provider.clone(), buying, usage: Arc::new(usage), metrics: metrics.clone() };
    spawn(&mut tasks, "the reserves", reserve::run(reserves, cancel.clone()));

    spawn(&mut tasks, "the readiness", tell_readiness(health.clone(), problem, cancel.clone()));
    let kubelet_version = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        version = node::kubelet_version(&provider) => version,
    };
    for node in &config.nodes {
        let facts = NodeFacts {
            node: node.clone(),
            region: config.region.clone(),
            address: config.address,
            limits: config.limits,
            cluster: config.cluster.clone(),
            architecture: architecture(config),
            prices: prices.clone(),
            kubelet_version: kubelet_version.clone(),
        };
        let client = clients[&node.name].clone();
        let readiness = node_readiness(&mut tasks, health.clone(), cancel.clone());
        let cancel = cancel.clone();
        tasks.spawn(async move {
            node::keep(client, facts, readiness, cancel).await.context("the node object")?;
            Ok("the node object")
        });
    }
    let client_ca_pem = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        found = client_ca(provider.clone()) => found?,
    };
    let kubelet_apis = KubeletApis {
        address: config.address,
        client_ca_pem,
        clients,
        directory,
        link,
        metrics: metrics.clone(),
        cancel: cancel.clone(),
    };
    for node in &config.nodes {
        kubelet_apis.serve(&mut tasks, node, &serving[&node.name]).await?;
    }
    spawn(&mut tasks, "the certificates", until_renewal(renewals, cancel.clone()));
    tracing::info!(cluster = config.cluster, nodes = config.nodes.len(), "the provider runs");

    supervise(tasks, &cancel).await
}

fn spawn(
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        Ok(name)
    });
}

/// Waits for the first end of any task, ends the others, and says what happened.
async fn supervise(mut tasks: JoinSet<anyhow::Result<&'static str>>, cancel: &CancellationToken) -> anyhow::Result<()> {
    let mut verdict = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let asked = cancel.is_cancelled();
        cancel.cancel();
        match ended {
            Ok(Ok(_)) if asked => {}
            Ok(Ok(name)) if verdict.is_ok() => verdict = Err(anyhow::anyhow!("{name} ended")),
            Ok(Err(error)) if verdict.is_ok() => verdict = Err(error),
            Err(panic) if verdict.is_ok() => verdict = Err(panic.into()),
            _ => {}
        }
    }
    verdict
}

async fn signals(cancel: CancellationToken) -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = term.recv() => tracing::info!("asked to end; instances keep running"),
        _ = interrupt.recv() => tracing::info!("asked to end; instances keep running"),
    }
    // Also while the provider still starts, when nobody waits for this task yet.
    cancel.cancel();
    Ok("a signal")
}

async fn authority(config: &ProviderConfig, provider: &Client) -> anyhow::Result<Ca> {
    let Some(secret) = &config.authority_secret else {
        return Ok(Ca::open(&config.state_dir.join(&config.cluster))?);
    };
    let mut backoff = crate::retry::Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let KeyAndCertificate { key_pem, certificate_pem } = Ca::make()?;
        let new = AuthorityPem { key: key_pem, certificate: certificate_pem };
        match authority::keep_once(provider.clone(), secret, new).await {
            Ok(kept) => {
                return Ok(Ca::from_pem(KeyAndCertificate { key_pem: kept.key, certificate_pem: kept.certificate })?);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the agents' authority is not there yet; trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

fn architecture(config: &ProviderConfig) -> Architecture {
    let amd64 = match &config.cloud {
        CloudConfig::Ec2(ec2) => ec2.images.contains_key(&Architecture::Amd64),
        CloudConfig::Local(_) => cfg!(target_arch = "x86_64"),
    };
    if amd64 { Architecture::Amd64 } else { Architecture::Arm64 }
}

fn world_config(config: &ProviderConfig) -> WorldConfig {
    WorldConfig {
        zones: config.nodes.iter().map(|n| (n.name.clone(), n.zone.clone())).collect(),
        address: config.address,
        buying: Arc::clone(&config.buying),
        pods_per_node: config.limits.pods,
        batch_window: match &config.cloud {
            CloudConfig::Ec2(ec2) => ec2.batch_window,
            // A launch costs no more than a boot; the engine gathers for some milliseconds anyway.
            CloudConfig::Local(_) => BatchWindow::default(),
        },
        keep_completed: config.keep_completed_pods,
        dns_server: config.dns_server,
        dns_domain: config.dns_domain.clone(),
    }
}

type Health = watch::Receiver<Result<(), String>>;

async fn tell_readiness(mut health: Health, problem: watch::Sender<Option<String>>, cancel: CancellationToken) {
    loop {
        problem.send_replace(health.borrow_and_update().clone().err());
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = health.changed() => if changed.is_err() { return },
        }
    }
}

/// The node is ready while the cloud answers.
fn node_readiness(
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
    mut health: Health,
    cancel: CancellationToken,
) -> watch::Receiver<Readiness> {
    let of = |health: &Result<(), String>| match health {
        Ok(()) => Readiness::ready(),
        Err(why) => Readiness { ready: false, reason: "CloudNotAnswering".to_owned(), message: why.clone() },
    };
    let (sender, receiver) = watch::channel(of(&health.borrow_and_update()));
    spawn(tasks, "the node's readiness", async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = health.changed() => if changed.is_err() { return },
            }
            sender.send_replace(of(&health.borrow_and_update()));
        }
    });
    receiver
}

/// What all nodes' kubelet APIs share.
struct KubeletApis {
    address: IpAddr,
    client_ca_pem: Option<String>,
    clients: HashMap<NodeName, Client>,
    directory: Directory,
    link: Arc<dyn AgentLink>,
    metrics: Metrics,
    cancel: CancellationToken,
}

impl KubeletApis {
    async fn serve(
        &self,
        tasks: &mut JoinSet<anyhow::Result<&'static str>>,
        node: &NodeConfig,
        serving: &Identity,
    ) -> anyhow::Result<()> {
        let config = KubeletApiConfig {
            node: node.name.clone(),
            listen: SocketAddr::new(self.address, node.kubelet_port),
            client_ca_pem: self.client_ca_pem.clone(),
            configz: serde_json::json!({ "kubeletconfig": { "port": node.kubelet_port } }),
        };
        let certificate = ServingCertificate::new(&serving.certificate_pem, &serving.key_pem)?;
        let metrics = self.metrics.clone();
        let api = KubeletApi::bind(
            config,
            Arc::new(certificate),
            Arc::new(ApiReviews::new(self.clients[&node.name].clone(), node.name.clone())),
            Arc::new(NodePods {
                directory: self.directory.clone(),
                node: node.name.clone(),
                client: self.clients[&node.name].clone(),
            }),
            Arc::clone(&self.link),
            move || metrics.text(),
        )
        .await?;
        spawn(tasks, "the kubelet API", api.run(self.cancel.clone()));
        Ok(())
    }
}
