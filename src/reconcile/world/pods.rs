//! What becomes of one Pod: its desired state, its release, its end.

use super::{DELETE_AGAIN, Ending, World, WorldConfig, facts::Effect};
use crate::decide::desired::{NodeFacts, Refs, resolve};
use crate::model::{
    DesiredDigest, DesiredPod, DnsConfig, Generation, InstanceId, InstanceRecord, PodUid, Resources, Stop,
};
use jiff::Timestamp;
use std::sync::Arc;

impl World {
    /// Sends the Pod's desired state to its own instance if it differs from what was sent last.
    pub(super) fn send_desired(&mut self, uid: &PodUid, stop: Option<Stop>) {
        let Some(entry) = self.pods.get(uid) else { return };
        let Some(id) = entry.instance.clone() else { return };
        let Some(desired) = self.desired(uid, &id, entry.generation, entry.sent, stop) else { return };
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.generation = desired.generation;
            entry.sent = Some(desired.digest());
        }
        self.send(&id, desired);
    }

    /// The same for the second instance, while there are two.
    pub(super) fn send_other(&mut self, uid: &PodUid, stop: Option<Stop>) {
        let Some(leg) = self.pods.get(uid).and_then(|entry| entry.handover.as_ref()?.leg()) else { return };
        let id = leg.instance.clone();
        let Some(desired) = self.desired(uid, &id, leg.generation, leg.sent, stop) else { return };
        if let Some(leg) = self.pods.get_mut(uid).and_then(|entry| entry.leg_of(&id)) {
            leg.generation = desired.generation;
            leg.sent = Some(desired.digest());
        }
        self.send(&id, desired);
    }

    /// What an instance should run, if that is news to it.
    fn desired(
        &self,
        uid: &PodUid,
        id: &InstanceId,
        generation: Generation,
        sent: Option<DesiredDigest>,
        stop: Option<Stop>,
    ) -> Option<Arc<DesiredPod>> {
        let entry = self.pods.get(uid)?;
        // Before its agent was heard, the generation that it holds is not known.
        let instance = self.instances.get(id).filter(|instance| instance.ever_connected)?;
        let empty = Arc::new(Refs::default());
        let refs = match (&entry.refs, &stop) {
            (Some(refs), _) => refs,
            (None, Some(_)) => &empty,
            (None, None) => return None,
        };
        let spec = entry.seen.intent.spec.as_ref().ok()?;
        let facts = NodeFacts {
            pod_ip: instance.record.pod_ip,
            host_ips: vec![instance.record.private_ip.unwrap_or(self.config.address)],
            allocatable: allocatable(&self.config, &instance.record),
            cluster_domain: self.config.dns_domain.clone(),
            cluster_dns: vec![self.config.dns_server],
            host_dns: DnsConfig::default(),
        };
        let next = resolve(&entry.seen.intent, spec, refs, &facts, generation, stop);
        let news = sent.is_none_or(|sent| sent != next.digest());
        news.then(|| Arc::new(DesiredPod { generation: Generation(generation.0 + 1), ..next }))
    }

    fn send(&mut self, id: &InstanceId, desired: Arc<DesiredPod>) {
        // From here on it is this Pod's, also after the Pod is gone: an instance serves one Pod in its life.
        if let Some(instance) = self.instances.get_mut(id) {
            instance.holds = Some((desired.uid.clone(), desired.generation));
        }
        self.holders.insert(desired.uid.clone(), id.clone());
        self.effects.push(Effect::Desired(id.clone(), desired));
    }

    /// Nothing of the Pod runs any more: its instance goes, the object stays.
    pub(super) fn release(&mut self, uid: &PodUid) {
        let Some(id) = self.pods.get(uid).and_then(|e| e.instance.clone()) else { return };
        self.unbind(uid);
        self.end(&[id]);
        self.list(uid);
    }

    /// Whether anything was left to end.
    pub(super) fn end(&mut self, ids: &[InstanceId]) -> bool {
        let mut ended = Vec::new();
        for id in ids {
            if let Some(entry) = self.instances.get_mut(id)
                && entry.gone.is_none()
                && entry.ending.is_none()
            {
                entry.ending = Some(Ending::Asked { refused: 0 });
                ended.push(id.clone());
            }
        }
        let any = !ended.is_empty();
        if any {
            match self.effects.last_mut() {
                Some(Effect::Terminate(more)) => more.extend(ended),
                _ => self.effects.push(Effect::Terminate(ended)),
            }
        }
        any
    }

    pub(super) fn finalize(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.wants_instance = None;
        let again = |at: Timestamp| at.saturating_add(DELETE_AGAIN).unwrap_or(Timestamp::MAX);
        if !entry.gone && entry.finalized_at.is_some_and(|at| now < again(at)) {
            return;
        }
        entry.finalized_at = Some(now);
        let intent = Arc::clone(&entry.seen.intent);
        if !entry.gone {
            // A terminal phase even for one that never ran: a Job waits for it (kubelet's SyncTerminatedPod).
            self.write_status(uid, true, now);
            self.effects.push(Effect::Delete {
                node: intent.node.clone(),
                name: intent.name.clone(),
                uid: uid.clone(),
            });
        }
        let instance = self.pods.get(uid).and_then(|e| e.instance.clone());
        self.unbind(uid);
        let other = self.drop_other(uid);
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.handover = None;
        }
        for id in instance.into_iter().chain(other) {
            self.end(&[id]);
        }
        self.effects.push(Effect::Forget(uid.clone()));
        if let Some(entry) = self.pods.get_mut(uid) {
            if entry.gone {
                self.pods.remove(uid);
                self.effects.push(Effect::Unlist { name: intent.name.clone(), uid: uid.clone() });
            } else {
                // The object goes soon; if the delete should be lost, it is asked for again.
                self.wakes.insert((again(now), uid.clone()));
            }
        }
    }
}

fn allocatable(config: &WorldConfig, record: &InstanceRecord) -> Resources {
    let market = &config.buying.market;
    let known = market.catalog.types.iter().find(|t| t.name == record.instance_type);
    Resources {
        cpu_millis: known.map(|t| t.cpu_millis),
        memory_bytes: known.map(|t| t.memory_bytes.saturating_sub(market.reserved_memory_bytes)),
        ephemeral_storage_bytes: None,
    }
}
