//! What the local cloud needs to know, validated.

use super::error::{Doing, LocalError};
use crate::model::InstanceType;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
pub struct LocalCloudConfig {
    /// Names this cluster's machines: a directory, cgroups. Lower-case letters, digits, `-`.
    pub cluster: String,
    /// On a real file system: an overlay's upper directory can't lie on an overlay. Best the same file
    /// system as `machine_image`, whose files are then linked instead of copied.
    pub state_dir: PathBuf,
    /// Made when it is missing, in the network namespace that this process runs in.
    pub bridge: String,
    pub bridge_address: Ipv4Addr,
    pub prefix_len: u8,
    pub zones: Vec<String>,
    pub types: Vec<InstanceType>,
    /// A containerd root directory to clone for each machine; None: machines start without images.
    pub machine_image: Option<PathBuf>,
    /// Has containerd, containerd-shim-runc-v2 and runc. Inside: /opt/pilotlight/bin.
    pub bin_dir: PathBuf,
    /// Inside: /opt/cni/bin.
    pub cni_bin_dir: PathBuf,
    pub agent_binary: PathBuf,
    /// The program whose `local-machine` subcommand is [`super::machine::run`]; None: this one.
    pub self_binary: Option<PathBuf>,
    /// Where agents dial in, `https://ip:port`.
    pub provider_url: String,
    /// Whom they trust there.
    pub ca_pem: String,
    pub registries: Vec<Registry>,
    pub sandbox_image: String,
    /// More directories of the host that machines must not see, beside those that are always hidden.
    pub hidden: Vec<PathBuf>,
}

/// A registry that is asked at another address or without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// As it stands in image references: `10.70.0.1:5000`, `pilotlight.test`.
    pub host: String,
    /// `http://10.70.0.1:5000`
    pub endpoint: String,
}

impl LocalCloudConfig {
    /// Checks everything that can be checked beforehand, and makes every path absolute and real.
    pub(super) fn validated(mut self) -> Result<Self, LocalError> {
        let wrong = |message: String| Err(LocalError::Settings(message));
        check_cluster(&self.cluster)?;
        if !(8..=29).contains(&self.prefix_len) {
            return wrong(format!("a subnet of /{} is not between /8 and /29", self.prefix_len));
        }
        // IFNAMSIZ is 16 with the final NUL.
        if self.bridge.is_empty() || self.bridge.len() > 15 || !self.bridge.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return wrong(format!("{:?} can't be the name of a bridge", self.bridge));
        }
        if self.zones.is_empty() || self.types.is_empty() {
            return wrong("at least one zone and one instance type are needed".to_owned());
        }
        for t in &self.types {
            if t.cpu_millis < 10 || t.memory_bytes < 64 << 20 {
                return wrong(format!("type {} is too small: at least 10m of CPU and 64 MiB", t.name));
            }
        }
        std::fs::create_dir_all(&self.state_dir).doing(|| format!("make {}", self.state_dir.display()))?;
        self.state_dir = real(&self.state_dir)?;
        // They separate options and layers in overlayfs' mount data (Documentation/filesystems/overlayfs.rst).
        if self.state_dir.to_string_lossy().contains([',', ':', '\\']) {
            return wrong(format!("{} has a comma, colon or backslash in it", self.state_dir.display()));
        }
        self.bin_dir = real(&self.bin_dir)?;
        self.cni_bin_dir = real(&self.cni_bin_dir)?;
        self.agent_binary = real(&self.agent_binary)?;
        let self_binary = match self.self_binary {
            Some(path) => path,
            None => std::env::current_exe().doing(|| "find this program's file".to_owned())?,
        };
        self.self_binary = Some(real(&self_binary)?);
        if let Some(image) = &self.machine_image {
            self.machine_image = Some(real(image)?);
        }
        for program in ["containerd", "containerd-shim-runc-v2", "runc"] {
            if !self.bin_dir.join(program).is_file() {
                return wrong(format!("{} has no {program}", self.bin_dir.display()));
            }
        }
        Ok(self)
    }

    pub(super) fn cluster_dir(&self) -> PathBuf {
        self.state_dir.join(&self.cluster)
    }
}

pub(super) fn check_cluster(cluster: &str) -> Result<(), LocalError> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if cluster.is_empty() || cluster.len() > 63 || !cluster.bytes().all(good) {
        return Err(LocalError::Settings(format!(
            "cluster name {cluster:?}: only lower-case letters, digits and dashes, at most 63"
        )));
    }
    Ok(())
}

fn real(path: &Path) -> Result<PathBuf, LocalError> {
    path.canonicalize().doing(|| format!("find {}", path.display()))
}
