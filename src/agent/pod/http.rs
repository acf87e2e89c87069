//! HTTP as probes and hooks do it: one connection, one GET, a short answer; certificates not checked,
//! as the kubelet does not (pkg/probe/http). Redirects are followed on the same host alone.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// Where to, and with what headers.
pub(super) struct Get<'a> {
    pub host: String,
    pub port: u16,
    pub path: String,
    pub https: bool,
    pub headers: &'a [(String, String)],
    /// `kube-probe/1.37` or `kube-lifecycle/1.37`.
    pub agent: &'static str,
}

pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

impl Get<'_> {
    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{}{slash}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The error is Go's text for it, as far as there is one.
    pub async fn run(mut self) -> Result<Answer, String> {
        let first = self.url();
        for _ in 0..MAX_REDIRECTS {
            let (answer, location) = self.once().await.map_err(|error| format!("Get \"{first}\": {error}"))?;
            let Some(next) = location.and_then(|location| self.redirected(&location)) else { return Ok(answer) };
            self = next;
        }
        Err(format!("Get \"{first}\": stopped after {MAX_REDIRECTS} redirects"))
    }

    /// The next request, if it goes to the same host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let uri: http::Uri = location.parse().ok()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let Some(host) = uri.host() else {
            return Some(Self { host: self.host.clone(), path, ..*self });
        };
        let https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host = host.trim_matches(['[', ']']).to_owned();
        (host == self.host).then_some(Self { host, port, path, https, ..*self })
    }

    async fn once(&self) -> Result<(Answer, Option<String>), String> {
        let request = self.request()?;
        let stream = dial(&self.host, self.port).await?;
        if !self.https {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let config = unchecked().map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(stream, request).await
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let mut request =
            Request::get(format!("{slash}{}", self.path)).body(Empty::new()).map_err(|e| e.to_string())?;
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(self.agent));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::HOST, self.authority().parse().map_err(|_| "invalid host".to_owned())?);
        let mut seen = Vec::new();
        for (name, value) in self.headers {
            let fault = format!("invalid header {name}");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault.clone())?;
            // The first of a name replaces a default; the others add to it. An empty value removes.
            if !seen.contains(&name) {
                headers.remove(&name);
                seen.push(name.clone());
            }
            if !value.is_empty() {
                headers.append(name, HeaderValue::from_str(value).map_err(|_| fault)?);
            }
        }
        // HTTP/1.1 must say a host.
        if !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, self.authority().parse().map_err(|_| "invalid host".to_owned())?);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }
}

/// Go's text for a failed dial.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {host}:{port}: {why}")
    })
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(Answer, Option<String>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|error| go_text(&error))?;
    let status = response.status();
    let location = status.is_redirection().then(|| response.headers().get(header::LOCATION)).flatten();
    let location = location.and_then(|location| location.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    let mut stream = response.into_body();
    while body.len() < MAX_BODY {
        let Some(frame) = stream.frame().await else { break };
        let frame = frame.map_err(|error| go_text(&error))?;
        body.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
    }
    body.truncate(MAX_BODY);
    Ok((Answer { status: status.as_u16(), body: String::from_utf8_lossy(&body).into_owned() }, location))
}

fn go_text(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

fn unchecked() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Unchecked(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A probe asks whether a server answers, not who it is: its certificate is often its own.
#[derive(Debug)]
struct Unchecked(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
