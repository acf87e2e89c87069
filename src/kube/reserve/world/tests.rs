use super::*;
use crate::config::plain_policy;
use crate::decide::purchase::Market;
use crate::decide::reserve::{Activity, Attachment, Fit, Life};
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn buying() -> Buying {
    Buying { policy: plain_policy(250, 256 << 20, SignedDuration::from_mins(2)), market: Market::default() }
}

fn meta(name: &str, version: u64, over: Value) -> Value {
    let mut meta = json!({
        "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
        "creationTimestamp": at(0).to_string(),
        "labels": { REVISION_UID: "uid-web-1" },
    });
    for (key, value) in over.as_object().unwrap() {
        meta[key] = value.clone();
    }
    meta
}

fn revision(version: u64, annotations: Value) -> Revision {
    let labels = json!({ ROUTING_STATE: "active" });
    serde_json::from_value(json!({
        "metadata": meta("web-1", version, json!({ "annotations": annotations, "labels": labels })),
        "spec": { "containerConcurrency": 10, "timeoutSeconds": 60 },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    }))
    .unwrap()
}

fn autoscaler(active: &str, reason: &str, retention: &str) -> PodAutoscaler {
    let active =
        json!({ "type": "Active", "status": active, "reason": reason, "lastTransitionTime": at(5).to_string() });
    serde_json::from_value(json!({
        "metadata": meta("web-1", 1, json!({ "annotations": { RETENTION: retention, CLASS: KPA } })),
        "status": { "conditions": [active, { "type": "ScaleTargetInitialized", "status": "True" }] },
    }))
    .unwrap()
}

fn deployment(wanted: i32, ready: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": meta("web-1-deployment", 1, json!({})),
        "spec": {
            "replicas": wanted,
            "selector": {},
            "template": { "spec": { "containers": [{ "name": "user-container", "image": image }] } },
        },
        "status": { "readyReplicas": ready },
    }))
    .unwrap()
}

fn route(percent: i64, tag: Value) -> Route {
    let traffic = json!([{ "revisionName": "web-1", "percent": percent, "tag": tag }]);
    serde_json::from_value(json!({ "metadata": meta("web", 1, json!({})), "status": { "traffic": traffic } })).unwrap()
}

fn reserve(version: u64, build: &str, attached: bool, ready: bool) -> core::Pod {
    let mut labels = json!({ RESERVE_OF: "uid-web-1" });
    if attached {
        labels[REVISION_UID] = json!("uid-web-1");
    }
    let annotations = json!({ BUILD: build, CHANGED: at(20).to_string() });
    let owner = json!([{ "apiVersion": "v1", "kind": "Revision", "name": "web-1", "uid": "uid-web-1" }]);
    let over = json!({ "labels": labels, "annotations": annotations, "ownerReferences": owner });
    let status = if ready { "True" } else { "False" };
    let condition = json!({ "type": "Ready", "status": status, "lastTransitionTime": at(21).to_string() });
    serde_json::from_value(json!({
        "metadata": meta("web-1-reserve-a-1", version, over),
        "status": { "phase": "Running", "podIP": "10.0.0.9", "conditions": [condition] },
    }))
    .unwrap()
}

fn world() -> World {
    let mut world = World::new(true);
    world.see_revision(revision(1, json!({ ASK: "enabled" })), at(1));
    world.see_autoscaler(autoscaler("True", "", ""), at(5));
    world.see_deployment(deployment(1, 1, "a"), at(6));
    world.see_route(&route(100, Value::Null), at(7));
    world
}

fn look(world: &World) -> Snapshot {
    world.look(&"uid-web-1".to_owned(), &buying()).expect("enough is known").0
}

fn build(world: &World) -> String {
    match look(world).wish {
        Wish::Wanted(wanted) => wanted.build,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_revision_that_asks_and_is_routed_is_wanted() {
    let world = world();
    let seen = look(&world);
    assert!(matches!(seen.wish, Wish::Wanted(_)), "{seen:?}");
    assert_eq!((seen.name.as_str(), seen.longest_request), ("web-1", SignedDuration::from_secs(60)));
    let expected = Standard {
        wanted: 1,
        ready: 1,
        ready_since: Some(at(6)),
        proven: true,
        activity: Activity::Active { since: at(5) },
    };
    assert_eq!(seen.standard, expected);
}

#[test]
fn nothing_is_decided_before_the_autoscaler_and_the_deployment_are_seen() {
    let mut world = World::new(true);
    world.see_revision(revision(1, json!({ ASK: "enabled" })), at(1));
    assert!(world.look(&"uid-web-1".to_owned(), &buying()).is_none());
    world.see_autoscaler(autoscaler("True", "", ""), at(5));
    assert!(world.look(&"uid-web-1".to_owned(), &buying()).is_none());
}

#[test]
fn it_is_ready_since_it_was_first_seen_so_and_anew_after_a_gap() {
    let mut world = world();
    world.see_deployment(deployment(1, 1, "a"), at(50));
    assert_eq!(look(&world).standard.ready_since, Some(at(6)));
    world.see_deployment(deployment(1, 0, "a"), at(60));
    assert_eq!(look(&world).standard.ready_since, None);
    world.see_deployment(deployment(1, 1, "a"), at(70));
    assert_eq!(look(&world).standard.ready_since, Some(at(70)));
}

#[test]
fn only_the_autoscaler_s_word_of_no_traffic_is_idle() {
    let mut world = world();
    for (status, reason, activity) in [
        ("False", "NoTraffic", Activity::Idle { since: at(5) }),
        ("Unknown", "Queued", Activity::Starting),
        ("False", "Failed", Activity::Starting),
    ] {
        world.see_autoscaler(autoscaler(status, reason, ""), at(9));
        assert_eq!(look(&world).standard.activity, activity);
    }
}

#[test]
fn the_gate_is_held_once_the_revision_says_so_and_seen_once_the_autoscaler_does() {
    let mut world = world();
    assert_eq!(look(&world).gate, Gate::Open);
    world.see_revision(revision(2, json!({ ASK: "enabled", RETENTION: HOLD, HELD: "" })), at(9));
    assert_eq!(look(&world).gate, Gate::Held { seen: false });
    world.see_autoscaler(autoscaler("True", "", HOLD), at(9));
    assert_eq!(look(&world).gate, Gate::Held { seen: true });
    // Somebody changed it meanwhile: it no longer holds.
    world.see_revision(revision(3, json!({ ASK: "enabled", RETENTION: "5m", HELD: "" })), at(9));
    assert_eq!(look(&world).gate, Gate::Open);
    // A user's own hour is no hold of ours.
    world.see_revision(revision(4, json!({ ASK: "enabled", RETENTION: HOLD })), at(9));
    assert_eq!(look(&world).gate, Gate::Open);
}

#[test]
fn an_answer_that_is_ahead_of_the_watch_is_not_undone_by_it() {
    let mut world = world();
    world.see_revision(revision(7, json!({ ASK: "enabled", RETENTION: HOLD, HELD: "" })), at(9));
    assert!(world.see_revision(revision(6, json!({ ASK: "enabled" })), at(9)).is_empty());
    assert_eq!(look(&world).gate, Gate::Held { seen: false });
}

#[test]
fn without_a_share_of_the_traffic_it_is_unrouted_since_it_lost_it() {
    let mut world = world();
    world.see_route(&route(0, json!("next")), at(30));
    assert_eq!(look(&world).wish, Wish::Unrouted { since: at(30) });
    world.see_revision(revision(2, json!({ ASK: "enabled", ASK_TAGS: "enabled" })), at(31));
    assert!(matches!(look(&world).wish, Wish::Wanted(_)));
    assert!(world.lose_route(&ObjectName::new("shop", "web"), at(40)).contains("uid-web-1"));
    assert_eq!(look(&world).wish, Wish::Unrouted { since: at(40) });
}

#[test]
fn a_reserve_of_another_template_is_outdated() {
    let mut world = world();
    world.see_reserve(reserve(1, &build(&world), true, true), at(22));
    assert_eq!(look(&world).reserves[0].fit, Fit::Current);
    world.see_deployment(deployment(1, 1, "b"), at(30));
    assert_eq!(look(&world).reserves[0].fit, Fit::Outdated);
}

#[test]
fn a_reserve_is_attached_by_its_label_and_ready_since_it_was_seen_so() {
    let mut world = world();
    world.see_reserve(reserve(1, "x", true, false), at(21));
    let seen = look(&world).reserves.remove(0);
    assert_eq!((seen.life, seen.attachment), (Life::Unready { since: at(21) }, Attachment::Attached { since: at(20) }));
    world.see_reserve(reserve(2, "x", true, true), at(23));
    world.see_reserve(reserve(3, "x", false, true), at(24));
    world.see_idle(&"uid-web-1".to_owned(), "web-1-reserve-a-1", "uid-web-1-reserve-a-1", Idle::Yes { at: at(25) });
    world.see_reserve(reserve(4, "x", false, true), at(26));
    let seen = look(&world).reserves.remove(0);
    assert_eq!(seen.life, Life::Ready { since: at(23) });
    assert_eq!(seen.attachment, Attachment::Detached { since: at(20), idle: Idle::Yes { at: at(25) } });
}

#[test]
fn what_is_left_of_a_deleted_revision_is_still_seen_until_it_is_gone() {
    let mut world = world();
    world.see_reserve(reserve(1, "x", true, true), at(22));
    assert!(world.lose_revision(&ObjectName::new("shop", "web-1")).contains("uid-web-1"));
    let seen = look(&world);
    assert_eq!((seen.name.as_str(), seen.wish, seen.reserves.len()), ("web-1", Wish::Deleted, 1));
    world.lose_reserve(&ObjectName::new("shop", "web-1-reserve-a-1"));
    assert!(world.look(&"uid-web-1".to_owned(), &buying()).is_none());
}

#[test]
fn a_revision_made_again_under_the_same_name_is_another_one() {
    let mut world = world();
    world.see_reserve(reserve(1, "x", true, true), at(22));
    let mut again = revision(9, json!({ ASK: "enabled" }));
    again.metadata.uid = Some("uid-other".to_owned());
    let touched = world.see_revision(again, at(30));
    assert!(touched.contains("uid-web-1") && touched.contains("uid-other"), "{touched:?}");
    assert_eq!(look(&world).wish, Wish::Deleted, "the old one's reserve goes");
}

#[test]
fn what_was_learned_of_its_memory_is_written_down_once_and_sizes_the_next_reserve() {
    let mut world = world();
    let uid = "uid-web-1".to_owned();
    let before = build(&world);
    world.see_memory(&uid, 400 << 20);
    let (_, subject) = world.look(&uid, &buying()).unwrap();
    assert_eq!(subject.learned, Some(Needs { seen_bytes: Some(400 << 20), killed_at_bytes: None }));
    assert_ne!(build(&world), before);
    let bytes = (400_u64 << 20).to_string();
    world.see_revision(revision(2, json!({ ASK: "enabled", MEMORY_SEEN: bytes })), at(9));
    assert_eq!(world.look(&uid, &buying()).unwrap().1.learned, None);
}

fn plain(version: u64, wanted: i32, ready: i32, annotations: Value) -> Deployment {
    let mut deployment = deployment(wanted, ready, "a");
    let over = json!({ "labels": {}, "annotations": annotations });
    deployment.metadata = serde_json::from_value(meta("cafe", version, over)).unwrap();
    let progressing = json!({ "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" });
    deployment.status.as_mut().unwrap().conditions = Some(vec![serde_json::from_value(progressing).unwrap()]);
    deployment
}

#[test]
fn a_plain_deployment_that_asks_is_wanted_without_a_gate_and_another_is_not_even_kept() {
    let (mut world, uid) = (World::new(false), "uid-cafe".to_owned());
    assert!(world.see_deployment(plain(1, 1, 1, json!({})), at(1)).is_empty());
    assert!(world.look(&uid, &buying()).is_none());
    world.see_deployment(plain(2, 0, 0, json!({ ASK: "enabled" })), at(2));
    let (seen, subject) = world.look(&uid, &buying()).unwrap();
    assert!(matches!(seen.wish, Wish::Wanted(_)), "{seen:?}");
    assert_eq!((seen.gate, seen.standard.activity, seen.standard.proven), (Gate::Absent, Activity::Unmeasured, true));
    assert_eq!(subject.kind, Kind::Deployment);
    world.see_deployment(plain(3, 0, 0, json!({})), at(3));
    assert_eq!(world.look(&uid, &buying()).unwrap().0.wish, Wish::NotAsked);
    world.see_deployment(plain(4, 0, 0, json!({ ASK: "maybe" })), at(4));
    assert!(matches!(world.look(&uid, &buying()).unwrap().0.wish, Wish::Refused(Refusal::Invalid(_))));
    assert!(world.lose_deployment(&ObjectName::new("shop", "cafe")).contains("uid-cafe"));
}

#[test]
fn reserves_of_revisions_are_left_alone_where_revisions_are_not_seen() {
    let mut world = World::new(false);
    world.see_reserve(reserve(1, "x", true, true), at(22));
    assert!(world.look(&"uid-web-1".to_owned(), &buying()).is_none());
}

#[test]
fn a_namespace_s_word_and_serving_s_settings_concern_their_revisions() {
    let mut world = world();
    world.see_revision(revision(2, json!({})), at(9));
    assert_eq!(look(&world).wish, Wish::NotAsked);
    assert!(world.see_namespace("shop", Some(&"enabled".to_owned())).contains("uid-web-1"));
    assert!(matches!(look(&world).wish, Wish::Wanted(_)));
    assert!(world.see_namespace("shop", Some(&"enabled".to_owned())).is_empty());
    let settings = [("target-burst-capacity".to_owned(), "0".to_owned())].into();
    assert!(world.see_globals(Globals::of(&settings)).contains("uid-web-1"));
    assert_eq!(look(&world).wish, Wish::Refused(Refusal::NoBurstCapacity));
}
