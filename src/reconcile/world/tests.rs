//! The world against simulated surroundings: an API server, a cloud and agents that remember, in any
//! order of events, with crashes of the provider between them.
//!
//! A crash is a new [`World`], told what the API server, the cloud and the agents hold. What must never
//! happen is checked at each effect; what must come about in the end, after everything has settled.

mod sim;
mod trust;

use proptest::{collection::vec, prelude::*};
use sim::Sim;

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Create,
    CreateTooLarge,
    Delete(usize),
    DeleteByForce(usize),
    /// The object's watch event comes again, with what was written.
    Echo(usize),
    LaunchReturns,
    LaunchFails,
    Connect(usize),
    Disconnect(usize),
    /// An agent gets on: starts containers, or stops them when asked.
    AgentActs(usize),
    /// A Pod's container ends by itself.
    ContainerEnds(usize),
    MachineDies(usize),
    Describe,
    TerminateFails,
    Wait(i64),
    Crash,
}

fn steps(crashes: bool) -> impl Strategy<Value = Vec<Step>> {
    let some = 0..8usize;
    let crash = if crashes { 3 } else { 0 };
    let step = prop_oneof![
        8 => Just(Step::Create),
        1 => Just(Step::CreateTooLarge),
        3 => some.clone().prop_map(Step::Delete),
        1 => some.clone().prop_map(Step::DeleteByForce),
        4 => some.clone().prop_map(Step::Echo),
        8 => Just(Step::LaunchReturns),
        1 => Just(Step::LaunchFails),
        10 => some.clone().prop_map(Step::Connect),
        2 => some.clone().prop_map(Step::Disconnect),
        10 => some.clone().prop_map(Step::AgentActs),
        2 => some.clone().prop_map(Step::ContainerEnds),
        1 => some.prop_map(Step::MachineDies),
        3 => Just(Step::Describe),
        1 => Just(Step::TerminateFails),
        5 => (0..4i64).prop_map(Step::Wait),
        crash => Just(Step::Crash),
    ];
    vec(step, 1..120)
}

fn run(sim: &mut Sim, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Create => sim.create(1000),
            Step::CreateTooLarge => sim.create(1_000_000),
            Step::Delete(n) => sim.delete(*n, false),
            Step::DeleteByForce(n) => sim.delete(*n, true),
            Step::Echo(n) => sim.echo(*n),
            Step::LaunchReturns => sim.launch_returns(true),
            Step::LaunchFails => sim.launch_returns(false),
            Step::Connect(n) => sim.connect(*n),
            Step::Disconnect(n) => sim.disconnect(*n),
            Step::AgentActs(n) => sim.agent_acts(*n),
            Step::ContainerEnds(n) => sim.container_ends(*n),
            Step::MachineDies(n) => sim.machine_dies(*n),
            Step::Describe => sim.describe(),
            Step::TerminateFails => sim.terminate_fails_next(),
            Step::Wait(seconds) => sim.wait(*seconds),
            Step::Crash => sim.crash(),
        }
    }
}

/// PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn whatever_happens_each_pod_has_one_instance_and_nothing_leaks(steps in steps(true)) {
        let mut sim = Sim::new();
        run(&mut sim, &steps);
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    }

    #[test]
    fn nothing_is_launched_twice_for_one_pod(pods in 1..12usize, steps in vec(0..6u8, 0..80)) {
        let mut sim = Sim::new();
        for n in 0..pods {
            sim.create(1000);
            match steps.get(n) {
                Some(0) => sim.launch_returns(true),
                Some(1) => sim.connect(n),
                Some(2) => sim.wait(1),
                _ => {}
            }
        }
        for step in steps.iter().skip(pods) {
            match step {
                0 => sim.launch_returns(true),
                1 => sim.describe(),
                2 => sim.wait(2),
                n => {
                    sim.connect(usize::from(*n));
                    sim.agent_acts(usize::from(*n));
                }
            }
        }
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
        prop_assert_eq!(sim.launched, pods);
    }

    #[test]
    fn a_restart_changes_no_binding(pods in 1..8usize, crash_after in 0..3i64, order in vec(0..8usize, 0..16)) {
        let mut sim = Sim::new();
        for _ in 0..pods {
            sim.create(1000);
        }
        sim.settle();
        let before = sim.bindings();
        prop_assert_eq!(before.len(), pods);
        sim.wait(crash_after);
        sim.crash();
        // Agents come back one by one, in any order, while the cloud is described.
        for n in order {
            sim.connect(n);
            sim.agent_acts(n);
            sim.wait(1);
        }
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
        prop_assert_eq!(sim.bindings(), before);
        prop_assert_eq!(sim.launched, pods);
    }
}
