//! A desired Pod in the runtime's words: sandbox and container configurations. Pure.
//!
//! Rules from pkg/kubelet/kuberuntime (kuberuntime_sandbox.go, kuberuntime_container.go,
//! kuberuntime_container_linux.go, security_context.go) and pkg/securitycontext.

use super::{Machine, labels, resources::resources};
use crate::{
    decide::containers::definition_hash,
    model::{ContainerSecurity, DesiredContainer, DesiredPod, Labels, Protocol, Seccomp},
};
use k8s_cri::v1 as cri;
use std::{collections::HashMap, path::Path};

/// Where Localhost seccomp profiles lie, as on a kubelet's node.
const SECCOMP_PROFILES: &str = "/var/lib/kubelet/seccomp";

/// pkg/securitycontext/util.go, `defaultMaskedPaths` and `defaultReadonlyPaths`.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What an image says of its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageUser {
    /// The image's id: containers are created from exactly this one.
    pub image_ref: String,
    pub uid: Option<i64>,
    pub name: String,
}

fn pairs(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(super) fn sandbox(pod: &DesiredPod, attempt: u32, pod_logs: &Path) -> cri::PodSandboxConfig {
    let mut all_labels = pairs(&pod.labels);
    all_labels.extend(identity(pod));
    let privileged = pod.containers.iter().any(|container| container.security.privileged);
    let seccomp = profile(pod.security.seccomp.as_ref().unwrap_or(&Seccomp::RuntimeDefault));
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.name.name.clone(),
            uid: pod.uid.to_string(),
            namespace: pod.name.namespace.clone(),
            attempt,
        }),
        hostname: if pod.host_network { String::new() } else { pod.hostname.clone() },
        log_directory: pod_logs.to_string_lossy().into_owned(),
        dns_config: Some(cri::DnsConfig {
            servers: pod.dns.nameservers.clone(),
            searches: pod.dns.searches.clone(),
            options: pod.dns.options.clone(),
        }),
        port_mappings: if pod.host_network { Vec::new() } else { port_mappings(pod) },
        labels: all_labels,
        annotations: pairs(&pod.annotations),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(pod),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                run_as_user: pod.security.run_as_user.map(int64),
                run_as_group: pod.security.run_as_group.filter(|_| pod.security.run_as_user.is_some()).map(int64),
                supplemental_groups: groups(pod),
                privileged,
                seccomp: Some(seccomp),
                ..Default::default()
            }),
            sysctls: pod.security.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// One Pod, one cgroup.
fn cgroup_parent(pod: &DesiredPod) -> String {
    format!("/kubepods/pod{}", pod.uid)
}

fn identity(pod: &DesiredPod) -> [(String, String); 3] {
    [
        (labels::POD_NAME.to_owned(), pod.name.name.clone()),
        (labels::POD_NAMESPACE.to_owned(), pod.name.namespace.clone()),
        (labels::POD_UID.to_owned(), pod.uid.to_string()),
    ]
}

fn int64(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

fn groups(pod: &DesiredPod) -> Vec<i64> {
    pod.security.fs_group.into_iter().chain(pod.security.supplemental_groups.iter().copied()).collect()
}

fn namespaces(pod: &DesiredPod) -> cri::NamespaceOption {
    let node_or = |node: bool, other: cri::NamespaceMode| if node { cri::NamespaceMode::Node } else { other };
    let pid = if pod.share_process_namespace { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    cri::NamespaceOption {
        network: node_or(pod.host_network, cri::NamespaceMode::Pod).into(),
        pid: node_or(pod.host_pid, pid).into(),
        ipc: node_or(pod.host_ipc, cri::NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

fn port_mappings(pod: &DesiredPod) -> Vec<cri::PortMapping> {
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    ports
        .map(|port| cri::PortMapping {
            protocol: match port.protocol {
                Protocol::Tcp => cri::Protocol::Tcp,
                Protocol::Udp => cri::Protocol::Udp,
                Protocol::Sctp => cri::Protocol::Sctp,
            }
            .into(),
            container_port: port.container_port.into(),
            host_port: port.host_port.unwrap_or_default().into(),
            host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
        .collect()
}

fn profile(seccomp: &Seccomp) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, localhost_ref) = match seccomp {
        Seccomp::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Seccomp::Unconfined => (ProfileType::Unconfined, String::new()),
        Seccomp::Localhost(name) => {
            (ProfileType::Localhost, Path::new(SECCOMP_PROFILES).join(name).to_string_lossy().into_owned())
        }
    };
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

/// One start of one container.
pub(super) struct Birth<'a> {
    pub pod: &'a DesiredPod,
    pub container: &'a DesiredContainer,
    pub number: u32,
    pub backoff_seconds: u32,
    pub image: &'a ImageUser,
    pub mounts: Vec<cri::Mount>,
}

pub(super) fn container(birth: Birth<'_>, machine: &Machine) -> cri::ContainerConfig {
    let Birth { pod, container, number, backoff_seconds, image, mounts } = birth;
    let mut labels_map = HashMap::from(identity(pod));
    labels_map.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    let policy = if container.termination_message.fallback_to_logs { "FallbackToLogsOnError" } else { "File" };
    let annotations = [
        (labels::CONTAINER_HASH, definition_hash(container)),
        (labels::CONTAINER_RESTART_COUNT, number.to_string()),
        (labels::TERMINATION_MESSAGE_PATH, container.termination_message.path.clone()),
        (labels::TERMINATION_MESSAGE_POLICY, policy.to_owned()),
        (labels::POD_TERMINATION_GRACE, pod.termination_grace_seconds.to_string()),
        (labels::BACKOFF_SECONDS, backoff_seconds.to_string()),
    ];
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: number }),
        image: Some(cri::ImageSpec {
            image: image.image_ref.clone(),
            user_specified_image: container.image.clone(),
            ..Default::default()
        }),
        command: container.command.clone(),
        args: container.args.clone(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment(&container.env),
        mounts,
        labels: labels_map,
        annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        log_path: format!("{}/{number}.log", container.name),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(pod, container, machine)),
            security_context: Some(security(pod, &container.security, image)),
        }),
        ..Default::default()
    }
}

/// Each name once, the last value, in the place of the first.
fn environment(env: &[(String, String)]) -> Vec<cri::KeyValue> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(env.len());
    let mut list: Vec<cri::KeyValue> = Vec::with_capacity(env.len());
    for (key, value) in env {
        match places.get(key.as_str()) {
            Some(place) => list[*place].value.clone_from(value),
            None => {
                places.insert(key, list.len());
                list.push(cri::KeyValue { key: key.clone(), value: value.clone() });
            }
        }
    }
    list
}

fn security(pod: &DesiredPod, security: &ContainerSecurity, image: &ImageUser) -> cri::LinuxContainerSecurityContext {
    // Without a user of its own a container runs as the image says (`determineEffectiveSecurityContext`).
    let user = security.run_as_user.or(image.uid);
    let name = if user.is_none() { image.name.clone() } else { String::new() };
    let group = security.run_as_group.filter(|_| user.is_some() || !name.is_empty());
    let paths = |list: &[&str]| -> Vec<String> {
        if security.unmasked_proc { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() }
    };
    let seccomp = security.seccomp.as_ref().unwrap_or(&Seccomp::Unconfined);
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: user.map(int64),
        run_as_username: name,
        run_as_group: group.map(int64),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: groups(pod),
        no_new_privs: security.no_new_privs,
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(profile(seccomp)),
        ..Default::default()
    }
}

/// Why a container with runAsNonRoot can't be created, in a kubelet's words
/// (pkg/kubelet/kuberuntime/security_context_others.go, `verifyRunAsNonRoot`).
pub(super) fn non_root_fault(pod: &DesiredPod, container: &DesiredContainer, image: &ImageUser) -> Option<String> {
    let security = &container.security;
    if !security.run_as_non_root {
        return None;
    }
    let name = &container.name;
    let who = format!("(pod: \"{}\", container: {name})", crate::decide::containers::pod_text(pod));
    match (security.run_as_user, image.uid) {
        (Some(0), _) => Some(format!("container's runAsUser breaks non-root policy {who}")),
        (Some(_), _) => None,
        (None, Some(0)) => Some(format!("container has runAsNonRoot and image will run as root {who}")),
        (None, None) if !image.name.is_empty() => Some(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {who}",
            image.name
        )),
        (None, _) => None,
    }
}
