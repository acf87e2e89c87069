//! How many standard Pods there should be: Knative's KPA, in short.
//!
//! The average of the requests at work over the stable window (60 s) and the panic window (a tenth of it), sampled
//! each 2 s; divided by 70 % of the concurrency. Twice what there is in the panic window means panic: no scaling
//! down while it lasts. (knative.dev/serving pkg/autoscaler/scaling/autoscaler.go and config-autoscaler's defaults.
//! Not here: rate limits but the one down, HPA, activation scale, scale-down delay.)

use super::Millis;

/// Knative's `tick-interval`.
pub const TICK: Millis = 2_000;
/// `container-concurrency-target-percentage`.
const TARGET_PERCENT: u64 = 70;
/// `panic-threshold-percentage` / 100.
const PANIC: u64 = 2;
/// `max-scale-down-rate`.
const DOWN_RATE: u32 = 2;

pub struct Autoscaler {
    /// Request-milliseconds of each tick, a ring.
    buckets: Vec<u64>,
    panic_buckets: usize,
    next: usize,
    stable: u64,
    panic: u64,
    current: u64,
    last: Millis,
    /// Requests at work or waiting.
    load: u64,
    panicking: usize,
    /// Request-milliseconds a Pod should have in a tick.
    target: u64,
}

impl Autoscaler {
    pub fn new(window: Millis, concurrency: u32) -> Self {
        let count = usize::try_from(window / TICK).unwrap_or(1).max(1);
        Self {
            buckets: vec![0; count],
            panic_buckets: (count / 10).max(1),
            next: 0,
            stable: 0,
            panic: 0,
            current: 0,
            last: 0,
            load: 0,
            panicking: 0,
            target: (u64::from(concurrency) * TARGET_PERCENT * TICK.unsigned_abs() / 100).max(1),
        }
    }

    /// From now on this many requests are at work or waiting.
    pub fn load(&mut self, now: Millis, load: u64) {
        self.current += self.load * (now - self.last).unsigned_abs();
        (self.last, self.load) = (now, load);
    }

    /// Nothing is seen any more, nothing is at work, and no panic holds Pods up: further ticks change nothing.
    pub fn is_blank(&self) -> bool {
        self.stable == 0 && self.current == 0 && self.load == 0 && self.panicking == 0
    }

    /// How many Pods there should be, given how many are ready.
    pub fn tick(&mut self, now: Millis, ready: u32) -> u32 {
        self.load(now, self.load);
        let count = self.buckets.len();
        let leaves_panic = self.buckets[(self.next + count - self.panic_buckets) % count];
        self.stable = self.stable + self.current - self.buckets[self.next];
        self.panic = self.panic + self.current - leaves_panic;
        self.buckets[self.next] = self.current;
        self.current = 0;
        self.next = (self.next + 1) % count;
        let pods =
            |sum: u64, buckets: usize| u32::try_from(sum.div_ceil(self.target * buckets as u64)).unwrap_or(u32::MAX);
        let (stable, panic) = (pods(self.stable, count), pods(self.panic, self.panic_buckets));
        if u64::from(panic) >= PANIC * u64::from(ready.max(1)) {
            self.panicking = count;
        } else {
            self.panicking = self.panicking.saturating_sub(1);
        }
        if self.panicking > 0 {
            stable.max(panic).max(ready)
        } else {
            stable.max(ready / DOWN_RATE * u32::from(stable > 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks through `ticks` with this load, returns the last wish.
    fn run(scaler: &mut Autoscaler, now: &mut Millis, load: u64, ticks: usize, ready: u32) -> u32 {
        scaler.load(*now, load);
        let mut wish = 0;
        for _ in 0..ticks {
            *now += TICK;
            wish = scaler.tick(*now, ready);
        }
        wish
    }

    #[test]
    fn a_steady_load_wants_as_many_pods_as_hold_it_at_seventy_percent() {
        let mut now = 0;
        assert_eq!(run(&mut Autoscaler::new(60_000, 10), &mut now, 7, 40, 1), 1);
        let (mut scaler, mut now) = (Autoscaler::new(60_000, 10), 0);
        assert_eq!(run(&mut scaler, &mut now, 15, 40, 3), 3);
    }

    #[test]
    fn zero_is_wanted_one_window_after_the_last_request() {
        let (mut scaler, mut now) = (Autoscaler::new(60_000, 10), 0);
        run(&mut scaler, &mut now, 1, 3, 1);
        assert_eq!(run(&mut scaler, &mut now, 0, 29, 1), 1);
        assert_eq!(run(&mut scaler, &mut now, 0, 1, 1), 0);
        assert!(scaler.is_blank());
    }

    #[test]
    fn a_burst_is_seen_in_the_panic_window_and_is_not_scaled_down_at_once() {
        let (mut scaler, mut now) = (Autoscaler::new(60_000, 10), 0);
        run(&mut scaler, &mut now, 1, 30, 1);
        let burst = run(&mut scaler, &mut now, 100, 3, 1);
        assert_eq!(burst, 15);
        assert_eq!(run(&mut scaler, &mut now, 1, 5, 15), 15);
    }

    #[test]
    fn while_a_panic_holds_pods_up_it_is_not_blank_and_then_zero_is_wanted() {
        let (mut scaler, mut now) = (Autoscaler::new(60_000, 10), 0);
        run(&mut scaler, &mut now, 200, 1, 1);
        let mut ticks = 0;
        while !scaler.is_blank() {
            run(&mut scaler, &mut now, 0, 1, 30);
            ticks += 1;
            assert!(ticks < 100);
        }
        assert_eq!(run(&mut scaler, &mut now, 0, 1, 30), 0);
    }
}
