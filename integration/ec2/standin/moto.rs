//! moto: the process, and questions to it.

use super::{params::Params, refusal::Refusal, xml};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};
use xmltree::Element;

/// It loads for two seconds on a free machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Moto {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    region: String,
    /// Ends with this.
    _process: Child,
}

impl Moto {
    pub async fn start(program: &Path, address: SocketAddr, region: &str, log: &Path) -> Result<Self, String> {
        let out = File::create(log).map_err(|error| format!("can't write {}: {error}", log.display()))?;
        let err = out.try_clone().map_err(|error| format!("can't write {}: {error}", log.display()))?;
        // It ends with this process, also when that is killed.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()])
            // Hundreds of images that nobody asks for.
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("can't start setpriv (Debian: util-linux): {error}"))?;
        let began = Instant::now();
        loop {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                break;
            }
            if let Ok(Some(status)) = process.try_wait() {
                return Err(format!("moto (scripts/tools moto) ended at its start, {status}: see {}", log.display()));
            }
            if began.elapsed() > START_LIMIT {
                return Err(format!("moto does not listen on {address}: see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, address, region: region.to_owned(), _process: process })
    }

    /// The status and text of its answer.
    async fn ask(&self, params: &Params) -> Result<(u16, String), Refusal> {
        let failed = |what: String| Refusal::new("InternalError", format!("moto: {what}"));
        // It takes the service and region from the credential's scope, and checks nothing.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=standin/20260101/{}/ec2/aws4_request, SignedHeaders=host, Signature=0",
            self.region
        );
        let request = http::Request::post(format!("http://{}/", self.address))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", authorization)
            .body(Full::new(Bytes::from(params.encode())))
            .map_err(|error| failed(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| failed(error.to_string()))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Its answer, as text and read; what it refuses is refused.
    pub async fn query(&self, params: &Params) -> Result<Element, Refusal> {
        self.query_text(params).await.map(|(root, _)| root)
    }

    pub async fn query_text(&self, params: &Params) -> Result<(Element, String), Refusal> {
        let (status, text) = self.ask(params).await?;
        let failed = |what: String| Refusal::new("InternalError", format!("moto, {}: {what}", params.action()));
        let root = xml::parse(&text).map_err(&failed)?;
        if status == 200 {
            return Ok((root, text));
        }
        let at = |name: &str| xml::text(&root, &format!("Errors/Error/{name}"));
        match (at("Code"), at("Message")) {
            (Some(code), Some(message)) => Err(Refusal { code, message, status }),
            _ => Err(failed(format!("status {status}"))),
        }
    }
}
