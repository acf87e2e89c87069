//! The world against simulated surroundings: an API server, a cloud and agents that remember, in any
//! order of events, with crashes of the provider between them.
//!
//! A crash is a new [`World`], told what the API server, the cloud and the agents hold. What must never
//! happen is checked at each effect; what must come about in the end, after everything has settled.

mod ends;
mod failures;
mod handover;
mod notices;
mod sim;
mod trust;

use crate::decide::handover::MOVE;
use crate::decide::purchase::Buying;
use crate::decide::purchase::policy::{Limit, Scope};
use crate::model::{HourlyPrice, Notice};
use jiff::SignedDuration;
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
    LaunchIsShort,
    Connect(usize),
    Disconnect(usize),
    /// An agent gets on: starts containers, or stops them when asked.
    AgentActs(usize),
    /// A Pod's container ends by itself.
    ContainerEnds(usize),
    MachineDies(usize),
    Describe,
    TerminateFails,
    CreateMovable,
    /// The cloud takes the machine back in so many seconds.
    Interrupt(usize, i64),
    Rebalance(usize),
    /// Somebody asks for a move; the number is the wish's.
    Move(usize, u8),
    Wait(i64),
    Crash,
    /// After which agents may be quicker than the cloud's first description.
    CrashUndescribed,
}

fn steps(crashes: bool) -> impl Strategy<Value = Vec<Step>> {
    let some = 0..8usize;
    let crash = if crashes { 2 } else { 0 };
    let step = prop_oneof![
        8 => Just(Step::Create),
        1 => Just(Step::CreateTooLarge),
        3 => some.clone().prop_map(Step::Delete),
        1 => some.clone().prop_map(Step::DeleteByForce),
        4 => some.clone().prop_map(Step::Echo),
        8 => Just(Step::LaunchReturns),
        1 => Just(Step::LaunchFails),
        1 => Just(Step::LaunchIsShort),
        10 => some.clone().prop_map(Step::Connect),
        2 => some.clone().prop_map(Step::Disconnect),
        10 => some.clone().prop_map(Step::AgentActs),
        2 => some.clone().prop_map(Step::ContainerEnds),
        1 => some.clone().prop_map(Step::MachineDies),
        8 => Just(Step::CreateMovable),
        2 => (some.clone(), 10..60i64).prop_map(|(n, seconds)| Step::Interrupt(n, seconds)),
        1 => some.clone().prop_map(Step::Rebalance),
        3 => (some, 0..4u8).prop_map(|(n, wish)| Step::Move(n, wish)),
        3 => Just(Step::Describe),
        1 => Just(Step::TerminateFails),
        5 => (0..4i64).prop_map(Step::Wait),
        crash => Just(Step::Crash),
        crash => Just(Step::CrashUndescribed),
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
            Step::LaunchIsShort => sim.launch_is_short(),
            Step::Connect(n) => sim.connect(*n),
            Step::Disconnect(n) => sim.disconnect(*n),
            Step::AgentActs(n) => sim.agent_acts(*n),
            Step::ContainerEnds(n) => sim.container_ends(*n),
            Step::MachineDies(n) => sim.machine_dies(*n),
            Step::Describe => sim.describe(),
            Step::TerminateFails => sim.terminate_fails_next(),
            Step::CreateMovable => sim.create_movable(),
            Step::Interrupt(n, seconds) => {
                let at = sim.now().saturating_add(SignedDuration::from_secs(*seconds)).expect("a time");
                sim.announce(*n, Notice::Interruption { at });
            }
            Step::Rebalance(n) => sim.announce(*n, Notice::Rebalance { since: sim.now() }),
            Step::Move(n, wish) => sim.annotate(*n, MOVE, &wish.to_string()),
            Step::Wait(seconds) => sim.wait(*seconds),
            Step::Crash => sim.crash(),
            Step::CrashUndescribed => sim.crash_undescribed(),
        }
    }
}

fn limited(limit: Limit) -> Buying {
    let mut buying = sim::buying();
    buying.policy.limits = vec![limit];
    buying
}

#[test]
fn what_is_lost_with_a_connection_is_sent_again_and_what_arrived_is_not() {
    let mut sim = Sim::new();
    sim.create(1000);
    sim.launch_returns(true);
    sim.connect(0);
    sim.disconnect(0);
    assert!(!sim.is_sent_something(0));
    sim.connect(0);
    assert!(sim.is_sent_something(0));
    sim.agent_acts(0);
    assert_eq!(sim.holders(0), 1);
    sim.disconnect(0);
    sim.connect(0);
    assert!(!sim.is_sent_something(0));
    sim.settle();
    sim.delete(0, false);
    sim.disconnect(0);
    sim.connect(0);
    sim.agent_acts(0);
    assert!(!sim.serving("i-001"));
    sim.settle();
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
}

#[test]
fn a_pod_falls_through_to_the_next_pool_and_back_when_the_first_has_capacity_again() {
    let mut sim = Sim::new();
    sim.create(1000);
    assert_eq!(sim.asked(), ["small"]);
    sim.launch_is_short();
    assert_eq!(sim.asked(), ["medium"]);
    sim.launch_is_short();
    sim.wait(5);
    assert_eq!((sim.asked().len(), sim.reason(0).as_deref()), (0, Some("InsufficientInstanceCapacity")));
    sim.wait(6);
    assert_eq!(sim.asked(), ["small"]);
    sim.settle();
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    assert_eq!((sim.launched, sim.reason(0)), (1, None));
}

#[test]
fn pods_of_a_burst_share_a_launch_though_they_come_one_after_another() {
    let mut sim = Sim::gathering(2, 5);
    for _ in 0..4 {
        sim.create(1000);
        assert!(sim.asked().is_empty());
        sim.wait(1);
    }
    sim.wait(1);
    assert_eq!(sim.asked().len(), 1, "none came for two seconds");
    // Further ones come without end: the first waits five seconds.
    for _ in 0..5 {
        assert_eq!(sim.asked().len(), 1);
        sim.create(1000);
        sim.wait(1);
    }
    assert_eq!(sim.asked().len(), 2);
    sim.settle();
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    assert_eq!(sim.launched, 9);
}

#[test]
fn a_pod_beyond_a_limit_waits_with_the_reason_and_runs_when_another_has_gone_also_after_a_crash() {
    let scope = Scope::Namespace("default".to_owned());
    let limit = Limit { scope, max_hourly: Some(HourlyPrice(5200)), max_instances: None };
    let mut sim = Sim::buying(limited(limit));
    sim.create(1000);
    sim.settle();
    sim.create(1000);
    sim.settle();
    assert_eq!((sim.launched, sim.reason(1).as_deref()), (1, Some("CostLimitReached")));
    sim.crash();
    sim.settle();
    assert_eq!((sim.launched, sim.reason(1).as_deref()), (1, Some("CostLimitReached")), "the ledger is made anew");
    sim.delete(0, false);
    sim.settle();
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    assert_eq!((sim.launched, sim.reason(0)), (2, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_each_pod_has_one_instance_and_nothing_leaks(steps in steps(true), idle in 0..3i64) {
        let mut sim = Sim::gathering(idle, 2 * idle);
        run(&mut sim, &steps);
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    }

    #[test]
    fn limits_hold_whatever_happens_and_after_every_crash(steps in steps(true), most in 0..4u32) {
        let limit = Limit { scope: Scope::Cluster, max_hourly: None, max_instances: Some(most) };
        let mut sim = Sim::buying(limited(limit));
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
