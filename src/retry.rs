//! How long to wait before trying again: exponential, with jitter, without end.
//!
//! The one module that knows the `backoff` crate. That crate was chosen by this project and is no
//! longer maintained (RUSTSEC-2025-0012); nobody else imports it, so that it can be replaced here.

use backoff::{ExponentialBackoff, backoff::Backoff as _};
use std::time::Duration;

/// A share of the wait is random, so that many that failed together don't come back together.
const JITTER: f64 = 0.3;
const MULTIPLIER: f64 = 2.0;

/// The waits between attempts of one task.
#[derive(Debug)]
pub struct Backoff {
    inner: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Starts at about `first`, doubles, and never waits longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let inner = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: JITTER,
            multiplier: MULTIPLIER,
            max_interval: longest,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { inner, longest }
    }

    /// The wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        // None is for max_elapsed_time only, which is not set. The crate caps the interval before it
        // adds the jitter; the promise here is about the sum.
        self.inner.next_backoff().unwrap_or(self.longest).min(self.longest)
    }

    /// After a success: start over.
    pub fn reset(&mut self) {
        self.inner.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_start_over_after_a_success() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= first.mul_f64(1.4), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= longest && *wait >= first.mul_f64(0.6)), "{waits:?}");
        assert!(waits[19] >= longest.mul_f64(0.6), "{waits:?}");
        backoff.reset();
        assert!(backoff.next_wait() <= first.mul_f64(1.4));
    }
}
