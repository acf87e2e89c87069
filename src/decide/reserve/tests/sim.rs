//! A small Knative: one Revision, its autoscaler, its Pods, a cloud, and a controller that sees it all late.
//!
//! What it does is what was measured of Serving 0.51 (the knowledge of the front page): an idle Revision without
//! a hold goes to zero at once; the hold needs a moment to reach the autoscaler; an unrouted one ignores it.
//! Or, without Knative, a Deployment that somebody scales by the traffic, without a warning.

use super::super::*;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

pub const TICK: i64 = 100;
/// The annotation's way from the Revision to the PodAutoscaler; measured: 60 to 260 ms.
const SYNC: i64 = 300;
/// The autoscaler's stable window.
const WINDOW: i64 = 6_000;
/// After a fault an endpoint may be missing for a while that nobody can help.
const FAULT: i64 = 4_000;
const BUILD: [&str; 2] = ["aaaa", "bbbb"];

#[derive(Clone, Debug)]
struct Truth {
    routed: Option<bool>,
    unrouted_since: i64,
    asked: bool,
    deleted: bool,
    build: usize,
    hold: bool,
    hold_seen: bool,
    hold_changed: i64,
    wanted: u32,
    /// When the standard Pod became ready.
    standard: Option<i64>,
    standard_from: i64,
    proven: bool,
    activity: Activity,
    reserves: Vec<Pod>,
    reported: Option<Reported>,
}

#[derive(Clone, Debug)]
struct Pod {
    name: String,
    build: usize,
    created: i64,
    ready: Option<i64>,
    unready_since: i64,
    lost: bool,
    doomed: bool,
    attached: bool,
    changed: i64,
    deleting: Option<(i64, i64)>,
    idle: Idle,
    busy_until: i64,
}

#[derive(Clone, Debug)]
pub struct World {
    pub now: i64,
    pub traffic: bool,
    /// New Pods of this kind come up.
    pub standard_works: bool,
    pub reserve_works: bool,
    truth: Truth,
    history: Vec<(i64, Truth)>,
    /// Caches never go back in time: what each kind of watch has shown.
    shown: [i64; 4],
    /// What the controller wrote itself it has seen, whatever the watch shows: the API server answers with it.
    written: BTreeMap<String, i64>,
    /// Whether a standard Pod was ready, as the controller saw it last.
    standard_shown: bool,
    excused_until: i64,
    /// A reserve is promised from when the controller has first secured what runs, until something ends that.
    secured: bool,
    /// Without Knative.
    plain: bool,
    last_traffic: i64,
    pub rules: Rules,
    pub violations: Vec<String>,
}

impl Pod {
    fn answers(&self) -> bool {
        self.ready.is_some() && self.attached && self.deleting.is_none() && !self.lost
    }
}

impl World {
    pub fn new(rules: Rules) -> Self {
        let truth = Truth {
            routed: Some(true),
            unrouted_since: 0,
            asked: true,
            deleted: false,
            build: 0,
            hold: false,
            hold_seen: false,
            hold_changed: 0,
            wanted: 1,
            standard: None,
            standard_from: 0,
            proven: false,
            activity: Activity::Starting,
            reserves: Vec::new(),
            reported: None,
        };
        Self {
            now: 0,
            traffic: false,
            standard_works: true,
            reserve_works: true,
            history: vec![(0, truth.clone())],
            truth,
            shown: [0; 4],
            written: BTreeMap::new(),
            standard_shown: false,
            excused_until: 0,
            secured: false,
            plain: false,
            last_traffic: 0,
            rules,
            violations: Vec::new(),
        }
    }

    pub fn plain() -> Self {
        let mut world = Self::new(Rules { parking: Parking::Always, ..Rules::default() });
        world.plain = true;
        world.truth.activity = Activity::Unmeasured;
        world
    }

    pub fn excuse(&mut self) {
        self.excused_until = self.now + FAULT;
        self.secured = false;
    }

    fn endpoints(&self) -> usize {
        usize::from(self.truth.standard.is_some()) + self.truth.reserves.iter().filter(|r| r.answers()).count()
    }

    fn promised(&self) -> bool {
        self.secured && self.eligible()
    }

    fn eligible(&self) -> bool {
        let t = &self.truth;
        let failed = t.reported.is_some_and(|r| matches!(r.reason, Reason::ReserveFailed));
        t.proven && t.asked && t.routed == Some(true) && !t.deleted && !failed && self.now >= self.excused_until
    }

    /// Something takes endpoints away: not the last, where a reserve is promised.
    fn takes(&mut self, what: &str, take: impl FnOnce(&mut Self)) {
        let before = self.endpoints();
        take(self);
        if before > 0 && self.endpoints() == 0 && self.promised() {
            self.violations.push(format!("at {} ms {what} took the last endpoint: {:?}", self.now, self.truth));
        }
    }

    pub fn pass(&mut self, millis: i64) {
        let end = self.now + millis;
        while self.now < end {
            self.now += TICK;
            self.tick();
            let works = !self.plain && self.truth.hold_seen || self.truth.reserves.iter().any(Pod::answers);
            self.secured = self.eligible() && (self.secured || works);
            self.history.push((self.now, self.truth.clone()));
        }
        if self.history.len() > 4_000 {
            self.history.drain(..2_000);
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        if now - self.truth.hold_changed >= SYNC {
            self.truth.hold_seen = self.truth.hold;
        }
        for pod in &mut self.truth.reserves {
            if pod.ready.is_none()
                && !pod.lost
                && pod.deleting.is_none()
                && self.reserve_works
                && now - pod.created >= 1_500
            {
                pod.ready = Some(now);
            }
            if self.traffic && pod.answers() {
                pod.busy_until = now + 700;
            }
        }
        let standing = self.truth.standard.is_some();
        self.truth.reserves.retain(|pod| {
            // One that runs drains for half a minute, or its grace; one that doesn't has nothing to drain.
            let drains = if pod.ready.is_some() { 31 } else { 2 };
            pod.deleting.is_none_or(|(since, grace)| now < since + grace.min(drains) * 1000)
        });
        if self.truth.deleted {
            self.truth.standard = None;
            for pod in &mut self.truth.reserves {
                pod.deleting.get_or_insert((now, 300));
            }
            return;
        }
        if self.plain { self.scale_plain() } else { self.scale(standing) }
    }

    fn scale_plain(&mut self) {
        let now = self.now;
        let t = &mut self.truth;
        match (self.traffic, t.wanted) {
            (true, 0) => (t.wanted, t.standard_from) = (1, now),
            // With none wanted all are there that are wanted: its condition says so.
            (false, 1) => (t.wanted, t.standard, t.proven) = (0, None, true),
            _ => {}
        }
        if t.wanted > 0 && t.standard.is_none() && self.standard_works && now - t.standard_from >= 800 {
            t.standard = Some(now);
            t.proven = true;
        }
    }

    fn scale(&mut self, standing: bool) {
        let now = self.now;
        let t = &mut self.truth;
        if self.traffic {
            self.last_traffic = now;
            if t.wanted == 0 || matches!(t.activity, Activity::Idle { .. }) {
                if t.wanted == 0 {
                    t.wanted = 1;
                    t.standard_from = now;
                }
                t.activity = if standing { Activity::Active { since: stamp(now) } } else { Activity::Starting };
            }
        }
        if t.wanted > 0 && t.standard.is_none() && self.standard_works && now - t.standard_from >= 800 {
            t.standard = Some(now);
            t.proven = true;
        }
        if t.standard.is_some() && t.activity == Activity::Starting {
            t.activity = Activity::Active { since: stamp(now) };
        }
        if let Activity::Active { since } = t.activity
            && now - self.last_traffic >= WINDOW
            && stamp(now).duration_since(since) >= SignedDuration::from_millis(WINDOW)
        {
            t.activity = Activity::Idle { since: stamp(now) };
        }
        if let Activity::Idle { since } = t.activity
            && t.wanted > 0
        {
            let expired = stamp(now).duration_since(since) >= SignedDuration::from_hours(1);
            if !t.hold_seen || t.routed != Some(true) || expired {
                if expired {
                    self.excused_until = now + 1;
                }
                self.takes("the autoscaler", |world| {
                    world.truth.wanted = 0;
                    world.truth.standard = None;
                });
            }
        }
    }

    /// The controller decides on what it sees, `lag` ago at most, and dies after `steps` effects.
    pub fn control(&mut self, lag: [i64; 4], steps: usize) -> Decision {
        for (shown, lag) in self.shown.iter_mut().zip(lag) {
            *shown = (*shown).max(self.now - lag);
        }
        let [revision, deployment, autoscaler, _] = self.shown.map(|at| self.at(at).clone());
        self.standard_shown = deployment.standard.is_some();
        let seen = self.snapshot(&revision, &deployment, &autoscaler, &self.pods_seen());
        let decision = decide(&seen, &self.rules, stamp(self.now));
        for effect in decision.effects.iter().take(steps) {
            self.carry_out(effect);
        }
        self.history.push((self.now, self.truth.clone()));
        decision
    }

    fn at(&self, time: i64) -> &Truth {
        let found = self.history.iter().rev().find(|(at, _)| *at <= time).or(self.history.first());
        &found.expect("there is always one").1
    }

    fn pods_seen(&self) -> Vec<Pod> {
        let shown = self.shown[3];
        let mut pods: BTreeMap<&str, &Pod> = self.at(shown).reserves.iter().map(|pod| (&*pod.name, pod)).collect();
        for (name, written) in self.written.iter().filter(|(_, written)| **written > shown) {
            let answered = self.at(*written).reserves.iter().find(|pod| pod.name == *name);
            pods.extend(answered.map(|pod| (&*pod.name, pod)));
        }
        pods.into_values().cloned().collect()
    }

    fn snapshot(&self, revision: &Truth, deployment: &Truth, autoscaler: &Truth, pods: &[Pod]) -> Snapshot {
        let wish = match revision {
            t if t.deleted => Wish::Deleted,
            t if !t.asked => Wish::NotAsked,
            t if t.routed != Some(true) => Wish::Unrouted { since: stamp(t.unrouted_since) },
            _ => Wish::Wanted(Wanted {
                build: BUILD[deployment.build].to_owned(),
                startup: SignedDuration::from_secs(60),
            }),
        };
        let gate = match (revision.hold, autoscaler.hold_seen) {
            _ if self.plain => Gate::Absent,
            (true, seen) => Gate::Held { seen },
            (false, _) => Gate::Open,
        };
        let reserves = pods.iter().map(|pod| {
            // The result of a look is known at once, whatever the caches show.
            let idle = self.truth.reserves.iter().find(|p| p.name == pod.name).map_or(Idle::Unasked, |p| p.idle);
            Reserve {
                name: pod.name.clone(),
                fit: match pod {
                    pod if pod.doomed => Fit::Doomed,
                    pod if pod.build != deployment.build => Fit::Outdated,
                    _ => Fit::Current,
                },
                life: match pod.ready {
                    _ if pod.lost => Life::Lost,
                    Some(since) => Life::Ready { since: stamp(since) },
                    None => Life::Unready { since: stamp(pod.unready_since) },
                },
                attachment: if pod.attached {
                    Attachment::Attached { since: stamp(pod.changed) }
                } else {
                    Attachment::Detached { since: stamp(pod.changed), idle }
                },
                deleting: pod.deleting.map(|(since, grace_seconds)| Deleting {
                    since: stamp(since),
                    grace_seconds,
                    idle,
                }),
            }
        });
        Snapshot {
            name: "rev".into(),
            wish,
            standard: Standard {
                wanted: deployment.wanted,
                ready: u32::from(deployment.standard.is_some()),
                ready_since: deployment.standard.map(stamp),
                proven: autoscaler.proven,
                activity: autoscaler.activity,
            },
            gate,
            reserves: reserves.collect(),
            // What the controller itself said it knows at once.
            reported: self.truth.reported,
            longest_request: SignedDuration::from_secs(5),
        }
    }

    fn pod(&mut self, name: &str) -> Option<&mut Pod> {
        self.truth.reserves.iter_mut().find(|pod| pod.name == name)
    }

    fn carry_out(&mut self, effect: &Effect) {
        let (now, plain) = (self.now, self.plain);
        match effect {
            Effect::SetHold | Effect::ClearHold => self.shown[0] = now,
            Effect::Create { name, .. }
            | Effect::Attach { name, .. }
            | Effect::Detach { name, .. }
            | Effect::Delete { name, .. } => drop(self.written.insert(name.clone(), now)),
            Effect::CheckIdle { .. } | Effect::Report(_) => {}
        }
        match effect {
            Effect::SetHold | Effect::ClearHold => {
                let hold = *effect == Effect::SetHold;
                if self.truth.hold != hold {
                    self.truth.hold = hold;
                    self.truth.hold_changed = now;
                }
            }
            Effect::Create { name, attached, .. } => {
                if self.pod(name).is_none() && !self.truth.deleted {
                    let build = BUILD.iter().position(|build| name.contains(*build)).expect("a build");
                    self.truth.reserves.push(Pod {
                        name: name.clone(),
                        build,
                        created: now,
                        ready: None,
                        unready_since: now,
                        lost: false,
                        doomed: false,
                        attached: *attached,
                        changed: now,
                        deleting: None,
                        idle: Idle::Unasked,
                        busy_until: 0,
                    });
                }
            }
            Effect::Attach { name, .. } => {
                if let Some(pod) = self.pod(name).filter(|pod| !pod.attached) {
                    (pod.attached, pod.changed) = (true, now);
                }
            }
            Effect::Detach { name, .. } => {
                // Without a gate the last standard Pod may go while the reserve makes way for it.
                if self.plain && self.standard_shown && self.truth.standard.is_none() {
                    self.excuse();
                }
                self.takes("a detachment", |world| {
                    if let Some(pod) = world.pod(name).filter(|pod| pod.attached) {
                        (pod.attached, pod.changed) = (false, now);
                    }
                });
            }
            Effect::CheckIdle { name } => {
                if let Some(pod) = self.pod(name) {
                    let at = stamp(now);
                    pod.idle = match pod.ready {
                        // There is no queue-proxy to ask.
                        _ if plain => Idle::Silent { at },
                        None => Idle::Silent { at },
                        Some(_) if pod.busy_until > now => Idle::Busy { at },
                        Some(_) => Idle::Yes { at },
                    };
                }
            }
            Effect::Delete { name, grace, .. } => self.takes("a deletion", |world| {
                let seconds = match grace {
                    Grace::None => 0,
                    Grace::Idle => 1,
                    Grace::Full => 300,
                };
                let Some(pod) = world.pod(name) else { return };
                let cut = pod.busy_until > now + 1_000 && seconds < 300 && !pod.lost;
                let since = pod.deleting.map_or(now, |(since, _)| since);
                pod.deleting = Some((since.max(now - 1_000 * seconds), seconds));
                if cut {
                    world.violations.push(format!("at {now} ms {name} was cut off at work"));
                }
            }),
            Effect::Report(report) => {
                self.truth.reported = report.as_ref().map(|r| Reported { reason: r.reason, since: stamp(now) });
            }
        }
    }

    // --- what happens to it ---

    pub fn reserve_fails(&mut self, which: usize, how: Fault) {
        let count = self.truth.reserves.len();
        if count == 0 {
            return;
        }
        self.excuse();
        let now = self.now;
        let pod = &mut self.truth.reserves[which % count];
        match how {
            Fault::Crash => {
                if pod.ready.take().is_some() {
                    pod.unready_since = now;
                    pod.created = now;
                }
            }
            Fault::Lost => pod.lost = true,
            Fault::Deleted => pod.deleting = pod.deleting.or(Some((now, 30))),
            Fault::Doomed => pod.doomed = true,
        }
    }

    pub fn standard_fails(&mut self) {
        self.excuse();
        self.truth.standard = None;
        self.truth.standard_from = self.now;
    }

    pub fn rebuild(&mut self) {
        self.truth.build = 1 - self.truth.build;
    }

    pub fn route(&mut self, routed: bool) {
        if self.truth.routed != Some(routed) {
            self.excuse();
            (self.truth.routed, self.truth.unrouted_since) = (Some(routed), self.now);
        }
    }

    pub fn ask(&mut self, asked: bool) {
        if self.truth.asked != asked {
            self.excuse();
            self.truth.asked = asked;
        }
    }

    pub fn delete(&mut self) {
        self.truth.deleted = true;
    }

    // --- what it has come to ---

    pub fn held(&self) -> bool {
        self.truth.hold
    }

    pub fn reserves(&self) -> usize {
        self.truth.reserves.len()
    }

    /// Ready, whether requests reach it or not.
    pub fn ready(&self) -> bool {
        self.truth.reserves.iter().any(|pod| pod.ready.is_some() && pod.deleting.is_none() && !pod.lost)
    }

    pub fn answering(&self) -> usize {
        self.truth.reserves.iter().filter(|pod| pod.answers()).count()
    }

    pub fn at_zero(&self) -> bool {
        self.truth.wanted == 0
    }

    pub fn describe(&self) -> String {
        format!("{} ms: {:?}", self.now, self.truth)
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Crash,
    Lost,
    Deleted,
    Doomed,
}

pub fn stamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000_000 + millis).expect("within a year")
}
