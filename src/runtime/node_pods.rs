//! The reconciler's directory as one node's kubelet API sees it.

use crate::kubelet_api::{FoundPod, PodDirectory};
use crate::model::{NodeName, ObjectName, PodUid};
use crate::reconcile::{Directory, DirectoryEntry};

pub struct NodePods {
    pub directory: Directory,
    pub node: NodeName,
}

impl PodDirectory for NodePods {
    fn find(&self, name: &ObjectName, uid: Option<&PodUid>) -> Option<FoundPod> {
        let entry = self.directory.find(name)?;
        let wanted = entry.node == self.node && uid.is_none_or(|uid| *uid == entry.uid);
        wanted.then(|| found(name.clone(), entry))
    }

    fn all(&self) -> Vec<FoundPod> {
        let pods = self.directory.all().into_iter();
        pods.filter(|(_, entry)| entry.node == self.node).map(|(name, entry)| found(name, entry)).collect()
    }
}

fn found(name: ObjectName, entry: DirectoryEntry) -> FoundPod {
    FoundPod {
        name,
        uid: entry.uid,
        running: entry.started && entry.instance.is_some(),
        released: entry.released,
        instance: entry.instance,
        containers: entry.containers,
        object: entry.object,
    }
}
