//! Instances that never registered: why, and when their like are launched again.
//!
//! A launch that the cloud refuses costs nothing but the call. One that it accepts and that comes to nothing (an image
//! whose key may not be used, an agent that does not start) costs an instance each time. So one that was lost is
//! replaced at once, and further ones after longer and longer pauses, until one registers. What was ordered before the
//! last failure showed is of the same attempt: a burst fails once.

use super::{InstanceEntry, World, facts::Effect, placing};
use crate::decide::backoff::launch_delay;
use crate::model::{InstanceId, InstanceRecord, InstanceState};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Where the cloud gave no code.
const ENDED: &str = "InstanceEnded";

/// Of a class in a zone.
#[derive(Debug)]
pub(super) struct Failing {
    /// Attempts in a row.
    attempts: u32,
    /// The last launch that was ordered before the last attempt failed.
    order: u64,
    pub until: Timestamp,
    /// The last one's reason.
    pub why: String,
}

impl World {
    /// The instance is no more. One that was not asked to end, and never registered, is a launch that failed.
    pub(super) fn went(&mut self, id: &InstanceId, why: &str, now: Timestamp) {
        let Some(entry) = self.instances.get_mut(id) else { return };
        let failed = entry.usable() && !entry.ever_connected;
        entry.gone = Some(format!("instance {id}: {why}"));
        self.placement_dirty = true;
        self.dirty.extend(entry.pod.clone());
        if failed {
            let code = cloud_code(entry.record.state_reason.as_deref()).unwrap_or(ENDED).to_owned();
            self.never_registered(id, &code, &format!("it ended before its agent registered: {why}"), now);
        }
    }

    /// It is ended because it did not come up, or its agent did not register, in time.
    pub(super) fn was_late(&mut self, id: &InstanceId, now: Timestamp) {
        let Some(entry) = self.instances.get(id) else { return };
        let (code, why) = match entry.record.state {
            InstanceState::Pending => ("LaunchTimeout", "it did not come up in time"),
            _ => ("RegistrationTimeout", "its agent did not register in time"),
        };
        self.never_registered(id, code, why, now);
    }

    fn never_registered(&mut self, id: &InstanceId, code: &str, why: &str, now: Timestamp) {
        let Some(entry) = self.instances.get(id) else { return };
        let place = place(&entry.record);
        let why = format!("instance {id}: {why}");
        self.effects.push(Effect::NeverRegistered {
            instance: placing::described(&entry.record),
            class: place.0.clone(),
            code: code.to_owned(),
            why: why.clone(),
        });
        let (attempts, order, until) = match self.failing.get(&place) {
            Some(before) if entry.order <= before.order => (before.attempts, before.order, before.until),
            before => {
                let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
                (attempts, self.orders, now.saturating_add(launch_delay(attempts)).unwrap_or(Timestamp::MAX))
            }
        };
        self.failing.insert(place, Failing { attempts, order, until, why });
        self.placement_dirty = true;
    }

    /// One of this class registered here: it can be done.
    pub(super) fn registered(&mut self, id: &InstanceId) {
        if let Some(entry) = self.instances.get(id) {
            self.failing.remove(&place(&entry.record));
        }
    }

    /// When to launch again, by class and zone, where the cloud refused to or what it launched came to nothing.
    pub(super) fn all_cooling(&self) -> BTreeMap<(String, String), Timestamp> {
        let mut cooling = self.cooling.clone();
        for (place, failing) in &self.failing {
            let until = cooling.entry(place.clone()).or_insert(failing.until);
            *until = failing.until.max(*until);
        }
        cooling
    }
}

impl InstanceEntry {
    /// What has not registered yet, and may still.
    pub(super) fn boots(&self, register: jiff::SignedDuration, now: Timestamp) -> bool {
        !self.ever_connected && now.duration_since(self.record.launched_at) <= register
    }
}

fn place(record: &InstanceRecord) -> (String, String) {
    (placing::tagged(record).to_owned(), record.zone.clone())
}

/// EC2 begins its words with a code: `Client.VolumeLimitExceeded: Volume limit exceeded` (AWS, "StateReason"). Nothing
/// else is taken for one: it becomes a metric's label.
fn cloud_code(reason: Option<&str>) -> Option<&str> {
    let code = reason?.split(':').next()?;
    let name = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server."))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    (!name.is_empty() && name.len() <= 64 && name.chars().all(plain)).then_some(code)
}
