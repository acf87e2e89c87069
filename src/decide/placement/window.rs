//! How long the first Pod of a burst waits for the others, so that few launch calls serve them all. Pure.
//!
//! ```text
//!   a Pod that something is to be launched for ──> open ── none came for `idle`,
//!                                                        or the first has waited for `longest` ──> closed: all leave
//! ```
//!
//! It is made anew of when each Pod began to wait, so there is nothing to remember. karpenter-core batches
//! the same way (its settings BATCH_IDLE_DURATION and BATCH_MAX_DURATION).

use jiff::{SignedDuration, Timestamp};

/// Zero, the default: nobody waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchWindow {
    /// Without a new Pod for this long the burst is over.
    pub idle: SignedDuration,
    /// The first waits no longer than this.
    pub longest: SignedDuration,
}

impl BatchWindow {
    /// Until when a burst is held, by when each of its Pods began to wait. None: it leaves, or there is no Pod. One
    /// that began later than now says that the clock was set back: nobody waits for it to catch up.
    pub fn open_until(&self, since: impl IntoIterator<Item = Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let (first, last) = since.into_iter().fold(None, |span, at| match span {
            None => Some((at, at)),
            Some((first, last)) => Some((at.min(first), at.max(last))),
        })?;
        let after = |at: Timestamp, wait| at.saturating_add(wait).unwrap_or(Timestamp::MAX);
        let closes = after(first, self.longest).min(after(last, self.idle));
        (first <= now && now < closes).then_some(closes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn window(idle: i64, longest: i64) -> BatchWindow {
        BatchWindow { idle: SignedDuration::from_millis(idle), longest: SignedDuration::from_millis(longest) }
    }

    #[test]
    fn without_a_window_nobody_waits_and_without_a_pod_there_is_none() {
        assert_eq!(BatchWindow::default().open_until([at(5), at(7)], at(7)), None);
        assert_eq!(BatchWindow::default().open_until([at(5)], at(4)), None);
        assert_eq!(window(35, 1000).open_until([], at(0)), None);
    }

    #[test]
    fn each_pod_prolongs_it_and_the_first_pods_patience_ends_it() {
        let window = window(100, 1000);
        assert_eq!(window.open_until([at(0)], at(99)), Some(at(100)));
        assert_eq!(window.open_until([at(0)], at(100)), None);
        assert_eq!(window.open_until([at(90), at(0)], at(100)), Some(at(190)));
        let stream = || (0..12).map(|n| at(n * 90));
        assert_eq!(
            (window.open_until(stream(), at(999)), window.open_until(stream(), at(1000))),
            (Some(at(1000)), None)
        );
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nobody() {
        assert_eq!(window(100, 1000).open_until([at(3_600_000), at(3_600_050)], at(10)), None);
    }

    proptest! {
        /// The reference: a clock that ticks every millisecond and looks whether someone came.
        #[test]
        fn it_closes_when_a_clock_that_is_looked_at_says_so(
            gaps in prop::collection::vec(0i64..80, 1..20),
            idle in 0i64..60,
            longest in 0i64..300,
        ) {
            let window = window(idle, longest);
            let arrivals: Vec<i64> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
            let came = |now: i64| arrivals.iter().copied().filter(move |at| *at <= now);
            let first = arrivals[0];
            let closed = (first..).find(|now| {
                let last = came(*now).max().unwrap();
                now - first >= longest || now - last >= idle
            }).unwrap();
            // Who asks at each moment, knowing who has come till then, is told the same.
            let told = (first..).find(|now| window.open_until(came(*now).map(at), at(*now)).is_none()).unwrap();
            prop_assert_eq!(told, closed);
            prop_assert!(closed - first <= longest);
        }
    }
}
