//! /etc/pilotlight/agent.yaml: what an instance is told at its birth.

use crate::model::InstanceId;
use serde::Deserialize;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Where a machine's init or user data puts it.
pub const DEFAULT_CONFIG: &str = "/etc/pilotlight/agent.yaml";
/// On tmpfs: survives the agent, not the machine.
pub const DEFAULT_STATE_DIR: &str = "/run/pilotlight";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} is not a valid agent configuration")]
    Parse(PathBuf, #[source] Box<serde_saphyr::Error>),
    #[error("{path}: {key}: {value:?} {problem}")]
    Value { path: PathBuf, key: &'static str, value: String, problem: &'static str },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    instance_id: String,
    provider: String,
    ca_pem: String,
    #[serde(default)]
    token: String,
    state_dir: Option<PathBuf>,
}

#[derive(Clone)]
pub struct AgentConfig {
    pub instance: InstanceId,
    /// `https://address:port` of the gateway.
    pub provider: String,
    /// The only authority that the gateway's certificate may come from.
    pub ca_pem: String,
    /// Empty where the cloud can attest.
    pub token: String,
    pub state_dir: PathBuf,
}

/// Without the token.
impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("instance", &self.instance)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

impl AgentConfig {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = serde_saphyr::from_str(text).map_err(|e| ConfigError::Parse(path.to_owned(), Box::new(e)))?;
        let invalid = |key, value: &str, problem| {
            Err(ConfigError::Value { path: path.to_owned(), key, value: value.to_owned(), problem })
        };
        if raw.instance_id.is_empty() {
            return invalid("instanceId", "", "must not be empty");
        }
        let uri: Option<http::Uri> = raw.provider.parse().ok();
        if !uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some() && uri.port().is_some()) {
            return invalid("provider", &raw.provider, "must be https://address:port");
        }
        if !raw.ca_pem.contains("-----BEGIN CERTIFICATE-----") {
            return invalid("caPem", &raw.ca_pem, "must be a PEM certificate");
        }
        Ok(Self {
            instance: InstanceId::new(raw.instance_id),
            provider: raw.provider,
            ca_pem: raw.ca_pem,
            token: raw.token,
            state_dir: raw.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentConfig, String> {
        AgentConfig::parse(Path::new("agent.yaml"), text).map_err(|error| format!("{error}"))
    }

    const GOOD: &str = "instanceId: i-1\nprovider: https://10.72.0.1:10255\ncaPem: |\n  -----BEGIN CERTIFICATE-----\n  AA\n  -----END CERTIFICATE-----\ntoken: s3cret\n";

    #[test]
    fn the_file_a_cloud_writes_is_understood_and_its_token_is_not_shown() {
        let config = parse(GOOD).unwrap();
        assert_eq!((config.instance.as_str(), config.token.as_str()), ("i-1", "s3cret"));
        assert_eq!(config.state_dir, Path::new("/run/pilotlight"));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_key_that_is_wrong() {
        for (from, to, named) in [
            ("https://10.72.0.1:10255", "http://10.72.0.1:10255", "provider"),
            ("https://10.72.0.1:10255", "https://10.72.0.1", "provider"),
            ("instanceId: i-1", "instanceId: ''", "instanceId"),
            ("BEGIN", "BEGAN", "caPem"),
            ("token:", "tokken:", "agent.yaml"),
        ] {
            let error = parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
