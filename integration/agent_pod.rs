//! The Pod's runtime against a real containerd: each test has one of its own, in namespaces of its own.
//! Needs root and what scripts/tools and scripts/images make.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as its functions do")]

#[path = "agent_pod/machine.rs"]
mod machine;

use machine::*;
use pilotlight::model::*;
use std::{fs, time::Instant};

#[test]
fn a_pod_runs_once_and_its_end_is_told() {
    isolated("a_pod_runs_once_and_its_end_is_told", |machine| async move {
        let mut app = container("app", "echo last words >/dev/termination-log; hostname; exit 3");
        app.env = vec![("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        let pod = DesiredPod { restart_policy: RestartPolicy::Never, ..machine.pod(vec![app]) };
        let mut agent = machine.agent().await;
        let began = Instant::now();
        agent.wants(&pod);
        let report = agent.until("it ended", |r| matches!(r.containers[0].state, ContainerState::Terminated(_))).await;
        eprintln!("created and ended within {:?}", began.elapsed());
        let end = end(&report, 0);
        assert_eq!((end.exit_code, end.reason.as_str(), end.message.trim()), (3, "Error", "last words"));
        assert_eq!(report.pod_ip, Some(POD_IP.parse().unwrap()));
        assert!(report.containers[0].image_id.contains("sha256:"), "{report:?}");
        let log = fs::read_to_string(machine.config.logs_dir.join(format!("default_pod_{}/app/0.log", pod.uid)));
        assert!(log.unwrap().ends_with("stdout F pod\n"));
        let events = agent.events();
        let texts = [
            "Container image \"pilotlight.test/busybox:1\" already present on machine",
            "Container created",
            "Container started",
        ];
        assert_eq!(events.iter().map(|e| e.split_once(": ").unwrap().1).collect::<Vec<_>>(), texts, "{events:?}");
        let report = agent.stop(&pod, 1).await;
        assert_eq!(machine::end(&report, 0).exit_code, 3, "the end is remembered when everything is gone");
        assert!(!machine.config.pods_dir.join(pod.uid.as_str()).exists());
    });
}

#[test]
fn a_pod_is_running_sooner_than_a_kubelet_has_it_and_stops_as_fast_as_its_container() {
    isolated(
        "a_pod_is_running_sooner_than_a_kubelet_has_it_and_stops_as_fast_as_its_container",
        |machine| async move {
            let mut app = container("app", WAIT);
            app.probes.readiness = Some(exec_probe("true"));
            let pod = machine.pod(vec![app]);
            let agent = machine.agent().await;
            let began = Instant::now();
            agent.wants(&pod);
            agent.until("it runs", |r| matches!(r.containers[0].state, ContainerState::Running { .. })).await;
            let running = began.elapsed();
            agent.until_running().await;
            let ready = began.elapsed();
            // From the Pod to the machine and back: the address, the route, the gateway.
            agent.exec("app", "ping -c1 -W2 10.250.7.1 && ip route && cat /etc/hosts /etc/resolv.conf").await;
            let began = Instant::now();
            let report = agent.stop(&pod, 1).await;
            let gone = began.elapsed();
            assert_eq!(end(&report, 0).exit_code, 0, "it heard SIGTERM");
            eprintln!("running after {running:?}, ready after {ready:?}, gone after {gone:?}");
            // A kubelet's figures on such a machine are 0.54 s and 3.5 s; other tests run beside this one.
            assert!(gone.as_secs() < 3, "{gone:?}");
        },
    );
}

#[test]
fn a_crashing_container_restarts_at_once_then_backs_off_and_keeps_its_last_state() {
    isolated("a_crashing_container_restarts_at_once_then_backs_off_and_keeps_its_last_state", |machine| async move {
        let mut app = container("app", "echo it broke; exit 7");
        app.termination_message.fallback_to_logs = true;
        let pod = machine.pod(vec![app]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        let report = agent.until("it backs off", |r| waiting(r, 0).0 == "CrashLoopBackOff").await;
        let app = &report.containers[0];
        assert_eq!(app.restart_count, 1);
        let last = app.last.clone().unwrap();
        assert_eq!((last.exit_code, last.message.as_str()), (7, "it broke\n"));
        let message = format!("back-off 10s restarting failed container=app pod=pod_default({})", pod.uid);
        assert_eq!(waiting(&report, 0).1, message);
        let told = format!("BackOff: Back-off restarting failed container app in pod pod_default({})", pod.uid);
        assert!(agent.events().contains(&told), "{:?}", agent.events());
        // An agent that comes back neither restarts at once nor forgets the count.
        agent.dies().await;
        let agent = machine.agent().await;
        let report = agent.until("it still backs off", |r| waiting(r, 0).0 == "CrashLoopBackOff").await;
        assert_eq!(report.containers[0].restart_count, 1);
        let report = agent
            .until("it backs off longer", |r| {
                r.containers[0].restart_count == 2 && waiting(r, 0).0 == "CrashLoopBackOff"
            })
            .await;
        assert!(waiting(&report, 0).1.starts_with("back-off 20s "), "{report:?}");
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn init_containers_go_first_and_a_sidecar_serves_from_before_the_app_until_after_it() {
    isolated(
        "init_containers_go_first_and_a_sidecar_serves_from_before_the_app_until_after_it",
        |machine| async move {
            let volume = DesiredVolume {
                name: "log".to_owned(),
                source: DesiredVolumeSource::EmptyDir { memory: true, size_limit_bytes: Some(1 << 20) },
            };
            let mounted = |name: &str, kind: ContainerKind, script: &str| DesiredContainer {
                kind,
                mounts: vec![mount("log", "/log")],
                ..container(name, script)
            };
            let say = |name: &str| {
                format!(
                    "trap 'echo {name} ends >>/log/all; exit 0' TERM; echo {name} >>/log/all; touch /up; while :; do sleep 1000 & wait $!; done"
                )
            };
            let mut side = mounted("side", ContainerKind::Sidecar, &say("side"));
            side.probes.startup = Some(exec_probe("test -e /up"));
            let mut pod = machine.pod(vec![
                mounted("first", ContainerKind::Init, "echo first >>/log/all"),
                side,
                mounted("second", ContainerKind::Init, "echo second >>/log/all"),
                mounted("app", ContainerKind::App, &say("app")),
            ]);
            pod.volumes = vec![volume];
            let agent = machine.agent().await;
            agent.wants(&pod);
            let report = agent.until_running().await;
            assert!(report.containers[0].ready && report.containers[2].ready, "ended well: {report:?}");
            assert_eq!(
                agent.exec("app", "cat /log/all; stat -f -c %T /log").await,
                "first\nside\nsecond\napp\ntmpfs\n"
            );
            let log = machine.config.pods_dir.join(pod.uid.as_str()).join("volumes/log/all");
            let log = fs::File::open(log).unwrap();
            agent.stop(&pod, 10).await;
            let text = std::io::read_to_string(log).unwrap();
            assert!(text.ends_with("app\napp ends\nside ends\n"), "{text}");
        },
    );
}

#[test]
fn probes_decide_on_readiness_and_restarts() {
    isolated("probes_decide_on_readiness_and_restarts", |machine| async move {
        let http = |path: &str| {
            probe(Handler::Http { host: None, port: 8080, path: path.to_owned(), https: false, headers: Vec::new() })
        };
        // As PID 1 it is deaf to SIGTERM: the liveness probe's own grace is what it gets.
        let mut app = container("app", "mkdir /www && echo ok >/www/live && exec httpd -f -p 8080 -h /www");
        app.probes = Probes {
            startup: Some(probe(Handler::Tcp { host: None, port: 8080 })),
            readiness: Some(http("/ready")),
            liveness: Some(http("/live")),
        };
        app.probes.startup.as_mut().unwrap().failure_threshold = 30;
        app.probes.liveness.as_mut().unwrap().termination_grace_seconds = Some(1);
        let pod = machine.pod(vec![app]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        let report = agent.until("it has started", |r| r.containers[0].started).await;
        assert!(!report.containers[0].ready);
        agent.exec("app", "echo ok >/www/ready").await;
        agent.until_running().await;
        agent.exec("app", "rm /www/ready").await;
        agent.until("it is not ready", |r| !r.containers[0].ready).await;
        agent.exec("app", "rm /www/live").await;
        let report =
            agent.until("it was restarted", |r| r.containers[0].restart_count == 1 && r.containers[0].started).await;
        assert!(matches!(report.containers[0].state, ContainerState::Running { .. }));
        let events = agent.events();
        for told in [
            "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 404",
            "Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 404",
            "Killing: Container app failed liveness probe, will be restarted",
        ] {
            assert!(events.iter().any(|event| event == told), "{told}: {events:#?}");
        }
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn files_change_live_and_sub_paths_stay() {
    isolated("files_change_live_and_sub_paths_stay", |machine| async move {
        let file =
            |path: &str, content: &str| DesiredFile { path: path.to_owned(), mode: 0o640, content: content.into() };
        let volume = |name: &str, source| DesiredVolume { name: name.to_owned(), source };
        let mut app = container("app", WAIT);
        app.security.run_as_user = Some(1000);
        app.mounts = vec![
            mount("config", "/config"),
            DesiredMount { sub_path: Some("a".to_owned()), ..mount("config", "/pinned") },
            mount("scratch", "/scratch"),
            DesiredMount { sub_path: Some("deep/er".to_owned()), ..mount("scratch", "/deep") },
        ];
        let mut pod = machine.pod(vec![app]);
        pod.security.fs_group = Some(2000);
        pod.volumes = vec![
            volume("config", DesiredVolumeSource::Files(vec![file("a", "one"), file("dir/b", "two")])),
            volume("scratch", DesiredVolumeSource::EmptyDir { memory: false, size_limit_bytes: None }),
        ];
        let agent = machine.agent().await;
        agent.wants(&pod);
        agent.until_running().await;
        let text = agent.exec("app", "cat /config/a /config/dir/b /pinned; id -G; touch /scratch/x /deep/y; stat -c %g /scratch/x; ls /scratch/deep/er").await;
        assert_eq!(text, "onetwoone0 2000\n2000\ny\n", "the group reads and writes");
        agent.exec("app", "! touch /config/x 2>/dev/null").await;
        pod.generation = Generation(2);
        pod.volumes[0].source = DesiredVolumeSource::Files(vec![file("a", "1"), file("c", "3")]);
        agent.wants(&pod);
        agent.until("it is taken up", |r| r.generation == Generation(2)).await;
        let seen = "until test \"$(cat /config/a)\" = 1; do sleep 0.05; done; ls /config; cat /pinned";
        assert_eq!(agent.exec("app", seen).await, "a\nc\none");
        let report = agent.runtime.report().borrow().clone().unwrap();
        assert_eq!(report.containers[0].restart_count, 0);
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn a_stop_runs_the_pre_stop_hook_and_kills_what_does_not_listen_when_the_grace_gets_shorter() {
    isolated(
        "a_stop_runs_the_pre_stop_hook_and_kills_what_does_not_listen_when_the_grace_gets_shorter",
        |machine| async move {
            let mut app = container("app", "trap '' TERM; while :; do sleep 1; done");
            app.lifecycle.pre_stop =
                Some(Handler::Exec { command: ["sh", "-c", "echo bye >/proc/1/fd/1"].map(str::to_owned).to_vec() });
            let pod = machine.pod(vec![app]);
            let agent = machine.agent().await;
            agent.wants(&pod);
            agent.until_running().await;
            let stopping = stopped(&pod, 600);
            agent.wants(&stopping);
            let log = machine.config.logs_dir.join(format!("default_pod_{}/app/0.log", pod.uid));
            until_file(&log, "bye").await;
            let began = Instant::now();
            let report = agent.stop(&stopping, 1).await;
            assert_eq!(end(&report, 0).exit_code, 137);
            // Two seconds are the least that a container gets.
            let took = began.elapsed().as_secs_f64();
            assert!((1.9..20.0).contains(&took), "{took}");
        },
    );
}

#[test]
fn a_post_start_hook_that_fails_kills_its_container() {
    isolated("a_post_start_hook_that_fails_kills_its_container", |machine| async move {
        let mut app = container("app", WAIT);
        app.lifecycle.post_start = Some(Handler::Exec { command: ["sh", "-c", "exit 9"].map(str::to_owned).to_vec() });
        let pod = machine.pod(vec![app]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        agent.until("it was killed and restarted", |r| r.containers[0].restart_count > 0).await;
        let events = agent.events();
        for told in ["FailedPostStartHook: PostStartHook failed", "Killing: FailedPostStartHook"] {
            assert!(events.iter().any(|event| event == told), "{told}: {events:#?}");
        }
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn neither_the_agents_death_nor_containerds_touches_what_runs() {
    isolated("neither_the_agents_death_nor_containerds_touches_what_runs", |mut machine| async move {
        let mut app = container("app", WAIT);
        app.probes.startup = Some(exec_probe("true"));
        app.probes.readiness = Some(exec_probe("true"));
        let mut pod = machine.pod(vec![app, container("other", "until test -e /end; do sleep 0.1; done")]);
        let agent = machine.agent().await;
        agent.wants(&pod);
        let before = agent.until_running().await;
        agent.dies().await;

        let mut agent = machine.agent().await;
        assert_eq!(agent.runtime.holds(), Some((pod.uid.clone(), Generation(1))));
        let mut reports = agent.runtime.report();
        reports.changed().await.unwrap();
        let first = reports.borrow().clone();
        assert_eq!(first, Some(before.clone()), "the first report is as the last one was: nothing flaps");

        machine.kill_containerd();
        pod.generation = Generation(2);
        agent.wants(&pod);
        machine.start_containerd().await;
        let after = agent.until("the new generation is taken up", |r| r.generation == Generation(2)).await;
        assert_eq!(after.containers, before.containers, "the same containers, none restarted");
        // And it sees what ends from now on.
        agent.exec("other", "touch /end").await;
        agent
            .until("the other is back", |r| {
                r.containers[1].restart_count == 1 && matches!(r.containers[1].state, ContainerState::Running { .. })
            })
            .await;
        assert!(!agent.events().iter().any(|event| event.starts_with("SandboxChanged")), "{:?}", agent.events());
        let report = agent.stop(&pod, 1).await;
        assert_eq!(end(&report, 0).exit_code, 0);
    });
}

#[test]
fn an_image_that_is_not_there_is_said_as_a_kubelet_says_it() {
    isolated("an_image_that_is_not_there_is_said_as_a_kubelet_says_it", |machine| async move {
        let image = |name: &str, image: &str, pull_policy| DesiredContainer {
            image: image.to_owned(),
            pull_policy,
            ..container(name, WAIT)
        };
        let pod = machine.pod(vec![
            image("missing", "127.0.0.1:1/no/such:1", PullPolicy::IfNotPresent),
            image("never", "pilotlight.test/absent:1", PullPolicy::Never),
            image("invalid", "No Image", PullPolicy::Always),
            container("fine", WAIT),
        ]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        let failing = |r: &PodReport| {
            ["ErrImagePull", "ErrImageNeverPull", "InvalidImageName"]
                .iter()
                .enumerate()
                .all(|(i, reason)| waiting(r, i).0 == *reason)
        };
        let report = agent.until("each is said", failing).await;
        assert!(waiting(&report, 0).1.starts_with("rpc error: code = "), "{report:?}");
        assert_eq!(
            waiting(&report, 1).1,
            "Container image \"pilotlight.test/absent:1\" is not present with pull policy of Never"
        );
        agent.until("the fine one runs", |r| r.containers[3].ready).await;
        let report = agent.until("it backs off", |r| waiting(r, 0).0 == "ImagePullBackOff").await;
        assert!(
            waiting(&report, 0).1.starts_with("Back-off pulling image \"127.0.0.1:1/no/such:1\": ErrImagePull: "),
            "{report:?}"
        );
        let events = agent.events();
        for told in [
            "Pulling: Pulling image \"127.0.0.1:1/no/such:1\"",
            "Failed: Error: ErrImagePull",
            "BackOff: Back-off pulling image \"127.0.0.1:1/no/such:1\"",
            "Failed: Error: ImagePullBackOff",
            "Failed: Error: InvalidImageName",
        ] {
            assert!(events.iter().any(|event| event == told), "{told}: {events:#?}");
        }
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn what_can_not_start_says_why_and_does_not_hold_up_the_others() {
    isolated("what_can_not_start_says_why_and_does_not_hold_up_the_others", |machine| async move {
        let mut root = container("root", WAIT);
        root.security.run_as_non_root = true;
        let mut absent = container("absent", WAIT);
        absent.command = vec!["/no/such/program".to_owned()];
        let mut blocked = container("blocked", WAIT);
        blocked.blocked = Some("secret \"s\" not found".to_owned());
        let mut hungry = container("hungry", "head -c 64m /dev/zero | tail");
        hungry.limits.memory_bytes = Some(16 << 20);
        let mut pod = machine.pod(vec![root, absent, blocked, hungry, container("fine", WAIT)]);
        let agent = machine.agent().await;
        agent.wants(&pod);
        let report = agent
            .until("each says why", |r| {
                let killed = r.containers[3].last.as_ref().is_some_and(|end| end.reason == "OOMKilled");
                let absent =
                    r.containers[1].last.as_ref().is_some_and(|end| end.reason == "StartError" && end.exit_code == 128);
                killed
                    && absent
                    && waiting(r, 0).0 == "CreateContainerConfigError"
                    && waiting(r, 2).0 == "CreateContainerConfigError"
                    && r.containers[4].ready
            })
            .await;
        let text = format!(
            "container has runAsNonRoot and image will run as root (pod: \"pod_default({})\", container: root)",
            pod.uid
        );
        assert_eq!(waiting(&report, 0).1, text);
        pod.generation = Generation(2);
        pod.containers[2].blocked = None;
        agent.wants(&pod);
        agent.until("it heals", |r| r.containers[2].ready).await;
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn a_container_gets_the_rights_and_namespaces_it_asks_for_and_no_more() {
    isolated("a_container_gets_the_rights_and_namespaces_it_asks_for_and_no_more", |machine| async move {
        let status = "sed -n 's/^\\(CapEff\\|NoNewPrivs\\|Seccomp\\):[[:space:]]*//p' /proc/self/status";
        let mut plain = container("plain", WAIT);
        plain.limits = Resources { cpu_millis: Some(500), memory_bytes: Some(64 << 20), ephemeral_storage_bytes: None };
        let mut bound = container("bound", WAIT);
        bound.security = ContainerSecurity {
            run_as_user: Some(1234),
            run_as_group: Some(5678),
            run_as_non_root: true,
            read_only_root: true,
            no_new_privs: true,
            drop_capabilities: vec!["ALL".to_owned()],
            seccomp: Some(Seccomp::RuntimeDefault),
            ..ContainerSecurity::default()
        };
        let mut free = container("free", WAIT);
        free.security.privileged = true;
        let mut pod = machine.pod(vec![plain, bound, free]);
        pod.share_process_namespace = true;
        pod.security.supplemental_groups = vec![777];
        pod.security.sysctls = [("net.ipv4.ping_group_range".to_owned(), "0 99".to_owned())].into();
        pod.host_aliases = vec![HostAlias { ip: "1.2.3.4".parse().unwrap(), hostnames: vec!["alias".to_owned()] }];
        let agent = machine.agent().await;
        agent.wants(&pod);
        agent.until_running().await;
        assert_eq!(agent.exec("plain", status).await, "00000000a80425fb\n0\n0\n");
        assert_eq!(agent.exec("bound", status).await, "0000000000000000\n1\n2\n");
        assert_ne!(agent.exec("free", status).await.lines().next(), Some("00000000a80425fb"));
        assert_eq!(
            agent.exec("bound", "id -u; id -g; id -G; touch /x 2>/dev/null || echo read-only").await,
            "1234\n5678\n5678 777\nread-only\n"
        );
        assert_eq!(agent.exec("plain", "cat /proc/sys/net/ipv4/ping_group_range; hostname").await, "0\t99\npod\n");
        assert!(agent.exec("plain", "cat /etc/hosts").await.ends_with("1.2.3.4\talias\n"));
        assert_eq!(agent.exec("plain", "head -c1 /proc/kcore | wc -c").await, "0\n", "masked");
        assert_eq!(agent.exec("plain", "ps | grep -c '[p]ause'").await, "1\n", "one PID namespace for all");
        let memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        assert!(agent.exec("plain", memory).await.starts_with(&(64u64 << 20).to_string()));
        agent.stop(&pod, 1).await;
    });
}

#[test]
fn a_large_log_is_rotated_and_the_container_writes_on() {
    isolated("a_large_log_is_rotated_and_the_container_writes_on", |machine| async move {
        let pod = machine.pod(vec![container("app", "yes 0123456789012345678901234567890123456789 | head -c 11m; until test -e /go; do sleep 0.1; done; echo new; sleep 1000")]);
        let agent = machine.agent().await;
        agent.wants(&pod);
        agent.until_running().await;
        let dir = machine.config.logs_dir.join(format!("default_pod_{}/app", pod.uid));
        let rotated = async {
            while fs::read_dir(&dir).unwrap().count() < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, rotated).await.expect("it is rotated");
        agent.exec("app", "touch /go").await;
        until_file(&dir.join("0.log"), "stdout F new").await;
        agent.stop(&pod, 0).await;
    });
}

#[test]
fn a_sandbox_that_dies_is_replaced_and_its_containers_come_back() {
    isolated("a_sandbox_that_dies_is_replaced_and_its_containers_come_back", |machine| async move {
        let pod = machine.pod(vec![container("app", WAIT)]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        agent.until_running().await;
        let pause = std::process::Command::new("pidof").arg("pause").output().unwrap();
        let pid = String::from_utf8(pause.stdout).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        agent.until("it is back", |r| r.containers[0].restart_count == 1 && r.containers[0].ready).await;
        assert!(
            agent
                .events()
                .contains(&"SandboxChanged: Pod sandbox changed, it will be killed and re-created.".to_owned())
        );
        agent.exec("app", "ping -c1 -W2 10.250.7.1").await;
        agent.stop(&pod, 1).await;
    });
}

fn mount(volume: &str, path: &str) -> DesiredMount {
    DesiredMount {
        volume: volume.to_owned(),
        path: path.to_owned(),
        read_only: false,
        recursive_read_only: false,
        propagation: MountPropagation::None,
        sub_path: None,
    }
}

async fn until_file(path: &std::path::Path, text: &str) {
    let found = async {
        while !fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{} never has {text}", path.display()));
}
