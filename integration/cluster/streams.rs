//! logs, exec, attach, port-forward and cp: what a person does with a running Pod.

use crate::support::*;
use serde_json::json;

#[tokio::test]
async fn logs_can_be_read_whole_in_part_and_followed() {
    let space = Space::new("logs").await;
    // The two outputs are two pipes: their order is certain only when one is silent meanwhile.
    let script = "for i in 1 2 3 4 5; do echo line $i; done; while [ ! -e /tmp/err ]; do sleep 0.1; done; \
                  echo to-stderr >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo line 6; exec sleep 1000000";
    space.apply(&pod("writer", spec(&[shell(script)]))).await;
    space.until_running("writer").await;
    space.until_log("writer", &[], |line| line == "line 5").await;
    space.exec("writer", "touch /tmp/err").await;
    space.until_log("writer", &[], |line| line == "to-stderr").await;

    assert_eq!(space.kubectl(&["logs", "writer"]).await, "line 1\nline 2\nline 3\nline 4\nline 5\nto-stderr\n");
    assert_eq!(space.kubectl(&["logs", "writer", "--tail=2"]).await, "line 5\nto-stderr\n");
    assert_eq!(space.kubectl(&["logs", "writer", "--tail=0"]).await, "");
    assert_eq!(space.kubectl(&["logs", "writer", "--limit-bytes=6"]).await, "line 1");
    assert_eq!(space.kubectl(&["logs", "writer", "-c", "main", "--since=1h", "--tail=1"]).await, "to-stderr\n");
    assert_eq!(space.kubectl(&["logs", "writer", "--since-time=2999-01-01T00:00:00Z"]).await, "");
    let stamped = space.kubectl(&["logs", "writer", "--timestamps", "--tail=1"]).await;
    let (stamp, rest) = stamped.split_once(' ').expect("a timestamp and a line");
    assert!(stamp.parse::<jiff::Timestamp>().is_ok() && rest == "to-stderr\n", "{stamped}");

    let mut follow = space.session(&["logs", "-f", "writer", "--tail=1"]);
    follow.line(|line| line == "to-stderr").await;
    space.exec("writer", "touch /tmp/go").await;
    follow.line(|line| line == "line 6").await;
}

#[tokio::test]
async fn following_the_log_ends_when_the_container_does() {
    let space = Space::new("follow").await;
    space.apply(&once("short", "echo begin; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo end")).await;
    space.until_log("short", &[], |line| line == "begin").await;
    let mut follow = space.session(&["logs", "-f", "short"]);
    follow.line(|line| line == "begin").await;
    space.exec("short", "touch /tmp/go").await;
    follow.line(|line| line == "end").await;
    assert_eq!(follow.end().await, Some(0));
    space.until_phase("short", "Succeeded").await;
    assert_eq!(space.kubectl(&["logs", "short"]).await, "begin\nend\n", "the log of a completed Pod is kept");
}

#[tokio::test]
async fn the_log_of_the_run_before_a_restart_can_be_read() {
    let space = Space::new("previous").await;
    let script = "if [ -e /data/second ]; then echo second run; exec sleep 1000000; fi; \
                  touch /data/second; echo first run; exit 3";
    let container = with(shell(script), json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }));
    let spec = with(spec(&[container]), json!({ "volumes": [{ "name": "data", "emptyDir": {} }] }));
    space.apply(&pod("twice", spec)).await;
    let pod = space.until_pod("twice", "has restarted", |p| restarts(p, "main") == 1 && condition(p, "Ready")).await;
    assert_eq!(ended(&pod, "main"), Some((3, "Error".to_owned())));
    assert_eq!(space.kubectl(&["logs", "twice", "--previous"]).await, "first run\n");
    space.until_log("twice", &[], |line| line == "second run").await;
    assert_eq!(space.kubectl(&["logs", "twice"]).await, "second run\n");
}

#[tokio::test]
async fn logs_of_a_container_that_does_not_exist_are_refused_with_its_name() {
    let space = Space::new("nolog").await;
    space.apply(&pod("web", spec(&[idle()]))).await;
    space.until_running("web").await;
    let refused = space.try_kubectl(&["logs", "web", "-c", "other"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("other"), "{}", refused.stderr);
    let refused = space.try_kubectl(&["logs", "web", "--previous"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("previous terminated container"), "{}", refused.stderr);
}

#[tokio::test]
async fn exec_keeps_exit_codes_and_keeps_the_two_outputs_apart() {
    let space = Space::new("exec").await;
    space.apply(&pod("box", spec(&[idle()]))).await;
    space.until_running("box").await;
    let outcome = space.try_kubectl(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(42), "out\n"));
    assert!(outcome.stderr.starts_with("err\n"), "{}", outcome.stderr);
    let echoed = space.kubectl_with_input(&["exec", "-i", "box", "--", "sh", "-c", "cat; exit 7"], "a line\n").await;
    assert_eq!((echoed.code, echoed.stdout.as_str()), (Some(7), "a line\n"));
    let missing = space.try_kubectl(&["exec", "box", "--", "no-such-program"]).await;
    assert!(missing.code != Some(0) && missing.stderr.contains("no-such-program"), "{missing:?}");
}

#[tokio::test]
async fn exec_carries_megabytes_unchanged() {
    let space = Space::new("bulk").await;
    space.apply(&pod("box", spec(&[idle()]))).await;
    space.until_running("box").await;
    let input: String = (0..400_000).map(|n| format!("{n:07}\n")).collect();
    let echoed = space.kubectl_with_input(&["exec", "-i", "box", "--", "cat"], &input).await;
    assert_eq!(echoed.code, Some(0), "{}", echoed.stderr);
    assert!(echoed.stdout == input, "{} bytes came back of {}", echoed.stdout.len(), input.len());
}

#[tokio::test]
async fn exec_on_a_terminal_is_interactive_and_keeps_the_exit_code() {
    let space = Space::new("tty").await;
    space.apply(&pod("box", spec(&[idle()]))).await;
    space.until_running("box").await;
    let mut shell = space.terminal(&["exec", "-it", "box", "--", "sh"]);
    shell.say("test -t 0 && test -t 1 && echo a-terminal-$((40 + 2))\n").await;
    shell.line(|line| line.contains("a-terminal-42")).await;
    shell.say("exit 9\n").await;
    assert_eq!(shell.end().await, Some(9));
}

#[tokio::test]
async fn attach_speaks_with_the_containers_first_process() {
    let space = Space::new("attach").await;
    let script = "while read line; do echo heard $line; done; echo no more";
    let container = with(shell(script), json!({ "stdin": true, "stdinOnce": true }));
    let spec = with(spec(&[container]), json!({ "restartPolicy": "Never" }));
    space.apply(&pod("listener", spec)).await;
    space.until_running("listener").await;
    let mut attached = space.session(&["attach", "-i", "listener"]);
    attached.say("hello\n").await;
    attached.line(|line| line == "heard hello").await;
    attached.end().await;
    space.until_phase("listener", "Succeeded").await;
    assert_eq!(space.kubectl(&["logs", "listener"]).await, "heard hello\nno more\n");
}

#[tokio::test]
async fn port_forward_reaches_a_port_of_the_pod_many_times() {
    let space = Space::new("forward").await;
    let server = json!({ "name": "main", "image": AGNHOST, "args": ["netexec", "--http-port=8080"] });
    let probed =
        with(server, json!({ "readinessProbe": { "httpGet": { "port": 8080, "path": "/" }, "periodSeconds": 1 } }));
    space.apply(&pod("web", spec(&[probed]))).await;
    space.until_running("web").await;
    let mut forward = space.session(&["port-forward", "pod/web", ":8080"]);
    let line = forward.line(|line| line.starts_with("Forwarding from 127.0.0.1:")).await;
    let port = line.trim_start_matches("Forwarding from 127.0.0.1:").split(' ').next().expect("a port");
    for _ in 0..3 {
        let url = format!("http://127.0.0.1:{port}/hostname");
        let output = tokio::process::Command::new("curl")
            .args(["-sSf", "--noproxy", "*", "--max-time", "20", &url])
            .output()
            .await;
        let output = output.expect("curl can be run");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "web", "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn files_can_be_copied_both_ways() {
    let space = Space::new("cp").await;
    space.apply(&pod("box", spec(&[idle()]))).await;
    space.until_running("box").await;
    let dir = tempfile::tempdir().expect("a directory");
    let content: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    std::fs::write(&there, &content).expect("written");
    let path = |p: &std::path::Path| p.display().to_string();
    space.kubectl(&["cp", &path(&there), "box:/tmp/file"]).await;
    space.kubectl(&["cp", "box:/tmp/file", &path(&back)]).await;
    assert!(std::fs::read(&back).expect("it came back") == content, "the content changed on the way");
}
