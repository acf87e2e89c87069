//! Requests that run over a tunnel to an agent: exec, attach, port-forward, logs, stats.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelRequest {
    /// Then: raw bytes to and from the runtime's streaming server.
    Exec {
        container: String,
        command: Vec<String>,
        streams: Streams,
    },
    Attach {
        container: String,
        streams: Streams,
    },
    PortForward {
        ports: Vec<u16>,
    },
    /// Run to the end and return what it printed (the kubelet API's /run).
    ExecSync {
        container: String,
        command: Vec<String>,
    },
    /// Then: log text until its end (or forever with `follow`).
    Logs {
        container: String,
        options: LogOptions,
    },
    /// Then: JSON of PodStats.
    Stats,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr` alone; None: both.
    pub stream: Option<String>,
}

/// The agent's first word on a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelHead {
    /// Bytes follow.
    Open,
    /// Bytes go to the runtime's streaming server, which wants this path in the HTTP request.
    StreamingServer { path: String },
    /// An HTTP status and why.
    Refused { status: u16, message: String },
}

/// Usage of one Pod, for /stats/summary and /metrics/resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodStats {
    pub at: Timestamp,
    pub containers: Vec<ContainerStats>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStats {
    pub name: String,
    pub started_at: Timestamp,
    pub cpu_usage_core_nanos: u64,
    pub memory_working_set_bytes: u64,
    pub memory_usage_bytes: u64,
}
