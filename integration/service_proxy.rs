//! The service proxy against a real kernel: network namespaces stand for an instance, its Pod, and the
//! machines that serve. Needs root, nft, ip and conntrack.
//!
//! ```text
//!   pod 10.250.1.2 ── 169.254.1.1 instance 10.250.2.1 ── 10.250.2.2, .3 servers
//!                                 (the proxy's rules)     (and 169.254.169.254)
//! ```

use nix::sched::{CloneFlags, setns};
use pilotlight::{
    agent::proxy::{PodRules, ProxyError, ServiceProxy},
    decide::services::ServicesState,
    model::{Endpoint, ObjectName, PortSpec, Protocol, ServicePort},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 1, 2));
const INSTANCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 2, 1));
const SERVER_A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 2, 2));
const SERVER_B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 2, 3));
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 7, 7));
const PATIENCE: Duration = Duration::from_secs(2);

/// Three namespaces, gone with it.
struct Net {
    name: String,
}

impl Net {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self { name: format!("plsp-{}-{number}", std::process::id()) };
        let (inst, pod, srv) = (net.of("inst"), net.of("pod"), net.of("srv"));
        for line in [
            format!("netns add {inst}"),
            format!("netns add {pod}"),
            format!("netns add {srv}"),
            format!("-n {inst} link add pod0 type veth peer name eth0 netns {pod}"),
            format!("-n {inst} link add eth0 type veth peer name eth0 netns {srv}"),
            format!("-n {inst} link set lo up"),
            format!("-n {pod} link set lo up"),
            format!("-n {srv} link set lo up"),
            format!("-n {inst} link set pod0 up"),
            format!("-n {inst} link set eth0 up"),
            format!("-n {pod} link set eth0 up"),
            format!("-n {srv} link set eth0 up"),
            // As the CNI plugin ptp does.
            format!("-n {inst} addr add 169.254.1.1/32 dev pod0"),
            format!("-n {inst} route add {POD}/32 dev pod0"),
            format!("-n {pod} addr add {POD}/32 dev eth0"),
            format!("-n {pod} route add 169.254.1.1 dev eth0 scope link"),
            format!("-n {pod} route add default via 169.254.1.1"),
            format!("-n {inst} addr add {INSTANCE}/24 dev eth0"),
            format!("-n {srv} addr add {SERVER_A}/24 dev eth0"),
            format!("-n {srv} addr add {SERVER_B}/24 dev eth0"),
            format!("-n {srv} addr add {METADATA}/32 dev eth0"),
            format!("-n {inst} route add default via {SERVER_A}"),
            format!("-n {srv} route add {POD}/32 via {INSTANCE}"),
        ] {
            ip(&line);
        }
        net.within("inst", || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding"));
        net
    }

    fn of(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    fn prefix(&self) -> Vec<String> {
        vec!["ip".into(), "netns".into(), "exec".into(), self.of("inst")]
    }

    fn proxy(&self) -> ServiceProxy {
        ServiceProxy::with_prefix(self.prefix())
    }

    fn pod_rules(&self) -> PodRules {
        PodRules::with_prefix(self.prefix())
    }

    /// Runs something in a namespace: on a thread of its own, for a thread can be in one only.
    fn within<T: Send>(&self, role: &str, run: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.of(role));
        let enter = || {
            let namespace = File::open(path).expect("the namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
            run()
        };
        thread::scope(|scope| scope.spawn(enter).join().expect("the thread in the namespace"))
    }

    /// Says its name to whoever connects.
    fn serve_tcp(&self, role: &str, at: (IpAddr, u16), name: &'static str) {
        let listener = self.within(role, || TcpListener::bind(SocketAddr::from(at)).expect("a free port"));
        thread::spawn(move || {
            for client in listener.incoming() {
                // Who hangs up early is not this server's business.
                let _ = client.and_then(|mut client| {
                    let peer = client.peer_addr()?;
                    write!(client, "{name} {}", peer.ip())
                });
            }
        });
    }

    fn serve_udp(&self, role: &str, at: (IpAddr, u16), name: &'static str) {
        let socket = self.within(role, || UdpSocket::bind(SocketAddr::from(at)).expect("a free port"));
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }

    /// What a server says: its name and the address it sees.
    fn dial(&self, role: &str, to: (IpAddr, u16)) -> std::io::Result<(String, String)> {
        self.within(role, || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let (name, peer) = text.split_once(' ').unwrap_or((&text, ""));
            Ok((name.to_owned(), peer.to_owned()))
        })
    }

    fn refused(&self, role: &str, to: (IpAddr, u16)) -> bool {
        self.dial(role, to).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    /// Who answers over many connections.
    fn answering(&self, role: &str, to: (IpAddr, u16)) -> BTreeSet<String> {
        // All forty at one of two servers: once in 2^39 runs.
        (0..40).map(|_| self.dial(role, to).expect("an answer").0).collect()
    }

    fn udp_client(&self, role: &str) -> UdpSocket {
        self.within(role, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for role in ["inst", "pod", "srv"] {
            let _ = Command::new("ip").args(["netns", "del", &self.of(role)]).output();
        }
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().expect("ip (iproute2)");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ask(socket: &UdpSocket, to: (IpAddr, u16)) -> std::io::Result<String> {
    socket.send_to(b"?", SocketAddr::from(to))?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn service(port: u16, protocol: Protocol, endpoints: &[(IpAddr, u16)]) -> ServicePort {
    ServicePort {
        service: ObjectName::new("shop", "web"),
        port_name: format!("p{port}"),
        cluster_ip: SERVICE,
        port,
        protocol,
        endpoints: endpoints.iter().map(|(ip, port)| Endpoint { ip: *ip, port: *port }).collect(),
        affinity_seconds: None,
    }
}

/// The provider's end, and the proxy that follows it.
struct Followed {
    provider: ServicesState,
    proxy: ServiceProxy,
}

impl Followed {
    async fn new(net: &Net, ports: Vec<ServicePort>) -> Self {
        let mut provider = ServicesState::starting_at(1000);
        provider.advance(keyed(ports));
        let mut proxy = net.proxy();
        assert_eq!(proxy.version(), 0);
        proxy.apply(&provider.whole()).await.expect("the first update");
        assert_eq!(proxy.version(), provider.version());
        Self { provider, proxy }
    }

    async fn set(&mut self, ports: Vec<ServicePort>) {
        let update = self.provider.advance(keyed(ports)).expect("a change");
        self.proxy.apply(&update).await.expect("an increment");
        assert_eq!(self.proxy.version(), self.provider.version());
    }
}

fn keyed(ports: Vec<ServicePort>) -> BTreeMap<pilotlight::model::ServicePortKey, ServicePort> {
    ports.into_iter().map(|port| (port.key(), port)).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_through_a_cluster_ip_are_spread_and_follow_every_update() {
    let net = Net::new();
    net.serve_tcp("srv", (SERVER_A, 8080), "a");
    net.serve_tcp("srv", (SERVER_B, 8081), "b");
    let (a, b) = ((SERVER_A, 8080), (SERVER_B, 8081));
    let mut followed = Followed::new(&net, vec![service(80, Protocol::Tcp, &[a, b])]).await;
    for role in ["pod", "inst"] {
        assert_eq!(net.answering(role, (SERVICE, 80)), names(&["a", "b"]), "{role}");
    }
    assert_eq!(net.dial("pod", (SERVICE, 80)).expect("an answer").1, POD.to_string(), "the Pod's address is kept");

    followed.set(vec![service(80, Protocol::Tcp, &[b])]).await;
    assert_eq!(net.answering("pod", (SERVICE, 80)), names(&["b"]));

    followed.set(vec![service(80, Protocol::Tcp, &[])]).await;
    assert!(net.refused("pod", (SERVICE, 80)) && net.refused("inst", (SERVICE, 80)));

    followed.set(vec![service(80, Protocol::Tcp, &[a]), service(81, Protocol::Tcp, &[b])]).await;
    assert_eq!(net.answering("pod", (SERVICE, 80)), names(&["a"]));
    assert_eq!(net.answering("pod", (SERVICE, 81)), names(&["b"]));
    assert!(net.refused("pod", (SERVICE, 82)), "a port that no Service has");

    followed.set(vec![service(81, Protocol::Tcp, &[b])]).await;
    assert!(net.refused("pod", (SERVICE, 80)), "a port that its Service has no more");

    followed.set(vec![]).await;
    assert!(net.dial("pod", (SERVICE, 81)).is_err(), "a Service that is no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_itself_through_its_service() {
    let net = Net::new();
    net.serve_tcp("pod", (POD, 8080), "self");
    net.pod_rules().set(POD, &[]).await.expect("the Pod's rules");
    let _followed = Followed::new(&net, vec![service(80, Protocol::Tcp, &[(POD, 8080)])]).await;
    assert_eq!(net.dial("pod", (SERVICE, 80)).expect("an answer").0, "self");
    assert_eq!(net.dial("inst", (SERVICE, 80)).expect("an answer").0, "self");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_udp_client_is_led_away_from_an_endpoint_that_is_gone() {
    let net = Net::new();
    net.serve_udp("srv", (SERVER_A, 53), "a");
    net.serve_udp("srv", (SERVER_B, 53), "b");
    let mut followed = Followed::new(&net, vec![]).await;
    let client = net.udp_client("pod");
    // Before the Service is known the flow goes nowhere, and must not stay there.
    client.send_to(b"?", SocketAddr::from((SERVICE, 53))).expect("sent");
    followed.set(vec![service(53, Protocol::Udp, &[(SERVER_A, 53)])]).await;
    assert_eq!(ask(&client, (SERVICE, 53)).expect("an answer"), "a");
    followed.set(vec![service(53, Protocol::Udp, &[(SERVER_B, 53)])]).await;
    assert_eq!(ask(&client, (SERVICE, 53)).expect("an answer"), "b", "from the same port of the client's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_affinity_stays_with_its_endpoint_while_that_lives() {
    let net = Net::new();
    net.serve_tcp("srv", (SERVER_A, 8080), "a");
    net.serve_tcp("srv", (SERVER_B, 8080), "b");
    let sticky = |endpoints: &[(IpAddr, u16)], seconds| ServicePort {
        affinity_seconds: Some(seconds),
        ..service(80, Protocol::Tcp, endpoints)
    };
    let (a, b) = ((SERVER_A, 8080), (SERVER_B, 8080));
    let mut followed = Followed::new(&net, vec![sticky(&[a, b], 600)]).await;
    let first = net.answering("pod", (SERVICE, 80));
    assert_eq!(first.len(), 1, "{first:?}");
    let (kept, other) = if first.contains("a") { (a, b) } else { (b, a) };

    followed.set(vec![sticky(&[kept], 600)]).await;
    assert_eq!(net.answering("pod", (SERVICE, 80)), first);
    followed.set(vec![sticky(&[a, b], 600)]).await;
    assert_eq!(net.answering("pod", (SERVICE, 80)), first, "a newcomer takes nobody over");
    followed.set(vec![sticky(&[other], 600)]).await;
    assert_ne!(net.answering("pod", (SERVICE, 80)), first);
    followed.set(vec![sticky(&[a, b], 60)]).await;
    assert_eq!(net.answering("pod", (SERVICE, 80)).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_lead_to_the_pod_and_the_metadata_service_is_out_of_its_reach() {
    let net = Net::new();
    net.serve_tcp("pod", (POD, 8080), "pod");
    net.serve_tcp("srv", (METADATA, 80), "metadata");
    let port = |host_port| PortSpec {
        name: None,
        container_port: 8080,
        host_port: Some(host_port),
        host_ip: None,
        protocol: Protocol::Tcp,
    };
    assert_eq!(net.dial("pod", (METADATA, 80)).expect("reachable without rules").0, "metadata");
    let rules = net.pod_rules();
    rules.set(POD, &[port(30080)]).await.expect("the Pod's rules");
    for role in ["srv", "inst", "pod"] {
        assert_eq!(net.dial(role, (INSTANCE, 30080)).expect("an answer").0, "pod", "{role}");
    }
    assert!(net.dial("pod", (METADATA, 80)).is_err());
    assert_eq!(net.dial("inst", (METADATA, 80)).expect("the instance's own").0, "metadata");
    rules.set(POD, &[port(30081)]).await.expect("other rules");
    assert!(net.refused("srv", (INSTANCE, 30080)));
    assert_eq!(net.dial("srv", (INSTANCE, 30081)).expect("an answer").0, "pod");
    rules.clear().await.expect("no rules");
    assert!(net.refused("srv", (INSTANCE, 30081)));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_outlive_a_restart_of_the_agent_and_are_then_replaced_whole() {
    let net = Net::new();
    net.serve_tcp("srv", (SERVER_A, 8080), "a");
    let a = (SERVER_A, 8080);
    let mut followed =
        Followed::new(&net, vec![service(80, Protocol::Tcp, &[a]), service(81, Protocol::Tcp, &[a])]).await;
    followed.proxy = net.proxy();
    assert_eq!(net.dial("pod", (SERVICE, 80)).expect("as before").0, "a");

    let update = followed.provider.advance(keyed(vec![service(80, Protocol::Tcp, &[a])])).expect("a change");
    let refused = followed.proxy.apply(&update).await;
    assert!(matches!(refused, Err(ProxyError::NotNext(_))), "an increment on nothing: {refused:?}");
    followed.proxy.apply(&followed.provider.whole()).await.expect("everything");
    assert_eq!(net.dial("pod", (SERVICE, 80)).expect("an answer").0, "a");
    assert!(net.refused("pod", (SERVICE, 81)));

    followed.proxy.clear().await.expect("cleared");
    assert!(net.dial("pod", (SERVICE, 80)).is_err());
    assert_eq!(followed.proxy.version(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_that_the_kernel_refuses_is_mended_by_writing_everything() {
    let net = Net::new();
    net.serve_tcp("srv", (SERVER_A, 8080), "a");
    let mut followed = Followed::new(&net, vec![service(80, Protocol::Tcp, &[])]).await;
    // Somebody else flushed the rules: the increment's chains and maps are gone.
    let flush = Command::new("ip").args(["netns", "exec", &net.of("inst"), "nft", "flush", "ruleset"]).status();
    assert!(flush.expect("nft").success());
    followed.set(vec![service(80, Protocol::Tcp, &[(SERVER_A, 8080)])]).await;
    assert_eq!(net.dial("pod", (SERVICE, 80)).expect("an answer").0, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_what_nft_said_and_forgets_the_version() {
    let mut proxy = ServiceProxy::with_prefix(["ip", "netns", "exec", "plsp-none"].map(str::to_owned).to_vec());
    let error = proxy.apply(&ServicesState::starting_at(5).whole()).await.expect_err("no such namespace");
    assert!(matches!(&error, ProxyError::Refused { message, .. } if message.contains("plsp-none")), "{error}");
    assert_eq!(proxy.version(), 0);
}
