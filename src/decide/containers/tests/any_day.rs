//! Random days.

use super::world::*;
use crate::{
    decide::{containers::*, probe::Verdict},
    model::*,
};
use jiff::SignedDuration;
use proptest::prelude::*;

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
