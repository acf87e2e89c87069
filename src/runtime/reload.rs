//! The edited files taken up while the provider runs.
//!
//! ```text
//!   every POLL: the files' bytes ── as before ──> nothing
//!                    │ changed
//!                    v
//!   load and check all ── broken ──> the last good ones stay; log, metric, event on the nodes: file, line, key
//!                    │ fine
//!                    v
//!   what may change ──> buying;   what may not ──> log and event: takes effect with a restart
//! ```
//!
//! Polled, not notified: a ConfigMap's files are links that are swapped, which inotify on the files misses, and
//! four small files every two seconds cost nothing.

use super::buying::Files;
use crate::config::{CloudConfig, ProviderConfig};
use crate::kube::events;
use crate::model::NodeName;
use crate::telemetry::Metrics;
use kube::Client;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const POLL: Duration = Duration::from_secs(2);

pub struct Watch {
    /// As the provider was started with.
    pub config: ProviderConfig,
    pub clients: HashMap<NodeName, Client>,
    pub metrics: Metrics,
    pub files: watch::Sender<Files>,
}

impl Watch {
    pub async fn run(self, cancel: CancellationToken) {
        let mut files = self.config.files.clone();
        let mut seen = digest(&files);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let now = digest(&files);
            if now == seen {
                continue;
            }
            match ProviderConfig::load(&self.config.files[0]) {
                Ok(config) => {
                    files.clone_from(&config.files);
                    seen = digest(&files);
                    self.take_up(config).await;
                }
                Err(error) => {
                    seen = now;
                    let why = super::cli::chain(&error);
                    self.metrics.reloaded(false);
                    tracing::error!(why, "the edited configuration is not taken up; the last good one stays");
                    self.tell(true, "ConfigurationInvalid", &format!("{why}; the last good one stays")).await;
                }
            }
        }
    }

    async fn take_up(&self, config: ProviderConfig) {
        let fixed = self.config.needs_restart(&config);
        let local = matches!(self.config.cloud, CloudConfig::Local(_));
        if local && self.config.sizes() != config.sizes() {
            // It was made with these: what is bought must be what it sells.
            let message = "the catalog has other types or sizes now: nothing is taken up before a restart";
            self.metrics.reloaded(false);
            tracing::warn!(message);
            return self.tell(true, "ConfigurationNeedsRestart", message).await;
        }
        self.metrics.reloaded(true);
        let files = Files { buying: Arc::clone(&config.buying), keep_completed: config.keep_completed_pods };
        if self.files.send(files).is_err() {
            return;
        }
        tracing::info!(classes = config.buying.policy.classes.len(), "the edited configuration is taken up");
        let mut message = "the edited configuration is taken up".to_owned();
        if !fixed.is_empty() {
            message = format!("{message}; {} take effect with a restart alone", fixed.join(", "));
            tracing::warn!(keys = fixed.join(", "), "changed keys take effect with a restart alone");
        }
        self.tell(!fixed.is_empty(), "ConfigurationReloaded", &message).await;
    }

    async fn tell(&self, warning: bool, reason: &str, message: &str) {
        for (node, client) in &self.clients {
            events::node_event(client, node, warning, reason, message, jiff::Timestamp::now()).await;
        }
    }
}

fn digest(files: &[PathBuf]) -> Vec<Option<[u8; 32]>> {
    let one = |file: &Path| std::fs::read(file).ok().map(|bytes| Sha256::digest(bytes).into());
    files.iter().map(|file| one(file)).collect()
}
