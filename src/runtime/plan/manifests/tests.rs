//! What is read of manifests, and what is not.

use super::*;

fn parsed(text: &str) -> Result<Manifests, String> {
    let mut manifests = Manifests::default();
    parse(text, "default", &mut manifests).map(|()| manifests).map_err(|error| format!("{error:#}"))
}

#[test]
fn documents_and_lists_give_their_workloads_and_name_what_makes_no_pods() {
    let manifests = parsed(
        "kind: Service\nmetadata: {name: web}\n---\n---\nkind: List\nitems:\n\
         - {kind: Pod, metadata: {name: one}, spec: {containers: [{name: a, image: b, resources: {requests: {cpu: 2}}}]}}\n\
         - {kind: Job, metadata: {name: two, namespace: jobs}, spec: {parallelism: 5, completions: 3, template: {spec: {containers: [{name: a}]}}}}\n",
    )
    .unwrap();
    let found: Vec<_> =
        manifests.workloads.iter().map(|w| (w.kind.as_str(), w.namespace.as_str(), w.replicas)).collect();
    assert_eq!(found, [("Pod", "default", 1), ("Job", "jobs", 3)]);
    assert_eq!(manifests.skipped, ["Service default/web"]);
}

#[test]
fn what_cannot_be_planned_is_refused_with_its_field() {
    for (text, expected) in [
        ("kind: Deployment\nmetadata: {name: a}\nspec: {}", "spec.template: expected a Pod template"),
        ("kind: Deployment\nmetadata: {name: a}\nspec: {replicas: -1}", "spec.replicas: -1"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: 3}", "spec.containers"),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, resurces: {}}]}",
            "Pod default/a: spec.containers[0].resurces: unknown field: expected one of v1 Pod",
        ),
        (
            "kind: Deployment\nmetadata: {name: a}\nspec: {replica: 3, template: {spec: {containers: []}}}",
            "Deployment default/a: spec.replica: unknown field: expected one of apps/v1 Deployment",
        ),
        (
            "---\nkind: Service\nmetadata: {name: a}\n---\nkind: CronJob\nmetadata: {name: a}\n\
             spec: {jobTemplate: {spec: {paralelism: 3, template: {spec: {containers: []}}}}}",
            "document 2: CronJob default/a: spec.jobTemplate.spec.paralelism: unknown field",
        ),
        (
            "kind: StatefulSet\nmetadata: {name: a}\nreplicas: 3\nspec: {template: {spec: {containers: []}}}",
            "StatefulSet default/a: replicas: unknown field",
        ),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n\
             spec: {tempalte: {}, template: {spec: {containers: []}}}",
            "Service default/a: spec.tempalte: unknown field: expected template or traffic",
        ),
        (
            "{kind: List, items: [{kind: Pod, metadata: {name: a}, spec: {containers: []}}, \
             {kind: Pod, metadata: {name: a}, spec: {containers: []}}]}",
            "Pod default/a: is given twice",
        ),
        ("metadata: {name: a}", "kind: expected"),
    ] {
        let refusal = parsed(text).err().expect("refused");
        assert!(refusal.contains(expected), "{text}: {refusal}");
    }
}

#[test]
fn what_a_cluster_says_of_its_objects_is_read_as_it_is() {
    let manifests = parsed(
        "kind: DeploymentList\napiVersion: apps/v1\nitems:\n\
         - metadata: {name: web, uid: abc, creationTimestamp: null, managedFields: [{manager: kubectl, fieldsV1: {\"f:spec\": {}}}]}\n  \
           spec: {replicas: 2, selector: {matchLabels: {app: web}}, strategy: {rollingUpdate: {maxSurge: 25%}}, \
           template: {metadata: {creationTimestamp: null}, spec: {containers: [{name: a, image: b, resources: {}}], volumes: []}}}\n  \
           status: {replicas: 2, ofALaterVersion: 3}\n",
    );
    let manifests = manifests.unwrap();
    assert_eq!(
        (manifests.workloads[0].to_string().as_str(), manifests.workloads[0].replicas),
        ("Deployment default/web", 2)
    );
}

#[test]
fn a_kind_is_that_of_its_api_group() {
    let spec = "spec: {tasks: 3, template: {spec: {containers: []}}}";
    let manifests = parsed(&format!(
        "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {{name: a}}\n{spec}\n---\n\
         apiVersion: apps.kruise.io/v1beta1\nkind: StatefulSet\nmetadata: {{name: a}}\n{spec}\n---\n\
         apiVersion: apps.kruise.io/v1alpha1\nkind: DaemonSetList\nitems: [{{metadata: {{name: a}}, {spec}}}]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: None}}\n---\n\
         apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {{name: a}}\n\
         spec: {{template: {{spec: {{containers: []}}}}}}\n"
    ))
    .unwrap();
    let workloads: Vec<String> = manifests.workloads.iter().map(ToString::to_string).collect();
    assert_eq!(workloads, ["Deployment default/a"]);
    let skipped = [
        "Job default/a (batch.volcano.sh/v1alpha1)",
        "StatefulSet default/a (apps.kruise.io/v1beta1)",
        "DaemonSet default/a (apps.kruise.io/v1alpha1)",
        "Service default/a",
    ];
    assert_eq!(manifests.skipped, skipped);
}

/// An object as a cluster tells it, by what it is made by.
fn made(kind: &str, name: &str, by: Option<(&str, &str, &str)>) -> String {
    let owner = by.map_or(String::new(), |(version, kind, name)| {
        format!(", ownerReferences: [{{apiVersion: {version}, kind: {kind}, name: {name}, uid: u, controller: true}}]")
    });
    let spec = if kind.ends_with("Pod") { "containers: []" } else { "template: {spec: {containers: []}}" };
    format!("- {{kind: {kind}, metadata: {{name: {name}, namespace: shop{owner}}}, spec: {{{spec}}}}}\n")
}

#[test]
fn of_an_object_and_what_it_is_made_by_one_is_planned_for() {
    let knative = |kind: &str, name: &str, by| {
        let version = "apiVersion: serving.knative.dev/v1, kind";
        made(kind, name, by).replacen("kind", version, 1)
    };
    let all = [
        // In any order.
        made("Pod", "web-1-a", Some(("apps/v1", "ReplicaSet", "web-1"))),
        made("ReplicaSet", "web-1", Some(("apps/v1", "Deployment", "web"))),
        made("Deployment", "web", None),
        // The Deployment was not asked for, or its like is another namespace's or another's.
        made("ReplicaSet", "shop-1", Some(("apps/v1", "Deployment", "shop"))),
        made("Deployment", "shop", None).replace("namespace: shop", "namespace: other"),
        made("Pod", "shop-1-a", Some(("apps/v1", "ReplicaSet", "shop-1"))),
        made("Pod", "train-a", Some(("batch.volcano.sh/v1alpha1", "Job", "train"))),
        made("Job", "train", None),
        made("Pod", "alone", None),
        made("Pod", "reserve", Some(("apps/v1", "Deployment", "web")))
            .replace("namespace", "labels: {pilotlight.dev/reserve-of: u}, namespace"),
        // By way of what makes no Pods itself.
        knative("Service", "hello", None),
        knative("Configuration", "hello", Some(("serving.knative.dev/v1", "Service", "hello"))),
        knative("Revision", "hello-1", Some(("serving.knative.dev/v1", "Configuration", "hello"))),
        made("Deployment", "hello-1-d", Some(("serving.knative.dev/v1", "Revision", "hello-1"))),
        // What is skipped is not planned for in its place.
        made("ReplicaSet", "roll-1", Some(("argoproj.io/v1alpha1", "Rollout", "roll"))),
        made("Rollout", "roll", None).replacen("kind", "apiVersion: argoproj.io/v1alpha1, kind", 1),
    ];
    let mut manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
    manifests.settle();
    let names: Vec<String> = manifests.workloads.iter().map(ToString::to_string).collect();
    let planned = [
        "Deployment shop/web",
        "ReplicaSet shop/shop-1",
        "Deployment other/shop",
        "Pod shop/train-a",
        "Job shop/train",
        "Pod shop/alone",
        "Pod shop/reserve",
        "Service shop/hello",
        "ReplicaSet shop/roll-1",
    ];
    assert_eq!(names, planned);
    let made_by_others =
        ["Pod shop/web-1-a", "ReplicaSet shop/web-1", "Pod shop/shop-1-a", "Deployment shop/hello-1-d"];
    assert_eq!(manifests.made_by_others, made_by_others);
}

#[test]
fn a_pod_is_found_to_be_of_what_is_given_though_what_is_between_them_is_not() {
    let hashed = |name: &str, set: &str, hash: &str| {
        made("Pod", name, Some(("apps/v1", "ReplicaSet", set)))
            .replace("namespace", &format!("labels: {{pod-template-hash: '{hash}'}}, namespace"))
    };
    let job = |name: &str, job: &str| made("Pod", name, Some(("batch/v1", "Job", job)));
    let nightly = "- {kind: CronJob, metadata: {name: nightly, namespace: shop}, \
                   spec: {jobTemplate: {spec: {template: {spec: {containers: []}}}}}}\n";
    let all = [
        made("Deployment", "web", None),
        nightly.to_owned(),
        hashed("web-5d9c-x", "web-5d9c", "5d9c"),
        hashed("web-set-x", "web-set", "5d9c"),
        job("nightly-293-x", "nightly-293"),
        job("nightly-by-hand-x", "nightly-by-hand"),
    ];
    let mut manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
    manifests.settle();
    assert_eq!(manifests.made_by_others, ["Pod shop/web-5d9c-x", "Pod shop/nightly-293-x"]);
}

#[test]
fn jobs_that_have_ended_or_are_suspended_are_not_planned_for() {
    let job = |name: &str, with: &str, status: &str| {
        format!(
            "- {{kind: Job, metadata: {{name: {name}}}, spec: {{{with}template: {{spec: {{containers: []}}}}}}, \
             status: {{conditions: [{{type: {status}, status: 'True'}}]}}}}\n"
        )
    };
    let all = [
        job("done", "", "Complete"),
        job("broken", "", "Failed"),
        job("waits", "suspend: true, ", "Suspended"),
        job("runs", "suspend: false, ", "FailureTarget"),
    ];
    let manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
    let named = ["Job default/done (Complete)", "Job default/broken (Failed)", "Job default/waits (suspended)"];
    assert_eq!((manifests.workloads.len(), manifests.skipped.as_slice()), (1, named.map(str::to_owned).as_slice()));
}

#[test]
fn objects_that_claim_to_be_made_by_each_other_end_the_search() {
    let by = |name| Some(("example.com/v1", "Ring", name));
    let ring = |name, of| made("Ring", name, by(of)).replacen("kind", "apiVersion: example.com/v1, kind", 1);
    let all = [made("Pod", "one", by("a")), ring("a", "b"), ring("b", "a")];
    let mut manifests = parsed(&format!("kind: List\nitems:\n{}", all.concat())).unwrap();
    manifests.settle();
    assert_eq!(manifests.workloads.len(), 1);
}

#[test]
fn pods_that_have_ended_are_not_planned_for() {
    let pod = |phase: &str| {
        made("Pod", &phase.to_lowercase(), None).replace("}}\n", &format!("}}, status: {{phase: {phase}}}}}\n"))
    };
    let all = ["Succeeded", "Failed", "Running", "Pending"].map(pod).concat();
    let manifests = parsed(&format!("kind: List\nitems:\n{all}")).unwrap();
    assert_eq!(manifests.workloads.len(), 2);
    assert_eq!(manifests.skipped, ["Pod shop/succeeded (Succeeded)", "Pod shop/failed (Failed)"]);
}

#[test]
fn a_clusters_worth_of_objects_is_read() {
    // Beyond what a YAML reader takes of a stranger: of values, and of documents.
    let values = "0, ".repeat(260_000);
    let list = format!("kind: List\nitems:\n- {{kind: Thing, metadata: {{name: a}}, spec: [{values}]}}\n");
    assert_eq!(parsed(&list).unwrap().skipped, ["Thing default/a"]);
    let documents: String =
        (0..1500).map(|number| format!("---\n{{kind: Service, metadata: {{name: s-{number}}}}}\n")).collect();
    assert_eq!(parsed(&documents).unwrap().skipped.len(), 1500);
}

#[test]
fn a_null_is_what_was_not_given() {
    let manifests = parsed(
        "kind: Deployment\nmetadata: {name: web, labels: null}\nspec:\n  replicas: null\n  template:\n    \
         metadata: {annotations: {checksum/config: }}\n    \
         spec: {nodeSelector: {disktype: null}, volumes: null, containers: [{name: a, image: b, \
         command: null, resources: {limits: {cpu: null, memory: 1Gi}, requests: }}]}\n---\nkind: List\nitems: null\n",
    )
    .unwrap();
    let workload = &manifests.workloads[0];
    let spec = workload.template.spec.as_ref().unwrap();
    // The API server's, too, is an empty text.
    assert_eq!(spec.node_selector.as_ref().unwrap()["disktype"], "");
    let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
    assert_eq!((workload.replicas, limits.keys().collect::<Vec<_>>()), (1, vec![&"memory".to_owned()]));
    let in_a_list = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [null]}";
    assert!(parsed(in_a_list).err().unwrap().contains("spec.containers"));
}

#[test]
fn no_two_objects_share_a_controller() {
    let spec = "template: {spec: {containers: []}}";
    let manifests = parsed(&format!(
        "kind: List\nitems:\n\
         - {{kind: Job, metadata: {{name: a}}, spec: {{{spec}}}}}\n\
         - {{kind: CronJob, metadata: {{name: a}}, spec: {{jobTemplate: {{spec: {{{spec}}}}}}}}}\n\
         - {{kind: ReplicaSet, metadata: {{name: a}}, spec: {{{spec}}}}}\n\
         - {{kind: Deployment, metadata: {{name: a}}, spec: {{{spec}}}}}\n\
         - {{kind: Job, metadata: {{generateName: a}}, spec: {{{spec}}}}}\n\
         - {{kind: Job, metadata: {{generateName: a}}, spec: {{{spec}}}}}\n"
    ))
    .unwrap();
    let owners: BTreeSet<_> = manifests.workloads.iter().map(|workload| workload.owner.clone()).collect();
    assert_eq!(owners.len(), manifests.workloads.len(), "{owners:?}");
    assert!(owners.contains(&Some(("Job".to_owned(), "a".to_owned()))));
}
