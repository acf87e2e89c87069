//! Volumes and logs.

use crate::machine::*;
use pilotlight::model::*;
use std::fs;

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
fn a_missing_config_map_holds_the_pod_until_it_appears() {
    isolated("a_missing_config_map_holds_the_pod_until_it_appears", |machine| async move {
        let mut app = container("app", WAIT);
        app.mounts = vec![mount("config", "/config")];
        let mut pod = machine.pod(vec![app]);
        let source = DesiredVolumeSource::Blocked("configmap \"c\" not found".to_owned());
        pod.volumes = vec![DesiredVolume { name: "config".to_owned(), source }];
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        agent
            .until_event("FailedMount: MountVolume.SetUp failed for volume \"config\" : configmap \"c\" not found")
            .await;
        let report = agent.until("it waits", |r| waiting(r, 0).0 == "ContainerCreating").await;
        assert_eq!(report.sandbox_ready_at, None);
        pod.generation = Generation(2);
        let file = DesiredFile { path: "a".to_owned(), mode: 0o644, content: b"here".to_vec() };
        pod.volumes[0].source = DesiredVolumeSource::Files(vec![file]);
        agent.wants(&pod);
        agent.until_running().await;
        assert_eq!(agent.exec("app", "cat /config/a").await, "here");
        agent.stop(&pod, 1).await;
    });
}
