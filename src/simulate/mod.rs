//! `pilotlight simulate`: a trace of requests, answered by each way of being at zero, on a simulated clock.
//!
//! In: a trace ([`trace`], or made up by [`generate`]), prices by the cost policy ([`prices`]), what a cloud and a
//! service are like ([`World`]). Out: an [`Outcome`] for each [`Mode`]: what it costs, how long the first request
//! after a pause waits, how many requests waited at all.
//!
//! ```text
//!   requests --> queue --> a standard Pod with room, else an attached reserve with room, else wait
//!                  |              ^                          ^
//!                  v              | replicas                 | create, attach, detach, delete
//!             autoscaler ---------+                          |
//!             (autoscaler.rs)     |   snapshot               |
//!                                 +-----------> decide::reserve::decide (the machine of the product, unchanged)
//! ```
//!
//! Services don't touch each other: each runs alone ([`service`]), from event to event, so a quiet hour costs
//! nothing. No clock, and chance only from the seed that is given: the same input gives the same output.
//!
//! What is simplified is said where it is: the autoscaler has Knative's windows but not all of its settings; an
//! instance's boot is a time drawn from a range; a reserve's slowness is a percentage.

pub mod autoscaler;
pub mod chart;
pub mod generate;
pub mod prices;
pub mod report;
mod reserve;
pub mod service;
#[cfg(test)]
mod tests;
pub mod trace;

use jiff::SignedDuration;

/// Milliseconds since the trace's beginning.
pub type Millis = i64;

/// What a service does when nobody asks it anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Plain zero: the next request waits for an instance.
    Cold,
    /// One standard Pod always runs.
    MinScale,
    /// A reserve answers.
    Reserve,
    /// A reserve on spot capacity answers.
    ReserveOnSpot,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Cold, Self::MinScale, Self::Reserve, Self::ReserveOnSpot];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::MinScale => "min-scale-1",
            Self::Reserve => "reserve",
            Self::ReserveOnSpot => "reserve-on-spot",
        }
    }

    fn has_reserve(self) -> bool {
        matches!(self, Self::Reserve | Self::ReserveOnSpot)
    }
}

/// What a cloud and the services are like.
#[derive(Clone, Debug)]
pub struct World {
    /// From the launch call until the instance can start a Pod: drawn evenly from this range.
    pub boot: (Millis, Millis),
    /// From then until the Pod is ready.
    pub start: Millis,
    /// By how much longer a reserve takes to get ready.
    pub reserve_slowdown: u32,
    /// How fast a reserve works at a request, in percent of a standard Pod.
    pub reserve_speed: u32,
    /// `containerConcurrency`.
    pub concurrency: u32,
    /// Knative's stable window.
    pub window: Millis,
    /// How often a spot instance is interrupted, in a month, in percent (the figure of AWS's Spot Advisor).
    pub spot_interruptions: u32,
    pub rules: crate::decide::reserve::Rules,
    /// A reserve that is not ready after this has failed.
    pub reserve_startup: SignedDuration,
}

impl Default for World {
    fn default() -> Self {
        Self {
            // API 1.5 s, pending 4.9 s, kernel and userland from 10 s up (ec2-boot-bench).
            boot: (16_000, 20_000),
            start: 1_500,
            reserve_slowdown: 4,
            reserve_speed: 60,
            concurrency: 10,
            window: 60_000,
            spot_interruptions: 5,
            rules: crate::decide::reserve::Rules::default(),
            reserve_startup: SignedDuration::from_mins(5),
        }
    }
}

/// What came of a service, or of all, in a mode.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    /// Requests that waited for a Pod.
    pub waited: u64,
    /// How often requests had to wait for the first instance.
    pub cold_starts: u64,
    /// What the first request after each pause waited, beyond what its work takes on a standard Pod; milliseconds.
    pub after_pause: Vec<u32>,
    /// The longest wait of all.
    pub slowest: u32,
    /// Micro-dollars.
    pub standard_cost: u128,
    pub reserve_cost: u128,
    /// From standing to the reserve and back.
    pub swaps: u64,
    /// Requests that nobody had answered when the trace ended.
    pub unanswered: u64,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.waited += other.waited;
        self.cold_starts += other.cold_starts;
        self.after_pause.extend(other.after_pause);
        self.slowest = self.slowest.max(other.slowest);
        self.standard_cost += other.standard_cost;
        self.reserve_cost += other.reserve_cost;
        self.swaps += other.swaps;
        self.unanswered += other.unanswered;
    }

    pub fn cost(&self) -> u128 {
        self.standard_cost + self.reserve_cost
    }
}
