//! A Pod's birth and death.

use crate::support::*;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;
use std::{path::Path, time::Instant};

#[tokio::test]
async fn the_virtual_node_looks_like_a_node() {
    let client = Cluster::get().client().await;
    let node = Api::<Node>::all(client).get("pilotlight-local-a").await.expect("the node is registered");
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (label, value) in [
        ("type", "virtual-kubelet"),
        ("topology.kubernetes.io/zone", "local-a"),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", "pilotlight-local-a"),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
    ] {
        assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label}");
    }
    let taints = node.spec.unwrap().taints.unwrap_or_default();
    assert!(taints.iter().any(|t| t.key == "virtual-kubelet.io/provider" && t.effect == "NoSchedule"), "{taints:?}");
    let status = node.status.unwrap();
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").expect("a Ready condition");
    assert_eq!(ready.status, "True", "{ready:?}");
    assert_eq!(status.capacity.unwrap()["pods"].0, "110");
    assert!(status.node_info.unwrap().kubelet_version.starts_with('v'));
}

#[tokio::test]
async fn each_pod_runs_on_an_instance_of_its_own_and_says_which() {
    let space = Space::new("instance").await;
    space.apply(&pod("one", spec(&[idle()]))).await;
    space.apply(&pod("two", spec(&[idle()]))).await;
    let (one, two) = (space.until_running("one").await, space.until_running("two").await);
    for pod in [&one, &two] {
        assert_eq!(annotation(pod, "instance-type"), "t3.nano", "the cheapest that fits");
        assert_eq!(annotation(pod, "purchase"), "on-demand");
        assert_eq!(annotation(pod, "zone"), "local-a");
        assert_eq!(annotation(pod, "hourly-price"), "0.0052");
        assert_eq!(annotation(pod, "class"), "default");
        assert!(condition(pod, "pilotlight.dev/InstanceReady"));
    }
    assert_ne!(annotation(&one, "instance-id"), annotation(&two, "instance-id"));
    let ip = |pod: &Pod| pod.status.as_ref().and_then(|s| s.pod_ip.clone()).expect("a running Pod has an address");
    assert_ne!(ip(&one), ip(&two));
    let addresses = space.exec("one", "ip -4 addr show eth0").await;
    assert!(addresses.contains(&ip(&one)), "{addresses}");
    let boot = |name: &'static str| async { space.exec(name, "head -n1 /proc/self/cgroup; hostname").await };
    assert_ne!(boot("one").await, boot("two").await);
}

#[tokio::test]
async fn describe_tells_a_person_what_happened() {
    let space = Space::new("describe").await;
    space.apply(&pod("web", spec(&[idle()]))).await;
    let running = space.until_running("web").await;
    for reason in ["InstanceBound", "Created", "Started"] {
        space.until_event("web", reason, |message| !message.is_empty()).await;
    }
    let text = space.kubectl(&["describe", "pod", "web"]).await;
    let instance = annotation(&running, "instance-id");
    for part in ["Successfully assigned", "Backed by instance", &instance, "t3.nano", "$0.0052/h", "Started", "Running"]
    {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[tokio::test]
async fn a_deleted_pod_may_finish_within_its_grace_and_its_instance_ends() {
    let space = Space::new("grace").await;
    let script = "trap 'echo finishing; sleep 2; echo finished; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let spec = with(spec(&[shell(script)]), json!({ "terminationGracePeriodSeconds": 20 }));
    space.apply(&pod("polite", spec)).await;
    let running = space.until_running("polite").await;
    space.until_log("polite", &[], |line| line == "up").await;
    let mut log = space.session(&["logs", "--follow", "polite"]);
    let began = Instant::now();
    delete(&space.api::<Pod>(), "polite", None).await;
    log.line(|line| line == "finishing").await;
    log.line(|line| line == "finished").await;
    space.until_gone("polite").await;
    assert!(began.elapsed().as_secs() < 15, "it did not wait for the whole grace period: {:?}", began.elapsed());
    until_instance_ended(&space, &annotation(&running, "instance-id")).await;
}

#[tokio::test]
async fn a_pod_that_ignores_the_signal_is_killed_when_its_grace_ends() {
    let space = Space::new("stubborn").await;
    let spec = with(
        spec(&[shell("trap '' TERM; while :; do sleep 0.1; done")]),
        json!({ "terminationGracePeriodSeconds": 3 }),
    );
    space.apply(&pod("stubborn", spec)).await;
    space.until_running("stubborn").await;
    let began = Instant::now();
    delete(&space.api::<Pod>(), "stubborn", None).await;
    space.until_gone("stubborn").await;
    let took = began.elapsed().as_secs_f64();
    assert!((2.5..20.0).contains(&took), "{took}");
}

#[tokio::test]
async fn a_pod_deleted_by_force_is_gone_at_once_and_its_instance_soon() {
    let space = Space::new("force").await;
    let spec = with(spec(&[idle()]), json!({ "terminationGracePeriodSeconds": 600 }));
    space.apply(&pod("doomed", spec)).await;
    let running = space.until_running("doomed").await;
    space.kubectl(&["delete", "pod", "doomed", "--grace-period=0", "--force"]).await;
    space.until_gone("doomed").await;
    until_instance_ended(&space, &annotation(&running, "instance-id")).await;
}

#[tokio::test]
async fn a_pod_deleted_before_it_ran_goes_and_leaves_no_instance() {
    let space = Space::new("early").await;
    space.apply(&pod("brief", spec(&[idle()]))).await;
    space
        .until_pod("brief", "is bound to the node", |pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()))
        .await;
    delete(&space.api::<Pod>(), "brief", None).await;
    space.until_gone("brief").await;
}

#[tokio::test]
async fn a_pod_over_its_deadline_fails_and_says_so() {
    let space = Space::new("deadline").await;
    space.apply(&pod("late", with(spec(&[idle()]), json!({ "activeDeadlineSeconds": 4 })))).await;
    let failed = space.until_phase("late", "Failed").await;
    assert_eq!(failed.status.and_then(|s| s.reason).as_deref(), Some("DeadlineExceeded"));
}

/// Nothing of the instance runs any more, and its disk is gone.
async fn until_instance_ended(space: &Space, instance: &str) {
    let dir = space.cluster.instance_dir(instance);
    let gone = async {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
        while Path::new(&dir.join("disk")).exists() {
            tick.tick().await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, gone).await;
    assert!(ended.is_ok(), "{} still has a disk", dir.display());
}
