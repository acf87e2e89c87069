//! Users, capabilities, namespaces, limits.

use crate::machine::*;
use pilotlight::model::*;

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
fn a_pod_on_the_hosts_network_shares_it() {
    isolated("a_pod_on_the_hosts_network_shares_it", |machine| async move {
        let mut app = container("app", "exec httpd -f -p 8080 -h /");
        app.probes.readiness = Some(probe(Handler::Tcp { host: None, port: 8080 }));
        let mut pod = machine.pod(vec![app]);
        (pod.host_network, pod.host_pid, pod.pod_ip) = (true, true, None);
        let agent = machine.agent().await;
        agent.wants(&pod);
        let report = agent.until_running().await;
        assert_eq!(report.pod_ip, None);
        assert!(agent.exec("app", "ip addr show ens5").await.contains("10.250.7.1/24"));
        assert!(!agent.exec("app", "cat /etc/hosts").await.contains("Kubernetes-managed"));
        assert!(agent.exec("app", "ps").await.contains("containerd"));
        agent.stop(&pod, 0).await;
    });
}
