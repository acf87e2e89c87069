//! What every new instance is told: a cloud-init document, the same for all instances of a configuration. Pure.
//!
//! Two of cloud-init's modules are used and no others, so that whatever stands in for an instance needs to
//! understand only these: `write_files`, then `runcmd` (each an argument list, none a shell line).
//!
//! ```text
//!   /etc/pilotlight/agent.yaml                        0600  who to call: provider, CA certificate, cluster
//!   /etc/containerd/certs.d/<registry>/hosts.toml     0644  one for each registry spoken to without TLS
//!   /etc/systemd/system/pilotlight-agent.service      0644  runs the agent that the image brings
//!   systemctl daemon-reload; systemctl start --no-block pilotlight-agent.service
//! ```
//!
//! Nothing in it is secret: whoever may call DescribeInstanceAttribute can read it, and so can every
//! process of the instance that reaches the metadata service. The batch is not in it but in the tags: a
//! launch template holds this document, and a fleet would need a new template for each batch.
//!
//! Source: cloud-init's documentation, "Module reference"; EC2's limit on user data: AWS, "Run commands
//! at launch": 16 KB in raw form, before it is base64-encoded.

use super::config::Ec2Config;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Where the image has the agent.
pub const AGENT: &str = "/opt/pilotlight/pilotlight-agent";
pub const AGENT_CONFIG: &str = "/etc/pilotlight/agent.yaml";
pub const UNIT: &str = "pilotlight-agent.service";
/// Where containerd looks for registries.
pub const CERTS_DIR: &str = "/etc/containerd/certs.d";
/// In bytes, before base64.
pub const LIMIT: usize = 16 << 10;
/// cloud-init recognizes its documents by this first line.
const HEADER: &str = "#cloud-config\n";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    pub write_files: Vec<FileToWrite>,
    pub runcmd: Vec<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileToWrite {
    pub path: String,
    /// Octal: `0600`.
    pub permissions: String,
    pub content: String,
}

/// agent.yaml, as `agent::AgentConfig` reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentSettings<'a> {
    cloud: &'a str,
    cluster: &'a str,
    provider: &'a str,
    ca_pem: &'a str,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserDataError {
    #[error("the user data has {0} bytes; EC2 takes at most {LIMIT}")]
    TooLarge(usize),
    #[error("the user data can't be written as YAML: {0}")]
    Yaml(String),
}

impl CloudInit {
    pub fn new(config: &Ec2Config) -> Result<Self, UserDataError> {
        let settings = AgentSettings {
            cloud: "ec2",
            cluster: &config.cluster,
            provider: &config.provider_url,
            ca_pem: &config.ca_pem,
        };
        let agent = serde_saphyr::to_string(&settings).map_err(|error| UserDataError::Yaml(error.to_string()))?;
        let file = |path: String, permissions: &str, content: String| FileToWrite {
            path,
            permissions: permissions.to_owned(),
            content,
        };
        let mut write_files = vec![file(AGENT_CONFIG.to_owned(), "0600", agent)];
        for host in &config.insecure_registries {
            write_files.push(file(format!("{CERTS_DIR}/{host}/hosts.toml"), "0644", hosts_toml(host)));
        }
        write_files.push(file(format!("/etc/systemd/system/{UNIT}"), "0644", unit()));
        let command = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let runcmd = vec![
            command(&["systemctl", "daemon-reload"]),
            // Not waited for: cloud-init's last stage is no place to wait.
            command(&["systemctl", "start", "--no-block", UNIT]),
        ];
        Ok(Self { write_files, runcmd })
    }

    /// The document as cloud-init reads it.
    pub fn text(&self) -> Result<String, UserDataError> {
        let yaml = serde_saphyr::to_string(self).map_err(|error| UserDataError::Yaml(error.to_string()))?;
        let text = format!("{HEADER}{yaml}");
        if text.len() > LIMIT { Err(UserDataError::TooLarge(text.len())) } else { Ok(text) }
    }

    /// As EC2's API takes it.
    pub fn base64(&self) -> Result<String, UserDataError> {
        self.text().map(|text| STANDARD.encode(text))
    }

    /// Reads a document of ours back; for what stands in for an instance.
    pub fn parse(text: &str) -> Result<Self, UserDataError> {
        if !text.starts_with(HEADER) {
            return Err(UserDataError::Yaml(format!("the first line is not {}", HEADER.trim())));
        }
        serde_saphyr::from_str(text).map_err(|error| UserDataError::Yaml(error.to_string()))
    }
}

/// `Restart=always`: the agent may be killed for memory like anything else, and containers live on without it.
/// `KillMode=process`: nothing that it started is ended with it.
fn unit() -> String {
    format!(
        "[Unit]
Description=Pilotlight agent
Requires=containerd.service
After=network-online.target containerd.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={AGENT} --config {AGENT_CONFIG}
Restart=always
RestartSec=1
KillMode=process
OOMScoreAdjust=-999
"
    )
}

/// containerd's docs/hosts.md. A TOML basic string: JSON's escapes are among TOML's.
fn hosts_toml(host: &str) -> String {
    let endpoint = serde_json::Value::from(format!("http://{host}"));
    format!("server = {endpoint}\n\n[host.{endpoint}]\n  capabilities = ['pull', 'resolve']\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::config::tests::config;

    #[test]
    fn what_is_written_is_a_cloud_config_that_reads_back_the_same() {
        let document = CloudInit::new(&config()).unwrap();
        let text = document.text().unwrap();
        assert!(text.starts_with("#cloud-config\n"));
        assert_eq!(CloudInit::parse(&text).unwrap(), document);
        assert_eq!(STANDARD.decode(document.base64().unwrap()).unwrap(), text.into_bytes());
        assert!(CloudInit::parse("write_files: []\nruncmd: []\n").is_err());
    }

    #[test]
    fn the_agent_learns_whom_to_call_and_nothing_secret_and_no_instance_is_named() {
        let document = CloudInit::new(&config()).unwrap();
        let agent = &document.write_files[0];
        assert_eq!((agent.path.as_str(), agent.permissions.as_str()), (AGENT_CONFIG, "0600"));
        let settings: serde_json::Value = serde_saphyr::from_str(&agent.content).unwrap();
        let keys: Vec<&String> = settings.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["caPem", "cloud", "cluster", "provider"]);
        assert_eq!(settings["caPem"], config().ca_pem);
        let text = document.text().unwrap();
        assert!(!text.contains("PRIVATE KEY") && !text.contains("token"));
    }

    #[test]
    fn the_agent_is_started_by_a_unit_that_starts_it_again() {
        let document = CloudInit::new(&config()).unwrap();
        let unit = document.write_files.iter().find(|file| file.path.ends_with(UNIT)).unwrap();
        assert!(unit.content.contains(&format!("ExecStart={AGENT} --config {AGENT_CONFIG}\nRestart=always")));
        assert_eq!(document.runcmd.last().unwrap().join(" "), format!("systemctl start --no-block {UNIT}"));
    }

    #[test]
    fn a_registry_without_tls_gets_its_hosts_file() {
        let config = Ec2Config { insecure_registries: vec!["10.70.0.1:5000".to_owned()], ..config() };
        let document = CloudInit::new(&config).unwrap();
        let hosts = &document.write_files[1];
        assert_eq!(hosts.path, "/etc/containerd/certs.d/10.70.0.1:5000/hosts.toml");
        assert!(hosts.content.contains("[host.\"http://10.70.0.1:5000\"]"), "{}", hosts.content);
    }

    #[test]
    fn a_document_that_ec2_would_refuse_is_refused_here_with_its_size() {
        let config = Ec2Config { ca_pem: "x".repeat(LIMIT), ..config() };
        let refused = CloudInit::new(&config).unwrap().text();
        assert!(matches!(refused, Err(UserDataError::TooLarge(size)) if size > LIMIT), "{refused:?}");
    }
}
