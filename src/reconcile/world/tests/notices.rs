//! What is announced of instances: heard too early, of those that have no Pod, and by two who speak of the same.

use super::handover::{condition, interrupted, own, running, well};
use super::sim::{self, Sim};
use crate::decide::purchase::policy::{OnRebalance, StandbyPool};
use crate::decide::status::{INSTANCE_DOOMED, Phase};
use crate::model::{Notice, RestartPolicy};
use jiff::{SignedDuration, Timestamp};

fn after(sim: &Sim, seconds: i64) -> Timestamp {
    sim.now().saturating_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn doomed(sim: &Sim) -> Option<String> {
    condition(sim, 0, INSTANCE_DOOMED).filter(|c| c.status)?.reason
}

#[test]
fn an_interruption_that_the_agent_says_before_the_cloud_was_described_moves_the_pod() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    let before = own(&sim, 0);
    interrupted(&mut sim, 0, 120);
    sim.crash_undescribed();
    sim.connect(0);
    sim.connect(1);
    sim.describe();
    assert_eq!(doomed(&sim).as_deref(), Some("SpotInterrupted"));
    sim.settle();
    sim.wait(120);
    well(&mut sim);
    assert_ne!(own(&sim, 0), before);
    assert_eq!((sim.handed_over.as_slice(), sim.status(0).unwrap().phase), (["ready"].as_slice(), Phase::Running));
}

#[test]
fn what_is_announced_to_us_before_the_cloud_was_described_counts_when_it_is() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    sim.crash_undescribed();
    sim.connect(0);
    sim.announce_to_us(0, Notice::Interruption { at: after(&sim, 120) });
    sim.wait(2);
    sim.describe();
    assert_eq!(doomed(&sim).as_deref(), Some("SpotInterrupted"));
    sim.settle();
    well(&mut sim);
    assert_eq!(sim.handed_over, ["ready"]);
}

#[test]
fn what_the_agent_withdraws_early_does_not_count() {
    let mut sim = running(RestartPolicy::Always, Some("ReplicaSet"));
    sim.crash_undescribed();
    sim.connect(0);
    sim.announce(0, Notice::Interruption { at: after(&sim, 120) });
    sim.withdraw(0);
    sim.describe();
    sim.settle();
    well(&mut sim);
    assert_eq!((doomed(&sim), sim.launched), (None, 1));
}

#[test]
fn an_instance_without_a_pod_that_the_policy_would_replace_at_a_recommendation_is_no_supply() {
    for (rebalance, supplies) in [(OnRebalance::Ignore, true), (OnRebalance::Replace, false)] {
        let mut buying = sim::buying();
        buying.policy.interruption.rebalance = rebalance;
        buying.policy.standby =
            vec![StandbyPool { instance_type: "medium".into(), zone: "zone-a".into(), count: 1, windows: Vec::new() }];
        let mut sim = Sim::buying(buying);
        sim.settle();
        assert_eq!(sim.living(), 1);
        sim.announce(0, Notice::Rebalance { since: sim.now() });
        sim.wait(0);
        assert_eq!(sim.living() == 1, supplies, "{rebalance:?}");
    }
}

#[test]
fn what_the_agent_told_and_withdrew_is_not_believed_of_the_queue_any_more() {
    let mut sim = running(RestartPolicy::Never, None);
    let event = Notice::Maintenance { code: "system-reboot".to_owned(), not_before: after(&sim, 60) };
    sim.announce_to_us(0, event.clone());
    assert_eq!(doomed(&sim).as_deref(), Some("ScheduledEvent"));
    sim.announce(0, event.clone());
    sim.withdraw(0);
    assert_eq!(doomed(&sim), None);
    // It is a queue that delivers at least once.
    sim.announce_to_us(0, event.clone());
    assert_eq!(doomed(&sim), None);
    sim.withdraw_silently(0);
    // Of one that can't be heard there is nobody who knows better.
    sim.disconnect(0);
    sim.announce_to_us(0, event);
    assert_eq!(doomed(&sim).as_deref(), Some("ScheduledEvent"));
}

#[test]
fn a_maintenance_that_is_put_off_counts_at_its_new_time() {
    let mut sim = running(RestartPolicy::Never, None);
    for seconds in [3600, 7200] {
        let event = Notice::Maintenance { code: "system-reboot".to_owned(), not_before: after(&sim, seconds) };
        sim.withdraw_silently(0);
        sim.announce_to_us(0, event);
    }
    let message = condition(&sim, 0, INSTANCE_DOOMED).unwrap().message.unwrap();
    assert!(message.contains(&after(&sim, 7200).to_string()), "{message}");
}
