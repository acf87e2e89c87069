//! A machine is told of its end, as EC2 tells it: the same documents, as files under the metadata service's paths,
//! which the machine sees read-only. Who says it is a person or a test (`local-machine --announce`); a spot
//! interruption then also happens.
//!
//! ```text
//!   announce ──> <dir>/metadata/latest/meta-data/… ──(the agent reads it)──> provider
//!                       | an interruption's time has come: describe() stops the machine
//! ```

use super::{
    error::{Doing, LocalError},
    record::InstanceDir,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

/// EC2's words (StateReason).
pub const TAKEN_BACK: &str = "Server.SpotInstanceTermination: Spot instance termination";

const ACTION: &str = "latest/meta-data/spot/instance-action";
const REBALANCE: &str = "latest/meta-data/events/recommendations/rebalance";
const MAINTENANCE: &str = "latest/meta-data/events/maintenance/scheduled";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Announcement {
    /// A spot interruption: the machine is taken back then.
    Interruption,
    /// A rebalance recommendation.
    Rebalance,
    /// A scheduled retirement.
    Maintenance,
}

pub fn directory(dir: &InstanceDir) -> PathBuf {
    dir.file("metadata")
}

/// Makes the directory that the machine sees.
pub fn prepare(dir: &InstanceDir) -> Result<(), LocalError> {
    let path = directory(dir);
    fs::create_dir_all(&path)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
        .doing(|| format!("make {}", path.display()))
}

pub fn announce(dir: &InstanceDir, announcement: Announcement, at: Timestamp) -> Result<(), LocalError> {
    // As EC2 writes times: without parts of a second.
    let time = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (path, document) = match announcement {
        Announcement::Interruption => (ACTION, json!({ "action": "terminate", "time": time })),
        Announcement::Rebalance => (REBALANCE, json!({ "noticeTime": time })),
        Announcement::Maintenance => {
            let not_before = at.strftime("%d %b %Y %H:%M:%S GMT").to_string();
            let event = json!({ "Code": "instance-retirement", "NotBefore": not_before, "State": "active" });
            (MAINTENANCE, json!([event]))
        }
    };
    if !directory(dir).is_dir() {
        let message = "there is no such instance, or it is not of the local cloud".to_owned();
        return Err(LocalError::Content { path: directory(dir), message });
    }
    let path = directory(dir).join(path);
    let (parent, new) = (path.parent().unwrap_or(&path), path.with_extension("new"));
    // Whole or not at all: the agent may read at any moment.
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&new, document.to_string()))
        .and_then(|()| fs::rename(&new, &path))
        .doing(|| format!("write {}", path.display()))
}

/// Whether the time of an announced interruption has come. What can't be read announces nothing.
pub fn is_due(dir: &InstanceDir, now: Timestamp) -> bool {
    #[derive(Deserialize)]
    struct Action {
        time: Timestamp,
    }
    let text = fs::read(directory(dir).join(ACTION)).unwrap_or_default();
    serde_json::from_slice::<Action>(&text).is_ok_and(|action| action.time <= now)
}
