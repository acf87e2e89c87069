//! What an agent that comes back must know and the runtime can't tell: two files in its state
//! directory, which lives as long as the machine is up.
//!
//! - desired.json: the last desired Pod. It holds the Pod's secrets: 0600, on a tmpfs.
//! - progress.json: when its stop must end, which probes had passed, how it all ended.

use crate::{
    decide::probe::Verdict,
    model::{ContainerReport, DesiredPod},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const DESIRED: &str = "desired.json";
const PROGRESS: &str = "progress.json";

#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct StateError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub stop_deadline: Option<Timestamp>,
    /// The volumes have been there once.
    pub mounted: bool,
    /// By container id.
    pub probes: BTreeMap<String, KeptProbes>,
    pub final_reports: Option<Vec<ContainerReport>>,
    pub torn_down: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptProbes {
    pub started: bool,
    pub ready: bool,
}

impl KeptProbes {
    pub fn verdict(passed: bool) -> Verdict {
        if passed { Verdict::Passed } else { Verdict::Unknown }
    }
}

#[derive(Clone, Debug)]
pub(super) struct StateDir(PathBuf);

impl StateDir {
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub fn load_desired(&self) -> Result<Option<DesiredPod>, StateError> {
        self.load(DESIRED)
    }
    pub fn load_progress(&self) -> Result<Option<Kept>, StateError> {
        self.load(PROGRESS)
    }
    pub fn save_desired(&self, desired: &DesiredPod) -> Result<(), StateError> {
        self.save(DESIRED, desired)
    }
    pub fn save_progress(&self, kept: &Kept) -> Result<(), StateError> {
        self.save(PROGRESS, kept)
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.0.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError { operation: "read", path, source }),
        };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| StateError { operation: "parse", path, source: error.into() })
    }

    /// All or nothing.
    fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let bytes = serde_json::to_vec(value)?;
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| StateError { operation: "write", path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::fixtures;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_comes_back_and_only_its_owner_may_read_it() {
        let dir = std::env::temp_dir().join(format!("pilotlight-state-{}", std::process::id()));
        let state = StateDir::new(&dir);
        assert!(state.load_desired().unwrap().is_none());
        let pod = fixtures::pod(&["app"]);
        state.save_desired(&pod).unwrap();
        assert_eq!(state.load_desired().unwrap(), Some(pod));
        let mode = fs::metadata(dir.join(DESIRED)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = Kept { mounted: true, ..Kept::default() };
        state.save_progress(&kept).unwrap();
        assert_eq!(state.load_progress().unwrap(), Some(kept));
        fs::remove_dir_all(dir).unwrap();
    }
}
