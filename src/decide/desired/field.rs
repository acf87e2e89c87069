//! Downward-API values: fields of the Pod, and its containers' resources.
//!
//! Sources: kubelet_pods.go, podFieldSelectorRuntimeValue; pkg/fieldpath; pkg/api/v1/resource/helpers.go,
//! ExtractContainerResourceValue and MergeContainerResourceLimits.

use super::{PodView, quote};
use crate::model::{ContainerSpec, FieldPath, ResourceField, Resources, parse_milli, parse_units};
use std::net::IpAddr;

pub fn pod_field(pod: &PodView<'_>, FieldPath(path): &FieldPath) -> Result<String, String> {
    let intent = pod.intent;
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let all = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    // With hostNetwork the node's addresses are the Pod's.
    let own = pod.facts.pod_ip.as_slice();
    let pod_ips = if pod.spec.host_network { pod.facts.host_ips.as_slice() } else { own };
    Ok(match path.as_str() {
        "metadata.name" => intent.name.name.clone(),
        "metadata.namespace" => intent.name.namespace.clone(),
        "metadata.uid" => intent.uid.to_string(),
        "metadata.labels" => quote::lines(&intent.labels),
        "metadata.annotations" => quote::lines(&intent.annotations),
        "spec.nodeName" => intent.node.to_string(),
        "spec.serviceAccountName" => pod.spec.service_account.clone(),
        "status.hostIP" => first(&pod.facts.host_ips),
        "status.hostIPs" => all(&pod.facts.host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => all(pod_ips),
        path => {
            let subscript = path.strip_suffix("']").and_then(|path| path.split_once("['"));
            match subscript {
                Some(("metadata.labels", key)) => intent.labels.get(key).cloned().unwrap_or_default(),
                Some(("metadata.annotations", key)) => intent.annotations.get(key).cloned().unwrap_or_default(),
                _ => return Err(format!("unsupported fieldPath: {path}")),
            }
        }
    })
}

/// `own` is the container that asks, where one does.
pub fn resource_field(pod: &PodView<'_>, own: Option<&ContainerSpec>, field: &ResourceField) -> Result<String, String> {
    let containers = || pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let container = match &field.container {
        Some(name) => containers().find(|container| container.name == *name),
        None => own,
    };
    let Some(container) = container else {
        return Err(format!("container {} not found", field.container.as_deref().unwrap_or_default()));
    };
    let unsupported = || format!("unsupported container resource : {}", field.resource);
    let (of, kind) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let amounts = match of {
        "limits" => limits_or_allocatable(container, &pod.facts.allocatable),
        "requests" => container.requests,
        _ => return Err(unsupported()),
    };
    let (amount, divisor) = match kind {
        "cpu" => (amounts.cpu_millis, parse_milli(&field.divisor).filter(|d| *d > 0).unwrap_or(1000)),
        "memory" => (amounts.memory_bytes, parse_units(&field.divisor).filter(|d| *d > 0).unwrap_or(1)),
        "ephemeral-storage" => {
            (amounts.ephemeral_storage_bytes, parse_units(&field.divisor).filter(|d| *d > 0).unwrap_or(1))
        }
        _ => return Err(unsupported()),
    };
    Ok(amount.unwrap_or(0).div_ceil(divisor).to_string())
}

/// A limit that isn't set, or is zero, is what the machine has.
fn limits_or_allocatable(container: &ContainerSpec, allocatable: &Resources) -> Resources {
    let or = |limit: Option<u64>, most: Option<u64>| limit.filter(|limit| *limit > 0).or(most);
    let limits = &container.limits;
    Resources {
        cpu_millis: or(limits.cpu_millis, allocatable.cpu_millis),
        memory_bytes: or(limits.memory_bytes, allocatable.memory_bytes),
        ephemeral_storage_bytes: or(limits.ephemeral_storage_bytes, allocatable.ephemeral_storage_bytes),
    }
}
