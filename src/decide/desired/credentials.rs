//! Registry credentials of a Pod's image pull secrets.
//!
//! Only those that fit an image go to its agent, in the order in which they should be tried: the most
//! specific first. Source: pkg/credentialprovider/{config,keyring}.go.

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
/// Docker Hub's key in docker's configuration.
const HUB: &str = "index.docker.io";

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

/// Secrets that are missing or can't be read give nothing: the pull may do without, and says so if not.
pub fn for_image(pod: &PodView<'_>, image: &str) -> Vec<RegistryCredential> {
    let secrets = pod.spec.image_pull_secrets.iter();
    let found = secrets.filter_map(|name| pod.refs.secret(name).ok().flatten());
    let mut all: Vec<RegistryCredential> = found.flat_map(credentials).collect();
    // Stable: of equal registries the secret named first is tried first.
    all.sort_by(|a, b| b.registry.cmp(&a.registry));
    let fitting: Vec<_> = all.iter().filter(|c| fits(&c.registry, image)).cloned().collect();
    if fitting.is_empty() && on_docker_hub(image) {
        return all.into_iter().filter(|c| c.registry == HUB).collect();
    }
    fitting
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

/// Whether a registry's key covers an image: each label of the host may be a pattern, the path a prefix.
fn fits(registry: &str, image: &str) -> bool {
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let (host, port) = host.split_once(':').unwrap_or((host, ""));
    let (image_host, image_port) = image_host.split_once(':').unwrap_or((image_host, ""));
    let (labels, image_labels): (Vec<_>, Vec<_>) = (host.split('.').collect(), image_host.split('.').collect());
    port == image_port
        && labels.len() == image_labels.len()
        && image_path.starts_with(path)
        && labels.iter().zip(&image_labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
}

/// `*` stands for any number of characters, `?` for one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => glob(rest, text) || text.split_first().is_some_and(|(_, text)| glob(pattern, text)),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((wanted, rest)), Some((found, text))) => wanted == found && glob(rest, text),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// An image without a host in front (`nginx`, `team/app`) is Docker Hub's.
fn on_docker_hub(image: &str) -> bool {
    match image.split_once('/') {
        None => true,
        Some((first, _)) => matches!(first, "docker.io" | HUB) || !first.contains(['.', ':']),
    }
}
