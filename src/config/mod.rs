//! The files a user edits, parsed and validated.
//!
//! YAML -> raw serde structs (unknown keys refused) -> [`ProviderConfig`], whose values are already
//! checked. Every error names the file, the path of the key, what was wrong and what was expected.

mod ec2;
mod node_identity;
mod plain;
pub mod policy;
mod provider;
mod raw;
mod replicas;
pub mod schema;
mod sources;
mod surroundings;
mod yaml;

pub use ec2::Ec2Settings;
pub use node_identity::{NodeClient, NodeIdentity, Serving};
pub use plain::policy as plain_policy;
pub use provider::*;
pub use replicas::{Advertise, LeaderElection, SecretRef};
pub use sources::{Source, Sources};
pub use surroundings::{OwnPod, Surroundings};

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{}: {key}: {problem}", file.display())]
    Invalid { file: PathBuf, key: String, problem: String },
    /// In the catalog, the price list or the cost policy.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
}

impl ConfigError {
    fn invalid(file: &Path, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { file: file.to_owned(), key: key.into(), problem: problem.into() }
    }
}

fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, ConfigError> {
    yaml::parse(text).map_err(|yaml::Fault { key, line, column, problem }| {
        ConfigError::invalid(file, key, format!("{problem} at line {line}, column {column}"))
    })
}
