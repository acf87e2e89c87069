//! The inside of the local cloud: the processes that are a machine.
//!
//! [`run`] is the hidden subcommand `local-machine`: with `--dir` it is a machine's supervisor
//! ([`supervisor`]), with `--init` besides it is the machine's PID 1 ([`init`], after [`root`] made its
//! file system), with `--exec` the first moment of a service in it, with `--announce` it tells a machine of its end as
//! a cloud would, with `--destroy-all` it clears away a whole cluster. Supervisor and PID 1 change their
//! namespaces and signal masks, so [`run`] must be called before the program starts any thread.

mod init;
mod root;
mod services;
mod signals;
mod supervisor;

use super::{
    cgroup::Size,
    error::{LocalError, chain},
    notice::{self, Announcement},
    record::InstanceDir,
    sweep,
};
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, path::PathBuf, process::ExitCode};

/// Arguments of the hidden subcommand `local-machine`.
#[derive(Clone, Debug, clap::Args)]
pub struct MachineArgs {
    /// The instance's directory.
    #[arg(long, required_unless_present_any = ["destroy_all", "exec"], conflicts_with = "destroy_all")]
    dir: Option<PathBuf>,
    /// Be PID 1 of the instance (said by its supervisor).
    #[arg(long, requires = "dir")]
    init: bool,
    /// Become this command, as a service of the instance (said by its PID 1).
    #[arg(long, conflicts_with_all = ["dir", "destroy_all"], requires = "command")]
    exec: bool,
    /// Announce this to the instance, as a cloud does.
    #[arg(long, requires = "dir", conflicts_with_all = ["init", "exec"])]
    announce: Option<Announcement>,
    /// How many seconds from now it is to happen.
    #[arg(long, requires = "announce", default_value_t = 120)]
    after: u32,
    /// Remove all instances of a cluster, its bridge and its cgroups.
    #[arg(long, requires_all = ["state_dir", "cluster"])]
    destroy_all: bool,
    #[arg(long)]
    state_dir: Option<PathBuf>,
    #[arg(long)]
    cluster: Option<String>,
    #[arg(last = true)]
    command: Vec<String>,
}

/// Everything a supervisor must know (`machine.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    pub instance: String,
    pub cluster: String,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub veth: String,
    pub bridge: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    /// A containerd root to clone.
    pub image: Option<PathBuf>,
    /// Files and directories of the host that the machine gets, read-only.
    pub tools: Vec<Bind>,
    /// Directories of the host that it must not see.
    pub hidden: Vec<PathBuf>,
}

impl MachineSpec {
    fn size(&self) -> Size {
        Size { cpu_millis: self.cpu_millis, memory_bytes: self.memory_bytes }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
}

/// What PID 1 tells its supervisor, a line each.
const SAID_NAMESPACES: &str = "namespaces";
const SAID_UP: &str = "up";
const SAID_FAILED: &str = "failed ";

/// See the module's page. Prints errors to the machine's console (stderr).
pub fn run(args: MachineArgs) -> ExitCode {
    let result = match args {
        MachineArgs { destroy_all: true, state_dir: Some(state_dir), cluster: Some(cluster), .. } => {
            sweep::destroy_all(&state_dir, &cluster)
        }
        MachineArgs { exec: true, command, .. } => services::become_service(&command),
        MachineArgs { dir: Some(dir), announce: Some(announcement), after, .. } => {
            let after = jiff::SignedDuration::from_secs(i64::from(after));
            let at = jiff::Timestamp::now().saturating_add(after).unwrap_or(jiff::Timestamp::MAX);
            notice::announce(&InstanceDir::at(dir), announcement, at)
        }
        MachineArgs { dir: Some(dir), init, .. } => {
            let dir = InstanceDir::at(dir);
            if init { init::run(&dir) } else { supervisor::run(&dir) }
        }
        _ => Err(LocalError::Settings("what to do is not said".to_owned())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// A line on the machine's console.
fn console(line: &str) {
    eprintln!("{} machine: {line}", jiff::Timestamp::now());
}
