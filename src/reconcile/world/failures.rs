//! Instances that never registered: why, and when their like are launched again.
//!
//! A launch that the cloud refuses costs nothing but the call. One that it accepts and that comes to nothing (an image
//! whose key may not be used, an agent that does not start) costs an instance each time. So it is counted, of each class in
//! a zone and of each pool, how many attempts in a row failed; what was ordered before the last failure showed is of the
//! same attempt, so a burst fails once.
//!
//! | in a row | of a class in a zone | of a pool |
//! |---|---|---|
//! | 1 | another is launched at once: one may be lost by chance | the same, if its class does not fail |
//! | 2 and more | after longer and longer pauses, and one at a time | not taken where the Pod may have anything else |
//!
//! The first that registers ends the row of its class there, and of its pool; so does time. A Pod that a spot notice drives
//! out of its instance waits for none of it: it has no time to.

use super::{InstanceEntry, World, facts::Effect, placing};
use crate::decide::backoff::launch_delay;
use crate::decide::placement;
use crate::decide::purchase::Quarantine;
use crate::model::{InstanceId, InstanceRecord, InstanceState, Purchase};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Where the cloud gave no code.
const ENDED: &str = "InstanceEnded";
/// From so many on it is no chance.
const IN_A_ROW: u32 = 2;
/// After its next instance should have registered, a class's row is remembered for as long as a kubelet remembers a
/// container's.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);
/// A pool's longer: its others may each take their whole time to fail.
const POOL_REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// A class and a zone.
type Place = (String, String);

#[derive(Debug, Default)]
pub(super) struct Failures {
    places: BTreeMap<Place, Failing>,
    /// By way of paying, type and zone.
    pools: BTreeMap<(Purchase, String, String), FailingPool>,
}

#[derive(Clone, Copy, Debug)]
struct FailingPool {
    row: Row,
    /// It is no chance: of itself, or since its class fails.
    avoided: bool,
}

/// Attempts in a row that failed.
#[derive(Clone, Copy, Debug)]
struct Row {
    attempts: u32,
    /// The last launch that was ordered before the last attempt failed.
    order: u64,
    since: Timestamp,
}

#[derive(Debug)]
struct Failing {
    row: Row,
    /// The last one's reason.
    why: String,
    /// What is replaced at once by chance's rule is no news to a Pod, unless it has waited long for it.
    worth_telling: bool,
}

impl Row {
    /// `order`: that what failed came of; `newest`: the last there was.
    fn after(before: Option<Self>, order: u64, newest: u64, now: Timestamp) -> Self {
        match before {
            Some(before) if order <= before.order => before,
            before => {
                let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
                Self { attempts, order: newest, since: now }
            }
        }
    }

    /// Before which nothing is launched.
    fn until(&self) -> Timestamp {
        self.since.saturating_add(launch_delay(self.attempts)).unwrap_or(Timestamp::MAX)
    }

    /// Whether it is remembered still, `long` after the next attempt has had its time to fail; `register` is that. A clock that
    /// was set back makes no pause longer.
    fn counts(&mut self, register: SignedDuration, long: SignedDuration, now: Timestamp) -> bool {
        self.since = self.since.min(now);
        now.duration_since(self.since) < launch_delay(self.attempts) + register + long
    }
}

impl Failures {
    fn forget(&mut self, register: SignedDuration, now: Timestamp) {
        self.places.retain(|_, failing| failing.row.counts(register, REMEMBERED, now));
        self.pools.retain(|_, pool| pool.row.counts(register, POOL_REMEMBERED, now));
    }

    fn registered(&mut self, record: &InstanceRecord) {
        self.places.remove(&place(record));
        self.pools.remove(&pool(record));
    }

    /// Why what is launched for this class in this zone fails; for a Pod that waits for the next one, if it is worth it.
    pub(super) fn why(&self, place: &Place, launching: bool) -> Option<&str> {
        let failing = self.places.get(place).filter(|failing| failing.worth_telling || !launching);
        failing.map(|failing| failing.why.as_str())
    }

    /// What placement is to do about it.
    fn rules(&self) -> placement::Failing {
        let in_a_row = self.places.iter().filter(|(_, failing)| failing.row.attempts >= IN_A_ROW);
        let avoided = self.pools.iter().filter(|(_, pool)| pool.avoided);
        placement::Failing {
            until: self.places.iter().map(|(place, failing)| (place.clone(), failing.row.until())).collect(),
            one_at_a_time: in_a_row.map(|(place, _)| place.clone()).collect(),
            pools: avoided.map(|((purchase, instance_type, zone), _)| avoid(*purchase, instance_type, zone)).collect(),
        }
    }
}

fn avoid(purchase: Purchase, instance_type: &str, zone: &str) -> Quarantine {
    Quarantine {
        option: Some(purchase),
        instance_type: Some(instance_type.to_owned()),
        zone: Some(zone.to_owned()),
        // For as long as it is in the list.
        until: Timestamp::MAX,
    }
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
            self.never_registered(id, &code, &format!("it ended before its agent registered: {why}"), false, now);
        }
    }

    /// It is ended because it did not come up, or its agent did not register, in time.
    pub(super) fn was_late(&mut self, id: &InstanceId, now: Timestamp) {
        let Some(entry) = self.instances.get(id) else { return };
        let (code, why) = match entry.record.state {
            InstanceState::Pending => ("LaunchTimeout", "it did not come up in time"),
            _ => ("RegistrationTimeout", "its agent did not register in time"),
        };
        self.never_registered(id, code, why, true, now);
    }

    /// `late`: it took its whole time to fail.
    fn never_registered(&mut self, id: &InstanceId, code: &str, why: &str, late: bool, now: Timestamp) {
        let Some(entry) = self.instances.get(id) else { return };
        let (order, place, pool) = (entry.order, place(&entry.record), pool(&entry.record));
        let why = format!("instance {id}: {why}");
        self.effects.push(Effect::NeverRegistered {
            instance: placing::described(&entry.record),
            class: place.0.clone(),
            code: code.to_owned(),
            why: why.clone(),
        });
        self.failing.forget(self.config.buying.policy.ttl.register, now);
        let before = self.failing.places.get(&place).map(|failing| failing.row);
        let row = Row::after(before, order, self.orders, now);
        let before = self.failing.pools.get(&pool).copied();
        let of_pool = Row::after(before.map(|before| before.row), order, self.orders, now);
        let avoided = row.attempts >= IN_A_ROW || of_pool.attempts >= IN_A_ROW;
        let avoided = avoided || before.is_some_and(|before| before.avoided);
        self.failing.pools.insert(pool, FailingPool { row: of_pool, avoided });
        let worth_telling = late || row.attempts >= IN_A_ROW;
        self.failing.places.insert(place, Failing { row, why, worth_telling });
        self.placement_dirty = true;
    }

    /// One of this class registered here: it can be done.
    pub(super) fn registered(&mut self, id: &InstanceId) {
        if let Some(entry) = self.instances.get(id) {
            self.failing.registered(&entry.record);
        }
    }

    pub(super) fn failing(&mut self, now: Timestamp) -> placement::Failing {
        self.failing.forget(self.config.buying.policy.ttl.register, now);
        self.failing.rules()
    }
}

impl InstanceEntry {
    /// Until when what has not registered yet may still; None: it has, or it is our own launch, of which it is said when it
    /// was too late ([`World::was_late`]). That one launches nothing before it is counted.
    pub(super) fn boots_until(&self, register: SignedDuration, started_at: Timestamp) -> Option<Timestamp> {
        let launched_at = self.record.launched_at;
        match self.ever_connected {
            true => Some(Timestamp::MIN),
            false if launched_at > started_at => None,
            false => launched_at.saturating_add(register).ok(),
        }
    }
}

fn place(record: &InstanceRecord) -> Place {
    (placing::tagged(record).to_owned(), record.zone.clone())
}

fn pool(record: &InstanceRecord) -> (Purchase, String, String) {
    (record.purchase, record.instance_type.clone(), record.zone.clone())
}

/// EC2 begins its words with a code: `Client.VolumeLimitExceeded: Volume limit exceeded` (AWS, "StateReason"). Nothing
/// else is taken for one: it becomes a metric's label.
fn cloud_code(reason: Option<&str>) -> Option<&str> {
    let code = reason?.split(':').next()?;
    let name = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server."))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    (!name.is_empty() && name.len() <= 64 && name.chars().all(plain)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixtures::at;

    #[test]
    fn a_clock_that_was_set_back_makes_no_pause_longer() {
        let mut row = Row { attempts: 9, order: 1, since: at(10_000) };
        assert_eq!(row.until(), at(10_300));
        for now in [1_000, 1_100, 1_299] {
            assert!(row.counts(SignedDuration::ZERO, REMEMBERED, at(now)));
            assert_eq!(row.until(), at(1_300), "at {now}");
        }
    }
}
