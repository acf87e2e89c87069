//! Pods on Pilotlight and on a real kubelet's node, side by side in one cluster.

use crate::{
    network::{FETCH, server},
    support::*,
};
use serde_json::{Value, json};

/// A Pod's spec on the real kubelet's node.
fn on_kubelet(container: Value) -> Value {
    json!({ "nodeName": "kubelet", "terminationGracePeriodSeconds": 1, "containers": [container] })
}

#[tokio::test]
async fn pods_of_both_kinds_of_nodes_reach_each_other_by_service() {
    let space = Space::new("neighbours").await;
    let named = |container: Value| with(container, json!({ "name": "main" }));
    space.apply(&service("ours", 8080)).await;
    space.apply(&service("theirs", 8080)).await;
    space.apply(&pod("ours", spec(&[named(server())]))).await;
    space.apply(&pod("theirs", on_kubelet(named(server())))).await;
    let ours = space.until_running("ours").await;
    space.until_running("theirs").await;
    let fetch = |name: &str| format!("{FETCH}://{name}/hostname");
    space.until_exec("ours", &fetch("theirs"), |text| text == "theirs").await;
    space.until_exec("theirs", &fetch("ours"), |text| text == "ours").await;
    // The address that a peer sees is the Pod's own: nothing hides it.
    let seen = space.until_exec("ours", &format!("{FETCH}://theirs/clientip"), |text| !text.is_empty()).await;
    let ip = ours.status.and_then(|s| s.pod_ip).expect("an address");
    assert!(seen.starts_with(&ip), "{seen} is not {ip}");
}

/// The oracle: what a Pod's status and its first minutes look like under the real kubelet.
#[tokio::test]
async fn a_completed_pod_has_the_status_that_a_kubelet_would_give_it() {
    let space = Space::new("oracle").await;
    let container = shell("echo hi; exit 3");
    let never = json!({ "restartPolicy": "Never" });
    space.apply(&pod("ours", with(spec(std::slice::from_ref(&container)), never.clone()))).await;
    space.apply(&pod("theirs", with(on_kubelet(container), never))).await;
    let shape = |pod: &k8s_openapi::api::core::v1::Pod| {
        let status = pod.status.clone().expect("a status");
        let mut conditions: Vec<(String, String, Option<String>)> = status
            .conditions
            .iter()
            .flatten()
            .filter(|c| c.type_ != "pilotlight.dev/InstanceReady")
            .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone()))
            .collect();
        conditions.sort();
        let main = container_of(&status);
        (status.phase, status.qos_class, status.reason, conditions, main)
    };
    let ours = space
        .until_pod("ours", "failed, sandbox and all", |p| {
            phase(p) == "Failed" && !condition(p, "PodReadyToStartContainers")
        })
        .await;
    let theirs = space
        .until_pod("theirs", "failed, sandbox and all", |p| {
            phase(p) == "Failed" && !condition(p, "PodReadyToStartContainers")
        })
        .await;
    assert_eq!(shape(&ours), shape(&theirs));
}

/// Ready, started, restarts, how it ended, image.
type Main = (bool, Option<bool>, i32, Option<(i32, Option<String>)>, String);

fn container_of(status: &k8s_openapi::api::core::v1::PodStatus) -> Main {
    let main = status.container_statuses.as_ref().and_then(|list| list.first()).expect("a container");
    let ended = main.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| (t.exit_code, t.reason.clone()));
    (main.ready, main.started, main.restart_count, ended, main.image.clone())
}
