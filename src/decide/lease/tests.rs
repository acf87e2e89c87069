//! The election as such, and on bad days: clocks of different speed, requests that are lost, late or done
//! without an answer, crashes at any moment.

use super::*;
use proptest::prelude::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn elector(name: &str) -> Elector {
    Elector::new(name.to_owned(), Timing::default())
}

fn held_by(holder: &str, version: &str) -> Record {
    Record { holder: Some(holder.to_owned()), lasts: secs(15), transitions: 3, version: version.to_owned() }
}

/// The Lease as the API server makes it of a claim.
fn granted(claim: &Claim, version: &str) -> Record {
    Record {
        holder: claim.holder.clone(),
        lasts: claim.lasts,
        transitions: claim.transitions,
        version: version.to_owned(),
    }
}

fn claim_of(step: Step) -> Claim {
    match step {
        Step::Write(claim) => claim,
        other => panic!("expected a write, not {other:?}"),
    }
}

/// One that leads since second 0.
fn leader(name: &str) -> Elector {
    let mut elector = elector(name);
    elector.saw(None, secs(0));
    let claim = claim_of(elector.next(secs(0)));
    elector.wrote(granted(&claim, "1"), secs(0), secs(0));
    elector
}

#[test]
fn the_first_replica_makes_the_lease_and_leads() {
    let mut a = elector("a");
    assert_eq!(a.next(secs(0)), Step::Look);
    a.saw(None, secs(0));
    let claim = claim_of(a.next(secs(0)));
    assert_eq!((claim.version.as_deref(), claim.holder.as_deref(), claim.acquires), (None, Some("a"), true));
    assert!(!a.leads(secs(0)), "asking is not having");
    a.wrote(granted(&claim, "1"), secs(0), secs(1));
    assert_eq!(a.standing(), Standing::Leading { renewed: secs(0) }, "counted from before it was asked");
    assert!(a.leads(secs(9)) && !a.leads(secs(10)));
}

#[test]
fn a_leader_renews_every_retry_period_and_ends_at_its_deadline() {
    let mut a = leader("a");
    assert_eq!(a.next(secs(1)), Step::Rest(secs(2)));
    let claim = claim_of(a.next(secs(2)));
    assert!(!claim.acquires && claim.version.as_deref() == Some("1") && claim.transitions == 0);
    a.failed(false, secs(3));
    assert_eq!(a.next(secs(4)), Step::Rest(secs(5)));
    assert_eq!(a.next(secs(5)), Step::Look, "the write without an answer may have been done");
    assert_eq!(a.next(secs(10)), Step::End);
}

#[test]
fn a_standby_waits_for_the_duration_since_it_saw_the_last_change_whatever_it_reads_meanwhile() {
    let mut b = elector("b");
    b.saw(Some(held_by("a", "7")), secs(100));
    b.saw(Some(held_by("a", "7")), secs(110));
    assert_eq!(b.next(secs(111)), Step::Rest(secs(112)));
    assert_eq!(b.next(secs(112)), Step::Look);
    b.saw(Some(held_by("a", "7")), secs(114));
    assert_eq!(b.next(secs(114)), Step::Rest(secs(115)));
    let claim = claim_of(b.next(secs(115)));
    assert_eq!((claim.version.as_deref(), claim.transitions, claim.acquires), (Some("7"), 4, true));
    b.failed(true, secs(115));
    b.saw(Some(held_by("a", "8")), secs(115));
    assert_eq!(b.next(secs(116)), Step::Rest(secs(117)), "it was renewed after all");
    assert!(matches!(b.next(secs(130)), Step::Write(_)));
}

#[test]
fn a_failed_takeover_is_tried_again_without_waiting_anew() {
    let mut b = elector("b");
    b.saw(Some(held_by("a", "7")), secs(0));
    assert!(matches!(b.next(secs(15)), Step::Write(_)));
    b.failed(false, secs(15));
    assert_eq!(b.next(secs(17)), Step::Look);
    b.saw(Some(held_by("a", "7")), secs(17));
    assert!(matches!(b.next(secs(17)), Step::Write(_)));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let a = leader("a");
    let release = a.release().expect("it holds it");
    assert_eq!((release.holder.as_deref(), release.version.as_deref()), (None, Some("1")));
    let mut b = elector("b");
    b.saw(Some(granted(&release, "2")), secs(50));
    assert!(matches!(b.next(secs(50)), Step::Write(_)));
    assert_eq!(b.release(), None, "not its own to release");
}

#[test]
fn a_leader_that_sees_another_holder_has_lost_for_good() {
    let mut a = leader("a");
    a.failed(true, secs(2));
    a.saw(Some(held_by("b", "9")), secs(2));
    assert_eq!((a.next(secs(2)), a.leads(secs(2))), (Step::End, false));
    a.saw(Some(held_by("a", "10")), secs(3));
    assert_eq!(a.next(secs(3)), Step::End);
}

#[test]
fn a_renewal_that_is_answered_too_late_counts_as_none() {
    let mut a = leader("a");
    let claim = claim_of(a.next(secs(2)));
    a.wrote(granted(&claim, "2"), secs(2), secs(12));
    assert_eq!(a.next(secs(12)), Step::End);
    let mut b = elector("b");
    b.saw(None, secs(0));
    let claim = claim_of(b.next(secs(0)));
    b.wrote(granted(&claim, "1"), secs(0), secs(11));
    assert!(!b.leads(secs(11)));
    let again = claim_of(b.next(secs(11)));
    assert!(!again.acquires, "it is written in it already");
    b.wrote(granted(&again, "2"), secs(11), secs(12));
    assert!(b.leads(secs(12)));
}

// --- bad days ----------------------------------------------------------------

/// One tick of the world's clock.
const TICK: Duration = Duration::from_millis(100);
const REPLICAS: usize = 3;

/// What befalls one request: ticks until it reaches the API server (None: never), and until the answer is
/// back (None: never).
type Fate = (Option<u8>, Option<u8>);

#[derive(Clone, Debug)]
struct BadDay {
    /// Per mille of the world's speed; the fastest is below 1.5 times the slowest.
    speeds: [u64; REPLICAS],
    fates: Vec<Fate>,
    /// (tick, replica): killed, and started anew.
    crashes: Vec<(u32, usize)>,
    /// (tick, replica): asked to end: releases if it leads.
    releases: Vec<(u32, usize)>,
}

fn bad_day() -> impl Strategy<Value = BadDay> {
    let delay = prop_oneof![4 => (0u8..4).prop_map(Some), 2 => (0u8..200).prop_map(Some), 1 => Just(None)];
    let moments = || prop::collection::vec((0u32..1500, 0..REPLICAS), 0..6);
    (prop::array::uniform3(1000u64..1490), prop::collection::vec((delay.clone(), delay), 20..120), moments(), moments())
        .prop_map(|(speeds, fates, crashes, releases)| BadDay { speeds, fates, crashes, releases })
}

enum Asked {
    Read,
    Write(Claim),
}

/// A request on its way.
struct Flight {
    replica: usize,
    /// The replica's life that sent it: nobody hears an answer to a dead one.
    life: u32,
    asked: Asked,
    begun: Moment,
    arrives: Option<u32>,
    /// Ticks from arrival to answer.
    back: Option<u8>,
}

struct Answer {
    replica: usize,
    life: u32,
    begun: Moment,
    at: u32,
    /// Err: a conflict.
    said: Result<(bool, Option<Record>), ()>,
}

struct World {
    day: BadDay,
    tick: u32,
    lease: Option<Record>,
    writes: u32,
    electors: Vec<Elector>,
    lives: Vec<u32>,
    /// Until when (own clock) each waits for an answer.
    waiting: Vec<Option<Moment>>,
    flights: Vec<Flight>,
    answers: Vec<Answer>,
    requests: usize,
    calm: bool,
}

impl World {
    fn new(day: BadDay) -> Self {
        Self {
            day,
            tick: 0,
            lease: None,
            writes: 0,
            electors: (0..REPLICAS).map(|n| elector(&format!("{n}-0"))).collect(),
            lives: vec![0; REPLICAS],
            waiting: vec![None; REPLICAS],
            flights: Vec::new(),
            answers: Vec::new(),
            requests: 0,
            calm: false,
        }
    }

    /// A replica's clock now: of another speed and another origin than the others'.
    fn clock(&self, replica: usize) -> Moment {
        let speed = u32::try_from(self.day.speeds[replica]).expect("small");
        secs(7919 * replica as u64) + TICK * self.tick * speed / 1000
    }

    fn restart(&mut self, replica: usize) {
        self.lives[replica] += 1;
        self.waiting[replica] = None;
        self.electors[replica] = elector(&format!("{replica}-{}", self.lives[replica]));
    }

    fn send(&mut self, replica: usize, asked: Asked) {
        let (to, back) =
            if self.calm { (Some(0), Some(0)) } else { self.day.fates[self.requests % self.day.fates.len()] };
        self.requests += 1;
        let begun = self.clock(replica);
        let arrives = to.map(|ticks| self.tick + u32::from(ticks));
        self.flights.push(Flight { replica, life: self.lives[replica], asked, begun, arrives, back });
    }

    fn serve(&mut self) {
        let (arrived, flying) =
            std::mem::take(&mut self.flights).into_iter().partition(|f| f.arrives.is_some_and(|at| at <= self.tick));
        self.flights = flying;
        for flight in Vec::<Flight>::into_iter(arrived) {
            let said = match flight.asked {
                Asked::Read => Ok((false, self.lease.clone())),
                Asked::Write(claim) if claim.version != self.lease.as_ref().map(|r| r.version.clone()) => Err(()),
                Asked::Write(claim) => {
                    self.writes += 1;
                    self.lease = Some(granted(&claim, &self.writes.to_string()));
                    Ok((true, self.lease.clone()))
                }
            };
            if let Some(ticks) = flight.back {
                let Flight { replica, life, begun, .. } = flight;
                self.answers.push(Answer { replica, life, begun, at: self.tick + u32::from(ticks), said });
            }
        }
    }

    fn hear(&mut self) {
        let (here, later) = std::mem::take(&mut self.answers).into_iter().partition(|a| a.at <= self.tick);
        self.answers = later;
        for answer in Vec::<Answer>::into_iter(here) {
            let n = answer.replica;
            let waits = self.lives[n] == answer.life && self.waiting[n].is_some();
            if !waits {
                continue;
            }
            self.waiting[n] = None;
            let now = self.clock(n);
            match answer.said {
                Ok((false, record)) => self.electors[n].saw(record, now),
                Ok((true, record)) => self.electors[n].wrote(record.expect("written"), answer.begun, now),
                Err(()) => self.electors[n].failed(true, now),
            }
        }
    }

    fn step(&mut self, replica: usize) {
        let now = self.clock(replica);
        if let Some(until) = self.waiting[replica] {
            if now < until {
                return;
            }
            // It gives the request up, which may still arrive; its answer is heard by nobody.
            self.waiting[replica] = None;
            for flight in &mut self.flights {
                if flight.replica == replica {
                    flight.back = None;
                }
            }
            self.answers.retain(|answer| answer.replica != replica);
            self.electors[replica].failed(false, now);
        }
        let asked = match self.electors[replica].next(now) {
            Step::Rest(_) => return,
            Step::End => return self.restart(replica),
            Step::Look => Asked::Read,
            Step::Write(claim) => Asked::Write(claim),
        };
        self.waiting[replica] = Some(self.electors[replica].patience(now));
        self.send(replica, asked);
    }

    fn leaders(&self) -> Vec<usize> {
        (0..REPLICAS).filter(|n| self.electors[*n].leads(self.clock(*n))).collect()
    }

    fn run_tick(&mut self) {
        for (tick, replica) in self.day.crashes.clone() {
            if tick == self.tick {
                self.restart(replica);
            }
        }
        for (tick, replica) in self.day.releases.clone() {
            if tick == self.tick {
                let release = self.electors[replica].release();
                self.restart(replica);
                if let Some(claim) = release {
                    self.send(replica, Asked::Write(claim));
                }
            }
        }
        self.serve();
        self.hear();
        for replica in 0..REPLICAS {
            self.step(replica);
        }
        self.tick += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn two_never_lead_at_a_time_and_one_leads_soon_after_the_last_fault(day in bad_day()) {
        let mut world = World::new(day);
        for _ in 0..1500 {
            world.run_tick();
            let leaders = world.leaders();
            prop_assert!(leaders.len() <= 1, "tick {}: {leaders:?} lead", world.tick);
        }
        world.calm = true;
        world.day.crashes.clear();
        world.day.releases.clear();
        // What was under way is given up after renewDeadline; then leaseDuration; then a retry or two.
        for _ in 0..400 {
            world.run_tick();
            prop_assert!(world.leaders().len() <= 1);
        }
        prop_assert_eq!(world.leaders().len(), 1, "somebody leads");
    }
}

#[test]
fn clocks_further_apart_than_is_assumed_do_make_two_leaders() {
    // The property above can fail: with one clock twice as fast, and a leader that is cut off.
    let day = BadDay {
        speeds: [1000, 2000, 1000],
        fates: vec![(Some(0), Some(0))],
        crashes: Vec::new(),
        releases: Vec::new(),
    };
    let mut world = World::new(day);
    let mut two = false;
    for _ in 0..300 {
        world.run_tick();
        if world.leaders() == [0] {
            world.flights.retain(|flight| flight.replica != 0);
        }
        two |= world.leaders().len() > 1;
    }
    assert!(two, "then the simulation would miss what it is for");
}
