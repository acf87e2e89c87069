//! A Pod with every reference resolved, as the one agent that runs it gets it.
//!
//! Always whole, never a delta: whoever has the newest generation has everything. It holds the Pod's
//! own secrets, so it is never logged (Debug prints no env and no file content).

use super::{
    ContainerKind, ContainerSecurity, Deletion, DnsConfig, Generation, HostAlias, Labels, Lifecycle, MountPropagation,
    ObjectName, PodSecurity, PodUid, PortSpec, Probes, PullPolicy, Resources, RestartPolicy, TerminationMessage,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, net::IpAddr, sync::Arc};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DesiredPod {
    pub generation: Generation,
    pub uid: PodUid,
    pub name: ObjectName,
    pub labels: Arc<Labels>,
    pub annotations: Arc<Labels>,
    /// The Pod's address; None with hostNetwork.
    pub pod_ip: Option<IpAddr>,
    pub hostname: String,
    /// The fully qualified name for /etc/hosts, when a subdomain is set.
    pub fqdn: Option<String>,
    pub host_aliases: Vec<HostAlias>,
    /// What resolv.conf says, the cluster's defaults already merged in.
    pub dns: DnsConfig,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub security: PodSecurity,
    pub restart_policy: RestartPolicy,
    pub termination_grace_seconds: u64,
    /// Init containers and sidecars in their order, then the app containers.
    pub containers: Vec<DesiredContainer>,
    pub volumes: Vec<DesiredVolume>,
    /// Set: stop everything within the grace period, then report `terminated`.
    pub stop: Option<Stop>,
}

/// Stands for a whole [`DesiredPod`] where only sameness matters: equal for equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredDigest([u8; 32]);

impl DesiredPod {
    /// As it goes to its agent: the same bytes for equal ones.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("its maps are ordered and their keys are texts")
    }

    pub fn digest(&self) -> DesiredDigest {
        DesiredDigest(Sha256::digest(self.to_json()).into())
    }
}

/// Why and how fast a Pod must stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Deadline and grace; a later, shorter one wins.
    pub deletion: Deletion,
    /// For events and status: `deleted`, `DeadlineExceeded`, …
    pub reason: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredContainer {
    pub name: String,
    pub kind: ContainerKind,
    pub image: String,
    pub pull_policy: PullPolicy,
    pub pull_credentials: Vec<RegistryCredential>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    /// Resolved, in order, later ones winning.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<DesiredMount>,
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
    /// Set: it can't be created yet (a Secret is missing, say); it waits with reason
    /// CreateContainerConfigError and this message. A running one is left alone.
    pub blocked: Option<String>,
}

impl DesiredContainer {
    /// One that asks for nothing: an app container of this name and image.
    pub fn new(name: &str, image: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: ContainerKind::App,
            image: image.to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
            pull_credentials: Vec::new(),
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            ports: Vec::new(),
            requests: Resources::default(),
            limits: Resources::default(),
            security: ContainerSecurity::default(),
            probes: Probes::default(),
            lifecycle: Lifecycle::default(),
            // Kubernetes' default (core/v1, TerminationMessagePathDefault).
            termination_message: TerminationMessage {
                path: "/dev/termination-log".to_owned(),
                fallback_to_logs: false,
            },
            stdin: false,
            stdin_once: false,
            tty: false,
            blocked: None,
        }
    }
}

impl fmt::Debug for DesiredContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DesiredContainer")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("image", &self.image)
            .field("blocked", &self.blocked)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryCredential {
    /// As in .dockerconfigjson: `registry.example`, `registry.example/team`.
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryCredential({})", self.registry)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredMount {
    pub volume: String,
    pub path: String,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: MountPropagation,
    /// Relative, without `..`.
    pub sub_path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DesiredVolume {
    pub name: String,
    pub source: DesiredVolumeSource,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DesiredVolumeSource {
    EmptyDir {
        memory: bool,
        size_limit_bytes: Option<u64>,
    },
    HostPath {
        path: String,
        kind: String,
    },
    /// Written with an atomic swap; rewritten when the content changes.
    Files(Vec<DesiredFile>),
    /// Not ready yet (a ConfigMap is missing, say): the whole Pod waits in ContainerCreating with a
    /// FailedMount event of this message.
    Blocked(String),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredFile {
    /// Relative to the volume, without `..`.
    pub path: String,
    pub mode: u32,
    #[serde(with = "base64_bytes")]
    pub content: Vec<u8>,
}

impl fmt::Debug for DesiredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:o}, {} bytes)", self.path, self.mode, self.content.len())
    }
}

/// Bytes as base64 text in JSON.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
