//! Pod -> PodIntent: the API server's object in our own words, or every reason why it can't run here.
//!
//! In: a Pod as the watch delivers it. Out: [`pod_intent`]'s [`PodIntent`], whose spec is either all of
//! what the Pod asks for or the whole list of fields that are not supported; and [`unhonoured`]: what is
//! let pass without being acted on, worth an event.
//!
//! Every k8s-openapi struct is taken apart field by field without `..`: a field that a new API version
//! adds stops the build here, until someone has decided whether it is honoured, harmless or refused.
//! SEMANTICS.md tells users of each of those decisions; [`refuse::Rule`] is the list of all refusals.
//!
//! Defaults are filled in as the API server's would be (pkg/apis/core/v1/defaults.go), because objects
//! from tests and dry runs haven't been through it.

mod container;
mod env;
mod field_path;
mod probe;
mod refuse;
mod security;
#[cfg(test)]
mod tests;
mod volume;

pub use refuse::Rule;

use super::selection::{ARCH, allowed_values};
use crate::decide::purchase::policy::Architecture;
use crate::model::{
    Deletion, DnsConfig, DnsPolicy, HostAlias, NodeName, ObjectName, PodIntent, PodSpec, PodUid, Resources,
    RestartPolicy, Unsupported,
};
use container::{pod_containers, resources};
use k8s_openapi::{
    api::core::v1 as api,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use refuse::Refusals;
use std::{collections::BTreeMap, sync::Arc};

/// What a Pod is meant to be. None if it isn't bound to a node yet, or lacks what every stored Pod has
/// (a name, a namespace, a uid, a spec): then it is no Pod of ours to judge.
pub fn pod_intent(pod: &api::Pod) -> Option<PodIntent> {
    let api::Pod { metadata, spec, status } = pod;
    let ObjectMeta {
        annotations,
        creation_timestamp,
        deletion_grace_period_seconds,
        deletion_timestamp,
        finalizers: _,
        generate_name: _,
        generation,
        labels,
        managed_fields: _,
        name,
        namespace,
        owner_references,
        resource_version: _,
        self_link: _,
        uid,
    } = metadata;
    let spec = spec.as_ref()?;
    let node = spec.node_name.as_deref().filter(|name| !name.is_empty())?;
    let created_at = creation_timestamp.as_ref()?.0;
    let owner = owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let mut refusals = Refusals::default();
    // One that runs already was let in before: it would not be stopped as it should.
    let runs = status.as_ref().is_some_and(|status| status.container_statuses.iter().flatten().next().is_some());
    if let Some(owner) = owner.filter(|owner| owner.kind == "DaemonSet" && !runs) {
        refusals.refuse(Rule::DaemonSet, &[&owner.name], &owner.kind);
    }
    let asked = convert(spec, &mut refusals);
    Some(PodIntent {
        uid: PodUid::new(uid.clone()?),
        name: ObjectName::new(namespace.clone()?, name.clone()?),
        node: NodeName::new(node),
        labels: Arc::new(labels.clone().unwrap_or_default()),
        annotations: Arc::new(annotations.clone().unwrap_or_default()),
        generation: generation.unwrap_or(0),
        created_at,
        owner: owner.map(|owner| (owner.kind.clone(), owner.name.clone())),
        deletion: deletion_timestamp.as_ref().map(|deadline| Deletion {
            deadline: deadline.0,
            grace_seconds: at_least_zero(deletion_grace_period_seconds.unwrap_or(0)),
        }),
        spec: refusals.into_result(asked).map(Arc::new),
    })
}

/// What a Pod asks for that is let pass without being done: it doesn't fail the Pod, but its owner should
/// hear of it once.
pub fn unhonoured(pod: &api::Pod) -> Vec<Unsupported> {
    let ephemeral = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    ephemeral
        .map(|container| Unsupported {
            field: format!("spec.ephemeralContainers[{}]", container.name),
            value: container.image.clone().unwrap_or_default(),
            expected: "it is not started; use `kubectl exec` in a container that is there".to_owned(),
        })
        .collect()
}

fn convert(spec: &api::PodSpec, refusals: &mut Refusals) -> PodSpec {
    let api::PodSpec {
        active_deadline_seconds,
        affinity: _,                        // the scheduler's, and allowed_values()
        automount_service_account_token: _, // the admission plugin's: it has added the volume by now
        containers,
        dns_config,
        dns_policy,
        enable_service_links,
        ephemeral_containers: _, // see unhonoured()
        eviction_responders: _,  // the eviction controller's
        host_aliases,
        host_ipc,
        host_network,
        host_pid,
        host_users,
        hostname,
        hostname_override,
        image_pull_secrets,
        init_containers,
        node_name: _,     // PodIntent::node
        node_selector: _, // the scheduler's, and allowed_values()
        os,
        overhead,
        preemption_policy: _,   // the scheduler's
        priority: _,            // the scheduler's: an instance holds one Pod, nothing competes on it
        priority_class_name: _, // the same
        readiness_gates,
        resource_claims,
        resources: pod_resources,
        restart_policy,
        runtime_class_name,
        scheduler_name: _,   // the scheduler's
        scheduling_gates: _, // the scheduler's: a Pod that is bound has none left
        scheduling_group: _, // the scheduler's
        security_context,
        service_account,
        service_account_name,
        set_hostname_as_fqdn,
        share_process_namespace,
        subdomain,
        termination_grace_period_seconds,
        tolerations: _,                 // the scheduler's, and the taint manager's
        topology_spread_constraints: _, // the scheduler's
        volumes,
    } = spec;

    if *host_users == Some(false) {
        refusals.refuse(Rule::HostUsers, &[], "false");
    }
    if let Some(api::PodOS { name }) = os
        && name != "linux"
    {
        refusals.refuse(Rule::Os, &[], name);
    }
    if let Some(class) = runtime_class_name.as_deref().filter(|class| !class.is_empty()) {
        refusals.refuse(Rule::RuntimeClass, &[], class);
    }
    for claim in resource_claims.iter().flatten() {
        refusals.refuse(Rule::ResourceClaims, &[&claim.name], &claim.name);
    }

    let host_network = host_network.unwrap_or(false);
    let host_ipc = host_ipc.unwrap_or(false);
    let restart_policy = match restart_policy.as_deref() {
        None | Some("" | "Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        Some(other) => {
            refusals.refuse(Rule::RestartPolicy, &[], other);
            RestartPolicy::Never
        }
    };
    let pod_security = security::pod(security_context.as_ref(), host_network, host_ipc, refusals);
    let volumes = volume::volumes(volumes.as_deref().unwrap_or_default(), refusals);
    let pod = container::PodContext { restart_policy, host_network, security: &pod_security };
    let (init_containers, containers) =
        pod_containers(init_containers.as_deref().unwrap_or_default(), containers, &pod, refusals);
    // An override stands for the kernel's host name alone, and excludes the DNS names
    // (kubelet_pods.go, GeneratePodHostNameAndDomain).
    let overridden = non_empty(hostname_override);
    let (hostname, subdomain, as_fqdn) = match overridden {
        Some(name) => (Some(name), None, false),
        None => (non_empty(hostname), non_empty(subdomain), set_hostname_as_fqdn.unwrap_or(false)),
    };
    PodSpec {
        init_containers,
        containers,
        volumes,
        restart_policy,
        termination_grace_seconds: at_least_zero(termination_grace_period_seconds.unwrap_or(30)),
        active_deadline_seconds: active_deadline_seconds.map(at_least_zero),
        service_account: non_empty(service_account_name)
            .or_else(|| non_empty(service_account))
            .unwrap_or_else(|| "default".to_owned()),
        image_pull_secrets: image_pull_secrets
            .iter()
            .flatten()
            .map(|api::LocalObjectReference { name }| name.clone())
            .filter(|name| !name.is_empty())
            .collect(),
        enable_service_links: enable_service_links.unwrap_or(true),
        hostname,
        subdomain,
        set_hostname_as_fqdn: as_fqdn,
        host_aliases: host_aliases.iter().flatten().filter_map(|alias| host_alias(alias, refusals)).collect(),
        dns_policy: dns_policy_of(dns_policy.as_deref(), refusals),
        dns_config: dns_config.as_ref().map(dns_config_of).unwrap_or_default(),
        host_network,
        host_pid: host_pid.unwrap_or(false),
        host_ipc,
        share_process_namespace: share_process_namespace.unwrap_or(false),
        security: pod_security,
        readiness_gates: readiness_gates
            .iter()
            .flatten()
            .map(|api::PodReadinessGate { condition_type }| condition_type.clone())
            .collect(),
        architectures: allowed_values(spec, ARCH, &Architecture::ALL.map(Architecture::as_str)),
        overhead: overhead.as_ref().map(|list| overhead_of(list, refusals)).unwrap_or_default(),
        pod_requests: pod_resources.as_ref().map(|all| pod_level(all, refusals)).unwrap_or_default(),
    }
}

/// spec.resources: its requests choose the instance. Its limits would need a cgroup around the whole Pod.
fn pod_level(all: &api::ResourceRequirements, refusals: &mut Refusals) -> Resources {
    let api::ResourceRequirements { claims, limits, requests } = all;
    for claim in claims.iter().flatten() {
        refusals.refuse(Rule::PodResourceClaim, &[&claim.name], &claim.name);
    }
    for (name, amount) in limits.iter().flatten() {
        refusals.refuse(Rule::PodLimits, &[name], &amount.0);
    }
    let mut pick = |name: &str, amount: &str| refusals.refuse(Rule::PodRequests, &[name], amount);
    requests.as_ref().map(|list| resources(list, &mut pick)).unwrap_or_default()
}

fn overhead_of(list: &BTreeMap<String, Quantity>, refusals: &mut Refusals) -> Resources {
    resources(list, &mut |name, amount| refusals.refuse(Rule::Overhead, &[name], amount))
}

fn host_alias(alias: &api::HostAlias, refusals: &mut Refusals) -> Option<HostAlias> {
    let api::HostAlias { hostnames, ip } = alias;
    match ip.parse() {
        Ok(ip) => Some(HostAlias { ip, hostnames: hostnames.clone().unwrap_or_default() }),
        Err(_) => {
            refusals.refuse(Rule::HostAliasIp, &[], ip);
            None
        }
    }
}

fn dns_policy_of(policy: Option<&str>, refusals: &mut Refusals) -> DnsPolicy {
    match policy {
        None | Some("" | "ClusterFirst") => DnsPolicy::ClusterFirst,
        Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
        Some("Default") => DnsPolicy::Default,
        Some("None") => DnsPolicy::None,
        Some(other) => {
            refusals.refuse(Rule::DnsPolicy, &[], other);
            DnsPolicy::ClusterFirst
        }
    }
}

fn dns_config_of(config: &api::PodDNSConfig) -> DnsConfig {
    let api::PodDNSConfig { nameservers, options, searches } = config;
    let option = |api::PodDNSConfigOption { name, value }: &api::PodDNSConfigOption| {
        let name = name.clone().unwrap_or_default();
        match value.as_deref() {
            None | Some("") => name,
            Some(value) => format!("{name}:{value}"),
        }
    };
    DnsConfig {
        nameservers: nameservers.clone().unwrap_or_default(),
        searches: searches.clone().unwrap_or_default(),
        options: options.iter().flatten().map(option).collect(),
    }
}

fn non_empty(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

/// Durations and counts that the API server has checked not to be negative.
fn at_least_zero(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
