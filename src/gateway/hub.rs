//! Who is connected, and what each should have. Shared by the sessions and by [`super::Gateway`];
//! one lock, held for a few instructions and never across an await.
//!
//! ```text
//!            set_desired                    join                       forget
//!   (none) --------------> offline slot --------------> live slot -----------------> (none)
//!      |                        ^                        |  ^  |
//!      |        join            |      leave (desired)   |  |  | join of a newer session:
//!      +------------------------|------------------------+  +--+ the older is cancelled first
//!                               +--- leave, nothing desired -> (none)
//! ```

use super::services::ServicesLog;
use crate::{
    model::{InstanceId, ServicesUpdate},
    proto::OpenTunnel,
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Tunnel requests that wait for a slow session. Each waits 10 s at most.
const COMMANDS: usize = 16;

/// Boxed: a queue has its first 32 places from the start, and most are never used.
pub(super) type Commands = mpsc::Sender<Box<OpenTunnel>>;
/// Encoded: it is sent to each session of the instance as it is.
type Desired = watch::Sender<Option<Bytes>>;

struct Live {
    number: u64,
    cancel: CancellationToken,
    /// Cancelled when the session's task is done: nothing more comes from it.
    ended: CancellationToken,
    commands: Commands,
}

struct Slot {
    desired: Desired,
    live: Option<Live>,
    /// Cancelled by `forget`; sessions and tunnels of this instance hang on it.
    gone: CancellationToken,
}

impl Slot {
    fn new(root: &CancellationToken) -> Self {
        Self { desired: watch::Sender::new(None), live: None, gone: root.child_token() }
    }
}

#[derive(Default)]
struct State {
    slots: HashMap<InstanceId, Slot>,
    sessions: u64,
}

/// What a new session works with.
pub(super) struct Joined {
    pub number: u64,
    pub cancel: CancellationToken,
    pub ended: CancellationToken,
    pub desired: watch::Receiver<Option<Bytes>>,
    pub commands: mpsc::Receiver<Box<OpenTunnel>>,
    /// The session that this one replaces has been cancelled; wait for this before speaking.
    pub predecessor: Option<CancellationToken>,
}

pub(super) struct Hub {
    state: Mutex<State>,
    services: Mutex<ServicesLog>,
    services_version: watch::Sender<Option<u64>>,
    root: CancellationToken,
}

impl Hub {
    pub fn new(root: CancellationToken) -> Self {
        Self { state: Mutex::default(), services: Mutex::default(), services_version: watch::Sender::new(None), root }
    }

    pub fn set_desired(&self, instance: &InstanceId, desired: Bytes) {
        let mut state = lock(&self.state);
        let slot = state.slots.entry(instance.clone()).or_insert_with(|| Slot::new(&self.root));
        slot.desired.send_replace(Some(desired));
    }

    pub fn forget(&self, instance: &InstanceId) {
        if let Some(slot) = lock(&self.state).slots.remove(instance) {
            slot.gone.cancel();
        }
    }

    pub fn join(&self, instance: &InstanceId) -> Joined {
        let mut state = lock(&self.state);
        state.sessions += 1;
        let number = state.sessions;
        let slot = state.slots.entry(instance.clone()).or_insert_with(|| Slot::new(&self.root));
        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let (cancel, ended) = (slot.gone.child_token(), CancellationToken::new());
        let live = Live { number, cancel: cancel.clone(), ended: ended.clone(), commands: commands_in };
        let predecessor = slot.live.replace(live).map(|older| {
            older.cancel.cancel();
            older.ended
        });
        Joined { number, cancel, ended, desired: slot.desired.subscribe(), commands, predecessor }
    }

    /// Says whether this was still the instance's session: then the instance is now disconnected.
    pub fn leave(&self, instance: &InstanceId, number: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(slot) = state.slots.get_mut(instance) else { return false };
        if slot.live.as_ref().is_none_or(|live| live.number != number) {
            return false;
        }
        slot.live = None;
        let empty = slot.desired.borrow().is_none();
        if empty {
            state.slots.remove(instance);
        }
        true
    }

    /// Where to ask the instance's agent for a tunnel; None when it isn't connected.
    pub fn commands(&self, instance: &InstanceId) -> Option<Commands> {
        lock(&self.state).slots.get(instance)?.live.as_ref().map(|live| live.commands.clone())
    }

    /// Cancelled when the instance is forgotten. None if it already is.
    pub fn gone(&self, instance: &InstanceId) -> Option<CancellationToken> {
        lock(&self.state).slots.get(instance).map(|slot| slot.gone.clone())
    }

    pub fn publish_services(&self, update: &ServicesUpdate, whole: Arc<ServicesUpdate>) {
        let version = lock(&self.services).publish(update, whole);
        self.services_version.send_replace(Some(version));
    }

    pub fn watch_services(&self) -> watch::Receiver<Option<u64>> {
        self.services_version.subscribe()
    }

    pub fn services_since(&self, has: Option<u64>) -> (Option<u64>, Vec<Bytes>) {
        lock(&self.services).since(has)
    }
}

/// Nothing that runs under these locks can panic half-way through a change, so a poisoned lock still
/// guards a whole state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_session_replaces_the_older_and_only_the_newest_disconnects() {
        let hub = Hub::new(CancellationToken::new());
        let instance = InstanceId::new("i-1");
        let first = hub.join(&instance);
        let second = hub.join(&instance);
        assert!(first.cancel.is_cancelled() && !second.cancel.is_cancelled());
        assert!(second.predecessor.is_some());
        assert!(!hub.leave(&instance, first.number));
        assert!(hub.leave(&instance, second.number));
        assert!(hub.commands(&instance).is_none());
    }

    #[test]
    fn forgetting_an_instance_ends_its_session_and_no_other() {
        let hub = Hub::new(CancellationToken::new());
        let (one, two) = (InstanceId::new("i-1"), InstanceId::new("i-2"));
        let (first, other) = (hub.join(&one), hub.join(&two));
        hub.forget(&one);
        assert!(first.cancel.is_cancelled() && !other.cancel.is_cancelled());
        assert!(!hub.leave(&one, first.number));
        assert!(hub.gone(&one).is_none() && hub.gone(&two).is_some());
    }
}
