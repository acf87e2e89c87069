//! The plan drives a small make-believe runtime through random days; a reference watches each action.

use super::*;
use crate::model::*;
use jiff::SignedDuration;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn container(name: &str, kind: ContainerKind) -> DesiredContainer {
    DesiredContainer {
        name: name.to_owned(),
        kind,
        image: "busybox".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        pull_credentials: Vec::new(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env: Vec::new(),
        mounts: Vec::new(),
        ports: Vec::new(),
        requests: Resources::default(),
        limits: Resources::default(),
        security: ContainerSecurity::default(),
        probes: Probes::default(),
        lifecycle: Lifecycle::default(),
        termination_message: TerminationMessage { path: "/dev/termination-log".to_owned(), fallback_to_logs: false },
        stdin: false,
        stdin_once: false,
        tty: false,
        blocked: None,
    }
}

fn pod(restart_policy: RestartPolicy, containers: Vec<DesiredContainer>) -> DesiredPod {
    DesiredPod {
        generation: Generation(1),
        uid: PodUid::new("uid"),
        name: ObjectName::new("default", "pod"),
        labels: Labels::new(),
        annotations: Labels::new(),
        pod_ip: None,
        hostname: "pod".to_owned(),
        fqdn: None,
        host_aliases: Vec::new(),
        dns: DnsConfig::default(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        security: PodSecurity::default(),
        restart_policy,
        termination_grace_seconds: 30,
        containers,
        volumes: Vec::new(),
        stop: None,
    }
}

fn probe() -> Probe {
    Probe {
        action: Handler::Tcp { host: None, port: 80 },
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace_seconds: Some(7),
    }
}

/// A runtime where each piece of work ends when the test says so.
struct World {
    desired: DesiredPod,
    observed: Observed,
    now: Timestamp,
    ids: u32,
    /// Names that are through in a sandbox: exited 0 (init) or started (sidecar), by (sandbox, name).
    through: BTreeSet<(String, String)>,
    starts: Vec<(String, u32)>,
    kills: Vec<Kill>,
}

impl World {
    fn new(desired: DesiredPod) -> Self {
        Self {
            desired,
            observed: Observed::default(),
            now: at(1_000_000),
            ids: 0,
            through: BTreeSet::new(),
            starts: Vec::new(),
            kills: Vec::new(),
        }
    }

    fn progress(&mut self, name: &str) -> &mut Progress {
        self.observed.progress.entry(name.to_owned()).or_default()
    }

    /// Plans, checks each action against the reference, and carries it out at once (but for exits).
    fn step(&mut self) -> Plan {
        let plan = plan(&self.desired, &self.observed, self.now);
        for action in &plan.actions {
            self.check(action);
            self.carry_out(action);
        }
        plan
    }

    fn check(&self, action: &Action) {
        if self.desired.stop.is_some() {
            let allowed = matches!(action, Action::Kill(_) | Action::TearDown);
            assert!(allowed, "{action:?} after stop");
        }
        match action {
            Action::StartContainer { container, sandbox, number, .. } => {
                let same: Vec<_> = self.observed.attempts.iter().filter(|a| &a.name == container).collect();
                assert!(same.iter().all(|a| a.exit().is_some()), "two live attempts of {container}");
                assert_eq!(
                    *number,
                    same.iter().map(|a| a.number + 1).max().unwrap_or(0),
                    "restart count of {container}"
                );
                assert!(self.observed.sandboxes.iter().any(|s| &s.id == sandbox && s.ready), "no sandbox");
                let index = self.desired.containers.iter().position(|c| &c.name == container).unwrap();
                for before in self.desired.containers[..index].iter().filter(|c| c.kind != ContainerKind::App) {
                    assert!(
                        self.through.contains(&(sandbox.clone(), before.name.clone())),
                        "{container} starts before {} is through",
                        before.name
                    );
                }
            }
            Action::TearDown => assert!(self.observed.attempts.iter().all(|a| !a.is_live()), "torn down while running"),
            Action::Kill(kill) if kill.turn => {
                let kind = |name: &str| self.desired.containers.iter().position(|c| c.name == name).unwrap();
                let own = kind(&kill.container);
                let stopping = self.desired.stop.is_some();
                if stopping && self.desired.containers[own].kind == ContainerKind::Sidecar {
                    let later = self.observed.attempts.iter().any(|a| {
                        let other = kind(&a.name);
                        a.is_live() && (self.desired.containers[other].kind != ContainerKind::Sidecar || other > own)
                    });
                    assert!(!later, "sidecar {} goes before what needs it", kill.container);
                }
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::SetUpVolumes => {
                self.observed.volumes = Work::Done;
                self.observed.mounted = true;
            }
            Action::CreateSandbox { attempt } => {
                self.observed.sandboxes.push(Sandbox { id: format!("s{attempt}"), attempt: *attempt, ready: true });
            }
            Action::StopSandbox { id } => {
                self.observed.sandboxes.iter_mut().filter(|s| &s.id == id).for_each(|s| s.ready = false);
            }
            Action::EnsureImage { container } => self.progress(container).image = Image::Ready,
            Action::StartContainer { container, sandbox, number, backoff_seconds } => {
                self.starts.push((container.clone(), *number));
                self.ids += 1;
                let definition = self.desired.containers.iter().find(|c| &c.name == container).unwrap();
                self.observed.attempts.push(Attempt {
                    id: format!("c{}", self.ids),
                    name: container.clone(),
                    sandbox: sandbox.clone(),
                    number: *number,
                    hash: definition_hash(definition),
                    backoff_seconds: *backoff_seconds,
                    created_at: self.now,
                    image_id: "sha256:1".to_owned(),
                    state: AttemptState::Running { started_at: self.now },
                });
                if definition.kind == ContainerKind::Sidecar && definition.probes.startup.is_none() {
                    self.through.insert((sandbox.clone(), container.clone()));
                }
                *self.progress(container) = Progress::default();
            }
            Action::Kill(kill) => {
                self.progress(&kill.container).killing = true;
                self.kills.push(kill.clone());
            }
            Action::RemoveContainer { id } => self.observed.attempts.retain(|a| &a.id != id),
            Action::RemoveSandbox { id } => self.observed.sandboxes.retain(|s| &s.id != id),
            Action::TearDown => {
                self.observed.teardown = Work::Done;
                self.observed.attempts.clear();
                self.observed.sandboxes.clear();
            }
        }
    }

    fn exit(&mut self, name: &str, exit_code: i32) {
        let now = self.now;
        let live = self.observed.attempts.iter_mut().find(|a| a.name == name && a.is_live());
        let Some(attempt) = live else { return };
        attempt.state = AttemptState::Exited(Termination {
            exit_code,
            signal: None,
            reason: "Error".to_owned(),
            message: String::new(),
            started_at: Some(attempt.created_at),
            finished_at: now,
            container_id: None,
        });
        let sandbox = attempt.sandbox.clone();
        let kind = self.desired.containers.iter().find(|c| c.name == name).unwrap().kind;
        if kind == ContainerKind::Init && exit_code == 0 {
            self.through.insert((sandbox, name.to_owned()));
        }
        *self.progress(name) = Progress::default();
    }

    /// Plans until nothing more happens by itself.
    fn settle(&mut self) -> Plan {
        for _ in 0..50 {
            let before = (self.starts.len(), self.observed.clone());
            let plan = self.step();
            if plan.actions.iter().all(|action| matches!(action, Action::Kill(_))) || plan.terminated {
                return plan;
            }
            assert!(before.0 <= self.starts.len());
        }
        panic!("it never settles");
    }

    fn running(&self) -> Vec<&str> {
        self.observed.attempts.iter().filter(|a| a.is_live()).map(|a| a.name.as_str()).collect()
    }

    fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    fn stop(&mut self) {
        let deadline = self.now.checked_add(SignedDuration::from_secs(5)).unwrap();
        let deletion = Deletion { deadline, grace_seconds: 5 };
        self.desired.stop = Some(Stop { deletion, reason: "deleted".to_owned() });
        self.observed.stop_deadline = Some(deadline);
    }
}

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
    world.desired.labels.insert("a".to_owned(), "b".to_owned());
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

#[derive(Clone, Debug)]
enum Chance {
    Exit { index: usize, code: i32 },
    Pass(i64),
    SandboxDies,
    PullFails(usize),
    StartFails(usize),
    LivenessFails(usize),
    AgentRestarts,
    Step,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        4 => (0usize..5, prop_oneof![Just(0), 1i32..140]).prop_map(|(index, code)| Chance::Exit { index, code }),
        3 => (1i64..700).prop_map(Chance::Pass),
        1 => Just(Chance::SandboxDies),
        1 => (0usize..5).prop_map(Chance::PullFails),
        1 => (0usize..5).prop_map(Chance::StartFails),
        1 => (0usize..5).prop_map(Chance::LivenessFails),
        1 => Just(Chance::AgentRestarts),
        6 => Just(Chance::Step),
    ];
    prop::collection::vec(one, 0..80)
}

fn pods() -> impl Strategy<Value = DesiredPod> {
    let policy = prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    let init = prop::collection::vec(prop_oneof![Just(ContainerKind::Init), Just(ContainerKind::Sidecar)], 0..3);
    (policy, init, 1usize..3).prop_map(|(policy, init, apps)| {
        let kinds = init.into_iter().chain(std::iter::repeat_n(ContainerKind::App, apps));
        let mut containers: Vec<_> = kinds.enumerate().map(|(i, kind)| container(&format!("c{i}"), kind)).collect();
        for container in &mut containers {
            container.probes.liveness = Some(probe());
        }
        pod(policy, containers)
    })
}

proptest! {
    /// [`World::check`] is the reference for each action: order, one live attempt, restart counts, no
    /// start after stop, sidecars last. Here besides: the back-off, and that a stop always ends.
    #[test]
    fn on_any_day_the_plan_keeps_the_rules_and_a_stop_ends(desired in pods(), chances in chances()) {
        let mut world = World::new(desired);
        for chance in chances {
            let count = world.desired.containers.len();
            let name = |index: usize| format!("c{}", index % count);
            match chance {
                Chance::Exit { index, code } => world.exit(&name(index), code),
                Chance::Pass(seconds) => world.pass(seconds),
                Chance::SandboxDies => world.observed.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false),
                Chance::PullFails(index) => {
                    let now = world.now;
                    let fault = Fault { reason: "ErrImagePull".to_owned(), message: String::new() };
                    world.progress(&name(index)).image = Image::Failed { fault, at: now, failures: 1 };
                }
                Chance::StartFails(index) => {
                    let now = world.now;
                    let fault = Fault { reason: "CreateContainerError".to_owned(), message: String::new() };
                    world.progress(&name(index)).start = Start::Failed { fault, at: now, failures: 1 };
                }
                Chance::LivenessFails(index) => world.progress(&name(index)).liveness = Verdict::Failed,
                Chance::AgentRestarts => world.observed.progress.clear(),
                Chance::Step => {}
            }
            let starts = world.starts.len();
            let before = world.observed.clone();
            world.step();
            for (name, _) in &world.starts[starts..] {
                if let Some(end) = before.latest(name).and_then(Attempt::exit) {
                    let latest = before.latest(name).unwrap();
                    let clean = end.finished_at.duration_since(latest.created_at) > SignedDuration::from_secs(600);
                    let wait = world.now.duration_since(end.finished_at).as_secs();
                    prop_assert!(clean || wait >= i64::from(latest.backoff_seconds), "{name} came back after {wait} s");
                }
            }
        }
        world.stop();
        for _ in 0..20 {
            let plan = world.step();
            prop_assert_eq!(plan.reports.len(), world.desired.containers.len());
            if plan.terminated {
                return Ok(());
            }
            let turns: Vec<String> = plan.actions.iter().filter_map(|action| match action {
                Action::Kill(kill) if kill.turn => Some(kill.container.clone()),
                _ => None,
            }).collect();
            turns.iter().for_each(|name| world.exit(name, 143));
        }
        prop_assert!(false, "the stop does not end");
    }
}
