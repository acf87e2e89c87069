//! PodIntent -> DesiredPod: every reference resolved, as the Pod's agent gets it.
//!
//! In: an intent's spec, what is known of the objects it refers to ([`Refs`], for which [`needs`] says
//! what to watch) and what its instance and cluster lend it ([`NodeFacts`]). Out: [`resolve`]'s
//! [`DesiredPod`]. The same input always gives the same output, in the same order; what is missing blocks
//! a container or a volume with the words kubelet would use, and heals when [`resolve`] is called again.
//! [`pod_size`] is the other question one asks of a spec: how large a machine it wants.
//!
//! ```text
//!  PodSpec ──needs()──> names to watch ──(kube adapter)──> Refs ─┐
//!     └──────────────────────────────────────────────────────────┴─resolve()─> DesiredPod ──> agent
//! ```

mod credentials;
mod dns;
mod env;
mod expand;
mod field;
mod files;
mod hostname;
mod quote;
mod refs;
mod size;
#[cfg(test)]
mod tests;

pub use refs::{ConfigMap, Fetched, Needs, Refs, Secret, ServiceLink, ServiceLinkPort, TokenKey, needs};
pub use size::pod_size;

use crate::model::{
    ContainerSpec, DesiredContainer, DesiredMount, DesiredPod, DesiredVolume, DesiredVolumeSource, DnsConfig,
    Generation, MountSpec, PodIntent, PodSpec, Resources, Stop, SubPath, VolumeSource,
};
use env::Environment;
use std::net::IpAddr;

/// What a Pod gets from where it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The Pod's own address. None with hostNetwork, or while its instance has none.
    pub pod_ip: Option<IpAddr>,
    /// The addresses that status.hostIPs says, the first of them status.hostIP.
    pub host_ips: Vec<IpAddr>,
    /// What a container without limits may use: its instance's allocatable.
    pub allocatable: Resources,
    /// `cluster.local`
    pub cluster_domain: String,
    /// The cluster's DNS Service. Empty: ClusterFirst falls back to Default.
    pub cluster_dns: Vec<IpAddr>,
    /// What resolv.conf on the instance says, for dnsPolicy Default. Empty: the agent leaves the
    /// instance's own resolv.conf in place.
    pub host_dns: DnsConfig,
}

/// Resolves a Pod. `spec` is `intent.spec`'s; a Pod whose spec was refused is never resolved.
pub fn resolve(
    intent: &PodIntent,
    spec: &PodSpec,
    refs: &Refs,
    facts: &NodeFacts,
    generation: Generation,
    stop: Option<Stop>,
) -> DesiredPod {
    let pod = PodView { intent, spec, refs, facts };
    let names = hostname::names(&pod);
    let containers = spec.init_containers.iter().chain(&spec.containers);
    DesiredPod {
        generation,
        uid: intent.uid.clone(),
        name: intent.name.clone(),
        labels: intent.labels.clone(),
        annotations: intent.annotations.clone(),
        pod_ip: facts.pod_ip.filter(|_| !spec.host_network),
        hostname: names.hostname,
        fqdn: names.fqdn,
        host_aliases: spec.host_aliases.clone(),
        dns: dns::resolv_conf(&pod),
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        share_process_namespace: spec.share_process_namespace,
        security: spec.security.clone(),
        restart_policy: spec.restart_policy,
        termination_grace_seconds: spec.termination_grace_seconds,
        containers: containers.map(|c| container(&pod, c, names.blocked.as_deref())).collect(),
        volumes: spec.volumes.iter().map(|volume| self::volume(&pod, &volume.name, &volume.source)).collect(),
        stop,
    }
}

/// All that a part of a Pod may be resolved from.
#[derive(Clone, Copy)]
struct PodView<'a> {
    intent: &'a PodIntent,
    spec: &'a PodSpec,
    refs: &'a Refs,
    facts: &'a NodeFacts,
}

fn container(pod: &PodView<'_>, spec: &ContainerSpec, blocked: Option<&str>) -> DesiredContainer {
    // kubelet looks at the host name, then env, then mounts, and reports the first that fails
    // (kubelet_pods.go, GenerateRunContainerOptions).
    let (environment, mut trouble) = match env::environment(pod, spec) {
        Ok(environment) => (environment, None),
        Err(why) => (Environment::default(), Some(why)),
    };
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        match self::mount(mount, &environment) {
            Ok(mount) => mounts.push(mount),
            Err(why) => trouble = trouble.or(Some(why)),
        }
    }
    let expand = |words: &[String]| words.iter().map(|word| environment.expand(word)).collect();
    DesiredContainer {
        name: spec.name.clone(),
        kind: spec.kind,
        image: spec.image.clone(),
        pull_policy: spec.pull_policy,
        pull_credentials: credentials::of_pod(pod),
        command: expand(&spec.command),
        args: expand(&spec.args),
        working_dir: spec.working_dir.clone(),
        env: environment.pairs(),
        mounts,
        ports: spec.ports.clone(),
        requests: spec.requests,
        limits: spec.limits,
        security: spec.security.clone(),
        probes: spec.probes.clone(),
        lifecycle: spec.lifecycle.clone(),
        termination_message: spec.termination_message.clone(),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        blocked: blocked.map(str::to_owned).or(trouble),
    }
}

/// Messages as kubelet_pods.go's makeMounts.
fn mount(mount: &MountSpec, environment: &Environment) -> Result<DesiredMount, String> {
    let sub_path = match &mount.sub_path {
        SubPath::None => None,
        SubPath::Path(path) => Some(path.clone()),
        SubPath::Expr(expression) => Some(environment.expand_strictly(expression)?),
    };
    let sub_path = sub_path.filter(|path| !path.is_empty());
    if let Some(path) = &sub_path {
        if path.starts_with('/') {
            return Err(format!("error SubPath `{path}` must not be an absolute path"));
        }
        if path.split('/').any(|part| part == "..") {
            return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
        }
    }
    let path = &mount.path;
    Ok(DesiredMount {
        volume: mount.volume.clone(),
        path: if path.starts_with('/') { path.clone() } else { format!("/{path}") },
        read_only: mount.read_only,
        recursive_read_only: mount.recursive_read_only,
        propagation: mount.propagation,
        sub_path,
    })
}

fn volume(pod: &PodView<'_>, name: &str, source: &VolumeSource) -> DesiredVolume {
    let source = match source {
        VolumeSource::EmptyDir { memory, size_limit_bytes } => {
            DesiredVolumeSource::EmptyDir { memory: *memory, size_limit_bytes: *size_limit_bytes }
        }
        VolumeSource::HostPath { path, kind } => {
            DesiredVolumeSource::HostPath { path: path.clone(), kind: kind.clone() }
        }
        VolumeSource::Projected { sources, default_mode } => match files::collect(pod, sources, *default_mode) {
            Ok(files) => DesiredVolumeSource::Files(files),
            Err(why) => DesiredVolumeSource::Blocked(format!("MountVolume.SetUp failed for volume \"{name}\" : {why}")),
        },
    };
    DesiredVolume { name: name.to_owned(), source }
}
