//! What the chart makes of values, and which it refuses: by Helm and kustomize alone, without a cluster.

use crate::{
    rendering::{eks_values, helm, least, rendered, yaml},
    support::{kubectl::program, repo},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, process::Command};

const NAMESPACE: &str = "pilotlight-system";
const CHECKSUM: &str = "checksum/needs-restart";

/// The least, and these at a path of dots; an index is a number.
fn values(more: &[(&str, Value)]) -> Value {
    let mut values = json!({ "provider": least("a") });
    for (path, value) in more {
        let mut at = &mut values;
        for key in path.split('.') {
            at = match key.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[key],
            };
        }
        *at = value.clone();
    }
    values
}

fn objects(values: &Value) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(&rendered(values, NAMESPACE)).expect("YAML");
    all.into_iter().filter(Value::is_object).collect()
}

fn object(values: &Value, kind: &str) -> Value {
    objects(values).into_iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn template(values: &Value) -> Value {
    object(values, "Deployment")["spec"]["template"].clone()
}

/// The files of the ConfigMap.
fn files(values: &Value) -> Map<String, Value> {
    let all = objects(values);
    let of_config = |object: &&Value| object["metadata"]["name"] == "pilotlight-config";
    let found = all.iter().find(of_config).expect("the configuration");
    found["data"].as_object().expect("it has files").clone()
}

#[test]
fn what_other_objects_of_the_chart_are_made_for_is_refused_otherwise_with_key_value_and_what_is_expected() {
    let secret = |namespace: &str, name: &str| json!({ "namespace": namespace, "name": name });
    for (key, value, named, expected) in [
        ("stateDir", json!("/elsewhere"), "stateDir is \"/elsewhere\"", "/var/lib/pilotlight"),
        ("catalog", json!("mine.yaml"), "catalog is \"mine.yaml\"", "catalog.yaml"),
        ("costPolicy", json!("mine.yaml"), "costPolicy is \"mine.yaml\"", "cost-policy.yaml"),
        ("prices", json!("prices.yaml"), "prices is \"prices.yaml\"", "its text in the value prices"),
        ("kubeconfig", json!("k"), "kubeconfig is \"k\"", "ServiceAccount"),
        ("agents.listen", json!("0.0.0.0:10256"), "agents.listen is \"0.0.0.0:10256\"", "0.0.0.0:10255"),
        ("agents.listen", json!("127.0.0.1:10255"), "agents.listen is", "0.0.0.0:10255"),
        (
            "agents.authoritySecret",
            secret(NAMESPACE, "x"),
            "agents.authoritySecret.name is \"x\"",
            "pilotlight-agent-ca",
        ),
        ("agents.authoritySecret", secret("x", "pilotlight-agent-ca"), "authoritySecret.namespace is \"x\"", NAMESPACE),
        ("agents.authoritySecret", json!(null), "agents.authoritySecret is null", "pilotlight-agent-ca"),
        ("leaderElection", json!({ "enabled": false }), "leaderElection.enabled is false", "true"),
        ("leaderElection", json!({ "labelPod": false }), "leaderElection.labelPod is false", "true"),
        ("leaderElection", json!({ "leaseName": "x" }), "leaderElection.leaseName is \"x\"", "\"pilotlight\""),
        ("leaderElection", json!({ "namespace": "x" }), "leaderElection.namespace is \"x\"", NAMESPACE),
        ("telemetry", json!({ "listen": "0.0.0.0:9090" }), "telemetry.listen is \"0.0.0.0:9090\"", "0.0.0.0:10280"),
        ("telemetry", json!({ "listen": "127.0.0.1:10280" }), "telemetry.listen is", "0.0.0.0:10280"),
        ("telemetry", json!({ "listen": "[::]:10255" }), "telemetry.listen is", "0.0.0.0:10280"),
        ("nodes.0.kubeletPort", json!(10250), "nodes[0].kubeletPort is 10250", "10260 to 10269"),
        ("cloud.ec2.identityCertificate", json!("r.pem"), "cloud.ec2.identityCertificate is \"r.pem\"", "no such file"),
    ] {
        let output = helm(&values(&[(&format!("provider.{key}"), value)]), NAMESPACE);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let tells = said.contains(named) && said.contains("expected") && said.contains(expected);
        assert!(!output.status.success() && tells, "{key}: {said}");
    }
}

#[test]
fn what_the_chart_brings_may_be_said_as_it_brings_it_and_the_rest_is_the_users() {
    let said = values(&[
        ("provider.stateDir", json!("/var/lib/pilotlight")),
        ("provider.costPolicy", json!("cost-policy.yaml")),
        ("provider.prices", json!("prices.yaml")),
        ("prices", json!("spot: []\n")),
        ("provider.agents.listen", json!("0.0.0.0:10255")),
        ("provider.leaderElection", json!({ "enabled": true, "leaseName": "pilotlight", "leaseDuration": "20s" })),
    ]);
    let provider: Value = serde_saphyr::from_str(files(&said)["provider.yaml"].as_str().expect("text")).expect("YAML");
    assert_eq!(provider["leaderElection"]["leaseDuration"], "20s");
    assert_eq!(provider["leaderElection"]["labelPod"], true, "the chart's stays beside it");
    // Where no NetworkPolicy is in the way.
    for out_of_the_way in [("networkPolicy", json!({ "enabled": false })), ("hostNetwork", json!(true))] {
        let other_port = values(&[("provider.nodes.0.kubeletPort", json!(10300)), out_of_the_way.clone()]);
        assert!(helm(&other_port, NAMESPACE).status.success(), "{out_of_the_way:?}");
    }
    // All of IPv6 has all of IPv4 in it.
    let listen = [("agents", "[::]:10255"), ("telemetry", "[::]:10280")];
    let both = values(&listen.map(|(of, address)| match of {
        "agents" => ("provider.agents.listen", json!(address)),
        _ => ("provider.telemetry", json!({ "listen": address })),
    }));
    let provider: Value = serde_saphyr::from_str(files(&both)["provider.yaml"].as_str().expect("text")).expect("YAML");
    for (of, address) in listen {
        assert_eq!(provider[of]["listen"], address);
    }
}

/// `helm upgrade --reuse-values` takes the values of the release that is there, which knows nothing of later keys.
#[test]
fn values_of_a_release_before_a_key_was_there_are_taken_as_that_keys_default() {
    // null takes a key out of the chart's own values.
    let none = json!(null);
    let later = [
        ("podAnnotations", none.clone()),
        ("affinity", none.clone()),
        ("extraEnv", none.clone()),
        ("hostNetwork", none.clone()),
        ("image", json!({ "digest": none })),
        ("monitoring", json!({ "enabled": true, "labels": none, "hourlyCostHigh": none })),
    ];
    let plain = values(&[("monitoring", json!({ "enabled": true }))]);
    assert_eq!(objects(&values(&later)), objects(&plain));
}

#[test]
fn on_the_machines_network_an_old_pod_makes_way_for_the_new_one() {
    let strategy = |host_network: bool| {
        object(&values(&[("hostNetwork", json!(host_network))]), "Deployment")["spec"]["strategy"].clone()
    };
    let in_place = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } });
    assert_eq!((strategy(true), strategy(false)), (in_place, json!(null)));
}

#[test]
fn without_a_cost_policy_there_is_neither_the_file_nor_its_name() {
    let with_one = files(&values(&[]));
    assert!(with_one.contains_key("cost-policy.yaml"));
    let none = values(&[("costPolicy", json!(null))]);
    let without = files(&none);
    assert!(!without.contains_key("cost-policy.yaml"));
    assert!(!without["provider.yaml"].as_str().expect("text").contains("costPolicy"));
    let named = values(&[("costPolicy", json!(null)), ("provider.costPolicy", json!("cost-policy.yaml"))]);
    let said = String::from_utf8_lossy(&helm(&named, NAMESPACE).stderr).into_owned();
    assert!(said.contains("provider.costPolicy is") && said.contains("the value costPolicy"), "{said}");
}

#[test]
fn an_edit_that_needs_a_restart_rolls_the_replicas_and_one_that_is_reloaded_does_not() {
    let checksum = |more: &[(&str, Value)]| template(&values(more))["metadata"]["annotations"][CHECKSUM].clone();
    let now = checksum(&[]);
    assert!(now.as_str().is_some_and(|sum| sum.len() == 64), "{now}");
    for (key, value) in [
        ("costPolicy", json!({ "limits": [] })),
        ("costPolicy", json!(null)),
        ("prices", json!("spot: []\n")),
        ("catalog", json!("types: []\n")),
        ("provider.standby", json!([{ "instanceType": "t3.nano", "zone": "a", "count": 1 }])),
        ("provider.defaults", json!({ "cpu": "1" })),
        ("provider.keepCompletedPods", json!("1h")),
        ("provider.agents.registrationTimeout", json!("5m")),
        ("resources", json!({})),
    ] {
        assert_eq!(checksum(&[(key, value)]), now, "{key} is reloaded");
    }
    for (key, value) in [
        ("provider.agents.advertise", json!("b:10255")),
        ("provider.nodes.0.kubeletPort", json!(10261)),
        ("provider.limits.pods", json!(2)),
        ("provider.dns.server", json!("10.96.0.11")),
        ("provider.cloud.ec2.images", json!({ "amd64": "ami-0123456789abcdef0" })),
        ("provider.nodeIdentity", json!({ "serving": "selfSigned" })),
        ("provider.leaderElection", json!({ "retryPeriod": "3s" })),
        ("provider.address", json!("10.0.0.1")),
    ] {
        assert_ne!(checksum(&[(key, value)]), now, "{key} needs a restart");
    }
}

#[test]
fn the_pod_has_the_users_variables_annotations_network_and_image_beside_its_own() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let proxy = json!({ "name": "HTTPS_PROXY", "value": "http://proxy:3128" });
    let made = template(&values(&[
        ("image", json!({ "repository": "r.example.com/p", "tag": "1", "digest": digest })),
        ("extraEnv", json!([proxy])),
        ("podAnnotations", json!({ "example.com/a": "b" })),
        ("hostNetwork", json!(true)),
    ]));
    let annotations = &made["metadata"]["annotations"];
    assert!(annotations["example.com/a"] == "b" && annotations[CHECKSUM].is_string(), "{annotations}");
    assert_eq!(
        (&made["spec"]["hostNetwork"], &made["spec"]["dnsPolicy"]),
        (&json!(true), &json!("ClusterFirstWithHostNet"))
    );
    let container = &made["spec"]["containers"][0];
    assert_eq!(container["image"], format!("r.example.com/p@{digest}"));
    let env = container["env"].as_array().expect("variables");
    let names: Vec<&str> = env.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["POD_IP", "POD_NAME", "POD_NAMESPACE", "HTTPS_PROXY"]);

    let plain = &template(&values(&[]))["spec"];
    assert!(plain["hostNetwork"].is_null(), "{plain}");
    for (key, value, named) in [
        ("extraEnv", json!([{ "name": "POD_IP", "value": "10.0.0.1" }]), "POD_IP"),
        ("image", json!({ "digest": "0a0a" }), "digest"),
        ("podAnnotations", json!({ "a": 1 }), "podAnnotations"),
    ] {
        let output = helm(&values(&[(key, value)]), NAMESPACE);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(named), "{key}: {said}");
    }
}

#[test]
fn wherever_the_user_wants_the_pods_they_are_never_on_a_virtual_node() {
    let off = json!({ "key": "type", "operator": "NotIn", "values": ["virtual-kubelet"] });
    let (zone, name) = (
        json!({ "key": "zone", "operator": "Exists" }),
        json!({ "key": "metadata.name", "operator": "In", "values": ["a"] }),
    );
    let preferred = json!([{ "weight": 1, "preference": { "matchExpressions": [zone] } }]);
    let given = json!({
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchExpressions": [zone] }, { "matchFields": [name] }],
            },
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        },
        "podAntiAffinity": {},
    });
    let made = template(&values(&[("affinity", given)]))["spec"]["affinity"].clone();
    let wanted = json!({
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    { "matchExpressions": [zone, off] },
                    { "matchExpressions": [off], "matchFields": [name] },
                ],
            },
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        },
        "podAntiAffinity": {},
    });
    assert_eq!(made, wanted);
    // Unasked they are as kustomize has them.
    let by_kustomize = yaml("manifests/base/deployment.yaml")["spec"]["template"]["spec"]["affinity"].clone();
    assert_eq!(template(&values(&[]))["spec"]["affinity"], by_kustomize);
}

#[test]
fn monitoring_has_the_labels_by_which_a_prometheus_selects_it_and_the_users_threshold() {
    let monitoring = |settings: Value| values(&[("monitoring", settings)]);
    let cost = |rules: &Value| -> Value {
        let all = rules["spec"]["groups"][0]["rules"].as_array().expect("rules");
        all.iter().find(|rule| rule["alert"] == "PilotlightHourlyCostHigh").expect("it is there")["expr"].clone()
    };
    let own = monitoring(json!({ "enabled": true, "labels": { "release": "prometheus" }, "hourlyCostHigh": 2.5 }));
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        let labels = object(&own, kind)["metadata"]["labels"].clone();
        assert!(
            labels["release"] == "prometheus" && labels["app.kubernetes.io/name"] == "pilotlight",
            "{kind}: {labels}"
        );
    }
    assert_eq!(cost(&object(&own, "PrometheusRule")), "sum(pilotlight_hourly_cost_dollars) > 2.5");
    // Unasked all rules are as kustomize has them.
    let plain = object(&monitoring(json!({ "enabled": true })), "PrometheusRule");
    assert_eq!(plain["spec"], yaml("manifests/components/monitoring/alerts.yaml")["spec"]);
    let nothing = helm(&monitoring(json!({ "enabled": true, "hourlyCostHigh": 0 })), NAMESPACE);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("hourlyCostHigh"));
}

#[test]
fn kustomize_and_helm_give_rights_for_the_nodes_of_the_eks_overlays_zones() {
    let kubectl = Command::new(program()).args(["kustomize", "manifests/overlays/eks"]).current_dir(repo()).output();
    let output = kubectl.expect("kubectl can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let by_kustomize = String::from_utf8(output.stdout).expect("UTF-8");
    let provider = yaml("manifests/overlays/eks/provider.yaml");
    let zones = provider["nodes"].as_array().expect("nodes").iter();
    let names: BTreeSet<String> = zones.map(|node| format!("pilotlight-{}", node["zone"].as_str().unwrap())).collect();
    for text in [by_kustomize, rendered(&eks_values(), NAMESPACE)] {
        let all: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let of_nodes = all.iter().filter(|object| object["metadata"]["name"] == "pilotlight-as-nodes");
        let rules = of_nodes.flat_map(|object| object["rules"].as_array().into_iter().flatten());
        let lists: Vec<&Value> = rules.map(|rule| &rule["resourceNames"]).filter(|list| list.is_array()).collect();
        assert_eq!(lists.len(), 2);
        for list in lists {
            assert_eq!(serde_json::from_value::<BTreeSet<String>>(list.clone()).expect("names"), names);
        }
    }
    // Its own, not what the component happens to have.
    let overlay = std::fs::read_to_string(repo().join("manifests/overlays/eks/kustomization.yaml")).expect("read");
    for name in &names {
        assert!(overlay.contains(name), "{name}");
    }
}
