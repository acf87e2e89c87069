//! From birth to death, through the deaths of others.

use crate::machine::*;
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
        assert_eq!(crate::machine::end(&report, 0).exit_code, 3, "the end is remembered when everything is gone");
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
fn a_stop_runs_the_pre_stop_hook_and_kills_what_does_not_listen_when_the_grace_gets_shorter() {
    isolated(
        "a_stop_runs_the_pre_stop_hook_and_kills_what_does_not_listen_when_the_grace_gets_shorter",
        |machine| async move {
            let mut app = container("app", DEAF);
            app.lifecycle.pre_stop =
                Some(Handler::Exec { command: ["sh", "-c", "echo bye >/proc/1/fd/1"].map(str::to_owned).to_vec() });
            let pod = machine.pod(vec![app]);
            let agent = machine.agent().await;
            agent.wants(&pod);
            agent.until_running().await;
            agent.exec("app", UP).await;
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
fn a_stop_goes_on_when_the_agent_comes_back_and_older_orders_are_refused() {
    isolated("a_stop_goes_on_when_the_agent_comes_back_and_older_orders_are_refused", |machine| async move {
        let pod = machine.pod(vec![container("app", DEAF)]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        agent.until_running().await;
        agent.exec("app", UP).await;
        let stopping = stopped(&pod, 600);
        agent.wants(&stopping);
        agent.until_event("Killing: Stopping container app").await;
        agent.dies().await;

        let mut agent = machine.agent().await;
        agent.until_event("Killing: Stopping container app").await;
        agent.wants(&pod);
        agent.wants(&DesiredPod { uid: PodUid::new("another"), generation: Generation(9), ..pod.clone() });
        assert_eq!(agent.runtime.holds(), Some((pod.uid.clone(), Generation(2))));
        let report = agent.stop(&stopping, 0).await;
        assert_eq!((end(&report, 0).exit_code, report.containers[0].restart_count), (137, 0));
        agent.dies().await;
        // Whoever comes later is told the same.
        let agent = machine.agent().await;
        assert_eq!(agent.until("it is still terminated", |r| r.terminated).await, report);
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
