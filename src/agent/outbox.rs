//! Events on their way to the provider, kept while it is away: the newest ones, and a count of those
//! that had to go. Delivery is best effort, as with any Kubernetes event: what was handed to a
//! connection that then broke is not repeated.

use crate::model::AgentEvent;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// A crash-looping Pod makes about five events a minute at most: an hour's worth.
const CAPACITY: usize = 256;

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, AgentEvent)>,
    next: u64,
    dropped: u64,
}

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, event: AgentEvent) {
        let mut state = self.state();
        if state.queue.len() == CAPACITY {
            state.queue.pop_front();
            state.dropped += 1;
        }
        let number = state.next;
        state.next += 1;
        state.queue.push_back((number, event));
        drop(state);
        self.filled.notify_one();
    }

    /// The oldest event, when there is one. It stays until [`Outbox::sent`].
    pub async fn oldest(&self) -> (u64, AgentEvent) {
        loop {
            let filled = self.filled.notified();
            if let Some(oldest) = self.state().queue.front() {
                return oldest.clone();
            }
            filled.await;
        }
    }

    /// This one is on its way.
    pub fn sent(&self, number: u64) {
        let mut state = self.state();
        if state.queue.front().is_some_and(|(oldest, _)| *oldest == number) {
            state.queue.pop_front();
        }
    }

    /// How many were dropped since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.state().dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodUid;

    fn event(number: usize) -> AgentEvent {
        AgentEvent {
            uid: PodUid::new("u"),
            at: jiff::Timestamp::UNIX_EPOCH,
            warning: false,
            reason: "Pulled".into(),
            message: number.to_string(),
            container: None,
        }
    }

    #[tokio::test]
    async fn the_newest_events_are_kept_in_order_and_the_dropped_are_counted() {
        let outbox = Outbox::default();
        (0..CAPACITY + 3).for_each(|number| outbox.push(event(number)));
        for expected in 3..CAPACITY + 3 {
            let (number, event) = outbox.oldest().await;
            assert_eq!(event.message, expected.to_string());
            outbox.sent(number);
        }
        assert_eq!((outbox.take_dropped(), outbox.take_dropped()), (3, 0));
    }

    #[tokio::test]
    async fn an_event_that_was_not_sent_is_offered_again() {
        let outbox = Outbox::default();
        outbox.push(event(1));
        let first = outbox.oldest().await;
        assert_eq!(outbox.oldest().await, first);
        // One that was dropped meanwhile does not take its successor with it.
        outbox.sent(first.0 + 1);
        assert_eq!(outbox.oldest().await, first);
    }
}
