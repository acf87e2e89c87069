//! Lifecycle hooks (pkg/kubelet/lifecycle/handlers.go).

use super::{
    cri::CriClient,
    http::{self, Get},
};
use crate::model::Handler;
use std::time::Duration;

const AGENT: &str = "kube-lifecycle/1.37";

/// Runs a hook to its end. Its caller bounds it by dropping it; `limit` makes the runtime end an exec's
/// command too. The error is for the log and the status, never for an event: it may tell secrets.
pub(super) async fn run(
    handler: &Handler,
    id: &str,
    pod_ip: &str,
    client: &CriClient,
    limit: Option<Duration>,
) -> Result<(), String> {
    let host_or = |host: &Option<String>| host.clone().unwrap_or_else(|| pod_ip.to_owned());
    match handler {
        Handler::Exec { command } => {
            let output = client.exec_sync(id, command, limit).await.map_err(|error| error.rpc_text())?;
            if output.exit_code == 0 {
                return Ok(());
            }
            Err(format!("command {command:?} exited with {}: {}", output.exit_code, output.text()))
        }
        // Any answer will do: the kubelet looks at the connection, not at the status.
        Handler::Http { host, port, path, https, headers } => {
            let get =
                Get { host: host_or(host), port: *port, path: path.clone(), https: *https, headers, agent: AGENT };
            get.run().await.map(drop)
        }
        Handler::Tcp { host, port } => http::dial(&host_or(host), *port).await.map(drop),
        Handler::Sleep { seconds } => {
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            Ok(())
        }
        Handler::Grpc { .. } => Err("gRPC is no lifecycle hook".to_owned()),
    }
}
