//! The task that owns the Pod: look, plan, have it done, report, wait.
//!
//! ```text
//!      +--> look (if anything may have changed) --> plan --> actions (tasks) --> probes --> report --+
//!      |                                                                                             |
//!      +-- desired state | runtime event | work done | probe verdict | the plan's alarm | 10 s ------+
//! ```
//!
//! It chooses nothing: `decide::containers` does. It remembers what the plan asks for
//! ([`Observed::progress`]), which work is under way, and what has been told.

mod act;
mod done;

use super::{
    Shared, Teller, kill,
    observe::Seen,
    probes::{ProbeSaid, Probers, Subject},
    spec::ImageUser,
    state::{Kept, KeptProbes, StateDir},
};
use crate::{
    decide::{
        containers::{AttemptState, Notice, Observed, Plan, Start, Work, plan},
        probe::{ProbeKind, Verdict},
    },
    model::{AgentEvent, ContainerKind, DesiredContainer, DesiredPod, PodReport},
    retry::Backoff,
};
use done::Done;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A look for what all events missed; log sizes are checked then too (a kubelet's period for both).
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// How soon to look again at what may be told otherwise.
const UNSETTLED_LOOK: SignedDuration = SignedDuration::from_millis(200);
/// Containerd starts in some dozens of milliseconds.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(3);

pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub state: StateDir,
    pub kept: Kept,
    pub ordered: watch::Receiver<Option<Arc<DesiredPod>>>,
    pub report: watch::Sender<Option<Arc<PodReport>>>,
    pub events: mpsc::Sender<AgentEvent>,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    state: StateDir,
    kept: Kept,
    /// What the file has, so that equal content is not written again.
    saved: Kept,
    ordered: watch::Receiver<Option<Arc<DesiredPod>>>,
    report: watch::Sender<Option<Arc<PodReport>>>,
    events: mpsc::Sender<AgentEvent>,
    desired: Option<Arc<DesiredPod>>,
    seen: Seen,
    observed: Observed,
    pod_ip: Option<IpAddr>,
    /// By container name: the user of the image that is ready for its next start.
    images: HashMap<String, ImageUser>,
    /// Containers whose image is being made sure of, with that image.
    pulling: HashMap<String, String>,
    volume_failures: u32,
    /// Another desired state came while the volumes were being made.
    volumes_stale: bool,
    work: JoinSet<Done>,
    /// Gives up starts and pulls, when the Pod stops.
    stopping: CancellationToken,
    kills: HashMap<String, watch::Sender<kill::Terms>>,
    removing: HashSet<String>,
    probers: Probers,
    verdicts: mpsc::Receiver<ProbeSaid>,
    told: BTreeSet<Notice>,
    /// The runtime's state may have changed since the last look.
    dirty: bool,
    /// The runtime does not answer: try again then.
    away: Option<Instant>,
    away_wait: Backoff,
}

impl Worker {
    pub fn new(parts: Parts) -> Self {
        let Parts { shared, state, kept, ordered, report, events } = parts;
        // Each verdict is taken at once; a few may come together.
        let (said, verdicts) = mpsc::channel(32);
        let probers = Probers::new(shared.cri.clone(), said);
        let mut observed = Observed {
            mounted: kept.mounted,
            stop_deadline: kept.stop_deadline,
            final_reports: kept.final_reports.clone(),
            ..Observed::default()
        };
        if kept.torn_down {
            observed.teardown = Work::Done;
        }
        Self {
            shared,
            state,
            saved: kept.clone(),
            kept,
            ordered,
            report,
            events,
            desired: None,
            seen: Seen::default(),
            observed,
            pod_ip: None,
            images: HashMap::new(),
            pulling: HashMap::new(),
            volume_failures: 0,
            volumes_stale: false,
            work: JoinSet::new(),
            stopping: CancellationToken::new(),
            kills: HashMap::new(),
            removing: HashSet::new(),
            probers,
            verdicts,
            told: BTreeSet::new(),
            dirty: true,
            away: None,
            away_wait: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
        }
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        let nudge = Arc::new(Notify::new());
        let _listener = AbortOnDropHandle::new(tokio::spawn(listen(self.shared.clone(), nudge.clone())));
        let mut looks = interval_at(Instant::now() + LOOK_PERIOD, LOOK_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_order();
            let alarm = self.step().await;
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.ordered.changed() => if changed.is_err() { return },
                () = nudge.notified() => {
                    self.dirty = true;
                    // It may be back.
                    self.away = None;
                }
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(error) => tracing::error!(%error, "a piece of work was cancelled"),
                    },
                },
                Some(said) = self.verdicts.recv() => self.judge(said),
                _ = looks.tick() => {
                    self.dirty = true;
                    self.rotate_logs();
                }
                () = sleep(alarm) => {}
            }
        }
    }

    /// Takes up a new desired state, if there is one.
    fn take_order(&mut self) {
        let Some(mut new) = self.ordered.borrow_and_update().clone() else { return };
        if self.desired.as_ref().is_some_and(|held| held.generation == new.generation) {
            return;
        }
        let old = self.desired.take();
        if let Some(old) = &old {
            if new.stop.is_none() && old.stop.is_some() {
                // A stop is never taken back: containers have been told to go.
                new = Arc::new(DesiredPod { stop: old.stop.clone(), ..(*new).clone() });
            }
            for container in &new.containers {
                let same = old.containers.iter().any(|o| o.name == container.name && has_same_image(o, container));
                if !same && !self.pulling.contains_key(&container.name) {
                    self.observed.progress.entry(container.name.clone()).or_default().image = Default::default();
                }
            }
        }
        let stop = |pod: &DesiredPod| pod.stop.as_ref().map(|stop| stop.deletion);
        if let Some(deletion) = stop(&new)
            && (self.kept.stop_deadline.is_none() || old.as_deref().and_then(stop) != Some(deletion))
        {
            let seconds = i64::try_from(deletion.grace_seconds).unwrap_or(i64::MAX);
            let ends = Timestamp::now().saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
            // A kubelet too counts the grace from when it hears of it; a later order only shortens it.
            let ends = self.kept.stop_deadline.map_or(ends, |earlier| earlier.min(ends));
            self.kept.stop_deadline = Some(ends);
            self.observed.stop_deadline = Some(ends);
        }
        if new.stop.is_some() {
            self.stopping.cancel();
        }
        if let Err(error) = self.state.save_desired(&new) {
            tracing::error!(error = &error as &dyn std::error::Error, "a restarted agent would not know its Pod");
        }
        if self.observed.volumes == Work::Busy {
            self.volumes_stale = true;
        } else {
            self.observed.volumes = Work::Idle;
        }
        if old.is_none() {
            self.dirty = true;
        }
        tracing::info!(pod = %new.name, uid = %new.uid, generation = new.generation.0, stop = new.stop.is_some(), "desired");
        self.desired = Some(new);
    }

    /// Looks, plans, acts, reports. Says for how long nothing more is to do.
    async fn step(&mut self) -> Duration {
        let Some(desired) = self.desired.clone() else { return LOOK_PERIOD };
        if let Some(until) = self.away.filter(|until| Instant::now() < *until) {
            return until - Instant::now();
        }
        if self.dirty && !self.look(&desired).await {
            // What is planned on old knowledge would be wrong.
            let wait = self.away_wait.next_wait();
            self.away = Some(Instant::now() + wait);
            return wait;
        }
        let now = Timestamp::now();
        let plan = plan(&desired, &self.observed, now);
        self.act(&desired, &plan);
        self.keep_probing(&desired);
        self.tell(&plan);
        self.publish(&desired, &plan);
        self.save();
        let alarm = plan.wake_at.map_or(SignedDuration::from_secs(3600), |at| at.duration_since(now));
        if self.seen.is_unsettled(now) {
            self.dirty = true;
            return alarm.clamp(SignedDuration::ZERO, UNSETTLED_LOOK).unsigned_abs();
        }
        if alarm.is_negative() { Duration::ZERO } else { alarm.unsigned_abs() }
    }

    /// Says whether the runtime answered.
    async fn look(&mut self, desired: &DesiredPod) -> bool {
        let logs = self.shared.pod_logs(desired);
        let seen = std::mem::take(&mut self.seen).refresh(&self.shared.cri, &desired.uid, &logs).await;
        self.seen = match seen {
            Ok(seen) => seen,
            Err((old, error)) => {
                if self.away.is_none() {
                    tracing::warn!(%error, "the container runtime does not answer; waiting for it");
                }
                self.seen = old;
                return false;
            }
        };
        if self.away.take().is_some() {
            tracing::info!("the container runtime answers again");
        }
        self.away_wait.reset();
        self.dirty = false;
        // Of a sandbox that is gone only the desired state tells the address: it is the same one.
        let had_one = !self.seen.attempts.is_empty() || self.observed.final_reports.is_some();
        let before = desired.pod_ip.filter(|_| had_one);
        self.pod_ip = self.seen.ready.as_ref().and_then(|ready| ready.ip).or(self.pod_ip).or(before);
        self.observed.sandboxes.clone_from(&self.seen.sandboxes);
        self.observed.attempts.clone_from(&self.seen.attempts);
        self.adopt_verdicts(desired);
        true
    }

    /// A container that ran before this agent did has its probes' verdicts from the file.
    fn adopt_verdicts(&mut self, desired: &DesiredPod) {
        for container in &desired.containers {
            let live = self.observed.latest(&container.name).filter(|attempt| attempt.is_live());
            let Some(kept) = live.and_then(|attempt| self.kept.probes.get(&attempt.id)).copied() else { continue };
            let progress = self.observed.progress.entry(container.name.clone()).or_default();
            if progress.startup == Verdict::Unknown {
                progress.startup = KeptProbes::verdict(kept.started);
            }
            if progress.readiness == Verdict::Unknown {
                progress.readiness = KeptProbes::verdict(kept.ready);
            }
        }
        let known: HashSet<&str> = self.observed.attempts.iter().map(|attempt| attempt.id.as_str()).collect();
        self.kept.probes.retain(|id, _| known.contains(id.as_str()));
    }

    fn judge(&mut self, said: ProbeSaid) {
        let current = self.observed.latest(&said.container).is_some_and(|attempt| attempt.id == said.id);
        if !current {
            return;
        }
        let kept = self.kept.probes.entry(said.id).or_default();
        let progress = self.observed.progress.entry(said.container).or_default();
        match said.kind {
            ProbeKind::Startup => {
                progress.startup = said.verdict;
                kept.started = said.verdict == Verdict::Passed;
            }
            ProbeKind::Liveness => progress.liveness = said.verdict,
            ProbeKind::Readiness => {
                progress.readiness = said.verdict;
                kept.ready = said.verdict == Verdict::Passed;
            }
        }
    }

    /// Has exactly the probes run that the state of things asks for.
    fn keep_probing(&mut self, desired: &DesiredPod) {
        let mut subjects = Vec::new();
        for container in desired.containers.iter().filter(|container| container.kind != ContainerKind::Init) {
            let Some(attempt) = self.observed.latest(&container.name) else { continue };
            let AttemptState::Running { started_at } = attempt.state else { continue };
            let progress = self.observed.progress.get(&container.name).cloned().unwrap_or_default();
            if progress.start != Start::Idle {
                continue;
            }
            let probes = &container.probes;
            let started = probes.startup.is_none() || progress.startup == Verdict::Passed;
            let dying = desired.stop.is_some() || progress.killing;
            let wanted = [
                (ProbeKind::Startup, &probes.startup, progress.startup, !started && !dying),
                (ProbeKind::Liveness, &probes.liveness, progress.liveness, started && !dying),
                (ProbeKind::Readiness, &probes.readiness, progress.readiness, started),
            ];
            for (kind, probe, verdict, on) in wanted {
                let Some(probe) = probe.as_ref().filter(|_| on) else { continue };
                subjects.push(Subject {
                    id: attempt.id.clone(),
                    container: Arc::new(container.clone()),
                    kind,
                    probe: probe.clone(),
                    started_at,
                    verdict,
                    pod_ip: self.host_of(desired),
                });
            }
        }
        self.probers.keep(subjects, &self.teller(desired));
    }

    /// Where probes and hooks find the Pod.
    fn host_of(&self, desired: &DesiredPod) -> String {
        let ip = if desired.host_network { None } else { self.pod_ip.or(desired.pod_ip) };
        ip.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string())
    }

    fn teller(&self, desired: &DesiredPod) -> Teller {
        Teller { uid: desired.uid.clone(), events: self.events.clone() }
    }

    /// Each notice once, for as long as it stands.
    fn tell(&mut self, plan: &Plan) {
        let now: BTreeSet<Notice> = plan.notices.iter().cloned().collect();
        if let Some(desired) = &self.desired {
            let teller = self.teller(desired);
            for notice in now.difference(&self.told) {
                teller.tell(notice.warning, notice.reason, &notice.message, notice.container.clone());
            }
        }
        self.told = now;
    }

    fn publish(&self, desired: &DesiredPod, plan: &Plan) {
        let report = PodReport {
            uid: desired.uid.clone(),
            generation: desired.generation,
            sandbox_ready_at: self.seen.ready.as_ref().map(|ready| ready.created_at),
            pod_ip: if desired.host_network { None } else { self.pod_ip },
            containers: plan.reports.clone(),
            terminated: plan.terminated,
        };
        self.report.send_if_modified(|last| {
            let new = last.as_deref() != Some(&report);
            if new {
                *last = Some(Arc::new(report));
            }
            new
        });
    }

    fn save(&mut self) {
        if self.kept == self.saved {
            return;
        }
        match self.state.save_progress(&self.kept) {
            Ok(()) => self.saved = self.kept.clone(),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the Pod's progress is not kept"),
        }
    }
}

fn has_same_image(a: &DesiredContainer, b: &DesiredContainer) -> bool {
    a.image == b.image && a.pull_policy == b.pull_policy && a.pull_credentials == b.pull_credentials
}

/// Nudges on each of the runtime's events, and when it comes back.
async fn listen(shared: Arc<Shared>, nudge: Arc<Notify>) {
    let mut wait = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        if let Ok(mut events) = shared.cri.container_events().await {
            wait.reset();
            nudge.notify_one();
            while let Ok(Some(_)) = events.message().await {
                nudge.notify_one();
            }
        }
        sleep(wait.next_wait()).await;
    }
}
