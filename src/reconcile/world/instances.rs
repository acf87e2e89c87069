//! The world's instances, and which Pod each is bound to.
//!
//! Both directions of a binding are changed by `bind` and `unbind` alone. Who is believed, in this order:
//!
//! 1. The Pod's own status (condition InstanceReady names the instance): only a node can write it. The
//!    annotation of the same content is for people; anybody may write that, so it proves nothing.
//! 2. An agent that says it holds a Pod: only where the Pod has no living instance, the instance no other
//!    Pod, and the binding can be from before this start. So a crash between a binding and its record is
//!    healed, and an instance that fell into wrong hands can't ask for another Pod's secrets.

use super::{
    ABSENT, Announcements, COOLING, END_AGAIN, Ending, InstanceEntry, REFUSED_DOUBLINGS, World,
    facts::{Effect, EndAnswer},
};
use crate::decide::purchase::Quarantine;
use crate::model::{Generation, InstanceId, InstanceRecord, InstanceState, PodUid, Shortage};
use jiff::Timestamp;
use std::collections::BTreeSet;

impl World {
    /// Finds the instance that a Pod already has.
    pub(super) fn adopt(&mut self, uid: &PodUid, now: Timestamp) {
        let recorded = self.pods.get(uid).and_then(|pod| pod.status.as_ref()?.instance()).map(InstanceId::new);
        let taken = |id: &InstanceId| {
            let other = self.instances.get(id).and_then(|i| i.pod.as_ref()).or_else(|| self.expected.get(id));
            other.is_some_and(|other| other != uid)
        };
        match recorded {
            Some(id) if !taken(&id) => self.bind(uid, &id),
            // Who holds it is asked when it needs an instance: then all Pods are known.
            _ => {}
        }
        self.adopt_other(uid, now);
    }

    /// Binds the Pod to an instance whose agent credibly says that it holds it.
    pub(super) fn bind_holder(&mut self, uid: &PodUid) -> bool {
        if !self.ready() {
            return false;
        }
        let Some(id) = self.holders.get(uid).cloned() else { return false };
        let credible = self.pods.get(uid).is_some_and(|pod| pod.seen.intent.created_at <= self.started_at);
        let free = self.instances.get(&id).is_some_and(InstanceEntry::usable) && !self.expected.contains_key(&id);
        if credible && free {
            self.bind(uid, &id);
        }
        credible && free
    }

    pub(super) fn bind(&mut self, uid: &PodUid, id: &InstanceId) {
        self.unbind(uid);
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.instance = Some(id.clone());
        pod.wants_instance = None;
        pod.waiting = None;
        pod.sent = None;
        match self.instances.get_mut(id) {
            Some(instance) => {
                if let Some((held, generation)) = &instance.holds
                    && held == uid
                {
                    pod.generation = pod.generation.max(*generation);
                }
                instance.pod = Some(uid.clone());
            }
            None => drop(self.expected.insert(id.clone(), uid.clone())),
        }
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
        self.list(uid);
    }

    pub(super) fn unbind(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if let Some(id) = pod.instance.take() {
            self.expected.remove(&id);
            if let Some(instance) = self.instances.get_mut(&id)
                && instance.pod.as_ref() == Some(uid)
            {
                instance.pod = None;
            }
        }
        pod.report = None;
        pod.sent = None;
        self.placement_dirty = true;
    }

    fn add_instance(&mut self, record: InstanceRecord, order: u64, now: Timestamp) {
        let id = record.id.clone();
        let pod = self.expected.remove(&id);
        self.dirty.extend(pod.clone());
        self.instances.entry(id).or_insert_with(|| InstanceEntry {
            record,
            pod,
            connected: false,
            ever_connected: false,
            silent_since: Some(now),
            known_since_round: self.round,
            order,
            absent: 0,
            ending: None,
            holds: None,
            gone: None,
            announcements: Announcements::default(),
        });
        self.placement_dirty = true;
    }

    /// Nothing is asked for here: only a description tells what still lives.
    pub(super) fn ended(&mut self, ids: &[InstanceId], answer: EndAnswer) {
        for id in ids {
            let Some(ending) = self.instances.get_mut(id).and_then(|entry| entry.ending.as_mut()) else { continue };
            let Ending::Asked { refused } = *ending else { continue };
            let (rounds, refused) = match answer {
                EndAnswer::Taken => (END_AGAIN, 0),
                EndAnswer::Failed => (1, refused),
                EndAnswer::Refused => (END_AGAIN << refused.min(REFUSED_DOUBLINGS), refused.saturating_add(1)),
            };
            *ending = Ending::Heard { again: self.round + rounds, refused };
        }
    }

    pub(super) fn described(&mut self, round: u64, records: Vec<InstanceRecord>, now: Timestamp) {
        let mut absent: BTreeSet<InstanceId> = self.instances.keys().cloned().collect();
        let (mut gone, mut unended) = (Vec::new(), Vec::new());
        for record in records {
            absent.remove(&record.id);
            let over = matches!(record.state, InstanceState::Terminated | InstanceState::ShuttingDown);
            let why = || record.state_reason.clone().unwrap_or_else(|| "the cloud ended it".to_owned());
            match self.instances.get_mut(&record.id) {
                None if record.state == InstanceState::Terminated => {}
                None => {
                    let (id, why, ours) = (record.id.clone(), over.then(why), record.launched_at > self.started_at);
                    self.add_instance(record, self.orders, now);
                    match (why, self.instances.get_mut(&id)) {
                        // Whoever ended it did so before our time: it has not failed.
                        (Some(why), Some(entry)) if !ours => entry.gone = Some(format!("instance {id}: {why}")),
                        (Some(why), _) => gone.push((id, why)),
                        (None, _) => {}
                    }
                }
                Some(entry) => {
                    entry.absent = 0;
                    if over && entry.gone.is_none() {
                        gone.push((record.id.clone(), why()));
                    }
                    // The cloud may have said that it does not know one that it listed a moment before. And one that was
                    // gone may live again: somebody started it, or descriptions missed it. Its Pod is lost to it.
                    let refused = match entry.ending {
                        Some(Ending::Heard { again, refused }) if round >= again => Some(refused),
                        None if entry.gone.is_some() => Some(0),
                        _ => None,
                    };
                    if let Some(refused) = refused.filter(|_| !over) {
                        entry.ending = Some(Ending::Asked { refused });
                        unended.push(record.id.clone());
                    }
                    if entry.record != record {
                        self.dirty.extend(entry.pod.clone());
                        self.placement_dirty = true;
                        entry.record = record;
                    }
                }
            }
        }
        if !unended.is_empty() {
            self.effects.push(Effect::Terminate(unended));
        }
        for id in absent {
            let Some(entry) = self.instances.get_mut(&id) else { continue };
            if entry.known_since_round >= round {
                continue;
            }
            entry.absent = entry.absent.saturating_add(1);
            if entry.absent >= ABSENT && entry.gone.is_none() {
                gone.push((id, "it does not exist any more".to_owned()));
            }
        }
        for (id, why) in gone {
            self.went(&id, &why, now);
        }
        if !self.described {
            self.described = true;
            self.dirty.extend(self.pods.keys().cloned());
        }
        self.take_early(now);
        self.early.described(round);
        self.prune(now);
    }

    /// What was said of instances before they were known counts from now on.
    fn take_early(&mut self, now: Timestamp) {
        for (id, said) in self.early.take(|id| self.instances.contains_key(id)) {
            if let Some(holds) = said.connected {
                self.connected(id.clone(), holds);
            }
            let news = !said.announcements.is_empty();
            if let Some(entry) = self.instances.get_mut(&id) {
                entry.announcements = said.announcements;
            }
            if news {
                self.heard(&id, &[], now);
            }
        }
    }

    /// Ends instances that did not come up in time, never registered, or fell silent.
    fn prune(&mut self, now: Timestamp) {
        // Before all Pods are known, one that a Pod has may look as if it had none.
        if !self.ready() {
            return self.forget_gone();
        }
        let ttl = self.config.buying.policy.ttl;
        // One that a Pod is bound to did register, with an earlier provider.
        let late = |entry: &InstanceEntry| {
            let since = entry.record.launched_at.max(self.started_at);
            let patience = match entry.record.state {
                InstanceState::Pending => ttl.launch.min(ttl.register),
                InstanceState::Running | InstanceState::ShuttingDown | InstanceState::Terminated => ttl.register,
            };
            entry.usable() && !entry.ever_connected && now.duration_since(since) > patience
        };
        let silent = |entry: &InstanceEntry| {
            let since = entry.silent_since.filter(|_| entry.usable() && entry.ever_connected);
            since.is_some_and(|since| now.duration_since(since) > ttl.register)
        };
        let which = |given_up: &dyn Fn(&InstanceEntry) -> bool| -> Vec<InstanceId> {
            self.instances.iter().filter(|(_, entry)| given_up(entry)).map(|(id, _)| id.clone()).collect()
        };
        let (late, silent) = (which(&late), which(&silent));
        for id in &late {
            self.was_late(id, now);
        }
        self.effects.extend(silent.iter().cloned().map(Effect::FellSilent));
        self.placement_dirty |= self.end(&late) | self.end(&silent);
        self.forget_gone();
    }

    /// Forgets those that are gone and that nobody asks about.
    fn forget_gone(&mut self) {
        let over = |entry: &InstanceEntry| {
            entry.pod.is_none()
                && entry.gone.is_some()
                && (entry.absent >= ABSENT || entry.record.state == InstanceState::Terminated)
        };
        let forgotten: Vec<InstanceId> =
            self.instances.iter().filter(|(_, entry)| over(entry)).map(|(id, _)| id.clone()).collect();
        for id in forgotten {
            if let Some((uid, _)) = self.instances.remove(&id).and_then(|entry| entry.holds)
                && self.holders.get(&uid) == Some(&id)
            {
                self.holders.remove(&uid);
            }
            self.effects.push(Effect::ForgetAgent(id));
        }
    }

    pub(super) fn launched(
        &mut self,
        order: u64,
        records: Vec<InstanceRecord>,
        shortages: Vec<Shortage>,
        failure: Option<String>,
        now: Timestamp,
    ) {
        let number = order;
        let order = self.launching.remove(&number);
        let got = records.len();
        for record in records {
            self.add_instance(record, number, now);
        }
        self.take_early(now);
        let short = shortages.first().map(|shortage| format!("{}: {}", shortage.code, shortage.message));
        for shortage in shortages {
            self.quarantine(shortage, now);
        }
        if let Some(order) = order {
            let place = (order.class, order.zone);
            if failure.is_some() {
                self.cooling.insert(place.clone(), now.saturating_add(COOLING).unwrap_or(Timestamp::MAX));
            } else {
                self.cooling.remove(&place);
            }
            match failure.or(short.filter(|_| got < order.count as usize)) {
                Some(why) => drop(self.refusals.insert(place, why)),
                None => drop(self.refusals.remove(&place)),
            }
        }
        self.placement_dirty = true;
    }

    /// What was short is left alone for a while.
    fn quarantine(&mut self, shortage: Shortage, now: Timestamp) {
        let Shortage { purchase, instance_type, zone, code: _, message: _ } = shortage;
        let until = now.saturating_add(self.config.buying.policy.ice.quarantine).unwrap_or(Timestamp::MAX);
        self.quarantine_pool(Quarantine { option: purchase, instance_type, zone, until }, now);
    }

    pub(super) fn quarantine_pool(&mut self, entry: Quarantine, now: Timestamp) {
        let until = entry.until;
        let same = |q: &Quarantine| Quarantine { until, ..q.clone() } == entry;
        self.market.quarantine.retain(|q| q.until > now && !same(q));
        self.market.quarantine.push(entry);
    }

    pub(super) fn connected(&mut self, id: InstanceId, claimed: Option<(PodUid, Generation)>) {
        // One that is on its way out came too late to prove anything.
        let first = |entry: &InstanceEntry| !entry.ever_connected && entry.ending.is_none() && entry.gone.is_none();
        if self.instances.get(&id).is_some_and(first) {
            self.registered(&id);
        }
        let Some(entry) = self.instances.get_mut(&id) else { return };
        entry.connected = true;
        entry.ever_connected = true;
        entry.silent_since = None;
        self.placement_dirty = true;
        let bound = entry.pod.clone();
        self.dirty.extend(bound.clone());
        if let Some(claimed) = &claimed {
            entry.holds = Some(claimed.clone());
        }
        // One that holds another Pod can't take this one up.
        if let Some(bound) = bound
            && claimed.as_ref().is_none_or(|(uid, _)| *uid == bound)
            && let Some(pod) = self.pods.get_mut(&bound)
        {
            pod.heard_from(&id, claimed.as_ref().map(|(_, generation)| *generation));
        }
        let Some((uid, _)) = claimed else { return };
        let other = self.holders.get(&uid).filter(|other| **other != id).and_then(|other| self.instances.get(other));
        if other.is_none_or(|other| other.gone.is_some()) {
            self.holders.insert(uid.clone(), id.clone());
        }
        // One that belongs to another instance: this one is a stray.
        if self.pods.get_mut(&uid).is_some_and(|pod| pod.instance.is_none() && pod.leg_of(&id).is_none()) {
            self.bind_holder(&uid);
        }
    }

    pub(super) fn disconnected(&mut self, id: &InstanceId, now: Timestamp) {
        self.early.disconnected(id);
        let Some(entry) = self.instances.get_mut(id) else { return };
        entry.connected = false;
        entry.silent_since = Some(now);
        self.dirty.extend(entry.pod.clone());
        self.placement_dirty = true;
    }
}
