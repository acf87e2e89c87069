//! Containers of a Pod: their order, their probes, their limits, their restarts.

use crate::support::*;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

#[tokio::test]
async fn init_containers_run_one_after_another_before_the_others() {
    let space = Space::new("init").await;
    let mount = json!({ "volumeMounts": [{ "name": "log", "mountPath": "/log" }] });
    let step = |name: &str, script: &str| with(with(shell(script), mount.clone()), json!({ "name": name }));
    let spec = with(
        spec(&[step("main", "echo main >> /log/order; cat /log/order; exec sleep 1000000")]),
        json!({
            "initContainers": [
                step("first", "sleep 1; echo first >> /log/order"),
                step("second", "echo second >> /log/order"),
            ],
            "volumes": [{ "name": "log", "emptyDir": {} }],
        }),
    );
    space.apply(&pod("ordered", spec)).await;
    let running = space.until_running("ordered").await;
    assert_eq!(ended(&running, "first"), Some((0, "Completed".to_owned())));
    assert!(condition(&running, "Initialized"));
    space.until_log("ordered", &[], |line| line == "main").await;
    assert_eq!(space.kubectl(&["logs", "ordered"]).await, "first\nsecond\nmain\n");
}

#[tokio::test]
async fn a_failing_init_container_fails_a_pod_that_is_never_restarted() {
    let space = Space::new("badinit").await;
    let init = with(shell("exit 8"), json!({ "name": "setup" }));
    let spec = with(spec(&[idle()]), json!({ "initContainers": [init], "restartPolicy": "Never" }));
    space.apply(&pod("broken", spec)).await;
    let failed = space.until_phase("broken", "Failed").await;
    assert_eq!(ended(&failed, "setup"), Some((8, "Error".to_owned())));
    assert_eq!(waiting(&failed, "main").as_deref(), Some("PodInitializing"));
}

#[tokio::test]
async fn a_sidecar_starts_first_and_does_not_keep_a_pod_from_completing() {
    let space = Space::new("sidecar").await;
    let mount = json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] });
    let sidecar = with(
        with(shell("trap 'exit 0' TERM; touch /shared/up; while :; do sleep 0.1; done"), mount.clone()),
        json!({
            "name": "helper", "restartPolicy": "Always",
            "startupProbe": { "exec": { "command": ["test", "-e", "/shared/up"] }, "periodSeconds": 1 },
        }),
    );
    let main = with(shell("ls /shared"), mount);
    let spec = with(
        spec(&[main]),
        json!({ "initContainers": [sidecar], "restartPolicy": "Never", "volumes": [{ "name": "shared", "emptyDir": {} }] }),
    );
    space.apply(&pod("helped", spec)).await;
    let done = space.until_phase("helped", "Succeeded").await;
    assert_eq!(space.kubectl(&["logs", "helped", "-c", "main"]).await, "up\n");
    assert!(
        container(&done, "helper").is_some_and(|c| c.state.as_ref().is_some_and(|s| s.terminated.is_some())),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_readiness_probe_decides_about_ready_alone() {
    let space = Space::new("readiness").await;
    let probe =
        json!({ "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1, "failureThreshold": 1 });
    space.apply(&pod("slow", spec(&[with(idle(), json!({ "readinessProbe": probe }))]))).await;
    space.until_pod("slow", "runs but is not ready", |p| phase(p) == "Running" && !condition(p, "Ready")).await;
    space.until_event("slow", "Unhealthy", |message| message.starts_with("Readiness probe failed")).await;
    space.exec("slow", "touch /tmp/ready").await;
    space.until_running("slow").await;
    space.exec("slow", "rm /tmp/ready").await;
    let unready = space.until_pod("slow", "is not ready any more", |p| !condition(p, "Ready")).await;
    assert_eq!(restarts(&unready, "main"), 0);
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_the_container() {
    let space = Space::new("liveness").await;
    let server = json!({
        "name": "main", "image": AGNHOST, "args": ["liveness"],
        "livenessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 2, "initialDelaySeconds": 2 },
    });
    space.apply(&pod("sick", spec(&[server]))).await;
    space.until_pod("sick", "was restarted", |p| restarts(p, "main") >= 1).await;
    space
        .until_event("sick", "Unhealthy", |message| {
            message.contains("Liveness probe failed") && message.contains("500")
        })
        .await;
    space.until_event("sick", "Killing", |message| message.contains("failed liveness probe")).await;
}

#[tokio::test]
async fn a_startup_probe_holds_the_others_back() {
    let space = Space::new("startup").await;
    let container = with(
        shell("sleep 3; touch /tmp/up; exec sleep 1000000"),
        json!({
            "startupProbe": { "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1, "failureThreshold": 60 },
            "livenessProbe": { "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1, "failureThreshold": 1 },
        }),
    );
    space.apply(&pod("starting", spec(&[container]))).await;
    space
        .until_pod("starting", "runs but has not started", |p| phase(p) == "Running" && started(p) == Some(false))
        .await;
    let running = space.until_running("starting").await;
    assert_eq!((started(&running), restarts(&running, "main")), (Some(true), 0));
}

fn started(pod: &Pod) -> Option<bool> {
    container(pod, "main")?.started
}

#[tokio::test]
async fn limits_are_cgroups_that_the_container_sees() {
    let space = Space::new("limits").await;
    let limits = json!({ "resources": { "limits": { "cpu": "500m", "memory": "64Mi" } } });
    space.apply(&pod("small", spec(&[with(idle(), limits)]))).await;
    let running = space.until_running("small").await;
    assert_eq!(running.status.and_then(|s| s.qos_class).as_deref(), Some("Guaranteed"));
    let script = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes; \
                  cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    let text = space.exec("small", script).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], (64u64 << 20).to_string());
    assert!(lines[1].starts_with("50000"), "{text}");
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_oom_killed_and_says_so() {
    let space = Space::new("oom").await;
    let limits = json!({ "resources": { "limits": { "memory": "32Mi" } } });
    // tail keeps a line until it ends, and this one does not.
    let container = with(shell("tail /dev/zero"), limits);
    space.apply(&pod("greedy", with(spec(&[container]), json!({ "restartPolicy": "Never" })))).await;
    let failed = space.until_phase("greedy", "Failed").await;
    assert_eq!(ended(&failed, "main"), Some((137, "OOMKilled".to_owned())));
}

#[tokio::test]
async fn a_crashing_container_is_restarted_with_a_growing_pause() {
    let space = Space::new("crash").await;
    space.apply(&pod("crasher", spec(&[shell("echo run; exit 4")]))).await;
    let looping = space.until_waiting("crasher", "main", "CrashLoopBackOff").await;
    assert_eq!(ended(&looping, "main"), Some((4, "Error".to_owned())));
    assert_eq!(phase(&looping), "Running");
    space.until_event("crasher", "BackOff", |message| message.contains("restarting failed container")).await;
    space.until_pod("crasher", "ran again after ten seconds", |p| restarts(p, "main") >= 2).await;
}

#[tokio::test]
async fn on_failure_restarts_until_success() {
    let space = Space::new("onfailure").await;
    let script = "n=$(cat /data/n 2>/dev/null || echo 0); echo $((n + 1)) > /data/n; test $n -ge 1";
    let container = with(shell(script), json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }));
    let spec = with(
        spec(&[container]),
        json!({ "restartPolicy": "OnFailure", "volumes": [{ "name": "data", "emptyDir": {} }] }),
    );
    space.apply(&pod("stubborn", spec)).await;
    let done = space.until_phase("stubborn", "Succeeded").await;
    assert_eq!(restarts(&done, "main"), 1);
}

#[tokio::test]
async fn hooks_run_after_the_start_and_before_the_end() {
    let space = Space::new("hooks").await;
    let container = with(
        shell("trap 'exit 0' TERM; while :; do sleep 0.1; done"),
        json!({ "lifecycle": {
            "postStart": { "exec": { "command": ["sh", "-c", "echo post-start > /proc/1/fd/1"] } },
            "preStop": { "exec": { "command": ["sh", "-c", "echo pre-stop > /proc/1/fd/1; sleep 1"] } },
        } }),
    );
    let spec = with(spec(&[container]), json!({ "terminationGracePeriodSeconds": 20 }));
    space.apply(&pod("hooked", spec)).await;
    space.until_running("hooked").await;
    let mut log = space.session(&["logs", "-f", "hooked"]);
    log.line(|line| line == "post-start").await;
    delete(&space.api::<Pod>(), "hooked", None).await;
    log.line(|line| line == "pre-stop").await;
    space.until_gone("hooked").await;
}

#[tokio::test]
async fn the_termination_message_is_in_the_status() {
    let space = Space::new("message").await;
    space.apply(&once("speaker", "echo farewell > /dev/termination-log; exit 2")).await;
    let failed = space.until_phase("speaker", "Failed").await;
    let state = container(&failed, "main").and_then(|c| c.state.clone()).and_then(|s| s.terminated).expect("it ended");
    assert_eq!(state.message.as_deref().map(str::trim), Some("farewell"));
}
