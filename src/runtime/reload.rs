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
use crate::config::{CloudConfig, ProviderConfig, Sources};
use crate::kube::events;
use crate::model::NodeName;
use crate::telemetry::Metrics;
use kube::Client;
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const POLL: Duration = Duration::from_secs(2);

pub struct Watch {
    /// As the provider leads with.
    pub config: ProviderConfig,
    /// What that was read from.
    pub seen: Seen,
    pub clients: HashMap<NodeName, Client>,
    pub metrics: Metrics,
    pub files: watch::Sender<Files>,
}

/// Which files there are, and what they held when they were last read.
pub struct Seen {
    files: Vec<PathBuf>,
    digests: Vec<Option<Digest>>,
}

impl Seen {
    /// Where a file is not as it was read, whatever came between, it is news.
    pub fn of(sources: &Sources) -> Self {
        let (files, digests) =
            sources.all().map(|source| (source.file.clone(), Some(digest(source.text.as_bytes())))).unzip();
        Self { files, digests }
    }

    /// For one that was loaded long ago and is about to be used: as its files are now. If they are broken now it stays, and
    /// the watch tells so at its first look.
    pub fn renew(&mut self, config: ProviderConfig) -> ProviderConfig {
        let now = digests(&self.files);
        if now == self.digests {
            return config;
        }
        match ProviderConfig::load(&config.sources.provider.file) {
            Ok(newer) => {
                tracing::info!("the configuration was edited while this replica waited: it is taken as it is now");
                warn(&newer);
                keep_as_last_good(&newer);
                *self = Self::of(&newer.sources);
                newer
            }
            Err(error) => {
                tracing::error!(
                    why = super::cli::chain(&error),
                    "the configuration was broken while this replica waited"
                );
                config
            }
        }
    }
}

impl Watch {
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let now = digests(&self.seen.files);
        if now == self.seen.digests {
            return;
        }
        match ProviderConfig::load(&self.config.sources.provider.file) {
            Ok(config) => {
                self.seen = Seen::of(&config.sources);
                self.take_up(config).await;
            }
            Err(error) => {
                self.seen.digests = now;
                let why = super::cli::chain(&error);
                self.metrics.reloaded(false);
                tracing::error!(why, "the edited configuration is not taken up; the last good one stays");
                self.tell(true, "ConfigurationInvalid", &format!("{why}; the last good one stays")).await;
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
        warn(&config);
        keep_as_last_good(&config);
        let mut message = "the edited configuration is taken up".to_owned();
        if let Some((first, others)) = config.unlisted.split_first() {
            let more = if others.is_empty() { String::new() } else { format!(", and {} more such", others.len()) };
            message = format!("{message}; {}{more}", first.awaited());
        }
        if !fixed.is_empty() {
            message = format!("{message}; {} take effect with a restart alone", fixed.join(", "));
            tracing::warn!(keys = fixed.join(", "), "changed keys take effect with a restart alone");
        }
        let warns = !fixed.is_empty() || !config.unlisted.is_empty();
        self.tell(warns, "ConfigurationReloaded", &message).await;
    }

    async fn tell(&self, warning: bool, reason: &str, message: &str) {
        for (node, client) in &self.clients {
            events::node_event(client, node, warning, reason, message, jiff::Timestamp::now()).await;
        }
    }
}

/// Says of a configuration that is taken up what may have been written by mistake.
pub fn warn(config: &ProviderConfig) {
    for unlisted in &config.unlisted {
        tracing::warn!("{}", unlisted.awaited());
    }
}

/// For a start with broken files. A read-only state directory costs that much, and nothing else.
pub fn keep_as_last_good(config: &ProviderConfig) {
    if let Err(error) = config.keep_as_last_good() {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "the good configuration could not be kept for a start with a broken one");
    }
}

type Digest = [u8; 32];

fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

fn digests(files: &[PathBuf]) -> Vec<Option<Digest>> {
    files.iter().map(|file| Some(digest(&std::fs::read(file).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;
    use crate::decide::purchase::Buying;
    use std::path::Path;

    /// Of the shipped one: with the policy that stands beside it, and the state there too.
    fn made_of(shipped: &str) -> String {
        let text = shipped.replacen("# costPolicy:", "costPolicy:", 1).replacen("stateDir: /", "stateDir: ./", 1);
        assert!(text.contains("\ncostPolicy:") && text.contains("\nstateDir: ./"), "{text}");
        text
    }

    /// A provider's files, with a policy of one class.
    fn files(dir: &Path) -> PathBuf {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config");
        let text = std::fs::read_to_string(shipped.join("provider.yaml")).unwrap();
        std::fs::copy(shipped.join("catalog.yaml"), dir.join("catalog.yaml")).unwrap();
        let file = dir.join("provider.yaml");
        std::fs::write(&file, made_of(&text)).unwrap();
        file
    }

    fn cap(buying: &Buying) -> Option<String> {
        buying.policy.classes.last().and_then(|class| class.max_hourly).map(|cap| cap.to_string())
    }

    fn write(dir: &Path, cap: &str) {
        std::fs::write(dir.join("cost-policy.yaml"), format!("defaults: {{maxHourlyPrice: {cap}}}\n")).unwrap();
    }

    fn loaded(dir: &Path) -> ProviderConfig {
        let file = files(dir);
        write(dir, "0.1");
        ProviderConfig::load(&file).unwrap()
    }

    /// As a replica that leads; None: the files have not been touched since.
    fn watching(config: ProviderConfig, seen: Option<Seen>) -> (Watch, watch::Receiver<Files>) {
        let first = Files { buying: Arc::clone(&config.buying), keep_completed: config.keep_completed_pods };
        let (files, taken) = watch::channel(first);
        let seen = seen.unwrap_or_else(|| Seen::of(&config.sources));
        (Watch { config, seen, clients: HashMap::new(), metrics: Metrics::default(), files }, taken)
    }

    fn told(metrics: &Metrics, result: &str) -> u32 {
        let line = format!("pilotlight_config_reloads_total{{result=\"{result}\"}} ");
        metrics.text().lines().find_map(|text| text.strip_prefix(&line)?.parse::<u32>().ok()).unwrap_or(0)
    }

    #[tokio::test]
    async fn who_waited_to_lead_begins_with_the_files_as_they_are_then_and_tells_of_broken_ones() {
        let dir = tempfile::tempdir().unwrap();
        let config = loaded(dir.path());
        let write = |cap: &str| write(dir.path(), cap);
        let mut seen = Seen::of(&config.sources);
        write("0.2");
        let config = seen.renew(config);
        assert_eq!(cap(&config.buying).as_deref(), Some("0.2"));
        write("cheap");
        let config = seen.renew(config);
        assert_eq!(cap(&config.buying).as_deref(), Some("0.2"), "the last good one");
        let (mut watch, _taken) = watching(config, Some(seen));
        watch.look().await;
        assert_eq!(told(&watch.metrics, "refused"), 1);
    }

    #[tokio::test]
    async fn a_start_with_a_broken_edit_goes_on_with_the_last_good_one_tells_of_it_and_takes_up_the_mended_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = files(dir.path());
        let write = |cap: &str| write(dir.path(), cap);
        write("0.1");
        let (watch, _taken) = watching(ProviderConfig::load(&file).unwrap(), None);
        write("0.2");
        let edited = ProviderConfig::load(&file).unwrap();
        watch.take_up(edited).await;
        write("cheap");
        drop(watch);

        let (config, broken) = ProviderConfig::load_or_last_good(&file, &Surroundings::default()).unwrap();
        assert!(broken.is_some());
        assert_eq!(cap(&config.buying).as_deref(), Some("0.2"));
        let mut seen = Seen::of(&config.sources);
        let config = seen.renew(config);
        let (mut watch, taken) = watching(config, Some(seen));
        watch.look().await;
        assert_eq!((told(&watch.metrics, "refused"), told(&watch.metrics, "taken-up")), (1, 0));
        write("0.3");
        watch.look().await;
        assert_eq!(told(&watch.metrics, "taken-up"), 1);
        assert_eq!(cap(&taken.borrow().buying).as_deref(), Some("0.3"));
    }

    /// As [`files`], of a provider on EC2.
    fn files_for_ec2(dir: &Path) -> PathBuf {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config");
        let text = std::fs::read_to_string(shipped.join("provider-ec2.yaml")).unwrap();
        std::fs::copy(shipped.join("catalog-ec2.yaml"), dir.join("catalog-ec2.yaml")).unwrap();
        let file = dir.join("provider.yaml");
        std::fs::write(&file, made_of(&text)).unwrap();
        file
    }

    #[tokio::test]
    async fn an_edit_that_names_what_the_catalog_lacks_is_taken_up_where_ec2_is_asked_and_nowhere_else() {
        const EDIT: &str = "defaults: {instances: {allow: [c6i.*, m5.*]}}\n";
        for (files, ec2) in [(files as fn(&Path) -> PathBuf, false), (files_for_ec2, true)] {
            let dir = tempfile::tempdir().unwrap();
            let file = files(dir.path());
            write(dir.path(), "0.1");
            let (mut watch, taken) = watching(ProviderConfig::load(&file).unwrap(), None);
            let metrics = watch.metrics.clone();
            std::fs::write(dir.path().join("cost-policy.yaml"), EDIT).unwrap();
            watch.look().await;
            assert_eq!((told(&metrics, "taken-up"), told(&metrics, "refused")), if ec2 { (1, 0) } else { (0, 1) });
            assert_eq!(taken.has_changed().unwrap(), ec2);
            std::fs::write(dir.path().join("cost-policy.yaml"), EDIT.replace("m5.*", "m5-large")).unwrap();
            watch.look().await;
            assert_eq!(told(&metrics, "refused"), if ec2 { 1 } else { 2 }, "nobody could know that");
        }
    }

    #[tokio::test]
    async fn a_bad_edit_keeps_the_last_good_one_and_a_mended_one_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let config = loaded(dir.path());
        let write = |cap: &str| write(dir.path(), cap);
        assert_eq!(cap(&config.buying).as_deref(), Some("0.1"));
        let (mut watch, mut taken) = watching(config, None);
        let metrics = watch.metrics.clone();
        let told = |result: &str| told(&metrics, result);
        watch.look().await;
        assert_eq!((told("refused"), told("taken-up")), (0, 0), "nothing was edited");

        write("cheap");
        watch.look().await;
        watch.look().await;
        assert_eq!((told("refused"), told("taken-up")), (1, 0), "it is refused, and once");
        assert!(!taken.has_changed().unwrap());
        assert_eq!(cap(&taken.borrow().buying).as_deref(), Some("0.1"), "the last good one");

        write("0.2");
        watch.look().await;
        assert_eq!((told("refused"), told("taken-up")), (1, 1));
        assert_eq!(cap(&taken.borrow_and_update().buying).as_deref(), Some("0.2"));

        // A file that is away for a moment is a bad edit too.
        std::fs::remove_file(dir.path().join("cost-policy.yaml")).unwrap();
        watch.look().await;
        assert_eq!((told("refused"), taken.has_changed().unwrap()), (2, false));
    }
}
