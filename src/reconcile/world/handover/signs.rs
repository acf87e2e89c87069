//! Where handovers come from: what a cloud announces, to an agent or to us, and what a status records after a start.

use super::{At, Handover, Leg};
use crate::decide::handover::{MOVE, MOVED, Role};
use crate::decide::purchase::Quarantine;
use crate::decide::status::{HANDOVER, Reason, Recorded};
use crate::model::{InstanceId, Notice, PodUid};
use crate::reconcile::world::World;
use jiff::Timestamp;
use std::sync::Arc;

impl World {
    /// Finds the second instance of a Pod whose status records one.
    pub(in crate::reconcile::world) fn adopt_other(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.moved = match &entry.seen.status {
            Some(status) => status.annotations.get(MOVED).cloned(),
            // It was born with it: it is a template's, and nobody's wish.
            None => entry.seen.intent.annotations.get(MOVE).cloned(),
        };
        let Some(status) = &entry.status else { return };
        let interrupted = status.conditions.iter().any(|c| c.kind == HANDOVER && c.status);
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
    pub(in crate::reconcile::world) fn noticed(&mut self, id: &InstanceId, notices: Vec<Notice>, now: Timestamp) {
        let Some(entry) = self.instances.get_mut(id) else { return };
        let known: Vec<Notice> = entry.notices().cloned().collect();
        if entry.announcements.tell(notices) {
            self.heard(id, &known, now);
        }
    }

    /// What the cloud said of an instance elsewhere.
    pub(in crate::reconcile::world) fn announced(&mut self, id: &InstanceId, notice: Notice, now: Timestamp) {
        let Some(entry) = self.instances.get_mut(id) else { return };
        let known: Vec<Notice> = entry.notices().cloned().collect();
        if entry.announcements.queue(notice, entry.connected) {
            self.heard(id, &known, now);
        }
    }

    /// What counts is another than what was known.
    pub(in crate::reconcile::world) fn heard(&mut self, id: &InstanceId, known: &[Notice], now: Timestamp) {
        let Some(entry) = self.instances.get(id) else { return };
        self.dirty.extend(entry.pod.clone());
        self.placement_dirty = true;
        let replaces = self.replaces();
        let risky = |notice: &Notice| match notice {
            Notice::Interruption { .. } => true,
            Notice::Rebalance { .. } => replaces,
            Notice::Maintenance { .. } => false,
        };
        let news = |notice: &Notice| !known.iter().any(|known| known.same_kind(notice));
        if entry.notices().any(|notice| risky(notice) && news(notice)) {
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
