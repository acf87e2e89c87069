//! One step each: a snapshot, and what is done.

mod any_day;
mod sim;

use super::*;
use jiff::{SignedDuration, Timestamp};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn wanted() -> Wish {
    Wish::Wanted(Wanted { build: "aaaa".into(), startup: SignedDuration::from_secs(120) })
}

fn standing() -> Snapshot {
    Snapshot {
        name: "coffee-00001".into(),
        wish: wanted(),
        standard: Standard {
            wanted: 1,
            ready: 1,
            ready_since: Some(at(0)),
            proven: true,
            activity: Activity::Active { since: at(0) },
        },
        gate: Gate::Held { seen: true },
        reserves: vec![],
        reported: None,
        longest_request: SignedDuration::from_secs(300),
    }
}

fn idle() -> Snapshot {
    let mut seen = standing();
    seen.standard.activity = Activity::Idle { since: at(10) };
    seen
}

fn zero() -> Snapshot {
    let mut seen = idle();
    seen.standard = Standard { wanted: 0, ready: 0, ready_since: None, ..seen.standard };
    seen.gate = Gate::Open;
    seen
}

fn reserve(n: u32, life: Life) -> Reserve {
    Reserve {
        name: format!("coffee-00001-reserve-aaaa-{n}"),
        fit: Fit::Current,
        life,
        attachment: Attachment::Attached { since: at(0) },
        deleting: None,
    }
}

fn ready(n: u32) -> Reserve {
    reserve(n, Life::Ready { since: at(5) })
}

fn detached(n: u32, idle: Idle) -> Reserve {
    Reserve { attachment: Attachment::Detached { since: at(20), idle }, ..ready(n) }
}

/// What is done, without the reports.
fn effects(seen: &Snapshot, now: i64) -> Vec<Effect> {
    let decision = decide(seen, &Rules::default(), at(now));
    decision.effects.into_iter().filter(|e| !matches!(e, Effect::Report(_))).collect()
}

fn reported(seen: &Snapshot, now: i64) -> Option<Reason> {
    decide(seen, &Rules::default(), at(now)).effects.into_iter().find_map(|effect| match effect {
        Effect::Report(report) => report.map(|r| r.reason),
        _ => None,
    })
}

fn create(n: u32, why: Why) -> Effect {
    Effect::Create { name: format!("coffee-00001-reserve-aaaa-{n}"), attached: true, why }
}

fn name(n: u32) -> String {
    format!("coffee-00001-reserve-aaaa-{n}")
}

#[test]
fn standard_pods_are_held_as_soon_as_they_run() {
    let seen = Snapshot { gate: Gate::Open, ..standing() };
    assert_eq!(effects(&seen, 30), [Effect::SetHold]);
    assert_eq!(effects(&standing(), 30), []);
}

#[test]
fn what_has_never_been_ready_gets_neither_hold_nor_reserve() {
    let mut seen = zero();
    seen.standard.proven = false;
    assert_eq!(effects(&seen, 30), []);
    seen.standard.wanted = 1;
    assert_eq!(effects(&seen, 30), []);
    assert_eq!(reported(&seen, 30), Some(Reason::Deploying));
}

#[test]
fn idle_standard_pods_stay_until_a_reserve_has_answered_for_a_moment() {
    let mut seen = idle();
    assert_eq!(effects(&seen, 30), [create(1, Why::NoTraffic)]);
    seen.reserves = vec![reserve(1, Life::Unready { since: at(30) })];
    assert_eq!(effects(&seen, 40), []);
    seen.reserves = vec![reserve(1, Life::Ready { since: at(40) })];
    assert_eq!(effects(&seen, 40), []);
    assert_eq!(decide(&seen, &Rules::default(), at(40)).look_again, Some(at(41)));
    assert_eq!(effects(&seen, 41), [Effect::ClearHold]);
    assert_eq!(reported(&seen, 41), Some(Reason::StandardLeaving));
}

#[test]
fn an_idle_revision_without_a_hold_is_held_before_anything_else() {
    let seen = Snapshot { gate: Gate::Open, ..idle() };
    assert_eq!(effects(&seen, 30), [Effect::SetHold, create(1, Why::NoTraffic)]);
}

#[test]
fn traffic_that_comes_back_ends_the_preparation() {
    let seen = Snapshot { reserves: vec![reserve(1, Life::Unready { since: at(30) })], ..standing() };
    assert_eq!(effects(&seen, 31), [Effect::Detach { name: name(1), why: Why::StandardAnswers }]);
}

#[test]
fn a_reserve_is_not_detached_before_the_autoscaler_has_the_hold() {
    for (gate, effects_then) in [
        (Gate::Open, vec![Effect::SetHold]),
        (Gate::Held { seen: false }, vec![]),
        (Gate::Held { seen: true }, vec![Effect::Detach { name: name(1), why: Why::StandardAnswers }]),
        (Gate::Absent, vec![Effect::Detach { name: name(1), why: Why::StandardAnswers }]),
    ] {
        let seen = Snapshot { gate, reserves: vec![ready(1)], ..standing() };
        assert_eq!(effects(&seen, 30), effects_then, "{gate:?}");
    }
}

#[test]
fn a_standard_pod_that_was_ready_for_less_than_three_seconds_does_not_relieve_the_reserve() {
    let mut seen = Snapshot { reserves: vec![ready(1)], ..standing() };
    seen.standard.ready_since = Some(at(30));
    let decision = decide(&seen, &Rules::default(), at(32));
    assert_eq!((decision.state, decision.look_again), (State::ScalingUp, Some(at(33))));
    assert_eq!(effects(&seen, 32), []);
    assert_eq!(effects(&seen, 33), [Effect::Detach { name: name(1), why: Why::StandardAnswers }]);
}

#[test]
fn a_detached_reserve_is_asked_whether_it_is_idle_and_then_deleted_at_once() {
    let with = |idle| Snapshot { reserves: vec![detached(1, idle)], ..standing() };
    assert_eq!(effects(&with(Idle::Unasked), 21), []);
    assert_eq!(effects(&with(Idle::Unasked), 22), [Effect::CheckIdle { name: name(1) }]);
    assert_eq!(effects(&with(Idle::Yes { at: at(21) }), 22), [Effect::CheckIdle { name: name(1) }]);
    let delete = |grace, why| Effect::Delete { name: name(1), grace, why };
    assert_eq!(effects(&with(Idle::Yes { at: at(22) }), 22), [delete(Grace::Idle, Why::StandardAnswers)]);
    assert_eq!(effects(&with(Idle::Busy { at: at(100) }), 101), [Effect::CheckIdle { name: name(1) }]);
    assert_eq!(effects(&with(Idle::Busy { at: at(321) }), 322), [delete(Grace::Full, Why::DrainTimedOut)]);
    assert_eq!(effects(&with(Idle::Silent { at: at(31) }), 32), [delete(Grace::Full, Why::DrainTimedOut)]);
}

#[test]
fn a_parked_reserve_is_attached_again_when_the_traffic_ends() {
    let rules = Rules { parking: Parking::For(SignedDuration::from_secs(60)), ..Rules::default() };
    let seen = Snapshot { reserves: vec![detached(1, Idle::Unasked)], ..standing() };
    let decision = decide(&seen, &rules, at(30));
    assert_eq!((decision.look_again, decision.effects.len()), (Some(at(80)), 1), "only the report");
    let seen = Snapshot { reserves: vec![detached(1, Idle::Unasked)], ..idle() };
    assert_eq!(effects(&seen, 40), [Effect::Attach { name: name(1), why: Why::NoTraffic }]);
}

#[test]
fn at_zero_a_missing_reserve_is_made_and_a_lost_one_replaced() {
    assert_eq!(effects(&zero(), 30), [create(1, Why::NobodyAnswers)]);
    let mut seen = Snapshot { reserves: vec![reserve(1, Life::Lost)], ..zero() };
    assert_eq!(effects(&seen, 30), [create(2, Why::NobodyAnswers)]);
    seen.reserves.push(ready(2));
    assert_eq!(effects(&seen, 30), [Effect::Delete { name: name(1), grace: Grace::None, why: Why::Lost }]);
}

#[test]
fn losing_one_reserve_after_the_other_counts_as_a_failure() {
    let lost = |n| reserve(n, Life::Lost);
    let seen = Snapshot { reserves: vec![lost(1), lost(2), lost(3)], ..zero() };
    assert_eq!(reported(&seen, 30), Some(Reason::ReserveFailed));
    assert!(effects(&seen, 30).iter().all(|e| matches!(e, Effect::Delete { grace: Grace::None, .. })));
}

#[test]
fn a_new_template_at_zero_is_made_before_the_old_one_goes() {
    let old = Reserve { fit: Fit::Outdated, ..ready(7) };
    let mut seen = Snapshot { reserves: vec![old.clone()], ..zero() };
    assert_eq!(effects(&seen, 30), [create(1, Why::NobodyAnswers)]);
    assert_eq!(decide(&seen, &Rules::default(), at(30)).state, State::AtZero);
    seen.reserves.push(reserve(1, Life::Unready { since: at(30) }));
    assert_eq!(effects(&seen, 40), []);
    seen.reserves[1].life = Life::Ready { since: at(40) };
    assert_eq!(effects(&seen, 40), []);
    assert_eq!(effects(&seen, 41), [Effect::Detach { name: name(7), why: Why::Outdated }]);
}

#[test]
fn a_new_template_that_never_gets_ready_leaves_the_old_reserve_answering() {
    let old = Reserve { fit: Fit::Outdated, ..ready(7) };
    let mut seen = Snapshot { reserves: vec![old.clone(), reserve(1, Life::Unready { since: at(30) })], ..zero() };
    assert_eq!(reported(&seen, 150), Some(Reason::RollFailed));
    assert_eq!(effects(&seen, 150), [Effect::Detach { name: name(1), why: Why::NeverReady }]);
    seen.reserves = vec![old];
    seen.reported = Some(Reported { reason: Reason::RollFailed, since: at(150) });
    assert_eq!(effects(&seen, 151), []);
    assert_eq!(effects(&seen, 750), [create(1, Why::NobodyAnswers)]);
}

#[test]
fn a_reserve_that_never_gets_ready_ends_in_plain_zero_and_is_tried_again_later() {
    let mut seen = Snapshot { reserves: vec![reserve(1, Life::Unready { since: at(30) })], ..idle() };
    assert_eq!(effects(&seen, 149), []);
    assert_eq!(reported(&seen, 150), Some(Reason::ReserveFailed));
    let detach = Effect::Detach { name: name(1), why: Why::NeverReady };
    assert_eq!(effects(&seen, 150), [detach, Effect::ClearHold]);
    seen = Snapshot { reported: Some(Reported { reason: Reason::ReserveFailed, since: at(150) }), ..zero() };
    assert_eq!(effects(&seen, 200), []);
    assert_eq!(decide(&seen, &Rules::default(), at(200)).look_again, Some(at(750)));
    assert_eq!(effects(&seen, 750), [create(1, Why::NobodyAnswers)]);
}

#[test]
fn where_the_rules_say_so_standard_pods_are_held_although_no_reserve_can_be_had() {
    let rules = Rules { on_failure: OnFailure::HoldStandard, ..Rules::default() };
    let seen = Snapshot { reserves: vec![reserve(1, Life::Unready { since: at(30) })], ..idle() };
    let decision = decide(&seen, &rules, at(150));
    assert!(!decision.effects.contains(&Effect::ClearHold), "{decision:?}");
    let Effect::Report(Some(report)) = &decision.effects[0] else { panic!("{decision:?}") };
    assert_eq!(report.reason, Reason::ReserveFailed);
    assert!(report.message.contains("the standard Pods stay"), "{report:?}");
}

#[test]
fn standard_pods_that_never_come_leave_the_reserve_answering() {
    let mut seen = Snapshot { reserves: vec![ready(1)], ..standing() };
    seen.standard = Standard { ready: 0, ready_since: None, activity: Activity::Starting, ..seen.standard };
    assert_eq!(effects(&seen, 100_000), []);
}

#[test]
fn standard_pods_that_all_fail_bring_a_parked_reserve_back() {
    let mut seen = Snapshot { reserves: vec![detached(1, Idle::Unasked)], ..standing() };
    seen.standard.ready = 0;
    assert_eq!(effects(&seen, 30), [Effect::Attach { name: name(1), why: Why::StandardLost }]);
}

#[test]
fn a_doomed_reserve_is_replaced_before_its_instance_goes() {
    let doomed = Reserve { fit: Fit::Doomed, ..ready(1) };
    let mut seen = Snapshot { reserves: vec![doomed], ..zero() };
    assert_eq!(effects(&seen, 30), [create(2, Why::NobodyAnswers)]);
    seen.reserves.push(ready(2));
    assert_eq!(effects(&seen, 30), [Effect::Detach { name: name(1), why: Why::Doomed }]);
}

#[test]
fn a_hold_that_nobody_needs_is_cleared() {
    for wish in [Wish::NotAsked, Wish::Refused(Refusal::MinScale(1)), Wish::Unrouted { since: at(0) }] {
        let seen = Snapshot { wish, ..standing() };
        assert_eq!(effects(&seen, 5), [Effect::ClearHold]);
    }
}

#[test]
fn a_revision_that_loses_its_traffic_loses_its_reserve_after_a_while() {
    let seen = Snapshot { wish: Wish::Unrouted { since: at(30) }, reserves: vec![ready(1)], ..zero() };
    assert_eq!(effects(&seen, 59), []);
    assert_eq!(effects(&seen, 60), [Effect::Detach { name: name(1), why: Why::NotWanted }]);
}

#[test]
fn a_new_revision_is_said_to_be_unrouted_only_when_its_route_has_had_the_time_to_name_it() {
    let mut seen = Snapshot { wish: Wish::Unrouted { since: at(0) }, gate: Gate::Open, ..standing() };
    seen.standard = Standard { ready: 0, ready_since: None, proven: false, ..seen.standard };
    for now in [0, 1_000] {
        assert_eq!(reported(&seen, now), Some(Reason::Deploying));
    }
    seen.reported = Some(Reported { reason: Reason::Deploying, since: at(0) });
    seen.standard = Standard { ready: 1, ready_since: Some(at(1_000)), proven: true, ..seen.standard };
    assert_eq!(reported(&seen, 1_029), None);
    assert_eq!(decide(&seen, &Rules::default(), at(1_029)).look_again, Some(at(1_030)));
    assert_eq!(reported(&seen, 1_030), Some(Reason::NotRouted));
}

#[test]
fn what_is_said_of_a_revision_holds_until_its_traffic_has_been_away_for_a_while() {
    let reported_before = Some(Reported { reason: Reason::StandardServes, since: at(0) });
    let seen = Snapshot { wish: Wish::Unrouted { since: at(30) }, reported: reported_before, ..standing() };
    assert_eq!(reported(&seen, 59), None);
    assert_eq!(reported(&seen, 60), Some(Reason::NotRouted));
}

#[test]
fn a_reserve_that_answers_for_standard_pods_on_their_way_outlives_its_refusal_until_they_answer() {
    let mut seen = Snapshot { wish: Wish::Refused(Refusal::MinScale(1)), reserves: vec![ready(1)], ..standing() };
    seen.standard.ready_since = Some(at(30));
    assert_eq!(effects(&seen, 31), [Effect::ClearHold]);
    assert_eq!(effects(&seen, 33), [Effect::ClearHold, Effect::Detach { name: name(1), why: Why::NotWanted }]);
}

#[test]
fn what_somebody_deleted_goes_as_soon_as_it_is_idle() {
    let deleting = |idle| Some(Deleting { since: at(20), grace_seconds: 300, idle });
    let with = |idle| Snapshot {
        wish: Wish::Deleted,
        reserves: vec![Reserve { deleting: deleting(idle), ..ready(1) }],
        ..zero()
    };
    assert_eq!(effects(&with(Idle::Unasked), 22), [Effect::CheckIdle { name: name(1) }]);
    assert_eq!(
        effects(&with(Idle::Yes { at: at(22) }), 22),
        [Effect::Delete { name: name(1), grace: Grace::Idle, why: Why::Drained }]
    );
    assert_eq!(effects(&with(Idle::Busy { at: at(600) }), 600), [], "its own grace ends it");
}

#[test]
fn for_what_has_no_gate_one_reserve_is_always_kept_ready() {
    let rules = Rules { parking: Parking::Always, ..Rules::default() };
    let mut seen = Snapshot { gate: Gate::Absent, ..standing() };
    seen.standard.activity = Activity::Unmeasured;
    let decision = decide(&seen, &rules, at(30));
    let made = Effect::Create { name: name(1), attached: false, why: Why::KeptReady };
    assert!(decision.effects.contains(&made), "{decision:?}");
    seen.reserves = vec![detached(1, Idle::Unasked)];
    assert_eq!(decide(&seen, &rules, at(100_000)).effects.len(), 1, "only the report");
    seen.standard.wanted = 0;
    let attach = Effect::Attach { name: name(1), why: Why::NobodyAnswers };
    assert!(decide(&seen, &rules, at(30)).effects.contains(&attach));
}

#[test]
fn for_what_has_no_gate_a_reserve_of_an_older_template_stays_until_there_is_another() {
    let rules = Rules { parking: Parking::Always, ..Rules::default() };
    let effects = |seen: &Snapshot, now| {
        let effects = decide(seen, &rules, at(now)).effects.into_iter();
        effects.filter(|e| !matches!(e, Effect::Report(_))).collect::<Vec<_>>()
    };
    let old = Reserve { fit: Fit::Outdated, ..detached(7, Idle::Unasked) };
    let mut seen = Snapshot { gate: Gate::Absent, reserves: vec![old], ..standing() };
    seen.standard.activity = Activity::Unmeasured;
    assert_eq!(effects(&seen, 30), [Effect::Create { name: name(1), attached: false, why: Why::KeptReady }]);
    let unready = Life::Unready { since: at(30) };
    seen.reserves.push(Reserve { life: unready, ..detached(1, Idle::Unasked) });
    assert_eq!(effects(&seen, 40), []);
    // Scaled to zero in the middle of it.
    let zero = Standard { wanted: 0, ready: 0, ready_since: None, ..seen.standard.clone() };
    let seen_at_zero = Snapshot { standard: zero, ..seen.clone() };
    let attach = |n| Effect::Attach { name: name(n), why: Why::NobodyAnswers };
    assert_eq!(effects(&seen_at_zero, 40), [attach(1), attach(7)]);
    assert_eq!(decide(&seen_at_zero, &rules, at(40)).state, State::AtZero);
    seen.reserves[1].life = Life::Ready { since: at(40) };
    assert_eq!(effects(&seen, 41), [Effect::CheckIdle { name: name(7) }]);
}

#[test]
fn what_has_no_gate_is_not_said_to_be_provided_for_before_its_reserve_is_ready() {
    let rules = Rules { parking: Parking::Always, ..Rules::default() };
    let mut seen = Snapshot { gate: Gate::Absent, ..standing() };
    seen.standard.activity = Activity::Unmeasured;
    let said = |seen: &Snapshot| {
        decide(seen, &rules, at(30)).effects.into_iter().find_map(|effect| match effect {
            Effect::Report(report) => report.map(|report| report.reason),
            _ => None,
        })
    };
    assert_eq!(said(&seen), Some(Reason::ReserveStarting));
    seen.reserves = vec![detached(1, Idle::Unasked)];
    assert_eq!(said(&seen), Some(Reason::StandardServes));
    // At zero it is attached in the same breath: nothing is missing.
    seen.standard.wanted = 0;
    assert_eq!(said(&seen), Some(Reason::ReserveServes));
}

#[test]
fn what_is_reported_is_reported_once() {
    let mut seen = standing();
    assert_eq!(reported(&seen, 30), Some(Reason::StandardServes));
    seen.reported = Some(Reported { reason: Reason::StandardServes, since: at(30) });
    assert_eq!(decide(&seen, &Rules::default(), at(30)).effects, []);
}

#[test]
fn every_reason_is_read_back_as_it_was_written() {
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), Some(reason));
    }
}
