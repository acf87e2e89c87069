//! How much of a machine a Pod asks for, as the scheduler counts it.
//!
//! Source: k8s.io/component-helpers/resource/helpers.go, PodRequests.

use crate::model::{ContainerKind, PodSpec, Resources};

/// The largest need of any moment: while an init container runs, it and the sidecars started before it;
/// afterwards all sidecars and app containers. Then what the Pod as a whole asks for, and the overhead.
/// None where nothing is asked for. Requests already default to limits.
pub fn pod_size(spec: &PodSpec) -> Resources {
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in &spec.init_containers {
        let moment = sum(sidecars, container.requests);
        peak = max(peak, moment);
        if container.kind == ContainerKind::Sidecar {
            sidecars = moment;
        }
    }
    let steady = spec.containers.iter().fold(sidecars, |total, container| sum(total, container.requests));
    let containers = max(peak, steady);
    let own = spec.pod_requests;
    let total = Resources {
        cpu_millis: own.cpu_millis.or(containers.cpu_millis),
        memory_bytes: own.memory_bytes.or(containers.memory_bytes),
        ephemeral_storage_bytes: own.ephemeral_storage_bytes.or(containers.ephemeral_storage_bytes),
    };
    sum(total, spec.overhead)
}

fn sum(a: Resources, b: Resources) -> Resources {
    each(a, b, u64::saturating_add)
}

fn max(a: Resources, b: Resources) -> Resources {
    each(a, b, u64::max)
}

fn each(a: Resources, b: Resources, with: fn(u64, u64) -> u64) -> Resources {
    let join = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(with(a, b)),
        (a, b) => a.or(b),
    };
    Resources {
        cpu_millis: join(a.cpu_millis, b.cpu_millis),
        memory_bytes: join(a.memory_bytes, b.memory_bytes),
        ephemeral_storage_bytes: join(a.ephemeral_storage_bytes, b.ephemeral_storage_bytes),
    }
}
