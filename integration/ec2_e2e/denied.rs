//! An account that is not there, or may not do what is needed: the node says so, and comes back by itself.

use super::*;
use std::{fs, process::Stdio};
use tokio::process::{Child, Command};

const NODE: &str = "pilotlight-us-east-1a";

#[tokio::test]
async fn without_rights_the_node_is_not_ready_and_says_why_and_comes_back() {
    let _turn = alone().await;
    let space = Space::new("ec2-denied").await;
    space.apply(&pinned("steady")).await;
    let pod = space.until_running("steady").await;
    {
        let _script = Scripted::new(r#"{"faults": [{"action": "*", "code": "AuthFailure"}]}"#);
        space.until_node(NODE, "False", "AuthFailure").await;
        assert_eq!(annotation(&space.until_running("steady").await, "instance-id"), annotation(&pod, "instance-id"));
    }
    space.until_node(NODE, "True", "").await;
    assert_eq!(space.exec("steady", "echo here").await.trim(), "here");
    gone(&space, &["steady"]).await;
}

/// The cluster's provider in another process, with the credentials that are named alone. The usual one is started
/// again in the end.
struct Started {
    child: Child,
}

impl Started {
    fn with(credentials: &[&str]) -> Self {
        let cluster = Cluster::get();
        provider(&["kill"]);
        let log = fs::OpenOptions::new().create(true).append(true).open(cluster.provider_log()).expect("a log");
        // `scripts/cluster exec` becomes the program: the child is the provider itself.
        let mut command = Command::from(cluster.script("cluster", &["exec", "--", "env", "-u", "KUBECONFIG"]));
        command.args(WITHOUT_CREDENTIALS).args(credentials).arg(env!("CARGO_BIN_EXE_pilotlight"));
        command.arg("node").arg("--config").arg(cluster.provider_dir().join("provider.yaml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Self { child: command.spawn().expect("a provider can be started") }
    }

    /// It never ended, also not to be started again.
    async fn end(mut self) {
        assert_eq!(self.child.try_wait().expect("it can be asked"), None, "it still runs");
        self.child.kill().await.expect("it can be ended");
        provider(&["up", "--ec2"]);
    }
}

#[tokio::test]
async fn a_provider_that_starts_without_credentials_says_so_and_serves_when_it_finds_some() {
    let _turn = alone().await;
    let space = Space::new("ec2-nobody").await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credentials");
    let named = format!("AWS_SHARED_CREDENTIALS_FILE={}", file.display());
    let started = Started::with(&[&named]);
    space.until_node(NODE, "False", "NoCredentials").await;
    let before = launched();
    space.apply(&pinned("waits")).await;
    space.until_pod("waits", "is pending on its node", |pod| phase(pod) == "Pending").await;
    fs::write(&file, "[default]\naws_access_key_id = standin\naws_secret_access_key = standin\n").expect("written");
    space.until_node(NODE, "True", "").await;
    space.until_running("waits").await;
    assert_eq!(launched(), before + 1);
    started.end().await;
    gone(&space, &["waits"]).await;
}

#[tokio::test]
async fn a_provider_that_starts_without_rights_says_so_and_serves_when_it_has_them() {
    let _turn = alone().await;
    let space = Space::new("ec2-unfree").await;
    let script = Scripted::new(r#"{"allowedActions": []}"#);
    let started = Started::with(&["AWS_ACCESS_KEY_ID=standin", "AWS_SECRET_ACCESS_KEY=standin"]);
    space.until_node(NODE, "False", "UnauthorizedOperation").await;
    space.apply(&pinned("waits")).await;
    space.until_pod("waits", "is pending on its node", |pod| phase(pod) == "Pending").await;
    drop(script);
    space.until_node(NODE, "True", "").await;
    space.until_running("waits").await;
    started.end().await;
    gone(&space, &["waits"]).await;
}
