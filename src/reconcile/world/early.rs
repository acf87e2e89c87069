//! What was said of instances before the cloud told of them.
//!
//! An agent may be quicker than the answer of the call that launched it, or than the first description after a start.
//! It says its notices once a session, and the cloud's queue says a thing once at all: so both are kept until the
//! instance is known. While its agent is connected that has no bound of its own, since whoever connects has a
//! certificate. Otherwise it is kept until [`ABSENT`] descriptions that began later have missed the instance: the queue
//! speaks of others' instances too.

use super::{ABSENT, announcements::Announcements};
use crate::model::{Announced, Generation, InstanceId, Notice, PodUid};
use std::collections::BTreeMap;

/// So many instances at most whose agents are not connected; beyond that the oldest is forgotten.
const MOST: usize = 1000;

/// The Pod that an agent says to hold.
pub(super) type Holds = Option<(PodUid, Generation)>;

#[derive(Debug, Default)]
pub(super) struct Early {
    of: BTreeMap<InstanceId, Said>,
}

#[derive(Debug, Default)]
pub(super) struct Said {
    /// While its agent is connected.
    pub connected: Option<Holds>,
    pub announcements: Announcements,
    /// The round of descriptions that had begun when it was said last.
    round: u64,
    missed: u8,
}

impl Early {
    pub(super) fn connected(&mut self, id: InstanceId, holds: Holds, round: u64) {
        self.said(id, round).connected = Some(holds);
    }

    pub(super) fn disconnected(&mut self, id: &InstanceId) {
        let Some(said) = self.of.get_mut(id) else { return };
        said.connected = None;
        if said.announcements.is_empty() {
            self.of.remove(id);
        }
    }

    pub(super) fn told(&mut self, id: InstanceId, notices: Vec<Notice>, round: u64) {
        self.said(id, round).announcements.tell(notices);
    }

    pub(super) fn announced(&mut self, Announced { instance, notice }: Announced, round: u64) {
        let said = self.said(instance, round);
        said.announcements.queue(notice, said.connected.is_some());
    }

    fn said(&mut self, id: InstanceId, round: u64) -> &mut Said {
        if !self.of.contains_key(&id) {
            let kept = || self.of.iter().filter(|(_, said)| said.connected.is_none());
            if kept().count() >= MOST
                && let Some(oldest) = kept().min_by_key(|(_, said)| said.round).map(|(id, _)| id.clone())
            {
                self.of.remove(&oldest);
            }
        }
        let said = self.of.entry(id).or_default();
        (said.round, said.missed) = (round, 0);
        said
    }

    /// What was said of instances that are known by now.
    pub(super) fn take(&mut self, known: impl Fn(&InstanceId) -> bool) -> Vec<(InstanceId, Said)> {
        self.of.extract_if(.., |id, _| known(id)).collect()
    }

    /// All those still here were missing from the description of this round.
    pub(super) fn described(&mut self, round: u64) {
        self.of.retain(|_, said| {
            said.missed = said.missed.saturating_add(u8::from(said.round < round));
            said.connected.is_some() || said.missed < ABSENT
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixtures::at;

    fn announced(id: usize) -> Announced {
        Announced {
            instance: InstanceId::new(format!("i-{id:05}")),
            notice: Notice::Interruption { at: at(i64::try_from(id).unwrap()) },
        }
    }

    #[test]
    fn what_descriptions_that_began_later_miss_is_forgotten_unless_its_agent_is_connected() {
        let mut early = Early::default();
        let connected = InstanceId::new("i-1");
        early.announced(announced(7), 3);
        early.connected(connected.clone(), None, 3);
        early.told(connected.clone(), vec![Notice::Rebalance { since: at(1) }], 3);
        // The round that was under way may have asked before.
        for round in [3, 4] {
            early.described(round);
            assert_eq!(early.of.len(), 2, "after round {round}");
        }
        early.described(5);
        assert_eq!(early.of.keys().collect::<Vec<_>>(), [&connected]);
        early.disconnected(&connected);
        early.described(6);
        assert!(early.of.is_empty());
    }

    #[test]
    fn however_much_is_announced_of_others_instances_only_the_latest_is_kept() {
        let mut early = Early::default();
        early.connected(InstanceId::new("i-agent"), None, 0);
        for n in 0..3 * MOST {
            early.announced(announced(n), u64::try_from(n).unwrap());
        }
        let taken = early.take(|_| true);
        assert_eq!(taken.len(), MOST + 1);
        let oldest = &taken.iter().find(|(_, said)| said.connected.is_none()).unwrap().1.announcements;
        assert_eq!(oldest.iter().collect::<Vec<_>>(), [&announced(2 * MOST).notice]);
    }
}
