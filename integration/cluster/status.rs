//! `pilotlight status`: what backs a Pod, what it costs, what the provider counts.

use crate::support::*;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

fn status(space: &Space, args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("status").arg("--kubeconfig").arg(space.cluster.kubeconfig()).args(args).kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_status_command_lists_what_backs_a_pod_and_its_price_and_what_the_provider_counts() {
    let space = Space::new("status").await;
    space.apply(&pod("priced", spec(&[idle()]))).await;
    let running = space.until_running("priced").await;
    let output = status(&space, &[]).output().await.expect("pilotlight can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let row = text.lines().find(|line| line.contains(&space.name)).unwrap_or_else(|| panic!("no row in\n{text}"));
    for cell in ["priced", "Running", &annotation(&running, "instance-id"), "t3.nano", "on-demand", "0.0052"] {
        assert!(row.contains(cell), "{cell}: {row}");
    }
    assert!(text.contains("to Running: P50 ") && text.contains("launch calls "), "{text}");

    // The provider reckons once in a while.
    let counted = async {
        loop {
            let output = status(&space, &["-o", "json"]).output().await.expect("pilotlight can be run");
            let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let costs = view["provider"]["costs"].as_array().unwrap_or_else(|| panic!("no costs in {view:#}")).clone();
            let own = costs.into_iter().find(|cost| cost["namespace"] == space.name.as_str());
            if let Some(own) = own.filter(|own| own["costMicros"].as_u64() > Some(0)) {
                return (view, own);
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let (view, own) = tokio::time::timeout(PATIENCE, counted).await.expect("the Pod's namespace is among the payers");
    assert_eq!(own["hourly"], "0.0052");
    let instances = view["provider"]["instances"].as_array().expect("a list");
    let bound = |of: &&serde_json::Value| of["state"] == "bound" && of["type"] == "t3.nano";
    assert!(instances.iter().filter(bound).map(|of| of["count"].as_u64().unwrap_or(0)).sum::<u64>() > 0, "{view:#}");
    let row = view["pods"].as_array().expect("a list").iter().find(|row| row["namespace"] == space.name.as_str());
    assert_eq!(row.expect("the Pod is listed")["instance"], annotation(&running, "instance-id"));
}

#[tokio::test]
async fn the_status_command_shows_a_pod_that_comes_while_it_watches() {
    let space = Space::new("status-watch").await;
    let mut watch = status(&space, &["--watch"]).stdout(std::process::Stdio::piped()).spawn().expect("it can be run");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut until = async |what: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if what.split_whitespace().all(|word| line.contains(word)) {
                    return;
                }
            }
            panic!("it ended before {what}");
        };
        assert!(tokio::time::timeout(PATIENCE, found).await.is_ok(), "{what} was not shown");
    };
    until("From a Pod's creation").await;
    space.apply(&pod("late", spec(&[idle()]))).await;
    until(&format!("{} late Running t3.nano", space.name)).await;
    assert_eq!(watch.try_wait().expect("it can be asked"), None, "it still watches");
    // Who has seen enough is at no fault.
    drop(lines);
    let ended = tokio::time::timeout(PATIENCE, watch.wait()).await.expect("it ends").expect("it can be waited for");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn who_may_not_ask_nodes_sees_the_pods_and_why_not_more() {
    let space = Space::new("status-rights").await;
    space.apply(&pod("seen", spec(&[idle()]))).await;
    space.until_running("seen").await;
    let account = format!("system:serviceaccount:{}:viewer", space.name);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": space.name },
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": space.name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": space.name },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": account }],
    });
    space.apply(&role).await;
    space.apply(&binding).await;
    // As that user: the same connection, and its name beside it.
    let text = std::fs::read_to_string(space.cluster.kubeconfig()).expect("read");
    let mut config: serde_json::Value = serde_saphyr::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"]["as"] = json!(account);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, config.to_string()).expect("written");
    let seen = async {
        loop {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pilotlight"));
            let output = command.arg("status").arg("--kubeconfig").arg(&file).output().await.expect("it can be run");
            // The API server's authorizer takes a moment to know the role.
            if output.status.success() {
                return String::from_utf8(output.stdout).expect("text");
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, seen).await.expect("pods may be listed");
    for kind in ["clusterrolebinding", "clusterrole"] {
        space.kubectl(&["delete", kind, &space.name]).await;
    }
    assert!(text.lines().any(|line| line.contains(&space.name) && line.contains("seen")), "{text}");
    assert!(text.contains("is not shown: ") && text.contains("nodes") && text.contains("forbidden"), "{text}");
    assert!(!text.contains("launch calls"), "{text}");
}
