//! How long to wait before trying again: pure, the same rules as a kubelet's.
//!
//! Four kinds:
//! - a container that exits and is to be restarted ([`restart`]): at once the first time, then after
//!   10 s, doubled with each restart up to 300 s, and from the beginning again after ten minutes of
//!   running (pkg/kubelet: `containerBackOffPeriod`, `MaxCrashLoopBackOff`; client-go
//!   flowcontrol.Backoff forgets an entry after twice its cap);
//! - an image that can't be pulled ([`pull_delay`]): 10 s doubled up to 300 s;
//! - our own work that failed ([`retry_delay`]): sandbox, volumes, creating a container;
//! - an instance that never registered ([`launch_delay`]): as a container that exits.
//!
//! Nothing needs to be remembered for restarts: each attempt carries, as an annotation that the
//! runtime keeps, the delay that follows it ([`Restart::next_delay_seconds`]).

use jiff::{SignedDuration, Timestamp};

const INITIAL_SECONDS: u32 = 10;
const CAP_SECONDS: u32 = 300;
/// Twice the cap: client-go's flowcontrol.Backoff.hasExpired.
const FORGET_SECONDS: i64 = 600;

/// When a container that ended may be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    pub not_before: Timestamp,
    /// The wait itself, for the message.
    pub delay_seconds: u32,
    /// What to write on the new attempt: the delay that follows *its* end.
    pub next_delay_seconds: u32,
}

/// The attempt that ended was created at `created_at` with `delay_seconds` written on it (0 for the
/// first), and ended at `finished_at`.
pub fn restart(delay_seconds: u32, created_at: Timestamp, finished_at: Timestamp) -> Restart {
    let ran = finished_at.duration_since(created_at);
    let delay = if ran > SignedDuration::from_secs(FORGET_SECONDS) { 0 } else { delay_seconds.min(CAP_SECONDS) };
    Restart {
        not_before: finished_at.saturating_add(seconds(delay)).unwrap_or(Timestamp::MAX),
        delay_seconds: delay,
        next_delay_seconds: delay.saturating_mul(2).clamp(INITIAL_SECONDS, CAP_SECONDS),
    }
}

/// After so many failed pulls in a row (1 or more).
pub fn pull_delay(failures: u32) -> SignedDuration {
    doubled(INITIAL_SECONDS, CAP_SECONDS, failures)
}

/// After so many failures in a row (1 or more) of work that is ours: 1 s doubled up to 10 s (the
/// kubelet's pod worker waits 10 s at once; a sooner try costs nothing on an instance with one Pod).
pub fn retry_delay(failures: u32) -> SignedDuration {
    doubled(1, 10, failures)
}

/// Before the next launch after so many in a row (1 or more) whose instances never registered: none after the first, since
/// one may be lost by chance; then 10 s doubled up to 300 s.
pub fn launch_delay(failures: u32) -> SignedDuration {
    match failures.checked_sub(1) {
        None | Some(0) => SignedDuration::ZERO,
        Some(further) => doubled(INITIAL_SECONDS, CAP_SECONDS, further),
    }
}

fn doubled(initial: u32, cap: u32, failures: u32) -> SignedDuration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    seconds(initial.saturating_mul(factor).min(cap))
}

fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_never_registers_is_launched_again_at_once_and_then_as_a_container_that_exits() {
        let delays = [1, 2, 3, 4, 5, 6, 7, 8, u32::MAX].map(|failures| launch_delay(failures).as_secs());
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_crashing_container_restarts_at_once_then_waits_ten_seconds_doubled_up_to_five_minutes() {
        let mut written = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let next = restart(written, at(1000), at(1001));
            assert_eq!(next.not_before, at(1001 + i64::from(next.delay_seconds)));
            waits.push(next.delay_seconds);
            written = next.next_delay_seconds;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_clean_minutes_reset_it() {
        assert_eq!(restart(300, at(0), at(600)).delay_seconds, 300);
        let reset = restart(300, at(0), at(601));
        assert_eq!((reset.delay_seconds, reset.next_delay_seconds), (0, 10));
    }

    #[test]
    fn pulls_and_retries_double_up_to_their_caps() {
        let pulls: Vec<i64> = (1..=7).map(|n| pull_delay(n).as_secs()).collect();
        assert_eq!(pulls, [10, 20, 40, 80, 160, 300, 300]);
        let retries: Vec<i64> = (1..=6).map(|n| retry_delay(n).as_secs()).collect();
        assert_eq!(retries, [1, 2, 4, 8, 10, 10]);
        assert_eq!(pull_delay(u32::MAX).as_secs(), 300);
    }

    /// client-go's flowcontrol.Backoff as the kubelet's doBackOff uses it, with its memory.
    #[derive(Default)]
    struct Reference {
        entry: Option<(i64, i64)>,
    }

    impl Reference {
        /// The wait after an end at `finished`; the restart then happens right after it.
        fn restart(&mut self, finished: i64) -> i64 {
            let live = self.entry.filter(|(_, updated)| finished - updated <= FORGET_SECONDS);
            let wait = live.map_or(0, |(delay, _)| delay);
            let next = live.map_or(10, |(delay, _)| (delay * 2).min(300));
            self.entry = Some((next, finished + wait));
            wait
        }
    }

    proptest! {
        #[test]
        fn what_is_written_on_attempts_gives_the_kubelets_waits(runs in prop::collection::vec(0i64..1000, 1..20)) {
            let mut reference = Reference::default();
            let (mut created, mut written) = (0, 0);
            for ran in runs {
                let finished = created + ran;
                let ours = restart(written, at(created), at(finished));
                // The first attempt has no entry, however long it ran.
                prop_assert_eq!(i64::from(ours.delay_seconds), reference.restart(finished));
                created = finished + i64::from(ours.delay_seconds);
                written = ours.next_delay_seconds;
            }
        }
    }
}
