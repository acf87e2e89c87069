//! The controllers of Kubernetes, with their Pods on virtual nodes.

use crate::support::*;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::Pod,
};
use serde_json::{Value, json};

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": replicas, "selector": selector(name), "template": template(name, spec(&[idle()])) },
    })
}

#[tokio::test]
async fn a_deployment_scales_from_zero_to_three_and_back() {
    let space = Space::new("deployment").await;
    space.apply(&deployment("web", 0)).await;
    let ready = |deployment: Option<&Deployment>, wanted: i32| {
        let status = deployment.and_then(|d| d.status.as_ref());
        status.is_some_and(|s| {
            s.ready_replicas.unwrap_or(0) == wanted
                && s.replicas.unwrap_or(0) == wanted
                && s.observed_generation.is_some()
        })
    };
    space.until::<Deployment>("web", "has no replicas", |d| ready(d, 0)).await;
    space.kubectl(&["scale", "deployment/web", "--replicas=3"]).await;
    space.until::<Deployment>("web", "has three ready replicas", |d| ready(d, 3)).await;
    let pods = space.pods_of("web").await;
    let instances: std::collections::BTreeSet<String> = pods.iter().map(|p| annotation(p, "instance-id")).collect();
    assert_eq!(instances.len(), 3, "each has an instance of its own: {instances:?}");
    space.kubectl(&["scale", "deployment/web", "--replicas=0"]).await;
    space.until::<Deployment>("web", "has no replicas again", |d| ready(d, 0)).await;
    for pod in pods {
        space.until_gone(pod.metadata.name.as_deref().expect("named")).await;
    }
}

#[tokio::test]
async fn a_deployment_rolls_to_a_new_template() {
    let space = Space::new("rollout").await;
    space.apply(&deployment("web", 1)).await;
    space.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).await;
    space.kubectl(&["set", "env", "deployment/web", "VERSION=two"]).await;
    space.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).await;
    let told = space.kubectl(&["exec", "deployment/web", "--", "sh", "-c", "echo $VERSION"]).await;
    assert_eq!(told, "two\n");
}

#[tokio::test]
async fn a_stateful_sets_pods_come_in_order_with_stable_names() {
    let space = Space::new("stateful").await;
    space
        .apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db" },
            "spec": { "clusterIP": "None", "selector": { "app": "db" }, "ports": [{ "port": 80 }] },
        }))
        .await;
    space
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
            "spec": { "replicas": 2, "serviceName": "db", "selector": selector("db"), "template": template("db", spec(&[idle()])) },
        }))
        .await;
    let ready = |set: Option<&StatefulSet>, n| set.and_then(|s| s.status.as_ref()?.ready_replicas) == Some(n);
    space.until::<StatefulSet>("db", "has two ready replicas", |set| ready(set, 2)).await;
    assert_eq!(space.exec("db-0", "hostname -f").await, format!("db-0.db.{}.svc.cluster.local", space.name));
    // Found by its own name in DNS.
    let found = space.until_exec("db-0", &format!("nslookup db-1.db.{}.svc.cluster.local", space.name), |_| true).await;
    let other = space.until_running("db-1").await;
    let ip = other.status.as_ref().and_then(|s| s.pod_ip.clone()).expect("an address");
    assert!(found.contains(&ip), "{found} does not tell {ip}");
    let before = other.metadata.uid.clone();
    delete(&space.api::<Pod>(), "db-1", None).await;
    space.until_pod("db-1", "was made anew and runs", |p| p.metadata.uid != before && condition(p, "Ready")).await;
}

#[tokio::test]
async fn a_job_runs_to_completion_and_its_logs_can_be_read() {
    let space = Space::new("job").await;
    let work = with(spec(&[shell("echo done $JOB_COMPLETION_INDEX")]), json!({ "restartPolicy": "Never" }));
    space
        .apply(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "work" },
            "spec": { "completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": template("work", work) },
        }))
        .await;
    space.until::<Job>("work", "is complete", |job| succeeded(job) == 2).await;
    let mut lines: Vec<String> = Vec::new();
    for pod in space.pods_of("work").await {
        assert_eq!(phase(&pod), "Succeeded");
        assert_eq!(ended(&pod, "main"), Some((0, "Completed".to_owned())));
        lines.push(space.kubectl(&["logs", pod.metadata.name.as_deref().expect("named")]).await);
    }
    lines.sort();
    assert_eq!(lines, ["done 0\n", "done 1\n"]);
}

#[tokio::test]
async fn a_failing_job_is_tried_again_and_then_given_up() {
    let space = Space::new("badjob").await;
    let work = with(spec(&[shell("exit 5")]), json!({ "restartPolicy": "Never" }));
    space
        .apply(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "bad" },
            "spec": { "backoffLimit": 0, "template": template("bad", work) },
        }))
        .await;
    let failed = |job: Option<&Job>| {
        let conditions = job.and_then(|j| j.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|list| list.iter().any(|c| c.type_ == "Failed" && c.status == "True"))
    };
    space.until::<Job>("bad", "has failed", failed).await;
    let pods = space.pods_of("bad").await;
    assert_eq!(pods.iter().map(phase).collect::<Vec<_>>(), ["Failed"]);
    assert_eq!(ended(&pods[0], "main"), Some((5, "Error".to_owned())));
}

#[tokio::test]
async fn a_cron_jobs_template_runs() {
    let space = Space::new("cron").await;
    let work = with(spec(&[shell("echo tick")]), json!({ "restartPolicy": "OnFailure" }));
    space
        .apply(&json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "nightly" },
            "spec": { "schedule": "0 3 * * *", "jobTemplate": { "spec": { "template": template("nightly", work) } } },
        }))
        .await;
    space.kubectl(&["create", "job", "now", "--from=cronjob/nightly"]).await;
    space.until::<Job>("now", "is complete", |job| succeeded(job) == 1).await;
    assert_eq!(space.kubectl(&["logs", "job/now"]).await, "tick\n");
}

fn succeeded(job: Option<&Job>) -> i32 {
    job.and_then(|j| j.status.as_ref()?.succeeded).unwrap_or(0)
}
