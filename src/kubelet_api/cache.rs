//! A bounded map whose entries expire.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

struct State<K, V> {
    entries: HashMap<K, (Instant, V)>,
    /// In the order of their insertion, each with its expiry.
    order: VecDeque<(K, Instant)>,
}

pub(super) struct Cache<K, V> {
    capacity: usize,
    state: Mutex<State<K, V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::new(State { entries: HashMap::new(), order: VecDeque::new() }) }
    }

    pub fn get(&self, key: &K, now: Instant) -> Option<V> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.get(key).filter(|(expiry, _)| *expiry > now).map(|(_, value)| value.clone())
    }

    pub fn put(&self, key: K, value: V, now: Instant, life: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let expiry = now + life;
        state.entries.insert(key.clone(), (expiry, value));
        state.order.push_back((key, expiry));
        // The oldest go when there are too many. An entry put twice is twice in the order; only the
        // one with the present expiry stands for it.
        while state.order.len() > self.capacity {
            let Some((oldest, expiry)) = state.order.pop_front() else { break };
            if state.entries.get(&oldest).is_some_and(|(present, _)| *present == expiry) {
                state.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_expire_and_the_oldest_give_way() {
        let cache = Cache::new(2);
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        cache.put("a", 1, start, minute);
        assert_eq!(cache.get(&"a", start + Duration::from_secs(59)), Some(1));
        assert_eq!(cache.get(&"a", start + minute), None);
        cache.put("b", 2, start, minute);
        cache.put("c", 3, start, minute);
        assert_eq!((cache.get(&"a", start), cache.get(&"b", start), cache.get(&"c", start)), (None, Some(2), Some(3)));
    }

    #[test]
    fn an_entry_that_was_renewed_stays_as_long_as_the_renewal() {
        let cache = Cache::new(2);
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        cache.put("a", 1, start, second);
        cache.put("a", 2, start + second, second);
        cache.put("b", 3, start + second, second);
        assert_eq!(cache.get(&"a", start + second), Some(2));
    }
}
