//! Who is connected, and what goes to each next. Shared by the sessions and by [`super::Gateway`];
//! one lock, held for a few instructions and never across an await.
//!
//! ```text
//!            join              leave              forget
//!   (none) -------> live slot -------> quiet slot --------> (none)
//!                    |  ^  ^              |  |                ^
//!                    |  |  +--- join -----+  +- nothing sent -+
//!                    +--+ join of a newer session: the older is cancelled first
//! ```
//!
//! A desired state is kept until its session has taken it to send; what is lost with a connection, or comes while
//! there is none, is the reconciler's to send again when the agent is back.

use super::services::ServicesLog;
use crate::{
    model::{InstanceId, ServicesUpdate},
    proto::ProviderMessage,
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// What a session says to its agent.
pub(super) type Outbound = mpsc::Sender<Said>;
/// Boxed: a queue has its first 32 places from the start, and most are never used.
pub(super) type Said = Box<Result<ProviderMessage, Status>>;

/// The newest desired state that was not sent yet, encoded.
#[derive(Default)]
pub(super) struct Next {
    desired: Mutex<Option<Bytes>>,
    news: Notify,
}

impl Next {
    fn put(&self, desired: Bytes) {
        *lock(&self.desired) = Some(desired);
        self.news.notify_one();
    }

    /// Waits for one. Nothing is taken by a call that is dropped before it returns.
    pub async fn take(&self) -> Bytes {
        loop {
            if let Some(desired) = lock(&self.desired).take() {
                return desired;
            }
            self.news.notified().await;
        }
    }
}

struct Live {
    number: u64,
    cancel: CancellationToken,
    /// Cancelled when the session's task is done: nothing more comes from it.
    ended: CancellationToken,
    outbound: Outbound,
    next: Arc<Next>,
}

struct Slot {
    live: Option<Live>,
    /// A desired state was sent: whoever did will forget the instance when it is no more.
    served: bool,
    /// Cancelled by `forget`; sessions and tunnels of this instance hang on it. Tunnels outlive a session: an agent
    /// with a renewed certificate connects anew.
    gone: CancellationToken,
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
    pub next: Arc<Next>,
    /// The session that this one replaces has been cancelled; wait for this before speaking.
    pub predecessor: Option<CancellationToken>,
}

pub(super) struct Hub {
    state: Mutex<State>,
    services: Mutex<ServicesLog>,
    services_version: watch::Sender<Option<u64>>,
    /// The newest session's number.
    joined: watch::Sender<u64>,
    root: CancellationToken,
}

impl Hub {
    pub fn new(root: CancellationToken) -> Self {
        Self {
            state: Mutex::default(),
            services: Mutex::default(),
            services_version: watch::Sender::new(None),
            joined: watch::Sender::new(0),
            root,
        }
    }

    /// To one that is not connected nothing is sent.
    pub fn set_desired(&self, instance: &InstanceId, desired: impl FnOnce() -> Bytes) {
        let next = lock(&self.state).slots.get_mut(instance).and_then(|slot| {
            slot.served = true;
            slot.live.as_ref().map(|live| Arc::clone(&live.next))
        });
        if let Some(next) = next {
            next.put(desired());
        }
    }

    pub fn forget(&self, instance: &InstanceId) {
        if let Some(slot) = lock(&self.state).slots.remove(instance) {
            slot.gone.cancel();
        }
    }

    pub fn join(&self, instance: &InstanceId, outbound: Outbound) -> Joined {
        let mut state = lock(&self.state);
        state.sessions += 1;
        let number = state.sessions;
        let slot = state.slots.entry(instance.clone()).or_insert_with(|| Slot {
            live: None,
            served: false,
            gone: self.root.child_token(),
        });
        let (cancel, ended, next) = (slot.gone.child_token(), CancellationToken::new(), Arc::default());
        let joined = Joined { number, cancel, ended, next, predecessor: None };
        let (cancel, ended, next) = (joined.cancel.clone(), joined.ended.clone(), Arc::clone(&joined.next));
        let predecessor = slot.live.replace(Live { number, cancel, ended, outbound, next }).map(|older| {
            older.cancel.cancel();
            older.ended
        });
        drop(state);
        self.joined.send_replace(number);
        Joined { predecessor, ..joined }
    }

    /// Says whether this was still the instance's session: then the instance is now disconnected.
    pub fn leave(&self, instance: &InstanceId, number: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(slot) = state.slots.get_mut(instance) else { return false };
        if slot.live.as_ref().is_none_or(|live| live.number != number) {
            return false;
        }
        slot.live = None;
        if !slot.served {
            state.slots.remove(instance);
        }
        true
    }

    /// What the instance's session says goes here; None when it isn't connected.
    pub fn outbound(&self, instance: &InstanceId) -> Option<Outbound> {
        lock(&self.state).slots.get(instance)?.live.as_ref().map(|live| live.outbound.clone())
    }

    /// The same, when it is connected: after a restart of ours the agents come back within seconds.
    pub async fn until_outbound(&self, instance: &InstanceId) -> Outbound {
        let mut joined = self.joined.subscribe();
        loop {
            if let Some(outbound) = self.outbound(instance) {
                return outbound;
            }
            if joined.changed().await.is_err() {
                // Only with the hub itself.
                std::future::pending::<()>().await;
            }
        }
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
        let (outbound, _said) = mpsc::channel(1);
        let first = hub.join(&instance, outbound.clone());
        let second = hub.join(&instance, outbound);
        assert!(first.cancel.is_cancelled() && !second.cancel.is_cancelled());
        assert!(second.predecessor.is_some());
        assert!(!hub.leave(&instance, first.number));
        assert!(hub.leave(&instance, second.number));
        assert!(hub.outbound(&instance).is_none());
    }

    #[test]
    fn forgetting_an_instance_ends_its_session_and_no_other() {
        let hub = Hub::new(CancellationToken::new());
        let (one, two) = (InstanceId::new("i-1"), InstanceId::new("i-2"));
        let (outbound, _said) = mpsc::channel(1);
        let (first, other) = (hub.join(&one, outbound.clone()), hub.join(&two, outbound));
        hub.forget(&one);
        assert!(first.cancel.is_cancelled() && !other.cancel.is_cancelled());
        assert!(!hub.leave(&one, first.number));
        assert!(hub.gone(&one).is_none() && hub.gone(&two).is_some());
    }
}
