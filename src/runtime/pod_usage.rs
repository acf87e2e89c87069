//! What Pods use, asked of their agents.

use crate::kube::reserve::Usage;
use crate::model::{InstanceId, PodStats, TunnelHead, TunnelRequest};
use crate::ports::AgentLink;
use crate::reconcile::Directory;
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, time::timeout};

/// Somebody waits for the answer with a reserve to be made; an agent answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Some hundred bytes a container.
const MOST_BYTES: u64 = 1 << 20;
/// Of many Pods of a service, that many are asked.
const MOST_PODS: usize = 8;

pub struct PodUsage {
    pub directory: Directory,
    pub link: Arc<dyn AgentLink>,
}

#[async_trait]
impl Usage for PodUsage {
    async fn highest_memory(&self, namespace: &str, begins: &str) -> Option<u64> {
        let instances = self.directory.all().into_iter().filter_map(|(name, entry)| {
            (name.namespace == namespace && name.name.starts_with(begins) && entry.started).then_some(entry.instance?)
        });
        let asked = instances.take(MOST_PODS).map(|instance| self.ask(instance));
        futures::future::join_all(asked).await.into_iter().flatten().max()
    }
}

/// None: its agent did not answer in time.
pub async fn stats(link: &dyn AgentLink, instance: &InstanceId) -> Option<PodStats> {
    let answer = async {
        let (TunnelHead::Open, stream) = link.open_tunnel(instance, TunnelRequest::Stats).await.ok()? else {
            return None;
        };
        let mut bytes = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut bytes).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    timeout(PATIENCE, answer).await.ok()?
}

impl PodUsage {
    async fn ask(&self, instance: InstanceId) -> Option<u64> {
        let stats = stats(&*self.link, &instance).await?;
        let users = stats.containers.iter().filter(|container| container.name != "queue-proxy");
        Some(users.map(|container| container.memory_working_set_bytes).sum()).filter(|bytes| *bytes > 0)
    }
}
