//! One service in one mode, from event to event.
//!
//! ```text
//!   Idle at zero --a request--> Starting --a standard Pod is ready--> Active --a window without requests--> Idle
//!                                                                       ^                                    |
//!                                                                       +---- a request, while it is held ---+
//! ```

use super::{
    Millis, Mode, Outcome, World,
    autoscaler::{Autoscaler, TICK},
    prices::Prices,
    reserve::{Reserves, stamp},
    trace::Request,
};
use crate::decide::reserve::{self, Standard};
use crate::model::HourlyPrice;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// A deleted Pod drains for 30 s even when idle (queue-proxy), and its instance is paid meanwhile.
const LEAVES: Millis = 31_000;
/// EC2 bills Linux by the second, and a minute at least.
const BILLED_AT_LEAST: Millis = 60_000;
/// More at once than any quota gives.
const MOST: u32 = 1_000;

pub fn run(requests: &[Request], length: Millis, mode: Mode, world: &World, prices: &Prices, seed: u64) -> Outcome {
    let mut service = Service::new(requests, mode, world, prices, seed);
    service.scale(1);
    service.next_tick = Some(TICK);
    loop {
        let event = service.next();
        let until = event.map_or(length, |at| at.min(length));
        if service.tick_before(until) {
            continue;
        }
        match event.into_iter().chain(service.next_tick).min() {
            Some(at) if at <= length => service.step(at),
            _ => return service.close(length),
        }
    }
}

/// Micro-dollars for an instance from one time to another.
pub(super) fn cost(price: HourlyPrice, from: Millis, until: Millis) -> u128 {
    let billed = (until - from).max(BILLED_AT_LEAST).unsigned_abs();
    u128::from(price.0) * u128::from(billed) / 3_600_000
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Activity {
    Starting,
    Active(Millis),
    Idle(Millis),
}

struct Pod {
    id: u32,
    launched: Millis,
    ready_at: Millis,
    ready: bool,
    busy: u32,
    price: HourlyPrice,
}

struct Waiting {
    at: Millis,
    takes: u32,
    after_pause: bool,
}

struct Service<'a> {
    world: &'a World,
    prices: &'a Prices,
    mode: Mode,
    now: Millis,
    requests: std::iter::Peekable<std::iter::Copied<std::slice::Iter<'a, Request>>>,
    queue: VecDeque<Waiting>,
    /// When which Pod is done with a request.
    done: BinaryHeap<Reverse<(Millis, u32)>>,
    standard: Vec<Pod>,
    starting: usize,
    ready_since: Option<Millis>,
    proven: bool,
    activity: Activity,
    scaler: Autoscaler,
    next_tick: Option<Millis>,
    /// When the last request was answered.
    quiet_since: Millis,
    reserves: Reserves,
    ids: u32,
    chance: StdRng,
    outcome: Outcome,
}

impl<'a> Service<'a> {
    fn new(requests: &'a [Request], mode: Mode, world: &'a World, prices: &'a Prices, seed: u64) -> Self {
        Self {
            world,
            prices,
            mode,
            now: 0,
            requests: requests.iter().copied().peekable(),
            queue: VecDeque::new(),
            done: BinaryHeap::new(),
            standard: Vec::new(),
            starting: 0,
            ready_since: None,
            proven: false,
            activity: Activity::Starting,
            scaler: Autoscaler::new(world.window, world.concurrency),
            next_tick: None,
            quiet_since: 0,
            reserves: Reserves::new(mode, prices),
            ids: 0,
            chance: StdRng::seed_from_u64(seed),
            outcome: Outcome::default(),
        }
    }

    /// When something happens that is no tick.
    fn next(&mut self) -> Option<Millis> {
        let arrives = self.requests.peek().map(|request| request.at);
        let done = self.done.peek().map(|Reverse((at, _))| *at);
        let ready = if self.starting == 0 {
            None
        } else {
            self.standard.iter().filter(|pod| !pod.ready).map(|pod| pod.ready_at).min()
        };
        [arrives, done, ready, self.reserves.next()].into_iter().flatten().min()
    }

    /// Ticks with which nothing else happens: of a service that is awake for a month, most of what does. True if one of
    /// them made something happen.
    fn tick_before(&mut self, until: Millis) -> bool {
        while let Some(at) = self.next_tick.filter(|at| *at < until) {
            self.now = at;
            if self.tick() {
                return true;
            }
        }
        false
    }

    fn step(&mut self, at: Millis) {
        self.now = at.max(self.now);
        self.finish();
        self.get_ready();
        if self.reserves.pass(self.now) {
            self.obey_gate();
        }
        self.arrive();
        self.serve();
        self.scaler.load(self.now, self.done.len() as u64 + self.queue.len() as u64);
        self.tick();
        if self.reserves.is_due(self.now) {
            let standard = self.standard_facts();
            if self.reserves.control(self.now, &standard, self.world, &mut self.ids, &mut self.chance) {
                self.serve();
            }
        }
    }

    fn finish(&mut self) {
        while let Some(Reverse((at, id))) = self.done.peek().copied()
            && at <= self.now
        {
            self.done.pop();
            // A Pod that has been deleted meanwhile still finished this.
            if let Some(pod) = self.standard.iter_mut().find(|pod| pod.id == id) {
                pod.busy -= 1;
            } else if let Some(pod) = self.reserves.pods.iter_mut().find(|pod| pod.id == id) {
                pod.busy -= 1;
            }
            self.quiet_since = self.now;
        }
    }

    fn get_ready(&mut self) {
        if self.starting == 0 {
            return;
        }
        let now = self.now;
        let came = self.standard.iter_mut().filter(|pod| !pod.ready && pod.ready_at <= now);
        let came = came.map(|pod| pod.ready = true).count();
        if came > 0 {
            self.starting -= came;
            self.ready_since.get_or_insert(now);
            self.proven = true;
            if self.activity == Activity::Starting {
                self.activity = Activity::Active(now);
            }
            self.reserves.poke(now);
        }
    }

    fn arrive(&mut self) {
        let quiet = self.done.is_empty() && self.queue.is_empty();
        let mut after_pause = quiet && self.now - self.quiet_since > self.world.window + 2 * TICK;
        let mut came = false;
        while let Some(request) = self.requests.next_if(|request| request.at <= self.now) {
            self.queue.push_back(Waiting { at: request.at, takes: request.takes, after_pause });
            self.outcome.requests += 1;
            (after_pause, came) = (false, true);
        }
        if !came {
            return;
        }
        self.next_tick.get_or_insert(self.now + TICK);
        if let Activity::Idle(_) = self.activity {
            let ready = self.standard.iter().any(|pod| pod.ready);
            self.activity = if ready { Activity::Active(self.now) } else { Activity::Starting };
            if self.standard.is_empty() {
                let pods = self.queue.len().div_ceil(self.world.concurrency as usize);
                self.scale(u32::try_from(pods).unwrap_or(MOST));
                self.serve();
                self.outcome.cold_starts += u64::from(!self.queue.is_empty());
            }
            self.reserves.poke(self.now);
        }
    }

    /// Requests go to a standard Pod if one has room, else to a reserve.
    fn serve(&mut self) {
        while let Some(waiting) = self.queue.front() {
            let most = self.world.concurrency;
            let standard = self.standard.iter_mut().filter(|pod| pod.ready && pod.busy < most);
            let (id, takes) = if let Some(pod) = standard.min_by_key(|pod| pod.busy) {
                pod.busy += 1;
                (pod.id, waiting.takes)
            } else if let Some(pod) = self.reserves.pods.iter_mut().find(|pod| pod.answers() && pod.busy < most) {
                pod.busy += 1;
                let takes = u64::from(waiting.takes) * 100 / u64::from(self.world.reserve_speed.max(1));
                (pod.id, u32::try_from(takes).unwrap_or(u32::MAX))
            } else {
                return;
            };
            let waited = u32::try_from(self.now - waiting.at).unwrap_or(u32::MAX);
            self.outcome.waited += u64::from(waited > 0);
            self.outcome.slowest = self.outcome.slowest.max(waited);
            if waiting.after_pause {
                self.outcome.after_pause.push(waited.saturating_add(takes - waiting.takes.min(takes)));
            }
            self.done.push(Reverse((self.now + i64::from(takes), id)));
            self.queue.pop_front();
        }
    }

    /// True if something follows of it.
    fn tick(&mut self) -> bool {
        if self.next_tick.is_none_or(|at| at > self.now) {
            return false;
        }
        let ready = self.standard.iter().filter(|pod| pod.ready).count();
        let wish = self.scaler.tick(self.now, u32::try_from(ready).unwrap_or(MOST));
        let changed = match self.activity {
            _ if wish > 0 => self.scale(wish.min(MOST)),
            Activity::Active(_) if self.mode == Mode::MinScale => self.scale(1),
            Activity::Active(_) => {
                self.activity = Activity::Idle(self.now);
                self.reserves.poke(self.now);
                self.obey_gate();
                true
            }
            Activity::Starting | Activity::Idle(_) => false,
        };
        let rests = self.scaler.is_blank() && self.activity != Activity::Starting;
        self.next_tick = (!rests).then_some(self.now + TICK);
        changed
    }

    /// What is idle goes to zero, or is held at one.
    fn obey_gate(&mut self) {
        if let Activity::Idle(_) = self.activity {
            self.scale(u32::from(self.reserves.hold_seen && !self.standard.is_empty()));
        }
    }

    /// False if there are that many already.
    fn scale(&mut self, to: u32) -> bool {
        let to = to as usize;
        if self.standard.len() == to {
            return false;
        }
        while self.standard.len() < to {
            self.ids += 1;
            let boot = self.chance.random_range(self.world.boot.0..=self.world.boot.1);
            let price = self.prices.standard(self.standard.len());
            let ready_at = self.now + boot + self.world.start;
            self.standard.push(Pod { id: self.ids, launched: self.now, ready_at, ready: false, busy: 0, price });
            self.starting += 1;
        }
        while self.standard.len() > to {
            let leaves =
                self.standard.iter().enumerate().min_by_key(|(place, pod)| (pod.ready, pod.busy, Reverse(*place)));
            let Some((place, _)) = leaves else { break };
            let pod = self.standard.remove(place);
            self.starting -= usize::from(!pod.ready);
            self.outcome.standard_cost += cost(pod.price, pod.launched, self.now + LEAVES);
        }
        if !self.standard.iter().any(|pod| pod.ready) {
            self.ready_since = None;
        }
        self.reserves.poke(self.now);
        true
    }

    fn standard_facts(&self) -> Standard {
        let count = |pods: usize| u32::try_from(pods).unwrap_or(MOST);
        Standard {
            wanted: count(self.standard.len()),
            ready: count(self.standard.len() - self.starting),
            ready_since: self.ready_since.map(stamp),
            proven: self.proven,
            activity: match self.activity {
                Activity::Starting => reserve::Activity::Starting,
                Activity::Active(since) => reserve::Activity::Active { since: stamp(since) },
                Activity::Idle(since) => reserve::Activity::Idle { since: stamp(since) },
            },
        }
    }

    fn close(mut self, length: Millis) -> Outcome {
        for pod in &self.standard {
            self.outcome.standard_cost += cost(pod.price, pod.launched, length);
        }
        self.outcome.unanswered = self.queue.len() as u64;
        self.reserves.close(length, &mut self.outcome);
        self.outcome
    }
}
