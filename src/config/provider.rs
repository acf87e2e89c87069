//! provider.yaml with the catalog it names, validated.

use super::{
    ConfigError,
    ec2::{self, Ec2Settings},
    node_identity::{self, NodeIdentity},
    plain, policy, raw,
    replicas::{self, Advertise, LeaderElection, SecretRef},
    sources::{Source, Sources},
    surroundings::{self, Surroundings},
};
use crate::decide::purchase::policy::StandbyPool;
use crate::decide::purchase::{Buying, Market};
use crate::model::{InstanceType, NodeName, parse_milli, parse_units};
use jiff::{SignedDuration, Span};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Everything `pilotlight node` is told.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Names what is ours in the cloud; lower-case letters, digits and dashes.
    pub cluster: String,
    /// None: in-cluster, or KUBECONFIG.
    pub kubeconfig: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// The nodes' InternalIP: where the API server finds their kubelet ports.
    pub address: IpAddr,
    pub region: String,
    pub nodes: Vec<NodeConfig>,
    pub limits: Limits,
    pub agents_listen: SocketAddr,
    pub agents_advertise: Advertise,
    /// Where the agents' authority is kept; None: under `state_dir`.
    pub authority_secret: Option<SecretRef>,
    pub dns_server: IpAddr,
    pub dns_domain: String,
    pub cloud: CloudConfig,
    pub types: Vec<InstanceType>,
    /// The cost policy (or the plain one, without a file) and what it buys from.
    pub buying: Arc<Buying>,
    /// What the policy names and the catalog lacks; EC2 is asked for it.
    pub unlisted: Vec<policy::Unlisted>,
    /// What this was read from.
    pub sources: Arc<Sources>,
    pub keep_completed_pods: SignedDuration,
    pub node_identity: NodeIdentity,
    pub telemetry_listen: Option<SocketAddr>,
    /// None: this is the only replica.
    pub leader_election: Option<LeaderElection>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: NodeName,
    pub zone: String,
    pub kubelet_port: u16,
}

/// A node's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub pods: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudConfig {
    Local(LocalConfig),
    Ec2(Box<Ec2Settings>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    pub bridge: String,
    pub bridge_address: Ipv4Addr,
    pub prefix_len: u8,
    pub machine_image: Option<PathBuf>,
    pub bin_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub agent: Option<PathBuf>,
    pub sandbox_image: String,
    pub insecure_registries: Vec<String>,
}

impl ProviderConfig {
    /// The catalog's types without their prices.
    pub fn sizes(&self) -> Vec<(&str, u64, u64)> {
        self.types.iter().map(|t| (t.name.as_str(), t.cpu_millis, t.memory_bytes)).collect()
    }

    /// Keys that differ in the other and take effect with a restart alone.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let changed = [
            ("cluster", self.cluster != other.cluster),
            ("kubeconfig", self.kubeconfig != other.kubeconfig),
            ("stateDir", self.state_dir != other.state_dir),
            ("address", self.address != other.address),
            ("region", self.region != other.region),
            ("nodes", self.nodes != other.nodes),
            ("limits", self.limits != other.limits),
            (
                "agents",
                (self.agents_listen, &self.agents_advertise, &self.authority_secret)
                    != (other.agents_listen, &other.agents_advertise, &other.authority_secret),
            ),
            ("nodeIdentity", self.node_identity != other.node_identity),
            ("leaderElection", self.leader_election != other.leader_election),
            ("dns", (self.dns_server, &self.dns_domain) != (other.dns_server, &other.dns_domain)),
            ("cloud", self.cloud != other.cloud),
            ("telemetry", self.telemetry_listen != other.telemetry_listen),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }

    /// Reads and validates `file` and the files it names. Relative paths are taken from `file`'s
    /// directory.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_in(file, &Surroundings::of_this_process())
    }

    /// As [`Self::load`], where the Pod is not the one that this process is in.
    pub fn load_in(file: &Path, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        Self::of(Source::read(file.to_owned())?, surroundings)
    }

    /// As [`Self::load_in`], with this cost policy in the place of the one that it names.
    pub fn load_with_policy(file: &Path, surroundings: &Surroundings, policy: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: policy.to_owned(), source };
        let provider = Source::read(file.to_owned())?;
        let mut raw: raw::Provider = super::parse(file, &provider.text)?;
        raw.cost_policy = Some(std::path::absolute(policy).map_err(unreadable)?);
        let sources = Sources::read(provider, &raw)?;
        Self::validate(raw, sources, surroundings)
    }

    /// As [`Self::load_in`]; or, where that is refused, with the files that were good last ([`Self::keep_as_last_good`]) in
    /// the place of those that `file` names, and why that had to be.
    pub fn load_or_last_good(
        file: &Path,
        surroundings: &Surroundings,
    ) -> Result<(Self, Option<ConfigError>), ConfigError> {
        let provider = Source::read(file.to_owned())?;
        let broken = match Self::of(provider.clone(), surroundings) {
            Ok(config) => return Ok((config, None)),
            Err(broken) => broken,
        };
        let with_last_good = || {
            let raw: raw::Provider = super::parse(file, &provider.text).ok()?;
            let sources = Sources::last_good(provider, &raw)?;
            Self::validate(raw, sources, surroundings).ok()
        };
        match with_last_good() {
            Some(config) => Ok((config, Some(broken))),
            None => Err(broken),
        }
    }

    /// Keeps the files under the state directory, for [`Self::load_or_last_good`].
    pub fn keep_as_last_good(&self) -> std::io::Result<()> {
        self.sources.keep(&self.state_dir, &self.cluster)
    }

    pub(super) fn of(provider: Source, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let raw = super::parse(&provider.file, &provider.text)?;
        let sources = Sources::read(provider, &raw)?;
        Self::validate(raw, sources, surroundings)
    }

    fn validate(raw: raw::Provider, sources: Sources, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let check = Checker { file: &sources.provider.file };
        let base = check.file.parent().unwrap_or(Path::new("."));
        check.label("cluster", &raw.cluster)?;
        check.label("region", &raw.region)?;
        if raw.nodes.is_empty() {
            return Err(check.error("nodes", "is empty: expected at least one zone"));
        }
        let mut zones = BTreeSet::new();
        let mut ports = BTreeSet::new();
        let mut nodes = Vec::new();
        for (index, node) in raw.nodes.into_iter().enumerate() {
            check.label(&format!("nodes[{index}].zone"), &node.zone)?;
            if !zones.insert(node.zone.clone()) {
                return Err(check.error(format!("nodes[{index}].zone"), format!("{:?} is given twice", node.zone)));
            }
            if !ports.insert(node.kubelet_port) {
                let problem = format!("{} is given twice: each node needs its own", node.kubelet_port);
                return Err(check.error(format!("nodes[{index}].kubeletPort"), problem));
            }
            let name = NodeName::of_zone(&node.zone);
            nodes.push(NodeConfig { name, zone: node.zone, kubelet_port: node.kubelet_port });
        }
        let zone_names: Vec<String> = nodes.iter().map(|node| node.zone.clone()).collect();
        let mut market =
            policy::market_of(&sources.catalog, Some((&raw.region, &zone_names)), sources.prices.as_ref())?;
        let catalog = &mut market.catalog;
        let registration = check.duration("agents.registrationTimeout", &raw.agents.registration_timeout)?;
        let cloud = match raw.cloud {
            raw::Cloud::Local(local) => CloudConfig::Local(local_cloud(&check, base, local)?),
            raw::Cloud::Ec2(ec2) => CloudConfig::Ec2(Box::new(ec2::settings(&check, base, &zone_names, *ec2)?)),
        };
        let (mut policy, unlisted) = match &sources.cost_policy {
            Some(written) => {
                let loaded = policy::policy_for(written, catalog, &zone_names)?;
                match &cloud {
                    CloudConfig::Ec2(settings) if settings.tells_of_types() => (loaded.policy, loaded.unlisted),
                    CloudConfig::Ec2(_) => (loaded.by_the_catalog_alone(ec2::NOT_ASKED)?, Vec::new()),
                    CloudConfig::Local(_) => (loaded.by_the_catalog_alone("")?, Vec::new()),
                }
            }
            None => {
                let plain = plain::policy(
                    check.cpu("defaults.cpu", &raw.defaults.cpu)?,
                    check.bytes("defaults.memory", &raw.defaults.memory)?,
                    registration,
                );
                (plain, Vec::new())
            }
        };
        for (index, entry) in raw.standby.into_iter().enumerate() {
            if !catalog.types.iter().any(|t| t.name == entry.instance_type) {
                let problem = format!("{:?} is not in {}", entry.instance_type, sources.catalog.file.display());
                return Err(check.error(format!("standby[{index}].instanceType"), problem));
            }
            if !zones.contains(&entry.zone) {
                let problem = format!("{:?} is none of the zones under nodes", entry.zone);
                return Err(check.error(format!("standby[{index}].zone"), problem));
            }
            let raw::Standby { instance_type, zone, count } = entry;
            if policy.standby.iter().any(|pool| pool.zone == zone && pool.instance_type == instance_type) {
                let problem = format!("{instance_type} in {zone} is given twice, here or in the cost policy");
                return Err(check.error(format!("standby[{index}]"), problem));
            }
            policy.standby.push(StandbyPool { instance_type, zone, count, windows: Vec::new() });
        }
        if let CloudConfig::Ec2(settings) = &cloud {
            if catalog.region != raw.region {
                let problem = format!("{:?}: {} is of {}", raw.region, sources.catalog.file.display(), catalog.region);
                return Err(check.error("region", problem));
            }
            // What there is no image for can't be bought. The policy may name it all the same.
            catalog.types.retain(|spec| settings.images.contains_key(&spec.architecture));
        }
        let authority_secret = replicas::secret(&check, "agents.authoritySecret", raw.agents.authority_secret)?;
        let types = catalog.types.clone().into_iter().map(|spec| InstanceType {
            name: spec.name,
            cpu_millis: spec.cpu_millis,
            memory_bytes: spec.memory_bytes,
            price: spec.on_demand,
        });
        Ok(Self {
            cluster: raw.cluster,
            kubeconfig: raw.kubeconfig.map(|path| base.join(path)),
            state_dir: base.join(raw.state_dir),
            address: surroundings::address(&check, raw.address, surroundings)?,
            region: raw.region,
            nodes,
            limits: Limits {
                cpu_millis: check.cpu("limits.cpu", &raw.limits.cpu)?,
                memory_bytes: check.bytes("limits.memory", &raw.limits.memory)?,
                pods: raw.limits.pods,
            },
            agents_listen: raw.agents.listen,
            dns_server: raw.dns.server,
            dns_domain: raw.dns.domain,
            cloud,
            types: types.collect(),
            buying: Arc::new(Buying {
                policy,
                market: Market {
                    reserved_memory_bytes: check.bytes("defaults.reservedMemory", &raw.defaults.reserved_memory)?,
                    ..market
                },
            }),
            unlisted,
            keep_completed_pods: check.duration("keepCompletedPods", &raw.keep_completed_pods)?,
            node_identity: node_identity::node_identity(&check, raw.node_identity)?,
            telemetry_listen: raw.telemetry.listen,
            leader_election: replicas::leader_election(
                &check,
                raw.leader_election,
                authority_secret.is_some(),
                surroundings,
            )?,
            agents_advertise: replicas::advertise(&check, raw.agents.advertise, raw.agents.listen)?,
            authority_secret,
            sources: Arc::new(sources),
        })
    }
}

fn local_cloud(check: &Checker, base: &Path, raw: raw::Local) -> Result<LocalConfig, ConfigError> {
    let expected = "expected the bridge's address with its prefix, such as 10.72.0.1/16";
    let subnet = || check.error("cloud.local.subnet", format!("{:?}: {expected}", raw.subnet));
    let (address, prefix) = raw.subnet.split_once('/').ok_or_else(subnet)?;
    let bridge_address: Ipv4Addr = address.parse().map_err(|_| subnet())?;
    let prefix_len: u8 = prefix.parse().ok().filter(|n| (8..=29).contains(n)).ok_or_else(subnet)?;
    // IFNAMSIZ is 16 with the terminating zero (linux/if.h).
    if raw.bridge.is_empty() || raw.bridge.len() > 15 || raw.bridge.contains(['/', ' ']) {
        let problem = format!("{:?}: expected an interface name of 1 to 15 characters", raw.bridge);
        return Err(check.error("cloud.local.bridge", problem));
    }
    Ok(LocalConfig {
        bridge: raw.bridge,
        bridge_address,
        prefix_len,
        machine_image: raw.machine_image.map(|path| base.join(path)),
        bin_dir: base.join(raw.bin_dir),
        cni_bin_dir: base.join(raw.cni_bin_dir),
        agent: raw.agent.map(|path| base.join(path)),
        sandbox_image: raw.sandbox_image,
        insecure_registries: raw.insecure_registries,
    })
}

pub(super) struct Checker<'a> {
    file: &'a Path,
}

impl Checker<'_> {
    pub(super) fn error(&self, key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError::invalid(self.file, key, problem)
    }

    fn cpu(&self, key: &str, text: &str) -> Result<u64, ConfigError> {
        let expected = "expected a quantity of CPUs above zero, such as 2 or 500m";
        parse_milli(text).filter(|n| *n > 0).ok_or_else(|| self.error(key, format!("{text:?}: {expected}")))
    }

    pub(super) fn bytes(&self, key: &str, text: &str) -> Result<u64, ConfigError> {
        let expected = "expected a quantity of bytes above zero, such as 512Mi or 4Gi";
        parse_units(text).filter(|n| *n > 0).ok_or_else(|| self.error(key, format!("{text:?}: {expected}")))
    }

    pub(super) fn duration(&self, key: &str, text: &str) -> Result<SignedDuration, ConfigError> {
        let expected = "expected a duration such as 30s, 10m or 1h30m";
        text.parse::<Span>()
            .ok()
            .and_then(|span| SignedDuration::try_from(span).ok())
            .filter(|duration| !duration.is_negative())
            .ok_or_else(|| self.error(key, format!("{text:?}: {expected}")))
    }

    /// A name that can stand in a node's name, a label's value and a path (RFC 1123).
    pub(super) fn label(&self, key: &str, text: &str) -> Result<(), ConfigError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fine =
            (1..=40).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
        let expected = "expected 1 to 40 lower-case letters, digits and dashes, none at the ends";
        if fine { Ok(()) } else { Err(self.error(key, format!("{text:?}: {expected}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../provider-config/provider.yaml");

    /// Loads the shipped example with `from` replaced by `to`, and says how it is refused.
    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from:?} is not in the example");
        let text = GOOD.replacen(from, to, 1);
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/provider-config/provider.yaml"));
        let error = ProviderConfig::of(Source::new(file, text), &Surroundings::default());
        error.expect_err("it should have been refused").to_string()
    }

    #[test]
    fn the_shipped_example_is_valid() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/provider-config/provider.yaml"));
        let config = ProviderConfig::load(file).expect("valid");
        assert_eq!(config.nodes[0].name.as_str(), "pilotlight-local-a");
        assert!(config.types.len() > 3);
    }

    #[test]
    fn every_broken_key_is_named_with_what_was_expected() {
        for (from, to, key, expected) in [
            ("cluster: dev", "cluster: Dev_1", "cluster", "lower-case"),
            ("cluster: dev", "clutser: dev", "clutser", "unknown field"),
            ("kubeletPort: 10260", "kubeletPort: many", "nodes[0].kubeletPort", "from 0 to 65535"),
            ("cpu: 64", "cpu: -1", "limits.cpu", "quantity"),
            ("memory: 128Gi", "memory: lots", "limits.memory", "quantity"),
            ("pods: 110", "pods: 1e99", "limits.pods", "a whole number"),
            ("subnet: 10.72.0.1/16", "subnet: 10.72.0.1", "cloud.local.subnet", "prefix"),
            ("keepCompletedPods: 10m", "keepCompletedPods: soon", "keepCompletedPods", "duration"),
            ("listen: 10.72.0.1:10255", "listen: nowhere", "agents.listen", "socket address"),
            ("leaseDuration: 15s", "leaseDuration: 9s", "leaderElection.leaseDuration", "more than renewDeadline"),
            ("leaseDuration: 15s", "leaseDuration: 15500ms", "leaderElection.leaseDuration", "whole seconds"),
            ("retryPeriod: 2s", "retryPeriod: 9s", "leaderElection.renewDeadline", "times retryPeriod"),
            ("retryPeriod: 2s", "retryPeriod: 0s", "leaderElection.retryPeriod", "above zero"),
            ("enabled: false", "enabled: true", "agents.authoritySecret", "is missing"),
            ("listen: 10.72.0.1:10255", "listen: 0.0.0.0:10255", "agents.advertise", "is missing"),
            ("address: 10.70.0.1", "# address: none", "address", "POD_IP"),
            ("serving: kubernetes.io/kubelet-serving", "serving: me", "nodeIdentity.serving", "a signer's name"),
            ("client: certificate", "client: nobody", "nodeIdentity.client", "serviceAccount"),
            ("# labelPod: true", "labelPod: true", "leaderElection.labelPod", "leaderElection.enabled: true"),
            ("enabled: false", "enabled: true\n  labelPod: true", "leaderElection.labelPod", "POD_NAME"),
            ("# advertise: agents.example.com:10255", "advertise: agents.example.com", "agents.advertise", "host:port"),
            ("catalog: catalog.yaml", "catalog: nothing.yaml", "nothing.yaml", "cannot be read"),
        ] {
            let refusal = refusal(from, to);
            assert!(refusal.contains(key) && refusal.contains(expected), "{to}: {refusal}");
        }
    }

    #[test]
    fn a_cost_policy_that_buys_in_a_zone_without_a_node_is_refused() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/provider-config/provider.yaml"));
        let with = |policy: &str| {
            let raw: raw::Provider = super::super::parse(file, GOOD).unwrap();
            let mut sources = Sources::read(Source::new(file, GOOD), &raw).unwrap();
            sources.catalog.text.insert_str(0, "region: local\nzones: [local-a, local-b]\n");
            sources.cost_policy = Some(Source::new("cost-policy.yaml", policy));
            ProviderConfig::validate(raw, sources, &Surroundings::default()).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(with("standby: [{type: t3.small, zone: local-a}]"), Ok(()));
        let refused = with("standby: [{type: t3.small, zone: local-b}]");
        let expected = "\"local-b\": expected a zone in which there is a node: local-a";
        assert_eq!(refused, Err(format!("cost-policy.yaml:1: standby[0].zone: {expected}")));
    }
}
