//! The cloud that the configuration names, made.

use super::{buying::Asked, say::say};
use crate::cloud::local::{LocalCloud, LocalCloudConfig, Registry};
use crate::config::{CloudConfig, Ec2Settings, LocalConfig, ProviderConfig};
use crate::decide::purchase::Buying;
#[cfg(feature = "ec2")]
use crate::decide::purchase::refresh::Kind;
use crate::gateway::Ca;
use crate::ports::{AgentUpdate, Cloud};
use crate::telemetry::Metrics;
use anyhow::Context;
use std::{pin::Pin, sync::Arc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Why this program can't serve that configuration, if it can't.
pub(super) fn not_built_in(config: &ProviderConfig) -> Option<&'static str> {
    match config.cloud {
        CloudConfig::Ec2(_) if !cfg!(feature = "ec2") => Some(
            "cloud.ec2: support for EC2 is not built into this program; build it with `cargo build --features ec2`",
        ),
        CloudConfig::Ec2(_) | CloudConfig::Local(_) => None,
    }
}

/// What making a cloud may need beside its configuration.
#[cfg_attr(not(feature = "ec2"), allow(dead_code, reason = "the local cloud needs the authority alone"))]
pub(super) struct Surroundings<'a> {
    pub ca: &'a Ca,
    pub provider: &'a kube::Client,
    /// For what the cloud announces.
    pub updates: &'a mpsc::Sender<AgentUpdate>,
    pub metrics: &'a Metrics,
    /// What is bought by now.
    pub buying: &'a watch::Receiver<Arc<Buying>>,
    pub cancel: &'a CancellationToken,
}

type Run = Pin<Box<dyn Future<Output = ()> + Send>>;
/// A task that the cloud needs, by what it does; to be owned by whoever owns the cloud.
pub(super) type Task = (&'static str, Run);

pub(super) struct Made {
    pub cloud: Arc<dyn Cloud>,
    pub tasks: Vec<Task>,
    /// None: the cloud sells what the catalog says.
    pub asked: Option<Asked>,
}

pub(super) async fn make(config: &ProviderConfig, around: &Surroundings<'_>) -> anyhow::Result<Made> {
    match &config.cloud {
        CloudConfig::Local(local) => {
            let cloud = LocalCloud::new(local_cloud_config(config, local, around.ca)?).context("the local cloud")?;
            Ok(Made { cloud: Arc::new(cloud), tasks: Vec::new(), asked: None })
        }
        CloudConfig::Ec2(settings) => ec2(config, settings, around).await,
    }
}

/// `pilotlight check --cloud`: says on standard output what the account permits. False if something that is needed is denied, or nobody answers.
pub(super) async fn check(config: &ProviderConfig) -> anyhow::Result<bool> {
    match &config.cloud {
        CloudConfig::Local(_) => {
            say("the local cloud needs no account\n");
            Ok(true)
        }
        CloudConfig::Ec2(settings) => check_ec2(config, settings).await,
    }
}

#[cfg(not(feature = "ec2"))]
async fn ec2(config: &ProviderConfig, _: &Ec2Settings, _: &Surroundings<'_>) -> anyhow::Result<Made> {
    anyhow::bail!(not_built_in(config).unwrap_or("support for EC2 is not built in"))
}

#[cfg(not(feature = "ec2"))]
async fn check_ec2(config: &ProviderConfig, _: &Ec2Settings) -> anyhow::Result<bool> {
    anyhow::bail!(not_built_in(config).unwrap_or("support for EC2 is not built in"))
}

#[cfg(feature = "ec2")]
async fn ec2(config: &ProviderConfig, settings: &Ec2Settings, around: &Surroundings<'_>) -> anyhow::Result<Made> {
    use crate::claims::{FileStore, Ledger};
    use crate::cloud::ec2::{
        Ec2Cloud,
        attest::{AttestConfig, Attestor, IdentityCertificates, StsClient},
        sdk_config,
    };
    use crate::config::SecretRef;
    use crate::kube::claims::ConfigMapStore;
    /// Beside the authority's Secret: what replicas share.
    const CLAIMS: &str = "pilotlight-claims";
    let sts = match &settings.sts_endpoint_url {
        Some(url) => StsClient::at(url),
        None => StsClient::of_region(&config.region),
    };
    let identity_certificates = settings.identity_certificate.as_ref().map(|file| {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        IdentityCertificates::from_pem(&text).with_context(|| file.display().to_string())
    });
    let attest = AttestConfig {
        cluster: config.cluster.clone(),
        region: config.region.clone(),
        account: settings.account.clone(),
        identity_certificates: identity_certificates.transpose()?,
        register_within: {
            let buying = around.buying.clone();
            Arc::new(move || buying.borrow().policy.ttl.register)
        },
    };
    let (ledger, batches): (Ledger, Run) = match &config.authority_secret {
        Some(secret) => {
            let object = SecretRef { namespace: secret.namespace.clone(), name: CLAIMS.to_owned() };
            let store = ConfigMapStore::new(around.provider.clone(), &object);
            let (ledger, task) = Ledger::new(store, around.cancel.clone());
            (ledger, Box::pin(task))
        }
        None => {
            let file = config.state_dir.join(&config.cluster).join("claims.json");
            let (ledger, task) = Ledger::new(FileStore::new(file), around.cancel.clone());
            (ledger, Box::pin(task))
        }
    };
    let attestor = Attestor::new(attest, Arc::new(sts.context("STS")?), Arc::new(ledger));
    let own = ec2_config(config, settings, around.ca.certificate_pem());
    let shared = sdk_config(&config.region).load().await;
    let cloud = Ec2Cloud::new(own, &shared, attestor).context("EC2")?;
    let vendor = cloud.vendor(&shared).context("EC2")?;
    let asked = Asked {
        every: every(settings, vendor.has_price_list()),
        vendor: Arc::new(vendor),
        architectures: settings.images.keys().copied().collect(),
    };
    let mut tasks: Vec<Task> = vec![("the ledger of claims", batches)];
    if let Some(queue) = cloud.queue(&shared).context("EC2")? {
        let (updates, metrics, cancel) = (around.updates.clone(), around.metrics.clone(), around.cancel.clone());
        let receiving = async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = queue.run(updates, metrics) => {}
            }
        };
        tasks.push(("the queue of announcements", Box::pin(receiving)));
    }
    Ok(Made { cloud: Arc::new(cloud), tasks, asked: Some(asked) })
}

/// How often each is asked.
#[cfg(feature = "ec2")]
fn every(settings: &Ec2Settings, price_list: bool) -> std::collections::BTreeMap<Kind, jiff::SignedDuration> {
    let refresh = settings.refresh;
    let every = |kind: Kind| match kind {
        Kind::Types | Kind::Zones => refresh.types,
        Kind::OnDemand => refresh.price_list.filter(|_| price_list),
        Kind::Spot => refresh.spot_prices,
        Kind::Usage => refresh.usage,
    };
    Kind::ALL.into_iter().filter_map(|kind| Some((kind, every(kind)?))).collect()
}

#[cfg(feature = "ec2")]
async fn check_ec2(config: &ProviderConfig, settings: &Ec2Settings) -> anyhow::Result<bool> {
    use crate::cloud::ec2::{Ec2Cloud, Right, sdk_config};
    let shared = sdk_config(&config.region).load().await;
    let all = Ec2Cloud::permissions(&ec2_config(config, settings, ""), &shared).await;
    for permission in &all {
        let said = match (&permission.right, permission.instead) {
            (Right::Granted, _) => "granted".to_owned(),
            (Right::Denied(why), None) => format!("DENIED: {why}"),
            (Right::Denied(why), Some(instead)) => format!("denied; {instead}: {why}"),
            (Right::Unclear(why), _) => format!("not known: {why}"),
            (Right::Unanswered(why), _) => format!("NO ANSWER: {why}"),
        };
        say(&format!("{:<38}  {said}\n", permission.action));
    }
    let lacks = |right: &Right| matches!(right, Right::Denied(_) | Right::Unanswered(_));
    Ok(!all.iter().any(|permission| permission.instead.is_none() && lacks(&permission.right)))
}

#[cfg(feature = "ec2")]
fn ec2_config(config: &ProviderConfig, settings: &Ec2Settings, ca_pem: &str) -> crate::cloud::ec2::config::Ec2Config {
    use crate::cloud::ec2::config::{Ec2Config, RootVolume, TypeFacts, provider_url};
    /// Between two looks for leaks; what is seen in both is ended.
    const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
    /// Making one anew is two calls.
    const TEMPLATE_IDLE: std::time::Duration = std::time::Duration::from_secs(30 * 60);
    let types = config.buying.market.catalog.types.iter().map(|spec| (spec.name.clone(), TypeFacts::from(spec)));
    Ec2Config {
        cluster: config.cluster.clone(),
        region: config.region.clone(),
        endpoint_url: settings.endpoint_url.clone(),
        price_list_endpoint_url: settings.price_list_endpoint_url.clone(),
        interruption_queue_url: settings.interruption_queue_url.clone(),
        subnets: settings.subnets.clone(),
        security_groups: settings.security_groups.clone(),
        images: settings.images.clone(),
        instance_profile: settings.instance_profile.clone(),
        root_volume: RootVolume { device: settings.root_volume_device.clone(), size_gib: settings.root_volume_gib },
        tags: settings.tags.clone(),
        provider_url: provider_url(&config.agents_advertise.host, config.agents_advertise.port),
        ca_pem: ca_pem.to_owned(),
        insecure_registries: settings.insecure_registries.clone(),
        types: types.collect(),
        per_call: settings.per_call,
        journal_dir: config.state_dir.join(&config.cluster).join("launches"),
        sweep_every: SWEEP_EVERY,
        template_idle: TEMPLATE_IDLE,
    }
}

fn local_cloud_config(config: &ProviderConfig, local: &LocalConfig, ca: &Ca) -> anyhow::Result<LocalCloudConfig> {
    let agent_binary = match &local.agent {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("this program's path")?.with_file_name("pilotlight-agent"),
    };
    Ok(LocalCloudConfig {
        cluster: config.cluster.clone(),
        state_dir: config.state_dir.join("instances"),
        bridge: local.bridge.clone(),
        bridge_address: local.bridge_address,
        prefix_len: local.prefix_len,
        zones: config.nodes.iter().map(|n| n.zone.clone()).collect(),
        types: config.types.clone(),
        machine_image: local.machine_image.clone(),
        bin_dir: local.bin_dir.clone(),
        cni_bin_dir: local.cni_bin_dir.clone(),
        agent_binary,
        self_binary: None,
        provider_url: format!("https://{}", config.agents_advertise),
        ca_pem: ca.certificate_pem().to_owned(),
        registries: local
            .insecure_registries
            .iter()
            .map(|host| Registry { host: host.clone(), endpoint: format!("http://{host}") })
            .collect(),
        sandbox_image: local.sandbox_image.clone(),
        hidden: vec![config.state_dir.clone()],
    })
}
