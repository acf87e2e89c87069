//! What the kubelet API may look up of the Pods, kept by the engine, read by its handlers.

use crate::model::{InstanceId, ObjectName, PodUid};
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// One Pod, as the kubelet API needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectoryEntry {
    pub uid: PodUid,
    pub node: crate::model::NodeName,
    pub instance: Option<InstanceId>,
    /// All containers' names, init containers first.
    pub containers: Vec<String>,
    /// Something of it runs or ran.
    pub started: bool,
    /// It ran, and its instance has been let go: its logs went with it.
    pub released: bool,
    /// Of a reserve: what backs it, as its annotations say.
    pub reserve: Option<BTreeMap<String, String>>,
}

/// Cheap to clone; all clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pods: Arc<RwLock<BTreeMap<ObjectName, DirectoryEntry>>>,
}

impl Directory {
    pub fn find(&self, name: &ObjectName) -> Option<DirectoryEntry> {
        self.pods.read().expect("no panic while the lock is held").get(name).cloned()
    }

    pub fn all(&self) -> Vec<(ObjectName, DirectoryEntry)> {
        let pods = self.pods.read().expect("no panic while the lock is held");
        pods.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
    }

    pub(super) fn set(&self, name: &ObjectName, entry: DirectoryEntry) {
        self.pods.write().expect("no panic while the lock is held").insert(name.clone(), entry);
    }

    /// Forgets this very Pod; a successor of the same name stays.
    pub(super) fn remove(&self, name: &ObjectName, uid: &PodUid) {
        let mut pods = self.pods.write().expect("no panic while the lock is held");
        if pods.get(name).is_some_and(|entry| entry.uid == *uid) {
            pods.remove(name);
        }
    }
}
