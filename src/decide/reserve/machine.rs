//! The decision itself. A [`Plan`] collects effects and the next time that matters.

use super::{
    Activity, Attachment, Decision, Effect, Fit, Gate, Grace, Life, Reason, Report, Reserve, Snapshot, State, Wanted,
    Why, Wish,
};
use jiff::{SignedDuration, Timestamp};

/// How the machine behaves, for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub on_failure: OnFailure,
    pub parking: Parking,
    /// How long after a failed try for a reserve the next one comes, while nothing else changes.
    pub retry_after: SignedDuration,
    /// How long a reserve must have answered before it is relied on: every activator must know it.
    pub reserve_settle: SignedDuration,
    /// The same of a standard Pod. An activator probes a new Pod each 200 ms (knative-reserve: "ready for 3 s").
    pub standard_settle: SignedDuration,
    /// From a detachment until no new request comes: what is on its way must arrive. Measured: 8 to 23 ms.
    pub detach_settle: SignedDuration,
    /// How long a reserve may be silent about its requests before it is stopped with its full grace.
    pub silence: SignedDuration,
    /// How long a reserve outlives its traffic: a Route says so before every ingress does it.
    pub linger: SignedDuration,
}

/// What to do when no reserve becomes ready in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Let it go to zero without one.
    #[default]
    PlainZero,
    /// Keep the standard Pods, as long as the hold can: Knative bounds it to an hour.
    HoldStandard,
}

/// What becomes of a reserve when standard Pods answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parking {
    Release,
    /// It stays, detached, for this long: the next idle time finds it ready.
    For(SignedDuration),
    /// One is always there. For what has no gate: it goes to zero without a warning.
    Always,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            on_failure: OnFailure::default(),
            parking: Parking::Release,
            retry_after: SignedDuration::from_mins(10),
            reserve_settle: SignedDuration::from_secs(1),
            standard_settle: SignedDuration::from_secs(3),
            detach_settle: SignedDuration::from_secs(2),
            silence: SignedDuration::from_secs(10),
            linger: SignedDuration::from_secs(30),
        }
    }
}

/// What a failure means where the standard Pods are held for it.
const STANDARD_HELD: &str = "no reserve became ready in time: the standard Pods stay, and another try later";
/// This many reserves in a row may be lost before that counts as a failure.
const LOSSES: usize = 3;
/// A busy or silent reserve is asked again after this.
pub(super) const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(1);

/// See the front page.
pub fn decide(seen: &Snapshot, rules: &Rules, now: Timestamp) -> Decision {
    let mut plan = Plan { seen, rules, now, effects: Vec::new(), look_again: None };
    let (state, report) = match &seen.wish {
        Wish::Wanted(wanted) => {
            let (state, reason) = plan.keep(wanted);
            let held = state == State::Failed && seen.standard.wanted > 0;
            let message = match rules.on_failure {
                OnFailure::HoldStandard if held => STANDARD_HELD,
                OnFailure::HoldStandard | OnFailure::PlainZero => reason.message(seen.gate),
            };
            (state, Some(Report { reason, message: message.to_owned() }))
        }
        Wish::Unrouted { since } => {
            plan.clear_hold();
            let over = plan.passed(*since, rules.linger);
            if over {
                plan.dismiss_all();
            }
            // A Route names a new one only when it is ready, and then takes a moment: until then nothing is said that
            // would not be true soon.
            let named = seen.standard.ready_since.is_none_or(|ready| plan.passed(ready, rules.linger));
            let reason = match seen.reported {
                _ if !seen.standard.proven => Reason::Deploying,
                _ if over && named => Reason::NotRouted,
                reported => reported.map_or(Reason::Deploying, |reported| reported.reason),
            };
            (State::Off, Some(Report { reason, message: reason.message(seen.gate).to_owned() }))
        }
        Wish::Refused(refusal) => {
            plan.dismiss();
            (State::Off, Some(Report { reason: refusal.reason(), message: refusal.message() }))
        }
        Wish::NotAsked => {
            plan.dismiss();
            (State::Off, None)
        }
        Wish::Deleted => {
            plan.dismiss_all();
            (State::Off, None)
        }
    };
    plan.report(report);
    Decision { state, effects: plan.effects, look_again: plan.look_again }
}

/// What the standard Pods are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Zero,
    /// Wanted, and not yet to be relied on.
    Coming,
    Standing,
    /// There, and not needed.
    Idle,
}

/// The reserve that is, or is to be, the one.
enum Front<'a> {
    /// It answers, and every activator knows it.
    Settled(&'a Reserve),
    Coming(Option<&'a Reserve>),
    Failed,
}

pub(super) struct Plan<'a> {
    pub seen: &'a Snapshot,
    pub rules: &'a Rules,
    pub now: Timestamp,
    pub effects: Vec<Effect>,
    pub look_again: Option<Timestamp>,
}

impl<'a> Plan<'a> {
    /// Whether this much time has passed; if not, it is looked again when it has.
    pub fn passed(&mut self, since: Timestamp, wait: SignedDuration) -> bool {
        let at = since.saturating_add(wait).unwrap_or(Timestamp::MAX);
        if self.now >= at {
            return true;
        }
        self.look_again = Some(self.look_again.map_or(at, |earlier| earlier.min(at)));
        false
    }

    fn phase(&mut self) -> Phase {
        let standard = &self.seen.standard;
        if standard.wanted == 0 {
            return Phase::Zero;
        }
        let ready_since = standard.ready_since.filter(|_| standard.ready > 0);
        let known_since = match (standard.activity, ready_since) {
            (Activity::Idle { .. }, _) => return Phase::Idle,
            (Activity::Starting, _) | (_, None) => return Phase::Coming,
            (Activity::Unmeasured, Some(ready)) => ready,
            (Activity::Active { since }, Some(ready)) => ready.max(since),
        };
        if self.passed(known_since, self.rules.standard_settle) { Phase::Standing } else { Phase::Coming }
    }

    fn keep(&mut self, wanted: &Wanted) -> (State, Reason) {
        if !self.seen.standard.proven && self.seen.reserves.is_empty() {
            return (State::Deploying, Reason::Deploying);
        }
        match self.phase() {
            Phase::Standing => self.standing(wanted),
            Phase::Idle => self.idle(wanted),
            Phase::Zero => self.zero(wanted),
            Phase::Coming => self.coming(wanted),
        }
    }

    /// Standard Pods answer: no reserve is attached, and the next idle time is provided for.
    fn standing(&mut self, wanted: &Wanted) -> (State, Reason) {
        self.set_hold();
        let seen = self.seen;
        // Without the hold they could all be gone before another reserve is ready.
        let secured = matches!(seen.gate, Gate::Absent | Gate::Held { seen: true });
        let spare = seen
            .reserves
            .iter()
            .filter(|r| r.alive() && r.fit == Fit::Current)
            .min_by_key(|r| (!r.ready(), r.attached(), &r.name));
        let ready = spare.is_some_and(Reserve::ready);
        // Where one is always there, an older one stays until there is another.
        let older = seen.reserves.iter().filter(|r| r.ready() && r.fit != Fit::Current);
        let older = older
            .min_by_key(|r| (r.fit == Fit::Doomed, &r.name))
            .filter(|_| self.rules.parking == Parking::Always && !ready);
        let failed = if older.is_some() { Reason::RollFailed } else { Reason::ReserveFailed };
        let mut reason = match seen.gate {
            Gate::Absent if !ready && older.is_none() => Reason::ReserveStarting,
            _ => Reason::StandardServes,
        };
        let stays = |reserve: &Reserve| older == Some(reserve) && !reserve.attached();
        for reserve in seen.reserves.iter().filter(|reserve| !stays(reserve)) {
            if reserve.alive() && reserve.attached() {
                if secured {
                    self.detach(reserve, Why::StandardAnswers);
                }
            } else if spare != Some(reserve) || !self.stays_parked(reserve) {
                let parked = spare == Some(reserve) && self.rules.parking != Parking::Release;
                let why = if parked { Why::Parked } else { Why::StandardAnswers };
                self.drain(reserve, why);
            } else if let Life::Unready { since } = reserve.life
                && self.passed(since, wanted.startup)
            {
                self.drain(reserve, Why::NeverReady);
                reason = failed;
            }
        }
        if self.rules.parking == Parking::Always && spare.is_none() {
            if self.resting() {
                reason = failed;
            } else {
                self.create(wanted, false, Why::KeptReady);
            }
        }
        (State::Standing, reason)
    }

    fn stays_parked(&mut self, reserve: &Reserve) -> bool {
        match (self.rules.parking, reserve.attachment) {
            (Parking::Release, _) | (_, Attachment::Attached { .. }) => false,
            (Parking::Always, _) => true,
            (Parking::For(time), Attachment::Detached { since, .. }) => !self.passed(since, time),
        }
    }

    /// Standard Pods are there and may go as soon as a reserve answers.
    fn idle(&mut self, wanted: &Wanted) -> (State, Reason) {
        let served = self.served(|reserve| reserve.fit != Fit::Doomed);
        if !served {
            // First of all: each moment counts until the autoscaler has it.
            self.set_hold();
        }
        let front = self.front(wanted, Why::NoTraffic);
        self.retire_others(&front, None);
        match front {
            _ if served => {
                self.clear_hold();
                (State::Leaving, Reason::StandardLeaving)
            }
            Front::Failed => {
                if self.rules.on_failure == OnFailure::PlainZero {
                    self.effects.retain(|effect| *effect != Effect::SetHold);
                    self.clear_hold();
                }
                (State::Failed, Reason::ReserveFailed)
            }
            Front::Settled(_) | Front::Coming(_) => (State::Preparing, Reason::ReserveStarting),
        }
    }

    fn zero(&mut self, wanted: &Wanted) -> (State, Reason) {
        let served = self.seen.reserves.iter().any(|reserve| reserve.answering_since().is_some());
        let front = self.front(wanted, Why::NobodyAnswers);
        let stopgap = self.stopgap(Why::NobodyAnswers);
        self.retire_others(&front, stopgap);
        // What is ready and not attached is attached by now.
        let served = served || stopgap.is_some() || matches!(front, Front::Coming(Some(front)) if front.ready());
        match (served, front) {
            (true, Front::Failed) => (State::AtZero, Reason::RollFailed),
            (true, _) => (State::AtZero, Reason::ReserveServes),
            (false, Front::Failed) => (State::Failed, Reason::ReserveFailed),
            (false, _) => (State::Repairing, Reason::ReserveMissing),
        }
    }

    /// Whoever answers now keeps answering.
    fn coming(&mut self, wanted: &Wanted) -> (State, Reason) {
        if self.seen.standard.proven {
            self.set_hold();
        }
        if self.seen.reserves.is_empty() {
            return (State::Deploying, Reason::Deploying);
        }
        if self.seen.standard.ready == 0 {
            let front = self.front(wanted, Why::StandardLost);
            let stopgap = self.stopgap(Why::StandardLost);
            self.retire_others(&front, stopgap);
            if matches!(front, Front::Failed) && !self.served(|_| true) {
                return (State::ScalingUp, Reason::ReserveFailed);
            }
        }
        (State::ScalingUp, Reason::ScalingUp)
    }

    /// Whether a reserve of this sort is to be relied on now.
    fn served(&mut self, sort: impl Fn(&Reserve) -> bool) -> bool {
        let since: Vec<_> =
            self.seen.reserves.iter().filter(|r| sort(r)).filter_map(Reserve::answering_since).collect();
        since.into_iter().any(|since| self.passed(since, self.rules.reserve_settle))
    }

    /// Sees to it that there is a reserve of the current build, attached.
    fn front(&mut self, wanted: &Wanted, why: Why) -> Front<'a> {
        let seen = self.seen;
        let best = seen
            .reserves
            .iter()
            .filter(|r| r.alive() && r.fit == Fit::Current)
            .min_by_key(|r| (!r.ready(), !r.attached(), r.answering_since(), &r.name));
        let Some(best) = best else {
            let lost = seen.reserves.iter().filter(|r| r.deleting.is_none() && r.life == Life::Lost).count();
            if lost >= LOSSES || self.resting() {
                return Front::Failed;
            }
            self.create(wanted, true, why);
            return Front::Coming(None);
        };
        if let Some(since) = best.answering_since()
            && self.passed(since, self.rules.reserve_settle)
        {
            return Front::Settled(best);
        }
        if let Life::Unready { since } = best.life
            && self.passed(since, wanted.startup)
        {
            return Front::Failed;
        }
        if !best.attached() {
            self.effects.push(Effect::Attach { name: best.name.clone(), why });
        }
        Front::Coming(Some(best))
    }

    /// Nobody answers, and the front is not ready: one of an older template that is parked is better than nobody.
    fn stopgap(&mut self, why: Why) -> Option<&'a Reserve> {
        let seen = self.seen;
        if seen.reserves.iter().any(|r| r.ready() && (r.attached() || r.fit == Fit::Current)) {
            return None;
        }
        let parked = seen.reserves.iter().filter(|r| r.ready()).min_by_key(|r| (r.fit == Fit::Doomed, &r.name))?;
        self.effects.push(Effect::Attach { name: parked.name.clone(), why });
        Some(parked)
    }

    /// All but the front go: those that answer only when it has taken over.
    fn retire_others(&mut self, front: &Front<'a>, stopgap: Option<&'a Reserve>) {
        for reserve in self.seen.reserves.iter().filter(|reserve| stopgap != Some(reserve)) {
            let why = match (front, reserve.fit) {
                (Front::Settled(front) | Front::Coming(Some(front)), _) if front.name == reserve.name => continue,
                (_, Fit::Outdated) => Why::Outdated,
                (_, Fit::Doomed) => Why::Doomed,
                (Front::Failed, Fit::Current) => Why::NeverReady,
                (_, Fit::Current) => Why::Replaced,
            };
            let goes = match (front, reserve.life) {
                // The lost are counted until one is not lost.
                (Front::Settled(_) | Front::Failed, Life::Lost | Life::Unready { .. }) => true,
                (Front::Settled(_), Life::Ready { .. }) => true,
                (Front::Failed, Life::Ready { .. }) => !reserve.attached(),
                (Front::Coming(_), Life::Lost) => false,
                (Front::Coming(_), _) => !reserve.attached() && reserve.fit != Fit::Current,
            };
            if goes || reserve.deleting.is_some() {
                self.drain(reserve, why);
            }
        }
    }

    /// None is wanted. What answers for standard Pods that are still to come stays until they do.
    fn dismiss(&mut self) {
        let answers = self.seen.reserves.iter().any(|reserve| reserve.answering_since().is_some());
        if answers && self.phase() == Phase::Coming {
            return self.clear_hold();
        }
        self.clear_hold();
        self.dismiss_all();
    }

    fn dismiss_all(&mut self) {
        for reserve in &self.seen.reserves {
            self.drain(reserve, Why::NotWanted);
        }
    }

    fn set_hold(&mut self) {
        if self.seen.gate == Gate::Open {
            self.effects.push(Effect::SetHold);
        }
    }

    fn clear_hold(&mut self) {
        if matches!(self.seen.gate, Gate::Held { .. }) {
            self.effects.push(Effect::ClearHold);
        }
    }

    fn create(&mut self, wanted: &Wanted, attached: bool, why: Why) {
        // Determined by the snapshot: made again after a crash, it is the same.
        let name = (1..)
            .map(|n| format!("{}-reserve-{}-{n}", self.seen.name, wanted.build))
            .find(|name| self.seen.reserves.iter().all(|reserve| reserve.name != *name))
            .expect("there are more numbers than reserves");
        self.effects.push(Effect::Create { name, attached, why });
    }

    pub fn detach(&mut self, reserve: &Reserve, why: Why) {
        self.effects.push(Effect::Detach { name: reserve.name.clone(), why });
    }

    pub fn delete(&mut self, reserve: &Reserve, grace: Grace, why: Why) {
        self.effects.push(Effect::Delete { name: reserve.name.clone(), grace, why });
    }

    /// The last try failed, and the next is not due.
    fn resting(&mut self) -> bool {
        match self.seen.reported {
            Some(last) if matches!(last.reason, Reason::ReserveFailed | Reason::RollFailed) => {
                !self.passed(last.since, self.rules.retry_after)
            }
            _ => false,
        }
    }

    /// Comes last, as nobody waits for it; but that a try failed must be known before its traces are removed.
    fn report(&mut self, report: Option<Report>) {
        let reason = report.as_ref().map(|report| report.reason);
        if reason == self.seen.reported.map(|reported| reported.reason) {
            return;
        }
        let failed = matches!(reason, Some(Reason::ReserveFailed | Reason::RollFailed));
        let place = if failed { 0 } else { self.effects.len() };
        self.effects.insert(place, Effect::Report(report));
    }
}
