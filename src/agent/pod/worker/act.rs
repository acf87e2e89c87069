//! Actions of a plan, each begun as a task; what is under way already is not begun again.

use super::{Done, Worker};
use crate::{
    agent::pod::{
        images, kill, logs, spec,
        start::{self, Starting},
        volumes,
    },
    decide::containers::{Action, AttemptState, Grace, Image, Kill, Plan, Progress, Start, Work},
    model::DesiredPod,
};
use jiff::{SignedDuration, Timestamp};
use std::{collections::hash_map::Entry, sync::Arc};
use tokio::sync::watch;

impl Worker {
    pub(super) fn act(&mut self, desired: &Arc<DesiredPod>, plan: &Plan) {
        for action in &plan.actions {
            match action {
                Action::SetUpVolumes => self.set_up_volumes(desired),
                Action::CreateSandbox { attempt } => self.create_sandbox(desired, *attempt),
                Action::EnsureImage { container } => self.ensure_image(desired, container),
                Action::StartContainer { container, sandbox, number, backoff_seconds } => {
                    self.start_container(desired, container, sandbox, *number, *backoff_seconds);
                }
                Action::Kill(kill) => self.kill(desired, kill),
                Action::StopSandbox { id } | Action::RemoveSandbox { id } | Action::RemoveContainer { id } => {
                    self.remove(desired, action, id);
                }
                Action::TearDown => self.tear_down(desired, plan),
            }
        }
    }

    fn set_up_volumes(&mut self, desired: &Arc<DesiredPod>) {
        self.observed.volumes = Work::Busy;
        self.volumes_stale = false;
        let (pod, dir) = (desired.clone(), self.shared.pod_dir(desired));
        self.work.spawn_blocking(move || {
            let result = volumes::set_up(&pod, &dir);
            Done::Volumes { pod, result: result.map_err(|error| error.to_string()) }
        });
    }

    fn create_sandbox(&mut self, desired: &Arc<DesiredPod>, attempt: u32) {
        let failures = failures(&self.observed.sandbox);
        self.observed.sandbox = Work::Busy;
        let (shared, pod, tell) = (self.shared.clone(), desired.clone(), self.teller(desired));
        let old: Vec<String> = self.observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        self.work.spawn(async move {
            let result = start::sandbox(&shared, &pod, attempt, &old, &tell).await;
            Done::Sandbox { result, failures }
        });
    }

    fn ensure_image(&mut self, desired: &Arc<DesiredPod>, name: &str) {
        let Some(container) = desired.containers.iter().find(|container| container.name == name).cloned() else {
            return;
        };
        if self.pulling.contains_key(name) {
            return;
        }
        let progress = self.observed.progress.entry(name.to_owned()).or_default();
        let (failures, last) = match std::mem::take(&mut progress.image) {
            Image::Failed { fault, failures, .. } => (failures, Some(fault)),
            Image::Unchecked | Image::Busy { .. } | Image::Ready => (0, None),
        };
        progress.image = Image::Busy { failures, last };
        self.pulling.insert(name.to_owned(), container.image.clone());
        let (shared, tell, stopping) = (self.shared.clone(), self.teller(desired), self.stopping.clone());
        let sandbox = spec::sandbox(desired, 0, &self.shared.pod_logs(desired));
        self.work.spawn(async move {
            let result = tokio::select! {
                () = stopping.cancelled() => Err(images::NoImage::Unreachable),
                result = images::ensure(&shared.cri, &container, sandbox, &tell) => result,
            };
            Done::Image { container: container.name, result, failures }
        });
    }

    fn start_container(&mut self, desired: &Arc<DesiredPod>, name: &str, sandbox: &str, number: u32, backoff: u32) {
        let Some(container) = desired.containers.iter().find(|container| container.name == name).cloned() else {
            return;
        };
        let progress = self.observed.progress.entry(name.to_owned()).or_default();
        let Some(image) = self.images.remove(name) else {
            progress.image = Image::Unchecked;
            return;
        };
        let failures = match &progress.start {
            Start::Failed { failures, .. } => *failures,
            Start::Idle | Start::Busy => 0,
        };
        // Verdicts are of the attempt before; the image is looked at again for the next start.
        *progress = Progress { start: Start::Busy, ..Progress::default() };
        let sandbox_attempt =
            self.observed.sandboxes.iter().find(|seen| seen.id == sandbox).map_or(0, |seen| seen.attempt);
        let starting = Starting {
            pod: desired.clone(),
            container,
            sandbox: sandbox.to_owned(),
            sandbox_attempt,
            number,
            backoff_seconds: backoff,
            image,
            pod_ip: self.host_of(desired),
        };
        let (shared, tell, stopping) = (self.shared.clone(), self.teller(desired), self.stopping.clone());
        let container = name.to_owned();
        self.work.spawn(async move {
            let result = start::container(&shared, starting, &tell, &stopping).await;
            Done::Started { container, result, failures }
        });
    }

    fn kill(&mut self, desired: &Arc<DesiredPod>, asked: &Kill) {
        let deadline = match asked.grace {
            Grace::Until(deadline) => deadline,
            Grace::Seconds(seconds) => {
                let grace = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                Timestamp::now().saturating_add(grace).unwrap_or(Timestamp::MAX)
            }
        };
        match self.kills.entry(asked.id.clone()) {
            Entry::Occupied(running) => {
                running.get().send_if_modified(|terms| {
                    let new = kill::Terms { deadline: terms.deadline.min(deadline), turn: terms.turn || asked.turn };
                    let changed = *terms != new;
                    *terms = new;
                    changed
                });
            }
            Entry::Vacant(place) => {
                let (sender, terms) = watch::channel(kill::Terms { deadline, turn: asked.turn });
                place.insert(sender);
                self.observed.progress.entry(asked.container.clone()).or_default().killing = true;
                let tell = self.teller(desired);
                let container = desired.containers.iter().find(|c| c.name == asked.container).cloned();
                if let Some(container) = &container {
                    tell.container(container, false, "Killing", &asked.message);
                }
                let killing = kill::Killing { id: asked.id.clone(), container, pod_ip: self.host_of(desired), terms };
                let (shared, id, container) = (self.shared.clone(), asked.id.clone(), asked.container.clone());
                self.work.spawn(async move {
                    kill::run(shared, killing, tell).await;
                    Done::Killed { id, container }
                });
            }
        }
    }

    fn remove(&mut self, desired: &Arc<DesiredPod>, action: &Action, id: &str) {
        if !self.removing.insert(id.to_owned()) {
            return;
        }
        let (shared, action, id) = (self.shared.clone(), action.clone(), id.to_owned());
        let attempt = self.observed.attempts.iter().find(|attempt| attempt.id == id);
        let log = attempt.map(|a| self.shared.pod_logs(desired).join(&a.name).join(format!("{}.log", a.number)));
        let log = log.filter(|_| matches!(action, Action::RemoveContainer { .. }));
        self.work.spawn(async move {
            let result = match action {
                Action::StopSandbox { .. } => shared.cri.stop_sandbox(&id).await,
                Action::RemoveSandbox { .. } => match shared.cri.stop_sandbox(&id).await {
                    Ok(()) => shared.cri.remove_sandbox(&id).await,
                    failed => failed,
                },
                _ => shared.cri.remove_container(&id).await,
            };
            if let (Ok(()), Some(log)) = (&result, log)
                && let Err(error) = logs::remove(&log)
            {
                tracing::warn!(log = %log.display(), %error, "an old log stays");
            }
            Done::Removed { id, result }
        });
    }

    fn tear_down(&mut self, desired: &Arc<DesiredPod>, plan: &Plan) {
        let failures = failures(&self.observed.teardown);
        self.observed.teardown = Work::Busy;
        // The runtime forgets the containers now: their ends are kept here.
        if self.observed.final_reports.is_none() {
            self.observed.final_reports = Some(plan.reports.clone());
            self.kept.final_reports = Some(plan.reports.clone());
            self.save();
        }
        let sandboxes: Vec<String> = self.observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        let (shared, dir) = (self.shared.clone(), self.shared.pod_dir(desired));
        self.work.spawn(async move {
            for id in sandboxes {
                let gone = async {
                    shared.cri.stop_sandbox(&id).await?;
                    shared.cri.remove_sandbox(&id).await
                };
                if let Err(error) = gone.await {
                    let result = Err(error.to_string());
                    return Done::TornDown { result, failures };
                }
            }
            let result = tokio::task::spawn_blocking(move || volumes::tear_down(&dir)).await;
            let result = match result {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            Done::TornDown { result, failures }
        });
    }

    pub(super) fn rotate_logs(&mut self) {
        let Some(desired) = self.desired.clone() else { return };
        let root = self.shared.pod_logs(&desired);
        for attempt in &self.observed.attempts {
            if !matches!(attempt.state, AttemptState::Running { .. }) {
                continue;
            }
            let log = root.join(&attempt.name).join(format!("{}.log", attempt.number));
            let (shared, id) = (self.shared.clone(), attempt.id.clone());
            self.work.spawn(async move {
                if let Err(error) = logs::rotate(&shared.cri, &id, &log).await {
                    tracing::warn!(log = %log.display(), error = &error as &dyn std::error::Error, "not rotated");
                }
                Done::Nothing
            });
        }
    }
}

fn failures(work: &Work) -> u32 {
    match work {
        Work::Failed { failures, .. } => *failures,
        Work::Idle | Work::Busy | Work::Done => 0,
    }
}
