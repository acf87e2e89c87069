//! What EC2 announces of an instance: by its metadata service, read by the agent there; by EventBridge, read of a queue by
//! the provider.

use super::standin::{announce, ended_by, instances, interrupt, metrics, put_event, until, until_nothing_is_left};
use super::support::*;
use super::{alone, of_class};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use serde_json::{Value, json};

/// Ready as soon as it runs; it may run twice.
async fn deployed(space: &Space, class: &str) -> String {
    let annotations = of_class("x", class)["metadata"]["annotations"].clone();
    let template = with(template("web", spec(&[idle()])), json!({ "metadata": { "annotations": annotations } }));
    space
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 1, "selector": selector("web"), "template": template },
        }))
        .await;
    let available = |d: Option<&Deployment>| d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(1);
    space.until::<Deployment>("web", "is available", available).await;
    space.pods_of("web").await.remove(0).metadata.name.expect("named")
}

fn reason(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == kind)?.reason.clone()
}

/// Each as the metadata service has it, and what the Pod's events call it. All leave more time than a move takes: that
/// the old instance ends is the provider's doing.
fn announcements() -> [(Value, &'static str); 3] {
    let (now, soon) = (Timestamp::now(), Timestamp::now() + SignedDuration::from_mins(10));
    let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let not_before = soon.strftime("%d %b %Y %H:%M:%S GMT").to_string();
    let event = json!({
        "NotBefore": not_before, "Code": "instance-retirement", "Description": "The instance is on degraded hardware",
        "EventId": "instance-event-0d59937288b749b32", "State": "active",
    });
    [
        (json!({ "rebalance": { "noticeTime": time(now) } }), "SpotRebalanceRecommendation"),
        (json!({ "spotAction": { "action": "terminate", "time": time(soon) } }), "SpotInterrupted"),
        (json!({ "maintenance": [event] }), "ScheduledEvent"),
    ]
}

/// The same, as EventBridge's events have it.
fn events(id: &str) -> [(Value, &'static str); 3] {
    // A warning is two minutes long: one from the future leaves as much time as the others.
    let (now, soon) = (Timestamp::now(), Timestamp::now() + SignedDuration::from_mins(10));
    let of = |detail_type: &str, at: Timestamp, detail: Value| {
        let time = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({ "version": "0", "detail-type": detail_type, "source": "aws.ec2", "time": time, "detail": detail })
    };
    let start = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let health = json!({
        "service": "EC2", "eventTypeCategory": "scheduledChange", "startTime": start,
        "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED", "affectedEntities": [{ "entityValue": id }],
    });
    let interrupted = json!({ "instance-id": id, "instance-action": "terminate" });
    [
        (of("EC2 Instance Rebalance Recommendation", now, json!({ "instance-id": id })), "SpotRebalanceRecommendation"),
        (of("EC2 Spot Instance Interruption Warning", soon, interrupted), "SpotInterrupted"),
        (of("AWS Health Event", now, health), "ScheduledEvent"),
    ]
}

/// The Pod goes to another instance first, as the event says; then the old one is ended.
async fn moves(space: &Space, pod: Pod, event: &str) -> Pod {
    let name = pod.metadata.name.clone().expect("named");
    let (old, uid) = (annotation(&pod, "instance-id"), pod.metadata.uid.clone());
    space.until_event(&name, event, |_| true).await;
    let moved = |pod: &Pod| {
        annotation(pod, "instance-id") != old
            && reason(pod, "pilotlight.dev/Handover").as_deref() == Some("Completed")
            && !condition(pod, "pilotlight.dev/Handover")
    };
    let pod = space.until_pod(&name, "is on another instance", moved).await;
    assert_eq!(pod.metadata.uid, uid, "it is the same Pod");
    assert!(phase(&pod) == "Running" && condition(&pod, "Ready"));
    for step in ["HandoverSwitched", "HandoverCompleted"] {
        space.until_event(&name, step, |message| message.contains(&old)).await;
    }
    until("the old instance is terminated", || {
        let (state, _, machine) = &instances()[&old];
        state == "terminated" && machine == "Gone"
    })
    .await;
    pod
}

async fn ended(space: &Space, name: &str) {
    space.kubectl(&["scale", "deployment", "web", "--replicas=0"]).await;
    space.until_gone(name).await;
    until_nothing_is_left().await;
}

#[tokio::test]
async fn what_ec2_announces_to_an_instance_moves_its_pod_to_another_first_and_ends_it_then() {
    let _turn = alone().await;
    let space = Space::new("ec2-notices").await;
    let name = deployed(&space, "spot").await;
    let mut pod = space.until_running(&name).await;
    for (told, event) in announcements() {
        let old = annotation(&pod, "instance-id");
        assert_eq!(instances()[&old].0, "running");
        announce(&old, &told.to_string());
        pod = moves(&space, pod, event).await;
    }
    ended(&space, &name).await;
}

/// Not on two instances at once, and of nobody who would make it anew.
fn alone_in_the_world(name: &str, script: &str, grace: u32) -> Value {
    let annotations = json!({ "pilotlight.dev/use-class": "spot", "pilotlight.dev/movable": "false" });
    let spec = with(spec(&[shell(script)]), json!({ "terminationGracePeriodSeconds": grace }));
    with(pod(name, spec), json!({ "metadata": { "annotations": annotations } }))
}

#[tokio::test]
async fn when_ec2_takes_a_spot_instance_back_its_pod_has_been_moved_or_stopped_in_time_and_is_lost_at_the_latest_then()
{
    const TAKEN: &str = "Server.SpotInstanceTermination";
    let _turn = alone().await;
    let space = Space::new("ec2-taken").await;
    let web = deployed(&space, "spot").await;
    // One that says goodbye within its grace period, and one that hears nothing and has an hour for it.
    let polite = "trap 'echo goodbye; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    space.apply(&alone_in_the_world("polite", polite, 5)).await;
    space.apply(&alone_in_the_world("deaf", deaf, 3600)).await;
    let mut backing = Vec::new();
    for name in [web.as_str(), "polite", "deaf"] {
        backing.push(annotation(&space.until_running(name).await, "instance-id"));
    }
    for name in ["polite", "deaf"] {
        space.until_log(name, &[], |text| text == "up").await;
    }
    let mut goodbye = space.session(&["logs", "--follow", "polite"]);
    let before = space.until_running(&web).await;
    for instance in &backing {
        interrupt(instance, 60);
    }
    let [of_web, _, of_deaf] = backing.try_into().expect("three");

    // An hour is longer than there is: it is asked to stop at once, and has until the end.
    let lost = space.until_phase("deaf", "Failed").await.status.expect("it has one");
    assert_eq!(lost.reason.as_deref(), Some("InstanceInterrupted"));
    assert_eq!(ended_by(&of_deaf), None, "it has until the end");

    let moved = |pod: &Pod| annotation(pod, "instance-id") != of_web && condition(pod, "Ready");
    let after = space.until_pod(&web, "is on another instance", moved).await;
    assert_eq!(after.metadata.uid, before.metadata.uid, "it is the same Pod");

    // Asked in time, and heard to the end.
    goodbye.line(|line| line == "goodbye").await;
    let in_order = |pod: &Pod| {
        let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
        let end = super::support::ended(pod, "main");
        phase(pod) == "Failed" && reason == Some("InstanceInterrupted") && end == Some((0, "Completed".to_owned()))
    };
    space.until_pod("polite", "has stopped in order", in_order).await;
    until("EC2 has taken it", || ended_by(&of_deaf).as_deref() == Some(TAKEN)).await;
    let over = |pod: &Pod| super::support::ended(pod, "main").is_some();
    assert_ne!(
        super::support::ended(&space.until_pod("deaf", "is over", over).await, "main").map(|(code, _)| code),
        Some(0)
    );
    for name in ["polite", "deaf"] {
        delete(&space.api::<Pod>(), name, None).await;
        space.until_gone(name).await;
    }

    // Without a word before it: another Pod is made in the place of this one.
    let taken = annotation(&after, "instance-id");
    interrupt(&taken, 0);
    let over = |pod: Option<&Pod>| pod.is_none_or(|pod| phase(pod) == "Failed");
    space.until::<Pod>(&web, "is lost", over).await;
    assert_eq!(ended_by(&taken).as_deref(), Some(TAKEN));
    let available = |d: Option<&Deployment>| d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(1);
    space.until::<Deployment>("web", "is available again", available).await;
    let pods = space.pods_of("web").await;
    let another = pods.iter().find(|pod| phase(pod) == "Running").and_then(|pod| pod.metadata.name.clone());
    let another = another.expect("one runs");
    assert_ne!(another, web);
    ended(&space, &another).await;
}

#[tokio::test]
async fn what_eventbridge_puts_into_the_queue_does_the_same_and_what_is_not_understood_is_passed_over() {
    let _turn = alone().await;
    let space = Space::new("ec2-events").await;
    let name = deployed(&space, "spot").await;
    let mut pod = space.until_running(&name).await;
    let counted = |kind: &str| {
        let line = format!("pilotlight_cloud_events_total{{kind=\"{kind}\"}} ");
        let value = metrics().lines().find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok());
        value.unwrap_or(0)
    };
    let before = ["not-understood", "ignored"].map(counted);
    put_event("no JSON");
    put_event(&events("i-0123456789abcdef0")[1].0.to_string());
    put_event(r#"{"detail-type": "EC2 Instance State-change Notification", "time": "2027-01-01T00:00:00Z"}"#);
    for number in 0..3 {
        let (event, told) = events(&annotation(&pod, "instance-id"))[number].clone();
        put_event(&event.to_string());
        pod = moves(&space, pod, told).await;
    }
    assert_eq!(["not-understood", "ignored"].map(counted), before.map(|count| count + 1));
    ended(&space, &name).await;
}
