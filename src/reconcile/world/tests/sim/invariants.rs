//! What must be so.

use super::{Object, Sim};
use crate::decide::status::{Phase, PodStatus};
use crate::model::{InstanceId, PodUid};
use std::collections::{BTreeMap, BTreeSet};

impl Sim {
    /// Who takes over must serve, unless what served before is gone or about to be.
    pub(super) fn check_switch(&mut self, uid: &PodUid, was: Option<InstanceId>, is: Option<InstanceId>) {
        let (Some(was), Some(is)) = (was, is) else { return };
        let doomed = self.machines.get(&was).is_none_or(|m| !m.lives() || m.taken_at().is_some());
        if was != is && !doomed && !self.machines.get(&is).is_some_and(|m| m.serves(uid)) {
            self.wrongs.push(format!("{uid} went from {was}, which lives, to {is}, which does not serve"));
        }
    }

    /// Which instance the API server says that each Pod has.
    pub fn bindings(&self) -> BTreeMap<PodUid, String> {
        let of = |object: &Object| object.status.as_ref()?.annotations.get("pilotlight.dev/instance-id").cloned();
        self.objects.iter().filter_map(|(uid, object)| Some((uid.clone(), of(object)?))).collect()
    }

    pub fn check_settled(&mut self) {
        let mut wrongs = Vec::new();
        let waits = [Some("NoInstanceTypeFits"), Some("CostLimitReached")];
        let mut needed = BTreeSet::new();
        for (uid, object) in &self.objects {
            let phase = object.status.as_ref().map(|s| s.phase);
            let reason = object.status.as_ref().and_then(|s| s.reason.clone());
            let holders: Vec<&InstanceId> = self
                .machines
                .iter()
                .filter(|(_, m)| m.lives() && m.holds.as_ref().is_some_and(|h| h.desired.uid == *uid))
                .map(|(id, _)| id)
                .collect();
            if object.intent.deletion.is_some() {
                wrongs.push(format!("{uid} was deleted and is still there"));
            }
            match (phase, holders.as_slice()) {
                (Some(Phase::Running), [one]) => {
                    let own = object.status.as_ref().and_then(PodStatus::instance);
                    if own != Some(one.as_str()) {
                        wrongs.push(format!("{uid} runs on {one}, and its status names {own:?}"));
                    }
                    needed.insert((*one).clone());
                }
                (Some(Phase::Succeeded | Phase::Failed), []) => {}
                (Some(Phase::Pending), []) if waits.contains(&reason.as_deref()) => {}
                other => wrongs.push(format!("{uid} settled as {other:?}, {reason:?}")),
            }
        }
        for (id, machine) in &self.machines {
            if machine.lives() && !needed.contains(id) {
                wrongs.push(format!("{id} runs for nobody"));
            }
        }
        self.wrongs.extend(wrongs);
    }
}
