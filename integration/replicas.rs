//! Two providers, of which one leads: kill -9, SIGTERM and a stolen lease, and Pods that never notice.
//!
//! These stop the provider of the cluster that the tests share and run two replicas in its place, with an
//! instance store and an authority of their own; they take turns, and start it again in the end.

#[path = "support/mod.rs"]
mod support;

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use support::*;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

const NAMESPACE: &str = "pilotlight-system";
const LEASE: &str = "pilotlight";
const AUTHORITY: &str = "pilotlight-agent-ca";
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// `runtime::leading::LOST`.
const LOST: i32 = 3;

/// The two replicas' files, and what they leave.
struct Pair {
    cluster: &'static Cluster,
    dir: PathBuf,
    leases: Api<Lease>,
    secrets: Api<Secret>,
}

struct Replica {
    child: Child,
    telemetry: String,
    log: PathBuf,
}

impl Pair {
    async fn new(space: &Space) -> Self {
        let cluster = space.cluster;
        provider("down");
        let dir = cluster.state.join("replicas");
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&dir).expect("a directory can be made");
        let pair = Self {
            cluster,
            dir,
            leases: Api::namespaced(space.client.clone(), NAMESPACE),
            secrets: Api::namespaced(space.client.clone(), NAMESPACE),
        };
        // An earlier run's leader was killed: nobody should wait for it.
        drop(pair.leases.delete(LEASE, &DeleteParams::default()).await);
        drop(pair.secrets.delete(AUTHORITY, &DeleteParams::default()).await);
        pair
    }

    fn start(&self, name: &str, port: u16) -> Replica {
        let config = fs::read_to_string(self.cluster.state.join("provider/provider.yaml")).expect("it was configured");
        let telemetry = format!("127.0.0.1:{port}");
        let mut changed = String::new();
        for line in config.lines() {
            changed += &match line.trim_start() {
                text if text.starts_with("stateDir:") => format!("stateDir: {}", self.dir.join("state").display()),
                text if text.starts_with("listen: 127.0.0.1") => format!("  listen: {telemetry}"),
                text if text.starts_with("enabled: false") => "  enabled: true".to_owned(),
                text if text.starts_with("# authoritySecret:") => {
                    format!("  authoritySecret: {{namespace: {NAMESPACE}, name: {AUTHORITY}}}")
                }
                _ => line.to_owned(),
            };
            changed.push('\n');
        }
        assert!(changed.contains("enabled: true") && changed.contains("  authoritySecret:"), "{changed}");
        let file = self.dir.join(format!("{name}.yaml"));
        fs::write(&file, changed).expect("written");
        let log = self.dir.join(format!("{name}.log"));
        let out = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        // `scripts/cluster exec` becomes the program: the child is the provider itself.
        let mut command = Command::from(self.cluster.script("cluster", &["exec", "--", "env", "-u", "KUBECONFIG"]));
        command.arg(env!("CARGO_BIN_EXE_pilotlight")).arg("node").arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).kill_on_drop(true);
        let child = command.spawn().expect("a replica can be started");
        Replica { child, telemetry, log }
    }

    /// Waits until the Lease is as wanted.
    async fn until_lease(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let holder = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        let found = await_condition(self.leases.clone(), LEASE, |lease: Option<&Lease>| {
            lease.is_some_and(|lease| wanted(&holder(lease)))
        });
        let found = timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("the lease: not {what} in time"));
        holder(&found.expect("it can be watched").expect("it exists"))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["a", "b"] {
                eprintln!("--- the log of {name}\n{}", tail(&self.dir.join(format!("{name}.log")), 40));
            }
        }
        let instances = self.dir.join("state/instances");
        let mut destroy = self.cluster.script("cluster", &["exec", "--", env!("CARGO_BIN_EXE_pilotlight")]);
        destroy.args(["local-machine", "--destroy-all", "--cluster", &self.cluster.name, "--state-dir"]);
        drop(destroy.arg(instances).output());
        drop(fs::remove_dir_all(&self.dir));
        provider("up");
    }
}

impl Replica {
    fn pid(&self) -> Pid {
        let id = self.child.id().expect("it runs");
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    async fn end(&mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends in time");
        status.expect("it can be waited for").code()
    }

    /// What it answers at a path of its telemetry port; None where it does not answer well.
    async fn asked(&self, path: &str) -> Option<String> {
        let url = format!("http://{}{path}", self.telemetry);
        let mut action = Cluster::get().script("cluster", &["exec", "--", "curl", "-sf", "--max-time", "5", &url]);
        let output = tokio::task::spawn_blocking(move || action.output()).await.expect("it runs").expect("curl");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let reached = timeout(PATIENCE, async {
            while !self.asked(path).await.is_some_and(|text| wanted(&text)) {
                tick.tick().await;
            }
        });
        assert!(reached.await.is_ok(), "{path} of {}: {}", self.telemetry, tail(&self.log, 30));
    }

    async fn until_leads(&self) {
        self.until("/metrics", |text| text.contains("pilotlight_leader 1")).await;
        self.until("/readyz", |_| true).await;
    }
}

fn provider(action: &str) {
    let output = Cluster::get().script("provider", &[action]).output().expect("scripts/provider can be run");
    // In a Drop: a second panic would hide the first.
    if !output.status.success() {
        eprintln!("scripts/provider {action}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What must not change: the instance, the container, its restarts.
fn identity(pod: &Pod) -> (String, Option<String>, i32) {
    let main = container(pod, "main").expect("a container");
    (annotation(pod, "instance-id"), main.container_id.clone(), main.restart_count)
}

fn counter() -> serde_json::Value {
    shell("n=0; while :; do n=$((n + 1)); echo $n; sleep 0.2; done")
}

async fn counts_on(space: &Space, pod: &str, before: &Pod) {
    space.until_exec(pod, "echo here", |text| text == "here").await;
    let now = space.until_running(pod).await;
    assert_eq!(identity(&now), identity(before));
    let numbers = space.kubectl(&["logs", pod]).await;
    assert_eq!(numbers.lines().filter(|line| *line == "1").count(), 1, "it counted from one only once");
}

async fn node_is_ready(space: &Space) -> bool {
    let node = Api::<Node>::all(space.client.clone()).get("pilotlight-local-a").await.expect("the node exists");
    let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_takes_over_from_a_killed_a_stopped_and_a_robbed_leader() {
    let space = Space::new("replicas").await;
    let pair = Pair::new(&space).await;
    let mut a = pair.start("a", 10281);
    let first = pair.until_lease("held", |holder| !holder.is_empty()).await;
    a.until_leads().await;

    // A standby is alive and ready, and listens on none of the leader's ports (it could not).
    let mut b = pair.start("b", 10282);
    b.until("/readyz", |text| text == "ok").await;
    b.until("/healthz", |text| text == "ok").await;
    b.until("/metrics", |text| text.contains("pilotlight_leader 0")).await;
    assert!(!tail(&b.log, 1000).contains("listening for agents"), "it waits: {}", tail(&b.log, 30));

    space.apply(&pod("steady", spec(&[counter()]))).await;
    let before = space.until_running("steady").await;

    // What is edited while it waits holds when it leads.
    let file = pair.dir.join("b.yaml");
    let text = fs::read_to_string(&file).expect("it was written");
    let edited = text.replacen("pods: 110", "pods: 111", 1);
    assert_ne!(edited, text);
    fs::write(&file, edited).expect("written");

    // kill -9: the other leads within leaseDuration, and finds everything.
    let killed = Instant::now();
    kill(a.pid(), Signal::SIGKILL).expect("it can be killed");
    assert_eq!(a.end().await, None, "a signal ended it");
    let second = pair.until_lease("held by the other", |holder| !holder.is_empty() && holder != first).await;
    let took = killed.elapsed();
    println!("taken over {took:?} after kill -9");
    assert!(took <= LEASE_DURATION, "{took:?}");
    b.until_leads().await;
    counts_on(&space, "steady", &before).await;
    assert!(node_is_ready(&space).await, "the node stayed Ready");
    let capacity = |node: Option<&Node>| {
        let pods = node.and_then(|node| node.status.as_ref()?.capacity.as_ref()?.get("pods").map(|q| q.0.clone()));
        pods.as_deref() == Some("111")
    };
    let nodes = Api::<Node>::all(space.client.clone());
    let told = timeout(PATIENCE, await_condition(nodes, "pilotlight-local-a", capacity)).await;
    told.expect("the edit holds").expect("nodes can be watched");

    // SIGTERM: handed over, nobody waits for the duration.
    let mut a = pair.start("a", 10281);
    a.until("/readyz", |text| text == "ok").await;
    let asked = Instant::now();
    kill(b.pid(), Signal::SIGTERM).expect("it can be asked");
    assert_eq!(b.end().await, Some(0));
    let third = pair.until_lease("handed over", |holder| !holder.is_empty() && holder != second).await;
    let took = asked.elapsed();
    println!("handed over {took:?} after SIGTERM");
    assert!(took < LEASE_DURATION / 2, "{took:?}");
    a.until_leads().await;
    counts_on(&space, "steady", &before).await;

    // Robbed: it ends at once, with a code of its own, and its successor waits until the robber's time is over.
    let robber = json!({ "spec": { "holderIdentity": "robber", "leaseDurationSeconds": 5 } });
    pair.leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(robber)).await.expect("it can be patched");
    assert_eq!(a.end().await, Some(LOST));
    let a = pair.start("a", 10281);
    pair.until_lease("taken from the robber", |holder| holder != "robber" && holder != third).await;
    a.until_leads().await;
    counts_on(&space, "steady", &before).await;

    // They all signed with one authority, which is in no file.
    assert!(!pair.dir.join("state").join(&space.cluster.name).join("pki/agent-ca.key").exists());
    let authority = pair.secrets.get(AUTHORITY).await.expect("the Secret exists");
    assert_eq!((authority.immutable, authority.data.map(|data| data.len())), (Some(true), Some(2)));

    delete(&space.api::<Pod>(), "steady", Some(0)).await;
    space.until_gone("steady").await;
}
