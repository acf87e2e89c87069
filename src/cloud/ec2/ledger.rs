//! What is known of the cluster's instances, over EC2's eventual consistency. Pure.
//!
//! ```text
//!  launched ──> told of as launched ── listed ──> as listed ── missing in a list ──> asked for by id
//!                     │                                            │ terminated: told once, forgotten
//!                     └─ not listed for a minute: forgotten        │ not known: forgotten
//! ```
//!
//! A list has no terminated ones: they are listed for an hour, and there may be thousands. And it may lack one
//! that was just launched: EC2 says so for some seconds ("Eventual consistency in the Amazon EC2 API").

use crate::model::{InstanceId, InstanceRecord, InstanceState};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// One that EC2 does not know for this long after its launch is not coming.
pub const SOON: SignedDuration = SignedDuration::from_secs(60);

#[derive(Clone, Debug)]
struct Entry {
    record: InstanceRecord,
    /// Since when, by this process's clock.
    launched: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    known: BTreeMap<InstanceId, Entry>,
    /// Everything was listed once.
    complete: bool,
}

impl Ledger {
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many there are, if nobody waits to hear of one: an agent is let in by its instance's address.
    pub fn calm(&self) -> Option<usize> {
        let awaited = |entry: &Entry| entry.record.private_ip.is_none();
        (self.complete && !self.known.values().any(awaited)).then_some(self.known.len())
    }

    /// What a launch brought.
    pub fn launched(&mut self, records: &[InstanceRecord], now: Timestamp) {
        for record in records {
            let entry = Entry { record: record.clone(), launched: Some(now) };
            self.known.entry(record.id.clone()).or_insert(entry);
        }
    }

    pub fn get(&self, id: &InstanceId) -> Option<&InstanceRecord> {
        self.known.get(id).map(|entry| &entry.record)
    }

    pub fn with_token(&self, token: &str) -> Vec<InstanceRecord> {
        let of = |entry: &&Entry| entry.record.client_token.as_str() == token;
        self.known.values().filter(of).map(|entry| entry.record.clone()).collect()
    }

    /// Whether EC2 may not know it yet, though it was launched.
    pub fn is_coming(&self, id: &InstanceId, now: Timestamp) -> bool {
        let launched = self.known.get(id).and_then(|entry| entry.launched);
        launched.is_some_and(|at| now.duration_since(at) < SOON)
    }

    /// Whom to ask about by id, after this list.
    pub fn missing(&self, listed: &[InstanceRecord]) -> Vec<InstanceId> {
        let listed: BTreeSet<&InstanceId> = listed.iter().map(|record| &record.id).collect();
        self.known.keys().filter(|id| !listed.contains(id)).cloned().collect()
    }

    /// Everything there is to tell: the list, and of those that it lacked what was found by id. `missing`
    /// is what was asked about; what came since is told of too.
    pub fn settle(
        &mut self,
        listed: Vec<InstanceRecord>,
        missing: &[InstanceId],
        mut found: BTreeMap<InstanceId, InstanceRecord>,
        now: Timestamp,
    ) -> Vec<InstanceRecord> {
        self.complete = true;
        let mut told = BTreeMap::new();
        for id in missing {
            match found.remove(id) {
                Some(record) if record.state == InstanceState::Terminated => {
                    self.known.remove(id);
                    told.insert(id.clone(), record);
                }
                Some(record) => {
                    if let Some(entry) = self.known.get_mut(id) {
                        entry.record = record;
                    }
                }
                None if self.is_coming(id, now) => {}
                None => drop(self.known.remove(id)),
            }
        }
        for record in listed {
            // Listed: from now on its absence means something.
            self.known.insert(record.id.clone(), Entry { record, launched: None });
        }
        told.extend(self.known.iter().map(|(id, entry)| (id.clone(), entry.record.clone())));
        told.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{config::tests::config, records};
    use super::*;
    use proptest::prelude::*;

    fn record(id: &str, state: InstanceState) -> InstanceRecord {
        InstanceRecord { state, ..records::record(records::tests::machine(id), &config().types) }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn look(ledger: &mut Ledger, listed: &[&str], by_id: &[InstanceRecord], now: i64) -> Vec<(String, InstanceState)> {
        let listed: Vec<InstanceRecord> = listed.iter().map(|id| record(id, InstanceState::Running)).collect();
        let missing = ledger.missing(&listed);
        let found = by_id.iter().filter(|r| missing.contains(&r.id)).map(|r| (r.id.clone(), r.clone())).collect();
        let told = ledger.settle(listed, &missing, found, at(now));
        told.into_iter().map(|record| (record.id.to_string(), record.state)).collect()
    }

    #[test]
    fn one_that_was_just_launched_is_told_of_before_ec2_lists_it_and_not_for_ever() {
        let pending = ("i-1".to_owned(), InstanceState::Pending);
        let mut ledger = Ledger::default();
        ledger.launched(&[record("i-1", InstanceState::Pending)], at(0));
        assert_eq!(look(&mut ledger, &[], &[], 1), std::slice::from_ref(&pending));
        assert_eq!(look(&mut ledger, &[], &[], 59), [pending]);
        assert_eq!(look(&mut ledger, &[], &[], 61), []);
    }

    #[test]
    fn one_that_has_been_listed_and_is_not_any_more_is_told_of_once_as_terminated() {
        let mut ledger = Ledger::default();
        ledger.launched(&[record("i-1", InstanceState::Pending)], at(0));
        assert_eq!(look(&mut ledger, &["i-1"], &[], 1), [("i-1".to_owned(), InstanceState::Running)]);
        let ended = [record("i-1", InstanceState::Terminated)];
        assert_eq!(look(&mut ledger, &[], &ended, 2), [("i-1".to_owned(), InstanceState::Terminated)]);
        assert_eq!(look(&mut ledger, &[], &ended, 3), []);
    }

    #[test]
    fn one_that_was_listed_and_is_known_no_more_is_gone_at_once() {
        let mut ledger = Ledger::default();
        assert!(!ledger.is_complete());
        look(&mut ledger, &["i-1"], &[], 1);
        assert!(ledger.is_complete());
        assert_eq!(look(&mut ledger, &[], &[], 2), []);
    }

    #[test]
    fn it_is_calm_while_all_addresses_are_known() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.calm(), None, "nothing was listed yet");
        look(&mut ledger, &[], &[], 1);
        assert_eq!(ledger.calm(), Some(0));
        let fresh = record("i-1", InstanceState::Pending);
        ledger.launched(&[InstanceRecord { private_ip: None, ..fresh.clone() }], at(2));
        assert_eq!(ledger.calm(), None);
        let told = InstanceRecord { private_ip: Some([10, 0, 0, 1].into()), ..fresh };
        ledger.settle(vec![told], &[], BTreeMap::new(), at(3));
        assert_eq!(ledger.calm(), Some(1));
    }

    proptest! {
        #[test]
        fn all_that_is_listed_is_told_of_and_nothing_that_nobody_ever_said_is(
            rounds in prop::collection::vec(
                (prop::collection::btree_set(0u8..6, 0..6), prop::collection::btree_set(0u8..6, 0..3), prop::collection::btree_set(0u8..6, 0..3)),
                1..20,
            ),
        ) {
            let mut ledger = Ledger::default();
            let mut ever = BTreeSet::new();
            for (n, (listed, launched, terminated)) in rounds.into_iter().enumerate() {
                let names = |ids: &BTreeSet<u8>| ids.iter().map(|id| format!("i-{id}")).collect::<Vec<_>>();
                let now = i64::try_from(n).unwrap() * 7;
                ledger.launched(&names(&launched).iter().map(|id| record(id, InstanceState::Pending)).collect::<Vec<_>>(), at(now));
                ever.extend(names(&listed));
                ever.extend(names(&launched));
                let by_id: Vec<_> = names(&terminated).iter().map(|id| record(id, InstanceState::Terminated)).collect();
                let listed = names(&listed);
                let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
                let told = look(&mut ledger, &listed, &by_id, now);
                for id in &listed {
                    prop_assert!(told.contains(&((*id).to_owned(), InstanceState::Running)));
                }
                for (id, state) in &told {
                    prop_assert!(ever.contains(id));
                    prop_assert!(*state != InstanceState::Terminated || ledger.get(&InstanceId::new(id)).is_none());
                }
            }
        }
    }
}
