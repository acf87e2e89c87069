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
        let texts = ["Container image \"pilotlight.test/busybox:1\" already present on machine", "Container created", "Container started"];
        assert_eq!(events.iter().map(|e| e.split_once(": ").unwrap().1).collect::<Vec<_>>(), texts, "{events:?}");
        let report = agent.stop(&pod, 1).await;
        assert_eq!(machine::end(&report, 0).exit_code, 3, "the end is remembered when everything is gone");
        assert!(!machine.config.pods_dir.join(pod.uid.as_str()).exists());
    });
}
