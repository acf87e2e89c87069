//! The reserves of one service: the machine's eyes and hands.
//!
//! [`Reserves::decide`] shows it what is there and carries its effects out. What Knative does with the hold was
//! measured: it reaches the autoscaler within 0.3 s.

use super::{Millis, Mode, Outcome, World, prices::Prices, service::cost};
use crate::decide::reserve::{
    self, Attachment, Deleting, Effect, Fit, Gate, Grace, Idle, Life, Reported, Reserve, Snapshot, Standard, State,
    Wanted, Wish,
};
use crate::model::HourlyPrice;
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, rngs::StdRng};

/// From a change until the controller has seen it.
const SEES: Millis = 100;
/// The hold's way from the Revision to the PodAutoscaler.
const SYNC: Millis = 300;
/// From a spot notice until the instance is gone (AWS: Spot Instance interruption notices).
const NOTICE: Millis = 120_000;
/// What queue-proxy takes to drain.
const DRAIN: Millis = 31_000;
const HOURS_A_MONTH: f64 = 730.0;

pub(super) struct Reserves {
    pub pods: Vec<ReservePod>,
    hold: bool,
    pub hold_seen: bool,
    hold_changed: Millis,
    reported: Option<Reported>,
    look: Option<Millis>,
    state: State,
    price: HourlyPrice,
    on_spot: bool,
    pub swaps: u64,
    pub cost: u128,
}

pub(super) struct ReservePod {
    pub id: u32,
    pub busy: u32,
    name: String,
    created: Millis,
    ready_at: Millis,
    ready: bool,
    attached: bool,
    changed: Millis,
    deleting: Option<(Millis, Millis)>,
    idle: Idle,
    notice: Option<Millis>,
    doomed: bool,
    lost: bool,
}

impl ReservePod {
    pub fn answers(&self) -> bool {
        self.ready && self.attached && self.deleting.is_none() && !self.lost
    }

    fn next(&self) -> Option<Millis> {
        let starts = (!self.ready && !self.lost).then_some(self.ready_at);
        let ends = self.deleting.map(|(since, grace)| since + grace);
        let noticed = match self.notice {
            Some(at) if !self.doomed => Some(at),
            Some(at) if !self.lost => Some(at + NOTICE),
            _ => None,
        };
        [starts, ends, noticed].into_iter().flatten().min()
    }
}

impl Reserves {
    pub fn new(mode: Mode, prices: &Prices) -> Self {
        let on_spot = mode == Mode::ReserveOnSpot;
        let price = prices.reserve_on_spot.filter(|_| on_spot).unwrap_or(prices.reserve);
        Self {
            pods: Vec::new(),
            hold: false,
            hold_seen: false,
            hold_changed: 0,
            reported: None,
            look: mode.has_reserve().then_some(0),
            state: State::Off,
            price,
            on_spot,
            swaps: 0,
            cost: 0,
        }
    }

    /// Something has changed that the machine looks at.
    pub fn poke(&mut self, now: Millis) {
        if self.state != State::Off || self.look.is_some() {
            let soon = now + SEES;
            self.look = Some(self.look.map_or(soon, |at| at.min(soon)));
        }
    }

    /// When something happens here by itself.
    pub fn next(&self) -> Option<Millis> {
        let synced = (self.hold != self.hold_seen).then_some(self.hold_changed + SYNC);
        self.pods.iter().filter_map(ReservePod::next).chain(synced).chain(self.look).min()
    }

    /// Lets time pass. True if something has changed.
    pub fn pass(&mut self, now: Millis) -> bool {
        let mut changed = false;
        if self.hold != self.hold_seen && now >= self.hold_changed + SYNC {
            (self.hold_seen, changed) = (self.hold, true);
        }
        for pod in &mut self.pods {
            if !pod.ready && !pod.lost && now >= pod.ready_at {
                (pod.ready, changed) = (true, true);
            }
            if let Some(notice) = pod.notice {
                if !pod.doomed && now >= notice {
                    (pod.doomed, changed) = (true, true);
                }
                if !pod.lost && now >= notice + NOTICE {
                    (pod.lost, changed) = (true, true);
                }
            }
        }
        let (price, mut ended) = (self.price, 0);
        self.pods.retain(|pod| match pod.deleting {
            Some((since, grace)) if now >= since + grace => {
                ended += cost(price, pod.created, now);
                false
            }
            _ => true,
        });
        self.cost += ended;
        changed |= ended > 0;
        if changed {
            self.poke(now);
        }
        changed
    }

    /// Whether it is time to run the machine.
    pub fn is_due(&self, now: Millis) -> bool {
        self.look.is_some_and(|at| at <= now)
    }

    /// Runs the machine. True if it did anything.
    pub fn control(
        &mut self,
        now: Millis,
        standard: &Standard,
        world: &World,
        ids: &mut u32,
        chance: &mut StdRng,
    ) -> bool {
        let decision = reserve::decide(&self.snapshot(standard.clone(), world), &world.rules, stamp(now));
        if decision.state == State::AtZero && !matches!(self.state, State::AtZero | State::Repairing) {
            self.swaps += 1;
        }
        self.state = decision.state;
        for effect in &decision.effects {
            self.carry_out(effect, now, world, ids, chance);
        }
        self.look = if decision.effects.is_empty() {
            // A time that is past already would be looked at for ever.
            decision.look_again.map(|at| at.as_millisecond().max(now + 1))
        } else {
            Some(now + SEES)
        };
        !decision.effects.is_empty()
    }

    fn snapshot(&self, standard: Standard, world: &World) -> Snapshot {
        let wanted = Wanted { build: "a".to_owned(), startup: world.reserve_startup };
        let gate = if self.hold { Gate::Held { seen: self.hold_seen } } else { Gate::Open };
        Snapshot {
            name: "s".to_owned(),
            wish: Wish::Wanted(wanted),
            standard,
            gate,
            reserves: self.pods.iter().map(ReservePod::show).collect(),
            reported: self.reported,
            longest_request: SignedDuration::from_mins(5),
        }
    }

    fn carry_out(&mut self, effect: &Effect, now: Millis, world: &World, ids: &mut u32, chance: &mut StdRng) {
        match effect {
            Effect::SetHold | Effect::ClearHold => {
                let hold = *effect == Effect::SetHold;
                if self.hold != hold {
                    (self.hold, self.hold_changed) = (hold, now);
                }
            }
            Effect::Create { name, attached, .. } => {
                *ids += 1;
                let boot = chance.random_range(world.boot.0..=world.boot.1);
                let life = self.on_spot.then(|| lifetime(world, chance));
                self.pods.push(ReservePod {
                    id: *ids,
                    busy: 0,
                    name: name.clone(),
                    created: now,
                    ready_at: now + boot + world.start * i64::from(world.reserve_slowdown),
                    ready: false,
                    attached: *attached,
                    changed: now,
                    deleting: None,
                    idle: Idle::Unasked,
                    notice: life.map(|life| now + life),
                    doomed: false,
                    lost: false,
                });
            }
            Effect::Attach { name, .. } | Effect::Detach { name, .. } => {
                let attach = matches!(effect, Effect::Attach { .. });
                if let Some(pod) = self.pod(name) {
                    (pod.attached, pod.changed) = (attach, now);
                }
            }
            Effect::CheckIdle { name } => {
                if let Some(pod) = self.pod(name) {
                    let at = stamp(now);
                    pod.idle = match pod.busy {
                        _ if pod.lost || !pod.ready => Idle::Silent { at },
                        0 => Idle::Yes { at },
                        _ => Idle::Busy { at },
                    };
                }
            }
            Effect::Delete { name, grace, .. } => {
                if let Some(pod) = self.pod(name) {
                    let grace = match grace {
                        Grace::None => 0,
                        Grace::Idle => 1_000,
                        Grace::Full => DRAIN,
                    };
                    pod.deleting = Some((now, grace));
                }
            }
            Effect::Report(report) => {
                self.reported = report.as_ref().map(|r| Reported { reason: r.reason, since: stamp(now) });
            }
        }
    }

    fn pod(&mut self, name: &str) -> Option<&mut ReservePod> {
        self.pods.iter_mut().find(|pod| pod.name == name)
    }

    /// The trace is over: what still runs is paid until now.
    pub fn close(self, now: Millis, outcome: &mut Outcome) {
        let running: u128 = self.pods.iter().map(|pod| cost(self.price, pod.created, now)).sum();
        outcome.reserve_cost = self.cost + running;
        outcome.swaps = self.swaps;
    }
}

impl ReservePod {
    fn show(&self) -> Reserve {
        Reserve {
            name: self.name.clone(),
            fit: if self.doomed { Fit::Doomed } else { Fit::Current },
            life: match self.ready {
                _ if self.lost => Life::Lost,
                true => Life::Ready { since: stamp(self.ready_at) },
                false => Life::Unready { since: stamp(self.created) },
            },
            attachment: match self.attached {
                true => Attachment::Attached { since: stamp(self.changed) },
                false => Attachment::Detached { since: stamp(self.changed), idle: self.idle },
            },
            deleting: self.deleting.map(|(since, grace)| Deleting {
                since: stamp(since),
                grace_seconds: grace / 1000,
                idle: self.idle,
            }),
        }
    }
}

/// How long a spot instance lives until its notice: as likely to end in any hour as in any other.
fn lifetime(world: &World, chance: &mut StdRng) -> Millis {
    let share = f64::from(world.spot_interruptions.min(99)) / 100.0;
    let an_hour = -(1.0 - share).ln() / HOURS_A_MONTH;
    if an_hour <= 0.0 {
        return Millis::MAX / 4;
    }
    let hours = -(1.0 - chance.random_range(0.0..1.0f64)).ln() / an_hour;
    (hours * 3_600_000.0) as Millis
}

pub(super) fn stamp(millis: Millis) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}
