//! A make-believe runtime, and the reference that watches each action.

use crate::{decide::containers::*, model::*};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub fn container(name: &str, kind: ContainerKind) -> DesiredContainer {
    DesiredContainer { kind, ..DesiredContainer::new(name, "busybox") }
}

pub fn pod(restart_policy: RestartPolicy, containers: Vec<DesiredContainer>) -> DesiredPod {
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
        restart_policy,
        termination_grace_seconds: 30,
        containers,
        volumes: Vec::new(),
        stop: None,
    }
}

pub fn probe() -> Probe {
    Probe {
        action: Handler::Tcp { host: None, port: 80 },
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace_seconds: Some(7),
    }
}

/// A runtime where each piece of work ends when the test says so.
pub struct World {
    pub desired: DesiredPod,
    pub observed: Observed,
    pub now: Timestamp,
    pub ids: u32,
    /// Names that are through in a sandbox: exited 0 (init) or started (sidecar), by (sandbox, name).
    pub through: BTreeSet<(String, String)>,
    pub starts: Vec<(String, u32)>,
    pub kills: Vec<Kill>,
}

impl World {
    pub fn new(desired: DesiredPod) -> Self {
        Self {
            desired,
            observed: Observed::default(),
            now: at(1_000_000),
            ids: 0,
            through: BTreeSet::new(),
            starts: Vec::new(),
            kills: Vec::new(),
        }
    }

    pub fn progress(&mut self, name: &str) -> &mut Progress {
        self.observed.progress.entry(name.to_owned()).or_default()
    }

    /// Plans, checks each action against the reference, and carries it out at once (but for exits).
    pub fn step(&mut self) -> Plan {
        let plan = plan(&self.desired, &self.observed, self.now);
        for action in &plan.actions {
            self.check(action);
            self.carry_out(action);
        }
        plan
    }

    pub fn check(&self, action: &Action) {
        if self.desired.stop.is_some() {
            let allowed = matches!(action, Action::Kill(_) | Action::TearDown);
            assert!(allowed, "{action:?} after stop");
        }
        match action {
            Action::StartContainer { container, sandbox, number, .. } => {
                let same: Vec<_> = self.observed.attempts.iter().filter(|a| &a.name == container).collect();
                assert!(same.iter().all(|a| a.exit().is_some()), "two live attempts of {container}");
                assert_eq!(
                    *number,
                    same.iter().map(|a| a.number + 1).max().unwrap_or(0),
                    "restart count of {container}"
                );
                assert!(self.observed.sandboxes.iter().any(|s| &s.id == sandbox && s.ready), "no sandbox");
                let index = self.desired.containers.iter().position(|c| &c.name == container).unwrap();
                for before in self.desired.containers[..index].iter().filter(|c| c.kind != ContainerKind::App) {
                    assert!(
                        self.through.contains(&(sandbox.clone(), before.name.clone())),
                        "{container} starts before {} is through",
                        before.name
                    );
                }
            }
            Action::TearDown => assert!(self.observed.attempts.iter().all(|a| !a.is_live()), "torn down while running"),
            Action::Kill(kill) if kill.turn => {
                let kind = |name: &str| self.desired.containers.iter().position(|c| c.name == name).unwrap();
                let own = kind(&kill.container);
                let stopping = self.desired.stop.is_some();
                if stopping && self.desired.containers[own].kind == ContainerKind::Sidecar {
                    let later = self.observed.attempts.iter().any(|a| {
                        let other = kind(&a.name);
                        a.is_live() && (self.desired.containers[other].kind != ContainerKind::Sidecar || other > own)
                    });
                    assert!(!later, "sidecar {} goes before what needs it", kill.container);
                }
            }
            _ => {}
        }
    }

    pub fn carry_out(&mut self, action: &Action) {
        match action {
            Action::SetUpVolumes => {
                self.observed.volumes = Work::Done;
                self.observed.mounted = true;
            }
            Action::CreateSandbox { attempt } => {
                self.observed.sandboxes.push(Sandbox { id: format!("s{attempt}"), attempt: *attempt, ready: true });
            }
            Action::StopSandbox { id } => {
                self.observed.sandboxes.iter_mut().filter(|s| &s.id == id).for_each(|s| s.ready = false);
            }
            Action::EnsureImage { container } => self.progress(container).image = Image::Ready,
            Action::StartContainer { container, sandbox, number, backoff_seconds } => {
                self.starts.push((container.clone(), *number));
                self.ids += 1;
                let definition = self.desired.containers.iter().find(|c| &c.name == container).unwrap();
                self.observed.attempts.push(Attempt {
                    id: format!("c{}", self.ids),
                    name: container.clone(),
                    sandbox: sandbox.clone(),
                    number: *number,
                    hash: definition_hash(definition),
                    backoff_seconds: *backoff_seconds,
                    created_at: self.now,
                    image_id: "sha256:1".to_owned(),
                    state: AttemptState::Running { started_at: self.now },
                });
                if definition.kind == ContainerKind::Sidecar && definition.probes.startup.is_none() {
                    self.through.insert((sandbox.clone(), container.clone()));
                }
                *self.progress(container) = Progress::default();
            }
            Action::Kill(kill) => {
                self.progress(&kill.container).killing = true;
                self.kills.push(kill.clone());
            }
            Action::RemoveContainer { id } => self.observed.attempts.retain(|a| &a.id != id),
            Action::RemoveSandbox { id } => self.observed.sandboxes.retain(|s| &s.id != id),
            Action::TearDown => {
                self.observed.teardown = Work::Done;
                self.observed.attempts.clear();
                self.observed.sandboxes.clear();
            }
        }
    }

    pub fn exit(&mut self, name: &str, exit_code: i32) {
        let now = self.now;
        let live = self.observed.attempts.iter_mut().find(|a| a.name == name && a.is_live());
        let Some(attempt) = live else { return };
        attempt.state = AttemptState::Exited(Termination {
            exit_code,
            signal: None,
            reason: "Error".to_owned(),
            message: String::new(),
            started_at: Some(attempt.created_at),
            finished_at: now,
            container_id: None,
        });
        let sandbox = attempt.sandbox.clone();
        let kind = self.desired.containers.iter().find(|c| c.name == name).unwrap().kind;
        if kind == ContainerKind::Init && exit_code == 0 {
            self.through.insert((sandbox, name.to_owned()));
        }
        *self.progress(name) = Progress::default();
    }

    /// Plans until nothing more happens by itself.
    pub fn settle(&mut self) -> Plan {
        for _ in 0..50 {
            let before = (self.starts.len(), self.observed.clone());
            let plan = self.step();
            if plan.actions.iter().all(|action| matches!(action, Action::Kill(_))) || plan.terminated {
                return plan;
            }
            assert!(before.0 <= self.starts.len());
        }
        panic!("it never settles");
    }

    pub fn running(&self) -> Vec<&str> {
        self.observed.attempts.iter().filter(|a| a.is_live()).map(|a| a.name.as_str()).collect()
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    pub fn stop(&mut self) {
        let deadline = self.now.checked_add(SignedDuration::from_secs(5)).unwrap();
        let deletion = Deletion { deadline, grace_seconds: 5 };
        self.desired.stop = Some(Stop { deletion, reason: "deleted".to_owned() });
        self.observed.stop_deadline = Some(deadline);
    }
}
