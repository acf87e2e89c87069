//! What the API server should say of a Pod.
//!
//! In: the intent, what backs it, its agent's report, why it waits. Out: a whole [`PodStatus`]; the
//! writer skips it when it equals what was written before.
//!
//! ```text
//!            no report               a container runs          all stopped (see `phase`)
//!   Pending ------------> Pending -------------------> Running ---------> Succeeded | Failed
//!                                                        a terminal phase is never left again
//! ```
//!
//! Phase and conditions follow pkg/kubelet/kubelet_pods.go (`getPhase`) and
//! pkg/kubelet/status/generate.go of Kubernetes 1.33.

use super::handover;
use crate::model::{
    ContainerKind, ContainerReport, ContainerState, InstanceId, InstanceRecord, PodIntent, PodReport, PodSpec,
    RestartPolicy, Termination,
};
use jiff::Timestamp;
use std::{collections::BTreeMap, net::IpAddr};

/// Our own condition: True when an instance backs the Pod.
pub const INSTANCE_READY: &str = "pilotlight.dev/InstanceReady";
/// True when that instance is about to go; its reason says why. There only after it was True once.
pub const INSTANCE_DOOMED: &str = "pilotlight.dev/InstanceDoomed";
/// True while the Pod goes from one instance to another; then its message names the one that is not the Pod's own
/// (`decide::handover`). False: how the last one ended.
pub const HANDOVER: &str = "pilotlight.dev/Handover";

/// What a status records of a handover, for a provider that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    Starting(InstanceId),
    Draining(InstanceId),
}

/// How far a handover is, for the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandoverNote {
    Wanting { why: String },
    Starting(InstanceId),
    Draining(InstanceId),
    Over(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|p| p.as_str() == text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: String,
    pub status: bool,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub since: Timestamp,
}

/// The annotations that say what backs a Pod.
const BACKING: [&str; 6] = [
    "pilotlight.dev/instance-id",
    "pilotlight.dev/instance-type",
    "pilotlight.dev/purchase",
    "pilotlight.dev/zone",
    "pilotlight.dev/hourly-price",
    "pilotlight.dev/class",
];

/// Whether we write this annotation. Others under the same prefix are a user's: what was read of them must never be
/// written back over what they have become.
pub fn is_ours(annotation: &str) -> bool {
    BACKING.contains(&annotation) || annotation == handover::MOVED
}

/// Our part of a Pod's status and annotations. Conditions of others are not in it and are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PodStatus {
    pub phase: Phase,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub observed_generation: i64,
    pub start_time: Timestamp,
    pub host_ip: Option<IpAddr>,
    pub pod_ip: Option<IpAddr>,
    pub conditions: Vec<Condition>,
    /// In the spec's order.
    pub init_containers: Vec<ContainerReport>,
    pub containers: Vec<ContainerReport>,
    pub annotations: BTreeMap<String, String>,
}

impl PodStatus {
    /// The instance that it names: only a node can have written it.
    pub fn instance(&self) -> Option<&str> {
        let condition = self.conditions.iter().find(|c| c.kind == INSTANCE_READY && c.status)?;
        condition.message.as_deref()
    }

    /// The instance that it names beside its own.
    pub fn handover(&self) -> Option<Recorded> {
        let condition = self.conditions.iter().find(|c| c.kind == HANDOVER && c.status)?;
        let other = InstanceId::new(condition.message.as_deref()?);
        match condition.reason.as_deref()? {
            STARTING => Some(Recorded::Starting(other)),
            DRAINING => Some(Recorded::Draining(other)),
            _ => None,
        }
    }

    fn holds(&self, kind: &str) -> bool {
        self.conditions.iter().any(|c| c.kind == kind && c.status)
    }

    /// Something of it runs or ran.
    pub fn ran(&self) -> bool {
        self.init_containers.iter().chain(&self.containers).any(|c| c.container_id.is_some())
    }

    /// What the API server shows is what we mean. It may show conditions and annotations of others
    /// besides, and an old one drops observedGeneration.
    pub fn agrees_with(&self, api: &PodStatus) -> bool {
        let shown = PodStatus {
            conditions: self.conditions.clone(),
            annotations: self.annotations.clone(),
            observed_generation: self.observed_generation,
            ..api.clone()
        };
        *self == shown
            && self.conditions.iter().all(|ours| api.conditions.contains(ours))
            && self.annotations.iter().all(|(key, ours)| api.annotations.get(key) == Some(ours))
    }
}

/// status.reason of a Pod that was stopped because its instance was to be taken away, and that nobody would have made
/// anew.
pub const INTERRUPTED: &str = "InstanceInterrupted";

/// Why a Pod does not run (yet, or any more), for status.reason and the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub reason: String,
    pub message: String,
}

/// Everything a status is made of.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub intent: &'a PodIntent,
    pub instance: Option<&'a InstanceRecord>,
    /// `pilotlight.dev/class` and other facts about what backs it.
    pub class: &'a str,
    pub report: Option<&'a PodReport>,
    /// Set while no instance backs it: why it waits.
    pub waiting: Option<&'a Reason>,
    /// Set when it failed for a reason outside its containers (instance lost, deadline exceeded).
    pub failed: Option<&'a Reason>,
    /// What was written before, or what the API server had when the provider came back.
    pub previous: Option<&'a PodStatus>,
    /// Conditions of others that are True, for readiness gates.
    pub gates: &'a BTreeMap<String, bool>,
    /// Its agent was not heard for a while: nobody knows whether it serves.
    pub silent: bool,
    /// Its object goes now: whatever it was, it is over.
    pub ended: bool,
    /// None: what was said last stands.
    pub handover: Option<&'a HandoverNote>,
    /// Why its instance is about to go.
    pub doomed: Option<&'a Reason>,
    /// The last wish to move that was dealt with.
    pub moved: Option<&'a str>,
}

/// The reasons of [`HANDOVER`] while it is True.
const WANTING: &str = "AwaitingInstance";
const STARTING: &str = "Starting";
const DRAINING: &str = "Draining";

/// See the module's page.
pub fn status(facts: &Facts, now: Timestamp) -> PodStatus {
    let now = whole_seconds(now);
    let no_spec = PodSpec::empty();
    let (spec, refused) = match &facts.intent.spec {
        Ok(spec) => (spec.as_ref(), None),
        Err(fields) => (&no_spec, Some(unsupported(fields))),
    };
    let (init_containers, containers) = container_statuses(spec, facts, now);
    let mut phase = phase(spec, facts.report.is_some(), &init_containers, &containers);
    // Stopped for good although its policy would restart it: the exit codes decide, as in getPhase.
    if (facts.ended || facts.report.is_some_and(|r| r.terminated)) && !phase.is_terminal() {
        let succeeded = |c: &ContainerReport| matches!(&c.state, ContainerState::Terminated(t) if t.exit_code == 0);
        phase =
            if !containers.is_empty() && containers.iter().all(succeeded) { Phase::Succeeded } else { Phase::Failed };
    }
    let waiting = refused.as_ref().or(facts.waiting);
    if facts.failed.is_some() {
        phase = Phase::Failed;
    }
    if let Some(previous) = facts.previous.filter(|p| p.phase.is_terminal()) {
        phase = previous.phase;
    }
    let told = facts.failed.or(waiting.filter(|_| phase == Phase::Pending));
    let kept = facts.previous.filter(|p| phase.is_terminal() && p.phase.is_terminal());
    let mut status = PodStatus {
        phase,
        reason: told.map(|r| r.reason.clone()).or_else(|| kept.and_then(|p| p.reason.clone())),
        message: told.map(|r| r.message.clone()).or_else(|| kept.and_then(|p| p.message.clone())),
        observed_generation: facts.intent.generation,
        start_time: facts.previous.map_or(now, |p| p.start_time),
        host_ip: facts.instance.and_then(|i| i.private_ip).or(facts.previous.and_then(|p| p.host_ip)),
        pod_ip: facts
            .report
            .and_then(|r| r.pod_ip)
            .or(facts.instance.and_then(|i| i.pod_ip))
            .or(facts.previous.and_then(|p| p.pod_ip)),
        conditions: Vec::new(),
        annotations: facts.previous.map(|p| p.annotations.clone()).unwrap_or_default(),
        init_containers,
        containers,
    };
    if let Some(instance) = facts.instance {
        status.annotations.extend(annotations(instance, facts.class));
    }
    if let Some(moved) = facts.moved {
        status.annotations.insert(handover::MOVED.to_owned(), moved.to_owned());
    }
    status.conditions = conditions(spec, facts, &status, waiting, now);
    status
}

fn unsupported(fields: &[crate::model::Unsupported]) -> Reason {
    let message = fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let reason = fields.first().map_or("UnsupportedField", crate::model::Unsupported::reason);
    Reason { reason: reason.to_owned(), message }
}

/// What backs the Pod, for people and tools.
fn annotations(instance: &InstanceRecord, class: &str) -> [(String, String); 6] {
    let values = [
        instance.id.to_string(),
        instance.instance_type.clone(),
        instance.purchase.as_str().to_owned(),
        instance.zone.clone(),
        instance.price.to_string(),
        class.to_owned(),
    ];
    let mut values = values.into_iter();
    BACKING.map(|key| (key.to_owned(), values.next().expect("one for each key")))
}

fn container_statuses(spec: &PodSpec, facts: &Facts, now: Timestamp) -> (Vec<ContainerReport>, Vec<ContainerReport>) {
    let one = |container: &crate::model::ContainerSpec| {
        let reported = facts.report.and_then(|r| r.containers.iter().find(|c| c.name == container.name));
        let previous = facts
            .previous
            // What another instance ran is no longer so here.
            .filter(|p| p.instance().zip(facts.instance).is_none_or(|(named, instance)| named == instance.id.as_str()))
            .and_then(|p| p.init_containers.iter().chain(&p.containers).find(|c| c.name == container.name));
        let mut report = match (reported, previous.filter(|p| p.container_id.is_some())) {
            (Some(report), _) | (None, Some(report)) => report.clone(),
            (None, None) => never_started(spec, container, facts.waiting),
        };
        whole(&mut report);
        // An instance that is lost takes its containers along: what still ran ended in an unknown way
        // (kubelet's ContainerStatusUnknown, exit code 137).
        if facts.failed.is_some() && reported.is_none() {
            if let ContainerState::Running { started_at } = report.state {
                report.state = ContainerState::Terminated(Termination {
                    exit_code: 137,
                    signal: None,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "The instance was lost while the container ran".to_owned(),
                    started_at: Some(started_at),
                    finished_at: now,
                    container_id: report.container_id.clone(),
                });
            }
            report.ready = false;
            report.started = false;
        }
        report
    };
    (spec.init_containers.iter().map(one).collect(), spec.containers.iter().map(one).collect())
}

/// The API server keeps times in whole seconds: ours are too, so that what was written equals what is
/// read back.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn whole(report: &mut ContainerReport) {
    let termination = |t: &mut Termination| {
        t.finished_at = whole_seconds(t.finished_at);
        t.started_at = t.started_at.map(whole_seconds);
    };
    match &mut report.state {
        ContainerState::Running { started_at } => *started_at = whole_seconds(*started_at),
        ContainerState::Terminated(t) => termination(t),
        ContainerState::Waiting { .. } => {}
    }
    report.last.iter_mut().for_each(termination);
}

/// `kubectl get pods` shows the reason of a waiting container before that of the Pod.
fn never_started(spec: &PodSpec, container: &crate::model::ContainerSpec, waiting: Option<&Reason>) -> ContainerReport {
    let waits_for_init = container.kind == ContainerKind::App && !spec.init_containers.is_empty();
    let usual = if waits_for_init { "PodInitializing" } else { "ContainerCreating" };
    ContainerReport {
        name: container.name.clone(),
        kind: container.kind,
        state: ContainerState::Waiting {
            reason: waiting.map_or(usual, |w| &w.reason).to_owned(),
            message: waiting.map_or_else(String::new, |w| w.message.clone()),
        },
        last: None,
        restart_count: 0,
        container_id: None,
        image: container.image.clone(),
        image_id: String::new(),
        started: false,
        ready: false,
    }
}

/// kubelet's `getPhase` (pkg/kubelet/kubelet_pods.go, Kubernetes 1.37).
pub fn phase(spec: &PodSpec, reported: bool, init: &[ContainerReport], app: &[ContainerReport]) -> Phase {
    let never_ran = |c: &ContainerReport| matches!(c.state, ContainerState::Waiting { .. }) && c.last.is_none();
    if !reported && init.iter().chain(app).all(never_ran) {
        return Phase::Pending;
    }
    let any_app_ran = app.iter().any(|c| !matches!(c.state, ContainerState::Waiting { .. }) || c.last.is_some());
    let (mut pending_init, mut failed_init) = (0, 0);
    let (mut running, mut waiting, mut stopped, mut restarting, mut succeeded) = (0, 0, 0, 0, 0);
    for container in init {
        match (&container.kind, &container.state, &container.last) {
            // A sidecar holds up initialization until it has started once, and the Pod's end until it has
            // stopped. How it ended is of no account.
            (ContainerKind::Sidecar, ContainerState::Running { .. }, _) => {
                pending_init += usize::from(!container.started && !any_app_ran);
                running += 1;
            }
            (ContainerKind::Sidecar, ContainerState::Waiting { .. }, None) => waiting += 1,
            (ContainerKind::Sidecar, _, _) => {}
            (_, ContainerState::Terminated(t), _) | (_, ContainerState::Waiting { .. }, Some(t)) => {
                failed_init += usize::from(t.exit_code != 0);
            }
            (_, ContainerState::Running { .. }, _) | (_, ContainerState::Waiting { .. }, None) => pending_init += 1,
        }
    }
    let restarts = |t: &Termination| match spec.restart_policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => t.exit_code != 0,
        RestartPolicy::Never => false,
    };
    for container in app {
        match (&container.state, &container.last) {
            (ContainerState::Running { .. }, _) => running += 1,
            (ContainerState::Terminated(t), _) => {
                stopped += 1;
                restarting += usize::from(restarts(t));
                succeeded += usize::from(t.exit_code == 0);
            }
            (ContainerState::Waiting { .. }, Some(t)) => {
                stopped += 1;
                restarting += usize::from(restarts(t));
            }
            (ContainerState::Waiting { .. }, None) => waiting += 1,
        }
    }
    if failed_init > 0 && spec.restart_policy == RestartPolicy::Never {
        return Phase::Failed;
    }
    if pending_init > 0 || waiting > 0 {
        return Phase::Pending;
    }
    match (running, stopped) {
        (1.., _) => Phase::Running,
        (0, 0) => Phase::Pending,
        _ if restarting > 0 => Phase::Running,
        _ if stopped == succeeded => Phase::Succeeded,
        _ => Phase::Failed,
    }
}

fn conditions(
    spec: &PodSpec,
    facts: &Facts,
    status: &PodStatus,
    waiting: Option<&Reason>,
    now: Timestamp,
) -> Vec<Condition> {
    let terminal = status.phase.is_terminal();
    let reason = |text: &str, message: String| Some(Reason { reason: text.to_owned(), message });
    let listed = |names: Vec<&str>| names.join(" ");

    let initialized = match status.phase {
        Phase::Succeeded => Ok(Some("PodCompleted")),
        _ => {
            let unfinished: Vec<&str> =
                status.init_containers.iter().filter(|c| !init_done(c)).map(|c| c.name.as_str()).collect();
            let app_ran = status.containers.iter().any(|c| !matches!(c.state, ContainerState::Waiting { .. }));
            if unfinished.is_empty() || app_ran {
                Ok(None)
            } else {
                Err(reason(
                    "ContainersNotInitialized",
                    format!("containers with incomplete status: [{}]", listed(unfinished)),
                ))
            }
        }
    };
    let unready: Vec<&str> = status
        .init_containers
        .iter()
        .filter(|c| c.kind == ContainerKind::Sidecar)
        .chain(&status.containers)
        .filter(|c| !c.ready)
        .map(|c| c.name.as_str())
        .collect();
    let containers_ready = if status.phase == Phase::Succeeded {
        Err(reason("PodCompleted", String::new()))
    } else if status.phase == Phase::Failed {
        Err(reason("PodFailed", String::new()))
    } else if facts.intent.spec.is_err() {
        Err(reason("UnsupportedField", String::new()))
    } else if facts.silent {
        Err(reason("InstanceSilent", "the agent of the Pod's instance has not been heard".to_owned()))
    } else if !unready.is_empty() {
        Err(reason("ContainersNotReady", format!("containers with unready status: [{}]", listed(unready))))
    } else {
        Ok(None)
    };
    let closed: Vec<&str> = spec
        .readiness_gates
        .iter()
        .filter(|gate| !facts.gates.get(*gate).copied().unwrap_or(false))
        .map(String::as_str)
        .collect();
    let ready = match &containers_ready {
        Err(why) => Err(why.clone()),
        Ok(_) if !closed.is_empty() => Err(reason(
            "ReadinessGatesNotReady",
            format!("the readiness gates that are not \"True\": [{}]", listed(closed)),
        )),
        Ok(_) => Ok(None),
    };
    let sandbox = match facts.report {
        Some(report) => report.sandbox_ready_at.is_some() && !report.terminated,
        // What the predecessor of this provider saw stands until the agent says otherwise.
        None => facts.instance.is_some() && facts.previous.is_some_and(|p| p.holds("PodReadyToStartContainers")),
    } && !terminal;
    let backed = match (facts.instance, waiting) {
        (Some(_), _) => Ok(None),
        (None, waiting) => Err(waiting.cloned().or_else(|| facts.failed.cloned())),
    };
    let mut list = vec![
        condition(INSTANCE_READY, backed),
        // Message left out: a kubelet's tells of its sandboxes' inner life.
        condition(
            "PodReadyToStartContainers",
            if sandbox { Ok(None) } else { Err(reason("PodSandboxNotReady", String::new())) },
        ),
        condition("Initialized", initialized),
        condition("Ready", ready),
        condition("ContainersReady", containers_ready),
    ];
    let disrupted = |r: &&Reason| r.reason == "InstanceLost" || r.reason == INTERRUPTED;
    if let Some(failed) = facts.failed.filter(disrupted) {
        let mut disruption = condition("DisruptionTarget", Ok(None));
        disruption.reason = Some("TerminationByKubelet".to_owned());
        disruption.message = Some(failed.message.clone());
        list.push(disruption);
    }
    let before = |kind: &str| facts.previous.and_then(|p| p.conditions.iter().find(|c| c.kind == kind));
    match (facts.doomed, before(INSTANCE_DOOMED)) {
        (Some(why), _) => list.push(said(INSTANCE_DOOMED, true, why.clone())),
        (None, Some(_)) => list.push(condition(INSTANCE_DOOMED, Err(None))),
        (None, None) => {}
    }
    match (facts.handover, before(HANDOVER)) {
        (Some(note), _) => list.push(handover_condition(note)),
        (None, Some(before)) => list.push(before.clone()),
        (None, None) => {}
    }
    if let Some(instance) = facts.instance {
        // Read back by `PodStatus::instance`: unlike the annotation, nobody else can write it.
        list[0].reason = Some("InstanceBound".to_owned());
        list[0].message = Some(instance.id.to_string());
    }
    for condition in &mut list {
        let before = facts.previous.and_then(|p| p.conditions.iter().find(|c| c.kind == condition.kind));
        // Another instance is another beginning: what it costs is counted from there.
        let same = |b: &&Condition| {
            b.status == condition.status && (b.kind != INSTANCE_READY || !b.status || b.message == condition.message)
        };
        condition.since = before.filter(same).map_or(now, |b| b.since);
    }
    list
}

fn handover_condition(note: &HandoverNote) -> Condition {
    let (status, reason, message) = match note {
        HandoverNote::Wanting { why } => (true, WANTING, why.clone()),
        // The bare id: `PodStatus::handover` reads it back.
        HandoverNote::Starting(id) => (true, STARTING, id.to_string()),
        HandoverNote::Draining(id) => (true, DRAINING, id.to_string()),
        HandoverNote::Over(why) => return said(HANDOVER, false, why.clone()),
    };
    said(HANDOVER, status, Reason { reason: reason.to_owned(), message })
}

fn said(kind: &str, status: bool, why: Reason) -> Condition {
    let Reason { reason, message } = why;
    Condition {
        kind: kind.to_owned(),
        status,
        reason: Some(reason),
        message: Some(message).filter(|m| !m.is_empty()),
        since: Timestamp::UNIX_EPOCH,
    }
}

fn init_done(container: &ContainerReport) -> bool {
    match (&container.kind, &container.state) {
        (ContainerKind::Sidecar, _) => container.started || container.last.is_some(),
        (_, ContainerState::Terminated(t)) => t.exit_code == 0,
        _ => false,
    }
}

fn condition(kind: &str, holds: Result<Option<&str>, Option<Reason>>) -> Condition {
    let (status, reason, message) = match holds {
        Ok(reason) => (true, reason.map(str::to_owned), None),
        Err(None) => (false, None, None),
        Err(Some(why)) => (false, Some(why.reason), Some(why.message).filter(|m| !m.is_empty())),
    };
    Condition { kind: kind.to_owned(), status, reason, message, since: Timestamp::UNIX_EPOCH }
}

#[cfg(test)]
mod tests;
