//! A stand-in for EC2: moto behind a proxy that adds what moto lacks, with machines, IMDS and STS.
//!
//! ```text
//!  client ── POST / ──> server ──┬─> sts                         GetCallerIdentity, signatures checked
//!  tests ─── /standin ─> control │
//!                                ├─> authorize ─> iam            each call of the provider's, by its policy
//!                                ├─> limits, tokens, script      throttling, idempotency, scripted errors
//!                                ├─> launch, create_fleet ─────> moto (RunInstances) ──> machines (LocalCloud, or simulated)
//!                                ├─> describe, terminate ──────> moto
//!                                ├─> price_list, prices          what there is on sale
//!                                ├─> roles                        who calls; sessions of a role (IRSA, Pod Identity)
//!                                ├─> queue ────────────────────> moto (SQS)
//!                                └─> everything else ──────────> moto
//!  instance ── 169.254.169.254 ──> imds                           which instance asks is known by its address
//! ```
//!
//! It runs until SIGTERM or SIGINT, and takes moto and every machine with it. With `--machines` it is to be
//! started as root in the network namespace that has or gets the bridge.

mod authorize;
mod calls;
mod control;
mod create_fleet;
mod describe;
mod fleet;
mod iam;
mod identity;
mod imds;
mod instances;
mod launch;
mod limits;
mod machines;
mod moto;
mod params;
mod price_list;
mod prices;
mod queue;
mod refusal;
mod roles;
mod script;
mod seed;
mod server;
mod simulated;
mod sts;
mod tokens;
mod world;
mod xml;

use clap::Parser;
use identity::Signer;
use machines::Machines;
use moto::Moto;
use pilotlight::cloud::local::{LocalCloud, LocalCloudConfig};
use prices::{CatalogFile, Market};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use world::{State, World};

/// Where every instance finds its metadata service.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const ACCOUNT: &str = "123456789012";

#[derive(Parser)]
struct Args {
    /// Where the API listens
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// For everything it writes; `address` is there when it is ready
    #[arg(long)]
    dir: PathBuf,
    /// Types, zones, sizes and prices
    #[arg(long, default_value = "provider-config/catalog-ec2.yaml")]
    catalog: PathBuf,
    #[arg(long, default_value = "target/tools/moto/bin/moto_server")]
    moto: PathBuf,
    /// The VPC's addresses, shared out among the zones; the bridge has the first
    #[arg(long, default_value = "10.72.0.0/16")]
    network: String,
    /// The public key of the cluster's ServiceAccount tokens: a Pod may take the role by its own (IRSA, Pod Identity)
    #[arg(long, value_name = "FILE")]
    cluster_key: Option<PathBuf>,
    /// Who may take the role by IRSA
    #[arg(long, default_value = "manifests/aws/trust-irsa.json")]
    trust: PathBuf,
    /// Judge each call by this policy, whose `${CLUSTER}` is --cluster's
    #[arg(long, value_name = "FILE", requires = "cluster")]
    iam_policy: Option<PathBuf>,
    /// What the provider's cluster is called, and the queue
    #[arg(long)]
    cluster: Option<String>,
    /// Boot a machine for each instance, with names of this cluster
    #[arg(long, value_name = "CLUSTER", requires = "agent")]
    machines: Option<String>,
    /// Simulate a machine for each instance in this process; what their agents keep is there
    #[arg(long, value_name = "DIR", conflicts_with = "machines")]
    simulated: Option<PathBuf>,
    /// Of what simulated machines draw
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value = "pl0")]
    bridge: String,
    #[arg(long, default_value = "target/machine-image/containerd")]
    machine_image: PathBuf,
    #[arg(long, default_value = "target/tools/bin")]
    bin_dir: PathBuf,
    #[arg(long, default_value = "target/tools/cni/bin")]
    cni_bin_dir: PathBuf,
    /// The agent that the machines' image has
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The program that machines are run by
    #[arg(long)]
    pilotlight: Option<PathBuf>,
}

fn main() -> Result<(), String> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<(), String> {
    std::fs::create_dir_all(&args.dir).map_err(|error| format!("can't make {}: {error}", args.dir.display()))?;
    let text =
        std::fs::read_to_string(&args.catalog).map_err(|error| format!("{}: {error}", args.catalog.display()))?;
    let catalog: CatalogFile =
        serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", args.catalog.display()))?;
    let market = Market::new(&catalog.types)?;
    let iam = args.iam_policy.as_deref().map(|file| policy(&args, file, &catalog.region)).transpose()?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| format!("{}: {error}", args.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let moto_address = free.map_err(|error| error.to_string())?;
    let moto = Moto::start(&args.moto, moto_address, &catalog.region, &args.dir.join("moto.log")).await?;
    let seeded = seed::seed(&moto, &args.network, &catalog.zones).await.map_err(|refusal| refusal.message)?;
    let cluster = args.cluster.as_deref().unwrap_or("interruptions");
    let queue = queue::seed(&moto, ACCOUNT, cluster).await.map_err(|refusal| refusal.message)?;
    let signer = Arc::new(Signer::new(&args.dir)?);
    let subnet = instances::Subnet::parse(&args.network).ok_or_else(|| format!("{} is no network", args.network))?;
    // EC2 keeps it for the VPC's router (AWS, "Subnet CIDR blocks").
    let router = Ipv4Addr::from(u32::from(subnet.network) + 1);
    let local = match &args.machines {
        Some(cluster) => Some(local_cloud(&args, cluster, &catalog, router, subnet.prefix_len).await?),
        None => None,
    };
    if args.simulated.is_some() {
        if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
            return Err("another TLS provider is installed".to_owned());
        }
        seed::simulated_network(&args.bridge, router, &args.network, subnet.prefix_len)?;
    }
    let (machines, orders) = Machines::new();
    let facts = control::Facts {
        account: ACCOUNT.to_owned(),
        region: catalog.region.clone(),
        subnets: seeded.by_zone,
        security_group: seeded.security_group,
        image: "ami-0123456789abcdef0".to_owned(),
        queue: queue.clone(),
    };
    let trust = args.cluster_key.as_deref().map(|key| roles::Trust::read(key, &args.trust)).transpose()?;
    let has_agent = trust.is_some();
    let state = State { subnets: seeded.subnets, roles: roles::Roles::trusting(trust), ..State::default() };
    let has_machines = local.is_some() || args.simulated.is_some();
    let machines = has_machines.then_some(machines);
    let account = ACCOUNT.to_owned();
    let mut world = World::new(moto, market, catalog.region, account, catalog.zones, machines, state);
    (world.queue, world.iam) = (queue, iam);
    let world = Arc::new(world);
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(cloud) = local.clone() {
        tasks.spawn(machines::run(orders, cloud, Arc::downgrade(&world)));
    } else if let Some(dir) = args.simulated.clone() {
        tasks.spawn(simulated::run(orders, dir, args.seed, Arc::downgrade(&world)));
    }
    if has_machines {
        seed::own_address(&args.bridge, METADATA)?;
        let metadata = TcpListener::bind((METADATA, 80)).await.map_err(|error| format!("{METADATA}:80: {error}"))?;
        let (world, signer) = (Arc::clone(&world), Arc::clone(&signer));
        tasks.spawn(async move {
            if let Err(error) = imds::service::serve(metadata, world, signer).await {
                tracing::error!(%error, "the metadata service ended");
            }
        });
    }
    if has_agent {
        seed::own_address(&args.bridge, roles::AGENT)?;
        let listener =
            TcpListener::bind((roles::AGENT, 80)).await.map_err(|error| format!("{}:80: {error}", roles::AGENT))?;
        let agent = axum::Router::new()
            .route("/v1/credentials", axum::routing::get(server::pod_identity))
            .with_state(Arc::clone(&world));
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, agent).await {
                tracing::error!(%error, "EKS Pod Identity's agent ended");
            }
        });
    }
    let app = axum::Router::new()
        .route("/", axum::routing::get(server::api).post(server::api))
        .with_state(Arc::clone(&world))
        .merge(control::router(Arc::clone(&world), facts, signer));
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the API ended");
        }
    });
    let mut term = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut int = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tell(&args.dir, address)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        // Each runs for ever: one that ends is a failure.
        _ = tasks.join_next() => return Err("a part of the stand-in ended".to_owned()),
    }
    tasks.shutdown().await;
    if let Some(dir) = &args.simulated {
        seed::remove_simulated_network(&args.bridge, &args.network);
        // It may never have been made.
        let _ = std::fs::remove_dir_all(dir);
    }
    if let (Some(cluster), Some(cloud)) = (&args.machines, local) {
        drop(cloud);
        LocalCloud::destroy_all(&args.dir.join("machines"), cluster).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn policy(args: &Args, file: &Path, region: &str) -> Result<iam::Policy, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let cluster = args.cluster.as_deref().unwrap_or_default();
    let facts = [("REGION", region), ("ACCOUNT", ACCOUNT), ("CLUSTER", cluster)];
    iam::Policy::parse(&text, &facts).map_err(|error| format!("{}: {error}", file.display()))
}

/// Whoever started it waits for this file.
fn tell(dir: &Path, address: SocketAddr) -> Result<(), String> {
    let (new, file) = (dir.join(".address"), dir.join("address"));
    std::fs::write(&new, format!("{address}\n"))
        .and_then(|()| std::fs::rename(&new, &file))
        .map_err(|error| format!("can't write {}: {error}", file.display()))
}

async fn local_cloud(
    args: &Args,
    cluster: &str,
    catalog: &CatalogFile,
    bridge_address: Ipv4Addr,
    prefix_len: u8,
) -> Result<LocalCloud, String> {
    let agent = args.agent.clone().ok_or("--agent is missing")?;
    let state_dir = args.dir.join("machines");
    let config = LocalCloudConfig {
        cluster: cluster.to_owned(),
        state_dir: state_dir.clone(),
        bridge: args.bridge.clone(),
        bridge_address,
        prefix_len,
        zones: catalog.zones.clone(),
        // Each machine brings its own.
        types: vec![pilotlight::model::InstanceType {
            name: "given".to_owned(),
            cpu_millis: 1000,
            memory_bytes: 1 << 30,
            price: pilotlight::model::HourlyPrice(0),
        }],
        machine_image: Some(args.machine_image.clone()),
        bin_dir: args.bin_dir.clone(),
        cni_bin_dir: args.cni_bin_dir.clone(),
        agent_binary: agent,
        self_binary: args.pilotlight.clone(),
        provider_url: String::new(),
        ca_pem: String::new(),
        registries: Vec::new(),
        sandbox_image: "pilotlight.test/pause:1".to_owned(),
        hidden: Vec::new(),
    };
    let cluster = cluster.to_owned();
    let made = tokio::task::spawn_blocking(move || {
        // What an earlier run left, killed halfway.
        LocalCloud::destroy_all(&state_dir, &cluster)?;
        LocalCloud::new(config)
    });
    made.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
