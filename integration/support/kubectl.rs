//! The kubectl that people use, run as they run it.

use super::{Cluster, PATIENCE, repo};
use std::{path::PathBuf, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How a kubectl ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn program() -> PathBuf {
    repo().join("target/tools/bin/kubectl")
}

pub fn command(cluster: &Cluster, namespace: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    prepare(&mut command, cluster);
    command.args(["--namespace", namespace]).args(args);
    command
}

pub fn prepare(command: &mut Command, cluster: &Cluster) {
    command
        .env("KUBECONFIG", cluster.kubeconfig())
        // A cache of its own: kubectl's discovery of another test cluster at this port would mislead it.
        .env("KUBECACHEDIR", cluster.state.join("kubectl-cache"))
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}

/// Runs to the end, with `input` as its standard input.
pub async fn run(mut command: Command, input: Option<&[u8]>) -> Outcome {
    let what = format!("{:?}", command.as_std());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
    let stdin = child.stdin.take();
    let write = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A command that ends early closes its end: its exit code says so.
            drop(stdin.write_all(input).await);
        }
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("{what}: no end within {PATIENCE:?}"));
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A kubectl that runs on while the test speaks with it; killed when dropped.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    what: String,
}

impl Session {
    pub fn start(mut command: Command) -> Self {
        let what = format!("{:?}", command.as_std());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Self { child, stdin, lines, what }
    }

    /// The next line of its output that `wanted` accepts.
    pub async fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        let found = timeout(PATIENCE, async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                if wanted(&line) {
                    return Some(line);
                }
                seen.push(line);
            }
            None
        });
        if let Ok(Some(line)) = found.await {
            return line;
        }
        let mut errors = String::new();
        drop(self.child.start_kill());
        if let Some(mut stderr) = self.child.stderr.take() {
            drop(stderr.read_to_string(&mut errors).await);
        }
        panic!("{}: the line did not come; seen {seen:?}; stderr {errors}", self.what);
    }

    pub async fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("its input is still open");
        stdin.write_all(text.as_bytes()).await.unwrap_or_else(|error| panic!("{}: {error}", self.what));
        stdin.flush().await.unwrap_or_else(|error| panic!("{}: {error}", self.what));
    }

    /// Closes its input and waits for its end.
    pub async fn end(mut self) -> Option<i32> {
        drop(self.stdin.take());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("{}: no end within {PATIENCE:?}", self.what))
            .expect("it can be waited for")
            .code()
    }
}
