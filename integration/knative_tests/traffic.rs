//! What goes through queue-proxy on a virtual node.

use crate::{net::*, serving::*};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn no_more_requests_than_allowed_are_inside_at_once() {
    let serving = Serving::new("limit").await;
    // The sample itself answers 500 above its limit.
    let over = json!({ "containerConcurrency": 1, "containers": [sample(json!({ "MAX_CONCURRENT": "1" }))] });
    let service = annotated(ksvc("single", over), json!({ "autoscaling.knative.dev/max-scale": "2" }));
    let revision = serving.deploy(&service).await;
    let report = burst(&serving.activator(&revision), "/?ms=200", 20).await;
    report.all_answered();
    for shot in &report.shots {
        assert_eq!(shot.result.as_ref().map(|answer| answer.sample().peak), Ok(1));
    }
}

#[tokio::test]
async fn a_stream_arrives_as_it_is_sent() {
    let serving = Serving::new("stream").await;
    serving.deploy(&ksvc("events", json!({}))).await;
    let target = serving.gateway("events");
    target.get("/").await;
    let arrivals = runtime().spawn(async move {
        let stream = TcpStream::connect(target.address).await.expect("the gateway listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        tokio::spawn(connection);
        let request = target.request(Method::GET, "/stream?count=5&ms=300").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a good request")).await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let (mut body, began, mut arrivals) = (answer.into_body(), Instant::now(), Vec::new());
        while let Some(frame) = body.frame().await {
            let data = frame.expect("the stream is whole").into_data().unwrap_or_default();
            arrivals.push((began.elapsed(), String::from_utf8_lossy(&data).into_owned()));
        }
        arrivals
    });
    let arrivals = arrivals.await.expect("the stream's task does not panic");
    let text: String = arrivals.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(text.matches("data: ").count(), 5, "{arrivals:?}");
    let (first, last) = (arrivals[0].0, arrivals[arrivals.len() - 1].0);
    assert!(last - first >= Duration::from_millis(900), "it came in one piece: {arrivals:?}");
}

#[tokio::test]
async fn grpc_calls_and_streams_reach_the_container() {
    let serving = Serving::new("grpc").await;
    let mut container = sample(json!({ "TARGET": "rpc" }));
    container["ports"] = json!([{ "name": "h2c", "containerPort": 8080 }]);
    let revision = serving.deploy(&ksvc("calls", json!({ "containers": [container] }))).await;
    let sample = crate::support::repo().join("target/tools/knative/bin/sample");
    let sample = sample.to_str().expect("the checkout's path is text");
    let namespace = format!("--header=knative-serving-namespace={}", serving.name);
    let wanted = format!("--header=knative-serving-revision={revision}");
    let host = serving.gateway("calls").host;
    for way in [
        vec!["--target", "10.70.0.1:8013", &namespace, &wanted],
        vec!["--target", "10.70.0.1:80", "--authority", &host],
    ] {
        let mut args = vec![sample, "ping", "--messages", "3"];
        args.extend(&way);
        let (cluster, owned) = (serving.cluster, args.iter().map(ToString::to_string).collect::<Vec<_>>());
        let guest = move || cluster.inside(&owned.iter().map(String::as_str).collect::<Vec<_>>());
        let text = tokio::task::spawn_blocking(guest).await.expect("the guest can be run");
        let from = format!(" from {revision}-deployment-");
        for part in ["unary", "message 0", "message 1", "message 2"] {
            let begins = format!("{part}{from}");
            assert!(text.lines().any(|l| l.starts_with(&begins) && l.ends_with(" rpc")), "{way:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_web_socket_passes_the_gateway_and_queue_proxy() {
    let serving = Serving::new("socket").await;
    serving.deploy(&ksvc("chat", json!({}))).await;
    let target = serving.gateway("chat");
    let echo = runtime().spawn(async move {
        let mut stream = TcpStream::connect(target.address).await.expect("the gateway listens");
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            target.host
        );
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        // A final text frame of four bytes, masked with zeros (RFC 6455, 5.2); it comes back without a mask.
        stream.write_all(&[0x81, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g']).await.expect("it reads");
        let mut frame = [0; 6];
        stream.read_exact(&mut frame).await.expect("an echo");
        (head, frame)
    });
    let echo = tokio::time::timeout(crate::support::PATIENCE, echo).await.expect("in time");
    let (head, frame) = echo.expect("the socket's task does not panic");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The answer that RFC 6455, 1.3 gives for this key.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert_eq!(&frame, b"\x81\x04ping");
}

#[tokio::test]
async fn a_container_that_crashed_is_back_and_answers() {
    let serving = Serving::new("crash").await;
    let revision = serving.deploy(&ksvc("fragile", json!({}))).await;
    let target = serving.activator(&revision);
    let before = target.get("/").await.sample();
    let crash = target.send(Method::POST, "/crash").await.expect("queue-proxy answers for it");
    assert_eq!(crash.status, StatusCode::BAD_GATEWAY);
    serving.until_pod(&before.pod, "restarted", |pod| crate::support::restarts(pod, "user-container") == 1).await;
    serving.until_running(&before.pod).await;
    let after = target.get("/").await.sample();
    assert_eq!((after.pod, after.served), (before.pod, 1), "the same Pod, a new process");
}
