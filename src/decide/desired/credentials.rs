//! Registry credentials of a Pod's image pull secrets.
//!
//! Both formats of docker's configuration are read. Source: pkg/credentialprovider/{config,keyring}.go.

use super::{PodView, Secret};
use crate::model::RegistryCredential;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use std::collections::BTreeMap;

const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// Of all pull secrets, in the order the Pod names them; the agent picks those that fit an image. Secrets
/// that are missing or can't be read give nothing: the pull may do without, and says so if not.
pub fn of_pod(pod: &PodView<'_>) -> Vec<RegistryCredential> {
    let secrets = pod.spec.image_pull_secrets.iter();
    secrets.filter_map(|name| pod.refs.secret(name).ok().flatten()).flat_map(credentials).collect()
}

fn credentials(secret: &Secret) -> Vec<RegistryCredential> {
    let entries = if let Some(bytes) = secret.data.get(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfigJson>(bytes).map(|config| config.auths)
    } else if let Some(bytes) = secret.data.get(".dockercfg") {
        serde_json::from_slice(bytes)
    } else {
        Ok(BTreeMap::new())
    };
    let entries = entries.unwrap_or_default();
    entries.into_iter().filter_map(|(registry, entry)| credential(&registry, entry)).collect()
}

fn credential(registry: &str, entry: Entry) -> Option<RegistryCredential> {
    let (username, password) = if entry.auth.is_empty() {
        (entry.username, entry.password)
    } else {
        let decoded = String::from_utf8(ANY_PADDING.decode(entry.auth.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        (username.to_owned(), password.to_owned())
    };
    Some(RegistryCredential { registry: normalized(registry), username, password })
}

/// `https://registry.example/v1/team` and `registry.example/team` are one.
fn normalized(registry: &str) -> String {
    let plain = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let (host, path) = plain.split_once('/').unwrap_or((plain, ""));
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}
