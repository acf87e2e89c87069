//! The local cloud: instances that are light machines on this host.
//!
//! An instance has mount, pid, net, uts, ipc and cgroup namespaces of its own, a root of its own laid
//! over the host's operating system, its own containerd and agent, an address on a bridge, and a cgroup
//! that makes its type's size real. Two of them share nothing that two machines would not share, apart
//! from the kernel. So what user data does inside never touches the host.
//!
//! Three processes make a machine come true, all of them this program:
//!
//! ```text
//!  provider: LocalCloud          supervisor (one an instance)        PID 1 of the instance
//!    record on disk, then spawn ->  setsid, flock, supervisor.json
//!                                   cgroups, clone of the image
//!                                   unshare(pid), spawn ----------->  join cgroups, unshare(rest)
//!                                   veth into its netns <-- "ns" ---  mounts, pivot_root, user data
//!                                   -- "go" ---------------------->   address, containerd, agent
//!                                   note: up            <-- "up" ---  restarts and reaps
//!    terminate: SIGTERM --------->  SIGTERM ----------------------->  orderly shutdown, exit
//!                                   cleans up, note: ended, exit
//! ```
//!
//! The supervisor outlives the provider; PID 1 dies with its supervisor (PDEATHSIG), and with it the
//! whole pid namespace. Whatever a killed supervisor left, [`LocalCloud`] clears.
//!
//! What lies in `<state_dir>/<cluster>/<instance-id>/`, and who writes it:
//!
//! | file | writer | what |
//! |---|---|---|
//! | `instance.json` | provider | the record; it is there before the machine starts ([`record`]) |
//! | `machine.json`, `user-data.yaml` | provider | what to boot ([`machine`], [`user_data`]) |
//! | `claimed` | provider | whose the instance is: the fingerprint of the one key that may register |
//! | `supervisor.json` | supervisor | its pid and start time, how far it is |
//! | `lock` | supervisor | flock, held for its life: nobody else may act in here |
//! | `metadata` | whoever announces an end ([`notice`]) | what a metadata service would say; the machine sees it |
//! | `console.log` | all in the instance | |
//! | `upper`, `work`, `root`, `disk` | | the file system |
//!
//! A record's states are drawn in [`lifecycle`].

mod addresses;
mod cgroup;
mod cloud;
mod config;
mod disk;
mod error;
mod launch;
mod lifecycle;
pub mod machine;
mod network;
mod notice;
mod process;
mod record;
mod sweep;
mod user_data;

pub use cloud::LocalCloud;
pub use config::{LocalCloudConfig, Registry};
pub use error::LocalError;
pub use launch::GivenMachine;
pub use sweep::destroy_all;
pub use user_data::{AgentSettings, FileToWrite, Service, UserData, UserDataInput, service, user_data};
