//! A Pod as the API server has it, in our own words: references not yet resolved.

use super::{NodeName, ObjectName, PodUid};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

pub type Labels = BTreeMap<String, String>;

/// One Pod bound to one of our nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct PodIntent {
    pub uid: PodUid,
    pub name: ObjectName,
    pub node: NodeName,
    pub labels: Arc<Labels>,
    pub annotations: Arc<Labels>,
    /// metadata.generation; goes back as status.observedGeneration.
    pub generation: i64,
    pub created_at: Timestamp,
    /// metadata.ownerReferences' controller: kind and name.
    pub owner: Option<(String, String)>,
    pub deletion: Option<Deletion>,
    /// The spec, or why this Pod can't run here.
    pub spec: Result<Arc<PodSpec>, Vec<Unsupported>>,
}

/// metadata.deletionTimestamp and deletionGracePeriodSeconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// When the grace period ends (deletionTimestamp is request time + grace).
    pub deadline: Timestamp,
    pub grace_seconds: u64,
}

/// A field that we don't honour, said loudly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {value} is not supported: {expected}")]
pub struct Unsupported {
    /// Path of the field, such as `spec.volumes[data].nfs`.
    pub field: String,
    pub value: String,
    /// What would be accepted.
    pub expected: String,
}

impl Unsupported {
    /// status.reason of a Pod that is refused for this: kubelet's own where it refuses the same.
    pub fn reason(&self) -> &'static str {
        if self.field.contains(".sysctls[") {
            "SysctlForbidden"
        } else if self.field.ends_with(".appArmorProfile") {
            "AppArmor"
        } else {
            "UnsupportedField"
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PodSpec {
    /// In order; a sidecar is an init container with restartPolicy Always.
    pub init_containers: Vec<ContainerSpec>,
    pub containers: Vec<ContainerSpec>,
    pub volumes: Vec<VolumeSpec>,
    pub restart_policy: RestartPolicy,
    pub termination_grace_seconds: u64,
    pub active_deadline_seconds: Option<u64>,
    pub service_account: String,
    pub image_pull_secrets: Vec<String>,
    pub enable_service_links: bool,
    pub hostname: Option<String>,
    pub subdomain: Option<String>,
    pub set_hostname_as_fqdn: bool,
    pub host_aliases: Vec<HostAlias>,
    pub dns_policy: DnsPolicy,
    pub dns_config: DnsConfig,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub security: PodSecurity,
    pub readiness_gates: Vec<String>,
    /// By nodeSelector and node affinity; None: any.
    pub architectures: Option<Vec<String>>,
    pub overhead: Resources,
    /// spec.resources.requests: where it says something, it takes the place of the containers' sum.
    pub pod_requests: Resources,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    None,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// `name:value` or `name`.
    pub options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    pub ip: IpAddr,
    pub hostnames: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContainerKind {
    Init,
    /// An init container with restartPolicy Always.
    Sidecar,
    App,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    pub name: String,
    pub kind: ContainerKind,
    pub image: String,
    pub pull_policy: PullPolicy,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFrom>,
    pub mounts: Vec<MountSpec>,
    pub ports: Vec<PortSpec>,
    pub requests: Resources,
    pub limits: Resources,
    pub security: ContainerSecurity,
    pub probes: Probes,
    pub lifecycle: Lifecycle,
    pub termination_message: TerminationMessage,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EnvVar {
    pub name: String,
    pub value: EnvValue,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EnvValue {
    /// May hold `$(NAME)` references.
    Literal(String),
    ConfigMapKey {
        name: String,
        key: String,
        optional: bool,
    },
    SecretKey {
        name: String,
        key: String,
        optional: bool,
    },
    Field(FieldPath),
    ResourceField(ResourceField),
}

/// A downward-API path such as `metadata.labels['app']` or `status.podIP`, validated at the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(pub String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceField {
    /// None: the container that uses it.
    pub container: Option<String>,
    /// `limits.cpu`, `requests.memory`, …
    pub resource: String,
    /// As a quantity: `1`, `1m`, `1Mi`.
    pub divisor: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EnvFrom {
    pub prefix: String,
    pub source: ObjectRef,
    pub optional: bool,
}

/// A ConfigMap or a Secret in the Pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    ConfigMap(String),
    Secret(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct MountSpec {
    pub volume: String,
    pub path: String,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: MountPropagation,
    pub sub_path: SubPath,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubPath {
    None,
    Path(String),
    /// May hold `$(NAME)` references.
    Expr(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    None,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSpec {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Clone, Debug, PartialEq)]
pub enum VolumeSource {
    EmptyDir {
        memory: bool,
        size_limit_bytes: Option<u64>,
    },
    HostPath {
        path: String,
        kind: String,
    },
    /// ConfigMap, Secret, downward API and projected volumes are all sets of files.
    Projected {
        sources: Vec<ProjectedSource>,
        default_mode: u32,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum ProjectedSource {
    /// No items: every key.
    Object {
        object: ObjectRef,
        items: Vec<KeyToPath>,
        optional: bool,
    },
    Downward(Vec<DownwardFile>),
    ServiceAccountToken {
        path: String,
        audience: Option<String>,
        expiration_seconds: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DownwardFile {
    pub path: String,
    pub mode: Option<u32>,
    /// Only Field and ResourceField occur here.
    pub value: EnvValue,
}

/// Amounts; None where the Pod says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub ephemeral_storage_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    pub name: Option<String>,
    pub container_port: u16,
    pub host_port: Option<u16>,
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSecurity {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: bool,
    pub fs_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    pub seccomp: Option<Seccomp>,
    /// Name -> value, already checked to be safe ones.
    pub sysctls: BTreeMap<String, String>,
}

/// A container's securityContext laid over its Pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSecurity {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: bool,
    pub privileged: bool,
    pub read_only_root: bool,
    /// allowPrivilegeEscalation: false
    pub no_new_privs: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub seccomp: Option<Seccomp>,
    pub unmasked_proc: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    pub startup: Option<Probe>,
    pub readiness: Option<Probe>,
    pub liveness: Option<Probe>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub action: Handler,
    pub initial_delay_seconds: u32,
    pub period_seconds: u32,
    pub timeout_seconds: u32,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    pub termination_grace_seconds: Option<u64>,
}

/// What a probe or a lifecycle hook does. Ports are numbers: names are resolved at the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    Exec { command: Vec<String> },
    Http { host: Option<String>, port: u16, path: String, https: bool, headers: Vec<(String, String)> },
    Tcp { host: Option<String>, port: u16 },
    Grpc { port: u16, service: String },
    Sleep { seconds: u64 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminationMessage {
    pub path: String,
    /// terminationMessagePolicy: FallbackToLogsOnError
    pub fallback_to_logs: bool,
}

impl PodSpec {
    /// A Pod without containers: what is known of one whose spec was refused.
    pub fn empty() -> Self {
        Self {
            init_containers: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
            restart_policy: RestartPolicy::Always,
            termination_grace_seconds: 30,
            active_deadline_seconds: None,
            service_account: String::new(),
            image_pull_secrets: Vec::new(),
            enable_service_links: true,
            hostname: None,
            subdomain: None,
            set_hostname_as_fqdn: false,
            host_aliases: Vec::new(),
            dns_policy: DnsPolicy::ClusterFirst,
            dns_config: DnsConfig::default(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            security: PodSecurity::default(),
            pod_requests: Resources::default(),
            readiness_gates: Vec::new(),
            architectures: None,
            overhead: Resources::default(),
        }
    }
}
