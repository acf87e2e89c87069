//! The plan drives a small make-believe runtime through chosen and random days; a reference watches
//! each action ([`world::World`]).

mod any_day;
mod world;

use super::*;
use crate::model::*;
use jiff::SignedDuration;
use std::sync::Arc;
use world::*;

fn waiting_reason(plan: &Plan, index: usize) -> &str {
    match &plan.reports[index].state {
        ContainerState::Waiting { reason, .. } => reason,
        ContainerState::Running { .. } => "(running)",
        ContainerState::Terminated(_) => "(terminated)",
    }
}

#[test]
fn the_first_plan_does_everything_at_once_that_needs_nothing_else() {
    let desired =
        pod(RestartPolicy::Always, vec![container("a", ContainerKind::App), container("b", ContainerKind::App)]);
    let plan = plan(&desired, &Observed::default(), at(0));
    let image = |name: &str| Action::EnsureImage { container: name.to_owned() };
    let expected = [Action::SetUpVolumes, Action::CreateSandbox { attempt: 0 }, image("a"), image("b")];
    assert_eq!(plan.actions, expected);
    assert_eq!(waiting_reason(&plan, 0), "ContainerCreating");
}

#[test]
fn init_containers_run_one_after_another_and_sidecars_gate_until_started() {
    let mut side = container("side", ContainerKind::Sidecar);
    side.probes.startup = Some(probe());
    let containers = vec![
        container("one", ContainerKind::Init),
        side,
        container("two", ContainerKind::Init),
        container("app", ContainerKind::App),
    ];
    let mut world = World::new(pod(RestartPolicy::Always, containers));
    let plan = world.settle();
    assert_eq!(world.running(), ["one"]);
    assert_eq!(waiting_reason(&plan, 3), "PodInitializing");
    world.exit("one", 0);
    world.settle();
    assert_eq!(world.running(), ["side"], "its startup probe has not passed");
    world.progress("side").startup = Verdict::Passed;
    world.through.insert(("s0".to_owned(), "side".to_owned()));
    world.settle();
    assert_eq!(world.running(), ["side", "two"]);
    world.exit("two", 0);
    let plan = world.settle();
    assert_eq!(world.running(), ["side", "app"]);
    assert!(plan.reports.iter().all(|report| report.ready));
}

#[test]
fn a_sidecar_that_dies_later_restarts_and_holds_nothing_up() {
    let containers = vec![
        container("side", ContainerKind::Sidecar),
        container("init", ContainerKind::Init),
        container("app", ContainerKind::App),
    ];
    let mut world = World::new(pod(RestartPolicy::Never, containers));
    world.settle();
    world.exit("side", 1);
    world.exit("init", 0);
    world.settle();
    assert_eq!(world.running(), ["side", "app"]);
}

#[test]
fn a_crashing_container_waits_in_crash_loop_back_off_and_says_so() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    world.settle();
    world.pass(1);
    world.exit("app", 3);
    world.settle();
    assert_eq!(world.starts, [("app".to_owned(), 0), ("app".to_owned(), 1)], "the first restart comes at once");
    world.pass(1);
    world.exit("app", 3);
    let plan = world.settle();
    assert_eq!(
        plan.reports[0].state,
        ContainerState::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: "back-off 10s restarting failed container=app pod=pod_default(uid)".to_owned(),
        }
    );
    assert_eq!(plan.reports[0].restart_count, 1);
    assert_eq!(plan.reports[0].last.as_ref().map(|end| end.exit_code), Some(3));
    assert_eq!(plan.wake_at, Some(world.now.checked_add(SignedDuration::from_secs(10)).unwrap()));
    assert_eq!(plan.notices[0].message, "Back-off restarting failed container app in pod pod_default(uid)");
    world.pass(10);
    world.settle();
    assert_eq!(world.running(), ["app"]);
}

#[test]
fn a_job_that_is_done_stops_its_sidecars_and_its_sandbox_and_keeps_its_reports() {
    for (policy, code) in [(RestartPolicy::Never, 0), (RestartPolicy::Never, 4), (RestartPolicy::OnFailure, 0)] {
        let containers = vec![container("side", ContainerKind::Sidecar), container("app", ContainerKind::App)];
        let mut world = World::new(pod(policy, containers));
        world.settle();
        world.exit("app", code);
        world.settle();
        assert_eq!(world.kills.iter().map(|kill| kill.container.as_str()).collect::<Vec<_>>(), ["side"]);
        world.exit("side", 143);
        let plan = world.settle();
        assert!(world.observed.sandboxes.iter().all(|sandbox| !sandbox.ready));
        assert_eq!(waiting_reason(&plan, 1), "(terminated)");
        assert!(!plan.terminated);
    }
}

#[test]
fn a_failed_init_container_of_a_pod_that_never_restarts_ends_it() {
    let containers = vec![container("init", ContainerKind::Init), container("app", ContainerKind::App)];
    let mut world = World::new(pod(RestartPolicy::Never, containers));
    world.settle();
    world.exit("init", 1);
    let plan = world.settle();
    assert_eq!(world.starts.len(), 1);
    assert_eq!(waiting_reason(&plan, 1), "PodInitializing");
    assert!(!plan.reports[0].ready);
}

#[test]
fn a_failed_liveness_probe_kills_with_the_probes_own_grace_and_then_restarts() {
    let mut app = container("app", ContainerKind::App);
    app.probes.liveness = Some(probe());
    let mut world = World::new(pod(RestartPolicy::Always, vec![app]));
    world.settle();
    world.progress("app").liveness = Verdict::Failed;
    world.settle();
    assert_eq!(world.kills[0].message, "Container app failed liveness probe, will be restarted");
    assert_eq!(world.kills[0].grace, Grace::Seconds(7));
    world.exit("app", 137);
    world.settle();
    assert_eq!(world.running(), ["app"]);
}

#[test]
fn nothing_starts_before_the_volumes_are_there() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    world.observed.volumes = Work::Busy;
    world.settle();
    assert!(world.starts.is_empty());
    (world.observed.volumes, world.observed.mounted) = (Work::Done, true);
    world.settle();
    assert_eq!(world.running(), ["app"]);
}

#[test]
fn the_attempt_before_the_newest_is_kept_and_older_ones_go() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    for _ in 0..4 {
        world.settle();
        world.pass(601);
        world.exit("app", 1);
    }
    world.settle();
    let kept: Vec<u32> = world.observed.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(kept, [3, 4]);
}

#[test]
fn a_failed_post_start_hook_kills_the_container_which_never_counts_as_running() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    world.settle();
    let fault = Fault { reason: "PostStartHookError".to_owned(), message: "exit 1".to_owned() };
    world.progress("app").start = Start::Failed { fault, at: world.now, failures: 1 };
    let plan = world.settle();
    assert_eq!(waiting_reason(&plan, 0), "PostStartHookError");
    assert_eq!(world.kills[0].message, "FailedPostStartHook");
}

#[test]
fn a_new_image_restarts_the_container_and_a_new_label_does_not() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    world.settle();
    Arc::make_mut(&mut world.desired.labels).insert("a".to_owned(), "b".to_owned());
    assert!(world.step().actions.is_empty());
    world.desired.containers[0].image = "busybox:2".to_owned();
    world.step();
    assert_eq!(world.kills[0].message, "Container app definition changed, will be restarted");
}

#[test]
fn a_blocked_container_waits_while_the_others_run_and_heals() {
    let mut blocked = container("b", ContainerKind::App);
    blocked.blocked = Some("secret \"s\" not found".to_owned());
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("a", ContainerKind::App), blocked]));
    let plan = world.settle();
    assert_eq!(world.running(), ["a"]);
    assert_eq!(waiting_reason(&plan, 1), "CreateContainerConfigError");
    assert_eq!(plan.notices[0].message, "Error: secret \"s\" not found");
    world.desired.containers[1].blocked = None;
    world.settle();
    assert_eq!(world.running(), ["a", "b"]);
    world.desired.containers[1].blocked = Some("gone again".to_owned());
    world.settle();
    assert_eq!(world.running(), ["a", "b"], "a running one is left alone");
}

#[test]
fn a_blocked_volume_holds_everything_back_until_it_is_there() {
    let mut desired = pod(RestartPolicy::Always, vec![container("a", ContainerKind::App)]);
    desired.volumes = vec![DesiredVolume {
        name: "v".to_owned(),
        source: DesiredVolumeSource::Blocked("configmap \"c\" not found".to_owned()),
    }];
    let plan = plan(&desired, &Observed::default(), at(0));
    assert_eq!(plan.actions, [Action::SetUpVolumes]);
    assert_eq!(plan.notices[0].message, "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found");
}

#[test]
fn a_failed_pull_is_said_as_error_then_as_back_off_and_tried_again_after_ten_seconds() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    world.settle();
    world.exit("app", 0);
    let fault = Fault { reason: "ErrImagePull".to_owned(), message: "not found".to_owned() };
    world.progress("app").image = Image::Failed { fault, at: world.now, failures: 1 };
    assert_eq!(waiting_reason(&world.settle(), 0), "ErrImagePull");
    world.pass(3);
    let plan = world.settle();
    let ContainerState::Waiting { reason, message } = &plan.reports[0].state else { panic!("{plan:?}") };
    assert_eq!(reason, "ImagePullBackOff");
    assert_eq!(message, "Back-off pulling image \"busybox\": ErrImagePull: not found");
    world.pass(7);
    assert_eq!(world.step().actions, [Action::EnsureImage { container: "app".to_owned() }]);
}

#[test]
fn a_dead_sandbox_is_replaced_and_initialization_begins_again() {
    let containers = vec![container("init", ContainerKind::Init), container("app", ContainerKind::App)];
    let mut world = World::new(pod(RestartPolicy::Always, containers));
    world.settle();
    world.exit("init", 0);
    world.settle();
    world.observed.sandboxes[0].ready = false;
    let plan = world.step();
    assert!(plan.notices.iter().any(|notice| notice.reason == "SandboxChanged"));
    world.exit("app", 137);
    world.settle();
    assert_eq!(world.running(), ["init"]);
    assert_eq!(world.starts.last(), Some(&("init".to_owned(), 1)));
}

#[test]
fn a_container_left_created_by_a_dead_agent_is_removed_and_started_again() {
    let mut world = World::new(pod(RestartPolicy::Always, vec![container("app", ContainerKind::App)]));
    world.settle();
    world.observed.attempts[0].state = AttemptState::Created;
    world.settle();
    assert_eq!(world.running(), ["app"]);
    assert_eq!(world.starts, [("app".to_owned(), 0), ("app".to_owned(), 0)]);
}

#[test]
fn a_stop_takes_the_apps_first_then_the_sidecars_backwards_and_then_everything() {
    let names = [("one", ContainerKind::Sidecar), ("two", ContainerKind::Sidecar), ("app", ContainerKind::App)];
    let mut world = World::new(pod(RestartPolicy::Always, names.iter().map(|(n, k)| container(n, *k)).collect()));
    world.settle();
    world.stop();
    for expected in ["app", "two", "one"] {
        let plan = world.step();
        let turns: Vec<_> = plan
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Kill(kill) if kill.turn => Some(kill.container.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(turns, [expected]);
        world.exit(expected, 0);
    }
    assert_eq!(world.step().actions, [Action::TearDown]);
    assert!(world.step().terminated);
}
