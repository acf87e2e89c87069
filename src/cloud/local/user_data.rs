//! What a new machine is told: files to write, services to run. Pure.
//!
//! Nothing in it is secret but the one-time token, which only the local cloud needs: elsewhere a
//! machine proves itself by what its cloud attests.

use super::config::Registry;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

pub const BIN_DIR: &str = "/opt/pilotlight/bin";
pub const AGENT: &str = "/opt/pilotlight/pilotlight-agent";
pub const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// What a metadata service would say of the machine's end: files under its paths.
pub const METADATA_DIR: &str = "/run/pilotlight-metadata";

/// The document, as YAML; `write_files` is cloud-init's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserData {
    pub write_files: Vec<FileToWrite>,
    pub services: Vec<Service>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileToWrite {
    pub path: String,
    /// Octal: `0600`.
    pub permissions: String,
    pub content: String,
}

/// Its content may hold the token.
impl fmt::Debug for FileToWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} bytes)", self.path, self.permissions, self.content.len())
    }
}

/// Runs as long as the machine does: it is started again when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub command: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

pub struct UserDataInput<'a> {
    pub instance_id: &'a str,
    pub provider_url: &'a str,
    pub ca_pem: &'a str,
    pub token: &'a str,
    pub sandbox_image: &'a str,
    pub registries: &'a [Registry],
    /// The machine may not lower an OOM score.
    pub restrict_oom_score_adj: bool,
}

/// /etc/pilotlight/agent.yaml.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSettings {
    pub instance_id: String,
    pub provider: String,
    pub ca_pem: String,
    pub token: String,
    pub metadata_dir: String,
}

pub fn user_data(input: &UserDataInput<'_>) -> Result<UserData, String> {
    let settings = AgentSettings {
        instance_id: input.instance_id.to_owned(),
        provider: input.provider_url.to_owned(),
        ca_pem: input.ca_pem.to_owned(),
        token: input.token.to_owned(),
        metadata_dir: METADATA_DIR.to_owned(),
    };
    let agent = serde_saphyr::to_string(&settings).map_err(|error| error.to_string())?;
    let mut data = image(input);
    data.write_files.insert(0, file("/etc/pilotlight/agent.yaml".to_owned(), "0600", agent));
    data.services.push(service("pilotlight-agent", &[AGENT]));
    Ok(data)
}

/// What an image of another cloud brings by itself: containerd and its configuration, without an agent.
pub fn image(input: &UserDataInput<'_>) -> UserData {
    let mut write_files = vec![file("/etc/containerd/config.toml".to_owned(), "0644", containerd_config(input))];
    for registry in input.registries {
        write_files.push(file(
            format!("/etc/containerd/certs.d/{}/hosts.toml", registry.host),
            "0644",
            hosts_toml(&registry.endpoint),
        ));
    }
    let containerd = format!("{BIN_DIR}/containerd");
    let containerd = service("containerd", &[&containerd, "--config", "/etc/containerd/config.toml"]);
    UserData { write_files, services: vec![containerd] }
}

fn file(path: String, permissions: &str, content: String) -> FileToWrite {
    FileToWrite { path, permissions: permissions.to_owned(), content }
}

/// With the path that a machine's services have.
pub fn service(name: &str, command: &[&str]) -> Service {
    let path = format!("{BIN_DIR}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Service {
        name: name.to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        environment: [("PATH".to_owned(), path)].into(),
    }
}

/// containerd's configuration, version 3 (docs/cri/config.md of containerd 2.2).
fn containerd_config(input: &UserDataInput<'_>) -> String {
    let sandbox = toml_string(input.sandbox_image);
    let restrict = input.restrict_oom_score_adj;
    format!(
        "version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']

[grpc]
  address = '/run/containerd/containerd.sock'

[debug]
  level = 'warn'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'

  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = {sandbox}

  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '/etc/containerd/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {restrict}

  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'

    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = '{BIN_DIR}/runc'
        SystemdCgroup = false

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{CNI_BIN_DIR}']
    conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = '127.0.0.1'
  stream_server_port = '0'
"
    )
}

/// One registry's hosts.toml (docs/hosts.md of containerd).
fn hosts_toml(endpoint: &str) -> String {
    let endpoint = toml_string(endpoint);
    format!("server = {endpoint}\n\n[host.{endpoint}]\n  capabilities = ['pull', 'resolve']\n")
}

/// A TOML basic string; JSON's escapes are among TOML's (TOML v1.0, String).
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input<'a>(registries: &'a [Registry]) -> UserDataInput<'a> {
        UserDataInput {
            instance_id: "i-0123456789abcdef0",
            provider_url: "https://10.72.0.1:10255",
            ca_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            token: "the-token",
            sandbox_image: "pilotlight.test/pause:1",
            registries,
            restrict_oom_score_adj: true,
        }
    }

    fn content<'a>(data: &'a UserData, path: &str) -> &'a str {
        &data.write_files.iter().find(|file| file.path == path).unwrap().content
    }

    #[test]
    fn what_is_written_as_yaml_is_read_back_the_same() {
        let data = user_data(&input(&[])).unwrap();
        let yaml = serde_saphyr::to_string(&data).unwrap();
        assert_eq!(serde_saphyr::from_str::<UserData>(&yaml).unwrap(), data);
    }

    #[test]
    fn the_agent_finds_its_settings_whole() {
        let data = user_data(&input(&[])).unwrap();
        let settings: AgentSettings = serde_saphyr::from_str(content(&data, "/etc/pilotlight/agent.yaml")).unwrap();
        assert_eq!(settings.instance_id, "i-0123456789abcdef0");
        assert_eq!(settings.ca_pem, input(&[]).ca_pem);
        assert_eq!(settings.token, "the-token");
    }

    #[test]
    fn the_token_is_in_the_agents_settings_alone_which_only_root_reads_and_debug_hides_it() {
        let data = user_data(&input(&[])).unwrap();
        for file in &data.write_files {
            assert_eq!(file.content.contains("the-token"), file.path == "/etc/pilotlight/agent.yaml");
        }
        assert_eq!(data.write_files[0].permissions, "0600");
        assert!(!format!("{data:?}").contains("the-token"));
        assert!(!data.services.iter().any(|service| format!("{service:?}").contains("the-token")));
    }

    #[test]
    fn a_machine_image_of_another_cloud_has_the_same_containerd() {
        let input = UserDataInput { restrict_oom_score_adj: false, ..input(&[]) };
        assert_eq!(include_str!("../../../scripts/ami/containerd.toml"), containerd_config(&input));
    }

    #[test]
    fn each_registry_gets_its_hosts_file() {
        let registry = Registry { host: "10.70.0.1:5000".to_owned(), endpoint: "http://10.70.0.1:5000".to_owned() };
        let data = user_data(&input(&[registry])).unwrap();
        let hosts = content(&data, "/etc/containerd/certs.d/10.70.0.1:5000/hosts.toml");
        assert!(hosts.contains("[host.\"http://10.70.0.1:5000\"]"), "{hosts}");
    }
}
