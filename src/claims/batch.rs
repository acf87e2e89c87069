//! What is to be written for a batch of claims. Pure.

use super::Claims;
use crate::model::{InstanceId, bootstrap::KeyFingerprint};
use std::time::Duration;

/// How long claims are kept of instances that the cloud names no more, and how many claims there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub gone_after: Duration,
    /// Where room is short, those that are missing longest are dropped before, but never sooner than this.
    pub gone_soonest: Duration,
    pub most: usize,
}

/// Those of the missing, each with for how long, that are dropped with the next write; `claims` are with them.
pub fn gone<'a>(
    missing: impl Iterator<Item = (&'a InstanceId, Duration)>,
    claims: usize,
    keep: &Keep,
) -> Vec<InstanceId> {
    let mut missing: Vec<(Duration, &InstanceId)> = missing.map(|(id, since)| (since, id)).collect();
    missing.sort_unstable_by(|a, b| b.cmp(a));
    let above = claims.saturating_sub(keep.most);
    let due = |place: usize, since: Duration| since >= keep.gone_after || place < above && since >= keep.gone_soonest;
    let dropped = missing.into_iter().enumerate().filter(|(place, (since, _))| due(*place, *since));
    dropped.map(|(_, (_, id))| id.clone()).collect()
}

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

    proptest! {
        #[test]
        fn who_is_gone_for_long_goes_and_before_that_the_longest_missing_while_room_is_short(
            ages in prop::collection::vec(0u64..100, 0..12),
            living in 0usize..12,
            most in 0usize..20,
            (soonest, after) in (0u64..50).prop_flat_map(|soonest| (Just(soonest), soonest..100)),
        ) {
            let seconds = Duration::from_secs;
            let ids: Vec<InstanceId> = (0u8..12).map(id).collect();
            let missing: Vec<(&InstanceId, Duration)> = ids.iter().zip(ages.iter().map(|age| seconds(*age))).collect();
            let keep = Keep { gone_after: seconds(after), gone_soonest: seconds(soonest), most };
            let claims = missing.len() + living;
            let dropped = gone(missing.iter().copied(), claims, &keep);
            let age = |id: &InstanceId| missing.iter().find(|(one, _)| *one == id).map(|(_, age)| *age).unwrap();
            let kept: Vec<Duration> =
                missing.iter().filter(|(id, _)| !dropped.contains(id)).map(|(_, age)| *age).collect();
            prop_assert!(dropped.iter().all(|id| age(id) >= keep.gone_soonest));
            prop_assert!(kept.iter().all(|age| *age < keep.gone_after));
            let early = dropped.iter().filter(|id| age(id) < keep.gone_after).count();
            if early > 0 {
                prop_assert!(claims - dropped.len() >= most, "no more than room is short of");
                let youngest = dropped.iter().map(age).min().unwrap();
                prop_assert!(kept.iter().all(|age| *age <= youngest), "the longest missing first");
            }
            let room = claims - dropped.len() <= most;
            prop_assert!(room || kept.iter().all(|age| *age < keep.gone_soonest), "room is made of all that may go");
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
