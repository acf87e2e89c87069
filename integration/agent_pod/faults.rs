//! What goes wrong, and how it is said.

use crate::machine::*;
use pilotlight::model::*;

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
