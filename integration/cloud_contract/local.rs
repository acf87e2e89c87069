//! The local cloud, with machines that boot.

use super::Place;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use pilotlight::{
    cloud::local::{LocalCloud, LocalCloudConfig},
    model::{HourlyPrice, InstanceType},
    ports::Cloud,
};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::runtime::Runtime;

pub struct Local {
    cloud: Option<LocalCloud>,
    config: LocalCloudConfig,
    runtime: Runtime,
    base: PathBuf,
}

impl Local {
    pub fn new(name: &str) -> Self {
        assert!(geteuid().is_root(), "machines of the local cloud need root");
        // Threads that this one starts, and their children, are in the new namespace too.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("contract-{name}"));
        let cluster = format!("contract-{name}");
        LocalCloud::destroy_all(&base.join("state"), &cluster).unwrap();
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        let agent_binary = base.join("agent");
        fs::write(&agent_binary, "#!/bin/sh\nexec sleep 1000000\n").unwrap();
        fs::set_permissions(&agent_binary, fs::Permissions::from_mode(0o755)).unwrap();
        let built = |path: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
            assert!(path.exists(), "{} is missing: run scripts/tools and scripts/images", path.display());
            path
        };
        let config = LocalCloudConfig {
            cluster,
            state_dir: base.join("state"),
            bridge: "pl0".to_owned(),
            bridge_address: Ipv4Addr::new(10, 72, 0, 1),
            prefix_len: 16,
            zones: vec!["zone-a".to_owned()],
            types: ["small", "medium"]
                .map(|name| InstanceType {
                    name: name.to_owned(),
                    cpu_millis: 1000,
                    memory_bytes: 512 << 20,
                    price: HourlyPrice(10_400),
                })
                .into(),
            machine_image: Some(built("machine-image/containerd")),
            bin_dir: built("tools/bin"),
            cni_bin_dir: built("tools/cni/bin"),
            agent_binary,
            self_binary: Some(env!("CARGO_BIN_EXE_pilotlight").into()),
            provider_url: "https://10.72.0.1:10255".to_owned(),
            ca_pem: "a certificate".to_owned(),
            registries: Vec::new(),
            sandbox_image: "pilotlight.test/pause:1".to_owned(),
            hidden: Vec::new(),
        };
        let cloud = Some(LocalCloud::new(config.clone()).unwrap());
        Self { cloud, config, runtime: Runtime::new().unwrap(), base }
    }
}

impl Place for Local {
    fn cloud(&self) -> &dyn Cloud {
        self.cloud.as_ref().unwrap()
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn restart(&mut self) {
        self.cloud = None;
        self.cloud = Some(LocalCloud::new(self.config.clone()).unwrap());
    }

    fn zone(&self) -> &'static str {
        "zone-a"
    }

    fn types(&self) -> &'static [&'static str] {
        &["small", "medium"]
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.cloud = None;
        let destroyed = LocalCloud::destroy_all(&self.config.state_dir, &self.config.cluster);
        let removed = fs::remove_dir_all(&self.base);
        if !std::thread::panicking() {
            destroyed.unwrap();
            removed.unwrap();
        }
    }
}
