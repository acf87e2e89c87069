//! One tunnel: what was asked, the head that answers it, then bytes.
//!
//! ```text
//!   exec, attach, port-forward: CRI call -> URL -> TCP to the streaming server -> raw bytes both ways
//!   logs:                       file(s) -> view -> bytes out; the provider's `end` means: reader left
//!   stats, exec-sync:           one answer -> bytes out
//! ```

use super::{
    host::{ExecOutput, HostError, PodHost},
    logs,
};
use crate::{
    decide::log_view,
    model::{ObjectName, TunnelHead, TunnelRequest},
    pipe,
    proto::{TunnelFrame, TunnelOpened, agent_gateway_client::AgentGatewayClient, tunnel_frame::Kind},
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Frames that wait for the connection.
const QUEUE: usize = 2;
const DUPLEX_BYTES: usize = 64 * 1024;

pub(super) struct TunnelContext {
    pub host: Arc<dyn PodHost>,
    pub pod: Option<ObjectName>,
}

/// Where a tunnel's bytes come from and go to.
enum Local {
    None,
    Stream(TcpStream),
    Bytes(Vec<u8>),
    Log(logs::LogStream),
}

struct Refusal {
    status: u16,
    message: String,
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        let status = match error {
            HostError::NoContainer(_) | HostError::NoSandbox => 404,
            HostError::Runtime { .. } => 500,
        };
        Self { status, message: error.to_string() }
    }
}

/// Serves one tunnel to its end.
pub(super) async fn serve(
    context: TunnelContext,
    id: String,
    request: Result<TunnelRequest, serde_json::Error>,
    client: AgentGatewayClient<Channel>,
) {
    let prepared = match request {
        Ok(request) => prepare(&context, request).await,
        Err(error) => Err(Refusal { status: 400, message: format!("the request is not understood: {error}") }),
    };
    let (head, local) = prepared.unwrap_or_else(|refusal| {
        (TunnelHead::Refused { status: refusal.status, message: refusal.message }, Local::None)
    });
    if let Err(error) = carry(id, head, local, client).await {
        // Usual: the user left, or the provider went away.
        tracing::debug!(error = &*error, "a tunnel ended early");
    }
}

async fn prepare(context: &TunnelContext, request: TunnelRequest) -> Result<(TunnelHead, Local), Refusal> {
    let host = &context.host;
    match request {
        TunnelRequest::Exec { container, command, streams } => {
            streaming(host.exec(&container, &command, streams).await?).await
        }
        TunnelRequest::Attach { container, streams } => streaming(host.attach(&container, streams).await?).await,
        TunnelRequest::PortForward { ports } => streaming(host.port_forward(&ports).await?).await,
        TunnelRequest::ExecSync { container, command } => {
            let output = host.exec_sync(&container, &command).await?;
            Ok((TunnelHead::Open, Local::Bytes(printed(&command, output)?)))
        }
        TunnelRequest::Stats => {
            let stats = serde_json::to_vec(&host.stats().await?);
            let bytes = stats.map_err(|error| Refusal { status: 500, message: error.to_string() })?;
            Ok((TunnelHead::Open, Local::Bytes(bytes)))
        }
        TunnelRequest::Logs { container, options } => {
            let report = host.report().borrow().clone();
            let pod = context.pod.as_ref().map_or("", |pod| pod.name.as_str());
            let bad = |message: String| Refusal { status: 400, message };
            let id = log_view::container_to_read(report.as_deref(), pod, &container, options.previous)
                .map_err(|error| bad(error.to_string()))?;
            let stream = logs::open(Arc::clone(host), id, options).await.map_err(|error| bad(error.to_string()))?;
            Ok((TunnelHead::Open, Local::Log(stream)))
        }
    }
}

/// kubelet's /run: both outputs one after the other, and a failure is an error
/// (pkg/kubelet/kuberuntime/kuberuntime_container.go, RunInContainer).
fn printed(command: &[String], output: ExecOutput) -> Result<Vec<u8>, Refusal> {
    let ExecOutput { mut stdout, stderr, exit_code } = output;
    if exit_code != 0 {
        let said = String::from_utf8_lossy(&stderr);
        let message = format!("command '{}' exited with {exit_code}: {said}", command.join(" "));
        return Err(Refusal { status: 500, message });
    }
    stdout.extend(stderr);
    Ok(stdout)
}

/// Connects to the runtime's streaming server. Its URL holds a token, so it is not logged.
async fn streaming(url: String) -> Result<(TunnelHead, Local), Refusal> {
    let bad = |message: String| Refusal { status: 500, message };
    let uri: http::Uri = url.parse().map_err(|_| bad("the runtime's streaming URL is not a URL".into()))?;
    let authority = uri.authority().ok_or_else(|| bad("the runtime's streaming URL has no host".into()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80)))
        .await
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| bad(format!("can't reach the runtime's streaming server: {error}")))?;
    Ok((TunnelHead::StreamingServer { path }, Local::Stream(stream)))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn carry(
    id: String,
    head: TunnelHead,
    local: Local,
    mut client: AgentGatewayClient<Channel>,
) -> Result<(), BoxError> {
    let opened = TunnelOpened { id, head: serde_json::to_vec(&head)?.into() };
    let (outbound, stream) = mpsc::channel(QUEUE);
    outbound.try_send(TunnelFrame { kind: Some(Kind::Opened(opened)) })?;
    let mut inbound = client.tunnel(ReceiverStream::new(stream)).await?.into_inner();
    match local {
        Local::None => {
            outbound.send(pipe::end()).await?;
            drop(outbound);
            while inbound.message().await?.is_some() {}
        }
        Local::Stream(stream) => pipe::pump(inbound, outbound, |frame| frame, stream.into_split()).await?,
        Local::Bytes(bytes) => {
            produce(inbound, outbound, async move |mut out: DuplexStream| {
                out.write_all(&bytes).await?;
                out.shutdown().await
            })
            .await?;
        }
        Local::Log(log) => {
            produce(inbound, outbound, async move |out: DuplexStream| {
                let (mut reader_left, mut out) = tokio::io::split(out);
                tokio::select! {
                    done = log.copy_to(&mut out) => done?,
                    // Nothing is ever sent to a log: this is the end of its reader.
                    _ = reader_left.read_u8() => {}
                }
                out.shutdown().await
            })
            .await?;
        }
    }
    Ok(())
}

/// Runs a producer against the tunnel, both to their ends.
async fn produce<F>(
    inbound: tonic::Streaming<TunnelFrame>,
    outbound: mpsc::Sender<TunnelFrame>,
    producer: impl FnOnce(DuplexStream) -> F,
) -> Result<(), BoxError>
where
    F: Future<Output = io::Result<()>>,
{
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    let pumped = pipe::pump(inbound, outbound, |frame| frame, tokio::io::split(ours));
    let (pumped, produced) = tokio::join!(pumped, producer(theirs));
    pumped?;
    produced?;
    Ok(())
}
