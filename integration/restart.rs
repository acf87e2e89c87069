//! Parts die, Pods live on.
//!
//! These kill the provider of the cluster that the tests share, agents, containerds and whole machines,
//! so they take turns; `scripts/test` runs them when nothing else uses the cluster.

#[path = "support/mod.rs"]
mod support;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::fs;
use support::*;
use tokio::sync::{Mutex, MutexGuard};

async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

fn provider(action: &str) {
    let output = Cluster::get().script("provider", &[action]).output().expect("scripts/provider can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/provider {action}: {text}");
}

/// What must not change while something else dies: which containers run, on which instance, and how
/// often they were restarted.
fn identity(pod: &Pod) -> (String, Option<String>, i32) {
    let main = container(pod, "main").expect("a container");
    (annotation(pod, "instance-id"), main.container_id.clone(), main.restart_count)
}

/// Counts up in its log, so that a pause or a new start can be seen there.
fn counter() -> Value {
    shell("n=0; while :; do n=$((n + 1)); echo $n; sleep 0.2; done")
}

/// The processes of an instance whose name is `name`, by the host's numbers, oldest first.
fn processes(instance: &str, name: &str) -> Vec<Pid> {
    let init = supervisor(instance)["init_pid"].as_i64().expect("the machine has booted");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let of_machine = namespace(&init.to_string());
    assert!(of_machine.is_some(), "the machine {instance} runs");
    let mut found: Vec<i32> = fs::read_dir("/proc")
        .expect("procfs")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|pid| pid.parse::<i32>().is_ok() && namespace(pid) == of_machine)
        .filter(|pid| {
            // `comm` is cut at 15 bytes; the command line is whole.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(program).rsplit('/').next() == Some(name)
        })
        .filter_map(|pid| pid.parse().ok())
        .collect();
    found.sort_unstable();
    found.into_iter().map(Pid::from_raw).collect()
}

fn supervisor(instance: &str) -> Value {
    let file = Cluster::get().instance_dir(instance).join("supervisor.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// Kills it in the instance of the Pod and waits until another runs there.
async fn kill_and_wait_for_successor(pod: &Pod, program: &str) {
    let instance = annotation(pod, "instance-id");
    let old = processes(&instance, program);
    assert!(!old.is_empty(), "no {program} runs in {instance}");
    for pid in &old {
        kill(*pid, Signal::SIGKILL).expect("it can be killed");
    }
    let successor = async {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        while processes(&instance, program).iter().all(|pid| old.contains(pid)) {
            tick.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, successor).await.is_ok(), "{program} was not started again in {instance}");
}

#[tokio::test]
async fn a_killed_provider_finds_everything_as_it_was_and_learns_what_changed() {
    let _turn = alone().await;
    let space = Space::new("provider").await;
    let done =
        with(spec(&[shell("while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 3")]), json!({ "restartPolicy": "Never" }));
    let on_signal = shell("exec sleep 1000000");
    for name in ["stays", "also-stays", "deleted", "forced"] {
        let container = if name.contains("stays") { counter() } else { on_signal.clone() };
        space.apply(&pod(name, spec(&[container]))).await;
    }
    space.apply(&pod("ends", done)).await;
    let mut before = Vec::new();
    for name in ["stays", "also-stays"] {
        before.push(space.until_running(name).await);
    }
    for name in ["deleted", "forced", "ends"] {
        space.until_running(name).await;
    }
    space.exec("ends", "(sleep 3; touch /tmp/go) >/dev/null 2>&1 &").await;

    provider("kill");
    // Nobody serves the node meanwhile: all of this is found later.
    delete(&space.api::<Pod>(), "deleted", None).await;
    delete(&space.api::<Pod>(), "forced", Some(0)).await;
    space.apply(&pod("created", spec(&[idle()]))).await;
    space.until_gone("forced").await;
    let bound = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    space.until_pod("created", "is bound to the node", bound).await;
    provider("up");

    space.until_running("created").await;
    space.until_gone("deleted").await;
    let ended_pod = space.until_phase("ends", "Failed").await;
    assert_eq!(ended(&ended_pod, "main"), Some((3, "Error".to_owned())));
    for old in &before {
        let name = old.metadata.name.as_deref().expect("named");
        let now = space.until_running(name).await;
        assert_eq!(identity(&now), identity(old), "{name} was left alone");
        // Its agent is heard again, and nothing of the log is lost.
        space.exec(name, "true").await;
        let log = space.kubectl(&["logs", name]).await;
        let numbers: Vec<u32> = log.lines().map(|line| line.parse().expect("a number")).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.last().copied().unwrap_or(0)), "{name}: {numbers:?}");
    }
}

#[tokio::test]
async fn a_killed_provider_keeps_no_instance_that_nobody_needs() {
    let _turn = alone().await;
    let space = Space::new("leftover").await;
    space.apply(&pod("gone", spec(&[idle()]))).await;
    let running = space.until_running("gone").await;
    provider("kill");
    delete(&space.api::<Pod>(), "gone", Some(0)).await;
    space.until_gone("gone").await;
    provider("up");
    let disk = space.cluster.instance_dir(&annotation(&running, "instance-id")).join("disk");
    let ended = async {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
        while disk.exists() {
            tick.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "{} is still there", disk.display());
}

#[tokio::test]
async fn a_killed_agent_comes_back_to_containers_that_never_noticed() {
    let _turn = alone().await;
    let space = Space::new("agent").await;
    space.apply(&pod("steady", spec(&[counter()]))).await;
    let before = space.until_running("steady").await;
    kill_and_wait_for_successor(&before, "pilotlight-agent").await;
    // The successor serves: a command, the log, and what the API server says next.
    space.until_exec("steady", "echo here", |text| text == "here").await;
    space.kubectl(&["label", "pod", "steady", "after=agent"]).await;
    let now = space.until_running("steady").await;
    assert_eq!(identity(&now), identity(&before));
    delete(&space.api::<Pod>(), "steady", None).await;
    space.until_gone("steady").await;
}

#[tokio::test]
async fn what_happens_while_an_agent_is_away_is_told_when_it_is_back() {
    let _turn = alone().await;
    let space = Space::new("away").await;
    let spec =
        with(spec(&[shell("while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 6")]), json!({ "restartPolicy": "Never" }));
    space.apply(&pod("ending", spec)).await;
    let running = space.until_running("ending").await;
    let instance = annotation(&running, "instance-id");
    for pid in processes(&instance, "pilotlight-agent") {
        // Stopped, not killed: away for as long as this test wants.
        kill(pid, Signal::SIGSTOP).expect("it can be stopped");
    }
    let root = supervisor(&instance)["init_pid"].as_i64().expect("the machine runs");
    let container_process = processes_with(root, "/tmp/go");
    fs::write(format!("/proc/{container_process}/root/tmp/go"), "").expect("the container's root can be reached");
    for pid in processes(&instance, "pilotlight-agent") {
        kill(pid, Signal::SIGKILL).expect("it can be killed");
    }
    let failed = space.until_phase("ending", "Failed").await;
    assert_eq!(ended(&failed, "main"), Some((6, "Error".to_owned())));
}

/// The process below `init` (by cgroup namespace or not) whose command line has `part`.
fn processes_with(init: i64, part: &str) -> i32 {
    let parent = |pid: i64| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i64>().ok()
    };
    let below = |mut pid: i64| {
        while let Some(next) = parent(pid).filter(|next| *next > 1) {
            if next == init {
                return true;
            }
            pid = next;
        }
        false
    };
    let pids = fs::read_dir("/proc")
        .expect("procfs")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i64>().ok());
    let found = pids.into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(part) && !String::from_utf8_lossy(&line).contains("runc") && below(*pid)
    });
    i32::try_from(found.expect("the container's process")).expect("a process id")
}

#[tokio::test]
async fn a_killed_containerd_comes_back_to_containers_that_never_noticed() {
    let _turn = alone().await;
    let space = Space::new("containerd").await;
    space.apply(&pod("steady", spec(&[counter()]))).await;
    let before = space.until_running("steady").await;
    kill_and_wait_for_successor(&before, "containerd").await;
    space.until_exec("steady", "echo here", |text| text == "here").await;
    let now = space.until_running("steady").await;
    assert_eq!(identity(&now), identity(&before));
    let numbers = space.kubectl(&["logs", "steady"]).await;
    assert!(numbers.lines().filter(|line| *line == "1").count() == 1, "it counted from one only once");
    delete(&space.api::<Pod>(), "steady", None).await;
    space.until_gone("steady").await;
}

#[tokio::test]
async fn a_lost_machine_fails_its_pod_and_the_replacement_runs() {
    let _turn = alone().await;
    let space = Space::new("lost").await;
    space
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 1, "selector": selector("web"), "template": template("web", spec(&[idle()])) },
        }))
        .await;
    let available = |d: Option<&Deployment>| d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(1);
    space.until::<Deployment>("web", "is available", available).await;
    let old = space.pods_of("web").await.remove(0);
    let name = old.metadata.name.clone().expect("named");
    let machine = supervisor(&annotation(&old, "instance-id"));
    let pid = machine["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("the supervisor's pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it can be killed");

    let lost = space.until_phase(&name, "Failed").await;
    assert_eq!(lost.status.as_ref().and_then(|s| s.reason.as_deref()), Some("InstanceLost"));
    assert!(condition(&lost, "DisruptionTarget"));
    space.until_event(&name, "InstanceLost", |message| message.contains(&annotation(&old, "instance-id"))).await;
    space.until::<Deployment>("web", "is available again", available).await;
    let replacement = space.pods_of("web").await.into_iter().find(|p| phase(p) == "Running").expect("a running Pod");
    assert_ne!(replacement.metadata.uid, old.metadata.uid);
    assert_ne!(annotation(&replacement, "instance-id"), annotation(&old, "instance-id"));
}
