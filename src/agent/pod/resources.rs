//! Requests and limits as cgroup numbers and OOM scores. Pure.

use super::Machine;
use crate::model::{ContainerKind, DesiredContainer, DesiredPod};
use k8s_cri::v1 as cri;

/// pkg/kubelet/cm/helpers_linux.go
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const SHARES_PER_CPU: u64 = 1024;
const QUOTA_PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: u64 = 1000;

/// pkg/kubelet/qos/policy.go
const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;

pub(super) fn resources(
    pod: &DesiredPod,
    container: &DesiredContainer,
    machine: &Machine,
) -> cri::LinuxContainerResources {
    let (requests, limits) = (&container.requests, &container.limits);
    let shares = requests.cpu_millis.or(limits.cpu_millis).unwrap_or(0) * SHARES_PER_CPU / 1000;
    let quota = match limits.cpu_millis {
        Some(millis) if millis > 0 => (millis * QUOTA_PERIOD_US / 1000).max(MIN_QUOTA_US),
        _ => 0,
    };
    cri::LinuxContainerResources {
        cpu_period: signed(QUOTA_PERIOD_US),
        cpu_quota: signed(quota),
        cpu_shares: signed(shares.clamp(MIN_SHARES, MAX_SHARES)),
        memory_limit_in_bytes: signed(limits.memory_bytes.unwrap_or(0)),
        oom_score_adj: oom_score(pod, container, machine.memory_bytes).max(machine.lowest_oom_score),
        ..Default::default()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Who is killed first when memory runs out (`GetContainerOOMScoreAdjust`).
fn oom_score(pod: &DesiredPod, container: &DesiredContainer, memory_bytes: u64) -> i64 {
    let request =
        |container: &DesiredContainer| container.requests.memory_bytes.or(container.limits.memory_bytes).unwrap_or(0);
    let says = |amount: Option<u64>| amount.is_some_and(|amount| amount > 0);
    let all = |check: &dyn Fn(&DesiredContainer) -> bool| pod.containers.iter().all(check);
    let guaranteed = all(&|c| {
        let equal = |request: Option<u64>, limit: Option<u64>| says(limit) && request.is_none_or(|r| Some(r) == limit);
        equal(c.requests.cpu_millis, c.limits.cpu_millis) && equal(c.requests.memory_bytes, c.limits.memory_bytes)
    });
    if guaranteed {
        return GUARANTEED;
    }
    let best_effort = all(&|c| {
        ![c.requests.cpu_millis, c.limits.cpu_millis, c.requests.memory_bytes, c.limits.memory_bytes]
            .into_iter()
            .any(says)
    });
    if best_effort {
        return BEST_EFFORT;
    }
    let score = |bytes: u64| 1000 - signed(1000 * bytes / memory_bytes.max(1));
    let mut own = score(request(container));
    if container.kind == ContainerKind::Sidecar {
        // A sidecar goes no sooner than the smallest app that needs it.
        let apps = pod.containers.iter().filter(|c| c.kind == ContainerKind::App);
        own = own.min(score(apps.map(request).min().unwrap_or(0)));
    }
    own.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::pod::fixtures, model::Resources};

    const GIB: u64 = 1 << 30;

    fn machine(lowest_oom_score: i64) -> Machine {
        Machine { memory_bytes: 4 * GIB, lowest_oom_score }
    }

    fn amounts(cpu_millis: Option<u64>, memory_bytes: Option<u64>) -> Resources {
        Resources { cpu_millis, memory_bytes, ephemeral_storage_bytes: None }
    }

    fn of(requests: Resources, limits: Resources) -> cri::LinuxContainerResources {
        let mut pod = fixtures::pod(&["app"]);
        pod.containers[0].requests = requests;
        pod.containers[0].limits = limits;
        resources(&pod, &pod.containers[0], &machine(-1000))
    }

    #[test]
    fn without_requests_a_container_gets_the_least_cpu_no_quota_and_is_killed_first() {
        let made = of(amounts(None, None), amounts(None, None));
        assert_eq!((made.cpu_shares, made.cpu_quota, made.memory_limit_in_bytes, made.oom_score_adj), (2, 0, 0, 1000));
    }

    #[test]
    fn requests_and_limits_become_shares_quota_and_bytes() {
        let made = of(amounts(Some(250), Some(GIB)), amounts(Some(500), Some(2 * GIB)));
        assert_eq!((made.cpu_shares, made.cpu_quota, made.cpu_period), (256, 50_000, 100_000));
        assert_eq!(made.memory_limit_in_bytes, signed(2 * GIB));
        assert_eq!(made.oom_score_adj, 750);
        assert_eq!(of(amounts(None, None), amounts(Some(1), None)).cpu_quota, 1000, "a millisecond at least");
    }

    #[test]
    fn a_guaranteed_pod_is_killed_last_unless_the_kernel_refuses_negative_scores() {
        let full = amounts(Some(1000), Some(GIB));
        assert_eq!(of(full, full).oom_score_adj, -997);
        assert_eq!(of(Resources::default(), full).oom_score_adj, -997, "a request defaults to its limit");
        let mut pod = fixtures::pod(&["app"]);
        pod.containers[0].limits = full;
        assert_eq!(resources(&pod, &pod.containers[0], &machine(0)).oom_score_adj, 0);
    }
}
