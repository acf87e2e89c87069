//! EC2's token buckets, mirrored: a call waits here until EC2 has tokens for it, so that none is throttled.
//!
//! Every call takes a token of its action's bucket; launches and terminations take one a machine of a resource
//! bucket besides. Callers are served in their order: each is told when its turn is, and its tokens are taken
//! at once. EC2's buckets are the account's and the region's, so others may draw on them too: a call that is
//! throttled all the same empties the mirror, which then fills as EC2's does.
//!
//! Source: AWS, "Throttling for the Amazon EC2 API", the tables of bucket sizes and refill rates.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Of EC2's refill: calls arrive less evenly than they leave.
const SHARE: f64 = 0.95;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RunInstances,
    TerminateInstances,
    /// CreateFleet, launch templates, deletions.
    Mutating,
    /// Filtered or paged, as all of ours are.
    Describe,
    LaunchedMachines,
    TerminatedMachines,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::RunInstances,
        Self::TerminateInstances,
        Self::Mutating,
        Self::Describe,
        Self::LaunchedMachines,
        Self::TerminatedMachines,
    ];

    /// Tokens, and tokens a second.
    fn limit(self) -> (f64, f64) {
        match self {
            Self::RunInstances => (5., 2.),
            Self::TerminateInstances => (100., 5.),
            Self::Mutating => (50., 5.),
            Self::Describe => (100., 20.),
            Self::LaunchedMachines => (1000., 2.),
            Self::TerminatedMachines => (1000., 20.),
        }
    }
}

/// One bucket. What is below zero is promised already.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    size: f64,
    refill: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(kind: Kind, now: Instant) -> Self {
        let (size, refill) = kind.limit();
        Self::full(size, refill * SHARE, now)
    }

    pub fn full(size: f64, refill: f64, now: Instant) -> Self {
        Self { size, refill, level: size, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + elapsed * self.refill).min(self.size);
        self.at = now;
    }

    /// Takes the tokens; how long to wait until they are there.
    fn take(&mut self, tokens: u32, now: Instant) -> Duration {
        self.fill(now);
        self.level -= f64::from(tokens);
        Duration::from_secs_f64((-self.level / self.refill).max(0.))
    }

    /// Takes a token if one is there.
    pub fn take_one_now(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.level >= 1.;
        if there {
            self.level -= 1.;
        }
        there
    }

    fn give(&mut self, tokens: u32, now: Instant) {
        self.fill(now);
        self.level = (self.level + f64::from(tokens)).min(self.size);
    }

    fn empty(&mut self, now: Instant) {
        self.fill(now);
        self.level = self.level.min(0.);
    }
}

pub struct Limits(Mutex<[Bucket; Kind::ALL.len()]>);

impl Default for Limits {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Kind::ALL.map(|kind| Bucket::new(kind, now))))
    }
}

impl Limits {
    /// Returns when EC2 has these tokens.
    pub async fn take(&self, kind: Kind, tokens: u32) {
        let wait = self.with(kind, |bucket, now| bucket.take(tokens, now));
        if !wait.is_zero() {
            tracing::debug!(?kind, ?wait, "a call waits for EC2's limits");
            tokio::time::sleep(wait).await;
        }
    }

    /// Of a call that EC2 did nothing of: what was taken for what it would have done is there still.
    pub fn give_back(&self, kind: Kind, tokens: u32) {
        self.with(kind, |bucket, now| bucket.give(tokens, now));
    }

    /// EC2 had fewer tokens than was thought.
    pub fn throttled(&self, kind: Kind) {
        self.with(kind, |bucket, now| bucket.empty(now));
    }

    fn with<T>(&self, kind: Kind, change: impl FnOnce(&mut Bucket, Instant) -> T) -> T {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Kind::ALL is in the order of the variants.
        change(&mut buckets[kind as usize], Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn five_launch_calls_go_at_once_and_the_sixth_waits_for_its_token() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Kind::RunInstances, now);
        for _ in 0..5 {
            assert_eq!(bucket.take(1, now), Duration::ZERO);
        }
        let wait = bucket.take(1, now);
        assert!(wait > Duration::from_millis(500) && wait < Duration::from_millis(550), "{wait:?}");
    }

    #[test]
    fn after_a_throttled_call_the_next_waits() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Kind::Mutating, now);
        bucket.empty(now);
        assert!(bucket.take(1, now) > Duration::from_millis(200));
    }

    #[test]
    fn what_a_refused_call_gives_back_the_next_finds_and_the_bucket_is_never_fuller_than_full() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Kind::TerminatedMachines, now);
        for _ in 0..20 {
            assert_eq!(bucket.take(500, now), Duration::ZERO);
            bucket.give(500, now);
        }
        bucket.give(500, now);
        assert_eq!(bucket.take(1000, now), Duration::ZERO);
        assert!(bucket.take(1, now) > Duration::ZERO);
    }

    #[test]
    fn who_does_not_wait_gets_what_is_there_and_then_one_with_each_refill() {
        let now = Instant::now();
        let mut bucket = Bucket::full(3., 1., now);
        let got = (0..10).filter(|_| bucket.take_one_now(now)).count();
        assert_eq!(got, 3);
        assert!(!bucket.take_one_now(now + Duration::from_millis(900)));
        assert!(bucket.take_one_now(now + Duration::from_secs(1)));
        assert!(!bucket.take_one_now(now + Duration::from_secs(1)));
    }

    #[test]
    fn every_kind_has_a_bucket_of_its_own() {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
        }
    }

    proptest! {
        /// A model of EC2's side: whatever goes when it is told to finds its tokens there.
        #[test]
        fn who_waits_as_told_is_never_throttled(steps in prop::collection::vec((0u64..2000, 1u32..5), 1..60)) {
            let start = Instant::now();
            let mut bucket = Bucket::new(Kind::RunInstances, start);
            let (size, refill) = Kind::RunInstances.limit();
            let (mut level, mut filled) = (size, start);
            let (mut now, mut last) = (start, start);
            for (pause, tokens) in steps {
                now += Duration::from_millis(pause);
                let goes = now + bucket.take(tokens, now);
                prop_assert!(goes >= last, "in the order of asking");
                last = goes;
                level = (level + goes.duration_since(filled).as_secs_f64() * refill).min(size);
                filled = goes;
                prop_assert!(level + 1e-6 >= f64::from(tokens), "{level} of {tokens}");
                level -= f64::from(tokens);
            }
        }
    }
}
