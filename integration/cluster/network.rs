//! Services and names, seen from inside a Pod.

use crate::support::*;
use serde_json::{Value, json};

/// Answers `/hostname` on port 8080.
pub fn server() -> Value {
    json!({
        "name": "main", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
        "readinessProbe": { "httpGet": { "port": 8080, "path": "/hostname" }, "periodSeconds": 1 },
    })
}

/// (wget has an option for the time too, which this busybox does not survive.)
pub const FETCH: &str = "timeout 5 wget -q -O - http";

#[tokio::test]
async fn a_service_is_reached_by_its_address_and_by_its_name() {
    let space = Space::new("service").await;
    space.apply(&service("web", 8080)).await;
    space.apply(&pod("web", spec(&[server()]))).await;
    space.apply(&pod("client", spec(&[idle()]))).await;
    space.until_running("web").await;
    space.until_running("client").await;
    let ip = space.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).await;
    space.until_exec("client", &format!("{FETCH}://{ip}/hostname"), |text| text == "web").await;
    let full = format!("web.{}.svc.cluster.local", space.name);
    for name in ["web", full.as_str()] {
        space.until_exec("client", &format!("{FETCH}://{name}/hostname"), |text| text == "web").await;
    }
    // Its own Service, through itself (hairpin).
    space.until_exec("web", &format!("{FETCH}://{ip}/hostname"), |text| text == "web").await;
}

#[tokio::test]
async fn a_service_follows_its_pods() {
    let space = Space::new("endpoints").await;
    space.apply(&service("web", 8080)).await;
    let labelled =
        |name: &str| with(pod(name, spec(&[server()])), json!({ "metadata": { "labels": { "app": "web" } } }));
    space.apply(&pod("client", spec(&[idle()]))).await;
    space.apply(&labelled("one")).await;
    space.until_running("one").await;
    space.until_running("client").await;
    let fetch = format!("{FETCH}://web/hostname");
    space.until_exec("client", &fetch, |text| text == "one").await;
    space.apply(&labelled("two")).await;
    space.until_exec("client", &fetch, |text| text == "two").await;
    space.kubectl(&["delete", "pod", "one", "two", "--wait"]).await;
    // Without endpoints a connection is refused at once, it does not hang.
    let refused = format!("{FETCH}://web/hostname 2>&1 || true");
    space.until_exec("client", &refused, |text| text.contains("refused")).await;
}

#[tokio::test]
async fn cluster_names_resolve_and_unknown_ones_do_not() {
    let space = Space::new("dns").await;
    space.apply(&pod("client", spec(&[idle()]))).await;
    space.until_running("client").await;
    let conf = space.exec("client", "cat /etc/resolv.conf").await;
    assert!(
        conf.contains("nameserver 10.96.0.10") && conf.contains(&format!("search {}.svc.cluster.local", space.name)),
        "{conf}"
    );
    space
        .until_exec("client", "nslookup kubernetes.default.svc.cluster.local", |text| text.contains("10.96.0.1"))
        .await;
    let unknown =
        space.try_kubectl(&["exec", "client", "--", "nslookup", "no-such-name.default.svc.cluster.local"]).await;
    assert!(unknown.code != Some(0) && unknown.stdout.contains("NXDOMAIN"), "{unknown:?}");
}

#[tokio::test]
async fn a_host_port_is_open_on_the_instance() {
    let space = Space::new("hostport").await;
    let container = with(server(), json!({ "ports": [{ "containerPort": 8080, "hostPort": 9090 }] }));
    space.apply(&pod("open", spec(&[container]))).await;
    let running = space.until_running("open").await;
    let host = running.status.and_then(|s| s.host_ip).expect("an instance has an address");
    space.apply(&pod("client", spec(&[idle()]))).await;
    space.until_running("client").await;
    space.until_exec("client", &format!("{FETCH}://{host}:9090/hostname"), |text| text == "open").await;
}
