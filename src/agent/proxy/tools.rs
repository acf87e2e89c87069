//! Runs `nft` and `conntrack`.

use super::{ProxyError, frontends::Frontend, render::protocol};
use std::{
    io,
    net::Ipv4Addr,
    process::{Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// Five thousand Services with three endpoints each took nft 2.8 s to write anew, one of them 40 ms to change
/// (2 cores, Linux 6.18, nft 1.0.6); more than this is a hang.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Tools {
    prefix: Vec<String>,
    /// It was missed once: that is said once, and not tried again.
    no_conntrack: AtomicBool,
}

impl Tools {
    pub fn new(prefix: Vec<String>) -> Self {
        Self { prefix, no_conntrack: AtomicBool::new(false) }
    }

    /// One transaction: all of it, or nothing.
    pub async fn nft(&self, operation: &'static str, script: &str) -> Result<(), ProxyError> {
        if script.is_empty() {
            return Ok(());
        }
        let run = self.run("nft", &["-f", "-"], script);
        let output = match timeout(LIMIT, run).await {
            Ok(output) => output.map_err(|source| ProxyError::Run { tool: "nft", source })?,
            Err(_) => return Err(ProxyError::TimedOut { operation, seconds: LIMIT.as_secs() }),
        };
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ");
        Err(ProxyError::Refused { operation, message })
    }

    /// Makes the kernel forget UDP flows from a Service to an endpoint. Best effort: the flows end by
    /// themselves once they have been silent for half a minute.
    pub async fn forget_flow(&self, service: Frontend, endpoint: Ipv4Addr) {
        if self.no_conntrack.load(Ordering::Relaxed) {
            return;
        }
        let (ip, port, endpoint) = (service.ip.to_string(), service.port.to_string(), endpoint.to_string());
        let proto = protocol(service.protocol);
        let arguments = ["-D", "-p", proto, "--orig-dst", &ip, "--orig-port-dst", &port, "--reply-src", &endpoint];
        // Its exit code is 1 when there was no such flow: nothing to tell.
        match timeout(LIMIT, self.run("conntrack", &arguments, "")).await {
            Ok(Ok(output)) if output.status.code() == Some(127) => self.miss_conntrack(),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => self.miss_conntrack(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not run conntrack"),
            Err(_) => tracing::warn!("conntrack did not answer"),
        }
    }

    fn miss_conntrack(&self) {
        if !self.no_conntrack.swap(true, Ordering::Relaxed) {
            tracing::warn!("there is no conntrack tool: UDP flows to endpoints that are gone end only when silent");
        }
    }

    async fn run(&self, tool: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
        let mut words = self.prefix.iter().map(String::as_str).chain([tool]);
        let program = words.next().unwrap_or(tool);
        let mut child = Command::new(program)
            .args(words)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A tool that ends early breaks the pipe: its exit code says why.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    }
}
