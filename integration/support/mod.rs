//! What tests on the running cluster share: a namespace of their own, kubectl, and waiting by watch.
//!
//! Nothing here sleeps for a fixed time where it can wait for a condition, and no wait is endless: what
//! does not happen within [`PATIENCE`] fails the test, which then shows its Pods, their events and the
//! ends of the logs (see [`Space`]'s Drop).

#![allow(dead_code, reason = "each test target uses a part of this")]

pub mod audit;
pub mod kubectl;
mod manifest;
mod space;

pub use manifest::*;
pub use space::*;

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// Far above what anything here takes on an idle machine: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub const BUSYBOX: &str = "pilotlight.test/busybox:1";
pub const AGNHOST: &str = "pilotlight.test/agnhost:1";

/// The cluster that `scripts/test` (or a person) started.
#[derive(Debug)]
pub struct Cluster {
    pub name: String,
    /// Its files: kubeconfigs, logs, the provider's directory.
    pub state: PathBuf,
}

impl Cluster {
    /// The one named by PILOTLIGHT_TEST_CLUSTER. Panics with what to do when it does not run.
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            let name = std::env::var("PILOTLIGHT_TEST_CLUSTER").unwrap_or_else(|_| "test".to_owned());
            let base = std::env::var_os("PILOTLIGHT_CLUSTER_DIR").map_or_else(|| repo().join("target/cluster"), PathBuf::from);
            let cluster = Self { state: base.join(&name), name };
            let up = cluster.script("cluster", &["status"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(
                up.is_ok_and(|status| status.success()) && cluster.state.join("provider/pid").exists(),
                "these tests need a cluster with a provider, and {0:?} does not run. `scripts/test` does all of it; or:\n  \
                 scripts/tools && scripts/images && cargo build\n  \
                 scripts/cluster up --kubelet --name {0} && scripts/provider up --name {0}\n\
                 (PILOTLIGHT_TEST_CLUSTER names another one)",
                cluster.name,
            );
            cluster
        })
    }

    /// `scripts/NAME ACTION --name CLUSTER`.
    pub fn script(&self, script: &str, action: &[&str]) -> Command {
        let mut command = Command::new(repo().join("scripts").join(script));
        command.args(&action[..1]).args(["--name", &self.name]).args(&action[1..]).stdin(Stdio::null());
        command
    }

    /// Runs a program inside the cluster's network; its stdout. Fails the test if it fails.
    pub fn inside(&self, program: &[&str]) -> String {
        let mut action = vec!["exec", "--"];
        action.extend(program);
        let output = self.script("cluster", &action).output().expect("scripts/cluster can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A client with all rights. Each test has its own: a client belongs to the runtime that made it.
    pub async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig()).expect("the kubeconfig of the test cluster");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// A variable of `scripts/cluster env`.
    pub fn variable(&self, name: &str) -> String {
        let file = self.state.join("cluster.env");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).map(|v| v.trim_matches('\''));
        value.unwrap_or_else(|| panic!("{name} is not in {}", file.display())).to_owned()
    }

    pub fn provider_log(&self) -> PathBuf {
        self.provider_dir().join("provider.log")
    }

    /// The provider's own configuration and state.
    pub fn provider_dir(&self) -> PathBuf {
        self.state.join("provider")
    }

    /// What the local cloud keeps of an instance.
    pub fn instance_dir(&self, instance: &str) -> PathBuf {
        self.provider_dir().join("state/instances").join(&self.name).join(instance)
    }

    /// Tells the instance behind a Pod of its end, as its cloud would. `what`: interruption, ...
    pub async fn announce(&self, pod: &Pod, what: &str, seconds: u32) {
        let dir = self.instance_dir(&annotation(pod, "instance-id"));
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        command.args(["local-machine", "--announce", what, "--after", &seconds.to_string(), "--dir"]).arg(dir);
        let output = command.output().await.expect("it can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The last lines of a file, or why it can't be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// Waits for something that nobody can watch.
pub async fn until_true(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}
