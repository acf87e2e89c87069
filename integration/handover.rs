//! A Pod goes from one instance to another: while it is asked to, while its instance is about to be taken back, while
//! the provider is killed. A client that never pauses loses nothing.
//!
//! One of these kills the provider of the cluster that the tests share, so they take turns; `scripts/test` runs them
//! when nothing else uses the cluster.

#[path = "support/mod.rs"]
mod support;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::Pod,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf, time::Duration};
use support::*;
use tokio::{
    process::Command,
    sync::{Mutex, MutexGuard},
    time::timeout,
};

async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Answers `/hostname` on port 8080.
fn server() -> Value {
    json!({
        "name": "main", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
        "readinessProbe": { "httpGet": { "port": 8080, "path": "/hostname" }, "periodSeconds": 1 },
    })
}

/// A Pod that asks the Service without pause and writes down what fails, until it is told to stop.
const ASK: &str = "ok=0
while [ ! -e /tmp/stop ]; do
  if timeout 20 wget -q -O /dev/null http://$WEB_SERVICE_HOST/hostname; then ok=$((ok + 1)); else echo \"lost after $ok\"; fi
  [ $ok -gt 0 ] && touch /tmp/answered
done
echo \"answered $ok\"
exec sleep 1000000";

struct Load<'a> {
    space: &'a Space,
}

impl<'a> Load<'a> {
    /// Returns when the first request was answered.
    async fn start(space: &'a Space) -> Self {
        space.apply(&pod("client", spec(&[shell(ASK)]))).await;
        space.until_running("client").await;
        space.until_exec("client", "ls /tmp/answered", |_| true).await;
        Self { space }
    }

    /// Stops it; how many were answered. Fails the test if one was not.
    async fn stop(self) -> u64 {
        self.space.exec("client", "touch /tmp/stop").await;
        let last = self.space.until_log("client", &[], |line| line.starts_with("answered")).await;
        let log = self.space.kubectl(&["logs", "client"]).await;
        let lost: Vec<&str> = log.lines().filter(|line| line.starts_with("lost")).collect();
        assert!(lost.is_empty(), "{lost:?} of {last}");
        last.trim_start_matches("answered ").trim().parse().expect("a number")
    }
}

/// A Service and a Deployment of one Pod behind it, which is ready; the Pod's name.
async fn web(space: &Space) -> String {
    space.apply(&service("web", 8080)).await;
    space
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 1, "selector": selector("web"), "template": template("web", spec(&[server()])) },
        }))
        .await;
    let available = |d: Option<&Deployment>| d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(1);
    space.until::<Deployment>("web", "is available", available).await;
    space.pods_of("web").await.remove(0).metadata.name.expect("named")
}

struct Moved {
    code: Option<i32>,
    text: String,
}

async fn move_pod(space: &Space, args: &[&str]) -> Moved {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("move").args(args).env("KUBECONFIG", space.cluster.kubeconfig()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("a move is over in time").expect("it can be run");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Moved { code: output.status.code(), text }
}

fn reason(pod: &Pod, kind: &str) -> Option<String> {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == kind)?.reason.clone()
}

async fn until_let_go(space: &Space, instance: &str) {
    let disk = space.cluster.instance_dir(instance).join("disk");
    let gone = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        while disk.exists() {
            tick.tick().await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok(), "{} is still there", disk.display());
}

/// It is on another instance, and the first has been let go.
async fn until_moved(space: &Space, before: &Pod) -> Pod {
    let name = before.metadata.name.as_deref().expect("named");
    let (old, uid) = (annotation(before, "instance-id"), before.metadata.uid.clone());
    let over = |pod: &Pod| {
        annotation(pod, "instance-id") != old
            && !condition(pod, "pilotlight.dev/Handover")
            && reason(pod, "pilotlight.dev/Handover").as_deref() == Some("Completed")
    };
    let pod = space.until_pod(name, "is on another instance", over).await;
    assert_eq!(pod.metadata.uid, uid, "it is the same Pod");
    assert!(phase(&pod) == "Running" && condition(&pod, "Ready"));
    until_let_go(space, &old).await;
    pod
}

#[tokio::test]
async fn no_request_is_lost_while_a_pod_moves_again_and_again() {
    let _turn = alone().await;
    let space = Space::new("move").await;
    let name = web(&space).await;
    let load = Load::start(&space).await;
    let mut pod = space.until_running(&name).await;
    let mut instances = BTreeSet::from([annotation(&pod, "instance-id")]);
    for _ in 0..3 {
        let moved = move_pod(&space, &[&name, "-n", &space.name]).await;
        assert_eq!(moved.code, Some(0), "{}", moved.text);
        assert!(moved.text.contains("HandoverSwitched"), "{}", moved.text);
        let before = pod;
        pod = until_moved(&space, &before).await;
        assert!(instances.insert(annotation(&pod, "instance-id")), "each time another");
        let (old, new) = (container(&before, "main").expect("main"), container(&pod, "main").expect("main"));
        assert_ne!(old.container_id, new.container_id);
        assert_eq!(new.restart_count, 0, "of the container that runs now");
        let address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        assert_ne!(address(&before), address(&pod));
        // Commands and logs are those of the new one.
        let ip = space.exec(&name, "hostname -i").await;
        assert_eq!(Some(ip), address(&pod));
        space.until_log(&name, &[], |line| !line.is_empty()).await;
    }
    assert!(load.stop().await > 0);
    // What is deleted in the middle of a move is deleted: nothing of it stays.
    let last = annotation(&pod, "instance-id");
    space.kubectl(&["annotate", "--overwrite", "pod", &name, "pilotlight.dev/move=again"]).await;
    space.until_pod(&name, "is on its way", |pod| condition(pod, "pilotlight.dev/Handover")).await;
    space.kubectl(&["delete", "deployment", "web"]).await;
    space.until_gone(&name).await;
    until_let_go(&space, &last).await;
}

#[tokio::test]
async fn no_request_is_lost_when_the_cloud_takes_the_instance_back() {
    let _turn = alone().await;
    let space = Space::new("spot").await;
    let name = web(&space).await;
    let load = Load::start(&space).await;
    let before = space.until_running(&name).await;
    space.cluster.announce(&before, "interruption", 120).await;
    let doomed = |pod: &Pod| reason(pod, "pilotlight.dev/InstanceDoomed").as_deref() == Some("SpotInterrupted");
    space.until_pod(&name, "is known to be doomed", doomed).await;
    let after = until_moved(&space, &before).await;
    assert!(!condition(&after, "pilotlight.dev/InstanceDoomed"));
    assert!(load.stop().await > 0);
    let old = annotation(&before, "instance-id");
    for reason in ["SpotInterrupted", "HandoverStarted", "HandoverSwitched", "HandoverCompleted"] {
        space.until_event(&name, reason, |message| reason == "HandoverStarted" || message.contains(&old)).await;
    }
}

#[tokio::test]
async fn a_stateful_sets_pod_is_not_moved_and_makes_way_for_its_successor_at_a_notice() {
    let _turn = alone().await;
    let space = Space::new("stateful").await;
    space
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
            "spec": { "replicas": 1, "serviceName": "db", "selector": selector("db"), "template": template("db", spec(&[idle()])) },
        }))
        .await;
    let ready = |set: Option<&StatefulSet>| set.and_then(|s| s.status.as_ref()?.ready_replicas) == Some(1);
    space.until::<StatefulSet>("db", "is ready", ready).await;
    let before = space.until_running("db-0").await;
    let refused = move_pod(&space, &[&format!("{}/db-0", space.name)]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.text.contains("a Pod of a StatefulSet must not run twice"), "{}", refused.text);
    // Also where somebody asks past the command line.
    space.kubectl(&["annotate", "pod", "db-0", "pilotlight.dev/move=please"]).await;
    let said = |pod: &Pod| reason(pod, "pilotlight.dev/Handover").as_deref() == Some("NotMovable");
    let same = space.until_pod("db-0", "is refused", said).await;
    assert_eq!(annotation(&same, "instance-id"), annotation(&before, "instance-id"));

    space.cluster.announce(&before, "interruption", 120).await;
    let succeeded =
        |pod: &Pod| pod.metadata.uid != before.metadata.uid && phase(pod) == "Running" && condition(pod, "Ready");
    let after = space.until_pod("db-0", "was made anew and runs", succeeded).await;
    assert_ne!(annotation(&after, "instance-id"), annotation(&before, "instance-id"));
    space.until_event("db-0", "TerminatingOnInterruption", |_| true).await;
}

#[tokio::test]
async fn a_bare_pod_that_must_not_run_twice_is_stopped_in_time_and_says_why() {
    let _turn = alone().await;
    let space = Space::new("bare").await;
    let script = "trap 'echo stopped in order; exit 0' TERM; while :; do sleep 0.1; done";
    space.apply(&once("bare", script)).await;
    let before = space.until_running("bare").await;
    // Five seconds of margin and one of grace before: about twenty seconds from now.
    space.cluster.announce(&before, "interruption", 26).await;
    let failed = space.until_phase("bare", "Failed").await;
    assert_eq!(failed.status.as_ref().and_then(|s| s.reason.as_deref()), Some("InstanceInterrupted"));
    assert!(condition(&failed, "DisruptionTarget"));
    let orderly = |pod: &Pod| ended(pod, "main") == Some((0, "Completed".to_owned()));
    space.until_pod("bare", "stopped by itself, with its grace period", orderly).await;
}

#[tokio::test]
async fn a_provider_that_is_killed_in_the_middle_of_a_move_ends_it_and_no_request_is_lost() {
    let _turn = alone().await;
    let space = Space::new("killed").await;
    let name = web(&space).await;
    let load = Load::start(&space).await;
    let provider = |action: &str| {
        let output = space.cluster.script("provider", &[action]).output().expect("scripts/provider can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let mut before = space.until_running(&name).await;
    // At its beginning; when the second instance is named; when the first drains.
    for (number, stage) in ["AwaitingInstance", "Starting", "Draining"].into_iter().enumerate() {
        space.kubectl(&["annotate", "--overwrite", "pod", &name, &format!("pilotlight.dev/move={number}")]).await;
        let there = |pod: &Pod| {
            // A stage may be over before it is seen: then a later one will do.
            let at = reason(pod, "pilotlight.dev/Handover");
            let later = annotation(pod, "instance-id") != annotation(&before, "instance-id");
            at.as_deref() == Some(stage) && condition(pod, "pilotlight.dev/Handover") || later
        };
        space.until_pod(&name, stage, there).await;
        provider("kill");
        provider("up");
        before = until_moved(&space, &before).await;
    }
    assert!(load.stop().await > 0);
}

/// The running provider takes up another cost policy, until this is dropped.
struct Policy {
    config: PathBuf,
    before: String,
}

impl Policy {
    /// As without a policy, with these settings beside.
    fn with(settings: &str) -> Self {
        let dir = Cluster::get().state.join("provider");
        let (config, policy) = (dir.join("provider.yaml"), dir.join("handover-cost-policy.yaml"));
        let before = std::fs::read_to_string(&config).expect("the provider is configured");
        let usual = "defaults:
  purchase: [{option: on-demand}]
  instances: {burstable: true}
  sizing: {mode: requests, requests: {cpu: 250m, memory: 256Mi}}
";
        std::fs::write(&policy, format!("{usual}{settings}")).expect("it can be written");
        let this = Self { config, before };
        let lines = this.before.lines().filter(|line| !line.starts_with("costPolicy: "));
        let other = lines.map(|line| format!("{line}\n")).collect::<String>();
        this.write(&format!("{other}costPolicy: {}\n", policy.display()));
        this
    }

    /// At once whole: the provider looks at any time.
    fn write(&self, text: &str) {
        let new = self.config.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.config)).expect("it can be written");
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.write(&self.before);
    }
}

/// Asks again and again, until the policy is taken up that such an answer is of.
async fn answer(space: &Space, args: &[&str], of_the_policy: impl Fn(&Moved) -> bool) -> Moved {
    let asked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            let moved = move_pod(space, args).await;
            if of_the_policy(&moved) {
                return moved;
            }
        }
    };
    timeout(PATIENCE, asked).await.expect("the policy is taken up")
}

#[tokio::test]
async fn a_pod_moves_to_the_class_it_is_told_to_where_the_policy_permits_it_and_no_request_is_lost() {
    let _turn = alone().await;
    let space = Space::new("class").await;
    let name = web(&space).await;
    let before = space.until_running(&name).await;
    let to = ["--to", "roomy", "-n", &space.name, &name];
    let refused = move_pod(&space, &to).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.text.contains("no class named \"roomy\""), "{}", refused.text);

    let class = "classes:
  - {name: roomy, match: {annotations: {pilotlight.dev/use-class: roomy}}, instances: {allow: [c6i.xlarge]}}
";
    let forbids = |moved: &Moved| moved.text.contains("overrides.move-to-class");
    let policy = Policy::with(class);
    let refused = answer(&space, &to, forbids).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    drop(policy);

    let load = Load::start(&space).await;
    let _policy = Policy::with(&format!("overrides: {{move-to-class: allow}}\n{class}"));
    let moved = answer(&space, &to, |moved| moved.code == Some(0)).await;
    assert!(moved.text.contains("HandoverSwitched"), "{}", moved.text);
    let after = until_moved(&space, &before).await;
    assert_eq!(annotation(&after, "instance-type"), "c6i.xlarge");
    assert_eq!(annotation(&after, "class"), "roomy");
    assert!(load.stop().await > 0);
}

#[tokio::test]
async fn an_instance_that_is_too_old_or_better_replaced_is_and_no_request_is_lost() {
    let _turn = alone().await;
    let space = Space::new("aged").await;
    let name = web(&space).await;
    let load = Load::start(&space).await;
    let first = space.until_running(&name).await;
    let second = {
        let _policy = Policy::with("  interruption: {rebalance: replace}\n");
        space.cluster.announce(&first, "rebalance", 0).await;
        let second = until_moved(&space, &first).await;
        space.until_event(&name, "SpotRebalanceRecommendation", |_| true).await;
        second
    };
    let _policy = Policy::with("  ttl: {maxLifetime: 20s}\n");
    until_moved(&space, &second).await;
    space.until_event(&name, "InstanceExpired", |_| true).await;
    assert!(load.stop().await > 0);
}
