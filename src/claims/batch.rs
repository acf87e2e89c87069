//! What is to be written for a batch of claims. Pure.

use super::Claims;
use crate::model::{InstanceId, bootstrap::KeyFingerprint};

/// The whole that is to be in the store. None: nothing is to be written, since all that are claimed belong to somebody already, durably.
///
/// `stored` is what is in the store; `remembered` also what was, and was removed by somebody. Of two that claim
/// an instance the first has it. Those that are `gone` are dropped along the way; for them alone nothing is written.
pub fn next<'a>(
    stored: &Claims,
    remembered: &Claims,
    asked: impl Iterator<Item = (&'a InstanceId, KeyFingerprint)>,
    gone: &[InstanceId],
) -> Option<Claims> {
    let mut next = remembered.clone();
    for id in gone {
        next.remove(id);
    }
    let mut durable = true;
    for (instance, key) in asked {
        durable &= stored.contains_key(instance) && !gone.contains(instance);
        next.entry(instance.clone()).or_insert(key);
    }
    (!durable).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> InstanceId {
        InstanceId::new(format!("i-{n}"))
    }

    fn key(n: u8) -> KeyFingerprint {
        KeyFingerprint::of(&[n])
    }

    fn claims() -> impl Strategy<Value = Claims> {
        prop::collection::btree_map((0..6u8).prop_map(id), (0..3u8).prop_map(key), 0..6)
    }

    proptest! {
        #[test]
        fn who_has_an_instance_keeps_it_and_of_those_who_ask_the_first_gets_it(
            remembered in claims(),
            lost in prop::collection::vec(0..6u8, 0..3),
            asked in prop::collection::vec((0..6u8, 0..3u8), 0..8),
        ) {
            let mut stored = remembered.clone();
            stored.retain(|instance, _| !lost.iter().any(|n| id(*n) == *instance));
            let ids: Vec<_> = asked.iter().map(|(instance, by)| (id(*instance), key(*by))).collect();
            let batch = next(&stored, &remembered, ids.iter().map(|(id, key)| (id, *key)), &[]);
            let after = batch.as_ref().unwrap_or(&stored);
            for n in 0..6 {
                let first = ids.iter().find(|(instance, _)| *instance == id(n)).map(|(_, key)| *key);
                let before = remembered.get(&id(n)).copied();
                if first.is_some() {
                    prop_assert_eq!(after.get(&id(n)).copied(), before.or(first));
                } else if batch.is_some() {
                    prop_assert_eq!(after.get(&id(n)).copied(), before);
                }
            }
            let all_stored = ids.iter().all(|(instance, _)| stored.contains_key(instance));
            prop_assert_eq!(batch.is_none(), all_stored);
        }
    }

    #[test]
    fn what_is_gone_is_dropped_with_the_next_write_and_causes_none() {
        let stored: Claims = [(id(1), key(1)), (id(2), key(2))].into();
        let ask = |n: u8| next(&stored, &stored, [(&id(n), key(3))].into_iter(), &[id(1)]);
        assert_eq!(ask(2), None);
        assert_eq!(ask(3), Some([(id(2), key(2)), (id(3), key(3))].into()));
    }
}
