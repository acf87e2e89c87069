//! The renderings, judged by a real API server.

use crate::{
    alone,
    rendering::{Objects, eks_values, helm, kubectl, least, rendered, stored},
    support::{Cluster, repo},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, io::Write, process::Command};

/// The kinds that monitoring needs, as the Prometheus operator defines them, for as long as this lives.
struct Kinds;

impl Kinds {
    fn dir() -> String {
        repo().join("target/tools/monitoring").display().to_string()
    }

    fn made() -> Self {
        // An annotation with all of it would be too long.
        kubectl(&["apply", "--server-side", "-f", &Self::dir()], None);
        kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &Self::dir()], None);
        Self
    }
}

impl Drop for Kinds {
    fn drop(&mut self) {
        kubectl(&["delete", "--ignore-not-found", "-f", &Self::dir()], None);
    }
}

/// What is not of an object's kind is refused.
const DRY_RUN: [&str; 5] = ["apply", "--dry-run=server", "--validate=strict", "-o", "json"];

fn dry_run(more: &[&str], input: Option<&str>) -> Objects {
    let args: Vec<&str> = DRY_RUN.iter().chain(more).copied().collect();
    stored(&kubectl(&args, input))
}

#[tokio::test]
async fn a_real_api_server_takes_what_kustomize_and_helm_make_and_both_make_the_same() {
    let _turn = alone().await;
    let _kinds = Kinds::made();
    // The overlay with monitoring, as a user would write it: kustomize wants relative paths.
    let dir = tempfile::tempdir_in(repo().join("target")).expect("a directory");
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../manifests/overlays/eks"],
        "components": ["../../manifests/components/monitoring"],
    });
    fs::write(dir.path().join("kustomization.yaml"), kustomization.to_string()).expect("written");
    let mut by_kustomize = dry_run(&["-k", &dir.path().display().to_string()], None);
    // Helm leaves the namespace to --create-namespace.
    assert!(by_kustomize.remove("Namespace /pilotlight-system").is_some());
    let by_helm = dry_run(&["-f", "-"], Some(&rendered(&eks_values(), "pilotlight-system")));

    let names = |objects: &Objects| objects.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&by_kustomize), names(&by_helm));
    for (name, object) in &by_kustomize {
        assert_eq!(object, &by_helm[name], "{name}: kustomize's, then helm's");
    }
    let kinds: BTreeSet<&str> = by_helm.keys().filter_map(|key| key.split(' ').next()).collect();
    for kind in ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule"] {
        assert!(kinds.contains(kind), "{kind} is in {kinds:?}");
    }
    assert_eq!(by_helm["Deployment pilotlight-system/pilotlight"]["spec"]["replicas"], 2);
}

#[tokio::test]
async fn the_rights_for_a_provider_beside_the_cluster_are_those_of_manifests_rbac() {
    let _turn = alone().await;
    let overlay = repo().join("manifests/overlays/local").display().to_string();
    let files: Vec<String> = ["provider.yaml", "replicas.yaml"]
        .map(|name| repo().join("manifests/rbac").join(name).display().to_string())
        .into();
    assert_eq!(dry_run(&["-k", &overlay], None), dry_run(&["-f", &files[0], "-f", &files[1]], None));
}

#[tokio::test]
async fn the_chart_is_taken_in_another_namespace_with_the_least_that_must_be_said() {
    let _turn = alone().await;
    let name = format!("elsewhere-{}", std::process::id());
    kubectl(&["create", "namespace", &name], None);
    let text = rendered(&json!({ "provider": least("a") }), &name);
    let objects = std::panic::catch_unwind(|| dry_run(&["-f", "-"], Some(&text)));
    kubectl(&["delete", "namespace", &name, "--wait=false"], None);
    let objects = objects.expect("it is taken");
    // Nothing of another namespace, apart from what must be there.
    let elsewhere =
        objects.keys().filter(|key| key.contains('/') && !key.contains(&format!("{name}/")) && !key.contains(" /"));
    assert_eq!(elsewhere.collect::<Vec<_>>(), ["RoleBinding kube-system/pilotlight-authentication-reader"]);
    for binding in objects.values().filter(|object| object["subjects"].is_array()) {
        assert_eq!(binding["subjects"][0]["namespace"], json!(name), "{binding}");
    }
    assert!(!text.contains("pilotlight-as-nodes"), "rights that stand in for the nodes' are not given unasked");
    // Where the cluster signs kubelets' certificates the provider asks for them.
    assert!(text.contains("certificatesigningrequests/nodeclient"));
}

#[tokio::test]
async fn one_replica_alone_is_not_warned_of_having_no_other() {
    let _turn = alone().await;
    for (replicas, warned) in [(1, false), (2, true)] {
        let text = rendered(&with(eks_values(), "replicas", json!(replicas)), "pilotlight-system");
        assert_eq!(text.contains("alert: PilotlightReplicaDown"), warned, "{replicas} replicas");
        assert!(
            text.contains("alert: PilotlightWithoutLeader") && text.contains("alert: PilotlightPodsWithoutInstance")
        );
        // What is cut out leaves rules that Prometheus loads.
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let rules = objects.iter().find(|object| object["kind"] == "PrometheusRule").expect("it has rules");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(rules.to_string().as_bytes()).expect("written");
        let checked = Command::new(repo().join("target/tools/bin/alerts")).arg("check").arg(file.path()).output();
        let checked = checked.expect("scripts/tools monitoring has built it");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[tokio::test]
async fn the_chart_refuses_what_it_does_not_know() {
    let _turn = alone().await;
    Cluster::get();
    for (values, named) in [
        (json!({}), "provider"),
        (json!({ "provider": { "cluster": "c" } }), "region"),
        (with(eks_values(), "replica", json!(3)), "replica"),
        (with(eks_values(), "replicas", json!("two")), "replicas"),
        // By the schemas of the files that it makes of them, wherever in these it is.
        (
            with(eks_values(), "costPolicy", json!({ "classes": [{ "name": "a", "wieght": 3 }] })),
            "/costPolicy/classes/0",
        ),
        (with(eks_values(), "costPolicy", json!({ "limit": [] })), "'limit'"),
        (with(eks_values(), "provider", with(eks_values()["provider"].clone(), "dsn", json!({}))), "'dsn'"),
    ] {
        let output = helm(&values, "x");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(named), "{named}: {said}");
    }
}

fn with(mut values: Value, key: &str, value: Value) -> Value {
    values[key] = value;
    values
}
