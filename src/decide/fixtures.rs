//! Pods for the tests of decisions, in few words.

use crate::decide::status::{Phase, PodStatus};
use crate::model::{
    ClientToken, ContainerKind, ContainerReport, ContainerSecurity, ContainerSpec, ContainerState, HourlyPrice,
    InstanceId, InstanceRecord, InstanceState, Lifecycle, NodeName, ObjectName, PodIntent, PodSpec, PodUid, Probes,
    PullPolicy, Purchase, Resources, TerminationMessage,
};
use jiff::Timestamp;
use std::{collections::BTreeMap, sync::Arc};

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

pub fn container_spec(name: &str, kind: ContainerKind) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        kind,
        image: "image:1".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env: Vec::new(),
        env_from: Vec::new(),
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
    }
}

pub fn intent(name: &str, spec: PodSpec) -> PodIntent {
    PodIntent {
        uid: PodUid::new(format!("uid-{name}")),
        name: ObjectName::new("default", name),
        node: NodeName::new("pilotlight-a"),
        labels: Arc::default(),
        annotations: Arc::default(),
        generation: 1,
        created_at: at(0),
        owner: None,
        deletion: None,
        spec: Ok(Arc::new(spec)),
    }
}

pub fn instance(id: &str, launched_at: Timestamp) -> InstanceRecord {
    InstanceRecord {
        id: InstanceId::new(id),
        client_token: ClientToken::new("token"),
        instance_type: "small".to_owned(),
        zone: "zone-a".to_owned(),
        purchase: Purchase::OnDemand,
        state: InstanceState::Running,
        state_reason: None,
        private_ip: Some([10, 0, 0, 1].into()),
        pod_ip: Some([10, 0, 0, 2].into()),
        launched_at,
        price: HourlyPrice(5200),
        tags: Arc::default(),
    }
}

pub fn report(name: &str, kind: ContainerKind, state: ContainerState) -> ContainerReport {
    ContainerReport {
        name: name.to_owned(),
        kind,
        state,
        last: None,
        restart_count: 0,
        container_id: None,
        image: "image:1".to_owned(),
        image_id: String::new(),
        started: false,
        ready: false,
    }
}

pub fn blank_status(phase: Phase) -> PodStatus {
    PodStatus {
        phase,
        reason: None,
        message: None,
        observed_generation: 1,
        start_time: at(0),
        host_ip: None,
        pod_ip: None,
        conditions: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        annotations: BTreeMap::new(),
    }
}
