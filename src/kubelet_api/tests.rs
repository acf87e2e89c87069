//! The real server over real TLS; the API server's reviews, the Pods and the agents are fakes.

use super::*;
use crate::{
    gateway::{Ca, KeyAndCertificate},
    model::{InstanceId, NodeName, ObjectName, PodUid, ServicesUpdate, TunnelHead, TunnelRequest},
    ports::{AgentLink, TunnelError},
};
use async_trait::async_trait;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(30);

/// Tokens and rights: `token-<user>` is a token of `<user>`; rights are `<user> <verb> <subresource>`.
struct FakeReviews {
    rights: &'static [&'static str],
    asked: AtomicUsize,
}

#[async_trait]
impl Reviews for FakeReviews {
    async fn token(&self, token: &str) -> Result<Option<User>, ReviewError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if token == "broken" {
            return Err(ReviewError { review: "TokenReview", message: "down".into() });
        }
        Ok(token.strip_prefix("token-").map(|name| User { name: name.into(), ..User::default() }))
    }
    async fn access(&self, user: &User, attributes: &Attributes) -> Result<bool, ReviewError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert!(user.groups.iter().any(|group| group == "system:authenticated"));
        if user.name == "unlucky" {
            return Err(ReviewError { review: "SubjectAccessReview", message: "down".into() });
        }
        let Attributes { verb, subresource } = attributes;
        let right = format!("{} {verb} {subresource}", user.name);
        Ok(user.name == "admin" || self.rights.contains(&right.as_str()))
    }
}

#[derive(Default)]
struct FakePods {
    /// The API server does not answer.
    away: AtomicBool,
}

fn pod(name: &str, instance: Option<&str>) -> FoundPod {
    FoundPod {
        name: ObjectName::new("ns", name),
        uid: PodUid::new(format!("uid-{name}")),
        instance: instance.map(InstanceId::new),
        containers: vec!["app".into()],
        released: false,
        running: instance.is_some(),
    }
}

#[async_trait]
impl PodDirectory for FakePods {
    fn find(&self, name: &ObjectName, uid: Option<&PodUid>) -> Option<FoundPod> {
        self.all().into_iter().find(|pod| pod.name == *name && uid.is_none_or(|uid| pod.uid == *uid))
    }
    fn all(&self) -> Vec<FoundPod> {
        vec![pod("web", Some("i-1")), pod("new", None), pod("lost", Some("i-lost"))]
    }
    async fn objects(&self) -> Result<String, String> {
        if self.away.load(Ordering::Relaxed) {
            return Err("no answer in time".into());
        }
        let object = |pod: FoundPod| serde_json::json!({ "metadata": { "name": pod.name.name, "uid": pod.uid } });
        let items: Vec<_> = self.all().into_iter().map(object).collect();
        Ok(serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }).to_string())
    }
}

/// Answers tunnels; exec and attach lead to a scripted streaming server.
#[derive(Default)]
struct FakeLink {
    asked: Mutex<Vec<TunnelRequest>>,
    heads: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl AgentLink for FakeLink {
    fn set_desired(&self, _: &InstanceId, _: Arc<crate::model::DesiredPod>) {}
    fn publish_services(&self, _: Arc<ServicesUpdate>, _: Arc<ServicesUpdate>) {}
    fn forget(&self, _: &InstanceId) {}
    async fn open_tunnel(
        &self,
        instance: &InstanceId,
        request: TunnelRequest,
    ) -> Result<(TunnelHead, DuplexStream), TunnelError> {
        if instance.as_str() != "i-1" {
            return Err(TunnelError::NotConnected(instance.clone()));
        }
        self.asked.lock().unwrap().push(request.clone());
        let (ours, theirs) = tokio::io::duplex(1024);
        let heads = Arc::clone(&self.heads);
        let said = |ours: DuplexStream, text: &'static str| {
            tokio::spawn(async move {
                let mut ours = ours;
                let _ = ours.write_all(text.as_bytes()).await;
            });
        };
        let head = match request {
            TunnelRequest::Exec { command, .. } if command == ["reject"] => {
                tokio::spawn(async move {
                    let (_, mut ours) = read_head(ours).await;
                    let _ = ours
                        .write_all(
                            b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\ncontent-type: text/plain\r\n\r\nno such",
                        )
                        .await;
                    // Stays open: its length says where the body ends.
                    let _ = ours.read_u8().await;
                });
                TunnelHead::StreamingServer { path: "/exec/token".into() }
            }
            TunnelRequest::Exec { .. } | TunnelRequest::Attach { .. } | TunnelRequest::PortForward { .. } => {
                tokio::spawn(async move {
                    let (head, mut ours) = read_head(ours).await;
                    heads.lock().unwrap().push(head);
                    // The first bytes of the stream come with the head.
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                                  X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nearly ";
                    let _ = ours.write_all(answer.as_bytes()).await;
                    let (mut read, mut write) = tokio::io::split(ours);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
                TunnelHead::StreamingServer { path: "/exec/token".into() }
            }
            TunnelRequest::Logs { options, .. } if options.previous => TunnelHead::Refused {
                status: 400,
                message: "previous terminated container \"app\" in pod \"web\" not found".into(),
            },
            TunnelRequest::Logs { .. } => {
                said(ours, "a line\n");
                TunnelHead::Open
            }
            TunnelRequest::ExecSync { .. } => {
                said(ours, "printed");
                TunnelHead::Open
            }
            TunnelRequest::Stats => {
                said(
                    ours,
                    r#"{"at":"2026-01-01T00:01:00Z","containers":[{"name":"app","started_at":"2026-01-01T00:00:00Z","cpu_usage_core_nanos":6000000000,"memory_working_set_bytes":4096,"memory_usage_bytes":8192}]}"#,
                );
                TunnelHead::Open
            }
        };
        Ok((head, theirs))
    }
}

async fn read_head<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (String, BufReader<S>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let count = timeout(LONG, stream.read_line(&mut head)).await.expect("a head in time").unwrap();
        assert!(count > 0, "the head ends early: {head}");
    }
    (head, stream)
}

struct Kubelet {
    address: SocketAddr,
    ca: Ca,
    pods: Arc<FakePods>,
    link: Arc<FakeLink>,
    reviews: Arc<FakeReviews>,
    cancel: CancellationToken,
    serving: Arc<ServingCertificate>,
    _dir: tempfile::TempDir,
}

/// Anything that signs will do as the cluster's CA.
fn client_certificate(
    name: &str,
    groups: &[&str],
    ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>,
) -> KeyAndCertificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    groups.iter().for_each(|group| params.distinguished_name.push(rcgen::DnType::OrganizationName, *group));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, ca).unwrap();
    KeyAndCertificate { key_pem: key.serialize_pem(), certificate_pem: certificate.pem() }
}

fn cluster_ca() -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

impl Kubelet {
    async fn start(rights: &'static [&'static str], client_ca_pem: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path()).unwrap();
        let own = ca.server_certificate(&["127.0.0.1".into()]).unwrap();
        let serving = Arc::new(ServingCertificate::new(&own.certificate_pem, &own.key_pem).unwrap());
        let pods = Arc::new(FakePods::default());
        let (link, reviews) =
            (Arc::new(FakeLink::default()), Arc::new(FakeReviews { rights, asked: AtomicUsize::new(0) }));
        let config = KubeletApiConfig {
            node: NodeName::new("pilotlight-a"),
            listen: "127.0.0.1:0".parse().unwrap(),
            client_ca_pem,
            configz: serde_json::json!({"kubeletconfig": {}}),
        };
        let metrics = || "pilotlight_pods 3\n".to_owned();
        let api = KubeletApi::bind(
            config,
            Arc::clone(&serving) as _,
            Arc::clone(&reviews) as _,
            Arc::clone(&pods) as _,
            Arc::clone(&link) as _,
            metrics,
        )
        .await
        .unwrap();
        let (address, cancel) = (api.address(), CancellationToken::new());
        tokio::spawn(api.run(cancel.clone()));
        Self { address, ca, pods, link, reviews, cancel, serving, _dir: dir }
    }

    async fn connect(&self, own: Option<&KeyAndCertificate>) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.certificate_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.certificate_pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn send(&self, own: Option<&KeyAndCertificate>, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = self.connect(own).await;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: kubelet\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        // Without close_notify after an error answer: what came is what counts.
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer in time");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body =
            if head.to_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(None, "GET", path, "authorization: Bearer token-admin\r\n").await
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or("");
    }
    whole
}

#[tokio::test]
async fn a_caller_must_be_known_and_must_be_allowed() {
    let cluster = cluster_ca();
    let rights = &["alice get proxy", "alice get metrics", "bob get pods", "carol get stats"];
    let kubelet = Kubelet::start(rights, Some(cluster.pem())).await;
    let alice = client_certificate("alice", &["people"], &cluster);
    let foreign = client_certificate("alice", &[], &cluster_ca());
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let none = String::new();
    for (own, headers, method, path, expected) in [
        (None, none.clone(), "GET", "/healthz", (401, "Unauthorized")),
        (None, bearer("guess"), "GET", "/healthz", (401, "Unauthorized")),
        (None, bearer("broken"), "GET", "/healthz", (401, "Unauthorized")),
        (None, "authorization: Basic YTpi\r\n".into(), "GET", "/healthz", (401, "Unauthorized")),
        (Some(&foreign), none.clone(), "GET", "/healthz", (401, "Unauthorized")),
        // A certificate that names nobody does not spoil a good token.
        (Some(&foreign), bearer("token-admin"), "GET", "/healthz", (200, "ok")),
        (Some(&alice), none.clone(), "GET", "/healthz", (200, "ok")),
        (Some(&alice), none.clone(), "GET", "/metrics", (200, "pilotlight_pods 3\n")),
        (
            Some(&alice),
            none.clone(),
            "GET",
            "/stats/summary",
            (403, "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[stats])"),
        ),
        (
            Some(&alice),
            none.clone(),
            "POST",
            "/run/ns/web/app?cmd=ls",
            (403, "Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[proxy])"),
        ),
        (
            None,
            bearer("token-bob"),
            "GET",
            "/configz",
            (403, "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[configz proxy])"),
        ),
        (
            None,
            bearer("token-unlucky"),
            "GET",
            "/pods",
            (500, "Authorization error (user=unlucky, verb=get, resource=nodes, subresource=pods)"),
        ),
        (None, bearer("token-admin"), "GET", "/no/such", (404, "404 page not found")),
    ] {
        let (status, body) = kubelet.send(own, method, path, &headers).await;
        assert_eq!((status, body.as_str()), expected, "{method} {path} {headers}");
    }
    let (status, pods) = kubelet.send(None, "GET", "/pods", &bearer("token-bob")).await;
    assert_eq!(status, 200);
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!((pods["kind"].as_str(), pods["items"].as_array().unwrap().len()), (Some("PodList"), 3));
}

#[tokio::test]
async fn the_api_server_is_asked_once_about_a_caller() {
    let kubelet = Kubelet::start(&[], None).await;
    for _ in 0..3 {
        assert_eq!(kubelet.get("/healthz").await.0, 200);
    }
    // One TokenReview, one SubjectAccessReview.
    assert_eq!(kubelet.reviews.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn unknown_pods_containers_and_bad_options_are_told_in_the_kubelets_words() {
    let kubelet = Kubelet::start(&[], None).await;
    let waiting = "container \"app\" in pod \"new\" is waiting to start: ContainerCreating";
    for (path, expected) in [
        ("/containerLogs/ns/web/app", (200, "a line\n")),
        ("/containerLogs/ns/no/app", (404, "pod \"no\" does not exist")),
        ("/containerLogs/ns/web/no", (404, "container \"no\" not found in pod \"web\"")),
        ("/containerLogs/ns/new/app", (400, waiting)),
        ("/containerLogs/ns/web/app?tailLines=-1", (422, "{\"message\": \"Invalid request.\"}")),
        ("/containerLogs/ns/web/app?tailLines=x", (400, "{\"message\": \"Unable to decode query.\"}")),
        (
            "/containerLogs/ns/web/app?previous=true",
            (400, "previous terminated container \"app\" in pod \"web\" not found"),
        ),
        ("/containerLogs/ns/lost/app", (503, "the agent of instance i-lost is not connected")),
        ("/exec/ns/web/app?command=ls", (400, "you must specify at least 1 of stdin, stdout, stderr")),
        ("/exec/ns/web/app?command=ls&output=1", (400, "Upgrade request required")),
        ("/exec/ns/no/app?command=ls&output=1", (404, "pod does not exist")),
        ("/exec/ns/web/other-uid/app?command=ls&output=1", (404, "pod does not exist")),
        ("/exec/ns/web/no?command=ls&output=1", (404, "container not found (\"no\")")),
        ("/exec/ns/new/app?command=ls&output=1", (404, "container not found (\"app\")")),
        ("/attach/ns/no/app?output=1", (404, "pod does not exist")),
        ("/portForward/ns/no", (404, "pod does not exist")),
        ("/portForward/ns/web?port=0", (400, "query parameter \"port\" is not a list of ports")),
    ] {
        let (status, body) = kubelet.get(path).await;
        assert_eq!((status, body.as_str()), expected, "{path}");
    }
    let (status, body) = kubelet
        .send(
            None,
            "POST",
            "/run/ns/web/uid-web/app?cmd=echo+hi",
            "authorization: Bearer token-admin\r\ncontent-length: 0\r\n",
        )
        .await;
    assert_eq!((status, body.as_str()), (200, "printed"));
    let asked = kubelet.link.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked, TunnelRequest::ExecSync { container: "app".into(), command: vec!["echo".into(), "hi".into()] });
}

#[tokio::test]
async fn an_exec_is_joined_byte_by_byte_to_the_runtimes_streaming_server() {
    let kubelet = Kubelet::start(&[], None).await;
    for path in [
        "/exec/ns/web/app?command=sh&command=-c&input=1&output=1",
        "/attach/ns/web/uid-web/app?output=1",
        "/portForward/ns/web",
    ] {
        let mut stream = kubelet.connect(None).await;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: kubelet:10250\r\nAuthorization: Bearer token-admin\r\nX-Forwarded-For: 10.0.0.1\r\n\
             Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
             X-Stream-Protocol-Version: v3.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, mut stream) = read_head(stream).await;
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(
            head.contains("upgrade: spdy/3.1") && head.contains("x-stream-protocol-version: v4.channel.k8s.io"),
            "{head}"
        );
        stream.write_all(b"and late").await.unwrap();
        let mut got = [0; 14];
        timeout(LONG, stream.read_exact(&mut got)).await.expect("bytes in time").unwrap();
        assert_eq!(&got, b"early and late");
        let sent = kubelet.link.heads.lock().unwrap().pop().unwrap().to_lowercase();
        assert!(sent.starts_with("post /exec/token http/1.1\r\n"), "{sent}");
        assert!(
            sent.contains("host: kubelet:10250\r\n") && sent.contains("x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n"),
            "{sent}"
        );
        assert_eq!(sent.matches("x-stream-protocol-version: v").count(), 2, "{sent}");
    }
    let asked = kubelet.link.asked.lock().unwrap().clone();
    assert!(
        matches!(&asked[0], TunnelRequest::Exec { command, streams, .. } if command == &["sh", "-c"] && streams.stdin && !streams.stderr)
    );
}

#[tokio::test]
async fn a_refusal_of_the_streaming_server_is_relayed() {
    let kubelet = Kubelet::start(&[], None).await;
    let headers = "authorization: Bearer token-admin\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n";
    let (status, body) = kubelet.send(None, "GET", "/exec/ns/web/app?command=reject&output=1", headers).await;
    assert_eq!((status, body.as_str()), (404, "no such"));
}

#[tokio::test]
async fn a_stop_closes_open_streams() {
    let kubelet = Kubelet::start(&[], None).await;
    let mut stream = kubelet.connect(None).await;
    let request = "GET /exec/ns/web/app?output=1 HTTP/1.1\r\nHost: k\r\nAuthorization: Bearer token-admin\r\n\
                   Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let (_, mut stream) = read_head(stream).await;
    kubelet.cancel.cancel();
    let mut rest = vec![];
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("the stream ends");
}

#[tokio::test]
async fn a_scrape_tells_of_the_pods_that_answer() {
    let kubelet = Kubelet::start(&[], None).await;
    let (status, text) = kubelet.get("/metrics/resource").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("container_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\",container=\"app\"} 6 "),
        "{text}"
    );
    // "lost" runs, but its agent is away.
    assert!(text.contains("resource_scrape_error 1\n") && !text.contains("\"lost\""), "{text}");
    let (_, summary) = kubelet.get("/stats/summary").await;
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(
        (summary["node"]["nodeName"].as_str(), summary["pods"].as_array().unwrap().len()),
        (Some("pilotlight-a"), 1)
    );
    let (_, running) = kubelet.get("/runningpods/").await;
    assert!(running.contains("web") && !running.contains("\"new\""), "{running}");
}

#[tokio::test]
async fn while_the_api_server_is_away_the_pods_are_unavailable_and_why_is_said() {
    let kubelet = Kubelet::start(&[], None).await;
    kubelet.pods.away.store(true, Ordering::Relaxed);
    for path in ["/pods", "/runningpods/"] {
        let (status, text) = kubelet.get(path).await;
        assert_eq!((status, text.as_str()), (503, "the node's pods can't be listed now: no answer in time"), "{path}");
    }
    kubelet.pods.away.store(false, Ordering::Relaxed);
    assert_eq!(kubelet.get("/pods").await.0, 200);
}

#[tokio::test]
async fn the_serving_certificate_can_be_replaced_while_it_serves() {
    let kubelet = Kubelet::start(&[], None).await;
    let shown = async || kubelet.connect(None).await.get_ref().1.peer_certificates().unwrap()[0].clone();
    let first = shown().await;
    assert!(kubelet.serving.replace("nonsense", "nonsense").is_err());
    assert_eq!(shown().await, first);
    let next = kubelet.ca.server_certificate(&["127.0.0.1".into()]).unwrap();
    kubelet.serving.replace(&next.certificate_pem, &next.key_pem).unwrap();
    assert_ne!(shown().await, first);
}
