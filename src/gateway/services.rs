//! What was published about Services, ready to be sent: each change encoded once, however many agents
//! get it.
//!
//! ```text
//!   publish(1->2) publish(2->3) ...      an agent has version v:
//!        |             |                   v = newest          -> nothing
//!        v             v                   v in the history    -> the changes after v
//!   [1->2] [2->3] ... (bounded)            v older, or unknown -> the whole (encoded once a version)
//! ```
//!
//! Version numbers are the publisher's and mean nothing to another process: a session always starts
//! with the whole, so that an agent that outlived a provider can't take a new number for an old one.

use crate::model::ServicesUpdate;
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc};

/// Changes kept for agents that are slow. One that is further behind gets the whole instead, which is
/// then the smaller message anyway.
const HISTORY: usize = 64;

struct Change {
    from: u64,
    to: u64,
    encoded: Bytes,
}

struct Whole {
    update: Arc<ServicesUpdate>,
    encoded: Option<Bytes>,
}

#[derive(Default)]
pub(super) struct ServicesLog {
    changes: VecDeque<Change>,
    whole: Option<Whole>,
}

impl ServicesLog {
    /// Takes a change and the state that it leads to. Returns the new version.
    pub fn publish(&mut self, update: &ServicesUpdate, whole: Arc<ServicesUpdate>) -> u64 {
        // A change that does not continue the newest one breaks the chain for all that came before.
        let continues = self.version() == Some(update.from)
            && update.to == whole.to
            && update.from != 0
            && update.from != update.to;
        if continues {
            self.changes.push_back(Change { from: update.from, to: update.to, encoded: encode(update) });
            if self.changes.len() > HISTORY {
                self.changes.pop_front();
            }
        } else {
            self.changes.clear();
        }
        let version = whole.to;
        self.whole = Some(Whole { update: whole, encoded: None });
        version
    }

    /// None before the first publication.
    pub fn version(&self) -> Option<u64> {
        self.whole.as_ref().map(|whole| whole.update.to)
    }

    /// What brings an agent from `has` (None: unknown) to the newest version, which is returned too.
    pub fn since(&mut self, has: Option<u64>) -> (Option<u64>, Vec<Bytes>) {
        let Some(whole) = &mut self.whole else { return (has, Vec::new()) };
        let newest = whole.update.to;
        if has == Some(newest) {
            return (has, Vec::new());
        }
        let start = has.and_then(|version| self.changes.iter().position(|change| change.from == version));
        let messages = match start {
            Some(start) => self.changes.iter().skip(start).map(|change| change.encoded.clone()).collect(),
            None => vec![whole.encoded.get_or_insert_with(|| encode(&whole.update)).clone()],
        };
        debug_assert!(self.changes.back().is_none_or(|change| change.to == newest));
        (Some(newest), messages)
    }
}

fn encode(update: &ServicesUpdate) -> Bytes {
    // Strings, numbers and addresses in vectors: nothing that JSON can't say.
    Bytes::from(serde_json::to_vec(update).expect("a services update has no map with odd keys"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectName, Protocol, ServicePort, ServicePortKey};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type State = BTreeMap<ServicePortKey, ServicePort>;

    fn port(name: u8, port: u16) -> ServicePort {
        ServicePort {
            service: ObjectName::new("default", format!("s{name}")),
            port_name: String::new(),
            cluster_ip: [10, 96, 0, name].into(),
            port,
            protocol: Protocol::Tcp,
            endpoints: vec![],
            affinity_seconds: None,
        }
    }

    /// What an agent does with a message, in the simplest words.
    fn apply(state: &mut State, version: &mut Option<u64>, message: &[u8]) {
        let update: ServicesUpdate = serde_json::from_slice(message).unwrap();
        if update.from == 0 {
            state.clear();
        } else {
            assert_eq!(*version, Some(update.from), "a change must follow what the agent has");
        }
        update.remove.iter().for_each(|key| assert!(state.remove(key).is_some()));
        update.upsert.iter().for_each(|port| {
            state.insert(port.key(), port.clone());
        });
        *version = Some(update.to);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u16),
        Remove(u8),
        /// The publisher starts over, with version numbers of its own.
        Restart,
        AgentReads(usize),
        AgentReconnects(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..8u8, 1..4u16).prop_map(|(name, port)| Step::Set(name, port)),
            3 => (0..8u8).prop_map(Step::Remove),
            1 => Just(Step::Restart),
            4 => (0..3usize).prop_map(Step::AgentReads),
            1 => (0..3usize).prop_map(Step::AgentReconnects),
        ]
    }

    proptest! {
        #[test]
        fn an_agent_that_applies_what_it_is_sent_has_what_the_publisher_has(
            steps in proptest::collection::vec(step(), 0..300)
        ) {
            let mut log = ServicesLog::default();
            let (mut truth, mut version) = (State::new(), 0u64);
            let mut agents = vec![(State::new(), None::<u64>, None::<u64>); 3];
            for step in steps {
                let (mut upsert, mut remove) = (vec![], vec![]);
                match step {
                    Step::Set(name, number) => upsert.push(port(name, number)),
                    Step::Remove(name) => {
                        let key = port(name, 0).key();
                        if truth.contains_key(&key) { remove.push(key) } else { continue }
                    }
                    Step::Restart => {
                        // A new process has a new log, and every agent connects anew.
                        log = ServicesLog::default();
                        version = 0;
                        agents.iter_mut().for_each(|agent| agent.2 = None);
                        continue;
                    }
                    Step::AgentReconnects(agent) => { agents[agent].2 = None; continue }
                    Step::AgentReads(agent) => {
                        let (state, has, sent) = &mut agents[agent];
                        let (now, messages) = log.since(*sent);
                        messages.iter().for_each(|message| apply(state, has, message));
                        *sent = now;
                        if version != 0 {
                            prop_assert_eq!(&*state, &truth);
                            prop_assert_eq!(*has, Some(version));
                        }
                        continue;
                    }
                }
                remove.iter().for_each(|key| { truth.remove(key); });
                upsert.iter().for_each(|port| { truth.insert(port.key(), port.clone()); });
                let update = ServicesUpdate { from: version, to: version + 1, upsert, remove };
                version += 1;
                let whole = ServicesUpdate { from: 0, to: version, upsert: truth.values().cloned().collect(), remove: vec![] };
                prop_assert_eq!(log.publish(&update, Arc::new(whole)), version);
            }
        }
    }

    #[test]
    fn two_hundred_agents_at_one_change_share_one_encoding() {
        let mut log = ServicesLog::default();
        let whole = |to| Arc::new(ServicesUpdate { from: 0, to, upsert: vec![port(1, 80)], remove: vec![] });
        log.publish(&whole(1), whole(1));
        log.publish(&ServicesUpdate { from: 1, to: 2, upsert: vec![port(2, 80)], remove: vec![] }, whole(2));
        for has in [None, Some(1)] {
            let first = log.since(has).1.remove(0);
            for _ in 0..200 {
                assert_eq!(log.since(has).1[0].as_ptr(), first.as_ptr());
            }
        }
    }

    #[test]
    fn an_agent_too_far_behind_gets_the_whole() {
        let mut log = ServicesLog::default();
        let whole = |to| Arc::new(ServicesUpdate { from: 0, to, upsert: vec![port(1, to as u16)], remove: vec![] });
        log.publish(&whole(1), whole(1));
        let last = 1 + HISTORY as u64 + 1;
        for to in 2..=last {
            let change = ServicesUpdate { from: to - 1, to, upsert: vec![port(1, to as u16)], remove: vec![] };
            log.publish(&change, whole(to));
        }
        let (version, messages) = log.since(Some(1));
        assert_eq!((version, messages.len()), (Some(last), 1));
        let sent: ServicesUpdate = serde_json::from_slice(&messages[0]).unwrap();
        assert_eq!((sent.from, sent.to), (0, last));
        assert_eq!(log.since(Some(2)).1.len(), HISTORY);
    }
}
