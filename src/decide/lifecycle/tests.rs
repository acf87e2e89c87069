//! What may never be decided about a Pod, whatever is known of it.

use super::*;
use crate::decide::fixtures::{at, blank_status, container_spec, instance, intent, report};
use crate::decide::status::{Condition, Phase};
use crate::model::{
    ContainerKind, ContainerState, Generation, InstanceRecord, PodSpec, PodUid, Termination, Unsupported,
};
use proptest::prelude::*;

/// A view that owns what it shows.
#[derive(Debug)]
struct Case {
    intent: PodIntent,
    gone: bool,
    instance: Instance,
    record: InstanceRecord,
    report: Option<PodReport>,
    status: Option<PodStatus>,
    failed: Option<(Reason, Timestamp)>,
    now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Instance {
    None,
    Alive { connected: bool },
    Gone,
}

const KEEP: i64 = 60;

impl Case {
    fn plan(&self) -> Plan {
        let view = View {
            intent: &self.intent,
            gone: self.gone,
            instance: match self.instance {
                Instance::None => None,
                Instance::Alive { connected } => Some(Backing::Alive { record: &self.record, connected }),
                Instance::Gone => Some(Backing::Gone { why: "it burnt".to_owned() }),
            },
            report: self.report.as_ref(),
            status: self.status.as_ref(),
            keep_completed: SignedDuration::from_secs(KEEP),
            failed: self.failed.as_ref().map(|(reason, at)| (reason, *at)),
        };
        plan(&view, self.now)
    }

    fn terminated(&self) -> bool {
        self.report.as_ref().is_some_and(|r| r.terminated)
    }

    fn terminal(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.phase.is_terminal())
    }

    /// Some container of it has run, as far as anybody knows.
    fn ran(&self) -> bool {
        let reported = self.report.iter().flat_map(|r| &r.containers);
        let written = self.status.iter().flat_map(|s| s.init_containers.iter().chain(&s.containers));
        reported.chain(written).any(|c| c.container_id.is_some())
    }
}

fn backing() -> impl Strategy<Value = Instance> {
    prop_oneof![
        Just(Instance::None),
        any::<bool>().prop_map(|connected| Instance::Alive { connected }),
        Just(Instance::Gone),
    ]
}

fn phases() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Pending), Just(Phase::Running), Just(Phase::Succeeded), Just(Phase::Failed)]
}

prop_compose! {
    fn case()(
        supported in prop::bool::weighted(0.9),
        deadline in prop::option::of(0..100u64),
        deletion in prop::option::of((0..200i64, 0..60u64)),
        gone in prop::bool::weighted(0.2),
        instance in backing(),
        reported in prop::option::of((any::<bool>(), any::<bool>())),
        written in prop::option::of((phases(), any::<bool>(), 0..200i64)),
        failed in prop::option::weighted(0.2, (any::<bool>(), 0..200i64)),
        now in 0..400i64,
    ) -> Case {
        let spec = PodSpec {
            containers: vec![container_spec("main", ContainerKind::App)],
            active_deadline_seconds: deadline,
            ..PodSpec::empty()
        };
        let mut intent = intent("pod", spec);
        if !supported {
            let field = Unsupported { field: "spec.x".to_owned(), value: "y".to_owned(), expected: "z".to_owned() };
            intent.spec = Err(vec![field]);
        }
        intent.deletion = deletion.map(|(second, grace_seconds)| Deletion { deadline: at(second), grace_seconds });
        let main = |ran: bool| {
            let state = if ran {
                ContainerState::Terminated(Termination {
                    exit_code: 0, signal: None, reason: "Completed".to_owned(), message: String::new(),
                    started_at: None, finished_at: at(1), container_id: None,
                })
            } else {
                ContainerState::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() }
            };
            let mut main = report("main", ContainerKind::App, state);
            main.container_id = ran.then(|| "containerd://1".to_owned());
            main
        };
        Case {
            intent,
            gone,
            instance,
            record: crate::decide::fixtures::instance("i-1", at(0)),
            report: reported.map(|(ran, terminated)| PodReport {
                uid: PodUid::new("uid-pod"), generation: Generation(1), sandbox_ready_at: None, pod_ip: None,
                containers: vec![main(ran)], terminated,
            }),
            status: written.map(|(phase, ran, ended)| PodStatus {
                containers: vec![main(ran)],
                conditions: vec![Condition {
                    kind: "Ready".to_owned(), status: false, reason: None, message: None, since: at(ended),
                }],
                ..blank_status(phase)
            }),
            failed: failed.map(|(lost, second)| {
                let reason = if lost { "InstanceLost" } else { "DeadlineExceeded" };
                (Reason { reason: reason.to_owned(), message: String::new() }, at(second))
            }),
            now: at(now),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_agent_is_cut_off_before_it_has_finished_or_is_out_of_time(case in case()) {
        if case.plan().step == Step::Finalize && !case.gone {
            let deletion = case.intent.deletion.expect("only a deleted Pod is finalized");
            let patience = match case.instance {
                Instance::Alive { connected: true } => STUCK_AGENT,
                Instance::Alive { connected: false } => SILENT_AGENT,
                Instance::None | Instance::Gone => return Ok(()),
            };
            let out_of_time = case.now >= deletion.deadline.saturating_add(patience).unwrap();
            prop_assert!(case.terminated() || out_of_time);
        }
    }

    #[test]
    fn a_deleted_pod_always_ends(case in case()) {
        if let (Some(deletion), false) = (case.intent.deletion, case.gone) {
            let plan = case.plan();
            match plan.step {
                Step::Finalize => {}
                // Stopping: and looked at again when its agent's time is over.
                Step::Run { stop: Some(stop) } => {
                    prop_assert_eq!(stop.deletion, deletion);
                    let connected = case.instance == Instance::Alive { connected: true };
                    let patience = if connected { STUCK_AGENT } else { SILENT_AGENT };
                    let give_up = deletion.deadline.saturating_add(patience).unwrap();
                    prop_assert_eq!(plan.wake_at, Some(give_up));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        if case.gone {
            prop_assert_eq!(case.plan().step, Step::Finalize);
        }
    }

    #[test]
    fn another_instance_is_bought_only_for_a_pod_that_never_ran(case in case()) {
        if case.plan().step == Step::NeedInstance {
            prop_assert!(!case.ran() && !case.terminal() && case.failed.is_none());
            prop_assert!(case.intent.spec.is_ok() && case.intent.deletion.is_none() && !case.gone);
            let lives = matches!(case.instance, Instance::Alive { .. });
            prop_assert!(!lives);
        }
    }

    #[test]
    fn a_pod_that_reached_its_end_is_not_started_again_nor_failed_anew(case in case()) {
        if case.terminal() && case.intent.deletion.is_none() && !case.gone {
            let plan = case.plan();
            let starts = matches!(plan.step, Step::NeedInstance | Step::Run { stop: None });
            prop_assert!(!starts, "{:?}", plan.step);
            prop_assert_eq!(plan.failed, None);
        }
    }

    #[test]
    fn a_pod_whose_instance_is_gone_is_replaced_or_fails(case in case()) {
        let lives = case.intent.deletion.is_none() && !case.gone && case.intent.spec.is_ok();
        if lives && case.instance == Instance::Gone && !case.terminal() && case.failed.is_none() {
            let plan = case.plan();
            if case.ran() {
                prop_assert_eq!(plan.step, Step::Release);
                let reason = plan.failed.map(|r| r.reason);
                prop_assert_eq!(reason.as_deref(), Some("InstanceLost"));
            } else {
                prop_assert_eq!(plan.step, Step::NeedInstance);
            }
        }
    }

    #[test]
    fn waking_up_is_always_for_later_or_for_something_just_decided(case in case()) {
        let plan = case.plan();
        if let Some(wake_at) = plan.wake_at {
            prop_assert!(wake_at > case.now || plan.failed.is_some(), "it would be decided again without end");
        }
    }
}

#[test]
fn the_instance_of_a_completed_pod_is_kept_for_its_logs_and_then_released() {
    let mut case = Case {
        intent: intent("pod", PodSpec::empty()),
        gone: false,
        instance: Instance::Alive { connected: true },
        record: instance("i-1", at(0)),
        report: None,
        status: Some(PodStatus {
            conditions: vec![Condition {
                kind: "Ready".to_owned(),
                status: false,
                reason: None,
                message: None,
                since: at(100),
            }],
            ..blank_status(Phase::Succeeded)
        }),
        failed: None,
        now: at(100 + KEEP - 1),
    };
    assert_eq!(case.plan(), Plan { step: Step::Rest, failed: None, wake_at: Some(at(100 + KEEP)) });
    case.now = at(100 + KEEP);
    assert_eq!(case.plan().step, Step::Release);
}

#[test]
fn a_pod_over_its_deadline_is_stopped_within_its_grace() {
    let spec = PodSpec { active_deadline_seconds: Some(10), termination_grace_seconds: 5, ..PodSpec::empty() };
    let mut case = Case {
        intent: intent("pod", spec),
        gone: false,
        instance: Instance::Alive { connected: true },
        record: instance("i-1", at(0)),
        report: None,
        status: Some(blank_status(Phase::Running)),
        failed: None,
        now: at(9),
    };
    assert_eq!(case.plan(), Plan { step: Step::Run { stop: None }, failed: None, wake_at: Some(at(10)) });
    case.now = at(10);
    let failed = case.plan().failed.expect("its time is over");
    assert_eq!(failed.reason, "DeadlineExceeded");
    case.failed = Some((failed, at(10)));
    let Step::Run { stop: Some(stop) } = case.plan().step else { panic!("it is stopped") };
    assert_eq!((stop.deletion.deadline, stop.reason.as_str()), (at(15), "DeadlineExceeded"));
}
