//! The gateway itself: what Serving's Services don't ask of it.

use crate::{net::*, serving::*, support::*};
use bytes::Bytes;
use futures::{SinkExt, channel::mpsc};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{body::Frame, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

const GATEWAY: [u8; 4] = [10, 70, 0, 1];

/// A Pod of the sample and its Service, `web`, without Serving.
async fn backend(serving: &Serving) {
    let port = json!({ "containerPort": 8080 });
    let container = json!({ "name": "main", "image": SAMPLE, "ports": [port],
        "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1 } });
    serving.apply(&pod("web", spec(&[container]))).await;
    serving
        .apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": {
            "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        }}))
        .await;
    serving.until_running("web").await;
}

/// An Ingress of one host with all its traffic to `web`; `over` is laid over its only path.
fn ingress(serving: &Serving, name: &str, over: Value) -> Value {
    let split = json!({ "serviceNamespace": serving.name, "serviceName": "web", "servicePort": 80, "percent": 100 });
    let path = with(json!({ "splits": [split] }), over);
    json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": { "name": name, "annotations": {
            "networking.knative.dev/ingress.class": "pilotlight.ingress.networking.knative.dev",
        }},
        "spec": { "httpOption": "Enabled", "rules": [{
            "hosts": [host(serving, name)], "visibility": "ExternalIP", "http": { "paths": [path] },
        }]},
    })
}

fn host(serving: &Serving, name: &str) -> String {
    format!("{name}.{}.example.com", serving.name)
}

fn target(serving: &Serving, name: &str) -> Target {
    Target { address: SocketAddr::from((GATEWAY, 80)), host: host(serving, name), headers: Vec::new() }
}

#[tokio::test]
async fn a_body_is_passed_on_both_ways_before_it_is_whole() {
    let serving = Serving::new("both").await;
    backend(&serving).await;
    serving.apply(&ingress(&serving, "echo", json!({}))).await;
    serving.until_condition(Kind::Ingress, "echo", "Ready", "True").await;
    let target = target(&serving, "echo");
    let talk = runtime().spawn(async move {
        let stream = TcpStream::connect(target.address).await.expect("the gateway listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        tokio::spawn(connection);
        let (mut say, said) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let request = target.request(Method::POST, "/echo").body(StreamBody::new(said)).expect("a good request");
        let answer = tokio::spawn(async move { sender.send_request(request).await });
        say.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.expect("the request is read");
        let mut body = answer.await.expect("it does not panic").expect("an answer while the body goes on").into_body();
        for word in ["one", "two", "three"] {
            // The next word is said when the one before has come back: nobody on the way waits for more.
            let frame = body.frame().await.expect("there is more").expect("the body is whole");
            assert_eq!(frame.into_data().ok(), Some(Bytes::from(word)));
            let next = match word {
                "one" => "two",
                "two" => "three",
                _ => break,
            };
            say.send(Ok(Frame::data(Bytes::from(next)))).await.expect("the request is read");
        }
        drop(say);
        assert!(body.frame().await.is_none(), "it ends with the request");
    });
    timeout(PATIENCE, talk).await.expect("in time").expect("the talk does not panic");
}

#[tokio::test]
async fn an_ingress_that_cannot_be_served_says_which_field_and_the_others_are_served() {
    let serving = Serving::new("bad").await;
    backend(&serving).await;
    serving.apply(&ingress(&serving, "good", json!({}))).await;
    serving.apply(&ingress(&serving, "bad", json!({ "appendHeaders": { "Connection": "close" } }))).await;
    let refused = serving.until_condition(Kind::Ingress, "bad", "NetworkConfigured", "False").await;
    let message = condition_message(&refused, "NetworkConfigured");
    assert!(message.starts_with("spec.rules[0].http.paths[0].appendHeaders"), "{message}");
    assert_eq!(target(&serving, "bad").get("/").await.status, StatusCode::NOT_FOUND);

    serving.until_condition(Kind::Ingress, "good", "Ready", "True").await;
    assert_eq!(target(&serving, "good").get("/").await.sample().pod, "web");
}

/// Self-signed: who trusts one trusts no other.
fn certificate(host: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate can be made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// GET / over TLS, trusting this certificate alone.
async fn get_over_tls(host: String, trusted: String) -> Result<StatusCode, String> {
    let exchange = async move {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(trusted.as_bytes()).map_err(chain)?;
        roots.add(certificate).map_err(chain)?;
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions().map_err(chain)?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(SocketAddr::from((GATEWAY, 443))).await.map_err(chain)?;
        let name = ServerName::try_from(host.clone()).map_err(chain)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(chain)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(chain)?;
        tokio::spawn(connection);
        let request = http::Request::builder().uri("/").header("host", host).body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.map_err(chain)?).await.map_err(chain)?;
        Ok(answer.status())
    };
    let done = runtime().spawn(async move { timeout(PATIENCE, exchange).await }).await.expect("it does not panic");
    done.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_served_without_a_restart() {
    let serving = Serving::new("renew").await;
    backend(&serving).await;
    let host = host(&serving, "safe");
    let secret = |(chain, key): &(String, String)| {
        json!({ "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": { "name": "safe" },
            "stringData": { "tls.crt": chain, "tls.key": key } })
    };
    let (first, second) = (certificate(&host), certificate(&host));
    let tls = json!([{ "hosts": [host], "secretName": "safe", "secretNamespace": serving.name }]);
    serving.apply(&with(ingress(&serving, "safe", json!({})), json!({ "spec": { "tls": tls } }))).await;
    let waits = |ingress: &Value| condition_message(ingress, "NetworkConfigured").contains("safe does not exist");
    serving.until_is(Kind::Ingress, "safe", "waits for its Secret", waits).await;
    serving.apply(&secret(&first)).await;
    serving.until_condition(Kind::Ingress, "safe", "Ready", "True").await;
    assert_eq!(get_over_tls(host.clone(), first.0.clone()).await, Ok(StatusCode::OK));
    let stranger = get_over_tls(host.clone(), second.0.clone()).await;
    assert!(stranger.is_err(), "{stranger:?}");

    serving.apply(&secret(&second)).await;
    let renewed = timeout(PATIENCE, async { while get_over_tls(host.clone(), second.0.clone()).await.is_err() {} });
    renewed.await.expect("the new certificate is served in time");
    let old = get_over_tls(host, first.0).await;
    assert!(old.is_err(), "{old:?}");
}

fn condition_message<'a>(object: &'a Value, condition: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == condition);
    found.and_then(|c| c["message"].as_str()).unwrap_or_default()
}
