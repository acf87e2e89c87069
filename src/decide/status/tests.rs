//! The phase against a literal restatement of kubelet's `getPhase`; what holds of every status.

use super::*;
use crate::decide::fixtures::{at, blank_status, container_spec, instance, intent, report};
use crate::model::PodUid;
use proptest::{collection::vec, prelude::*};
use std::sync::Arc;

/// pkg/kubelet/kubelet_pods.go of Kubernetes 1.37, `getPhase`, line by line: counters, then the cases in
/// their order, the fall-throughs written out. Without restart rules on containers, which we refuse.
fn get_phase(policy: RestartPolicy, init: &[ContainerReport], app: &[ContainerReport], terminal: bool) -> Phase {
    let restartable = |exit_code: i32| match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    };
    let has_initialized = app.iter().any(|c| !matches!(c.state, ContainerState::Waiting { .. }) || c.last.is_some());
    let (mut pending_restartable_init, mut pending_regular_init) = (0, 0);
    let mut failed_initialization_not_restartable = 0;
    for c in init.iter().filter(|c| c.kind == ContainerKind::Init) {
        match &c.state {
            ContainerState::Running { .. } => pending_regular_init += 1,
            ContainerState::Terminated(t) => {
                if t.exit_code != 0 && !(restartable(t.exit_code)) {
                    failed_initialization_not_restartable += 1;
                }
            }
            ContainerState::Waiting { .. } => match &c.last {
                Some(t) => {
                    if t.exit_code != 0 && !(restartable(t.exit_code)) {
                        failed_initialization_not_restartable += 1;
                    }
                }
                None => pending_regular_init += 1,
            },
        }
    }
    let (mut running, mut waiting, mut stopped, mut stopped_not_restartable, mut succeeded) = (0, 0, 0, 0, 0);
    for c in init.iter().filter(|c| c.kind == ContainerKind::Sidecar) {
        match (&c.state, &c.last) {
            (ContainerState::Running { .. }, _) => {
                if !c.started {
                    pending_restartable_init += 1;
                }
                running += 1;
            }
            (ContainerState::Terminated(_), _) | (ContainerState::Waiting { .. }, Some(_)) => {}
            (ContainerState::Waiting { .. }, None) => {
                pending_restartable_init += 1;
                waiting += 1;
            }
        }
    }
    for c in app {
        match (&c.state, &c.last) {
            (ContainerState::Running { .. }, _) => running += 1,
            (ContainerState::Terminated(t), _) => {
                stopped += 1;
                stopped_not_restartable += i32::from(!restartable(t.exit_code));
                succeeded += i32::from(t.exit_code == 0);
            }
            (ContainerState::Waiting { .. }, Some(t)) => {
                stopped += 1;
                stopped_not_restartable += i32::from(!restartable(t.exit_code));
            }
            (ContainerState::Waiting { .. }, None) => waiting += 1,
        }
    }
    if failed_initialization_not_restartable > 0 {
        return Phase::Failed;
    }
    if pending_regular_init > 0 || (pending_restartable_init > 0 && !has_initialized) || waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 {
        return Phase::Running;
    }
    if stopped > 0 {
        if terminal {
            return if stopped == succeeded { Phase::Succeeded } else { Phase::Failed };
        }
        if stopped != stopped_not_restartable {
            return Phase::Running;
        }
        return if stopped == succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    Phase::Pending
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)]
}

fn exit() -> impl Strategy<Value = Termination> {
    (prop_oneof![Just(0), 1..3i32], 0..50i64).prop_map(|(exit_code, second)| Termination {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
        started_at: Some(at(second)),
        finished_at: at(second + 1),
        container_id: Some("containerd://old".to_owned()),
    })
}

fn state() -> impl Strategy<Value = (ContainerState, Option<Termination>, bool, bool)> {
    prop_oneof![
        prop::option::of(exit()).prop_map(|last| {
            let waiting = ContainerState::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
            (waiting, last, false, false)
        }),
        (prop::option::of(exit()), any::<bool>(), any::<bool>(), 0..50i64).prop_map(
            |(last, started, ready, second)| (
                ContainerState::Running { started_at: at(second) },
                last,
                started,
                started && ready
            )
        ),
        exit().prop_map(|t| (ContainerState::Terminated(t), None, false, false)),
    ]
}

prop_compose! {
    /// Containers of a Pod with their states: init containers and sidecars mixed, then apps.
    fn containers()(
        init in vec((any::<bool>(), state()), 0..4),
        app in vec(state(), 1..4),
    ) -> (Vec<ContainerReport>, Vec<ContainerReport>) {
        let make = |name: String, kind, (state, last, started, ready): (ContainerState, Option<Termination>, bool, bool)| {
            let ran = last.is_some() || !matches!(state, ContainerState::Waiting { .. });
            let restart_count = u32::from(last.is_some());
            let container_id = ran.then(|| "containerd://id".to_owned());
            ContainerReport { last, started, ready, restart_count, container_id, ..report(&name, kind, state) }
        };
        let init = init.into_iter().enumerate().map(|(i, (sidecar, state))| {
            make(format!("init-{i}"), if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init }, state)
        }).collect();
        let app = app.into_iter().enumerate().map(|(i, state)| make(format!("app-{i}"), ContainerKind::App, state)).collect();
        (init, app)
    }
}

/// A Pod with what its agent says of it.
#[derive(Debug)]
struct Case {
    intent: PodIntent,
    report: PodReport,
    record: InstanceRecord,
}

prop_compose! {
    fn case()((init, app) in containers(), policy in policy(), terminated in any::<bool>(), sandbox in any::<bool>()) -> Case {
        let specs = |list: &[ContainerReport]| list.iter().map(|c| container_spec(&c.name, c.kind)).collect();
        let spec = PodSpec {
            init_containers: specs(&init),
            containers: specs(&app),
            restart_policy: policy,
            ..PodSpec::empty()
        };
        let report = PodReport {
            uid: PodUid::new("uid-pod"),
            generation: crate::model::Generation(1),
            sandbox_ready_at: sandbox.then(|| at(1)),
            pod_ip: None,
            containers: init.into_iter().chain(app).collect(),
            terminated,
        };
        Case { intent: intent("pod", spec), report, record: instance("i-1", at(0)) }
    }
}

impl Case {
    fn facts<'a>(&'a self, previous: Option<&'a PodStatus>, gates: &'a BTreeMap<String, bool>) -> Facts<'a> {
        Facts {
            intent: &self.intent,
            instance: Some(&self.record),
            class: "default",
            report: Some(&self.report),
            waiting: None,
            failed: None,
            previous,
            gates,
            silent: false,
            ended: false,
            handover: None,
            doomed: None,
            moved: None,
        }
    }
}

fn holds(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().any(|c| c.kind == kind && c.status)
}

proptest! {
    #[test]
    fn the_phase_is_the_one_that_a_kubelet_would_say((init, app) in containers(), policy in policy()) {
        let spec = PodSpec { restart_policy: policy, ..PodSpec::empty() };
        prop_assert_eq!(phase(&spec, true, &init, &app), get_phase(policy, &init, &app, false));
    }

    #[test]
    fn a_pod_whose_agent_is_through_with_it_has_a_final_phase(case in case()) {
        let gates = BTreeMap::new();
        let status = status(&case.facts(None, &gates), at(100));
        prop_assert_eq!(case.report.terminated && !status.phase.is_terminal(), false);
        let everything_stopped = case.report.containers.iter().all(|c| matches!(c.state, ContainerState::Terminated(_)));
        if case.report.terminated && everything_stopped {
            let spec = case.intent.spec.as_ref().expect("supported");
            prop_assert_eq!(status.phase, get_phase(spec.restart_policy, &status.init_containers, &status.containers, true));
        }
    }

    #[test]
    fn a_final_phase_is_never_left(
        case in case(),
        before in prop_oneof![Just(Phase::Succeeded), Just(Phase::Failed)],
        failed in any::<bool>(),
    ) {
        let gates = BTreeMap::new();
        let previous = PodStatus { reason: Some("Kept".to_owned()), ..blank_status(before) };
        let lost = Reason { reason: "InstanceLost".to_owned(), message: String::new() };
        let facts = Facts { failed: failed.then_some(&lost), ..case.facts(Some(&previous), &gates) };
        prop_assert_eq!(status(&facts, at(100)).phase, before);
    }

    #[test]
    fn the_same_facts_later_change_nothing(case in case(), gone in any::<bool>()) {
        let gates = BTreeMap::new();
        let lost = Reason { reason: "InstanceLost".to_owned(), message: String::new() };
        let facts = |previous| {
            let facts = case.facts(previous, &gates);
            if gone { Facts { failed: Some(&lost), report: None, instance: None, ..facts } } else { facts }
        };
        let first = status(&case.facts(None, &gates), at(100));
        let second = status(&facts(Some(&first)), at(200));
        let third = status(&facts(Some(&second)), at(300));
        prop_assert_eq!(&second, &third, "a status that changes with the time alone is written for ever");
        prop_assert!(second.agrees_with(&third));
    }

    #[test]
    fn ready_means_that_every_container_is(case in case(), open in any::<bool>()) {
        let mut case = case;
        let spec = Arc::make_mut(case.intent.spec.as_mut().expect("supported"));
        spec.readiness_gates = vec!["example.com/gate".to_owned()];
        let gates = BTreeMap::from([("example.com/gate".to_owned(), open)]);
        let status = status(&case.facts(None, &gates), at(100));
        let counted = status.init_containers.iter().filter(|c| c.kind == ContainerKind::Sidecar).chain(&status.containers);
        let all = counted.clone().all(|c| c.ready) && !status.phase.is_terminal();
        prop_assert_eq!(holds(&status, "ContainersReady"), all);
        prop_assert_eq!(holds(&status, "Ready"), all && open);
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns(first in case(), second in case()) {
        let gates = BTreeMap::new();
        let before = status(&first.facts(None, &gates), at(100));
        let after = status(&second.facts(Some(&before), &gates), at(200));
        for condition in &after.conditions {
            let old = before.conditions.iter().find(|c| c.kind == condition.kind);
            let turned = old.is_none_or(|old| old.status != condition.status);
            prop_assert_eq!(condition.since, at(if turned { 200 } else { 100 }), "{}", &condition.kind);
        }
    }

    #[test]
    fn a_lost_instance_fails_the_pod_and_leaves_no_container_running(case in case()) {
        let gates = BTreeMap::new();
        let before = status(&case.facts(None, &gates), at(100));
        let lost = Reason { reason: "InstanceLost".to_owned(), message: "i-1 is gone".to_owned() };
        let facts = Facts { failed: Some(&lost), report: None, instance: None, ..case.facts(Some(&before), &gates) };
        let after = status(&facts, at(200));
        if before.phase.is_terminal() {
            prop_assert_eq!(after.phase, before.phase);
        } else {
            prop_assert_eq!((after.phase, after.reason.as_deref()), (Phase::Failed, Some("InstanceLost")));
            prop_assert!(holds(&after, "DisruptionTarget"));
        }
        let running = |c: &ContainerReport| matches!(c.state, ContainerState::Running { .. }) || c.ready;
        prop_assert!(!after.init_containers.iter().chain(&after.containers).any(running));
    }
}
