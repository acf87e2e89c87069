//! The image, as a Pod of a real kubelet's node.

use crate::{alone, pushed, support::*};
use serde_json::{Value, json};

/// As the Deployment of the manifests runs it: without any right, on a root that can't be written.
fn confined(name: &str, image: &str, command: &[&str], args: &[&str]) -> Value {
    let mut container = json!({
        "name": name, "image": image, "args": args, "imagePullPolicy": "Always",
        "securityContext": {
            "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/pilotlight" }],
    });
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    container
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_on_a_real_kubelets_node_without_any_right_and_has_both_programs() {
    let _turn = alone().await;
    let space = Space::new("image").await;
    let (repository, tag) = pushed::image(space.cluster);
    let image = format!("{repository}:{tag}");
    let file = |name: &str| std::fs::read_to_string(repo().join("provider-config").join(name)).expect("read");
    let data = json!({ "provider.yaml": file("provider.yaml"), "catalog.yaml": file("catalog.yaml") });
    space
        .apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "config" }, "data": data }))
        .await;
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [
            confined("check", &image, &[], &["check", "--config", "/etc/pilotlight/provider.yaml"]),
            confined("agent", &image, &["/pilotlight-agent"], &["--version"]),
        ],
        "volumes": [{ "name": "config", "configMap": { "name": "config" } }],
    });
    space.apply(&pod("image", spec)).await;
    let done = space.until_pod("image", "has ended", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await;
    let check = space.kubectl(&["logs", "image", "-c", "check"]).await;
    let agent = space.kubectl(&["logs", "image", "-c", "agent"]).await;
    assert_eq!(phase(&done), "Succeeded", "{check}{agent}");
    assert!(check.contains("is valid: zones local-a"), "{check}");
    assert_eq!(agent.trim(), format!("pilotlight-agent {}", env!("CARGO_PKG_VERSION")));
    let node = done.spec.and_then(|spec| spec.node_name);
    assert_eq!(node.as_deref(), Some("kubelet"), "a real kubelet's");
}
