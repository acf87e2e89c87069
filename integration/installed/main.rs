//! The product as people install it: the image, by the chart, by Helm, in a cluster whose real kubelet runs it; on the
//! stand-in for EC2, with the role that its ServiceAccount may take.
//!
//! ```text
//!  helm install ──> two replicas, one leads; no role yet: the node is NotReady and says why
//!       │ the webhook's part (IRSA) ──> a session of the role, renewed ──> Pods run; the leader dies ──> the other leads
//!       │ EKS Pod Identity in its place ──> Pods run
//!  helm uninstall ──> nothing is left but what is the cluster's
//! ```
//!
//! And once more as on EKS: nodes that are the ServiceAccount, a signer that is EKS's own, EKS Pod Identity.
//!
//! Needs what `ec2_e2e` needs, with a real kubelet's node (`scripts/test ec2`). The provider beside the cluster is stopped
//! meanwhile.

mod eks;
#[path = "../install/pushed.rs"]
mod pushed;
mod release;
#[path = "../ec2_e2e/standin.rs"]
mod standin;
#[path = "../support/mod.rs"]
mod support;

use k8s_openapi::api::core::v1::Pod;
use release::Release;
use serde_json::{Value, json};
use standin::{announce, called, called_by, script, until, until_nothing_is_left};
use support::*;
use tokio::sync::{Mutex, MutexGuard};

const NODE: &str = "pilotlight-us-east-1a";

/// There is one release of the name.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    script("{}");
    turn
}

fn serving() -> Value {
    shell("echo hello from $(hostname); exec sleep 1000000")
}

fn class(name: &str) -> Value {
    json!({ "metadata": { "annotations": { "pilotlight.dev/use-class": name } } })
}

fn of_class(name: &str, of: &str) -> Value {
    with(pod(name, spec(&[serving()])), class(of))
}

/// It runs on an instance of its own, logs, and can be entered.
async fn serves(space: &Space, name: &str) -> String {
    let pod = space.until_running(name).await;
    space.until_log(name, &[], |text| text.contains(&format!("hello from {name}"))).await;
    assert_eq!(space.exec(name, "hostname").await, name);
    assert_eq!(restarts(&pod, "main"), 0, "{name} ran without a break");
    annotation(&pod, "instance-id")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_for_eks_runs_pods_by_pod_identity_as_its_account_and_survives_the_killing_of_its_leader() {
    let _turn = alone().await;
    let space = Space::new("installed-eks").await;
    let _signer = eks::Signer::start(space.cluster, space.client.clone());
    let as_on_eks = json!({ "client": "serviceAccount", "serving": eks::SIGNER });
    let release = Release::install(&space, as_on_eks).await;
    release.rolled_out(&release::by_pod_identity()).await;
    let before = called_by("pod-identity");
    space.apply(&of_class("one", "spot")).await;
    let instance = serves(&space, "one").await;
    assert!(called_by("pod-identity") > before && called_by("keys") == release.keys_before, "it calls as its role");

    // Nobody is told: the Lease runs out, and the kubelet starts it again.
    let leader = release.leader().await;
    release.kill(&leader);
    release.until_restarted(&leader, 1).await;
    release.leader().await;
    space.apply(&of_class("two", "flexible")).await;
    serves(&space, "two").await;
    assert_eq!(serves(&space, "one").await, instance, "it runs where it ran");

    for name in ["one", "two"] {
        delete(&space.api::<Pod>(), name, None).await;
    }
    for name in ["one", "two"] {
        space.until_gone(name).await;
    }
    until_nothing_is_left().await;
    assert_eq!(release.refused(), [], "rights are missing");
    let of_nodes = release.asked_by_nodes();
    assert!(of_nodes.is_empty(), "all is asked as the account: {of_nodes:?}");
    release.uninstall().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_installs_what_runs_pods_by_its_accounts_role_and_survives_its_leader_and_leaves_nothing() {
    let _turn = alone().await;
    let space = Space::new("installed").await;
    let by_the_cluster = json!({ "client": "certificate", "serving": "kubernetes.io/kubelet-serving" });
    let release = Release::install(&space, by_the_cluster).await;

    // Nobody gave it a role yet.
    space.until_node(NODE, "False", "NoCredentials").await;
    release.rolled_out(&release::by_irsa()).await;
    let before = called_by("irsa");
    space.apply(&of_class("one", "none")).await;
    // A StatefulSet's Pod never runs twice.
    let stateful = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "two" },
        "spec": {
            "replicas": 1, "serviceName": "two", "selector": selector("two"),
            "template": with(template("two", spec(&[serving()])), class("spot")),
        },
    });
    space.apply(&stateful).await;
    let instances = [serves(&space, "one").await, serves(&space, "two-0").await];
    assert!(called_by("irsa") > before && called_by("keys") == release.keys_before, "it calls as its role");

    // The leader's Pod is deleted by force, and its account's token with it: the other one finds everything as it is.
    let leader = release.leader().await;
    space.kubectl(&["delete", "pod", "-n", release::NAMESPACE, &leader, "--grace-period=0", "--force"]).await;
    release.until_another_leads(&leader).await;
    assert_eq!([serves(&space, "one").await, serves(&space, "two-0").await], instances, "they run where they ran");
    space.apply(&of_class("three", "flexible")).await;
    serves(&space, "three").await;

    // A session does not last: a role is taken again before the end of it.
    let taken = called("sts:AssumeRoleWithWebIdentity");
    script(r#"{"sessionSeconds": 123}"#);
    let leader = release.leader().await;
    space.kubectl(&["delete", "pod", "-n", release::NAMESPACE, &leader]).await;
    release.until_another_leads(&leader).await;
    until("the role is taken again and again", || called("sts:AssumeRoleWithWebIdentity") >= taken + 3).await;
    space.until_node(NODE, "True", "").await;
    script("{}");

    // It can't be moved to another instance: it is evicted, and made anew by its StatefulSet.
    let evicted = space.until_running("two-0").await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(10);
    let told =
        json!({ "spotAction": { "action": "terminate", "time": soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() } });
    announce(&annotation(&evicted, "instance-id"), &told.to_string());
    let another = |pod: &Pod| pod.metadata.uid != evicted.metadata.uid;
    space.until_pod("two-0", "is another one", another).await;
    assert_ne!(serves(&space, "two-0").await, annotation(&evicted, "instance-id"));

    // The policy is edited where it is: a broken edit is told and not taken, a good one is, without a restart.
    let told = release.edit_policy("defaults:\n  maxHourlyprice: 1\n", "ConfigurationInvalid").await;
    for part in ["cost-policy.yaml:2: defaults.maxHourlyprice", "the last good one stays"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    space.apply(&of_class("old-terms", "flexible")).await;
    assert_eq!(annotation(&space.until_running("old-terms").await, "class"), "flexible");
    release.add_class("plain").await;
    space.apply(&of_class("new-terms", "plain")).await;
    assert_eq!(annotation(&space.until_running("new-terms").await, "class"), "plain");

    release.rolled_out(&release::by_pod_identity()).await;
    space.apply(&of_class("four", "none")).await;
    serves(&space, "four").await;
    assert!(called_by("pod-identity") > 0 && called_by("keys") == release.keys_before, "it calls as its role");

    space.kubectl(&["delete", "statefulset", "two"]).await;
    for name in ["one", "three", "four", "old-terms", "new-terms"] {
        delete(&space.api::<Pod>(), name, None).await;
    }
    for name in ["one", "two-0", "three", "four", "old-terms", "new-terms"] {
        space.until_gone(name).await;
    }
    until_nothing_is_left().await;
    assert_eq!(release.refused(), [], "rights are missing");
    let asked = release.asked();
    // What the tests of `install` can't see used: which instance is whose, and evictions.
    for (verb, resource) in
        [("get", "configmaps"), ("update", "configmaps"), ("create", "configmaps"), ("create", "pods/eviction")]
    {
        let used = asked.iter().any(|asked| asked.verb == verb && asked.resource == resource && asked.code < 300);
        assert!(used, "{verb} {resource} is a right that is used");
    }
    release.uninstall().await;
}
