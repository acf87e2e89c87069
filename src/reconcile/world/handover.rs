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

use super::{PodEntry, World, facts::Effect};
use crate::decide::handover::{
    self, Ask, Because, Cause, Failure, Leave, MOVE, MOVED, Manner, Other, PodFacts, Role, Signals, Stage, Step,
    Unmovable, causes::RESERVE,
};
use crate::decide::placement::Waiting;
use crate::decide::purchase::{self, Quarantine, policy::OnRebalance};
use crate::decide::status::{HandoverNote, INTERRUPTED, PodStatus, Reason, Recorded};
use crate::model::{
    ContainerKind, Deletion, DesiredPod, Generation, InstanceId, Notice, PodIntent, PodReport, PodUid, Stop,
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
    pub desired: Option<Arc<DesiredPod>>,
}

impl Leg {
    fn new(instance: InstanceId) -> Self {
        Self { instance, report: None, generation: Generation(0), desired: None }
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
        let signals = Signals {
            notices: &own.notices,
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
            backed: own.is_some_and(|own| own.gone.is_none() && !own.ending),
            grace_seconds: spec.map_or(0, |spec| spec.termination_grace_seconds),
            controlled: entry.seen.intent.owner.is_some(),
        }
    }

    fn other(&self, uid: &PodUid, leg: &Leg) -> Other {
        let instance = self.instances.get(&leg.instance);
        let told = |i: &super::InstanceEntry| {
            // Before its agent was heard, a predecessor may have told it.
            leg.desired.is_some() || !i.ever_connected || i.holds.as_ref().is_some_and(|(held, _)| held == uid)
        };
        let ends_at = instance.and_then(|i| {
            let interruptions = i.notices.iter().filter_map(|notice| match notice {
                Notice::Interruption { at } => Some(*at),
                _ => None,
            });
            interruptions.min()
        });
        Other {
            alive: instance.is_some_and(|i| i.gone.is_none() && !i.ending),
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

    fn want(&mut self, uid: &PodUid, leave: &Leave, now: Timestamp) -> bool {
        let Some(entry) = self.pods.get(uid) else { return false };
        // A class that was asked for once stays: also what is replaced later is of it.
        let asked = entry.seen.intent.annotations.get(MOVE).map(|value| Ask::new(value));
        let class = asked.as_ref().and_then(|ask| ask.class.clone());
        if let Some(why) = class.as_deref().and_then(|class| self.class_refused(class))
            && let Cause::Asked(_) = leave.cause
        {
            self.refuse(uid, leave, &why, now);
            return false;
        }
        let class = class.filter(|class| self.class_refused(class).is_none());
        let wants = Arc::new(purchase::Demand { class, ..(*entry.wants).clone() });
        let began = Handover {
            since: now,
            cause: leave.cause.label(),
            asked: asked.map(|ask| ask.value),
            wants,
            at: At::Wanting { why: leave.message() },
        };
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.handover = Some(began);
            entry.outcome = None;
            entry.rest_until = None;
            entry.told.retain(|reason| !RETOLD.contains(&reason.as_str()));
        }
        self.tell(uid, false, "HandoverStarted", &format!("A second instance is wanted: {}", leave.message()), now);
        self.placement_dirty = true;
        true
    }

    fn want_again(&mut self, uid: &PodUid) {
        if let Some(handover) = self.pods.get_mut(uid).and_then(|entry| entry.handover.as_mut()) {
            handover.at = At::Wanting { why: "the second instance is gone".to_owned() };
            self.placement_dirty = true;
        }
    }

    /// Why no Pod may be moved to this class.
    fn class_refused(&self, class: &str) -> Option<String> {
        let policy = &self.config.buying.policy;
        if !policy.classes.iter().any(|known| known.name == class) {
            return Some(format!("the cost policy has no class named {class:?}"));
        }
        let permitted = policy.overrides.move_to_class;
        (!permitted).then(|| "the cost policy does not permit another class (overrides.move-to-class)".to_owned())
    }

    /// Placement found an instance for a Pod that wants a second one. False: it wants none.
    pub(super) fn bind_other(&mut self, uid: &PodUid, id: &InstanceId, now: Timestamp) -> bool {
        let Some(entry) = self.pods.get_mut(uid) else { return false };
        let Some(handover) = entry.handover.as_mut().filter(|h| h.demand().is_some()) else { return false };
        let Some(instance) = self.instances.get_mut(id) else { return false };
        handover.at = At::Starting(Leg::new(id.clone()));
        instance.pod = Some(uid.clone());
        let message = format!("The Pod starts on {} too", super::placing::described(&instance.record));
        self.tell(uid, false, "HandoverInstanceBound", &message, now);
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
        true
    }

    /// Why a second instance is not there yet. False: none is wanted.
    pub(super) fn second_waits(&mut self, uid: &PodUid, why: &Waiting, now: Timestamp) -> bool {
        let Some(Handover { at: At::Wanting { why: said }, .. }) =
            self.pods.get_mut(uid).and_then(|entry| entry.handover.as_mut())
        else {
            return false;
        };
        if *said != why.message() {
            *said = why.message();
            self.dirty.insert(uid.clone());
        }
        let launching = matches!(why, Waiting::Launching { .. });
        self.tell(uid, !launching, why.reason(), &why.message(), now);
        true
    }

    fn start_other(&mut self, uid: &PodUid) {
        let recorded = self.pods.get(uid).is_some_and(|entry| {
            let leg = entry.handover.as_ref().and_then(Handover::leg);
            let shown = entry.seen.status.as_ref().and_then(PodStatus::handover);
            leg.is_some_and(|leg| shown == Some(Recorded::Starting(leg.instance.clone())))
        });
        if recorded {
            self.send_other(uid, None);
        }
    }

    fn stop_other(&mut self, uid: &PodUid, deletion: Deletion) {
        if let Some(Handover { at: At::Draining { stop, .. }, .. }) =
            self.pods.get_mut(uid).and_then(|entry| entry.handover.as_mut())
        {
            let first = stop.replace(deletion).is_none();
            if first {
                let patience = handover::MARGIN.saturating_add(crate::decide::lifecycle::STUCK_AGENT);
                let due = deletion.deadline.saturating_add(patience).unwrap_or(Timestamp::MAX);
                self.wakes.insert((due, uid.clone()));
            }
        }
        self.send_other(uid, Some(Stop { deletion, reason: "handover".to_owned() }));
    }

    fn switch(&mut self, uid: &PodUid, because: Because, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(mut handover) = entry.handover.take() else { return };
        let (At::Starting(leg) | At::Draining { leg, .. }) = handover.at else { return };
        let new = leg.instance.clone();
        let old = entry.instance.replace(leg.instance);
        let report = std::mem::replace(&mut entry.report, leg.report);
        let generation = std::mem::replace(&mut entry.generation, leg.generation);
        let desired = std::mem::replace(&mut entry.desired, leg.desired);
        if let Some(asked) = handover.asked.take() {
            entry.moved = Some(asked);
        }
        let cause = handover.cause;
        let took = now.duration_since(handover.since);
        entry.evicted = None;
        entry.told.retain(|reason| !RETOLD.contains(&reason.as_str()) && !CAUSES.contains(&reason.as_str()));
        entry.told.remove("HandoverSwitched");
        entry.told.remove("HandoverCompleted");
        let old_name = old.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(instance) = old {
            let leg = Leg { instance, report, generation, desired };
            handover.at = At::Draining { leg, role: Role::Old, shown_at: None, stop: None };
            entry.handover = Some(handover);
        }
        let why = match because {
            Because::Ready => "it is ready there",
            Because::Lost => "what served it is gone",
            Because::OutOfTime => "no time is left to wait until it is ready there",
        };
        let message = format!("The Pod's instance is now {new}, {why}; {old_name} drains");
        self.tell(uid, because != Because::Ready, "HandoverSwitched", &message, now);
        let outcome = match because {
            Because::Ready => "ready",
            Because::Lost => "lost",
            Because::OutOfTime => "out-of-time",
        };
        self.effects.push(Effect::HandedOver { cause, outcome, took });
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
        self.list(uid);
    }

    fn abandon(&mut self, uid: &PodUid, failure: Failure, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(handover) = entry.handover.as_mut() else { return };
        let at = std::mem::replace(&mut handover.at, At::Wanting { why: String::new() });
        if let At::Starting(leg) | At::Draining { leg, .. } = at {
            handover.at = At::Draining { leg, role: Role::Abandoned, shown_at: None, stop: None };
        }
        self.failed_because(uid, failure, now);
    }

    fn failed_because(&mut self, uid: &PodUid, failure: Failure, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.rest_until = Some(now.saturating_add(handover::REST).unwrap_or(Timestamp::MAX));
        let message = failure.message();
        entry.outcome = Some(Reason { reason: "Failed".to_owned(), message: message.to_owned() });
        let under_way = entry.handover.as_mut();
        let cause = under_way.as_ref().map_or("", |h| h.cause);
        let took = under_way.as_ref().map_or(SignedDuration::ZERO, |h| now.duration_since(h.since));
        if let Some(asked) = under_way.and_then(|h| h.asked.take()) {
            entry.moved = Some(asked);
        }
        self.effects.push(Effect::HandedOver { cause, outcome: "failed", took });
        self.tell(uid, true, "HandoverFailed", message, now);
    }

    /// Nothing more is wanted; there is no second instance.
    fn conclude(&mut self, uid: &PodUid, failure: Option<Failure>, now: Timestamp) {
        if let Some(failure) = failure {
            self.failed_because(uid, failure, now);
        }
        self.drop_other(uid);
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.handover = None;
            let over = || Reason { reason: "Cancelled".to_owned(), message: "its cause is gone".to_owned() };
            entry.outcome.get_or_insert_with(over);
        }
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
    }

    fn end_other(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(handover) = entry.handover.take() else { return };
        let own = entry.instance.as_ref().map(ToString::to_string).unwrap_or_default();
        let old = matches!(handover.at, At::Draining { role: Role::Old, .. });
        let other = handover.leg().map(|leg| leg.instance.clone());
        entry.handover = Some(handover);
        let ended = self.drop_other(uid);
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.handover = None;
            if old {
                let message = format!("moved to {own}");
                entry.outcome = Some(Reason { reason: "Completed".to_owned(), message });
            }
        }
        if old && let Some(other) = other {
            self.tell(uid, false, "HandoverCompleted", &format!("{other} has drained and goes; {own} serves"), now);
        }
        if let Some(id) = ended {
            self.end(&[id]);
        }
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
    }

    /// Lets go of the second instance; its id, if there was one.
    pub(super) fn drop_other(&mut self, uid: &PodUid) -> Option<InstanceId> {
        let entry = self.pods.get_mut(uid)?;
        let handover = entry.handover.as_mut()?;
        let id = handover.leg()?.instance.clone();
        handover.at = At::Wanting { why: String::new() };
        self.expected.remove(&id);
        if let Some(instance) = self.instances.get_mut(&id).filter(|i| i.pod.as_ref() == Some(uid)) {
            instance.pod = None;
        }
        self.placement_dirty = true;
        Some(id)
    }

    fn refuse(&mut self, uid: &PodUid, leave: &Leave, why: &str, now: Timestamp) {
        let message = format!("{}: not moved: {why}", leave.message());
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if let Cause::Asked(ask) = &leave.cause {
            entry.moved = Some(ask.value.clone());
            entry.outcome = Some(Reason { reason: "NotMovable".to_owned(), message: why.to_owned() });
            entry.told.remove("HandoverNotPossible");
        }
        self.tell(uid, true, "HandoverNotPossible", &message, now);
    }

    fn evict(&mut self, uid: &PodUid, grace_seconds: u64, force: bool, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let again = |evicted: Evicted| evicted.last.saturating_add(EVICT_AGAIN).unwrap_or(Timestamp::MAX);
        let waits = |evicted: &Evicted| now < again(*evicted) && (evicted.force || !force);
        if let Some(evicted) = entry.evicted.filter(waits) {
            self.wakes.insert((again(evicted), uid.clone()));
            return;
        }
        let since = entry.evicted.map_or(now, |evicted| evicted.since);
        entry.evicted = Some(Evicted { since, last: now, force });
        let intent = Arc::clone(&entry.seen.intent);
        self.wakes.insert((now.saturating_add(EVICT_AGAIN).unwrap_or(Timestamp::MAX), uid.clone()));
        self.effects.push(Effect::Evict {
            node: intent.node.clone(),
            name: intent.name.clone(),
            uid: uid.clone(),
            grace_seconds,
            force,
        });
        let message = "The Pod is evicted, so that another is made elsewhere: its instance goes and it can't be moved";
        self.tell(uid, true, "TerminatingOnInterruption", message, now);
    }

    fn fail(&mut self, uid: &PodUid, leave: Option<&Leave>, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| entry.failed.is_none()) else { return };
        let why = leave.map(Leave::message).unwrap_or_default();
        let reason = Reason { reason: INTERRUPTED.to_owned(), message: format!("The Pod was stopped: {why}") };
        entry.failed = Some((reason.clone(), now));
        self.tell(uid, true, &reason.reason, &reason.message, now);
        self.dirty.insert(uid.clone());
    }

    /// Finds the second instance of a Pod whose status records one.
    pub(super) fn adopt_other(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.moved = match &entry.seen.status {
            Some(status) => status.annotations.get(MOVED).cloned(),
            // It was born with it: it is a template's, and nobody's wish.
            None => entry.seen.intent.annotations.get(MOVE).cloned(),
        };
        let Some(status) = &entry.status else { return };
        let interrupted = status.conditions.iter().any(|c| c.kind == crate::decide::status::HANDOVER && c.status);
        if interrupted {
            entry.outcome = Some(Reason { reason: "Cancelled".to_owned(), message: "its cause is gone".to_owned() });
        }
        let Some(recorded) = status.handover() else { return };
        let (Recorded::Starting(id) | Recorded::Draining(id)) = &recorded;
        let id = id.clone();
        let other = self.instances.get(&id).and_then(|i| i.pod.as_ref()).or_else(|| self.expected.get(&id));
        if entry.instance.is_none() || entry.instance.as_ref() == Some(&id) || other.is_some_and(|other| other != uid) {
            return;
        }
        let mut leg = Leg::new(id.clone());
        if let Some((held, generation)) = self.instances.get(&id).and_then(|i| i.holds.clone())
            && held == *uid
        {
            leg.generation = generation;
        }
        let at = match recorded {
            Recorded::Starting(_) => At::Starting(leg),
            Recorded::Draining(_) => At::Draining { leg, role: Role::Old, shown_at: None, stop: None },
        };
        let asked = entry.asked().map(|ask| ask.value).filter(|_| matches!(at, At::Starting(_)));
        entry.handover = Some(Handover { since: now, cause: "restart", asked, wants: Arc::clone(&entry.wants), at });
        match self.instances.get_mut(&id) {
            Some(instance) => instance.pod = Some(uid.clone()),
            None => drop(self.expected.insert(id, uid.clone())),
        }
        self.placement_dirty = true;
    }

    /// What an agent says that its instance was told.
    pub(super) fn noticed(&mut self, id: &InstanceId, notices: Vec<Notice>, now: Timestamp) {
        let Some(entry) = self.instances.get_mut(id) else { return };
        if entry.notices == notices {
            return;
        }
        let known = std::mem::replace(&mut entry.notices, notices);
        self.dirty.extend(entry.pod.clone());
        self.placement_dirty = true;
        let replaces = self.config.buying.policy.interruption.rebalance == OnRebalance::Replace;
        let risky = |notice: &Notice| match notice {
            Notice::Interruption { .. } => true,
            Notice::Rebalance { .. } => replaces,
            Notice::Maintenance { .. } => false,
        };
        if entry.notices.iter().any(|notice| risky(notice) && !known.contains(notice)) {
            // The cloud is short of these: the next one would be taken too.
            let record = &entry.record;
            let until = now.saturating_add(self.config.buying.policy.ice.quarantine).unwrap_or(Timestamp::MAX);
            let pool = Quarantine {
                option: Some(record.purchase),
                instance_type: Some(record.instance_type.clone()),
                zone: Some(record.zone.clone()),
                until,
            };
            self.quarantine_pool(pool, now);
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
