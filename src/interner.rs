//! Equal values, each there once: the labels of a Deployment's Pods, the tags of instances that were launched together.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// Fewer are not worth looking through.
const FEW: usize = 64;

/// Gives equal values one allocation. What nobody else holds any more goes when the number of values has doubled.
#[derive(Debug)]
pub struct Interner<T> {
    known: HashSet<Arc<T>>,
    prune_at: usize,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), prune_at: FEW }
    }
}

impl<T: Eq + Hash> Interner<T> {
    pub fn intern(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.prune_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.prune_at = FEW.max(2 * self.known.len());
        }
        let value = Arc::new(value);
        self.known.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_what_nobody_holds_goes() {
        let mut interner = Interner::default();
        let held: Vec<Arc<String>> = (0..1000).map(|n| interner.intern(format!("held {}", n % 10))).collect();
        assert!(held.iter().all(|value| Arc::ptr_eq(value, &interner.intern(value.to_string()))));
        for n in 0..10_000 {
            interner.intern(format!("passing {n}"));
            assert!(interner.known.len() <= FEW, "{}", interner.known.len());
        }
        assert!(Arc::ptr_eq(&held[0], &interner.intern("held 0".to_owned())));
    }
}
