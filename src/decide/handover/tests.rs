//! What may never be decided about a handover, whatever is known; the table of who may be moved; which cause counts.

use super::*;
use crate::decide::fixtures::{at, container_spec, intent};
use crate::decide::purchase::policy::{Interruption, OnNotice, OnRebalance};
use crate::model::{
    ContainerKind, Notice, PodIntent, PodSpec, PortSpec, Protocol, RestartPolicy, Unsupported, VolumeSource, VolumeSpec,
};
use proptest::prelude::*;
use std::sync::Arc;

const GRACE: u64 = 30;

fn stages() -> impl Strategy<Value = Stage> {
    let stop = proptest::option::of(
        (0..400i64).prop_map(|deadline| Deletion { deadline: at(deadline), grace_seconds: GRACE }),
    );
    let shown = proptest::option::of((0..300i64).prop_map(at));
    let role = prop_oneof![Just(Role::Old), Just(Role::Abandoned)];
    prop_oneof![
        Just(Stage::Idle),
        Just(Stage::Wanting),
        Just(Stage::Starting),
        (role, shown, stop).prop_map(|(role, shown_at, stop)| Stage::Draining { role, shown_at, stop }),
    ]
}

fn leaves() -> impl Strategy<Value = Option<Leave>> {
    let cause = prop_oneof![
        Just(Cause::Interruption),
        Just(Cause::Maintenance { code: "instance-stop".to_owned() }),
        Just(Cause::Rebalance),
        Just(Cause::Expired),
        Just(Cause::Asked(Ask::new("1"))),
    ];
    let manner = prop_oneof![4 => Just(Manner::HandOver), 1 => Just(Manner::Drain), 1 => Just(Manner::MarkOnly)];
    proptest::option::of((cause, manner, 100..400i64).prop_map(|(cause, manner, by)| {
        let forced = matches!(cause, Cause::Interruption | Cause::Maintenance { .. });
        let manner = if manner == Manner::Drain && cause != Cause::Interruption { Manner::HandOver } else { manner };
        Leave { cause, by: forced.then(|| at(by)), manner }
    }))
}

#[derive(Clone, Debug)]
struct Case {
    pod: PodFacts,
    leave: Option<Leave>,
    against: Vec<Unmovable>,
    stage: Stage,
    other: Other,
    rest_until: Option<Timestamp>,
    evicted_at: Option<Timestamp>,
    now: Timestamp,
}

prop_compose! {
    fn cases()(
        leave in leaves(), stage in stages(),
        (over, backed, controlled, movable) in (prop::bool::weighted(0.1), prop::bool::weighted(0.8), any::<bool>(), any::<bool>()),
        (alive, connected, told, ready, terminated) in any::<(bool, bool, bool, bool, bool)>(),
        ends_at in proptest::option::of(0..400i64), rest_until in proptest::option::of(0..400i64),
        evicted_at in proptest::option::of(0..400i64), now in 0..900i64,
        grace_seconds in prop_oneof![Just(1), Just(GRACE), Just(300)],
    ) -> Case {
        Case {
            pod: PodFacts { over, deletion: None, backed, grace_seconds, controlled },
            leave,
            against: if movable { Vec::new() } else { vec![Unmovable::ReadinessGates] },
            stage,
            other: Other { alive, connected, told, ready, terminated, ends_at: ends_at.map(at) },
            rest_until: rest_until.map(at),
            evicted_at: evicted_at.map(at),
            now: at(now),
        }
    }
}

impl Case {
    /// How long before its end something that has a replacement must begin to stop.
    fn kept(&self) -> SignedDuration {
        MARGIN + SignedDuration::from_secs(if self.pod.grace_seconds < 30 { 1 } else { 30 })
    }

    fn plan(&self) -> Plan {
        let two = matches!(self.stage, Stage::Starting | Stage::Draining { .. });
        let view = View {
            pod: self.pod,
            leave: self.leave.as_ref(),
            movable: if self.against.is_empty() { Ok(()) } else { Err(&self.against) },
            stage: self.stage,
            since: at(0),
            other: two.then_some(self.other),
            rest_until: self.rest_until,
            evicted_at: self.evicted_at,
        };
        plan(&view, self.now)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_forced_on_a_pod_whose_instance_may_stay(case in cases()) {
        let step = case.plan().step;
        if case.leave.as_ref().is_none_or(|leave| leave.by.is_none()) {
            prop_assert!(!matches!(step, Step::Evict { .. } | Step::Fail), "{step:?}");
        }
    }

    #[test]
    fn a_pod_is_evicted_only_where_another_is_made_and_failed_only_where_not(case in cases()) {
        match case.plan().step {
            Step::Evict { grace_seconds, .. } => {
                prop_assert!(case.pod.controlled && !case.pod.over && case.stage == Stage::Idle);
                let by = case.leave.and_then(|leave| leave.by).expect("an end is announced");
                let left = u64::try_from(by.duration_since(case.now).as_secs()).unwrap_or(0);
                prop_assert!(grace_seconds <= case.pod.grace_seconds && grace_seconds <= left);
            }
            Step::Fail => prop_assert!(!case.pod.controlled && !case.pod.over && case.stage == Stage::Idle),
            _ => {}
        }
    }

    #[test]
    fn only_what_may_run_twice_gets_a_second_instance(case in cases()) {
        if case.plan().step == Step::Want {
            prop_assert!(case.against.is_empty() && !case.pod.over && case.pod.backed);
            prop_assert!(case.leave.is_some_and(|leave| leave.manner == Manner::HandOver));
        }
    }

    #[test]
    fn who_takes_over_is_ready_unless_nobody_serves_or_time_is_up(case in cases()) {
        let Step::Switch(because) = case.plan().step else { return Ok(()) };
        prop_assert!(case.other.alive && !case.pod.over);
        match because {
            Because::Ready => prop_assert!(case.other.ready && case.stage == Stage::Starting),
            Because::Lost => prop_assert!(!case.pod.backed),
            Because::OutOfTime => {
                let by = case.leave.as_ref().and_then(|leave| leave.by).expect("an end is announced");
                prop_assert!(case.now.duration_since(by) >= -(SETTLE + case.kept()));
            }
        }
    }

    #[test]
    fn what_served_is_stopped_only_after_everybody_could_learn_of_its_successor(case in cases()) {
        let Stage::Draining { role: Role::Old, shown_at, stop: None } = case.stage else { return Ok(()) };
        if let Step::Stop(deletion) = case.plan().step && !case.pod.over {
            let shown_at = shown_at.expect("it is shown");
            let forced = case.other.ends_at.is_some_and(|end| case.now >= end - case.kept());
            prop_assert!(case.now.duration_since(shown_at) >= SETTLE || forced);
            prop_assert!(deletion.deadline >= case.now);
            if let Some(end) = case.other.ends_at {
                prop_assert!(deletion.deadline <= (end - MARGIN).max(case.now), "it has stopped before its end");
            }
        }
    }

    #[test]
    fn a_pod_whose_end_is_near_is_never_left_to_it(mut case in cases()) {
        let Some(by) = case.leave.as_ref().and_then(|leave| leave.by) else { return Ok(()) };
        case.now = by - case.kept();
        let step = case.plan().step;
        match case.stage {
            _ if case.pod.over || !case.pod.backed => {}
            Stage::Idle => prop_assert!(matches!(step, Step::Evict { .. } | Step::Fail), "{step:?}"),
            Stage::Wanting => prop_assert!(matches!(step, Step::Forget(_)), "{step:?}"),
            Stage::Starting if case.other.told => {
                prop_assert!(matches!(step, Step::Switch(_) | Step::WantAgain), "{step:?}");
            }
            Stage::Starting => {}
            // It has gone over already.
            Stage::Draining { .. } => {}
        }
    }

    #[test]
    fn whoever_waits_is_woken_later_and_never_now(case in cases()) {
        let plan = case.plan();
        if let Some(wake_at) = plan.wake_at {
            prop_assert!(wake_at > case.now, "{plan:?}");
        }
        // What waits for time alone must say until when.
        let waits = match case.stage {
            Stage::Wanting | Stage::Starting => matches!(plan.step, Step::Rest | Step::Start),
            Stage::Draining { stop, shown_at, role } => {
                matches!(plan.step, Step::Rest) && (stop.is_some() || shown_at.is_some() || role == Role::Abandoned)
            }
            Stage::Idle => false,
        };
        prop_assert!(!waits || plan.wake_at.is_some(), "{plan:?}");
    }
}

fn web() -> PodIntent {
    let spec = PodSpec { containers: vec![container_spec("main", ContainerKind::App)], ..PodSpec::empty() };
    PodIntent { owner: Some(("ReplicaSet".to_owned(), "web".to_owned())), ..intent("web", spec) }
}

fn owned(kind: &str) -> PodIntent {
    PodIntent { owner: Some((kind.to_owned(), "owner".to_owned())), ..web() }
}

fn changed(change: impl FnOnce(&mut PodSpec)) -> PodIntent {
    let mut intent = web();
    let mut spec = (*intent.spec.clone().unwrap()).clone();
    change(&mut spec);
    intent.spec = Ok(Arc::new(spec));
    intent
}

fn saying(mut intent: PodIntent, value: &str) -> PodIntent {
    Arc::make_mut(&mut intent.annotations).insert(MOVABLE.to_owned(), value.to_owned());
    intent
}

#[test]
fn the_table_of_who_may_be_moved_is_what_is_decided() {
    let host_port = |spec: &mut PodSpec| {
        let port =
            PortSpec { name: None, container_port: 80, host_port: Some(8080), host_ip: None, protocol: Protocol::Tcp };
        spec.containers[0].ports.push(port);
    };
    let host_path = |spec: &mut PodSpec| {
        let source = VolumeSource::HostPath { path: "/data".to_owned(), kind: String::new() };
        spec.volumes.push(VolumeSpec { name: "data".to_owned(), source });
    };
    let empty_dir = |spec: &mut PodSpec| {
        let source = VolumeSource::EmptyDir { memory: false, size_limit_bytes: None };
        spec.volumes.push(VolumeSpec { name: "scratch".to_owned(), source });
    };
    let refused = PodIntent {
        spec: Err(vec![Unsupported { field: "f".to_owned(), value: String::new(), expected: String::new() }]),
        ..web()
    };
    for (intent, named) in [
        (web(), None),
        (owned("ReplicationController"), None),
        (PodIntent { owner: None, ..web() }, None),
        (changed(empty_dir), None),
        (saying(web(), "true"), None),
        (saying(owned("Revision"), "true"), None),
        (owned("Revision"), Some("Revision")),
        (owned("StatefulSet"), Some("StatefulSet")),
        (saying(owned("StatefulSet"), "true"), Some("StatefulSet")),
        (owned("Job"), Some("Job")),
        (saying(web(), "false"), Some(MOVABLE)),
        (saying(web(), "perhaps"), Some("\"perhaps\"")),
        (changed(|spec| spec.restart_policy = RestartPolicy::OnFailure), Some("OnFailure")),
        (changed(|spec| spec.restart_policy = RestartPolicy::Never), Some("Never")),
        (changed(|spec| spec.host_network = true), Some("hostNetwork")),
        (changed(|spec| spec.host_pid = true), Some("hostPID")),
        (changed(|spec| spec.host_ipc = true), Some("hostIPC")),
        (changed(host_port), Some("8080")),
        (changed(host_path), Some("\"data\"")),
        (changed(|spec| spec.readiness_gates.push("gate".to_owned())), Some("readiness")),
        (refused, Some("not honoured")),
    ] {
        let against = movable(&intent).err().unwrap_or_default();
        let said: Vec<String> = against.iter().map(ToString::to_string).collect();
        match named {
            None => assert!(said.is_empty(), "{intent:?}: {said:?}"),
            Some(part) => assert!(said.len() == 1 && said[0].contains(part), "{said:?} does not name {part}"),
        }
    }
}

#[test]
fn everything_that_speaks_against_a_move_is_named_at_once() {
    let mut intent = changed(|spec| (spec.restart_policy, spec.host_pid) = (RestartPolicy::Never, true));
    intent.owner = Some(("Job".to_owned(), "work".to_owned()));
    assert_eq!(movable(&intent).unwrap_err().len(), 3);
}

#[test]
fn of_several_causes_the_most_urgent_counts() {
    let interruption = Notice::Interruption { at: at(500) };
    let maintenance = Notice::Maintenance { code: "system-reboot".to_owned(), not_before: at(900) };
    let rebalance = Notice::Rebalance { since: at(1) };
    let ask = Ask::new("7/dear");
    let follows = Interruption { notice: OnNotice::ReplaceThenDrain, rebalance: OnRebalance::Replace };
    let all = [rebalance.clone(), maintenance.clone(), interruption.clone()];
    let cause = |notices: &[Notice], asked: Option<&Ask>, age: i64, interruption: Interruption| {
        let max_lifetime = Some(SignedDuration::from_secs(1000));
        let signals = Signals { notices, launched_at: at(0), max_lifetime, interruption, asked, reserve: false };
        let (leave, again) = leave(&signals, at(age));
        assert_eq!(again, (age < 1000).then(|| at(1000)));
        leave.map(|leave| (leave.cause, leave.by))
    };
    assert_eq!(cause(&all, Some(&ask), 2000, follows), Some((Cause::Interruption, Some(at(500)))));
    let code = "system-reboot".to_owned();
    assert_eq!(cause(&all[..2], Some(&ask), 2000, follows), Some((Cause::Maintenance { code }, Some(at(900)))));
    assert_eq!(cause(&all[..1], Some(&ask), 2000, follows), Some((Cause::Asked(ask.clone()), None)));
    assert_eq!(ask.class.as_deref(), Some("dear"));
    assert_eq!(cause(&all[..1], None, 2000, follows), Some((Cause::Rebalance, None)));
    assert_eq!(cause(&all[..1], None, 2000, Interruption::default()), Some((Cause::Expired, None)));
    assert_eq!(cause(&all[..1], None, 999, Interruption::default()), None);
}

#[test]
fn a_grace_period_longer_than_the_notice_leaves_time_for_a_replacement() {
    // Knative's, and a spot notice.
    let pod = PodFacts { over: false, deletion: None, backed: true, grace_seconds: 300, controlled: true };
    for (manner, stage, other, expected) in [
        (Manner::HandOver, Stage::Idle, None, Plan { step: Step::Want, wake_at: None }),
        (Manner::HandOver, Stage::Wanting, None, Plan { step: Step::Rest, wake_at: Some(at(80)) }),
        (Manner::MarkOnly, Stage::Idle, None, Plan { step: Step::Rest, wake_at: Some(at(85)) }),
        (
            Manner::HandOver,
            Stage::Draining { role: Role::Old, shown_at: Some(at(0)), stop: None },
            Some(Other {
                alive: true,
                connected: true,
                told: true,
                ready: true,
                terminated: false,
                ends_at: Some(at(120)),
            }),
            Plan { step: Step::Rest, wake_at: Some(at(5)) },
        ),
    ] {
        let leave = Leave { cause: Cause::Interruption, by: Some(at(120)), manner };
        let view = View {
            pod,
            leave: Some(&leave),
            movable: Ok(()),
            stage,
            since: at(0),
            other,
            rest_until: None,
            evicted_at: None,
        };
        assert_eq!(plan(&view, at(1)), expected, "{manner:?} {stage:?}");
    }
}

#[test]
fn a_reserve_is_marked_and_left_to_its_keeper_until_the_last_moment() {
    let notices = [Notice::Interruption { at: at(500) }];
    let ask = Ask::new("1");
    let signals = Signals {
        notices: &notices,
        launched_at: at(0),
        max_lifetime: None,
        interruption: Interruption::default(),
        asked: Some(&ask),
        reserve: true,
    };
    let (leave, _) = leave(&signals, at(400));
    let against = [Unmovable::ReadinessGates];
    let pod = PodFacts { over: false, deletion: None, backed: true, grace_seconds: GRACE, controlled: true };
    let view = View {
        pod,
        leave: leave.as_ref(),
        movable: Err(&against),
        stage: Stage::Idle,
        since: at(0),
        other: None,
        rest_until: None,
        evicted_at: None,
    };
    assert_eq!(plan(&view, at(464)), Plan { step: Step::Rest, wake_at: Some(at(465)) });
    assert!(matches!(plan(&view, at(465)).step, Step::Evict { force: true, .. }));
}
