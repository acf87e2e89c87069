//! The reconciler's directory as one node's kubelet API sees it.

use crate::kube::pods;
use crate::kubelet_api::{FoundPod, PodDirectory};
use crate::model::{NodeName, ObjectName, PodUid};
use crate::reconcile::{Directory, DirectoryEntry};
use async_trait::async_trait;
use kube::Client;

pub struct NodePods {
    pub directory: Directory,
    pub node: NodeName,
    /// The node's own: it may list its own Pods.
    pub client: Client,
}

#[async_trait]
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

    async fn objects(&self) -> Result<String, String> {
        pods::list(&self.client, &self.node).await
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
    }
}
