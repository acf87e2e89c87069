//! The world's questions to `decide::placement`, and what it does with the answers.

use super::{ADOPTION, InstanceEntry, PodEntry, SILENT, World, facts::Effect};
use crate::decide::desired::pod_size;
use crate::decide::placement::{self, Demand, Held, Rules, STANDBY, Supply, Waiting};
use crate::decide::purchase::{
    self,
    policy::{Architecture, OnRebalance},
};
use crate::decide::status::Reason;
use crate::model::{InstanceId, InstanceRecord, NodeName, Notice, Offer, PodIntent, PodUid, tag};
use jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeMap, sync::Arc};

/// The reason of a Pod for which nothing that it may have can be had now.
const SHORT: &str = "InsufficientInstanceCapacity";
/// The reason of one whose instance never registered, while another is launched.
const LAUNCH_FAILED: &str = "LaunchFailed";

impl World {
    pub(super) fn place(&mut self, now: Timestamp) {
        let adopting = now < self.started_at.saturating_add(ADOPTION).unwrap_or(Timestamp::MIN);
        let failing = self.failing(now);
        let (demands, supplies, held) = self.placement_input(now);
        let rules = Rules {
            policy: &self.config.buying.policy,
            market: &self.market,
            cooling: self.cooling.clone(),
            failing,
            room: self.room(),
            window: self.config.batch_window,
        };
        let plan = placement::plan(&demands, &supplies, &held, &rules, now);
        self.placement_wake = plan.wake_at.into_iter().chain(self.falls_silent(now)).min();
        // Before a Pod gets an instance, everyone who may already hold it must have spoken.
        let bind = if adopting && self.awaits_agents() { Vec::new() } else { plan.bind };
        for (uid, id) in bind {
            if self.bind_other(&uid, &id, now) {
                continue;
            }
            self.bind(&uid, &id);
            if let Some(record) = self.instances.get(&id).map(|i| &i.record) {
                let message = format!("Backed by {}", described(record));
                self.tell(&uid, false, "InstanceBound", &message, now);
                if let Some(pod) = self.pods.get(&uid) {
                    self.effects.push(Effect::Bound(now.duration_since(pod.seen.intent.created_at)));
                }
            }
        }
        for order in plan.launch {
            self.orders += 1;
            self.launching.insert(self.orders, order.clone());
            self.effects.push(Effect::Launch(self.orders, order));
        }
        // Once, and again when it is another reason: prices and counts come and go with the Pods.
        for (pool, why) in plan.forbidden {
            if self.forbidden.insert(pool.clone(), why.of_any_price()) != Some(why.of_any_price()) {
                let said = why.message(&self.config.buying.policy.limits);
                self.effects.push(Effect::StandbyForbidden(pool, said));
            }
        }
        for (uid, why) in plan.waiting {
            if self.second_waits(&uid, &why, now) {
                continue;
            }
            self.tell_waiting(&uid, &why, now);
        }
        if adopting {
            // Agents may still come back and say what they hold.
            let later = self.started_at.saturating_add(ADOPTION).unwrap_or(now);
            if !plan.release.is_empty() || self.strays().next().is_some() || self.awaits_agents() {
                self.placement_wake = Some(self.placement_wake.map_or(later, |at| at.min(later)));
            }
        } else {
            let strays: Vec<InstanceId> = self.strays().collect();
            let ended = self.end(&plan.release) | self.end(&strays);
            // What they leave makes room for others.
            self.placement_dirty |= ended;
        }
    }

    /// Says on the Pod why it waits. While something is tried again after the cloud refused, the refusal
    /// stands: nothing new is known.
    fn tell_waiting(&mut self, uid: &PodUid, why: &Waiting, now: Timestamp) {
        let Some(entry) = self.pods.get(uid) else { return };
        let zone = self.config.zones.get(&entry.seen.intent.node).cloned().unwrap_or_default();
        let failure = why.class().and_then(|class| {
            let place = (class.to_owned(), zone);
            let refused = self.refusals.get(&place).map(|why| (SHORT, why.clone()));
            let launching = matches!(why, Waiting::Launching { .. });
            refused.or_else(|| Some((LAUNCH_FAILED, self.failing.why(&place, launching)?.to_owned())))
        });
        let next = match (why, &failure) {
            (Waiting::Launching { .. }, None) => None,
            (Waiting::Launching { .. }, Some(_)) => entry.waiting.clone(),
            (Waiting::Failed { .. }, Some((_, failure))) => {
                Some(Reason { reason: why.reason().to_owned(), message: format!("{}: {failure}", why.message()) })
            }
            (Waiting::Pending { reason, .. }, Some((_, failure))) if *reason == SHORT => {
                Some(Reason { reason: why.reason().to_owned(), message: format!("{} ({failure})", why.message()) })
            }
            _ => Some(Reason { reason: why.reason().to_owned(), message: why.message() }),
        };
        match (&next, why) {
            (_, Waiting::Launching { .. }) => {
                if let Some((reason, failure)) = failure {
                    self.tell(uid, true, reason, &format!("{failure}; now {}", why.message()), now);
                }
                self.tell(uid, false, why.reason(), &why.message(), now);
            }
            (Some(reason), _) => self.tell(uid, true, &reason.reason, &reason.message, now),
            (None, _) => {}
        }
        if let Some(entry) = self.pods.get_mut(uid)
            && entry.waiting != next
        {
            entry.waiting = next;
            self.dirty.insert(uid.clone());
        }
    }

    fn placement_input(&self, now: Timestamp) -> (Vec<Demand>, Vec<Supply>, Vec<Held>) {
        let demands = self.pods.iter().filter_map(|(uid, entry)| {
            entry.seen.intent.spec.as_ref().ok()?;
            let first = entry.wants_instance.map(|since| (Arc::clone(&entry.wants), since));
            let (wants, since) = first.or_else(|| entry.handover.as_ref()?.demand())?;
            let zone = self.config.zones.get(&entry.seen.intent.node).cloned().unwrap_or_default();
            let own = entry.instance.as_ref().and_then(|id| self.instances.get(id));
            let urgent = own.is_some_and(|own| own.notices().any(|n| matches!(n, Notice::Interruption { .. })));
            Some(Demand { pod: uid.clone(), zone, wants, since, urgent })
        });
        let replaces = self.replaces();
        let free = |entry: &InstanceEntry| {
            let good = !entry.doomed(replaces) && !self.given_up(entry, now);
            entry.usable() && entry.holds.is_none() && good
        };
        let known = self.instances.iter().filter(|(_, entry)| free(entry)).map(|(id, entry)| Supply {
            instance: Some(id.clone()),
            class: entry.record.tags.get(tag::CLASS).cloned().unwrap_or_default(),
            zone: entry.record.zone.clone(),
            offers: vec![offer(&entry.record)],
            ready: entry.connected,
            launched_at: entry.record.launched_at,
        });
        let coming = self.launching.values().flat_map(|order| {
            (0..order.count).map(move |_| Supply {
                instance: None,
                class: order.class.clone(),
                zone: order.zone.clone(),
                offers: order.offers.clone(),
                ready: false,
                launched_at: now,
            })
        });
        // One that is on its way out is paid for until it is gone.
        let held = self.instances.iter().filter(|(_, entry)| !free(entry) && entry.gone.is_none());
        let held = held.map(|(id, entry)| {
            let pod = entry.pod.as_ref().and_then(|uid| self.pods.get(uid));
            Held {
                instance: id.clone(),
                class: pod.map_or_else(|| tagged(&entry.record).to_owned(), |pod| self.class_of(pod, &entry.record)),
                zone: entry.record.zone.clone(),
                offer: offer(&entry.record),
                wants: pod.map(|pod| Arc::clone(&pod.wants)),
                launched_at: entry.record.launched_at,
            }
        });
        (demands.collect(), known.chain(coming).collect(), held.collect())
    }

    /// How many more instances each zone's node may have.
    fn room(&self) -> BTreeMap<String, u32> {
        let mut room: BTreeMap<String, u32> =
            self.config.zones.values().map(|zone| (zone.clone(), self.config.pods_per_node)).collect();
        for entry in self.instances.values().filter(|e| e.ending.is_none() && e.gone.is_none()) {
            if let Some(left) = room.get_mut(&entry.record.zone) {
                *left = left.saturating_sub(1);
            }
        }
        for order in self.launching.values() {
            if let Some(left) = room.get_mut(&order.zone) {
                *left = left.saturating_sub(order.count);
            }
        }
        room
    }

    /// The class that an instance was bought for; for one of a standby pool, that which its Pod is of. What
    /// was written before stands: the policy may have been edited since.
    pub(super) fn class_of(&self, pod: &PodEntry, record: &InstanceRecord) -> String {
        let class = tagged(record);
        if !class.is_empty() && class != STANDBY {
            return class.to_owned();
        }
        let policy = &self.config.buying.policy;
        let written = pod.status.as_ref().filter(|status| status.instance() == Some(record.id.as_str()));
        let written = written.and_then(|status| status.annotations.get("pilotlight.dev/class"));
        let written = written.filter(|name| policy.classes.iter().any(|class| class.name == **name));
        let chosen = || policy.class_for(&pod.wants).map(|class| class.name.clone());
        written.cloned().or_else(chosen).unwrap_or_default()
    }

    /// Whether an instance from before this start has not said yet what it holds.
    fn awaits_agents(&self) -> bool {
        let silent = |e: &InstanceEntry| e.usable() && !e.ever_connected && e.record.launched_at <= self.started_at;
        self.instances.values().any(silent)
    }

    /// Instances whose agent holds a Pod that no longer exists, or that is backed by another; and those without a
    /// Pod that the cloud is about to take.
    fn strays(&self) -> impl Iterator<Item = InstanceId> + '_ {
        let replaces = self.replaces();
        let stray = move |e: &InstanceEntry| e.usable() && (e.holds.is_some() || e.doomed(replaces));
        self.instances.iter().filter(move |(_, e)| stray(e)).map(|(id, _)| id.clone())
    }

    /// Whether the policy lets go what the cloud recommends to replace.
    pub(super) fn replaces(&self) -> bool {
        self.config.buying.policy.interruption.rebalance == OnRebalance::Replace
    }

    /// Nobody should wait for it: its agent is silent, and it is not because it boots. It is kept for a while, since the
    /// provider may be the one that is cut off.
    fn given_up(&self, entry: &InstanceEntry, now: Timestamp) -> bool {
        self.boots_until(entry).is_some_and(|until| now > until) && entry.silent(now)
    }

    fn boots_until(&self, entry: &InstanceEntry) -> Option<Timestamp> {
        entry.boots_until(self.config.buying.policy.ttl.register, self.started_at)
    }

    /// When the next instance that a Pod may wait for will be silent for too long.
    fn falls_silent(&self, now: Timestamp) -> Option<Timestamp> {
        let due = |entry: &InstanceEntry| {
            let silent = entry.silent_since?.saturating_add(SILENT).ok()?;
            // The moment after it.
            let booted = self.boots_until(entry)?.saturating_add(SignedDuration::from_millis(1)).ok()?;
            Some(silent.max(booted))
        };
        let usable = self.instances.values().filter(|entry| entry.usable());
        usable.filter_map(due).filter(|at| *at > now).min()
    }
}

/// What a Pod asks of the cost policy. Its zone is its node's: the scheduler chose it. `zones`: by node.
pub fn wants(zones: &BTreeMap<NodeName, String>, intent: &PodIntent) -> Arc<purchase::Demand> {
    let size = intent.spec.as_ref().map(|spec| pod_size(spec)).unwrap_or_default();
    let allowed = intent.spec.as_ref().ok().and_then(|spec| spec.architectures.as_deref());
    Arc::new(purchase::Demand {
        uid: intent.uid.to_string(),
        namespace: intent.name.namespace.clone(),
        labels: intent.labels.clone(),
        annotations: intent.annotations.clone(),
        owner: intent.owner.clone(),
        cpu_millis: size.cpu_millis,
        memory_bytes: size.memory_bytes,
        zones: Some(zones.get(&intent.node).cloned().into_iter().collect()),
        class: None,
        architecture: Architecture::sole(allowed),
    })
}

pub(super) fn offer(record: &InstanceRecord) -> Offer {
    Offer { instance_type: record.instance_type.clone(), purchase: record.purchase, price: record.price }
}

/// For events.
pub(super) fn described(record: &InstanceRecord) -> String {
    let InstanceRecord { id, instance_type, purchase, price, zone, .. } = record;
    format!("instance {id} ({instance_type}, {}, ${price}/h) in {zone}", purchase.as_str())
}

pub(super) fn tagged(record: &InstanceRecord) -> &str {
    record.tags.get(tag::CLASS).map(String::as_str).unwrap_or_default()
}
