//! Pods for unit tests.

use crate::model::*;
use std::sync::Arc;

pub(super) fn container(name: &str) -> DesiredContainer {
    DesiredContainer::new(name, "busybox")
}

pub(super) fn pod(containers: &[&str]) -> DesiredPod {
    DesiredPod {
        generation: Generation(1),
        uid: PodUid::new("uid"),
        name: ObjectName::new("default", "pod"),
        labels: Arc::default(),
        annotations: Arc::default(),
        pod_ip: None,
        hostname: "pod".to_owned(),
        fqdn: None,
        host_aliases: Vec::new(),
        dns: DnsConfig::default(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        security: PodSecurity::default(),
        restart_policy: RestartPolicy::Always,
        termination_grace_seconds: 30,
        containers: containers.iter().map(|name| container(name)).collect(),
        volumes: Vec::new(),
        stop: None,
    }
}
