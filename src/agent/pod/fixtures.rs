//! Pods for unit tests.

use crate::model::*;

pub(super) fn container(name: &str) -> DesiredContainer {
    DesiredContainer {
        name: name.to_owned(),
        kind: ContainerKind::App,
        image: "busybox".to_owned(),
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
        termination_message: TerminationMessage { path: "/dev/termination-log".to_owned(), fallback_to_logs: false },
        stdin: false,
        stdin_once: false,
        tty: false,
        blocked: None,
    }
}

pub(super) fn pod(containers: &[&str]) -> DesiredPod {
    DesiredPod {
        generation: Generation(1),
        uid: PodUid::new("uid"),
        name: ObjectName::new("default", "pod"),
        labels: Labels::new(),
        annotations: Labels::new(),
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
