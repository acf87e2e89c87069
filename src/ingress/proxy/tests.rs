//! The data plane on this machine's loopback, before backends that fail.

use super::{Endpoints, Limits, Live, Metrics, Proxy};
use crate::ingress::backends::{Service, ServicePort, Slice};
use crate::ingress::spec::{HttpPath, HttpRule, Ingress, IngressRule, IngressSpec, PortRef, Split};
use crate::ingress::{table::Listener, world::World};
use crate::model::ObjectName;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

const PATIENCE: Duration = Duration::from_secs(60);
/// As Go's `http.Error` writes it.
const GATEWAY_ERROR: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain; charset=utf-8\r\n\
    x-content-type-options: nosniff\r\ncontent-length: 8\r\nconnection: close\r\n\r\nrefused\n";
const OWN_ERROR: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
    connection: close\r\n\r\n{}";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell";
/// The connection is closed without an answer.
const NOTHING: &str = "";

async fn loopback() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A backend that answers each connection with the next of these, the last one ever after; and the heads of the requests.
struct Backend {
    address: SocketAddr,
    heads: Arc<std::sync::Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Backend {
    async fn start(answers: &'static [&'static str]) -> Self {
        let (listener, address) = loopback().await;
        let heads = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let serve = async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(String::from_utf8(head).unwrap());
                    seen.len()
                };
                let answer = answers[(number - 1).min(answers.len() - 1)];
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        Self { address, heads, _task: AbortOnDropHandle::new(tokio::spawn(serve)) }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// What the gateway knows: an Ingress for `a.test` whose only backend has these endpoints.
fn live(ready: &[SocketAddr]) -> Arc<Live> {
    let service = ObjectName::new("ns", "s");
    let split = Split {
        service_namespace: "ns".to_owned(),
        service_name: "s".to_owned(),
        service_port: PortRef::Number(80),
        percent: 100,
        ..Split::default()
    };
    let path = HttpPath { splits: Some(vec![split]), ..HttpPath::default() };
    let rule = IngressRule {
        hosts: vec!["a.test".to_owned()],
        visibility: "ExternalIP".to_owned(),
        http: Some(HttpRule { paths: Some(vec![path]) }),
    };
    let spec = IngressSpec { rules: vec![rule], ..IngressSpec::default() };
    let mut world = World::new("cluster.local".to_owned());
    world.see(ObjectName::new("ns", "a"), Ingress { spec, ..Ingress::default() });
    let port = ServicePort { name: "http".to_owned(), number: 80, app_protocol: None };
    let of = Service { external_name: None, ports: vec![port], ipv6: false };
    world.directory.services.insert(service.clone(), of);
    for address in ready {
        let ports = vec![("http".to_owned(), address.port())];
        let slice = Slice { service: service.clone(), ports, ready: vec![address.ip()] };
        world.directory.slices.entry(service.clone()).or_default().insert(address.to_string(), slice);
    }
    Arc::new(Live::of(&world.plan(), &Endpoints::default()))
}

struct Gateway {
    address: SocketAddr,
    live: watch::Sender<Arc<Live>>,
    metrics: Metrics,
    _task: AbortOnDropHandle<()>,
}

impl Gateway {
    async fn start(ready: &[SocketAddr]) -> Self {
        let (socket, address) = loopback().await;
        let (live, shown) = watch::channel(live(ready));
        let metrics = Metrics::default();
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let proxy = Proxy::new(shown, metrics.clone(), Limits::default(), crypto).unwrap();
        let listener = Listener { external: true, tls: false };
        let task = tokio::spawn(async move { proxy.serve(socket, listener, CancellationToken::new()).await });
        Self { address, live, metrics, _task: AbortOnDropHandle::new(task) }
    }

    /// Sends this, and gives the whole answer.
    fn ask(&self, request: &'static str) -> JoinHandle<String> {
        let address = self.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
            answer
        })
    }

    fn repeated(&self, cause: &str) -> Option<String> {
        let begins = format!("pilotlight_ingress_repetitions_total{{cause=\"{cause}\"}} ");
        self.metrics.text().lines().find_map(|line| line.strip_prefix(&begins).map(str::to_owned))
    }
}

const GET: &str = "GET /x?y=1 HTTP/1.1\r\nhost: a.test\r\nx-mine: 7\r\nconnection: close\r\n\r\n";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\nconnection: close\r\n\r\none";
const POST: &str = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_get_whose_connection_broke_is_sent_once_more_as_it_was() {
    let backend = Backend::start(&[NOTHING, OK]).await;
    let gateway = Gateway::start(&[backend.address]).await;
    let answer = gateway.ask(GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("well"), "{answer}");
    let heads = backend.heads();
    assert_eq!(heads.len(), 2, "{heads:?}");
    assert_eq!(heads[0], heads[1]);
    assert!(heads[0].starts_with("GET /x?y=1 HTTP/1.1\r\n") && heads[0].contains("x-mine: 7\r\n"), "{heads:?}");
    assert_eq!(gateway.repeated("broken").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_get_waits_for_a_process_that_knative_s_proxy_does_not_reach() {
    let backend = Backend::start(&[GATEWAY_ERROR, GATEWAY_ERROR, NOTHING, OK]).await;
    let gateway = Gateway::start(&[backend.address]).await;
    let answer = gateway.ask(GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(backend.heads().len(), 4);
    assert_eq!(gateway.repeated("gateway").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_get_waits_for_another_endpoint_when_the_only_one_broke_off_and_is_gone() {
    let [broken, other] = [Backend::start(&[NOTHING]).await, Backend::start(&[OK]).await];
    let gateway = Gateway::start(&[broken.address]).await;
    let answer = gateway.ask(GET);
    timeout(PATIENCE, async {
        while broken.heads().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is asked");
    gateway.live.send_replace(live(&[]));
    gateway.live.send_replace(live(&[other.address]));
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_service_s_own_502_is_passed_on_at_once() {
    let backend = Backend::start(&[OWN_ERROR, OK]).await;
    let gateway = Gateway::start(&[backend.address]).await;
    let answer = gateway.ask(GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("{}"), "{answer}");
    assert_eq!(backend.heads().len(), 1);
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_not_sent_twice() {
    for failure in [&[NOTHING, OK], &[GATEWAY_ERROR, OK]] {
        for request in [POST, PUT] {
            let backend = Backend::start(failure).await;
            let gateway = Gateway::start(&[backend.address]).await;
            let answer = gateway.ask(request).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 502 "), "{request}: {answer}");
            assert_eq!(backend.heads().len(), 1, "{request}");
        }
    }
}
