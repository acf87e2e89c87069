//! What was asked of the API server, by the audit log it writes.
//!
//! Each line is one request at one stage; a watch has two. Requests are told apart by what they are
//! about: a Pod (its status, what it refers to, its token), events, opening watches, and the node's own
//! life (Lease, Node), which has nothing to do with how many Pods come and go.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Whose requests count.
pub struct Of {
    users: &'static [&'static str],
    prefix: Option<&'static str>,
}

impl Of {
    pub fn pilotlight() -> Self {
        Self { users: &["pilotlight"], prefix: Some("system:node:pilotlight-") }
    }

    pub fn kubelet() -> Self {
        Self { users: &["system:node:kubelet"], prefix: None }
    }

    fn has(&self, user: &str) -> bool {
        self.users.contains(&user) || self.prefix.is_some_and(|prefix| user.starts_with(prefix))
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    pub pods: u64,
    pub events: u64,
    pub watches: u64,
    pub node: u64,
    /// "patch pods/status" and so on, all of the above.
    pub by_kind: BTreeMap<String, u64>,
    pub by_user: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(rename = "auditID")]
    audit_id: String,
    verb: String,
    user: User,
    object_ref: Option<Object>,
    #[serde(rename = "requestURI")]
    request_uri: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

pub struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    pub fn at_its_end(path: &Path) -> Result<Self> {
        let from = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        Ok(Self { path: path.to_owned(), from })
    }

    /// The requests noted since.
    pub fn since(&self, who: &Of) -> Result<Requests> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        count(BufReader::new(file), who)
    }
}

fn count(lines: impl BufRead, who: &Of) -> Result<Requests> {
    let mut requests = Requests::default();
    let mut known = HashSet::new();
    for line in lines.lines() {
        let line: Line = serde_json::from_str(&line?)?;
        if !who.has(&line.user.username) || !known.insert(line.audit_id) {
            continue;
        }
        let (resource, what) = match &line.object_ref {
            None => (String::new(), line.request_uri),
            Some(object) if object.subresource.is_empty() => (object.resource.clone(), object.resource.clone()),
            Some(object) => (object.resource.clone(), format!("{}/{}", object.resource, object.subresource)),
        };
        *requests.by_kind.entry(format!("{} {what}", line.verb)).or_default() += 1;
        *requests.by_user.entry(line.user.username).or_default() += 1;
        *match resource.as_str() {
            "events" => &mut requests.events,
            _ if line.verb == "watch" => &mut requests.watches,
            "leases" | "nodes" | "csinodes" | "runtimeclasses" | "certificatesigningrequests" => &mut requests.node,
            _ => &mut requests.pods,
        } += 1;
    }
    Ok(requests)
}
