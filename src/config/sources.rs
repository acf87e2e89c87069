//! The files that a configuration is read from; and the last good ones, kept for a start with broken ones.
//!
//! ```text
//!  provider.yaml ──names──> catalog, price list, cost policy ──good──> used ──kept──> <stateDir>/<cluster>/last-good.json
//!                                       │ broken                                              │
//!                                       └── the kept ones in their place, if they go with ────┘
//!                                           provider.yaml as it is now; otherwise it is refused
//! ```
//!
//! So a container that is started again while a bad edit lies there leads on with what it led with, instead of failing
//! again and again. provider.yaml itself is never replaced: it says where all else is, and takes effect with a start.

use super::{ConfigError, raw};
use crate::files::write_atomic;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// A file, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub file: PathBuf,
    pub text: String,
}

impl Source {
    pub fn new(file: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    pub fn read(file: PathBuf) -> Result<Self, ConfigError> {
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Self { file, text }),
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }
}

/// All that a configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    pub provider: Source,
    pub catalog: Source,
    pub prices: Option<Source>,
    pub cost_policy: Option<Source>,
}

impl Sources {
    /// What `provider`, which says `raw`, names.
    pub(super) fn read(provider: Source, raw: &raw::Provider) -> Result<Self, ConfigError> {
        let base = provider.file.parent().unwrap_or(Path::new("."));
        let named = |file: &PathBuf| Source::read(base.join(file));
        Ok(Self {
            catalog: named(&raw.catalog)?,
            prices: raw.prices.as_ref().map(named).transpose()?,
            cost_policy: raw.cost_policy.as_ref().map(named).transpose()?,
            provider,
        })
    }

    /// As [`Self::read`], of the last good ones. None: none are kept for all that it names.
    pub(super) fn last_good(provider: Source, raw: &raw::Provider) -> Option<Self> {
        let base = provider.file.parent().unwrap_or(Path::new("."));
        let kept: LastGood =
            serde_json::from_slice(&fs::read(place(&base.join(&raw.state_dir), &raw.cluster)).ok()?).ok()?;
        let named = |file: &PathBuf, text: String| Source { file: base.join(file), text };
        let optional = |file: &Option<PathBuf>, text: Option<String>| match file {
            None => Some(None),
            Some(file) => Some(Some(named(file, text?))),
        };
        Some(Self {
            catalog: named(&raw.catalog, kept.catalog),
            prices: optional(&raw.prices, kept.prices)?,
            cost_policy: optional(&raw.cost_policy, kept.cost_policy)?,
            provider,
        })
    }

    /// provider.yaml first.
    pub fn all(&self) -> impl Iterator<Item = &Source> {
        [&self.provider, &self.catalog].into_iter().chain(&self.prices).chain(&self.cost_policy)
    }

    /// Writes down that these are good.
    pub(super) fn keep(&self, state_dir: &Path, cluster: &str) -> io::Result<()> {
        let text = |source: &Option<Source>| source.as_ref().map(|source| source.text.clone());
        let kept = LastGood {
            catalog: self.catalog.text.clone(),
            prices: text(&self.prices),
            cost_policy: text(&self.cost_policy),
        };
        let place = place(state_dir, cluster);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir.join(cluster))?;
        write_atomic(&place, &serde_json::to_vec(&kept)?, 0o600)
    }
}

/// The texts alone: where they stood may change.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastGood {
    catalog: String,
    prices: Option<String>,
    cost_policy: Option<String>,
}

fn place(state_dir: &Path, cluster: &str) -> PathBuf {
    state_dir.join(cluster).join("last-good.json")
}

#[cfg(test)]
mod tests {
    use super::super::{ProviderConfig, Surroundings};
    use super::*;

    fn files(dir: &Path) -> PathBuf {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config");
        let text = fs::read_to_string(shipped.join("provider.yaml")).unwrap();
        let text = text.replacen("# costPolicy:", "costPolicy:", 1).replacen("stateDir: /", "stateDir: ./", 1);
        assert!(text.contains("\ncostPolicy: cost-policy.yaml") && text.contains("\nstateDir: ./"), "{text}");
        fs::copy(shipped.join("catalog.yaml"), dir.join("catalog.yaml")).unwrap();
        fs::write(dir.join("cost-policy.yaml"), "defaults: {maxHourlyPrice: 0.1}\n").unwrap();
        fs::write(dir.join("provider.yaml"), text).unwrap();
        dir.join("provider.yaml")
    }

    fn start(file: &Path) -> Result<(ProviderConfig, Option<ConfigError>), ConfigError> {
        ProviderConfig::load_or_last_good(file, &Surroundings::default())
    }

    #[test]
    fn a_start_with_a_broken_file_goes_on_with_the_last_good_ones_and_says_what_is_broken() {
        for broken in ["cost-policy.yaml", "catalog.yaml"] {
            let dir = tempfile::tempdir().unwrap();
            let file = files(dir.path());
            let (good, fine) = start(&file).unwrap();
            assert!(fine.is_none());
            good.keep_as_last_good().unwrap();
            for edit in [Some("nonsense: 1\n"), None] {
                match edit {
                    Some(text) => fs::write(dir.path().join(broken), text).unwrap(),
                    None => fs::remove_file(dir.path().join(broken)).unwrap(),
                }
                let (config, why) = start(&file).unwrap();
                assert_eq!(config.sources, good.sources);
                let why = why.expect("it is said").to_string();
                assert!(why.contains(broken), "{why}");
            }
        }
    }

    #[test]
    fn what_is_good_is_used_though_others_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = files(dir.path());
        start(&file).unwrap().0.keep_as_last_good().unwrap();
        fs::write(dir.path().join("cost-policy.yaml"), "defaults: {maxHourlyPrice: 0.2}\n").unwrap();
        let (config, broken) = start(&file).unwrap();
        assert!(broken.is_none());
        assert!(config.sources.cost_policy.as_ref().unwrap().text.contains("0.2"));
    }

    #[test]
    fn without_good_ones_that_go_with_it_a_broken_configuration_is_refused() {
        let broken_with = |prepare: &dyn Fn(&Path, &Path)| {
            let dir = tempfile::tempdir().unwrap();
            let file = files(dir.path());
            prepare(dir.path(), &file);
            fs::write(dir.path().join("cost-policy.yaml"), "nonsense: 1\n").unwrap();
            start(&file).expect_err("it should have been refused").to_string()
        };
        let keep = |file: &Path| start(file).unwrap().0.keep_as_last_good().unwrap();
        let edit = |file: &Path, from: &str, to: &str| {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.contains(from), "{from}");
            fs::write(file, text.replacen(from, to, 1)).unwrap();
        };
        let refused = broken_with(&|_, _| {});
        assert!(refused.contains("cost-policy.yaml:1: nonsense"), "nothing was kept: {refused}");
        let refused = broken_with(&|_, file| {
            keep(file);
            edit(file, "cluster: dev", "cluster: Dev_1");
        });
        assert!(refused.contains("cluster"), "provider.yaml itself: {refused}");
        let refused = broken_with(&|_, file| {
            edit(file, "\ncostPolicy: cost-policy.yaml", "");
            keep(file);
            edit(file, "\ncatalog: ", "\ncostPolicy: cost-policy.yaml\ncatalog: ");
        });
        assert!(refused.contains("cost-policy.yaml:1: nonsense"), "no policy was kept: {refused}");
    }
}
