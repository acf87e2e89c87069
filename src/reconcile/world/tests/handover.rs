//! Handovers, one by one and in any order of events.

use super::sim::{self, Sim};
use super::{run, steps};
use crate::decide::handover::{MOVABLE, MOVE, MOVED};
use crate::decide::purchase::policy::{Interruption, OnNotice, OnRebalance};
use crate::decide::status::{Condition, HANDOVER, INSTANCE_DOOMED, Phase};
use crate::model::{Notice, RestartPolicy};
use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*};

pub(super) fn condition(sim: &Sim, n: usize, kind: &str) -> Option<Condition> {
    sim.status(n)?.conditions.iter().find(|c| c.kind == kind).cloned()
}

/// Reason of the last handover's end; None while one is under way, or where there was none.
fn ended(sim: &Sim, n: usize) -> Option<String> {
    condition(sim, n, HANDOVER).filter(|c| !c.status)?.reason
}

pub(super) fn own(sim: &Sim, n: usize) -> String {
    sim.bindings().into_values().nth(n).expect("it is bound")
}

pub(super) fn running(restart_policy: RestartPolicy, owner: Option<&str>) -> Sim {
    let mut sim = Sim::new();
    sim.create_pod(1000, restart_policy, owner);
    sim.settle();
    sim
}

pub(super) fn interrupted(sim: &mut Sim, n: usize, seconds: i64) {
    let at = sim.now().saturating_add(SignedDuration::from_secs(seconds)).unwrap();
    let machine = sim.machine_of(n).expect("it has a machine");
    sim.announce(machine, Notice::Interruption { at });
}

pub(super) fn well(sim: &mut Sim) {
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
}

#[test]
fn a_pod_that_is_asked_to_move_is_on_another_instance_afterwards_and_the_first_is_gone() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    let before = own(&sim, 0);
    sim.annotate(0, MOVE, "1");
    sim.settle();
    well(&mut sim);
    assert_ne!(own(&sim, 0), before);
    assert_eq!((sim.launched, sim.handed_over.as_slice()), (2, ["ready"].as_slice()));
    assert_eq!(ended(&sim, 0).as_deref(), Some("Completed"));
    assert_eq!(sim.status(0).unwrap().annotations[MOVED], "1");
    let told = ["HandoverStarted", "HandoverInstanceBound", "HandoverSwitched", "HandoverCompleted"];
    let story: Vec<&String> = sim.told.iter().filter(|reason| told.contains(&reason.as_str())).collect();
    assert_eq!(story, told);
    // The same wish moves once; a new one again.
    sim.settle();
    assert_eq!(sim.launched, 2);
    sim.annotate(0, MOVE, "2");
    sim.settle();
    well(&mut sim);
    assert_eq!((sim.launched, sim.handed_over.len()), (3, 2));
}

#[test]
fn the_old_instance_serves_until_the_api_server_shows_the_new_one_and_a_while_longer() {
    let mut sim = running(RestartPolicy::Always, None);
    let old = own(&sim, 0);
    sim.annotate(0, MOVE, "1");
    sim.launch_returns(true);
    sim.connect(1);
    sim.echo(0);
    sim.agent_acts(1);
    assert_ne!(own(&sim, 0), old);
    // Nobody has seen it yet.
    sim.wait(60);
    assert!(sim.serving(&old));
    sim.echo(0);
    sim.wait(4);
    assert!(sim.serving(&old));
    sim.wait(1);
    sim.agent_acts(0);
    assert!(!sim.serving(&old));
    sim.settle();
    well(&mut sim);
}

#[test]
fn a_replacement_starts_only_when_the_api_server_shows_that_it_does() {
    let mut sim = running(RestartPolicy::Always, None);
    sim.annotate(0, MOVE, "1");
    sim.launch_returns(true);
    sim.connect(1);
    sim.agent_acts(1);
    assert_eq!(sim.holders(0), 1);
    sim.echo(0);
    sim.agent_acts(1);
    assert_eq!(sim.holders(0), 2);
    sim.settle();
    well(&mut sim);
}

#[test]
fn what_must_not_run_twice_is_not_moved_and_says_why() {
    for (policy, owner, why) in [
        (RestartPolicy::Always, Some("StatefulSet"), "StatefulSet"),
        (RestartPolicy::Never, Some("Job"), "Job"),
        (RestartPolicy::OnFailure, None, "OnFailure"),
        (RestartPolicy::Always, Some("Revision"), MOVABLE),
    ] {
        let mut sim = running(policy, owner);
        let before = own(&sim, 0);
        sim.annotate(0, MOVE, "1");
        sim.settle();
        well(&mut sim);
        assert_eq!((own(&sim, 0), sim.launched), (before, 1));
        let said = condition(&sim, 0, HANDOVER).unwrap();
        assert_eq!((said.status, said.reason.as_deref()), (false, Some("NotMovable")));
        assert!(said.message.unwrap().contains(why));
        assert_eq!(sim.status(0).unwrap().annotations[MOVED], "1");
    }
}

#[test]
fn an_owner_that_is_not_known_may_say_that_its_pods_can_be_moved() {
    let mut sim = running(RestartPolicy::Always, Some("Revision"));
    sim.annotate(0, MOVABLE, "true");
    sim.annotate(0, MOVE, "1");
    sim.settle();
    well(&mut sim);
    assert_eq!((sim.launched, ended(&sim, 0).as_deref()), (2, Some("Completed")));
}

#[test]
fn an_interruption_moves_the_pod_within_its_two_minutes_and_leaves_the_pool_alone() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    interrupted(&mut sim, 0, 120);
    let doomed = condition(&sim, 0, INSTANCE_DOOMED).expect("it is said");
    assert_eq!((doomed.status, doomed.reason.as_deref()), (true, Some("SpotInterrupted")));
    assert_eq!(sim.asked(), ["medium"], "the cloud is short of what it takes back");
    sim.settle();
    well(&mut sim);
    assert_eq!((sim.launched, sim.handed_over.as_slice()), (2, ["ready"].as_slice()));
    assert!(!condition(&sim, 0, INSTANCE_DOOMED).unwrap().status);
    assert_eq!(sim.status(0).unwrap().phase, Phase::Running);
}

#[test]
fn what_is_announced_to_us_counts_while_the_agent_says_nothing_and_its_word_is_the_exact_one() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    let before = own(&sim, 0);
    let at = |sim: &Sim, seconds| sim.now().saturating_add(SignedDuration::from_secs(seconds)).unwrap();
    let machine = sim.machine_of(0).expect("it has a machine");
    sim.announce_to_us(machine, Notice::Interruption { at: at(&sim, 120) });
    let doomed = condition(&sim, 0, INSTANCE_DOOMED).expect("it is said");
    assert_eq!((doomed.status, doomed.reason.as_deref()), (true, Some("SpotInterrupted")));
    let quarantined = sim.asked().len();
    // The same again, by the agent: one interruption.
    sim.announce(machine, Notice::Interruption { at: at(&sim, 119) });
    assert_eq!(sim.asked().len(), quarantined);
    sim.settle();
    well(&mut sim);
    assert_eq!((sim.launched, sim.handed_over.as_slice()), (2, ["ready"].as_slice()));
    assert_ne!(own(&sim, 0), before);
}

#[test]
fn without_another_instance_in_time_a_controlled_pod_is_evicted_and_a_bare_one_stopped_before_the_end() {
    for (owner, phase) in [(Some("ReplicaSet"), None), (None, Some(Phase::Failed))] {
        let mut sim = running(RestartPolicy::Always, owner);
        let machine = sim.machine_of(0).unwrap();
        interrupted(&mut sim, 0, 120);
        // 5 s of grace, 5 s of margin, 5 s for a switch: until then it serves.
        sim.wait(104);
        assert!(sim.serving_at(machine));
        sim.wait(6);
        sim.agent_acts(machine);
        assert!(!sim.serving_at(machine), "stopped with time to spare");
        sim.echo(0);
        sim.wait(1);
        sim.settle();
        well(&mut sim);
        assert_eq!(sim.status(0).map(|status| status.phase), phase);
        let reason = if owner.is_some() { "TerminatingOnInterruption" } else { "InstanceInterrupted" };
        assert!(sim.told.iter().any(|told| told == reason), "{:?}", sim.told);
    }
}

#[test]
fn what_can_not_be_moved_is_evicted_at_once_so_that_its_controller_has_the_time() {
    let mut sim = running(RestartPolicy::Always, Some("StatefulSet"));
    sim.evictions_refused = true;
    interrupted(&mut sim, 0, 120);
    sim.wait(29);
    assert!(sim.status(0).is_some(), "a budget is respected for a while");
    sim.wait(1);
    sim.settle();
    well(&mut sim);
    assert!(sim.status(0).is_none());
    assert_eq!(sim.launched, 1);
}

#[test]
fn a_replacement_that_is_not_ready_in_time_takes_over_all_the_same_when_its_predecessor_must_go() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    interrupted(&mut sim, 0, 120);
    sim.launch_returns(true);
    sim.connect(1);
    sim.echo(0);
    // It holds the Pod, and its container does not come up.
    sim.wait(104);
    assert_eq!(sim.handed_over.len(), 0);
    sim.wait(1);
    assert_eq!(sim.handed_over, ["out-of-time"]);
    assert!(!sim.status(0).unwrap().conditions.iter().any(|c| c.kind == "Ready" && c.status));
    sim.settle();
    well(&mut sim);
    assert_eq!((sim.launched, sim.status(0).unwrap().phase), (2, Phase::Running));
}

#[test]
fn a_pod_whose_instance_dies_while_its_replacement_starts_lives_on_there() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    sim.annotate(0, MOVE, "1");
    sim.launch_returns(true);
    sim.connect(1);
    sim.echo(0);
    sim.machine_dies(0);
    sim.describe();
    assert_eq!(sim.handed_over, ["lost"]);
    sim.settle();
    well(&mut sim);
    assert_eq!(sim.status(0).unwrap().phase, Phase::Running);
}

#[test]
fn a_replacement_that_never_becomes_ready_is_given_up_and_the_pod_stays_where_it_is() {
    let mut sim = running(RestartPolicy::Always, None);
    let before = own(&sim, 0);
    sim.annotate(0, MOVE, "1");
    sim.launch_returns(true);
    sim.connect(1);
    sim.echo(0);
    sim.wait(600);
    assert_eq!(sim.handed_over, ["failed"]);
    sim.settle();
    well(&mut sim);
    assert_eq!((own(&sim, 0), ended(&sim, 0).as_deref()), (before, Some("Failed")));
}

#[test]
fn a_recommendation_is_followed_only_where_the_policy_says_so() {
    for (rebalance, launched) in [(OnRebalance::Ignore, 1), (OnRebalance::Replace, 2)] {
        let mut buying = sim::buying();
        buying.policy.interruption = Interruption { notice: OnNotice::default(), rebalance };
        let mut sim = Sim::buying(buying);
        sim.create_movable();
        sim.settle();
        sim.announce(0, Notice::Rebalance { since: sim.now() });
        sim.settle();
        well(&mut sim);
        assert_eq!(sim.launched, launched);
    }
}

#[test]
fn a_policy_that_drains_at_a_notice_evicts_without_a_replacement() {
    let mut buying = sim::buying();
    buying.policy.interruption.notice = OnNotice::Drain;
    let mut sim = Sim::buying(buying);
    sim.create_movable();
    sim.settle();
    interrupted(&mut sim, 0, 120);
    sim.settle();
    well(&mut sim);
    assert_eq!((sim.launched, sim.status(0).is_none()), (1, true));
}

#[test]
fn an_instance_that_is_too_old_is_replaced_under_its_pod() {
    let mut buying = sim::buying();
    buying.policy.ttl.max_lifetime = Some(SignedDuration::from_secs(1000));
    let mut sim = Sim::buying(buying);
    sim.create_movable();
    sim.create_pod(1000, RestartPolicy::Never, Some("Job"));
    sim.settle();
    let before = sim.bindings();
    sim.wait(900);
    sim.settle();
    well(&mut sim);
    let after = sim.bindings();
    let same: Vec<bool> = before.iter().map(|(uid, instance)| after[uid] == *instance).collect();
    assert_eq!(same, [false, true], "a Job's Pod keeps its instance");
}

#[test]
fn another_class_is_had_only_where_the_policy_permits_it_and_is_then_kept() {
    for permitted in [false, true] {
        let mut buying = sim::buying();
        buying.policy.overrides.move_to_class = permitted;
        let mut dear = sim::class("dear");
        dear.matches.namespaces = vec!["elsewhere".parse().unwrap()];
        buying.policy.classes.insert(0, dear);
        let mut sim = Sim::buying(buying);
        sim.create_movable();
        sim.settle();
        sim.annotate(0, MOVE, "1/dear");
        sim.settle();
        well(&mut sim);
        let class = sim.status(0).unwrap().annotations["pilotlight.dev/class"].clone();
        assert_eq!(class, if permitted { "dear" } else { "default" });
        assert_eq!(ended(&sim, 0).as_deref(), Some(if permitted { "Completed" } else { "NotMovable" }));
    }
}

#[test]
fn a_class_that_does_not_exist_is_refused_by_name() {
    let mut sim = running(RestartPolicy::Always, None);
    sim.annotate(0, MOVE, "1/none");
    sim.settle();
    well(&mut sim);
    assert!(condition(&sim, 0, HANDOVER).unwrap().message.unwrap().contains("\"none\""));
}

#[test]
fn a_pod_that_is_deleted_on_two_instances_leaves_neither() {
    for draining in [false, true] {
        let mut sim = running(RestartPolicy::Always, None);
        sim.annotate(0, MOVE, "1");
        sim.launch_returns(true);
        sim.connect(1);
        sim.echo(0);
        if draining {
            sim.agent_acts(1);
            sim.echo(0);
            sim.wait(5);
        }
        sim.delete(0, false);
        sim.agent_acts(usize::from(draining));
        assert!(sim.status(0).is_some(), "its object stays until nothing of it runs");
        sim.settle();
        well(&mut sim);
        assert!(sim.status(0).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Killed at any step, a provider finds its way to the end of it, without another launch.
    #[test]
    fn a_handover_survives_a_crash_at_any_step(crash_at in 0..12usize, again in 0..12usize) {
        let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
        let before = own(&sim, 0);
        sim.annotate(0, MOVE, "1");
        let mut number = 0;
        for round in 0..4 {
            let mut step = |sim: &mut Sim, act: &dyn Fn(&mut Sim)| {
                act(sim);
                if number == crash_at || number == crash_at + again + 1 {
                    sim.crash();
                }
                number += 1;
            };
            step(&mut sim, &|sim| sim.launch_returns(true));
            step(&mut sim, &|sim| { sim.describe(); sim.connect(0); sim.connect(1); });
            step(&mut sim, &|sim| sim.echo(0));
            step(&mut sim, &|sim| { sim.agent_acts(0); sim.agent_acts(1); });
            step(&mut sim, &|sim| sim.echo(0));
            step(&mut sim, &|sim| sim.wait(if round > 1 { 20 } else { 5 }));
        }
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
        prop_assert_ne!(own(&sim, 0), before);
        prop_assert_eq!(sim.launched, 2);
        prop_assert_eq!(sim.status(0).unwrap().phase, Phase::Running);
    }

    /// Moves and notices in any order, with crashes, while nothing else goes wrong: nobody is lost.
    #[test]
    fn nothing_that_can_be_moved_is_ever_lost_to_a_move_or_a_notice(
        pods in 1..4usize, happens in vec((0..7u8, 0..6usize), 0..60),
    ) {
        let mut sim = Sim::new();
        (0..pods).for_each(|_| sim.create_movable());
        sim.settle();
        for (what, n) in happens {
            match what {
                6 => sim.annotate(n, MOVE, &format!("{n}-{}", sim.now().as_second())),
                0 | 1 => {
                    let at = sim.now().saturating_add(SignedDuration::from_secs(120)).unwrap();
                    let notice = Notice::Interruption { at };
                    if what == 0 { sim.announce_to_us(n, notice) } else { sim.announce(n, notice) }
                }
                2 => sim.crash(),
                3 => sim.launch_returns(true),
                4 => { sim.connect(n); sim.agent_acts(n); sim.echo(n); }
                _ => { sim.describe(); sim.wait(3); }
            }
            // Time enough: clouds and agents that work get there within the two minutes.
            if (2..6).contains(&what) {
                sim.turn();
            }
        }
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
        prop_assert_eq!(sim.bindings().len(), pods);
        let lost = sim.handed_over.iter().filter(|outcome| **outcome != "ready" && **outcome != "failed").count();
        prop_assert_eq!(lost, 0, "{:?}", sim.handed_over);
    }

    #[test]
    fn whatever_happens_two_instances_become_one_and_no_wish_is_left(steps in steps(true)) {
        let mut buying = sim::buying();
        buying.policy.interruption.rebalance = OnRebalance::Replace;
        let mut sim = Sim::buying(buying);
        run(&mut sim, &steps);
        sim.settle();
        sim.check_settled();
        prop_assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    }
}
