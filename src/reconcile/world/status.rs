//! What the world has written of Pods, and when.

use super::{HOLD_QUIET, HOLD_STOPPING, PodEntry, REASSERT, World, facts::Effect};
use crate::decide::status::{Facts, Phase, PodStatus, status};
use crate::model::{AgentEvent, ContainerKind, ContainerState, InstanceId, PodIntent, PodUid};
use crate::ports::PodEvent;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

impl World {
    /// Writes the Pod's status if it says anything new. `last`: the object goes, nothing can follow.
    pub(super) fn write_status(&mut self, uid: &PodUid, last: bool, now: Timestamp) {
        let Some(entry) = self.pods.get(uid) else { return };
        let backing = entry.instance.as_ref().and_then(|id| self.instances.get(id));
        let class = backing.map(|i| self.class_of(entry, &i.record)).unwrap_or_default();
        let (handover, doomed) = self.handover_notes(entry, now);
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let instance = entry.instance.as_ref().and_then(|id| self.instances.get(id));
        let silent = instance.is_some_and(|i| i.silent(now));
        let told_of =
            |status: &PodStatus| status.ran() && status.instance() == entry.instance.as_ref().map(InstanceId::as_str);
        let kept = instance.is_some_and(|i| i.gone.is_none()) && entry.status.as_deref().is_some_and(told_of);
        if !last && kept && !silent && entry.report.is_none() && entry.failed.is_none() {
            // After a start: the API server's word stands until the agent has spoken.
            return;
        }
        let facts = Facts {
            intent: &entry.seen.intent,
            instance: instance.map(|i| &i.record),
            class: &class,
            report: entry.report.as_deref(),
            waiting: entry.waiting.as_ref(),
            failed: entry.failed.as_ref().map(|(reason, _)| reason),
            previous: entry.status.as_deref(),
            gates: &entry.seen.gates,
            silent,
            ended: last,
            handover: handover.as_ref(),
            doomed: doomed.as_ref(),
            moved: entry.moved.as_deref(),
        };
        let next = status(&facts, now);
        let refused = next.reason.clone().filter(|_| entry.seen.intent.spec.is_err()).zip(next.message.clone());
        let differs = entry.status.as_deref() != Some(&next);
        let overwritten = entry.seen.status.as_ref().is_none_or(|api| !next.agrees_with(api));
        if differs {
            if !last && let Some(hold) = hold(&next, entry) {
                let since = *entry.held_since.get_or_insert(now);
                let due = since.saturating_add(hold).unwrap_or(Timestamp::MAX);
                if now < due {
                    if due < Timestamp::MAX {
                        self.wakes.insert((due, uid.clone()));
                    }
                    return;
                }
            }
        } else if !overwritten {
            entry.held_since = None;
            return;
        } else {
            // Written before, but the API server shows something else: perhaps the write is still on its way.
            let due = entry.written_at.unwrap_or(self.started_at).saturating_add(REASSERT).unwrap_or(now);
            if now < due {
                self.wakes.insert((due, uid.clone()));
                return;
            }
        }
        let before = entry.status.as_ref().map(|s| s.phase);
        if next.phase == Phase::Running && before.is_none_or(|phase| phase == Phase::Pending) {
            self.effects.push(Effect::Started(now.duration_since(entry.seen.intent.created_at)));
        }
        let terminal = next.phase.is_terminal();
        entry.held_since = None;
        entry.written_at = Some(now);
        let next = Arc::new(next);
        entry.status = Some(Arc::clone(&next));
        let intent = &entry.seen.intent;
        self.effects.push(Effect::Status {
            node: intent.node.clone(),
            name: intent.name.clone(),
            uid: uid.clone(),
            status: next,
        });
        if terminal {
            // Nothing of it is started any more: what it refers to need not be watched.
            self.effects.push(Effect::Forget(uid.clone()));
        }
        if let Some((reason, message)) = refused {
            self.tell(uid, true, &reason, &message, now);
        }
    }

    /// An event of ours on a Pod; each reason is told once.
    pub(super) fn tell(&mut self, uid: &PodUid, warning: bool, reason: &str, message: &str, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if !entry.told.insert(reason.to_owned()) {
            return;
        }
        let intent = &entry.seen.intent;
        let event = PodEvent {
            node: intent.node.clone(),
            pod: intent.name.clone(),
            uid: uid.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            field_path: None,
        };
        self.effects.push(Effect::Event(event, now));
    }
}

/// How long a status may wait for a better one. None: it is news.
fn hold(next: &PodStatus, entry: &PodEntry) -> Option<SignedDuration> {
    let before = entry.status.as_deref();
    // Which instances run it must be known before anything follows from it.
    let elsewhere = before.is_some_and(|before| {
        before.handover() != next.handover() || before.instance().is_some_and(|id| next.instance() != Some(id))
    });
    if elsewhere {
        return None;
    }
    let pending = only_waits(next) && before.is_none_or(only_waits);
    // The end of a Pod comes in pieces: containers, sandbox, and then for good.
    let stopping = entry.seen.intent.deletion.is_some()
        && before.is_some()
        && !entry.gone
        && !entry.report.as_ref().is_some_and(|report| report.terminated);
    // Only metadata.generation moved on: nothing about the Pod itself is new. Where it did because of the
    // deletion, the last status will say it.
    let renumbered = before
        .is_some_and(|before| *next == PodStatus { observed_generation: next.observed_generation, ..before.clone() });
    match (stopping, renumbered) {
        (true, true) => Some(SignedDuration::MAX),
        (true, false) => Some(HOLD_STOPPING),
        (false, _) => (pending || renumbered).then_some(HOLD_QUIET),
    }
}

/// Says nothing but that the Pod is on its way.
fn only_waits(status: &PodStatus) -> bool {
    status.phase == Phase::Pending
        && status.reason.is_none()
        && status.init_containers.iter().chain(&status.containers).all(|c| match &c.state {
            ContainerState::Waiting { reason, .. } => reason == "ContainerCreating" || reason == "PodInitializing",
            _ => false,
        })
}

pub(super) fn agent_event(intent: &PodIntent, event: AgentEvent) -> PodEvent {
    let field_path = event.container.map(|(kind, name)| match kind {
        ContainerKind::App => format!("spec.containers{{{name}}}"),
        ContainerKind::Init | ContainerKind::Sidecar => format!("spec.initContainers{{{name}}}"),
    });
    PodEvent {
        node: intent.node.clone(),
        pod: intent.name.clone(),
        uid: event.uid,
        warning: event.warning,
        reason: event.reason,
        message: event.message,
        field_path,
    }
}
