//! What this room asks of whoever knows the Pods.

use crate::model::{InstanceId, ObjectName, PodUid};
use async_trait::async_trait;

/// One Pod of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPod {
    pub name: ObjectName,
    pub uid: PodUid,
    /// Where it runs; None before it is bound.
    pub instance: Option<InstanceId>,
    /// Names of all containers, init and ephemeral ones too.
    pub containers: Vec<String>,
    /// Something of it runs: it belongs in /runningpods/.
    pub running: bool,
    /// It ran, and its instance has been let go: its logs went with it.
    pub released: bool,
}

/// The Pods of one node, as they are now.
#[async_trait]
pub trait PodDirectory: Send + Sync {
    /// With a uid: only that very Pod.
    fn find(&self, name: &ObjectName, uid: Option<&PodUid>) -> Option<FoundPod>;
    fn all(&self) -> Vec<FoundPod>;
    /// The whole objects, as a v1 PodList in JSON; or why they can't be had now. They are kept nowhere but in the API
    /// server: few ask for them, and they are most of what is known of a Pod.
    async fn objects(&self) -> Result<String, String>;
}
