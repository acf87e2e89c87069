//! What is written down of an instance, and how: so that a crash at any point leaves either the old
//! file or the new one.

use super::{
    error::{Doing, LocalError},
    process::ProcessId,
};
use crate::model::{
    InstanceId, InstanceRecord, Offer,
    bootstrap::{KeyFingerprint, NoFingerprint},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

pub const INSTANCE: &str = "instance.json";
pub const MACHINE: &str = "machine.json";
pub const USER_DATA: &str = "user-data.yaml";
pub const SUPERVISOR: &str = "supervisor.json";
/// Whose key the instance's certificate is for.
pub const CLAIMED: &str = "claimed";
pub const LOCK: &str = "lock";
pub const CONSOLE: &str = "console.log";

/// `instance.json`. Only the provider writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredInstance {
    pub instance: InstanceRecord,
    /// How many its launch asked for: the same token with another count is another request.
    pub launch_count: u32,
    /// What would have done, best first.
    #[serde(default)]
    pub offers: Vec<Offer>,
    /// Of the one-time token; the token itself is in the user data alone.
    pub token_sha256: String,
    pub stop_requested_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Nothing but the record and the console is left.
    pub cleaned: bool,
}

/// `supervisor.json`. Only the supervisor writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorNote {
    pub process: ProcessId,
    /// PID 1 of the instance, as the host numbers it.
    pub init_pid: Option<i32>,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    Booting,
    Up,
    Ended { reason: String },
}

/// Where an instance's files are.
#[derive(Clone, Debug)]
pub struct InstanceDir(PathBuf);

impl InstanceDir {
    pub fn new(cluster_dir: &Path, id: &InstanceId) -> Self {
        Self(cluster_dir.join(id.as_str()))
    }

    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// None if it is not there.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, LocalError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| LocalError::Content { path, message: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(|| format!("read {}", path.display())),
        }
    }

    /// Survives a loss of power once it has returned.
    pub fn write_durably<T: Serialize>(&self, name: &str, value: &T) -> Result<(), LocalError> {
        self.replace(name, &self.json(name, value)?, true)?;
        File::open(&self.0).and_then(|dir| dir.sync_all()).doing(|| format!("sync {}", self.0.display()))
    }

    /// For what means nothing after a loss of power: no machine survives one.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), LocalError> {
        self.replace(name, &self.json(name, value)?, false)
    }

    pub fn write_text(&self, name: &str, text: &str) -> Result<(), LocalError> {
        self.replace(name, text.as_bytes(), false)
    }

    fn json<T: Serialize>(&self, name: &str, value: &T) -> Result<Vec<u8>, LocalError> {
        serde_json::to_vec_pretty(value)
            .map_err(|error| LocalError::Content { path: self.file(name), message: error.to_string() })
    }

    /// Replaces the file whole; readable by the owner alone.
    fn replace(&self, name: &str, bytes: &[u8], sync: bool) -> Result<(), LocalError> {
        let (path, new) = (self.file(name), self.file(&format!(".{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            if sync {
                file.sync_data()?;
            }
            fs::rename(&new, &path)
        };
        write().doing(|| format!("write {}", path.display()))
    }

    /// Whose this instance is.
    pub fn holder(&self) -> Result<Option<KeyFingerprint>, LocalError> {
        let path = self.file(CLAIMED);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let content = |error: NoFingerprint| LocalError::Content { path, message: error.to_string() };
                text.trim().parse().map(Some).map_err(content)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(|| format!("read {}", path.display())),
        }
    }

    /// Makes it this key's if it is nobody's; says whose it is. Survives a loss of power once it has returned.
    pub fn claim_for(&self, key: &KeyFingerprint) -> Result<KeyFingerprint, LocalError> {
        let (path, new) = (self.file(CLAIMED), self.file(".claimed.new"));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            writeln!(file, "{key}")?;
            file.sync_all()?;
            // Of two that link the same name one is let, and what it names is whole.
            match fs::hard_link(&new, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
            fs::remove_file(&new)?;
            File::open(&self.0)?.sync_all()
        };
        write().doing(|| format!("write {}", path.display()))?;
        let missing = || LocalError::Content { path: self.file(CLAIMED), message: "it has gone".to_owned() };
        self.holder()?.ok_or_else(missing)
    }

    /// Takes the right to act in here. None: a supervisor has it.
    pub fn try_lock(&self) -> Result<Option<File>, LocalError> {
        try_lock(&self.file(LOCK))
    }
}

/// An exclusive flock, held as long as the file is open; the kernel drops it with the process.
pub fn try_lock(path: &Path) -> Result<Option<File>, LocalError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .doing(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error).doing(|| format!("lock {}", path.display())),
    }
}
