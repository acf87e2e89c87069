//! A Pod that should run.

use super::{
    Action, Attempt, AttemptState, Fault, Grace, Image, Kill, Observed, Plan, Start, Work, definition_hash, pod_text,
    report, stop,
};
use crate::{
    decide::{
        backoff::{self, Restart},
        probe::Verdict,
    },
    model::{ContainerKind, ContainerReport, DesiredContainer, DesiredPod, DesiredVolumeSource, Probe, RestartPolicy},
};
use jiff::{SignedDuration, Timestamp};

/// For how long a failed pull is said as ErrImagePull before it becomes ImagePullBackOff: a kubelet
/// says it until its next look, which is some seconds.
const FRESH_PULL_FAILURE: SignedDuration = SignedDuration::from_secs(3);

pub(super) fn plan(desired: &DesiredPod, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if is_finished(desired, observed) {
        finish(desired, observed, &mut plan);
        return plan;
    }
    volumes(desired, observed, now, &mut plan);
    sandbox(desired, observed, now, &mut plan);
    containers(desired, observed, now, &mut plan);
    sweep(observed, &mut plan);
    plan
}

fn volumes(desired: &DesiredPod, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    for volume in &desired.volumes {
        if let DesiredVolumeSource::Blocked(message) = &volume.source {
            let text = format!("MountVolume.SetUp failed for volume \"{}\" : {message}", volume.name);
            plan.notice(true, "FailedMount", text, None);
        }
    }
    match &observed.volumes {
        Work::Idle => plan.actions.push(Action::SetUpVolumes),
        Work::Busy | Work::Done => {}
        Work::Failed { message, at, failures } => {
            plan.notice(true, "FailedMount", message.clone(), None);
            if plan.due(*at, backoff::retry_delay(*failures), now) {
                plan.actions.push(Action::SetUpVolumes);
            }
        }
    }
}

fn has_blocked_volume(desired: &DesiredPod, observed: &Observed) -> bool {
    !observed.mounted && desired.volumes.iter().any(|volume| matches!(volume.source, DesiredVolumeSource::Blocked(_)))
}

fn sandbox(desired: &DesiredPod, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    if observed.ready_sandbox().is_some() || has_blocked_volume(desired, observed) {
        return;
    }
    let attempt = observed.newest_sandbox().map_or(0, |sandbox| sandbox.attempt + 1);
    if attempt > 0 {
        let text = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        plan.notice(false, "SandboxChanged", text, None);
    }
    // What a dead sandbox left running must end before a new one takes its place.
    stop::kill_all(desired, observed, Grace::Seconds(desired.termination_grace_seconds), plan);
    if observed.attempts.iter().any(Attempt::is_live) {
        return;
    }
    match &observed.sandbox {
        Work::Busy => {}
        Work::Failed { at, failures, .. } if !plan.due(*at, backoff::retry_delay(*failures), now) => {}
        Work::Idle | Work::Done | Work::Failed { .. } => plan.actions.push(Action::CreateSandbox { attempt }),
    }
}

/// Nothing is left to do or to restart, or it is out of the question.
fn is_finished(desired: &DesiredPod, observed: &Observed) -> bool {
    let ended = |container: &DesiredContainer| observed.latest(&container.name).and_then(Attempt::exit);
    let waits = |container: &DesiredContainer| observed.is_busy(&container.name);
    if desired.containers.iter().any(waits) {
        return false;
    }
    let mut apps = desired.containers.iter().filter(|container| container.kind == ContainerKind::App).peekable();
    let over = |container: &DesiredContainer| {
        ended(container).is_some_and(|end| !restarts(desired.restart_policy, end.exit_code))
    };
    if apps.peek().is_some() && apps.all(over) {
        return true;
    }
    desired.restart_policy == RestartPolicy::Never
        && desired
            .containers
            .iter()
            .filter(|container| container.kind == ContainerKind::Init)
            .any(|container| ended(container).is_some_and(|end| end.exit_code != 0))
}

fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

fn finish(desired: &DesiredPod, observed: &Observed, plan: &mut Plan) {
    plan.reports = desired.containers.iter().map(|container| report::of(desired, container, observed)).collect();
    stop::kill_all(desired, observed, Grace::Seconds(desired.termination_grace_seconds), plan);
    if !observed.attempts.iter().any(Attempt::is_live) {
        let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
        plan.actions.extend(ready.map(|sandbox| Action::StopSandbox { id: sandbox.id.clone() }));
    }
}

/// Init containers and sidecars in their order, then the apps.
fn containers(desired: &DesiredPod, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    let newest = observed.newest_sandbox().map(|sandbox| sandbox.id.clone());
    let has_attempt = |container: &DesiredContainer| observed.latest_in(&container.name, newest.as_deref()).is_some();
    // The next one in the order may start.
    let mut open = true;
    for (index, container) in desired.containers.iter().enumerate() {
        // One after it has been started in this sandbox: it was through once.
        let passed = container.kind != ContainerKind::App && desired.containers[index + 1..].iter().any(has_attempt);
        let here = observed.latest_in(&container.name, newest.as_deref());
        let mut step = Step { desired, observed, container, now, plan };
        let report = match (container.kind, here) {
            (ContainerKind::Init, _) if passed => report::of(desired, container, observed),
            (ContainerKind::Init, Some(attempt)) if attempt.exit().is_some_and(|end| end.exit_code == 0) => {
                report::of(desired, container, observed)
            }
            (_, Some(attempt)) if attempt.is_live() || observed.is_busy(&container.name) => {
                let started = step.attend(attempt);
                let through = container.kind == ContainerKind::Sidecar && started;
                open &= passed || through || container.kind == ContainerKind::App;
                report::of(desired, container, observed)
            }
            (ContainerKind::App, Some(attempt))
                if attempt.exit().is_some_and(|end| !restarts(desired.restart_policy, end.exit_code)) =>
            {
                report::of(desired, container, observed)
            }
            _ if observed.is_busy(&container.name) || (!open && !passed) => {
                open &= passed || container.kind == ContainerKind::App;
                step.held()
            }
            _ => {
                open &= passed || container.kind == ContainerKind::App;
                step.start()
            }
        };
        plan.reports.push(report);
    }
}

/// One container's turn.
struct Step<'a> {
    desired: &'a DesiredPod,
    observed: &'a Observed,
    container: &'a DesiredContainer,
    now: Timestamp,
    plan: &'a mut Plan,
}

impl Step<'_> {
    /// A live container: is there a reason to kill it? Says whether it has started.
    fn attend(&mut self, attempt: &Attempt) -> bool {
        let (container, name) = (self.container, &self.container.name);
        let progress = self.observed.progress(name);
        if progress.start == Start::Busy {
            return false;
        }
        let what = if container.kind == ContainerKind::App { "Container" } else { "Init container" };
        let grace_of = |probe: &Option<Probe>| {
            probe.as_ref().and_then(|p| p.termination_grace_seconds).unwrap_or(self.desired.termination_grace_seconds)
        };
        let kill = if attempt.state == AttemptState::Unknown {
            let text = format!("{what} is in \"unknown\" state, try killing it before restart");
            Some((text, self.desired.termination_grace_seconds))
        } else if matches!(progress.start, Start::Failed { .. }) {
            // It runs all the same: only its postStart hook can have failed.
            Some(("FailedPostStartHook".to_owned(), self.desired.termination_grace_seconds))
        } else if attempt.hash != definition_hash(container) && container.blocked.is_none() {
            let text = format!("{what} {name} definition changed, will be restarted");
            Some((text, self.desired.termination_grace_seconds))
        } else if container.probes.liveness.is_some() && progress.liveness == Verdict::Failed {
            Some((
                format!("{what} {name} failed liveness probe{}", self.will_restart()),
                grace_of(&container.probes.liveness),
            ))
        } else if container.probes.startup.is_some() && progress.startup == Verdict::Failed {
            Some((
                format!("{what} {name} failed startup probe{}", self.will_restart()),
                grace_of(&container.probes.startup),
            ))
        } else {
            None
        };
        if let Some((message, grace)) = kill {
            self.plan.actions.push(Action::Kill(Kill {
                container: name.clone(),
                id: attempt.id.clone(),
                grace: Grace::Seconds(grace),
                turn: true,
                message,
            }));
        }
        progress.start == Start::Idle && report::is_started(container, &progress)
    }

    fn will_restart(&self) -> &'static str {
        let always = self.container.kind == ContainerKind::Sidecar;
        if always || self.desired.restart_policy != RestartPolicy::Never { ", will be restarted" } else { "" }
    }

    /// Not its turn, or its start is under way.
    fn held(&mut self) -> ContainerReport {
        let latest = self.observed.latest(&self.container.name);
        match latest {
            Some(attempt) if attempt.exit().is_some() => report::of(self.desired, self.container, self.observed),
            _ => report::waiting(self.container, latest, report::creating(self.desired)),
        }
    }

    /// It should run and doesn't.
    fn start(&mut self) -> ContainerReport {
        let (container, name) = (self.container, &self.container.name);
        let latest = self.observed.latest(name);
        if let Some(attempt) = latest.filter(|attempt| attempt.state == AttemptState::Created) {
            // An agent died between create and start: its name in the runtime is taken until it is removed.
            self.plan.actions.push(Action::RemoveContainer { id: attempt.id.clone() });
            return report::of(self.desired, container, self.observed);
        }
        if let Some(message) = &container.blocked {
            self.plan.notice(true, "Failed", format!("Error: {message}"), Some(container));
            return self.waits("CreateContainerConfigError", message.clone());
        }
        let restart = latest.and_then(|attempt| {
            attempt.exit().map(|end| backoff::restart(attempt.backoff_seconds, attempt.created_at, end.finished_at))
        });
        if let Some(restart) = restart.filter(|restart| self.now < restart.not_before) {
            return self.crash_loop(restart);
        }
        let progress = self.observed.progress(name);
        if let Start::Failed { fault, at, failures } = &progress.start
            && !self.plan.due(*at, backoff::retry_delay(failures.saturating_add(2)), self.now)
        {
            return self.waits(&fault.reason, fault.message.clone());
        }
        let fault = match &progress.start {
            Start::Failed { fault, .. } => Some(fault.clone()),
            Start::Idle | Start::Busy => None,
        };
        if has_blocked_volume(self.desired, self.observed) {
            return self.told(fault);
        }
        match &progress.image {
            Image::Unchecked => {
                self.plan.actions.push(Action::EnsureImage { container: name.clone() });
                self.told(fault)
            }
            Image::Busy { last, .. } => self.told(last.clone().map(|last| self.pull_backoff(&last)).or(fault)),
            Image::Failed { fault, at, failures } => self.image_failed(fault, *at, *failures),
            Image::Ready => {
                if let Some(sandbox) = self.observed.ready_sandbox().filter(|_| self.observed.mounted) {
                    self.plan.actions.push(Action::StartContainer {
                        container: name.clone(),
                        sandbox: sandbox.id.clone(),
                        number: latest.map_or(0, |attempt| attempt.number + 1),
                        backoff_seconds: restart.map_or(0, |restart| restart.next_delay_seconds),
                    });
                }
                self.told(fault)
            }
        }
    }

    fn crash_loop(&mut self, restart: Restart) -> ContainerReport {
        self.plan.wake(restart.not_before);
        let (container, pod) = (self.container, pod_text(self.desired));
        let name = &container.name;
        self.plan.notice(
            true,
            "BackOff",
            format!("Back-off restarting failed container {name} in pod {pod}"),
            Some(container),
        );
        let wait = text_of_seconds(restart.delay_seconds);
        self.waits("CrashLoopBackOff", format!("back-off {wait} restarting failed container={name} pod={pod}"))
    }

    fn image_failed(&mut self, fault: &Fault, at: Timestamp, failures: u32) -> ContainerReport {
        if self.plan.due(at, backoff::pull_delay(failures), self.now) {
            self.plan.actions.push(Action::EnsureImage { container: self.container.name.clone() });
            return self.told(Some(self.pull_backoff(fault)));
        }
        if fault.reason == "ErrImagePull" && self.plan.due(at, FRESH_PULL_FAILURE, self.now) {
            let text = format!("Back-off pulling image \"{}\"", self.container.image);
            // Its message carries no cause, so that repeats are counted.
            self.plan.notice(false, "BackOff", text, Some(self.container));
            self.plan.notice(true, "Failed", "Error: ImagePullBackOff".to_owned(), Some(self.container));
            return self.told(Some(self.pull_backoff(fault)));
        }
        self.waits(&fault.reason, fault.message.clone())
    }

    /// How a failed pull is said later on; the other faults keep their names.
    fn pull_backoff(&self, fault: &Fault) -> Fault {
        if fault.reason != "ErrImagePull" {
            return fault.clone();
        }
        Fault {
            reason: "ImagePullBackOff".to_owned(),
            message: format!("Back-off pulling image \"{}\": ErrImagePull: {}", self.container.image, fault.message),
        }
    }

    fn waits(&self, reason: &str, message: String) -> ContainerReport {
        let fault = Fault { reason: reason.to_owned(), message };
        report::waiting(self.container, self.observed.latest(&self.container.name), fault)
    }

    /// On its way: says the last fault, if there was one, else how it ended before.
    fn told(&self, fault: Option<Fault>) -> ContainerReport {
        match fault {
            Some(fault) => report::waiting(self.container, self.observed.latest(&self.container.name), fault),
            None => report::of(self.desired, self.container, self.observed),
        }
    }
}

/// As Go prints a duration: `40s`, `2m40s`.
fn text_of_seconds(seconds: u32) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// The newest two attempts of each container are kept (the live one, and the one before for
/// `logs --previous` and lastState), and the sandboxes that they are in.
fn sweep(observed: &Observed, plan: &mut Plan) {
    let mut kept_sandboxes: Vec<&str> =
        observed.newest_sandbox().map(|sandbox| sandbox.id.as_str()).into_iter().collect();
    for attempt in &observed.attempts {
        let newer = observed.attempts.iter().filter(|a| a.name == attempt.name && a.number > attempt.number).count();
        if newer >= 2 && attempt.exit().is_some() {
            plan.actions.push(Action::RemoveContainer { id: attempt.id.clone() });
        } else {
            kept_sandboxes.push(&attempt.sandbox);
        }
    }
    let unused = observed.sandboxes.iter().filter(|sandbox| !kept_sandboxes.contains(&sandbox.id.as_str()));
    plan.actions.extend(unused.map(|sandbox| Action::RemoveSandbox { id: sandbox.id.clone() }));
}
