//! Containers: their own fields, ports, resources and mounts.

use super::{
    env, non_empty, probe,
    refuse::{Refusals, Rule},
    security,
};
use crate::model::{
    ContainerKind, ContainerSpec, MountPropagation, MountSpec, PodSecurity, PortSpec, Protocol, PullPolicy, Resources,
    RestartPolicy, SubPath, TerminationMessage, parse_milli, parse_units,
};
use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::api::resource::Quantity};
use std::collections::BTreeMap;

/// What a container must know of its Pod.
pub(super) struct PodContext<'a> {
    pub restart_policy: RestartPolicy,
    pub host_network: bool,
    pub security: &'a PodSecurity,
}

pub(super) fn pod_containers(
    init: &[api::Container],
    apps: &[api::Container],
    pod: &PodContext<'_>,
    refusals: &mut Refusals,
) -> (Vec<ContainerSpec>, Vec<ContainerSpec>) {
    let init = init.iter().map(|c| container(c, true, pod, refusals)).collect();
    (init, apps.iter().map(|c| container(c, false, pod, refusals)).collect())
}

fn container(container: &api::Container, init: bool, pod: &PodContext<'_>, refusals: &mut Refusals) -> ContainerSpec {
    let api::Container {
        args,
        command,
        env: variables,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy: _, // says how a resize is done, and none is done in place
        resources: amounts,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = container;
    refusals.enter_container(name, init);

    let image = image.clone().unwrap_or_default();
    if image.is_empty() {
        refusals.refuse(Rule::Image, &[], "nothing");
    }
    let kind = kind(restart_policy.as_deref(), init, pod.restart_policy, refusals);
    if restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
        refusals.refuse(Rule::ContainerRestartRules, &[], "a list of rules");
    }
    for api::VolumeDevice { device_path, name } in volume_devices.iter().flatten() {
        refusals.refuse(Rule::VolumeDevices, &[name], device_path);
    }
    let ports: Vec<PortSpec> = ports.iter().flatten().filter_map(|p| port(p, pod.host_network, refusals)).collect();
    let (requests, limits) = requirements(amounts.as_ref(), refusals);
    let probes = crate::model::Probes {
        startup: startup_probe.as_ref().and_then(|p| probe::probe(p, "startupProbe", &ports, refusals)),
        readiness: readiness_probe.as_ref().and_then(|p| probe::probe(p, "readinessProbe", &ports, refusals)),
        liveness: liveness_probe.as_ref().and_then(|p| probe::probe(p, "livenessProbe", &ports, refusals)),
    };
    let lifecycle = lifecycle.as_ref().map(|l| probe::lifecycle(l, &ports, refusals)).unwrap_or_default();
    let fallback_to_logs = match termination_message_policy.as_deref() {
        None | Some("" | "File") => false,
        Some("FallbackToLogsOnError") => true,
        Some(other) => {
            refusals.refuse(Rule::TerminationMessagePolicy, &[], other);
            false
        }
    };
    ContainerSpec {
        name: name.clone(),
        kind,
        pull_policy: pull_policy(image_pull_policy.as_deref(), &image, refusals),
        image,
        command: command.clone().unwrap_or_default(),
        args: args.clone().unwrap_or_default(),
        working_dir: non_empty(working_dir),
        env: variables.iter().flatten().filter_map(|v| env::variable(v, refusals)).collect(),
        env_from: env_from.iter().flatten().enumerate().filter_map(|(i, e)| env::from(i, e, refusals)).collect(),
        mounts: volume_mounts.iter().flatten().map(|m| mount(m, refusals)).collect(),
        ports,
        requests,
        limits,
        security: security::container(security_context.as_ref(), pod.security, refusals),
        probes,
        lifecycle,
        termination_message: TerminationMessage {
            path: non_empty(termination_message_path).unwrap_or_else(|| "/dev/termination-log".to_owned()),
            fallback_to_logs,
        },
        stdin: stdin.unwrap_or(false),
        stdin_once: stdin_once.unwrap_or(false),
        tty: tty.unwrap_or(false),
    }
}

/// A restart policy of a container's own is honoured where it makes a sidecar, and harmless where it
/// repeats the Pod's.
fn kind(own: Option<&str>, init: bool, pod: RestartPolicy, refusals: &mut Refusals) -> ContainerKind {
    let pods = match pod {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    };
    match own {
        Some("Always") if init => return ContainerKind::Sidecar,
        Some(own) if !own.is_empty() && own != pods => refusals.refuse(Rule::ContainerRestartPolicy, &[], own),
        _ => {}
    }
    if init { ContainerKind::Init } else { ContainerKind::App }
}

/// The default goes by the tag: `latest`, or none at all, is pulled each time (pkg/apis/core/v1/defaults.go,
/// SetDefaults_Container).
fn pull_policy(policy: Option<&str>, image: &str, refusals: &mut Refusals) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Never") => PullPolicy::Never,
        None | Some("") if floats(image) => PullPolicy::Always,
        None | Some("") => PullPolicy::IfNotPresent,
        Some(other) => {
            refusals.refuse(Rule::PullPolicy, &[], other);
            PullPolicy::IfNotPresent
        }
    }
}

/// Whether an image's name may stand for another image tomorrow: the tag is `latest` or missing, and
/// there is no digest.
fn floats(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn port(port: &api::ContainerPort, host_network: bool, refusals: &mut Refusals) -> Option<PortSpec> {
    let api::ContainerPort { container_port, host_ip, host_port, name, protocol } = port;
    let text = container_port.to_string();
    let label = name.as_deref().unwrap_or(&text);
    let mut number = |rule, value: i32| match u16::try_from(value) {
        Ok(number) if number > 0 => Some(number),
        _ => {
            refusals.refuse(rule, &[label], value);
            None
        }
    };
    let container_port = number(Rule::Port, *container_port)?;
    // The API server writes 0 nowhere, but accepts it as "none".
    let host_port = match host_port.filter(|port| *port != 0) {
        Some(port) => Some(number(Rule::HostPort, port)?),
        None if host_network => Some(container_port),
        None => None,
    };
    let host_ip = match host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        None => None,
        Some(ip) => match ip.parse() {
            Ok(ip) => Some(ip),
            Err(_) => {
                refusals.refuse(Rule::HostIp, &[label], ip);
                None
            }
        },
    };
    let protocol = match protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            refusals.refuse(Rule::PortProtocol, &[label], other);
            return None;
        }
    };
    Some(PortSpec { name: non_empty(name), container_port, host_port, host_ip, protocol })
}

/// Requests default to limits, resource by resource (pkg/apis/core/v1/defaults.go, SetDefaults_Pod).
fn requirements(all: Option<&api::ResourceRequirements>, refusals: &mut Refusals) -> (Resources, Resources) {
    let Some(api::ResourceRequirements { claims, limits, requests }) = all else {
        return Default::default();
    };
    for api::ResourceClaim { name, request: _ } in claims.iter().flatten() {
        refusals.refuse(Rule::Claims, &[name], name);
    }
    let empty = BTreeMap::new();
    let limits = resources(limits.as_ref().unwrap_or(&empty), &mut |name, amount| {
        refusals.refuse(Rule::Limits, &[name], amount);
    });
    let requests = resources(requests.as_ref().unwrap_or(&empty), &mut |name, amount| {
        refusals.refuse(Rule::Requests, &[name], amount);
    });
    let requests = Resources {
        cpu_millis: requests.cpu_millis.or(limits.cpu_millis),
        memory_bytes: requests.memory_bytes.or(limits.memory_bytes),
        ephemeral_storage_bytes: requests.ephemeral_storage_bytes.or(limits.ephemeral_storage_bytes),
    };
    (requests, limits)
}

/// Reads the three resources an instance has; all else (GPUs, huge pages) goes to `refuse`. An amount of
/// zero of something else asks for nothing.
pub(super) fn resources(list: &BTreeMap<String, Quantity>, refuse: &mut dyn FnMut(&str, &str)) -> Resources {
    let mut resources = Resources::default();
    for (name, Quantity(amount)) in list {
        let (slot, value) = match name.as_str() {
            "cpu" => (&mut resources.cpu_millis, parse_milli(amount)),
            "memory" => (&mut resources.memory_bytes, parse_units(amount)),
            "ephemeral-storage" => (&mut resources.ephemeral_storage_bytes, parse_units(amount)),
            _ if parse_milli(amount) == Some(0) => continue,
            _ => {
                refuse(name, amount);
                continue;
            }
        };
        *slot = value;
        if value.is_none() {
            refuse(name, amount);
        }
    }
    resources
}

fn mount(mount: &api::VolumeMount, refusals: &mut Refusals) -> MountSpec {
    let api::VolumeMount {
        bind_mount_options,
        mount_path,
        mount_propagation,
        name,
        read_only,
        recursive_read_only,
        sub_path,
        sub_path_expr,
    } = mount;
    if let Some(options) = bind_mount_options.as_ref().filter(|options| !options.is_empty()) {
        refusals.refuse(Rule::MountOptions, &[mount_path], options.join(","));
    }
    let read_only = read_only.unwrap_or(false);
    let recursive_read_only = match recursive_read_only.as_deref() {
        None | Some("" | "Disabled") => false,
        Some("IfPossible" | "Enabled") if read_only => true,
        Some(other) => {
            refusals.refuse(Rule::MountRecursive, &[mount_path], other);
            false
        }
    };
    let propagation = match mount_propagation.as_deref() {
        None | Some("" | "None") => MountPropagation::None,
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        Some(other) => {
            refusals.refuse(Rule::MountPropagation, &[mount_path], other);
            MountPropagation::None
        }
    };
    let sub_path = match (non_empty(sub_path_expr), non_empty(sub_path)) {
        (Some(expression), _) => SubPath::Expr(expression),
        (None, Some(path)) => SubPath::Path(path),
        (None, None) => SubPath::None,
    };
    MountSpec { volume: name.clone(), path: mount_path.clone(), read_only, recursive_read_only, propagation, sub_path }
}
