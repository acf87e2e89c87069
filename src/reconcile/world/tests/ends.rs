//! Instances that must not cost anything any more: those whose end was not heard, and those that never registered.

use super::super::{END_AGAIN, Effect, EndAnswer, Fact, World};
use super::sim::{Sim, buying, config};
use crate::decide::fixtures::{at, instance};
use crate::decide::purchase::policy::StandbyPool;
use crate::decide::status::Phase;
use crate::model::{HourlyPrice, InstanceId, InstanceState, NodeName, RestartPolicy};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// A provider that knows of one instance, launched just before, that no Pod needs.
fn world(register: i64) -> World {
    let mut config = config();
    let mut buying = buying();
    buying.policy.ttl.register = SignedDuration::from_secs(register);
    config.buying = Arc::new(buying);
    let mut world = World::new(config, at(100));
    world.apply(Fact::Synced(NodeName::new("pilotlight-a")), at(100));
    world
}

fn described(world: &mut World, state: InstanceState, now: Timestamp) -> Vec<Effect> {
    let mut record = instance("i-1", at(99));
    record.state = state;
    let round = world.begin_round();
    world.apply(Fact::Instances { round, records: vec![record] }, now);
    world.decide(now)
}

fn ends(effects: &[Effect]) -> usize {
    let of = |effect: &&Effect| matches!(effect, Effect::Terminate(ids) if ids.contains(&InstanceId::new("i-1")));
    effects.iter().filter(of).count()
}

/// In which of so many rounds the end of one that never registers is asked for; `answer` is that to the nth time.
fn asked(world: &mut World, rounds: u64, answer: impl Fn(usize) -> Option<EndAnswer>) -> Vec<u64> {
    let mut asked: Vec<u64> = Vec::new();
    for round in 0..rounds {
        let now = at(100 + 2 * i64::try_from(round).unwrap());
        let effects = described(world, InstanceState::Running, now);
        for _ in 0..ends(&effects) {
            if let Some(answer) = answer(asked.len()) {
                world.apply(Fact::Ended { ids: vec![InstanceId::new("i-1")], answer }, now);
            }
            asked.push(round);
        }
    }
    asked
}

#[test]
fn an_instance_that_still_lives_long_after_its_end_was_asked_for_is_ended_again() {
    let mut world = world(10);
    let asked = asked(&mut world, 4 * END_AGAIN, |_| Some(EndAnswer::Taken));
    assert!(asked.len() >= 3, "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] == END_AGAIN), "{asked:?}");
    // Once the cloud has heard it, never again.
    for round in 0..4 * END_AGAIN {
        let now = at(1000 + 2 * i64::try_from(round).unwrap());
        assert_eq!(ends(&described(&mut world, InstanceState::ShuttingDown, now)), 0);
    }
}

#[test]
fn a_standby_pool_that_the_policy_forbids_to_fill_is_said_once_and_again_for_another_reason() {
    let mut config = config();
    let mut buying = buying();
    buying.policy.standby =
        vec![StandbyPool { instance_type: "medium".into(), zone: "zone-a".into(), count: 2, windows: Vec::new() }];
    let with_cap = |micros| {
        let mut buying = buying.clone();
        buying.policy.classes[0].max_hourly = Some(HourlyPrice(micros));
        Arc::new(buying)
    };
    config.buying = with_cap(8_000);
    let mut world = World::new(config, at(100));
    world.apply(Fact::Synced(NodeName::new("pilotlight-a")), at(100));
    let said = |effects: &[Effect]| -> Vec<String> {
        let of = |effect: &Effect| match effect {
            Effect::StandbyForbidden(pool, why) => Some(format!("{} in {}: {why}", pool.instance_type, pool.zone)),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    };
    let launches = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Launch(..)));
    let first = described(&mut world, InstanceState::Running, at(101));
    assert_eq!(said(&first), ["medium in zone-a: $0.009/h is above the price cap of $0.008/h"]);
    assert!(!launches(&first));
    let reloaded = |buying| Fact::Reloaded { buying, keep_completed: SignedDuration::from_secs(20) };
    world.apply(reloaded(with_cap(8_000)), at(102));
    assert_eq!(said(&world.decide(at(102))), Vec::<String>::new());
    world.apply(reloaded(with_cap(7_000)), at(103));
    assert_eq!(said(&world.decide(at(103))), ["medium in zone-a: $0.009/h is above the price cap of $0.007/h"]);
    world.apply(reloaded(with_cap(9_000)), at(104));
    let filled = world.decide(at(104));
    assert!(said(&filled).is_empty() && launches(&filled));
}

#[test]
fn an_end_that_failed_is_asked_for_in_the_next_round_and_one_that_is_refused_more_and_more_seldom_but_for_ever() {
    let failed = asked(&mut world(10), 60, |_| Some(EndAnswer::Failed));
    assert!(failed.len() > 40 && failed.windows(2).all(|pair| pair[1] - pair[0] == 1), "{failed:?}");
    let refused = asked(&mut world(10), 1000, |_| Some(EndAnswer::Refused));
    let pauses: Vec<u64> = refused.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 16, 16].map(|times| times * END_AGAIN), "{pauses:?}");
    // Heard once, and it lives all the same: it begins anew.
    let then = asked(&mut world(10), 200, |n| Some(if n == 2 { EndAnswer::Taken } else { EndAnswer::Refused }));
    let pauses: Vec<u64> = then.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..4], [1, 2, 1, 1].map(|times| times * END_AGAIN), "{pauses:?}");
}

#[test]
fn while_the_cloud_owes_an_answer_no_end_is_asked_for_twice() {
    let mut world = world(10);
    assert_eq!(asked(&mut world, 10 * END_AGAIN, |_| None).len(), 1);
}

#[test]
fn one_that_stays_pending_is_ended_after_the_time_for_launches_and_one_that_runs_has_the_time_to_register() {
    let mut config = config();
    let mut buying = buying();
    buying.policy.ttl.launch = SignedDuration::from_secs(4);
    buying.policy.ttl.register = SignedDuration::from_secs(8);
    config.buying = Arc::new(buying);
    // Before nobody's need of it would end it.
    for (state, patience) in [(InstanceState::Pending, 4), (InstanceState::Running, 8)] {
        let mut world = World::new(config.clone(), at(100));
        world.apply(Fact::Synced(NodeName::new("pilotlight-a")), at(100));
        for (second, ended) in [(patience, 0), (patience + 1, 1)] {
            assert_eq!(ends(&described(&mut world, state, at(100 + second))), ended, "{state:?} after {second} s");
        }
    }
}

#[test]
fn one_that_never_registers_is_ended_after_the_policys_time_and_another_launched_for_its_pod() {
    let mut buying = buying();
    buying.policy.ttl.register = SignedDuration::from_secs(180);
    let mut sim = Sim::buying(buying);
    // Agents that were there before it come back within that time.
    sim.wait(60);
    sim.create(1000);
    sim.launch_returns(true);
    let begun = sim.now();
    while sim.living() == 1 {
        let passed = sim.now().duration_since(begun).as_secs();
        assert!(passed <= 184, "it still lives after {passed} s");
        assert!(sim.asked().is_empty(), "after {passed} s another is launched beside it");
        sim.wait(2);
        sim.describe();
    }
    let passed = sim.now().duration_since(begun).as_secs();
    assert!(passed > 180, "it is ended after {passed} s");
    sim.wait(30);
    assert_eq!(sim.asked().len(), 1);
    sim.launch_returns(true);
    sim.settle();
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
}

#[test]
fn an_instance_that_is_started_again_after_it_was_stopped_is_ended() {
    for policy in [RestartPolicy::Never, RestartPolicy::Always] {
        let mut sim = Sim::new();
        sim.create_pod(1000, policy, None);
        sim.settle();
        sim.stop_machine(0);
        sim.describe();
        sim.start_machine(0);
        sim.settle();
        sim.check_settled();
        assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
        assert_eq!(sim.living(), 0);
    }
}

#[test]
fn an_instance_that_comes_back_after_descriptions_missed_it_is_ended() {
    let mut sim = Sim::new();
    sim.create(1000);
    sim.settle();
    sim.hide(0, true);
    sim.describe();
    sim.describe();
    sim.hide(0, false);
    sim.settle();
    sim.check_settled();
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    assert_eq!(sim.living(), 0);
}

/// One instance on standby, whose agent has registered.
fn standby() -> Sim {
    let mut buying = buying();
    buying.policy.ttl.register = SignedDuration::from_secs(180);
    buying.policy.standby =
        vec![StandbyPool { instance_type: "small".into(), zone: "zone-a".into(), count: 1, windows: Vec::new() }];
    let mut sim = Sim::buying(buying);
    sim.settle();
    assert_eq!((sim.living(), sim.launched), (1, 1));
    sim
}

#[test]
fn a_free_instance_whose_agent_is_silent_is_no_supply_and_is_ended_in_the_end() {
    let mut sim = standby();
    sim.agent_dies(0);
    let begun = sim.now();
    let passed = |sim: &Sim| sim.now().duration_since(begun).as_secs();
    while sim.asked().is_empty() {
        assert!(passed(&sim) < 44, "nothing stands in for it");
        sim.wait(1);
    }
    assert_eq!(passed(&sim), 40);
    sim.settle();
    assert_eq!(sim.living(), 2, "the provider may be the one that is cut off");
    sim.create(1000);
    sim.settle();
    assert_eq!(sim.status(0).map(|status| status.phase), Some(Phase::Running));
    while sim.living() > 2 {
        assert!(passed(&sim) < 600, "it is never ended");
        sim.turn();
    }
    assert!(sim.serving("i-002") && sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
    assert!(sim.failed.is_empty(), "it was launched well");
}

#[test]
fn a_pod_that_waits_for_an_instance_that_fell_silent_gets_another() {
    let mut sim = standby();
    sim.agent_dies(0);
    sim.create(1000);
    sim.wait(39);
    assert_eq!(sim.asked().len(), 1, "its agent may come back: only the standby pool lacks one");
    sim.wait(1);
    assert_eq!(sim.asked().len(), 2);
    sim.settle();
    assert_eq!(sim.status(0).map(|status| status.phase), Some(Phase::Running));
}

#[test]
fn after_a_restart_one_that_boots_is_waited_for_and_one_that_should_have_registered_long_ago_is_not() {
    // It boots: its agent was not heard, and need not have been.
    let mut sim = standby();
    sim.create(1000);
    sim.wait(0);
    sim.launch_returns(true);
    sim.agent_dies(1);
    sim.crash();
    sim.wait(60);
    assert!(sim.asked().is_empty(), "{:?}", sim.asked());
    // Its agent died under the predecessor.
    let mut sim = standby();
    sim.wait(600);
    sim.agent_dies(0);
    sim.crash();
    sim.create(1000);
    sim.wait(39);
    sim.describe();
    assert_eq!(sim.asked().len(), 1, "not heard since the start is not silent: it is the Pod's");
    sim.wait(1);
    assert_eq!(sim.asked().len(), 2);
    sim.settle();
    assert_eq!(sim.status(0).map(|status| status.phase), Some(Phase::Running));
}
