//! Probes.

use crate::machine::*;
use pilotlight::model::*;

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
fn exec_and_grpc_probes_say_what_failed() {
    isolated("exec_and_grpc_probes_say_what_failed", |machine| async move {
        let mut slow = container("slow", WAIT);
        slow.probes.readiness = Some(exec_probe("sleep 5"));
        let grpc = |service: &str| probe(Handler::Grpc { port: 5000, service: service.to_owned() });
        let mut served = container("served", "");
        served.image = AGNHOST.to_owned();
        served.command = Vec::new();
        served.args = vec!["grpc-health-checking".to_owned(), "--port=5000".to_owned()];
        served.probes.readiness = Some(grpc(""));
        served.probes.startup = Some(Probe { failure_threshold: 30, ..grpc("") });
        let mut unknown = container("unknown", WAIT);
        unknown.probes.readiness = Some(grpc("no-such-service"));
        let pod = machine.pod(vec![slow, served, unknown]);
        let mut agent = machine.agent().await;
        agent.wants(&pod);
        agent.until("gRPC health makes it ready", |r| r.containers[1].ready).await;
        agent
            .until_event("Unhealthy: Readiness probe failed: command timed out: \"sh -c sleep 5\" timed out after 1s")
            .await;
        agent
            .until_event(
                "Unhealthy: Readiness probe failed: error: health rpc probe failed: rpc error: code = NotFound",
            )
            .await;
        let report = agent.runtime.report().borrow().clone().unwrap();
        assert!(!report.containers[0].ready && !report.containers[2].ready);
        agent.stop(&pod, 1).await;
    });
}
