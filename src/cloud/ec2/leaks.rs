//! What costs money and serves nobody, found in two passes. Pure.
//!
//! ```text
//!  found in a pass ──> suspected ── found again, a while later ──> to be ended
//!                          └──────── not found ──> forgotten
//! ```
//!
//! Never on the word of one list: between two looks a thing may have been on its way. Instances that run are
//! not here: the reconciler knows every instance of the cluster and releases those that nobody needs. Here are
//! those that it can't use (stopped), and what an instance may leave: volumes, network interfaces, and launch
//! templates: those of former configurations, and those that no launch has used for long, so that a cluster at rest
//! leaves nothing in the account. (A launch makes its template if there is none.)

use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leak {
    /// Nobody starts it again.
    StoppedInstance(String),
    /// Attached to nothing.
    Volume(String),
    NetworkInterface(String),
    /// By name.
    LaunchTemplate(String),
}

#[derive(Debug)]
pub struct Suspects {
    seen: BTreeMap<Leak, Timestamp>,
    patience: SignedDuration,
}

impl Suspects {
    /// `patience`: between a thing's first sighting and its end.
    pub fn new(patience: SignedDuration) -> Self {
        Self { seen: BTreeMap::new(), patience }
    }

    /// What of all that was found is to be ended. It stays suspected: if that fails, the next pass tells it again.
    pub fn pass(&mut self, found: &BTreeSet<Leak>, now: Timestamp) -> Vec<Leak> {
        self.seen.retain(|leak, _| found.contains(leak));
        let mut due = Vec::new();
        for leak in found {
            let since = *self.seen.entry(leak.clone()).or_insert(now);
            if now.duration_since(since) >= self.patience {
                due.push(leak.clone());
            }
        }
        due
    }
}

/// When each template of this configuration was used last.
#[derive(Debug)]
pub struct Uses {
    last: BTreeMap<String, Timestamp>,
    idle: SignedDuration,
}

impl Uses {
    /// All count as used now: another process may be about to launch by them.
    pub fn new(names: BTreeSet<String>, idle: SignedDuration, now: Timestamp) -> Self {
        Self { last: names.into_iter().map(|name| (name, now)).collect(), idle }
    }

    /// Notes a use; whether the last one was so long ago that the template may be gone.
    pub fn used(&mut self, name: &str, now: Timestamp) -> bool {
        let before = self.last.insert(name.to_owned(), now);
        before.is_none_or(|at| now.duration_since(at) >= self.idle)
    }

    /// Those that are not leaks.
    pub fn in_use(&self, now: Timestamp) -> BTreeSet<String> {
        let fresh = self.last.iter().filter(|(_, at)| now.duration_since(**at) < self.idle);
        fresh.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: SignedDuration = SignedDuration::from_secs(45);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn what_is_seen_once_is_left_alone_and_what_stays_is_ended() {
        let mut suspects = Suspects::new(PATIENCE);
        let volume: BTreeSet<Leak> = [Leak::Volume("vol-1".to_owned())].into();
        assert_eq!(suspects.pass(&volume, at(0)), []);
        assert_eq!(suspects.pass(&volume, at(10)), []);
        assert_eq!(suspects.pass(&volume, at(60)), [Leak::Volume("vol-1".to_owned())]);
        assert_eq!(suspects.pass(&BTreeSet::new(), at(70)), []);
        assert_eq!(suspects.pass(&volume, at(80)), [], "it was gone in between: it is another one's now");
    }

    #[test]
    fn a_template_is_in_use_for_a_while_after_each_launch_and_after_the_start() {
        let names = ["a", "b"].map(str::to_owned);
        let mut uses = Uses::new(names.clone().into(), SignedDuration::from_secs(60), at(0));
        assert_eq!(uses.in_use(at(59)), names.into());
        assert!(!uses.used("a", at(59)));
        assert_eq!(uses.in_use(at(60)), ["a".to_owned()].into());
        assert_eq!(uses.in_use(at(119)), BTreeSet::new());
        assert!(uses.used("a", at(119)), "it may have been deleted meanwhile");
        assert_eq!(uses.in_use(at(120)), ["a".to_owned()].into());
    }

    proptest! {
        #[test]
        fn nothing_is_ended_that_was_not_there_in_every_pass_for_long_enough(
            passes in prop::collection::vec((1i64..40, prop::collection::btree_set(0u8..4, 0..4)), 1..40),
        ) {
            let mut suspects = Suspects::new(PATIENCE);
            let mut unbroken: BTreeMap<u8, i64> = BTreeMap::new();
            let mut now = 0;
            for (pause, seen) in passes {
                now += pause;
                unbroken.retain(|id, _| seen.contains(id));
                for id in &seen {
                    unbroken.entry(*id).or_insert(now);
                }
                let found = seen.iter().map(|id| Leak::Volume(id.to_string())).collect();
                let expected: Vec<Leak> = unbroken
                    .iter()
                    .filter(|(_, since)| now - **since >= PATIENCE.as_secs())
                    .map(|(id, _)| Leak::Volume(id.to_string()))
                    .collect();
                prop_assert_eq!(suspects.pass(&found, at(now)), expected);
            }
        }
    }
}
