//! The steps of a handover: each changes the entry and says what is to be told to whom.

use super::{At, CAUSES, EVICT_AGAIN, Evicted, Handover, Leg, RETOLD};
use crate::decide::handover::{self, Ask, Because, Cause, Failure, Leave, MOVE, Role};
use crate::decide::placement::Waiting;
use crate::decide::purchase;
use crate::decide::status::{INTERRUPTED, PodStatus, Reason, Recorded};
use crate::model::{Deletion, InstanceId, PodUid, Stop};
use crate::reconcile::world::{World, facts::Effect, placing};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

impl World {
    pub(super) fn want(&mut self, uid: &PodUid, leave: &Leave, now: Timestamp) -> bool {
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

    pub(super) fn want_again(&mut self, uid: &PodUid) {
        if let Some(handover) = self.pods.get_mut(uid).and_then(|entry| entry.handover.as_mut()) {
            handover.at = At::Wanting { why: "the second instance is gone".to_owned() };
            self.placement_dirty = true;
        }
    }

    /// Why no Pod may be moved to this class.
    pub(super) fn class_refused(&self, class: &str) -> Option<String> {
        let policy = &self.config.buying.policy;
        if !policy.classes.iter().any(|known| known.name == class) {
            return Some(format!("the cost policy has no class named {class:?}"));
        }
        let permitted = policy.overrides.move_to_class;
        (!permitted).then(|| "the cost policy does not permit another class (overrides.move-to-class)".to_owned())
    }

    /// Placement found an instance for a Pod that wants a second one. False: it wants none.
    pub(in crate::reconcile::world) fn bind_other(&mut self, uid: &PodUid, id: &InstanceId, now: Timestamp) -> bool {
        let Some(entry) = self.pods.get_mut(uid) else { return false };
        let Some(handover) = entry.handover.as_mut().filter(|h| h.demand().is_some()) else { return false };
        let Some(instance) = self.instances.get_mut(id) else { return false };
        handover.at = At::Starting(Leg::new(id.clone()));
        instance.pod = Some(uid.clone());
        let message = format!("The Pod starts on {} too", placing::described(&instance.record));
        self.tell(uid, false, "HandoverInstanceBound", &message, now);
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
        true
    }

    /// Why a second instance is not there yet. False: none is wanted.
    pub(in crate::reconcile::world) fn second_waits(&mut self, uid: &PodUid, why: &Waiting, now: Timestamp) -> bool {
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

    pub(super) fn start_other(&mut self, uid: &PodUid) {
        let recorded = self.pods.get(uid).is_some_and(|entry| {
            let leg = entry.handover.as_ref().and_then(Handover::leg);
            let shown = entry.seen.status.as_deref().and_then(PodStatus::handover);
            leg.is_some_and(|leg| shown == Some(Recorded::Starting(leg.instance.clone())))
        });
        if recorded {
            self.send_other(uid, None);
        }
    }

    pub(super) fn stop_other(&mut self, uid: &PodUid, deletion: Deletion) {
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

    pub(super) fn switch(&mut self, uid: &PodUid, because: Because, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(mut handover) = entry.handover.take() else { return };
        let (At::Starting(leg) | At::Draining { leg, .. }) = handover.at else { return };
        let new = leg.instance.clone();
        let old = entry.instance.replace(leg.instance);
        let report = std::mem::replace(&mut entry.report, leg.report);
        let generation = std::mem::replace(&mut entry.generation, leg.generation);
        let sent = std::mem::replace(&mut entry.sent, leg.sent);
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
            let leg = Leg { instance, report, generation, sent };
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

    pub(super) fn abandon(&mut self, uid: &PodUid, failure: Failure, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(handover) = entry.handover.as_mut() else { return };
        let at = std::mem::replace(&mut handover.at, At::Wanting { why: String::new() });
        if let At::Starting(leg) | At::Draining { leg, .. } = at {
            handover.at = At::Draining { leg, role: Role::Abandoned, shown_at: None, stop: None };
        }
        self.failed_because(uid, failure, now);
    }

    pub(super) fn failed_because(&mut self, uid: &PodUid, failure: Failure, now: Timestamp) {
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
    pub(super) fn conclude(&mut self, uid: &PodUid, failure: Option<Failure>, now: Timestamp) {
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

    pub(super) fn end_other(&mut self, uid: &PodUid, now: Timestamp) {
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
    pub(in crate::reconcile::world) fn drop_other(&mut self, uid: &PodUid) -> Option<InstanceId> {
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

    pub(super) fn refuse(&mut self, uid: &PodUid, leave: &Leave, why: &str, now: Timestamp) {
        let message = format!("{}: not moved: {why}", leave.message());
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if let Cause::Asked(ask) = &leave.cause {
            entry.moved = Some(ask.value.clone());
            entry.outcome = Some(Reason { reason: "NotMovable".to_owned(), message: why.to_owned() });
            entry.told.remove("HandoverNotPossible");
        }
        self.tell(uid, true, "HandoverNotPossible", &message, now);
    }

    pub(super) fn evict(&mut self, uid: &PodUid, grace_seconds: u64, force: bool, now: Timestamp) {
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

    pub(super) fn fail(&mut self, uid: &PodUid, leave: Option<&Leave>, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| entry.failed.is_none()) else { return };
        let why = leave.map(Leave::message).unwrap_or_default();
        let reason = Reason { reason: INTERRUPTED.to_owned(), message: format!("The Pod was stopped: {why}") };
        entry.failed = Some((reason.clone(), now));
        self.tell(uid, true, &reason.reason, &reason.message, now);
        self.dirty.insert(uid.clone());
    }
}
