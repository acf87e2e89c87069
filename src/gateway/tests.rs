//! The real gateway and the real agent link, in one process, over real TLS; the cloud and the Pod are
//! fakes.

mod door;
mod fakes;

use super::*;
use crate::{
    agent::{self, AgentConfig, Proof, Rooms},
    model::{AgentEvent, Generation, Notice, ObjectName, PodReport, PodUid, Protocol, ServicePort, Streams},
    proto::{
        AgentMessage, ChallengeRequest, Hello, RegisterRequest, RenewRequest, TunnelFrame, TunnelOpened,
        agent_gateway_client::AgentGatewayClient, agent_message, bootstrap_client::BootstrapClient, register_request,
        tunnel_frame,
    },
};
use fakes::{FakeCloud, FakeHost, FakeServices, Unprepared};
use std::collections::HashSet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Far more than anything here takes; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(30);

struct Provider {
    gateway: Gateway,
    ca: Arc<Ca>,
    cloud: Arc<FakeCloud>,
    updates: mpsc::Receiver<AgentUpdate>,
    metrics: Metrics,
    cancel: CancellationToken,
    dir: tempfile::TempDir,
}

impl Provider {
    fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), tempfile::tempdir().unwrap(), Arc::default())
    }

    fn with_places(places: Places) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        Self::serve(
            GatewayConfig { listen, names: vec!["127.0.0.1".into()], places },
            tempfile::tempdir().unwrap(),
            Arc::default(),
        )
    }

    fn start_at(listen: SocketAddr, dir: tempfile::TempDir, cloud: Arc<FakeCloud>) -> Self {
        let places = Places::default();
        Self::serve(GatewayConfig { listen, names: vec!["127.0.0.1".into()], places }, dir, cloud)
    }

    fn serve(config: GatewayConfig, dir: tempfile::TempDir, cloud: Arc<FakeCloud>) -> Self {
        let ca = Arc::new(Ca::open(dir.path()).unwrap());
        let (sender, updates) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let metrics = Metrics::default();
        let (shared_ca, shared_cloud) = (Arc::clone(&ca), Arc::clone(&cloud) as _);
        let gateway =
            Gateway::start(&config, shared_ca, shared_cloud, sender, metrics.clone(), cancel.clone()).unwrap();
        Self { gateway, ca, cloud, updates, metrics, cancel, dir }
    }

    /// Ends this one as a killed process would, and starts another in its place.
    async fn restart(self) -> Self {
        let address = self.gateway.address();
        self.cancel.cancel();
        drop(self.updates);
        timeout(LONG, self.gateway.stopped()).await.expect("the gateway stops when asked");
        Self::start_at(address, self.dir, self.cloud)
    }

    /// The next one; that nothing is announced, which each session says, is passed over.
    async fn update(&mut self) -> AgentUpdate {
        loop {
            match timeout(LONG, self.updates.recv()).await.expect("an update in time").unwrap() {
                AgentUpdate::Notices { notices, .. } if notices.is_empty() => {}
                update => return update,
            }
        }
    }

    async fn connected(&mut self) -> Option<(PodUid, Generation)> {
        loop {
            if let AgentUpdate::Connected { holds, .. } = self.update().await {
                return holds;
            }
        }
    }

    async fn channel(&self, identity: Option<&KeyAndCertificate>) -> Result<Channel, tonic::transport::Error> {
        install_crypto_provider();
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.ca.certificate_pem()));
        if let Some(own) = identity {
            tls = tls.identity(Identity::from_pem(&own.certificate_pem, &own.key_pem));
        }
        let uri = format!("https://{}", self.gateway.address());
        Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect().await
    }

    fn config(&self, instance: &str) -> AgentConfig {
        AgentConfig {
            instance: InstanceId::new(instance),
            provider: format!("https://{}", self.gateway.address()),
            ca_pem: self.ca.certificate_pem().to_owned(),
            proof: Proof::Token(format!("token-of-{instance}")),
            state_dir: self.dir.path().join(instance),
            metadata_dir: None,
            address: None,
        }
    }
}

struct Agent {
    host: Arc<FakeHost>,
    events: mpsc::Sender<AgentEvent>,
    notices: watch::Sender<Vec<Notice>>,
    services: watch::Receiver<(u64, Vec<ServicePort>)>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), agent::AgentError>>,
}

impl Agent {
    async fn start(config: AgentConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let streaming = listener.local_addr().unwrap();
        // Echoes until its peer has ended, then ends: what a half-close needs to be seen.
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.write_all(b"bye").await;
                });
            }
        });
        let host =
            Arc::new(FakeHost { desired: watch::Sender::new(None), report: watch::Sender::new(None), streaming });
        let (events, events_out) = mpsc::channel(16);
        let (notices, standing) = watch::channel(vec![]);
        let (services_in, services) = watch::channel((0, vec![]));
        let cancel = CancellationToken::new();
        let rooms = Rooms {
            host: Arc::clone(&host) as _,
            preparation: Box::new(Unprepared),
            events: events_out,
            notices: standing,
            services: Box::new(FakeServices(services_in)),
        };
        let task = tokio::spawn(agent::link(config, rooms, cancel.clone()));
        Self { host, events, notices, services, cancel, task }
    }

    async fn runs(&self, generation: u64) {
        let mut desired = self.host.desired.subscribe();
        let reached =
            |desired: &Option<Arc<DesiredPod>>| desired.as_ref().is_some_and(|d| d.generation.0 == generation);
        timeout(LONG, desired.wait_for(reached)).await.expect("the desired state arrives").unwrap();
    }
}

fn desired(generation: u64) -> Arc<DesiredPod> {
    let empty = serde_json::json!({
        "generation": generation, "uid": "u-1", "name": {"namespace": "default", "name": "p"},
        "labels": {}, "annotations": {}, "pod_ip": null, "hostname": "p", "fqdn": null, "host_aliases": [],
        "dns": {"nameservers": [], "searches": [], "options": []},
        "host_network": false, "host_pid": false, "host_ipc": false, "share_process_namespace": false,
        "security": serde_json::to_value(crate::model::PodSecurity::default()).unwrap(),
        "restart_policy": "Always", "termination_grace_seconds": 30, "containers": [], "volumes": [], "stop": null
    });
    Arc::new(serde_json::from_value(empty).unwrap())
}

fn report(generation: u64) -> Arc<PodReport> {
    Arc::new(PodReport {
        uid: PodUid::new("u-1"),
        generation: Generation(generation),
        sandbox_ready_at: None,
        pod_ip: None,
        containers: vec![],
        terminated: false,
    })
}

fn certificate(ca: &Ca, instance: &str) -> KeyAndCertificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = AgentRequest::parse(&csr).unwrap();
    let certificate_pem = ca.agent_certificate(&InstanceId::new(instance), &request).unwrap();
    KeyAndCertificate { key_pem: key.serialize_pem(), certificate_pem }
}

fn hello() -> (mpsc::Sender<AgentMessage>, ReceiverStream<AgentMessage>) {
    let (sender, stream) = mpsc::channel(4);
    sender.try_send(AgentMessage { kind: Some(agent_message::Kind::Hello(Hello::default())) }).unwrap();
    (sender, ReceiverStream::new(stream))
}

#[tokio::test]
async fn without_a_certificate_only_registration_is_answered() {
    let provider = Provider::start();
    let channel = provider.channel(None).await.unwrap();
    let mut client = AgentGatewayClient::new(channel.clone());
    let (_keep, stream) = hello();
    assert_eq!(client.session(stream).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.tunnel(tokio_stream::iter([])).await.unwrap_err().code(), Code::Unauthenticated);
    let renew = RenewRequest { csr_pem: String::new() };
    assert_eq!(client.renew(renew).await.unwrap_err().code(), Code::Unauthenticated);
    let mut bootstrap = BootstrapClient::new(channel);
    assert_eq!(bootstrap.challenge(ChallengeRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    let refused = bootstrap.register(registration("i-1", "?", &Key::new())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let provider = Provider::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = certificate(&Ca::open(elsewhere.path()).unwrap(), "i-1");
    // With TLS 1.3 the refusal may come only with the first call.
    let refused = match provider.channel(Some(&foreign)).await {
        Err(_) => true,
        Ok(channel) => {
            let (_keep, stream) = hello();
            AgentGatewayClient::new(channel).session(stream).await.is_err()
        }
    };
    assert!(refused);
}

#[tokio::test]
async fn the_gateways_own_certificate_is_no_identity() {
    let provider = Provider::start();
    let own = provider.ca.server_certificate(&["127.0.0.1".into()]).unwrap();
    let refused = match provider.channel(Some(&own)).await {
        Err(_) => true,
        Ok(channel) => {
            let (_keep, stream) = hello();
            AgentGatewayClient::new(channel).session(stream).await.is_err()
        }
    };
    assert!(refused);
}

/// As an agent has one.
struct Key(rcgen::KeyPair);

impl Key {
    fn new() -> Self {
        Self(rcgen::KeyPair::generate().unwrap())
    }

    fn request(&self) -> String {
        rcgen::CertificateParams::default().serialize_request(&self.0).unwrap().pem().unwrap()
    }
}

fn registration(instance: &str, token: &str, key: &Key) -> RegisterRequest {
    let proof = Some(register_request::Proof::LocalToken(token.into()));
    RegisterRequest { instance_id: instance.into(), csr_pem: key.request(), proof }
}

fn code<T>(result: &Result<tonic::Response<T>, tonic::Status>) -> Option<Code> {
    result.as_ref().err().map(tonic::Status::code)
}

#[tokio::test]
async fn an_instance_is_its_first_keys_and_that_key_may_ask_again() {
    let provider = Provider::start();
    let (own, other) = (Key::new(), Key::new());
    let mut client = BootstrapClient::new(provider.channel(None).await.unwrap());
    let denied = Some(Code::PermissionDenied);
    assert_eq!(code(&client.register(registration("i-1", "guess", &own)).await), denied);
    assert_eq!(code(&client.register(registration("i-1", "token-of-i-1", &own)).await), None);
    assert_eq!(code(&client.register(registration("i-1", "token-of-i-1", &own)).await), None, "its answer was lost");
    assert_eq!(code(&client.register(registration("i-1", "token-of-i-1", &other)).await), denied);
    let counted = provider.metrics.text();
    for line in
        ["registrations_total 2", "refused_total{reason=\"wrong-token\"} 1", "refused_total{reason=\"other-key\"} 1"]
    {
        assert!(counted.contains(line), "{line}: {counted}");
    }
}

#[tokio::test]
async fn a_registration_of_a_wrong_form_is_refused_like_any_other() {
    let provider = Provider::start();
    let mut client = BootstrapClient::new(provider.channel(None).await.unwrap());
    let good = registration("i-1", "token-of-i-1", &Key::new());
    let wrong = [
        RegisterRequest { instance_id: String::new(), ..good.clone() },
        RegisterRequest { instance_id: "i".repeat(65), ..good.clone() },
        RegisterRequest { instance_id: "i-1\n2026 INFO all is well".into(), ..good.clone() },
        RegisterRequest { csr_pem: "no request".into(), ..good.clone() },
        RegisterRequest { proof: None, ..good.clone() },
    ];
    let answers = wrong.len();
    let mut told = HashSet::new();
    for registration in wrong {
        let refused = client.register(registration).await.unwrap_err();
        told.insert((refused.code() as i32, refused.message().to_owned()));
    }
    let guessed = client.register(registration("i-1", "guess", &Key::new())).await.unwrap_err();
    told.insert((guessed.code() as i32, guessed.message().to_owned()));
    assert_eq!(told.len(), 1, "an answer tells what was wrong: {told:?}");
    let line = format!("refused_total{{reason=\"malformed\"}} {answers}");
    assert!(provider.metrics.text().contains(&line), "{}", provider.metrics.text());
    let large = RegisterRequest { csr_pem: "x".repeat(MAX_BOOTSTRAP_BYTES), ..good };
    assert_eq!(code(&client.register(large).await), Some(Code::OutOfRange));
}

#[tokio::test]
async fn a_certificate_is_renewed_for_its_own_key_while_the_instance_lives() {
    let provider = Provider::start();
    let (key, other) = (Key::new(), Key::new());
    let request = AgentRequest::parse(&key.request()).unwrap();
    let certificate_pem = provider.ca.agent_certificate(&InstanceId::new("i-1"), &request).unwrap();
    let own = KeyAndCertificate { key_pem: key.0.serialize_pem(), certificate_pem };
    let mut client = AgentGatewayClient::new(provider.channel(Some(&own)).await.unwrap());
    let mut renew = async |key: &Key| client.renew(RenewRequest { csr_pem: key.request() }).await;
    assert_eq!(code(&renew(&key).await), None);
    assert_eq!(code(&renew(&other).await), Some(Code::PermissionDenied));
    provider.cloud.gone.lock().unwrap().insert(InstanceId::new("i-1"));
    assert_eq!(code(&renew(&key).await), Some(Code::PermissionDenied));
}

#[tokio::test]
async fn an_instance_can_not_take_up_another_ones_tunnel() {
    let mut provider = Provider::start();
    let mut clients = vec![];
    let mut sessions = vec![];
    for instance in ["i-a", "i-b"] {
        let own = certificate(&provider.ca, instance);
        let mut client = AgentGatewayClient::new(provider.channel(Some(&own)).await.unwrap());
        let (keep, stream) = hello();
        sessions.push((client.session(stream).await.unwrap().into_inner(), keep));
        clients.push(client);
        provider.connected().await;
    }
    let gateway = &provider.gateway;
    let b = InstanceId::new("i-b");
    let opened = gateway.open_tunnel(&b, TunnelRequest::Stats);
    let steal = async {
        let asked = sessions[1].0.message().await.unwrap().unwrap();
        let Some(crate::proto::provider_message::Kind::OpenTunnel(open)) = asked.kind else { panic!("{asked:?}") };
        let frame = |id: &str| {
            let head = serde_json::to_vec(&TunnelHead::Open).unwrap().into();
            TunnelFrame { kind: Some(tunnel_frame::Kind::Opened(TunnelOpened { id: id.into(), head })) }
        };
        let stolen = clients[0].tunnel(tokio_stream::iter([frame(&open.id)])).await;
        assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
        let (keep, stream) = mpsc::channel(4);
        keep.try_send(frame(&open.id)).unwrap();
        (clients[1].tunnel(ReceiverStream::new(stream)).await.unwrap(), keep)
    };
    let (opened, _taken) = timeout(LONG, async { tokio::join!(opened, steal) }).await.unwrap();
    assert_eq!(opened.unwrap().0, TunnelHead::Open);
}

#[tokio::test]
async fn desired_states_reports_and_events_flow_and_the_newest_state_wins() {
    let mut provider = Provider::start();
    let instance = InstanceId::new("i-1");
    let agent = Agent::start(provider.config("i-1")).await;
    assert_eq!(provider.connected().await, None);
    provider.gateway.set_desired(&instance, desired(1));
    provider.gateway.set_desired(&instance, desired(2));
    agent.runs(2).await;
    agent.host.report.send_replace(Some(report(2)));
    assert!(matches!(provider.update().await, AgentUpdate::Report { report, .. } if report.generation.0 == 2));
    let event = AgentEvent {
        uid: PodUid::new("u-1"),
        at: jiff::Timestamp::UNIX_EPOCH,
        warning: true,
        reason: "BackOff".into(),
        message: "again".into(),
        container: None,
    };
    agent.events.send(event.clone()).await.unwrap();
    assert!(matches!(provider.update().await, AgentUpdate::Event { event: got, .. } if *got == event));
    agent.cancel.cancel();
    agent.task.await.unwrap().unwrap();
    assert!(matches!(provider.update().await, AgentUpdate::Disconnected { .. }));
    // Sent to nobody: nothing of it comes later. Who is back is told what counts then.
    provider.gateway.set_desired(&instance, desired(4));
    // Nothing kept it from registering; but an agent that starts again must not need to.
    let agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    provider.gateway.set_desired(&instance, desired(3));
    agent.runs(3).await;
}

/// An agent of before there were pieces outlives its provider's upgrade.
#[tokio::test]
async fn a_long_desired_state_comes_in_pieces_to_those_that_take_them_and_whole_to_others() {
    let mut provider = Provider::start();
    let instance = InstanceId::new("i-1");
    let long = |generation| {
        let mut pod = DesiredPod::clone(&desired(generation));
        pod.hostname = "x".repeat(10_000);
        Arc::new(pod)
    };
    let agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    provider.gateway.set_desired(&instance, long(1));
    agent.runs(1).await;
    // Nothing of one is left before the next.
    provider.gateway.set_desired(&instance, long(2));
    agent.runs(2).await;
    assert_eq!(*agent.host.desired.borrow(), Some(long(2)));
    agent.cancel.cancel();
    agent.task.await.unwrap().unwrap();

    let own = certificate(&provider.ca, "i-1");
    let mut old = AgentGatewayClient::new(provider.channel(Some(&own)).await.unwrap());
    let (_keep, stream) = hello();
    let mut session = old.session(stream).await.unwrap().into_inner();
    assert!(matches!(provider.update().await, AgentUpdate::Disconnected { .. }));
    provider.connected().await;
    provider.gateway.set_desired(&instance, long(2));
    let first = session.message().await.unwrap().unwrap();
    let Some(crate::proto::provider_message::Kind::Desired(bytes)) = first.kind else { panic!("{first:?}") };
    assert_eq!(serde_json::from_slice::<DesiredPod>(&bytes).unwrap(), *long(2));
}

#[tokio::test]
async fn after_a_provider_restart_the_agent_is_back_at_once_with_what_it_holds() {
    let mut provider = Provider::start();
    let instance = InstanceId::new("i-1");
    let agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    provider.gateway.set_desired(&instance, desired(7));
    agent.runs(7).await;
    agent.host.report.send_replace(Some(report(7)));
    let whole = |to, port| ServicesUpdate { from: 0, to, upsert: vec![service(port)], remove: vec![] };
    provider.gateway.publish_services(Arc::new(whole(5, 80)), Arc::new(whole(5, 80)));
    let mut services = agent.services.clone();
    timeout(LONG, services.wait_for(|(version, _)| *version == 5)).await.unwrap().unwrap();

    let mut provider = provider.restart().await;
    let started = std::time::Instant::now();
    let holds = provider.connected().await;
    assert_eq!(holds, Some((PodUid::new("u-1"), Generation(7))));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // Said again without being asked.
    assert!(matches!(provider.update().await, AgentUpdate::Report { report, .. } if report.generation.0 == 7));
    // The same number means something else to a new provider.
    provider.gateway.publish_services(Arc::new(whole(5, 443)), Arc::new(whole(5, 443)));
    timeout(LONG, services.wait_for(|(_, ports)| ports == &[service(443)])).await.unwrap().unwrap();
    provider.gateway.set_desired(&instance, desired(8));
    agent.runs(8).await;
}

#[tokio::test]
async fn what_the_cloud_announces_is_told_whole_on_each_session_and_when_it_is_withdrawn() {
    let mut provider = Provider::start();
    let agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    let notice = Notice::Interruption { at: jiff::Timestamp::UNIX_EPOCH };
    agent.notices.send_replace(vec![notice.clone()]);
    let told = |update| matches!(update, AgentUpdate::Notices { notices, .. } if notices == [notice.clone()]);
    assert!(told(provider.update().await));
    let mut provider = provider.restart().await;
    provider.connected().await;
    assert!(told(provider.update().await));
    agent.notices.send_replace(vec![]);
    let withdrawn = timeout(LONG, provider.updates.recv()).await.unwrap().unwrap();
    assert!(matches!(withdrawn, AgentUpdate::Notices { notices, .. } if notices.is_empty()));
}

fn service(port: u16) -> ServicePort {
    ServicePort {
        service: ObjectName::new("default", "s"),
        port_name: String::new(),
        cluster_ip: [10, 96, 0, 9].into(),
        port,
        protocol: Protocol::Tcp,
        endpoints: vec![],
        affinity_seconds: None,
    }
}

#[tokio::test]
async fn a_tunnel_carries_much_both_ways_and_each_way_ends_alone() {
    let mut provider = Provider::start();
    let _agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    let exec = |container: &str| TunnelRequest::Exec {
        container: container.into(),
        command: vec!["sh".into()],
        streams: Streams::default(),
    };
    let instance = InstanceId::new("i-1");
    let (head, stream) = provider.gateway.open_tunnel(&instance, exec("app")).await.unwrap();
    assert_eq!(head, TunnelHead::StreamingServer { path: "/exec/a-token".into() });
    let (mut read, mut write) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..10_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let expected = [&sent[..], b"bye"].concat();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = vec![];
    let (_, count) = timeout(LONG, async { tokio::join!(send, read.read_to_end(&mut got)) }).await.unwrap();
    count.unwrap();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());

    let (head, _) = provider.gateway.open_tunnel(&instance, exec("nope")).await.unwrap();
    assert_eq!(head, TunnelHead::Refused { status: 404, message: "container not found (\"nope\")".into() });

    let run = TunnelRequest::ExecSync { container: "app".into(), command: vec!["echo".into(), "hi".into()] };
    let (head, mut stream) = provider.gateway.open_tunnel(&instance, run).await.unwrap();
    assert_eq!(head, TunnelHead::Open);
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "echo hi!");
}

#[tokio::test]
async fn tunnels_that_nobody_reads_leave_the_session_alone() {
    let mut provider = Provider::start();
    let agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    let instance = InstanceId::new("i-1");
    let mut stalled = vec![];
    for _ in 0..8 {
        let exec = TunnelRequest::Exec { container: "app".into(), command: vec![], streams: Streams::default() };
        let (_, mut stream) = provider.gateway.open_tunnel(&instance, exec).await.unwrap();
        // The echo comes back to one who does not read, until nothing more goes in.
        let block = vec![0; 64 * 1024];
        while timeout(Duration::from_millis(100), stream.write_all(&block)).await.is_ok() {}
        stalled.push(stream);
    }
    agent.host.report.send_replace(Some(report(3)));
    assert!(matches!(provider.update().await, AgentUpdate::Report { .. }));
    provider.gateway.set_desired(&instance, desired(4));
    agent.runs(4).await;
}

#[tokio::test]
async fn a_tunnel_to_an_agent_that_is_about_to_come_back_waits_for_it() {
    let provider = Provider::start();
    let instance = InstanceId::new("i-1");
    let error = provider.gateway.open_tunnel(&instance, TunnelRequest::Stats).await.unwrap_err();
    assert!(matches!(error, TunnelError::NotConnected(_)), "who asks all of them does not wait: {error}");
    let exec = TunnelRequest::Exec { container: "app".into(), command: vec![], streams: Streams::default() };
    let opened = provider.gateway.open_tunnel(&instance, exec);
    let (opened, _agent) = tokio::join!(opened, Agent::start(provider.config("i-1")));
    opened.expect("it is opened when the agent is there");
}

#[tokio::test]
async fn a_forgotten_instance_loses_its_session_and_its_tunnels() {
    let mut provider = Provider::start();
    let agent = Agent::start(provider.config("i-1")).await;
    provider.connected().await;
    let instance = InstanceId::new("i-1");
    let exec = TunnelRequest::Exec { container: "app".into(), command: vec![], streams: Streams::default() };
    let (_, mut stream) = provider.gateway.open_tunnel(&instance, exec).await.unwrap();
    agent.cancel.cancel();
    provider.gateway.forget(&instance);
    let mut rest = vec![];
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("the tunnel ends");
    agent.task.await.unwrap().unwrap();
    let error = provider.gateway.open_tunnel(&instance, TunnelRequest::Stats).await.unwrap_err();
    assert!(matches!(error, TunnelError::NotConnected(_)), "{error}");
}
