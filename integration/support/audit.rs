//! What the API server was asked, by its audit log.

use super::Cluster;
use jiff::Timestamp;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub verb: String,
    pub group: String,
    /// With its subresource: `pods/eviction`.
    pub resource: String,
    pub code: u64,
}

/// The log from a moment on: also a watch that began earlier and ends later is before it.
pub struct Audit {
    file: PathBuf,
    before: u64,
    since: Timestamp,
}

impl Audit {
    pub fn from_now(cluster: &Cluster) -> Self {
        let file = cluster.state.join("audit.log");
        let before = fs::metadata(&file).map_or(0, |file| file.len());
        Self { file, before, since: Timestamp::now() }
    }

    /// By users of these names.
    pub fn asked(&self, by: &[&str]) -> BTreeSet<Asked> {
        let mut text = Vec::new();
        let mut file = File::open(&self.file).expect("the audit log");
        file.seek(SeekFrom::Start(self.before)).and_then(|_| file.read_to_end(&mut text)).expect("the audit log");
        let text = String::from_utf8_lossy(&text);
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let theirs = |event: &Value| {
            let received = event["requestReceivedTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            received.is_some_and(|at| at > self.since)
                && event["objectRef"].is_object()
                && event["user"]["username"].as_str().is_some_and(|user| by.contains(&user))
        };
        let asked = events.filter(theirs).map(|event| {
            let object = &event["objectRef"];
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
            Asked {
                verb: word(&event["verb"]),
                group: word(&object["apiGroup"]),
                resource: word(&object["resource"]) + &subresource,
                code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            }
        });
        asked.collect()
    }
}
