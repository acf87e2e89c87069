//! /etc/pilotlight/agent.yaml: what an instance is told at its birth.
//!
//! Two kinds of it: a cloud that makes each machine by itself writes `instanceId` and a one-time `token`;
//! one that launches many alike (`cloud: ec2`) writes what they have in common, and the instance asks its
//! metadata service who it is.

use super::imds::Imds;
use crate::{model::InstanceId, retry::Backoff};
use serde::Deserialize;
use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where a machine's init or user data puts it.
pub const DEFAULT_CONFIG: &str = "/etc/pilotlight/agent.yaml";
/// On tmpfs: survives the agent, not the machine.
pub const DEFAULT_STATE_DIR: &str = "/run/pilotlight";
/// Between questions to the metadata service, which may not answer yet while the machine boots.
const FIRST_QUESTION_WAIT: Duration = Duration::from_millis(50);
const LONGEST_QUESTION_WAIT: Duration = Duration::from_secs(2);

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
    instance_id: Option<String>,
    cloud: Option<CloudKind>,
    cluster: Option<String>,
    provider: String,
    ca_pem: String,
    #[serde(default)]
    token: String,
    state_dir: Option<PathBuf>,
    metadata_dir: Option<PathBuf>,
    address: Option<IpAddr>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CloudKind {
    Ec2,
}

/// How an instance shows which one it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// By a secret that was given to it alone, good for one registration.
    Token(String),
    /// By what EC2 attests.
    Ec2 { cluster: String },
}

#[derive(Clone)]
pub struct AgentConfig {
    pub instance: InstanceId,
    /// `https://address:port` of the gateway.
    pub provider: String,
    /// The only authority that the gateway's certificate may come from.
    pub ca_pem: String,
    pub proof: Proof,
    pub state_dir: PathBuf,
    /// Where a cloud without a metadata service puts its documents.
    pub metadata_dir: Option<PathBuf>,
    /// The one of this machine's addresses that it speaks from; None: the system chooses. The provider takes
    /// an instance at its word from that instance's own address alone.
    pub address: Option<IpAddr>,
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

/// The file, before it is known which instance this is.
struct Settings {
    instance: Option<InstanceId>,
    provider: String,
    ca_pem: String,
    proof: Proof,
    state_dir: PathBuf,
    metadata_dir: Option<PathBuf>,
    address: Option<IpAddr>,
}

impl AgentConfig {
    /// Reads the file and, where it names no instance, asks the metadata service until it answers.
    pub async fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        let settings = Settings::parse(path, &text)?;
        let instance = match settings.instance {
            Some(instance) => instance,
            None => own_id(&Imds::from(settings.address)).await,
        };
        let Settings { provider, ca_pem, proof, state_dir, metadata_dir, address, .. } = settings;
        Ok(Self { instance, provider, ca_pem, proof, state_dir, metadata_dir, address })
    }

    /// Where the provider is, if that is told as an address. (Of a name it is not known here what it stands for.)
    pub(super) fn provider_address(&self) -> Option<SocketAddrV4> {
        self.provider.strip_prefix("https://")?.trim_end_matches('/').parse().ok()
    }

    pub(super) fn imds(&self) -> Imds {
        Imds::from(self.address)
    }
}

async fn own_id(imds: &Imds) -> InstanceId {
    let mut backoff = Backoff::new(FIRST_QUESTION_WAIT, LONGEST_QUESTION_WAIT);
    loop {
        match imds.get("/latest/meta-data/instance-id").await {
            Ok(Some(id)) if !id.trim().is_empty() => return InstanceId::new(id.trim()),
            Ok(_) => tracing::warn!("the metadata service does not say which instance this is"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "it is not known yet which instance this is");
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

impl Settings {
    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = serde_saphyr::from_str(text).map_err(|e| ConfigError::Parse(path.to_owned(), Box::new(e)))?;
        let invalid = |key, value: &str, problem| {
            Err(ConfigError::Value { path: path.to_owned(), key, value: value.to_owned(), problem })
        };
        let uri: Option<http::Uri> = raw.provider.parse().ok();
        if !uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some() && uri.port().is_some()) {
            return invalid("provider", &raw.provider, "must be https://address:port");
        }
        if !raw.ca_pem.contains("-----BEGIN CERTIFICATE-----") {
            return invalid("caPem", &raw.ca_pem, "must be a PEM certificate");
        }
        let (instance, proof) = match (raw.cloud, raw.instance_id) {
            (None, Some(id)) if !id.is_empty() => (Some(InstanceId::new(id)), Proof::Token(raw.token)),
            (None, id) => return invalid("instanceId", &id.unwrap_or_default(), "must not be empty without `cloud`"),
            (Some(CloudKind::Ec2), Some(id)) => {
                return invalid("instanceId", &id, "is for the metadata service to say where `cloud` is ec2");
            }
            (Some(CloudKind::Ec2), None) if !raw.token.is_empty() => {
                return invalid("token", "(hidden)", "has no place where `cloud` is ec2");
            }
            (Some(CloudKind::Ec2), None) => match raw.cluster.filter(|cluster| !cluster.is_empty()) {
                Some(cluster) => (None, Proof::Ec2 { cluster }),
                None => return invalid("cluster", "", "must not be empty where `cloud` is ec2"),
            },
        };
        Ok(Self {
            instance,
            provider: raw.provider,
            ca_pem: raw.ca_pem,
            proof,
            state_dir: raw.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            metadata_dir: raw.metadata_dir,
            address: raw.address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("agent.yaml"), text).map_err(|error| format!("{error}"))
    }

    const GOOD: &str = "instanceId: i-1\nprovider: https://10.72.0.1:10255\ncaPem: |\n  -----BEGIN CERTIFICATE-----\n  AA\n  -----END CERTIFICATE-----\ntoken: s3cret\n";

    #[tokio::test]
    async fn the_file_a_cloud_writes_is_understood_and_its_token_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        fs::write(&file, GOOD).unwrap();
        let config = AgentConfig::read(&file).await.unwrap();
        assert_eq!(config.instance.as_str(), "i-1");
        assert!(config.proof == Proof::Token("s3cret".to_owned()));
        assert_eq!(config.state_dir, Path::new("/run/pilotlight"));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    const ALIKE: &str = "cloud: ec2\ncluster: dev\nprovider: https://10.72.0.1:10255\ncaPem: |\n  -----BEGIN CERTIFICATE-----\n  AA\n  -----END CERTIFICATE-----\n";

    #[test]
    fn one_file_for_many_instances_names_none_and_holds_no_secret() {
        let settings = parse(ALIKE).unwrap();
        assert_eq!(settings.instance, None);
        assert!(settings.proof == Proof::Ec2 { cluster: "dev".to_owned() });
        for (extra, named) in [("instanceId: i-1\n", "instanceId"), ("token: s3cret\n", "token")] {
            let error = parse(&format!("{ALIKE}{extra}")).err().unwrap();
            assert!(error.contains(named) && !error.contains("s3cret"), "{error}");
        }
        assert!(parse(&ALIKE.replace("cluster: dev\n", "")).err().unwrap().contains("cluster"));
        assert!(parse(&ALIKE.replace("ec2", "gce")).is_err());
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_key_that_is_wrong() {
        for (from, to, named) in [
            ("https://10.72.0.1:10255", "http://10.72.0.1:10255", "provider"),
            ("https://10.72.0.1:10255", "https://10.72.0.1", "provider"),
            ("instanceId: i-1", "instanceId: ''", "instanceId"),
            ("BEGIN", "BEGAN", "caPem"),
            ("token:", "tokken:", "agent.yaml"),
            ("token:", "address: eth0\ntoken:", "agent.yaml"),
        ] {
            let error = parse(&GOOD.replace(from, to)).err().unwrap();
            assert!(error.contains(named), "{error}");
        }
    }
}
