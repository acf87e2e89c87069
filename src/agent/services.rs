//! The task that applies services updates, so that a slow proxy delays no Pod and no tunnel.
//!
//! ```text
//!   session --apply--> [bounded queue] --> proxy: ok -> version
//!                                          failed, or an update that does not follow what it holds:
//!                                          out of step -> the session ends, the next brings everything
//! ```

use super::host::ServiceSink;
use crate::model::ServicesUpdate;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

const QUEUE: usize = 8;

struct Shared {
    version: AtomicU64,
    out_of_step: Notify,
}

/// The session's side.
pub(super) struct ServicesHandle {
    updates: mpsc::Sender<ServicesUpdate>,
    shared: Arc<Shared>,
}

/// The task's side.
pub(super) struct ServicesTask {
    updates: mpsc::Receiver<ServicesUpdate>,
    shared: Arc<Shared>,
    sink: Box<dyn ServiceSink>,
}

pub(super) fn services(sink: Box<dyn ServiceSink>) -> (ServicesHandle, ServicesTask) {
    let (sender, updates) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared { version: AtomicU64::new(sink.version()), out_of_step: Notify::new() });
    let handle = ServicesHandle { updates: sender, shared: Arc::clone(&shared) };
    (handle, ServicesTask { updates, shared, sink })
}

impl ServicesHandle {
    /// Waits while the proxy is busy with earlier ones.
    pub async fn apply(&self, update: ServicesUpdate) {
        // An error: the task has ended, and so does the agent.
        let _ = self.updates.send(update).await;
    }

    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Relaxed)
    }

    /// Resolves once for each time that an update could not be applied.
    pub async fn out_of_step(&self) {
        self.shared.out_of_step.notified().await;
    }
}

impl ServicesTask {
    pub async fn run(mut self, cancel: CancellationToken) {
        // After a failure, increments are no use until everything comes.
        let mut lost = false;
        loop {
            let update = tokio::select! {
                update = self.updates.recv() => update,
                () = cancel.cancelled() => return,
            };
            let Some(update) = update else { return };
            if update.from != 0 && (lost || update.from != self.sink.version()) {
                if !lost {
                    tracing::warn!(has = self.sink.version(), from = update.from, "a services update does not follow");
                    lost = true;
                    self.shared.out_of_step.notify_one();
                }
                continue;
            }
            match self.sink.apply(&update).await {
                Ok(()) => lost = false,
                Err(error) => {
                    tracing::error!(error = &*error, to = update.to, "services could not be applied");
                    lost = true;
                    self.shared.out_of_step.notify_one();
                }
            }
            self.shared.version.store(if lost { 0 } else { self.sink.version() }, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::Mutex;

    struct Sink {
        version: u64,
        applied: Arc<Mutex<Vec<(u64, u64)>>>,
        fail_at: Option<u64>,
    }

    #[async_trait]
    impl ServiceSink for Sink {
        async fn apply(&mut self, update: &ServicesUpdate) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            if self.fail_at.take_if(|to| *to == update.to).is_some() {
                return Err("nft failed".into());
            }
            self.version = update.to;
            self.applied.lock().unwrap().push((update.from, update.to));
            Ok(())
        }
        fn version(&self) -> u64 {
            self.version
        }
    }

    #[tokio::test]
    async fn after_a_failure_or_a_gap_only_the_whole_is_applied() {
        let applied = Arc::new(Mutex::new(vec![]));
        let sink = Sink { version: 0, applied: Arc::clone(&applied), fail_at: Some(3) };
        let (handle, task) = services(Box::new(sink));
        let running = tokio::spawn(task.run(CancellationToken::new()));
        for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (4, 5), (7, 8), (8, 9), (0, 9)] {
            handle.apply(ServicesUpdate { from, to, upsert: vec![], remove: vec![] }).await;
        }
        let shared = Arc::clone(&handle.shared);
        drop(handle);
        running.await.unwrap();
        assert_eq!(*applied.lock().unwrap(), [(0, 1), (1, 2), (0, 4), (4, 5), (0, 9)]);
        assert_eq!(shared.version.load(Ordering::Relaxed), 9);
        shared.out_of_step.notified().await;
    }
}
