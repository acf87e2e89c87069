//! Probes of running containers: each a task that asks, and lets `decide::probe` judge.
//!
//! Made in the instance itself, against the Pod's address. Texts are those of pkg/kubelet/prober and
//! pkg/probe.

use super::{Teller, cri::CriClient, http};
use crate::{
    decide::probe::{ProbeKind, ProbeMachine, Verdict, first_at},
    model::{DesiredContainer, Handler, Probe},
};
use http::Get;
use jiff::Timestamp;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

const AGENT: &str = "kube-probe/1.37";

/// One changed verdict.
#[derive(Debug)]
pub(super) struct ProbeSaid {
    pub id: String,
    pub container: String,
    pub kind: ProbeKind,
    pub verdict: Verdict,
}

/// What to probe: one kind of probe of one running container.
pub(super) struct Subject {
    pub id: String,
    pub container: Arc<DesiredContainer>,
    pub kind: ProbeKind,
    pub probe: Probe,
    pub started_at: Timestamp,
    /// Known from before.
    pub verdict: Verdict,
    pub pod_ip: String,
}

/// The probes that run. A probe ends with its entry.
pub(super) struct Probers {
    client: CriClient,
    said: mpsc::Sender<ProbeSaid>,
    running: HashMap<(String, ProbeKind), AbortOnDropHandle<()>>,
}

impl Probers {
    pub fn new(client: CriClient, said: mpsc::Sender<ProbeSaid>) -> Self {
        Self { client, said, running: HashMap::new() }
    }

    /// Makes these the probes that run: the others end, missing ones begin.
    pub fn keep(&mut self, subjects: Vec<Subject>, tell: &Teller) {
        let wanted = |key: &(String, ProbeKind)| subjects.iter().any(|s| s.id == key.0 && s.kind == key.1);
        self.running.retain(|key, _| wanted(key));
        for subject in subjects {
            let (client, said, tell) = (&self.client, &self.said, tell);
            self.running.entry((subject.id.clone(), subject.kind)).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(watch(subject, client.clone(), said.clone(), tell.clone())))
            });
        }
    }
}

async fn watch(subject: Subject, client: CriClient, said: mpsc::Sender<ProbeSaid>, tell: Teller) {
    let Subject { id, container, kind, probe, started_at, verdict, pod_ip } = subject;
    let mut machine = ProbeMachine::new(kind, &probe, verdict);
    let now = Timestamp::now();
    let delay = first_at(&probe, started_at, now).duration_since(now);
    sleep(delay.unsigned_abs()).await;
    let period = Duration::from_secs(u64::from(probe.period_seconds.max(1)));
    while !machine.is_over() {
        let asked = Instant::now();
        let pause = machine.pause(period);
        let passed = match ask(&probe, &id, &pod_ip, &client).await {
            Outcome::Passed => Some(true),
            Outcome::Warning(text) => {
                let text = format!("{} probe warning: {text}", kind.title());
                tell.container(&container, true, "ProbeWarning", &text);
                Some(true)
            }
            Outcome::Failed(text) => {
                // That it does not listen yet, right after its start, is no news.
                if pause >= Duration::from_secs(1) {
                    tell.container(&container, true, "Unhealthy", &format!("{} probe failed: {text}", kind.title()));
                }
                Some(false)
            }
            // Not the container's fault: no result.
            Outcome::Errored(text) => {
                let text = format!("{} probe errored and resulted in unknown state: {text}", kind.title());
                tell.container(&container, true, "Unhealthy", &text);
                None
            }
            Outcome::Away => None,
        };
        if let Some(verdict) = passed.and_then(|passed| machine.observe(passed)) {
            let news = ProbeSaid { id: id.clone(), container: container.name.clone(), kind, verdict };
            if said.send(news).await.is_err() {
                return;
            }
        }
        if machine.is_over() {
            return;
        }
        sleep_until(asked + pause).await;
    }
}

#[derive(Debug)]
enum Outcome {
    Passed,
    Warning(String),
    Failed(String),
    Errored(String),
    /// The runtime is away.
    Away,
}

async fn ask(probe: &Probe, id: &str, pod_ip: &str, client: &CriClient) -> Outcome {
    let limit = Duration::from_secs(u64::from(probe.timeout_seconds.max(1)));
    let host_or = |host: &Option<String>| host.clone().unwrap_or_else(|| pod_ip.to_owned());
    match &probe.action {
        Handler::Exec { command } => exec(client, id, command, limit).await,
        Handler::Http { host, port, path, https, headers } => {
            let get =
                Get { host: host_or(host), port: *port, path: path.clone(), https: *https, headers, agent: AGENT };
            let late = format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                get.url()
            );
            match timeout(limit, get.run()).await {
                Err(_) => Outcome::Failed(late),
                Ok(Err(text)) => Outcome::Failed(text),
                Ok(Ok(answer)) => match answer.status {
                    200..300 => Outcome::Passed,
                    300..400 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
                    status => Outcome::Failed(format!("HTTP probe failed with statuscode: {status}")),
                },
            }
        }
        Handler::Tcp { host, port } => {
            let host = host_or(host);
            match timeout(limit, http::dial(&host, *port)).await {
                Err(_) => Outcome::Failed(format!("dial tcp {host}:{port}: i/o timeout")),
                Ok(Err(text)) => Outcome::Failed(text),
                Ok(Ok(_)) => Outcome::Passed,
            }
        }
        Handler::Grpc { port, service } => {
            let address = format!("{pod_ip}:{port}");
            match timeout(limit, health(&address, service)).await {
                Err(_) => Outcome::Failed(format!(
                    "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
                    limit.as_secs()
                )),
                Ok(outcome) => outcome,
            }
        }
        Handler::Sleep { .. } => Outcome::Errored("sleep is no probe".to_owned()),
    }
}

async fn exec(client: &CriClient, id: &str, command: &[String], limit: Duration) -> Outcome {
    match client.exec_sync(id, command, Some(limit)).await {
        Ok(output) if output.exit_code == 0 => Outcome::Passed,
        Ok(output) => Outcome::Failed(output.text()),
        Err(error) if error.is_timeout() => {
            let line = command.join(" ");
            Outcome::Failed(format!("command timed out: \"{line}\" timed out after {}s", limit.as_secs()))
        }
        Err(error) if error.is_unreachable() => Outcome::Away,
        Err(error) => Outcome::Errored(error.rpc_text()),
    }
}

/// grpc.health.v1.Health.Check
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    /// 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn health(address: &str, service: &str) -> Outcome {
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent(AGENT));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => return Outcome::Errored(error.to_string()),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Outcome::Failed(format!("error: failed to connect service at \"{address}\": {error}")),
    };
    let mut grpc = tonic::client::Grpc::new(channel);
    if let Err(error) = grpc.ready().await {
        return Outcome::Failed(format!("error: failed to connect service at \"{address}\": {error}"));
    }
    let request = tonic::Request::new(HealthRequest { service: service.to_owned() });
    let path = http_path("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
    match grpc.unary(request, path, codec).await.map(tonic::Response::into_inner) {
        Ok(HealthResponse { status: 1 }) => Outcome::Passed,
        Ok(HealthResponse { status }) => {
            let name =
                ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(usize::try_from(status).unwrap_or(0));
            Outcome::Failed(format!("service unhealthy (responded with \"{}\")", name.unwrap_or(&"UNKNOWN")))
        }
        Err(status) if status.code() == Code::Unimplemented => Outcome::Failed(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Outcome::Failed(format!(
            "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
    }
}

fn http_path(path: &'static str) -> ::http::uri::PathAndQuery {
    ::http::uri::PathAndQuery::from_static(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers one request after another with these, and gives back what it was asked.
    fn server(answers: Vec<String>) -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            answers
                .into_iter()
                .map(|answer| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut request = Vec::new();
                    let mut byte = [0];
                    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                        request.push(byte[0]);
                    }
                    stream.write_all(answer.as_bytes()).unwrap();
                    String::from_utf8(request).unwrap()
                })
                .collect()
        });
        (port, thread)
    }

    fn answer(status: &str, more: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{more}content-length: 2\r\n\r\nok")
    }

    async fn get(port: u16, headers: &[(&str, &str)]) -> Outcome {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let action = Handler::Http { host: None, port, path: "/healthz?x=1".to_owned(), https: false, headers };
        let probe = Probe {
            action,
            initial_delay_seconds: 0,
            period_seconds: 1,
            timeout_seconds: 5,
            success_threshold: 1,
            failure_threshold: 1,
            termination_grace_seconds: None,
        };
        ask(&probe, "", "127.0.0.1", &CriClient::new(std::path::Path::new("/nowhere"))).await
    }

    #[tokio::test]
    async fn an_http_probe_passes_below_400_and_says_who_asks() {
        let (port, thread) = server(vec![answer("204 No Content", "")]);
        assert!(matches!(get(port, &[("X-A", "1"), ("X-A", "2"), ("Accept", "")]).await, Outcome::Passed));
        let request = thread.join().unwrap().remove(0).to_lowercase();
        assert!(request.starts_with("get /healthz?x=1 http/1.1\r\n"), "{request}");
        assert!(
            request.contains("user-agent: kube-probe/1.37\r\n") && request.contains("x-a: 1\r\nx-a: 2\r\n"),
            "{request}"
        );
        assert!(!request.contains("accept:"), "{request}");
    }

    #[tokio::test]
    async fn an_http_probe_fails_from_400_on_without_telling_the_body() {
        let (port, thread) = server(vec![answer("500 Oops", "")]);
        let Outcome::Failed(text) = get(port, &[]).await else { panic!() };
        assert_eq!(text, "HTTP probe failed with statuscode: 500");
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_alone() {
        let (port, thread) = server(vec![answer("302 Found", "location: /other\r\n"), answer("200 OK", "")]);
        assert!(matches!(get(port, &[]).await, Outcome::Passed));
        assert!(thread.join().unwrap()[1].starts_with("GET /other "));
        let (port, thread) = server(vec![answer("302 Found", "location: http://elsewhere.invalid/\r\n")]);
        assert!(matches!(get(port, &[]).await, Outcome::Warning(_)));
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_closed_port_is_said_as_go_says_it() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let Outcome::Failed(text) = get(port, &[]).await else { panic!() };
        let url = format!("http://127.0.0.1:{port}/healthz?x=1");
        assert_eq!(text, format!("Get \"{url}\": dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}
