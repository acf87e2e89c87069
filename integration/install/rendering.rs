//! What kustomize and Helm make of the manifests, by the programs that people use.

use crate::support::{Cluster, repo};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Objects by kind, namespace and name.
pub type Objects = BTreeMap<String, Value>;

pub fn yaml(path: impl AsRef<Path>) -> Value {
    let file = repo().join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

pub fn kubectl(args: &[&str], input: Option<&str>) -> String {
    let cluster = Cluster::get();
    let mut command = Command::new(crate::support::kubectl::program());
    command.env("KUBECONFIG", cluster.kubeconfig()).env("KUBECACHEDIR", cluster.state.join("kubectl-cache"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl can be run");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.unwrap_or_default().to_owned();
    // It may write before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("it ends");
    said(&format!("kubectl {args:?}"), output)
}

/// `helm template` of the chart with these values.
pub fn helm(values: &Value, namespace: &str) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("values.json");
    fs::write(&file, values.to_string()).expect("written");
    let program = repo().join("target/tools/bin/helm");
    assert!(program.exists(), "{} is missing: run scripts/tools helm", program.display());
    Command::new(program)
        .args(["template", "pilotlight", "manifests/helm/pilotlight", "--namespace", namespace, "--values"])
        .arg(file)
        // Nothing of the person who runs the tests.
        .envs(["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"].map(|name| (name, dir.path())))
        .current_dir(repo())
        .output()
        .expect("helm can be run")
}

/// The least that must be said of a provider, of one node.
pub fn least(zone: &str) -> Value {
    json!({
        "cluster": "c", "region": "r", "nodes": [{ "zone": zone, "kubeletPort": 10260 }],
        "limits": { "cpu": 1, "memory": "1Gi", "pods": 1 }, "agents": { "advertise": "agents:10255" },
        "dns": { "server": "10.96.0.10", "domain": "cluster.local" },
        "cloud": { "ec2": { "subnets": {}, "securityGroups": [], "images": {} } },
    })
}

pub fn rendered(values: &Value, namespace: &str) -> String {
    said("helm template", helm(values, namespace))
}

fn said(what: &str, output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The chart's values that make what manifests/overlays/eks makes.
pub fn eks_values() -> Value {
    let overlay = |name: &str| yaml(Path::new("manifests/overlays/eks").join(name));
    let (kustomization, service) = (overlay("kustomization.yaml"), overlay("agents-service.yaml"));
    let image = &kustomization["images"][0];
    json!({
        "image": { "repository": image["newName"], "tag": image["newTag"] },
        "provider": overlay("provider.yaml"),
        "costPolicy": overlay("cost-policy.yaml"),
        "serviceAccount": { "annotations": overlay("service-account.yaml")["metadata"]["annotations"] },
        "agentsService": {
            "type": service["spec"]["type"],
            "loadBalancerClass": service["spec"]["loadBalancerClass"],
            "annotations": service["metadata"]["annotations"],
        },
        "monitoring": { "enabled": true },
    })
}

/// What the API server says it would store, from `kubectl apply --dry-run=server -o json`.
pub fn stored(output: &str) -> Objects {
    let list: Value = serde_json::from_str(output).expect("JSON");
    let items = list["items"].as_array().cloned().unwrap_or_else(|| vec![list.clone()]);
    let mut objects = Objects::new();
    for mut object in items {
        comparable(&mut object);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let key = format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
        assert!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    objects
}

/// Without what the server makes up, and what says by whom an object was made.
fn comparable(object: &mut Value) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let take = |value: &mut Value, keys: &[&str]| {
        if let Some(map) = value.as_object_mut() {
            keys.iter().for_each(|key| drop(map.remove(*key)));
        }
    };
    take(object, &["status"]);
    take(&mut object["metadata"], &["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"]);
    take(&mut object["metadata"]["labels"], &["helm.sh/chart", "app.kubernetes.io/managed-by"]);
    take(
        &mut object["metadata"]["annotations"],
        &["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"],
    );
    for key in ["labels", "annotations"] {
        if object["metadata"][key].as_object().is_none_or(serde_json::Map::is_empty) {
            take(&mut object["metadata"], &[key]);
        }
    }
    if kind == "Deployment" {
        // With kustomize `kubectl rollout restart` does what this is for.
        let annotations = &mut object["spec"]["template"]["metadata"]["annotations"];
        take(annotations, &["checksum/needs-restart"]);
        if annotations.as_object().is_none_or(serde_json::Map::is_empty) {
            take(&mut object["spec"]["template"]["metadata"], &["annotations"]);
        }
    }
    if kind == "Service" {
        if object["spec"]["clusterIP"] != "None" {
            take(&mut object["spec"], &["clusterIP", "clusterIPs", "healthCheckNodePort"]);
        }
        for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            take(port, &["nodePort"]);
        }
    }
    if kind == "ConfigMap" {
        for (name, text) in object["data"].as_object_mut().into_iter().flatten() {
            let content: Value = serde_saphyr::from_str(text.as_str().expect("text"))
                .unwrap_or_else(|error| panic!("{name} is YAML: {error}"));
            *text = content;
            same_numbers(text);
        }
    }
}

/// 40 and 40.0 are one number.
fn same_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(all) => all.iter_mut().for_each(same_numbers),
        Value::Object(all) => all.values_mut().for_each(same_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
