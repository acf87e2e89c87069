//! The shape of provider.yaml and catalog.yaml as written, before validation.

use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, path::PathBuf};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Provider {
    pub cluster: String,
    pub kubeconfig: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// Left out: POD_IP of the environment.
    pub address: Option<IpAddr>,
    pub region: String,
    pub nodes: Vec<Node>,
    pub limits: Limits,
    pub agents: Agents,
    pub dns: Dns,
    pub cloud: Cloud,
    pub catalog: PathBuf,
    /// Without: the cheapest type that holds a Pod, on demand.
    pub cost_policy: Option<PathBuf>,
    /// Spot prices, and on-demand prices in place of the catalog's.
    pub prices: Option<PathBuf>,
    #[serde(default)]
    pub standby: Vec<Standby>,
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(default = "keep_completed")]
    pub keep_completed_pods: String,
    #[serde(default)]
    pub node_identity: NodeIdentity,
    #[serde(default)]
    pub telemetry: Telemetry,
    #[serde(default)]
    pub leader_election: LeaderElection,
}

fn keep_completed() -> String {
    "10m".to_owned()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    pub zone: String,
    pub kubelet_port: u16,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Agents {
    pub listen: SocketAddr,
    /// How long an instance may take from its launch to its agent's first connection.
    #[serde(default = "registration_timeout")]
    pub registration_timeout: String,
    /// Where instances dial in, as host:port, if it is not `listen`.
    pub advertise: Option<String>,
    /// Where the authority of the agents' certificates is kept, if not under `stateDir`.
    pub authority_secret: Option<SecretName>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretName {
    pub namespace: String,
    pub name: String,
}

/// Words and defaults are client-go's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LeaderElection {
    pub enabled: bool,
    pub lease_name: String,
    pub namespace: String,
    pub lease_duration: String,
    pub renew_deadline: String,
    pub retry_period: String,
    /// Whether the leader's own Pod carries a label that says so.
    pub label_pod: bool,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            enabled: false,
            lease_name: "pilotlight".to_owned(),
            namespace: "pilotlight-system".to_owned(),
            lease_duration: "15s".to_owned(),
            renew_deadline: "10s".to_owned(),
            retry_period: "2s".to_owned(),
            label_pod: false,
        }
    }
}

/// Who the nodes are to the API server, and who says so to those who call them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct NodeIdentity {
    pub client: NodeClient,
    pub serving: String,
}

impl Default for NodeIdentity {
    fn default() -> Self {
        Self { client: NodeClient::default(), serving: KUBELET_SERVING.to_owned() }
    }
}

/// The signer of kubelets' serving certificates.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Who a node acts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeClient {
    /// `system:node:<name>`, by a certificate as a kubelet has one: the Node authorizer confines it.
    #[default]
    Certificate,
    /// The provider itself, for clusters that sign no kubelets' certificates: its roles confine it.
    ServiceAccount,
}

fn registration_timeout() -> String {
    "2m".to_owned()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Dns {
    pub server: IpAddr,
    pub domain: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Cloud {
    Local(Local),
    Ec2(Box<Ec2>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ec2 {
    #[serde(rename = "endpointURL")]
    pub endpoint_url: Option<String>,
    #[serde(rename = "stsEndpointURL")]
    pub sts_endpoint_url: Option<String>,
    #[serde(rename = "priceListEndpointURL")]
    pub price_list_endpoint_url: Option<String>,
    #[serde(rename = "interruptionQueueURL")]
    pub interruption_queue_url: Option<String>,
    #[serde(default)]
    pub refresh: Refresh,
    /// Twelve digits.
    pub account: Option<String>,
    pub identity_certificate: Option<PathBuf>,
    pub subnets: BTreeMap<String, Vec<String>>,
    pub security_groups: Vec<String>,
    /// By architecture.
    pub images: BTreeMap<String, String>,
    pub instance_profile: Option<String>,
    #[serde(default)]
    pub root_volume: RootVolume,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Registries spoken to by plain HTTP, as host:port.
    #[serde(default)]
    pub insecure_registries: Vec<String>,
    #[serde(default)]
    pub launches: Launches,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Launches {
    pub idle: String,
    pub longest: String,
    pub per_call: u32,
}

/// A Pod waits for its instance for more than ten seconds: three tenths of one are not noticed, and a launch call is
/// scarce (RunInstances: five at once, then two a second). A scheduler that binds hundreds of Pods pauses for up to a
/// quarter of a second between them. A burst's last Pod waits for `idle` alone, so `longest` holds only those back that
/// are ahead of it.
impl Default for Launches {
    fn default() -> Self {
        Self { idle: "300ms".to_owned(), longest: "2s".to_owned(), per_call: 100 }
    }
}

/// How often EC2 is asked what it sells, and what else of it is used. `off`: never.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Refresh {
    /// Sizes, and which zone has what.
    pub types: String,
    /// On demand.
    pub price_list: String,
    pub spot_prices: String,
    /// The account's other instances on demand, in a cost policy with `commitments`: those pay for them first.
    pub usage: String,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            types: "12h".to_owned(),
            price_list: "12h".to_owned(),
            spot_prices: "10m".to_owned(),
            usage: "15m".to_owned(),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RootVolume {
    pub device: String,
    pub size: String,
}

impl Default for RootVolume {
    fn default() -> Self {
        Self { device: "/dev/xvda".to_owned(), size: "20Gi".to_owned() }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Local {
    pub bridge: String,
    /// The bridge's own address with its prefix: `10.72.0.1/16`.
    pub subnet: String,
    pub machine_image: Option<PathBuf>,
    pub bin_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub agent: Option<PathBuf>,
    pub sandbox_image: String,
    /// Registries spoken to by plain HTTP, as host:port.
    #[serde(default)]
    pub insecure_registries: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Standby {
    pub instance_type: String,
    pub zone: String,
    pub count: u32,
}

/// For Pods that request nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Defaults {
    pub cpu: String,
    pub memory: String,
    /// What an instance keeps for itself.
    pub reserved_memory: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { cpu: "250m".to_owned(), memory: "256Mi".to_owned(), reserved_memory: "128Mi".to_owned() }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Telemetry {
    pub listen: Option<SocketAddr>,
}
