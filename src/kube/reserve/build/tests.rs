use super::*;
use serde_json::{Value, json};

const MI: u64 = 1 << 20;
const SMALL: Size = Size { cpu_millis: 100, memory_bytes: 128 * MI };

/// As Serving makes it, shortened.
fn template(over: Value) -> Template {
    let mut user = json!({
        "name": "user-container",
        "image": "shop/web@sha256:1",
        "resources": { "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "cpu": "2", "memory": "2Gi" } },
    });
    for (key, value) in over.as_object().unwrap() {
        user[key] = value.clone();
    }
    from(json!([user, queue_proxy("0")]))
}

fn queue_proxy(concurrency: &str) -> Value {
    json!({
        "name": "queue-proxy",
        "image": "queue",
        "env": [{ "name": "CONTAINER_CONCURRENCY", "value": concurrency }, { "name": "SERVING_REVISION", "value": "web-00001" }],
        "resources": { "requests": { "cpu": "25m" } },
    })
}

fn from(containers: Value) -> Template {
    let spec = serde_json::from_value(json!({
        "metadata": {
            "labels": {
                "app": "web-00001", "serving.knative.dev/revision": "web-00001", "serving.knative.dev/revisionUID": "r1",
                "serving.knative.dev/service": "web", "pod-template-hash": "5d4",
            },
            "annotations": {
                "pilotlight.dev/reserve": "enabled", "pilotlight.dev/use-class": "web",
                "pilotlight.dev/allow-purchase": "spot", "k8s.aliyun.com/eci-use-specs": "2-4Gi",
            },
        },
        "spec": {
            "containers": containers,
            "nodeSelector": { "disk": "ssd", "kubernetes.io/arch": "amd64" },
            "tolerations": [{ "key": "other", "operator": "Exists" }],
            "affinity": { "nodeAffinity": {}, "podAffinity": {} },
            "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule" }],
            "terminationGracePeriodSeconds": 300,
        },
    }));
    Template::new(spec.unwrap())
}

fn order(sizing: &Sizing) -> Order<'_> {
    Order {
        sizing,
        needs: Needs::default(),
        most_memory_bytes: None,
        unsaid: Size { cpu_millis: 250, memory_bytes: 256 * MI },
        class: "reserve",
        bound: None,
        startup: SignedDuration::from_mins(2),
    }
}

fn made(template: &Template, order: &Order, attached: bool) -> Value {
    let who = Identity {
        namespace: "shop",
        kind: Kind::Revision,
        owner: "web-00001",
        owner_uid: "r1",
        name: "web-00001-reserve-aaaa-1",
        attached,
        now: Timestamp::UNIX_EPOCH,
    };
    serde_json::to_value(pod(template, &blueprint(template, order), &who)).unwrap()
}

const ABSOLUTE: Sizing = Sizing::Absolute(SMALL);

#[test]
fn it_is_an_endpoint_of_its_revision_that_nobody_counts_or_adopts() {
    let pod = made(&template(json!({})), &order(&ABSOLUTE), true);
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["serving.knative.dev/revisionUID"], "r1");
    assert_eq!(labels["pilotlight.dev/reserve-of"], "r1");
    assert_eq!(labels["app"], "web-00001");
    for gone in ["serving.knative.dev/revision", "pod-template-hash"] {
        assert!(labels.get(gone).is_none(), "{labels}");
    }
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"], &owner["controller"]), (&json!("Revision"), &json!("r1"), &json!(true)));
    let detached = made(&template(json!({})), &order(&ABSOLUTE), false);
    assert!(detached["metadata"]["labels"].get("serving.knative.dev/revisionUID").is_none());
}

#[test]
fn it_runs_on_a_virtual_node_and_is_bought_by_its_own_class() {
    let pod = made(&template(json!({})), &order(&ABSOLUTE), true);
    let spec = &pod["spec"];
    assert_eq!(spec["nodeSelector"], json!({ "type": "virtual-kubelet", "kubernetes.io/arch": "amd64" }));
    assert_eq!(spec["affinity"], json!({ "podAffinity": {} }));
    assert!(spec.get("topologySpreadConstraints").is_none());
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(spec["tolerations"][1]["key"], "virtual-kubelet.io/provider");
    assert_eq!(spec["terminationGracePeriodSeconds"], 300);
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["pilotlight.dev/use-class"], "reserve");
    for gone in ["pilotlight.dev/allow-purchase", "k8s.aliyun.com/eci-use-specs"] {
        assert!(annotations.get(gone).is_none(), "{annotations}");
    }
}

#[test]
fn its_user_container_has_the_reserve_s_size_and_queue_proxy_its_own() {
    let pod = made(&template(json!({})), &order(&ABSOLUTE), true);
    let of = |index: usize| pod["spec"]["containers"][index]["resources"].clone();
    let (requests, limits) =
        (json!({ "cpu": "100m", "memory": "134217728" }), json!({ "cpu": "2", "memory": "134217728" }));
    assert_eq!(of(0), json!({ "requests": requests, "limits": limits }));
    assert_eq!(of(1), json!({ "requests": { "cpu": "25m" } }));
}

#[test]
fn a_limit_below_what_is_requested_is_no_limit() {
    let tight = json!({ "resources": { "limits": { "cpu": "50m" } } });
    let pod = made(&template(tight), &order(&ABSOLUTE), true);
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({ "memory": "134217728" }));
}

#[test]
fn several_user_containers_share_the_size_as_the_template_splits_its_memory() {
    let one = |name: &str, memory: &str| json!({ "name": name, "resources": { "requests": { "memory": memory } } });
    let pod = made(&from(json!([one("a", "300Mi"), queue_proxy("1"), one("b", "100Mi")])), &order(&ABSOLUTE), true);
    let memory = |index: usize| pod["spec"]["containers"][index]["resources"]["requests"]["memory"].clone();
    assert_eq!((memory(0), memory(2)), (json!((96 * MI).to_string()), json!((32 * MI).to_string())));
}

#[test]
fn where_requests_at_once_are_unbounded_its_queue_proxy_is_told_a_bound() {
    let concurrency = |bound: Option<u32>| {
        let pod = made(&template(json!({})), &Order { bound, ..order(&ABSOLUTE) }, true);
        pod["spec"]["containers"][1]["env"][0]["value"].clone()
    };
    assert_eq!((concurrency(None), concurrency(Some(7))), (json!("0"), json!("7")));
}

#[test]
fn on_less_cpu_its_probes_are_as_much_more_patient() {
    let probe = json!({ "startupProbe": { "httpGet": { "port": 8080 }, "periodSeconds": 5, "failureThreshold": 6 } });
    let slow = template(probe);
    let plan = blueprint(&slow, &order(&ABSOLUTE));
    // A tenth of the CPU: 30 s become 300, and the instance has to boot besides.
    assert_eq!(plan.startup, SignedDuration::from_secs(420));
    let pod = made(&slow, &order(&ABSOLUTE), true);
    assert_eq!(pod["spec"]["containers"][0]["startupProbe"]["failureThreshold"], 60);
    let live = template(json!({ "livenessProbe": { "periodSeconds": 10, "failureThreshold": 3 } }));
    let pod = made(&live, &order(&ABSOLUTE), true);
    assert_eq!(pod["spec"]["containers"][0]["livenessProbe"]["initialDelaySeconds"], 270);
}

#[test]
fn whatever_makes_it_another_pod_makes_another_build() {
    let base = template(json!({}));
    let (twice, listed) = (Sizing::Absolute(Size { cpu_millis: 200, ..SMALL }), Sizing::Listed(vec![SMALL]));
    let hash = |template: &Template, order: &Order| blueprint(template, order).hash;
    let first = hash(&base, &order(&ABSOLUTE));
    assert_eq!(hash(&template(json!({})), &order(&listed)), first, "the same Pod by another way");
    assert_ne!(hash(&template(json!({ "image": "shop/web@sha256:2" })), &order(&ABSOLUTE)), first);
    assert_ne!(hash(&base, &order(&twice)), first);
    assert_ne!(hash(&base, &Order { class: "other", ..order(&ABSOLUTE) }), first);
    assert_ne!(hash(&base, &Order { bound: Some(1), ..order(&ABSOLUTE) }), first);
    let needs = Needs { seen_bytes: Some(500 * MI), killed_at_bytes: None };
    assert_ne!(hash(&base, &Order { needs, ..order(&ABSOLUTE) }), first);
}

#[test]
fn a_fraction_is_of_the_user_containers_and_of_what_is_bought_where_they_say_nothing() {
    let least = Size { cpu_millis: 1, memory_bytes: MI };
    let sizing = Sizing::Fraction { cpu_percent: 10, memory_percent: 25, least };
    let said = blueprint(&template(json!({})), &order(&sizing)).sized.size;
    assert_eq!(said, Size { cpu_millis: 100, memory_bytes: 256 * MI });
    let unsaid = blueprint(&template(json!({ "resources": {} })), &order(&sizing)).sized.size;
    assert_eq!(unsaid, Size { cpu_millis: 25, memory_bytes: 64 * MI });
}

#[test]
fn an_end_for_want_of_memory_is_seen_in_user_containers_alone() {
    let ended = |name: &str, reason: &str| {
        let state = json!({ "terminated": { "exitCode": 137, "reason": reason } });
        let status =
            json!({ "name": name, "ready": false, "restartCount": 1, "image": "", "imageID": "", "lastState": state });
        let pod = json!({ "metadata": {}, "status": { "containerStatuses": [status] } });
        ran_out_of_memory(&serde_json::from_value(pod).unwrap())
    };
    assert!(ended("user-container", "OOMKilled"));
    assert!(!ended("user-container", "Error") && !ended("queue-proxy", "OOMKilled"));
}

#[test]
fn a_plain_deployment_s_reserve_has_its_template_s_labels_only_while_it_is_attached() {
    let template = from(json!([{ "name": "web" }]));
    let plan = blueprint(&template, &order(&ABSOLUTE));
    let who = |attached| Identity {
        namespace: "shop",
        kind: Kind::Deployment,
        owner: "web",
        owner_uid: "d1",
        name: "web-reserve-aaaa-1",
        attached,
        now: Timestamp::UNIX_EPOCH,
    };
    let made = |attached| serde_json::to_value(pod(&template, &plan, &who(attached))).unwrap();
    assert_eq!(made(false)["metadata"]["labels"], json!({ RESERVE_OF: "d1" }));
    let attached = made(true);
    let labels = &attached["metadata"]["labels"];
    assert_eq!(
        (&labels["app"], &labels[RESERVE_OF], &labels[ATTACHED]),
        (&json!("web-00001"), &json!("d1"), &json!("true"))
    );
    assert!(labels.get(TEMPLATE_HASH).is_none());
    assert_eq!(attached["metadata"]["ownerReferences"][0]["kind"], "Deployment");
}
