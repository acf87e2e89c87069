//! Files of ConfigMap, Secret, downward-API, token and projected volumes.
//!
//! Sources in order, a later one taking the place of an earlier one's file of the same path.
//! Source: pkg/volume/{configmap,secret,downwardapi,projected}, pkg/volume/util/atomic_writer.go.

use super::{Fetched, PodView, TokenKey, field, refs::not_found};
use crate::model::{DesiredFile, DownwardFile, EnvValue, KeyToPath, ObjectRef, ProjectedSource};
use std::collections::BTreeMap;

/// With fsGroup a token is its group's alone to read (projected.go writes 0600, the group's right is added
/// when ownership is set: pkg/volume/volume_linux.go).
const TOKEN_MODE_WITH_GROUP: u32 = 0o640;
/// atomic_writer.go, maxPathLength.
const MAX_PATH: usize = 4096;

type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// All files sorted by path, or why there can be none yet: every reason, as kubelet joins them.
pub fn collect(pod: &PodView<'_>, sources: &[ProjectedSource], default_mode: u32) -> Result<Vec<DesiredFile>, String> {
    let mut files = Files::new();
    let mut trouble: Vec<String> = Vec::new();
    for source in sources {
        let outcome = match source {
            ProjectedSource::Object { object, items, optional } => {
                object_files(pod, object, items, *optional, default_mode)
            }
            ProjectedSource::Downward(items) => downward_files(pod, items, default_mode),
            ProjectedSource::ServiceAccountToken { path, audience, expiration_seconds } => {
                let key = TokenKey { audience: audience.clone(), expiration_seconds: *expiration_seconds };
                token_file(pod, path, &key, default_mode)
            }
        };
        match outcome {
            Ok(more) => files.extend(more),
            Err(why) if !trouble.contains(&why) => trouble.push(why),
            Err(_) => {}
        }
    }
    if trouble.is_empty() {
        trouble.extend(files.keys().filter_map(|path| unusable(path, &files)));
    }
    match trouble.as_slice() {
        [] => Ok(files.into_iter().map(|(path, (mode, content))| DesiredFile { path, mode, content }).collect()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn object_files(
    pod: &PodView<'_>,
    object: &ObjectRef,
    items: &[KeyToPath],
    optional: bool,
    default_mode: u32,
) -> Result<Files, String> {
    let content: Option<BTreeMap<&str, &[u8]>> = match object {
        ObjectRef::ConfigMap(name) => pod.refs.config_map(name)?.map(|object| {
            let binary = object.binary_data.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            binary.chain(object.data.iter().map(|(key, value)| (key.as_str(), value.as_bytes()))).collect()
        }),
        ObjectRef::Secret(name) => pod
            .refs
            .secret(name)?
            .map(|object| object.data.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect()),
    };
    let content = match content {
        Some(content) => content,
        None if optional => BTreeMap::new(),
        None => return Err(not_found(object)),
    };
    if items.is_empty() {
        let all = content.into_iter();
        return Ok(all.map(|(key, value)| (key.to_owned(), (default_mode, value.to_vec()))).collect());
    }
    let mut files = Files::new();
    for item in items {
        match content.get(item.key.as_str()) {
            Some(value) => {
                files.insert(cleaned(&item.path), (item.mode.unwrap_or(default_mode), value.to_vec()));
            }
            None if optional => {}
            None => {
                return Err(match object {
                    ObjectRef::ConfigMap(_) => format!("configmap references non-existent config key: {}", item.key),
                    ObjectRef::Secret(_) => format!("references non-existent secret key: {}", item.key),
                });
            }
        }
    }
    Ok(files)
}

fn downward_files(pod: &PodView<'_>, items: &[DownwardFile], default_mode: u32) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let text = match &item.value {
            EnvValue::Field(path) => field::pod_field(pod, path)?,
            EnvValue::ResourceField(resource) => field::resource_field(pod, None, resource)?,
            EnvValue::Literal(_) | EnvValue::ConfigMapKey { .. } | EnvValue::SecretKey { .. } => continue,
        };
        files.insert(cleaned(&item.path), (item.mode.unwrap_or(default_mode), text.into_bytes()));
    }
    Ok(files)
}

fn token_file(pod: &PodView<'_>, path: &str, key: &TokenKey, default_mode: u32) -> Result<Files, String> {
    let account = &pod.spec.service_account;
    let failed = |why: &str| format!("failed to fetch token: {why}");
    let token = match pod.refs.tokens.get(key) {
        Some(Fetched::Found(token)) => token.as_bytes().to_vec(),
        Some(Fetched::Missing) => return Err(failed(&format!("serviceaccounts \"{account}\" not found"))),
        Some(Fetched::Failed(why)) => return Err(failed(why)),
        None => return Err(failed(&format!("the API server has not answered for service account \"{account}\" yet"))),
    };
    let mode = if pod.spec.security.fs_group.is_some() { TOKEN_MODE_WITH_GROUP } else { default_mode };
    Ok(Files::from([(cleaned(path), (mode, token))]))
}

/// `./a//b` is `a/b`; `..` stays, and is refused later.
fn cleaned(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let absolute = if path.starts_with('/') { "/" } else { "" };
    format!("{absolute}{}", parts.join("/"))
}

/// Why a file can't be written: the API server has checked most of this, but content must never escape
/// its volume.
fn unusable(path: &str, files: &Files) -> Option<String> {
    let reason = if path.is_empty() || path.starts_with('/') {
        "must be a relative path"
    } else if path.len() > MAX_PATH {
        "is too long"
    } else if path.split('/').any(|part| part == "..") || path.starts_with("..") {
        "must not contain or start with '..'"
    } else if path.match_indices('/').any(|(at, _)| files.contains_key(&path[..at])) {
        "lies below what is a file"
    } else {
        return None;
    };
    Some(format!("invalid path \"{path}\": {reason}"))
}
