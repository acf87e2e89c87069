//! The world's questions to `decide::placement`, and what it does with the answers.

use super::{ADOPTION, InstanceEntry, World, facts::Effect};
use crate::decide::desired::pod_size;
use crate::decide::placement::{self, Demand, Pool, Rules, Supply, Waiting};
use crate::decide::status::Reason;
use crate::model::{InstanceId, InstanceRecord, NodeName, PodUid};
use jiff::Timestamp;
use std::collections::BTreeMap;

impl World {
    pub(super) fn place(&mut self, now: Timestamp) {
        let adopting = now < self.started_at.saturating_add(ADOPTION).unwrap_or(Timestamp::MIN);
        let (demands, supplies, rules) = self.placement_input(now);
        let plan = placement::plan(&demands, &supplies, &rules, now);
        self.placement_wake = plan.wake_at;
        // Before a Pod gets an instance, everyone who may already hold it must have spoken.
        let bind = if adopting && self.awaits_agents() { Vec::new() } else { plan.bind };
        for (uid, id) in bind {
            self.bind(&uid, &id);
            if let Some(record) = self.instances.get(&id).map(|i| i.record.clone()) {
                let message = format!(
                    "Backed by instance {} ({}, {}, ${}/h) in {}",
                    record.id,
                    record.instance_type,
                    record.purchase.as_str(),
                    record.price,
                    record.zone,
                );
                self.tell(&uid, false, "InstanceBound", &message, now);
            }
        }
        for (pool, count) in plan.launch {
            *self.launching.entry(pool.clone()).or_default() += count;
            self.effects.push(Effect::Launch(pool, count));
        }
        for (uid, why) in plan.waiting {
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

    /// Says on the Pod why it waits. While a pool is tried again that the cloud refused, the refusal
    /// stands: nothing new is known.
    fn tell_waiting(&mut self, uid: &PodUid, why: &Waiting, now: Timestamp) {
        let Some(entry) = self.pods.get(uid) else { return };
        let zone = self.config.zones.get(&entry.seen.intent.node).cloned().unwrap_or_default();
        let failure = |instance_type: &String| {
            self.failures.get(&Pool { zone: zone.clone(), instance_type: instance_type.clone() })
        };
        let next = match why {
            Waiting::Launching { instance_type } if failure(instance_type).is_none() => None,
            Waiting::Launching { instance_type } | Waiting::NoCapacity { instance_type, .. } => {
                let refused = Waiting::NoCapacity { instance_type: instance_type.clone(), until: now };
                let failure = failure(instance_type).map(|f| format!(": {f}")).unwrap_or_default();
                Some(Reason { reason: refused.reason().to_owned(), message: refused.message() + &failure })
            }
            Waiting::TooLarge { .. } | Waiting::LimitReached => {
                Some(Reason { reason: why.reason().to_owned(), message: why.message() })
            }
        };
        match &next {
            Some(reason) => self.tell(uid, true, &reason.reason, &reason.message, now),
            None => self.tell(uid, false, "InstanceLaunching", &why.message(), now),
        }
        if let Some(entry) = self.pods.get_mut(uid)
            && entry.waiting != next
        {
            entry.waiting = next;
            self.dirty.insert(uid.clone());
        }
    }

    fn placement_input(&self, now: Timestamp) -> (Vec<Demand>, Vec<Supply>, Rules) {
        let zone_of = |node: &NodeName| self.config.zones.get(node).cloned().unwrap_or_default();
        let demands = self
            .pods
            .iter()
            .filter_map(|(uid, entry)| {
                let since = entry.wants_instance?;
                let spec = entry.seen.intent.spec.as_ref().ok()?;
                let size = pod_size(spec);
                Some(Demand {
                    pod: uid.clone(),
                    zone: zone_of(&entry.seen.intent.node),
                    cpu_millis: size.cpu_millis.unwrap_or(self.config.default_cpu_millis),
                    memory_bytes: size.memory_bytes.unwrap_or(self.config.default_memory_bytes),
                    since,
                })
            })
            .collect();
        let pool =
            |record: &InstanceRecord| Pool { zone: record.zone.clone(), instance_type: record.instance_type.clone() };
        let holds_nothing = |entry: &InstanceEntry| entry.holds.is_none();
        let known = self.instances.iter().filter(|(_, e)| e.usable() && holds_nothing(e)).map(|(id, e)| Supply {
            instance: id.clone(),
            pool: pool(&e.record),
            ready: e.connected,
            launched_at: e.record.launched_at,
        });
        // Launches under way have no names yet; they are never bound or released, only counted.
        let coming = self.launching.iter().flat_map(|(pool, count)| {
            (0..*count).map(move |n| Supply {
                instance: InstanceId::new(format!("launching-{}-{}-{n}", pool.zone, pool.instance_type)),
                pool: pool.clone(),
                ready: false,
                launched_at: now,
            })
        });
        let supplies = known.chain(coming).collect();
        let mut room: BTreeMap<String, u32> =
            self.config.zones.values().map(|zone| (zone.clone(), self.config.pods_per_node)).collect();
        for entry in self.instances.values().filter(|e| !e.ending && e.gone.is_none()) {
            if let Some(left) = room.get_mut(&entry.record.zone) {
                *left = left.saturating_sub(1);
            }
        }
        for (pool, count) in &self.launching {
            if let Some(left) = room.get_mut(&pool.zone) {
                *left = left.saturating_sub(*count);
            }
        }
        let rules = Rules {
            types: self.config.types.clone(),
            reserved_memory_bytes: self.config.reserved_memory_bytes,
            standby: self.config.standby.clone(),
            cooling: self.cooling.clone(),
            room,
        };
        (demands, supplies, rules)
    }

    /// Whether an instance from before this start has not said yet what it holds.
    fn awaits_agents(&self) -> bool {
        let silent = |e: &InstanceEntry| e.usable() && !e.ever_connected && e.record.launched_at <= self.started_at;
        self.instances.values().any(silent)
    }

    /// Instances whose agent holds a Pod that no longer exists, or that is backed by another.
    fn strays(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.instances.iter().filter(|(_, e)| e.usable() && e.holds.is_some()).map(|(id, _)| id.clone())
    }
}
