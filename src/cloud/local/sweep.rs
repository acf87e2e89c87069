//! Clearing away: what a machine leaves on the host, and everything of a cluster.

use super::{
    cgroup::{self, Cgroups},
    config::check_cluster,
    disk,
    error::LocalError,
    network,
    process::boot_id,
    record::{INSTANCE, InstanceDir, LOCK, SUPERVISOR, StoredInstance, SupervisorNote, try_lock},
};
use crate::model::InstanceId;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// In the cluster's directory: what must be known to remove it all.
pub const CLOUD: &str = "cloud.json";
/// A process that was killed keeps its locks until the kernel is through with it.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
pub struct CloudFile {
    pub bridge: String,
}

/// Removes all that a machine may have left: processes, cgroups, wire, files. The caller holds the
/// machine's lock. Its record and console stay. Repeating it does no harm.
pub fn clear_machine(dir: &InstanceDir, cluster: &str, instance: &str) -> Result<(), LocalError> {
    // First: a cgroup goes only when its last process is gone, so nobody writes after this.
    Cgroups::new(cluster, instance)?.remove()?;
    network::remove_device(&network::veth_name(&InstanceId::new(instance)))?;
    disk::remove_machine_files(dir.path())
}

/// Names of the instances with a directory.
pub fn instances(cluster_dir: &Path) -> Result<Vec<InstanceId>, LocalError> {
    let name = |path: std::path::PathBuf| path.file_name()?.to_str().map(str::to_owned);
    let names = disk::list(cluster_dir)?.into_iter().filter_map(name).filter(|name| name.starts_with("i-"));
    Ok(names.map(InstanceId::new).collect())
}

/// Waits a while for a lock that its holder is about to lose.
pub fn lock_patiently(path: &Path) -> Result<File, LocalError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(LocalError::InUse(path.display().to_string()));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ends all instances of a cluster at once, and removes them, the bridge and the cgroups. Fails while a
/// provider runs on the same directory. What is gone is no error.
pub fn destroy_all(state_dir: &Path, cluster: &str) -> Result<(), LocalError> {
    check_cluster(cluster)?;
    let cluster_dir = state_dir.join(cluster);
    if !cluster_dir.is_dir() {
        return cgroup::remove_cluster(cluster);
    }
    let _lock = lock_patiently(&cluster_dir.join(LOCK))?;
    let boot = boot_id()?;
    let ids = instances(&cluster_dir)?;
    for id in &ids {
        let dir = InstanceDir::new(&cluster_dir, id);
        kill_supervisor(&dir, &boot);
        // One that is about to start finds no record then, and ends.
        disk::remove(&dir.file(INSTANCE))?;
    }
    for id in &ids {
        let dir = InstanceDir::new(&cluster_dir, id);
        let _lock = evict(&dir, &boot)?;
        clear_machine(&dir, cluster, id.as_str())?;
        disk::remove(dir.path())?;
    }
    if let Some(cloud) = InstanceDir::at(cluster_dir.clone()).read::<CloudFile>(CLOUD)? {
        network::remove_device(&cloud.bridge)?;
    }
    cgroup::remove_cluster(cluster)?;
    disk::remove(&cluster_dir)
}

fn kill_supervisor(dir: &InstanceDir, boot: &str) {
    // A note that can't be read was never finished: its lock tells whether there is a supervisor.
    if let Ok(Some(note)) = dir.read::<SupervisorNote>(SUPERVISOR) {
        note.process.signal(boot, Signal::SIGKILL);
    }
}

/// Takes a machine's lock from its supervisor, which may be about to write down who it is.
fn evict(dir: &InstanceDir, boot: &str) -> Result<File, LocalError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        kill_supervisor(dir, boot);
        if let Some(lock) = dir.try_lock()? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(LocalError::InUse(dir.path().display().to_string()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads what a former provider left: records, and directories whose launch never came to a record.
pub fn read_records(cluster_dir: &Path) -> Result<Vec<StoredInstance>, LocalError> {
    let mut found = Vec::new();
    for id in instances(cluster_dir)? {
        let dir = InstanceDir::new(cluster_dir, &id);
        match dir.read::<StoredInstance>(INSTANCE)? {
            Some(stored) => found.push(stored),
            None => disk::remove(dir.path())?,
        }
    }
    Ok(found)
}
