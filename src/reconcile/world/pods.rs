//! What becomes of one Pod: its desired state, its release, its end.

use super::{DELETE_AGAIN, World, WorldConfig, facts::Effect};
use crate::decide::desired::{NodeFacts, Refs, resolve};
use crate::model::{DesiredPod, DnsConfig, Generation, InstanceId, InstanceRecord, PodUid, Resources, Stop};
use jiff::Timestamp;
use std::sync::Arc;

impl World {
    /// Sends the Pod's desired state if it differs from what was sent last.
    pub(super) fn send_desired(&mut self, uid: &PodUid, stop: Option<Stop>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some((id, instance)) = entry.instance.as_ref().and_then(|id| Some((id, self.instances.get_mut(id)?)))
        else {
            return;
        };
        // Before its agent was heard, the generation that it holds is not known.
        if !instance.ever_connected {
            return;
        }
        let empty = Arc::new(Refs::default());
        let refs = match (&entry.refs, &stop) {
            (Some(refs), _) => refs,
            (None, Some(_)) => &empty,
            (None, None) => return,
        };
        let Ok(spec) = &entry.seen.intent.spec else { return };
        let facts = NodeFacts {
            pod_ip: instance.record.pod_ip,
            host_ips: vec![instance.record.private_ip.unwrap_or(self.config.address)],
            allocatable: allocatable(&self.config, &instance.record),
            cluster_domain: self.config.dns_domain.clone(),
            cluster_dns: vec![self.config.dns_server],
            host_dns: DnsConfig::default(),
        };
        let next = resolve(&entry.seen.intent, spec, refs, &facts, entry.generation, stop);
        if entry.desired.as_ref().is_some_and(|sent| **sent == next) {
            return;
        }
        entry.generation = Generation(entry.generation.0 + 1);
        let desired = Arc::new(DesiredPod { generation: entry.generation, ..next });
        entry.desired = Some(Arc::clone(&desired));
        // From here on it is this Pod's, also after the Pod is gone: an instance serves one Pod in its life.
        instance.holds = Some((uid.clone(), entry.generation));
        self.holders.insert(uid.clone(), id.clone());
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
                && !entry.ending
            {
                entry.ending = true;
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
        if let Some(id) = instance {
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
