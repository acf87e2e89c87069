//! A Pod on two instances: carries out what `decide::handover` says, and finds its way back after a start.
//!
//! ```text
//!   notices, ages, annotation ──> leave() ──> plan() ──> step ──> stage of the entry, condition, desired states
//!                                               ^                        |
//!                                               +── both reports, what the API server shows ──+
//! ```
//!
//! What the second agent is told waits until the API server shows the condition that names it, and so does the stop
//! of the first after a switch. So at every moment the status names all that runs.

mod signs;
mod steps;

use super::{InstanceEntry, PodEntry, World};
use crate::decide::handover::{
    self, Ask, Leave, MOVE, Manner, Other, PodFacts, Role, Signals, Stage, Step, Unmovable, causes::RESERVE,
};
use crate::decide::purchase;
use crate::decide::status::{HandoverNote, Reason, Recorded};
use crate::model::{
    ContainerKind, Deletion, DesiredDigest, Generation, InstanceId, Notice, PodIntent, PodReport, PodUid,
};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// From any stage to rest: Starting, Draining, Idle, Wanting.
const MOST_STEPS: usize = 6;
/// A refused eviction is asked for again after this long.
const EVICT_AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// Told anew with each handover.
const RETOLD: [&str; 6] = [
    "HandoverStarted",
    "HandoverInstanceBound",
    "HandoverFailed",
    "HandoverNotPossible",
    "InstanceLaunching",
    "TerminatingOnInterruption",
];

pub(super) struct Handover {
    since: Timestamp,
    /// Of the cause that began it.
    cause: &'static str,
    /// The wish that it fulfils.
    asked: Option<String>,
    /// What is asked of the cost policy for the second instance.
    wants: Arc<purchase::Demand>,
    at: At,
}

enum At {
    /// `why`: why there is no second instance yet.
    Wanting {
        why: String,
    },
    Starting(Leg),
    Draining {
        leg: Leg,
        role: Role,
        shown_at: Option<Timestamp>,
        stop: Option<Deletion>,
    },
}

/// The instance that is not the Pod's own, with what goes to its agent and comes from it.
pub(super) struct Leg {
    pub instance: InstanceId,
    pub report: Option<Box<PodReport>>,
    pub generation: Generation,
    pub sent: Option<DesiredDigest>,
}

impl Leg {
    fn new(instance: InstanceId) -> Self {
        Self { instance, report: None, generation: Generation(0), sent: None }
    }
}

/// When its eviction was asked for, and how the last time.
#[derive(Clone, Copy)]
pub(super) struct Evicted {
    since: Timestamp,
    last: Timestamp,
    force: bool,
}

impl Handover {
    pub(super) fn leg(&self) -> Option<&Leg> {
        match &self.at {
            At::Wanting { .. } => None,
            At::Starting(leg) | At::Draining { leg, .. } => Some(leg),
        }
    }

    pub(super) fn leg_mut(&mut self) -> Option<&mut Leg> {
        match &mut self.at {
            At::Wanting { .. } => None,
            At::Starting(leg) | At::Draining { leg, .. } => Some(leg),
        }
    }

    /// What placement is asked for, and since when.
    pub(super) fn demand(&self) -> Option<(Arc<purchase::Demand>, Timestamp)> {
        matches!(self.at, At::Wanting { .. }).then(|| (Arc::clone(&self.wants), self.since))
    }

    fn note(&self) -> HandoverNote {
        match &self.at {
            At::Wanting { why } => HandoverNote::Wanting { why: why.clone() },
            At::Starting(leg) => HandoverNote::Starting(leg.instance.clone()),
            At::Draining { leg, .. } => HandoverNote::Draining(leg.instance.clone()),
        }
    }
}

impl PodEntry {
    pub(super) fn leg_of(&mut self, instance: &InstanceId) -> Option<&mut Leg> {
        self.handover.as_mut().and_then(Handover::leg_mut).filter(|leg| leg.instance == *instance)
    }

    /// Its agent on this instance has connected, and holds this generation of it. Whatever else was sent may have been
    /// lost with an earlier connection: nobody keeps it, so it is sent again.
    pub(super) fn heard_from(&mut self, instance: &InstanceId, held: Option<Generation>) {
        let own = self.instance.as_ref() == Some(instance);
        let (generation, sent) = match self.handover.as_mut().and_then(Handover::leg_mut) {
            Some(leg) if leg.instance == *instance => (&mut leg.generation, &mut leg.sent),
            _ if own => (&mut self.generation, &mut self.sent),
            _ => return,
        };
        if held != Some(*generation) {
            *sent = None;
        }
        *generation = held.map_or(*generation, |held| held.max(*generation));
    }

    /// A wish to move that was not dealt with.
    fn asked(&self) -> Option<Ask> {
        let value = self.seen.intent.annotations.get(MOVE)?;
        (self.moved.as_ref() != Some(value)).then(|| Ask::new(value))
    }

    fn over(&self) -> bool {
        self.gone
            || self.seen.intent.deletion.is_some()
            || self.failed.is_some()
            || self.status.as_ref().is_some_and(|status| status.phase.is_terminal())
    }
}

impl World {
    /// What a status says of a handover.
    pub(super) fn handover_notes(&self, entry: &PodEntry, now: Timestamp) -> (Option<HandoverNote>, Option<Reason>) {
        let note = match &entry.handover {
            Some(under_way) => Some(under_way.note()),
            None => entry.outcome.clone().map(HandoverNote::Over),
        };
        let doomed = self.leave(entry, now).0.filter(|leave| self.dooms(entry, leave));
        let why = doomed.map(|leave| Reason { reason: leave.cause.reason().to_owned(), message: leave.message() });
        (note, why)
    }

    /// Whether the instance is about to go for this.
    fn dooms(&self, entry: &PodEntry, leave: &Leave) -> bool {
        let goes =
            leave.by.is_some() || leave.manner == Manner::MarkOnly || handover::movable(&entry.seen.intent).is_ok();
        goes && leave.cause.dooms() && !entry.over()
    }

    fn leave(&self, entry: &PodEntry, now: Timestamp) -> (Option<Leave>, Option<Timestamp>) {
        let Some(own) = entry.instance.as_ref().and_then(|id| self.instances.get(id)) else { return (None, None) };
        let policy = &self.config.buying.policy;
        let asked = entry.asked();
        let notices: Vec<Notice> = own.notices().cloned().collect();
        let signals = Signals {
            notices: &notices,
            launched_at: own.record.launched_at,
            max_lifetime: policy.ttl.max_lifetime,
            interruption: policy.interruption,
            asked: asked.as_ref(),
            reserve: entry.seen.intent.labels.contains_key(RESERVE),
        };
        handover::leave(&signals, now)
    }

    /// Takes a Pod's handover as far as it goes now.
    pub(super) fn hand_over(&mut self, uid: &PodUid, now: Timestamp) {
        for _ in 0..MOST_STEPS {
            let Some(entry) = self.pods.get(uid) else { return };
            let (leave, look_again) = self.leave(entry, now);
            if let Some(at) = look_again {
                self.wakes.insert((at, uid.clone()));
            }
            let Some(entry) = self.pods.get(uid) else { return };
            if leave.is_none() && entry.handover.is_none() {
                return;
            }
            self.announce(uid, leave.as_ref(), now);
            if !self.handover_step(uid, leave, now) {
                return;
            }
        }
        // Whatever is left comes at the next turn.
        self.wakes.insert((now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(now), uid.clone()));
    }

    fn announce(&mut self, uid: &PodUid, leave: Option<&Leave>, now: Timestamp) {
        let Some(entry) = self.pods.get(uid) else { return };
        if let Some(leave) = leave.filter(|leave| self.dooms(entry, leave)) {
            let instance = entry.instance.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = format!("{instance}: {}", leave.message());
            self.tell(uid, true, leave.cause.reason(), &message, now);
        }
    }

    /// One step; whether another may follow.
    fn handover_step(&mut self, uid: &PodUid, leave: Option<Leave>, now: Timestamp) -> bool {
        self.note_shown(uid, now);
        let Some(entry) = self.pods.get(uid) else { return false };
        let verdict = handover::movable(&entry.seen.intent);
        let view = handover::View {
            pod: self.pod_facts(entry),
            leave: leave.as_ref(),
            movable: verdict.as_ref().map_err(Vec::as_slice).copied(),
            stage: stage(entry.handover.as_ref()),
            since: entry.handover.as_ref().map_or(now, |h| h.since),
            other: entry.handover.as_ref().and_then(Handover::leg).map(|leg| self.other(uid, leg)),
            rest_until: entry.rest_until,
            evicted_at: entry.evicted.map(|evicted| evicted.since),
        };
        let plan = handover::plan(&view, now);
        if let Some(at) = plan.wake_at.filter(|at| *at > now) {
            self.wakes.insert((at, uid.clone()));
        }
        match plan.step {
            Step::Rest => false,
            Step::Want => leave.is_some_and(|leave| self.want(uid, &leave, now)),
            Step::WantAgain => {
                self.drop_other(uid);
                self.want_again(uid);
                false
            }
            Step::Forget(failure) => {
                self.conclude(uid, failure, now);
                true
            }
            Step::Start => {
                self.start_other(uid);
                false
            }
            Step::Switch(because) => {
                self.switch(uid, because, now);
                true
            }
            Step::Abandon(failure) => {
                self.abandon(uid, failure, now);
                true
            }
            Step::Stop(deletion) => {
                self.stop_other(uid, deletion);
                false
            }
            Step::End => {
                self.end_other(uid, now);
                true
            }
            Step::Refuse => {
                if let Some(leave) = leave {
                    self.refuse(uid, &leave, &reasons(verdict.err().as_deref().unwrap_or_default()), now);
                }
                false
            }
            Step::Evict { grace_seconds, force } => {
                self.evict(uid, grace_seconds, force, now);
                false
            }
            Step::Fail => {
                self.fail(uid, leave.as_ref(), now);
                false
            }
        }
    }

    fn pod_facts(&self, entry: &PodEntry) -> PodFacts {
        let own = entry.instance.as_ref().and_then(|id| self.instances.get(id));
        let spec = entry.seen.intent.spec.as_ref().ok();
        PodFacts {
            over: entry.over(),
            deletion: entry.seen.intent.deletion,
            backed: own.is_some_and(|own| own.gone.is_none() && own.ending.is_none()),
            grace_seconds: spec.map_or(0, |spec| spec.termination_grace_seconds),
            controlled: entry.seen.intent.owner.is_some(),
        }
    }

    fn other(&self, uid: &PodUid, leg: &Leg) -> Other {
        let instance = self.instances.get(&leg.instance);
        let told = |i: &InstanceEntry| {
            // Before its agent was heard, a predecessor may have told it.
            leg.sent.is_some() || !i.ever_connected || i.holds.as_ref().is_some_and(|(held, _)| held == uid)
        };
        let ends_at = instance.and_then(|i| {
            let interruptions = i.notices().filter_map(|notice| match notice {
                Notice::Interruption { at } => Some(*at),
                _ => None,
            });
            interruptions.min()
        });
        Other {
            alive: instance.is_some_and(|i| i.gone.is_none() && i.ending.is_none()),
            connected: instance.is_some_and(|i| i.connected),
            told: instance.is_some_and(told),
            ready: instance.is_some_and(|i| i.connected) && leg.report.as_deref().is_some_and(ready),
            terminated: leg.report.as_deref().is_some_and(|report| report.terminated),
            ends_at,
        }
    }

    /// A switch counts as seen when the API server shows it: EndpointSlices are made from there.
    fn note_shown(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(Handover { at: At::Draining { leg, shown_at, .. }, .. }) = &mut entry.handover else { return };
        if let Some(shown) = &entry.seen.status
            && shown_at.is_none()
            && shown.instance() == entry.instance.as_ref().map(InstanceId::as_str)
            && shown.handover() == Some(Recorded::Draining(leg.instance.clone()))
        {
            *shown_at = Some(now);
        }
    }
}

/// Reasons of causes: told anew for another instance.
const CAUSES: [&str; 4] = ["SpotInterrupted", "ScheduledEvent", "SpotRebalanceRecommendation", "InstanceExpired"];

fn stage(handover: Option<&Handover>) -> Stage {
    match handover.map(|h| &h.at) {
        None => Stage::Idle,
        Some(At::Wanting { .. }) => Stage::Wanting,
        Some(At::Starting(_)) => Stage::Starting,
        Some(At::Draining { role, shown_at, stop, .. }) => {
            Stage::Draining { role: *role, shown_at: *shown_at, stop: *stop }
        }
    }
}

/// Every container that counts towards readiness is ready.
fn ready(report: &PodReport) -> bool {
    let mut counted = report.containers.iter().filter(|c| c.kind != ContainerKind::Init).peekable();
    counted.peek().is_some() && counted.all(|c| c.ready) && !report.terminated
}

fn reasons(against: &[Unmovable]) -> String {
    against.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What an intent asks beside its spec; for the command line, which refuses beforehand.
pub fn refusal(intent: &PodIntent) -> Option<String> {
    handover::movable(intent).err().map(|against| reasons(&against))
}
