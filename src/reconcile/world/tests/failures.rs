//! Instances that never register: launched again soon, and then more and more seldom, with a word on why.

use super::super::{Effect, Fact, World};
use super::sim::{Sim, buying, config};
use crate::decide::fixtures::{at, instance};
use crate::decide::purchase::policy::StandbyPool;
use crate::model::{HourlyPrice, InstanceState, NodeName};
use jiff::SignedDuration;

const KEY: &str = "Client.InternalError: Client error on launch";

/// All machines that live fail; so many seconds later another is asked for.
fn fails(sim: &mut Sim, reason: &str) -> i64 {
    let begun = sim.now();
    (0..sim.launched).for_each(|n| sim.machine_fails(n, reason));
    sim.describe();
    while sim.asked().is_empty() {
        assert!(sim.now().duration_since(begun).as_secs() < 1000, "nothing is launched any more");
        sim.wait(1);
    }
    sim.now().duration_since(begun).as_secs()
}

#[test]
fn an_instance_that_ends_before_it_registered_is_replaced_at_once_and_then_more_and_more_seldom() {
    let mut sim = Sim::new();
    sim.create(1000);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        sim.launch_returns(true);
        pauses.push(fails(&mut sim, KEY));
    }
    assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(sim.failed, ["Client.InternalError"; 8]);
    let told = sim.told.iter().filter(|reason| *reason == "LaunchFailed").count();
    assert_eq!((told, sim.reason(0).as_deref()), (1, Some("LaunchFailed")));
    let message = sim.status(0).and_then(|status| status.message.clone()).unwrap();
    assert!(message.contains(KEY), "{message}");
    // One that registers proves that it can be done.
    sim.settle();
    sim.check_settled();
    sim.create(1000);
    sim.launch_returns(true);
    sim.machine_fails(9, KEY);
    sim.describe();
    assert_eq!(sim.asked().len(), 1);
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
}

#[test]
fn a_burst_that_fails_together_has_failed_once_also_where_it_shows_one_by_one() {
    let mut sim = Sim::gathering(1, 1);
    (0..4).for_each(|_| sim.create(1000));
    sim.wait(1);
    sim.launch_returns(true);
    for n in 0..4 {
        sim.machine_fails(n, KEY);
        sim.describe();
        sim.wait(1);
    }
    assert_eq!((sim.failed.len(), sim.asked().len()), (4, 4));
}

/// All that is asked for is launched.
fn launch_all(sim: &mut Sim) {
    while !sim.asked().is_empty() {
        sim.launch_returns(true);
    }
}

#[test]
fn where_types_fail_again_the_class_gets_others_and_they_come_last_for_a_while() {
    let mut buying = buying();
    buying.policy.ttl.register = SignedDuration::from_mins(2);
    let mut large = buying.market.catalog.types[1].clone();
    (large.name, large.on_demand) = ("large".to_owned(), HourlyPrice(20_000));
    buying.market.catalog.types.push(large);
    let mut sim = Sim::buying(buying);
    sim.create(1000);
    // The class has failed twice by then: of the second type once is enough.
    for expected in ["small", "small", "medium"] {
        assert_eq!(sim.asked(), [expected]);
        sim.launch_returns(true);
        fails(&mut sim, KEY);
    }
    assert_eq!(sim.asked(), ["large"]);
    sim.settle();
    sim.check_settled();
    sim.create(1000);
    assert_eq!(sim.asked(), ["large"], "and without a pause: one of the class has registered");
    sim.settle();
    sim.wait(2 * 3600);
    sim.create(1000);
    assert_eq!(sim.asked(), ["small"]);
}

#[test]
fn where_all_that_a_pod_may_have_fails_it_is_tried_all_the_same() {
    let mut buying = buying();
    buying.policy.ttl.register = SignedDuration::from_mins(2);
    let mut sim = Sim::buying(buying);
    sim.create(1000);
    let mut asked = Vec::new();
    for _ in 0..6 {
        asked.extend(sim.asked());
        sim.launch_returns(true);
        fails(&mut sim, KEY);
    }
    assert_eq!(asked, ["small", "small", "medium", "small", "small", "small"]);
}

#[test]
fn what_fails_again_and_again_is_launched_one_at_a_time_until_one_registers() {
    let mut sim = Sim::new();
    (0..4).for_each(|_| sim.create(1000));
    let mut launched = Vec::new();
    for _ in 0..4 {
        let before = sim.launched;
        launch_all(&mut sim);
        launched.push(sim.launched - before);
        fails(&mut sim, KEY);
    }
    assert_eq!(launched, [4, 4, 1, 1]);
    assert_eq!(sim.asked().len(), 1);
    sim.settle();
    sim.check_settled();
    assert_eq!((sim.living(), sim.launched), (4, 14), "and then all the others");
    assert!(sim.wrongs.is_empty(), "{:#?}", sim.wrongs);
}

#[test]
fn what_failed_long_ago_counts_no_more() {
    let mut buying = buying();
    buying.policy.ttl.register = SignedDuration::from_mins(2);
    let mut sim = Sim::buying(buying);
    sim.create(1000);
    for _ in 0..4 {
        sim.launch_returns(true);
        fails(&mut sim, KEY);
    }
    sim.delete(0, true);
    while !sim.asked().is_empty() {
        sim.launch_returns(false);
    }
    sim.wait(20 * 60);
    sim.create(1000);
    sim.launch_returns(true);
    let told = sim.told.len();
    assert_eq!(fails(&mut sim, KEY), 0, "as the first of a row");
    assert!(!sim.told[told..].contains(&"LaunchFailed".to_owned()), "{:?}", &sim.told[told..]);
}

#[test]
fn before_all_pods_are_known_nothing_is_ended_for_its_silence() {
    let late = at(100).saturating_add(SignedDuration::from_hours(11)).unwrap();
    let mut world = World::new(config(), at(100));
    let described = |world: &mut World| {
        let round = world.begin_round();
        let mut record = instance("i-1", at(1));
        record.state = InstanceState::Running;
        world.apply(Fact::Instances { round, records: vec![record] }, late);
        world.decide(late).iter().filter(|effect| matches!(effect, Effect::Terminate(_))).count()
    };
    assert_eq!(described(&mut world), 0, "a Pod of a node whose list is not there may have it");
    world.apply(Fact::Synced(NodeName::new("pilotlight-a")), late);
    assert_eq!(described(&mut world), 1);
}

#[test]
fn reasons_without_a_code_of_the_clouds_have_one_of_ours() {
    let mut sim = Sim::new();
    sim.create(1000);
    for reason in ["the machine's supervisor was killed", "Client.Odd code: x", "Server.SpotInstanceTermination"] {
        sim.launch_returns(true);
        fails(&mut sim, reason);
    }
    assert_eq!(sim.failed, ["InstanceEnded", "InstanceEnded", "Server.SpotInstanceTermination"]);
}

#[test]
fn one_that_never_registers_counts_as_a_failed_launch_and_is_not_launched_again_and_again() {
    for (state, code) in [(InstanceState::Running, "RegistrationTimeout"), (InstanceState::Pending, "LaunchTimeout")] {
        let mut buying = buying();
        buying.policy.ttl.register = SignedDuration::from_secs(60);
        let mut sim = Sim::buying(buying);
        sim.wait(60);
        sim.create(1000);
        for n in 0..2 {
            assert_eq!(sim.asked().len(), 1);
            sim.launch_returns(true);
            sim.set_state(n, state);
            sim.wait(61);
            sim.describe();
        }
        assert_eq!((sim.failed.as_slice(), sim.asked().len()), ([code, code].map(String::from).as_slice(), 0));
        sim.wait(10);
        assert_eq!((sim.asked().len(), sim.reason(0).as_deref()), (1, Some("LaunchFailed")));
    }
}

#[test]
fn a_standby_pool_whose_instances_fail_is_refilled_more_and_more_seldom() {
    let mut buying = buying();
    buying.policy.standby =
        vec![StandbyPool { instance_type: "small".into(), zone: "zone-a".into(), count: 2, windows: Vec::new() }];
    let mut sim = Sim::buying(buying);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        sim.launch_returns(true);
        pauses.push(fails(&mut sim, KEY));
    }
    assert_eq!(pauses, [0, 10, 20, 40]);
}

#[test]
fn what_we_ended_and_what_was_ending_at_our_start_is_no_failure() {
    let mut sim = Sim::new();
    sim.create(1000);
    sim.launch_returns(true);
    sim.delete(0, true);
    sim.wait(20);
    sim.settle();
    sim.check_settled();
    assert_eq!((sim.living(), sim.failed.len()), (0, 0));
    let mut world = World::new(config(), at(100));
    world.apply(Fact::Synced(NodeName::new("pilotlight-a")), at(100));
    for (n, state) in [InstanceState::ShuttingDown, InstanceState::ShuttingDown].into_iter().enumerate() {
        let mut record = instance("i-1", at(1));
        record.state = state;
        let round = world.begin_round();
        world.apply(Fact::Instances { round, records: vec![record] }, at(100));
        assert!(world.decide(at(100)).is_empty(), "at the description numbered {n}");
    }
}
