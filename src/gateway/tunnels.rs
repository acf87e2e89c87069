//! Tunnels that were asked for and not yet opened, and the bytes of those that are open.
//!
//! ```text
//!   open_tunnel                       the agent's Tunnel call
//!       | id, pending ---OpenTunnel--->   |
//!       |                                 | opened(id, head): pending is taken once, and only by
//!       |<-----(head, duplex)-------------+ the instance that it was made for
//!       |  10 s: TimedOut; caller gone: pending forgotten
//! ```

use crate::{
    model::{InstanceId, TunnelHead},
    pipe::{self, PipeError},
    ports::TunnelError,
    proto::TunnelFrame,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::DuplexStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Between the caller and the frames: two frames' worth.
const DUPLEX_BYTES: usize = 64 * 1024;

struct Waiting {
    instance: InstanceId,
    answer: oneshot::Sender<Answer>,
    permit: OwnedSemaphorePermit,
}

pub(super) type Answer = (TunnelHead, DuplexStream);

/// Why an agent's Tunnel call gets nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotWaiting {
    /// Nobody asked, or no longer.
    Unknown,
    /// It was asked of another instance.
    OtherInstance,
}

#[derive(Default)]
struct State {
    waiting: HashMap<String, Waiting>,
    /// One semaphore an instance: what is open and what is asked for.
    permits: HashMap<InstanceId, Arc<Semaphore>>,
}

#[derive(Clone, Default)]
pub(super) struct Tunnels {
    state: Arc<Mutex<State>>,
}

/// A request that waits for its tunnel. Dropped: nobody waits any more.
pub(super) struct Pending {
    pub id: String,
    pub answer: oneshot::Receiver<Answer>,
    tunnels: Tunnels,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.tunnels.with(|state| state.waiting.remove(&self.id));
    }
}

/// A tunnel that the right agent has taken up; the permit counts it while it lives.
pub(super) struct Taken {
    pub answer: oneshot::Sender<Answer>,
    _permit: OwnedSemaphorePermit,
}

impl Tunnels {
    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn ask(&self, instance: &InstanceId) -> Result<Pending, TunnelError> {
        // 128 random bits: an agent can't guess another's, and would be refused if it did.
        let id = format!("{:032x}", rand::random::<u128>());
        let (sender, answer) = oneshot::channel();
        self.with(|state| {
            let permits =
                state.permits.entry(instance.clone()).or_insert_with(|| Arc::new(Semaphore::new(pipe::MAX_TUNNELS)));
            let permit = Arc::clone(permits).try_acquire_owned().map_err(|_| {
                TunnelError::Broken(instance.clone(), format!("it has {} tunnels already", pipe::MAX_TUNNELS))
            })?;
            state.waiting.insert(id.clone(), Waiting { instance: instance.clone(), answer: sender, permit });
            Ok(())
        })?;
        Ok(Pending { id, answer, tunnels: self.clone() })
    }

    pub fn take(&self, instance: &InstanceId, id: &str) -> Result<Taken, NotWaiting> {
        self.with(|state| {
            if state.waiting.get(id).ok_or(NotWaiting::Unknown)?.instance != *instance {
                return Err(NotWaiting::OtherInstance);
            }
            let waiting = state.waiting.remove(id).ok_or(NotWaiting::Unknown)?;
            Ok(Taken { answer: waiting.answer, _permit: waiting.permit })
        })
    }

    pub fn forget(&self, instance: &InstanceId) {
        self.with(|state| {
            state.permits.remove(instance);
            // Dropping the sender tells the caller.
            state.waiting.retain(|_, waiting| waiting.instance != *instance);
        });
    }
}

/// Hands the tunnel to whoever asked and carries its bytes until it ends.
pub(super) async fn carry(
    taken: Taken,
    head: TunnelHead,
    inbound: Streaming<TunnelFrame>,
    outbound: mpsc::Sender<Result<TunnelFrame, Status>>,
    gone: CancellationToken,
) {
    let Taken { answer, _permit } = taken;
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    if answer.send((head, theirs)).is_err() {
        // The caller gave up in the meantime; ending the call tells the agent.
        return;
    }
    let pumped = tokio::select! {
        pumped = pipe::pump(inbound, outbound, Ok, tokio::io::split(ours)) => pumped,
        () = gone.cancelled() => Err(PipeError::Gone),
    };
    if let Err(error) = pumped {
        // Usual: either side may leave at any time. The agent is told by the end of the call.
        tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_asked_instance_can_take_a_tunnel_and_only_once() {
        let tunnels = Tunnels::default();
        let (a, b) = (InstanceId::new("i-a"), InstanceId::new("i-b"));
        let pending = tunnels.ask(&b).unwrap();
        assert_eq!(tunnels.take(&a, &pending.id).err(), Some(NotWaiting::OtherInstance));
        assert!(tunnels.take(&b, &pending.id).is_ok());
        assert_eq!(tunnels.take(&b, &pending.id).err(), Some(NotWaiting::Unknown));
    }

    #[test]
    fn a_tunnel_nobody_waits_for_any_more_can_not_be_taken() {
        let tunnels = Tunnels::default();
        let instance = InstanceId::new("i-a");
        let id = tunnels.ask(&instance).unwrap().id.clone();
        assert_eq!(tunnels.take(&instance, &id).err(), Some(NotWaiting::Unknown));
    }

    #[test]
    fn tunnels_of_one_instance_are_bounded_and_leave_the_others_alone() {
        let tunnels = Tunnels::default();
        let (a, b) = (InstanceId::new("i-a"), InstanceId::new("i-b"));
        let mut pending: Vec<_> = (0..pipe::MAX_TUNNELS).map(|_| tunnels.ask(&a).unwrap()).collect();
        assert!(matches!(tunnels.ask(&a), Err(TunnelError::Broken(..))));
        assert!(tunnels.ask(&b).is_ok());
        let taken = tunnels.take(&a, &pending[0].id).unwrap();
        assert!(tunnels.ask(&a).is_err(), "an open tunnel still counts");
        drop(taken);
        pending.push(tunnels.ask(&a).unwrap());
    }
}
