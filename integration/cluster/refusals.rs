//! What can't run says why, loudly, and heals when its cause goes away.

use crate::support::*;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::ResourceExt;
use serde_json::json;

#[tokio::test]
async fn a_missing_image_is_tried_again_with_a_pause_and_says_so() {
    let space = Space::new("noimage").await;
    let container = with(idle(), json!({ "image": "10.70.0.1:5000/no/such:1" }));
    space.apply(&pod("lost", spec(&[container]))).await;
    space.until_waiting("lost", "main", "ErrImagePull").await;
    space
        .until_event("lost", "Failed", |message| message.contains("Failed to pull image \"10.70.0.1:5000/no/such:1\""))
        .await;
    let pausing = space.until_waiting("lost", "main", "ImagePullBackOff").await;
    assert_eq!(phase(&pausing), "Pending");
    space.until_event("lost", "BackOff", |message| message.contains("Back-off pulling image")).await;
}

#[tokio::test]
async fn an_image_that_may_not_be_pulled_says_so() {
    let space = Space::new("neverpull").await;
    let container = with(idle(), json!({ "image": "pilotlight.test/absent:1", "imagePullPolicy": "Never" }));
    space.apply(&pod("absent", spec(&[container]))).await;
    space.until_waiting("absent", "main", "ErrImageNeverPull").await;
    let nonsense = with(idle(), json!({ "image": "Not An Image" }));
    space.apply(&pod("nonsense", spec(&[nonsense]))).await;
    space.until_waiting("nonsense", "main", "InvalidImageName").await;
}

#[tokio::test]
async fn a_private_image_is_pulled_with_the_pods_secret_alone() {
    let space = Space::new("private").await;
    let image = json!({ "image": "10.70.0.1:5001/busybox:1", "imagePullPolicy": "Always" });
    space.apply(&pod("stranger", spec(&[with(idle(), image.clone())]))).await;
    let create = ["create", "secret", "docker-registry", "puller", "--docker-server=10.70.0.1:5001"];
    let mut create = create.to_vec();
    create.extend(["--docker-username=puller", "--docker-password=secret"]);
    space.kubectl(&create).await;
    let secrets = json!({ "imagePullSecrets": [{ "name": "puller" }] });
    space.apply(&pod("friend", with(spec(&[with(idle(), image)]), secrets))).await;
    space.until_running("friend").await;
    space.until_event("friend", "Pulled", |message| message.contains("Successfully pulled image")).await;
    space
        .until_pod("stranger", "is refused the image", |p| {
            matches!(waiting(p, "main").as_deref(), Some("ErrImagePull" | "ImagePullBackOff"))
        })
        .await;
}

#[tokio::test]
async fn a_missing_config_map_or_secret_in_the_environment_is_named_and_heals() {
    let space = Space::new("missing").await;
    for (kind, reference) in [("configmap", "configMapRef"), ("secret", "secretRef")] {
        let name = format!("needs-{kind}");
        let container = with(idle(), json!({ "envFrom": [{ reference: { "name": "later" } }] }));
        space.apply(&pod(&name, spec(&[container]))).await;
        let blocked = space.until_waiting(&name, "main", "CreateContainerConfigError").await;
        let message = container_message(&blocked);
        assert_eq!(message, format!("{kind} \"later\" not found"));
        space.until_event(&name, "Failed", |text| text.contains("later")).await;
    }
    space.kubectl(&["create", "configmap", "later", "--from-literal=A=1"]).await;
    space.kubectl(&["create", "secret", "generic", "later", "--from-literal=A=2"]).await;
    for (kind, value) in [("configmap", "1"), ("secret", "2")] {
        let name = format!("needs-{kind}");
        space.until_running(&name).await;
        assert_eq!(space.exec(&name, "echo $A").await, value);
    }
}

fn container_message(pod: &Pod) -> String {
    let state = container(pod, "main").and_then(|c| c.state.clone()).and_then(|s| s.waiting);
    state.and_then(|w| w.message).unwrap_or_default()
}

#[tokio::test]
async fn a_missing_config_map_of_a_volume_is_told_by_an_event_and_heals() {
    let space = Space::new("novolume").await;
    let container = with(idle(), json!({ "volumeMounts": [{ "name": "settings", "mountPath": "/settings" }] }));
    let volumes = json!({ "volumes": [{ "name": "settings", "configMap": { "name": "later" } }] });
    space.apply(&pod("reader", with(spec(&[container]), volumes))).await;
    space
        .until_event("reader", "FailedMount", |message| message.contains("\"settings\"") && message.contains("later"))
        .await;
    space.until_waiting("reader", "main", "ContainerCreating").await;
    space.kubectl(&["create", "configmap", "later", "--from-literal=a=1"]).await;
    space.until_running("reader").await;
    assert_eq!(space.exec("reader", "cat /settings/a").await, "1");
}

#[tokio::test]
async fn a_pod_larger_than_every_type_waits_with_the_reason_and_buys_nothing() {
    let space = Space::new("large").await;
    let requests = json!({ "resources": { "requests": { "cpu": "32", "memory": "1Gi" } } });
    space.apply(&pod("huge", spec(&[with(idle(), requests)]))).await;
    let told = space.until_pod("huge", "has a reason", |p| reason(p) == "NoInstanceTypeFits").await;
    assert_eq!(phase(&told), "Pending");
    let message = told.status.clone().and_then(|s| s.message).unwrap_or_default();
    assert!(message.contains("32000m") && message.contains("c6i.xlarge"), "{message}");
    space.until_event("huge", "NoInstanceTypeFits", |message| message.contains("32000m")).await;
    assert_eq!(annotation(&told, "instance-id"), "", "nothing was bought for it");
    let described = space.kubectl(&["describe", "pod", "huge"]).await;
    assert!(described.contains("no instance type is large enough"), "{described}");
}

#[tokio::test]
async fn an_unsupported_field_is_named_and_nothing_is_launched() {
    let space = Space::new("unsupported").await;
    let spec = with(
        spec(&[with(idle(), json!({ "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }] }))]),
        json!({ "volumes": [{ "name": "disk", "nfs": { "server": "192.0.2.1", "path": "/" } }] }),
    );
    space.apply(&pod("asking", spec)).await;
    let told = space.until_pod("asking", "has a reason", |p| reason(p) == "UnsupportedField").await;
    assert_eq!(phase(&told), "Pending");
    let message = told.status.clone().and_then(|s| s.message).unwrap_or_default();
    assert!(message.contains("spec.volumes[disk].nfs"), "{message}");
    space.until_event("asking", "UnsupportedField", |message| message.contains("spec.volumes[disk].nfs")).await;
    assert_eq!(annotation(&told, "instance-id"), "");
    // It can still be deleted.
    delete(&space.api::<Pod>(), "asking", None).await;
    space.until_gone("asking").await;
}

fn reason(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.reason.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_a_run_container_error() {
    let space = Space::new("nocommand").await;
    let container = json!({ "name": "main", "image": BUSYBOX, "command": ["/no/such/program"] });
    space.apply(&pod("typo", with(spec(&[container]), json!({ "restartPolicy": "Never" })))).await;
    let failed = space.until_phase("typo", "Failed").await;
    let (code, reason) = ended(&failed, "main").expect("it ended");
    assert!(code == 127 || code == 128, "{code}");
    assert!(reason == "StartError" || reason == "ContainerCannotRun", "{reason}");
}

#[tokio::test]
async fn a_daemon_set_that_tolerates_everything_buys_nothing() {
    let space = Space::new("daemons").await;
    let tolerant = with(spec(&[idle()]), json!({ "tolerations": [{ "operator": "Exists" }] }));
    space
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "agent" },
            "spec": { "selector": selector("agent"), "template": template("agent", tolerant) },
        }))
        .await;
    let made = |set: Option<&DaemonSet>| {
        set.and_then(|set| set.status.as_ref()).is_some_and(|status| status.current_number_scheduled > 0)
    };
    space.until("agent", "has a Pod on the virtual node", made).await;
    let name = space.pods_of("agent").await.swap_remove(0).name_any();
    let refused = space.until_pod(&name, "is refused", |pod| reason(pod) == "UnsupportedField").await;
    assert_eq!((phase(&refused), annotation(&refused, "instance-id").as_str()), ("Pending", ""));
    let message = refused.status.and_then(|status| status.message).unwrap_or_default();
    assert!(message.contains("metadata.ownerReferences[agent]: DaemonSet"), "{message}");
}
