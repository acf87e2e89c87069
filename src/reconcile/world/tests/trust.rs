//! Whom the world believes: what anybody could have written must bind nothing.

use super::super::{Effect, Fact, World};
use super::sim::config;
use crate::decide::{
    desired::Refs,
    fixtures::{at, blank_status, container_spec, instance, intent},
    status::{Condition, INSTANCE_READY, Phase, PodStatus},
};
use crate::model::{ContainerKind, Deletion, Generation, InstanceId, NodeName, PodIntent, PodSpec, PodUid};
use crate::ports::PodSeen;
use std::{collections::BTreeMap, sync::Arc};

fn pod(name: &str) -> PodIntent {
    let containers = vec![container_spec("main", ContainerKind::App)];
    PodIntent {
        node: NodeName::new("pilotlight-a"),
        created_at: at(1),
        ..intent(name, PodSpec { containers, ..PodSpec::empty() })
    }
}

fn seen(intent: PodIntent, status: PodStatus) -> Fact {
    Fact::Seen(Box::new(PodSeen {
        intent: Arc::new(intent),
        status: Some(Arc::new(status)),
        gates: BTreeMap::new(),
        unhonoured: Vec::new(),
    }))
}

/// As a node wrote it of a Pod that runs on `i-1`.
fn bound() -> PodStatus {
    let condition = Condition {
        kind: INSTANCE_READY.to_owned(),
        status: true,
        reason: Some("InstanceBound".to_owned()),
        message: Some("i-1".to_owned()),
        since: at(2),
    };
    PodStatus { conditions: vec![condition], ..blank_status(Phase::Running) }
}

/// A provider that has just come back: these Pods, and instance `i-1`.
fn restarted(pods: impl IntoIterator<Item = Fact>) -> World {
    let mut world = World::new(config(), at(100));
    pods.into_iter().for_each(|pod| world.apply(pod, at(100)));
    world.apply(Fact::Synced(NodeName::new("pilotlight-a")), at(100));
    let round = world.begin_round();
    world.apply(Fact::Instances { round, records: vec![instance("i-1", at(1))] }, at(100));
    world.decide(at(100));
    world
}

fn uid(intent: &PodIntent) -> PodUid {
    intent.uid.clone()
}

#[test]
fn an_annotation_that_names_anothers_instance_binds_nothing_and_ends_nothing() {
    let (victim, thief) = (pod("victim"), pod("thief"));
    let mut claims = blank_status(Phase::Pending);
    claims.annotations.insert("pilotlight.dev/instance-id".to_owned(), "i-1".to_owned());
    let thief_uid = uid(&thief);
    let mut world = restarted([seen(thief, claims), seen(victim, bound())]);
    world.apply(Fact::Gone(thief_uid), at(101));
    let effects = world.decide(at(200));
    let ended = effects.iter().any(|e| matches!(e, Effect::Terminate(ids) if ids.contains(&InstanceId::new("i-1"))));
    assert!(!ended, "{effects:?}");
}

#[test]
fn an_instance_that_has_a_pod_gets_no_other_by_claiming_to_hold_it() {
    let (own, other) = (pod("own"), pod("other"));
    let other_uid = uid(&other);
    let mut world = restarted([seen(other, blank_status(Phase::Pending)), seen(own, bound())]);
    world.apply(Fact::Refs(other_uid.clone(), Arc::new(Refs::default())), at(101));
    let holds = Some((other_uid.clone(), Generation(7)));
    world.apply(Fact::Connected { instance: InstanceId::new("i-1"), holds }, at(101));
    let effects = world.decide(at(102));
    let sent = effects.iter().any(|e| matches!(e, Effect::Desired(_, desired) if desired.uid == other_uid));
    assert!(!sent, "{effects:?}");
}

#[test]
fn a_deleted_pod_that_never_ran_is_failed_before_its_object_goes() {
    let mut waiting = pod("waiting");
    waiting.deletion = Some(Deletion { deadline: at(100), grace_seconds: 30 });
    let mut world = World::new(config(), at(100));
    world.apply(seen(waiting, blank_status(Phase::Pending)), at(100));
    world.apply(Fact::Synced(NodeName::new("pilotlight-a")), at(100));
    let round = world.begin_round();
    world.apply(Fact::Instances { round, records: Vec::new() }, at(100));
    let effects = world.decide(at(100));
    let failed =
        effects.iter().position(|e| matches!(e, Effect::Status { status, .. } if status.phase == Phase::Failed));
    let deleted = effects.iter().position(|e| matches!(e, Effect::Delete { .. }));
    assert!(failed.is_some() && failed < deleted, "{effects:?}");
}
