//! What a Pod refers to, and what is known of it.

use crate::model::{EnvValue, ObjectRef, PodSpec, ProjectedSource, Protocol, VolumeSource};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMap {
    pub data: BTreeMap<String, String>,
    pub binary_data: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} keys)", self.data.len())
    }
}

/// What the API server said of an object.
#[derive(Clone, PartialEq, Eq)]
pub enum Fetched<T> {
    Found(Arc<T>),
    Missing,
    /// It could not be had, and why (forbidden, say); tried again all the while.
    Failed(String),
}

impl<T> fmt::Debug for Fetched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(_) => f.write_str("Found"),
            Self::Missing => f.write_str("Missing"),
            Self::Failed(why) => write!(f, "Failed({why})"),
        }
    }
}

/// Which token: all of a Pod's are for its service account and bound to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey {
    /// None: the API server's own audience.
    pub audience: Option<String>,
    pub expiration_seconds: u64,
}

/// A Service as far as environment variables tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLink {
    pub name: String,
    /// Headless Services have none and appear in no environment.
    pub cluster_ip: IpAddr,
    pub ports: Vec<ServiceLinkPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLinkPort {
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
}

/// What is known of all that a Pod refers to, in its own namespace. What is not in a map is not known yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refs {
    pub config_maps: BTreeMap<String, Fetched<ConfigMap>>,
    pub secrets: BTreeMap<String, Fetched<Secret>>,
    pub tokens: BTreeMap<TokenKey, Fetched<String>>,
    /// `default/kubernetes`: in every Pod's environment.
    pub kubernetes: Option<Arc<ServiceLink>>,
    /// The Services of the Pod's namespace; None until they have been listed once.
    pub services: Option<Vec<Arc<ServiceLink>>>,
}

impl Refs {
    /// Whether everything has been asked for and answered, be it with "there is none". Resolving earlier
    /// blocks containers that would not be blocked a moment later.
    pub fn answers(&self, needs: &Needs) -> bool {
        needs.config_maps.iter().all(|name| self.config_maps.contains_key(name))
            && needs.secrets.iter().all(|name| self.secrets.contains_key(name))
            && needs.tokens.iter().all(|key| self.tokens.contains_key(key))
            && self.services.is_some()
    }

    /// As kubelet words it: the object, None if it is missing, or an error.
    pub(super) fn config_map(&self, name: &str) -> Result<Option<&ConfigMap>, String> {
        look(self.config_maps.get(name), "configmap", name)
    }

    pub(super) fn secret(&self, name: &str) -> Result<Option<&Secret>, String> {
        look(self.secrets.get(name), "secret", name)
    }
}

fn look<'a, T>(known: Option<&'a Fetched<T>>, kind: &str, name: &str) -> Result<Option<&'a T>, String> {
    match known {
        Some(Fetched::Found(object)) => Ok(Some(object)),
        Some(Fetched::Missing) => Ok(None),
        Some(Fetched::Failed(why)) => Err(why.clone()),
        // The sentence of kubelet's watch-based managers.
        None => Err(format!("failed to sync {kind} cache: timed out waiting for the condition ({kind} \"{name}\")")),
    }
}

/// As the API server's NotFound error reads.
pub(super) fn not_found(object: &ObjectRef) -> String {
    match object {
        ObjectRef::ConfigMap(name) => format!("configmap \"{name}\" not found"),
        ObjectRef::Secret(name) => format!("secret \"{name}\" not found"),
    }
}

/// The objects that a Pod refers to, by name in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub tokens: BTreeSet<TokenKey>,
}

impl Needs {
    fn object(&mut self, object: &ObjectRef) {
        match object {
            ObjectRef::ConfigMap(name) => self.config_maps.insert(name.clone()),
            ObjectRef::Secret(name) => self.secrets.insert(name.clone()),
        };
    }
}

/// What must be watched for a Pod to be resolved, and to stay so.
pub fn needs(spec: &PodSpec) -> Needs {
    let mut needs = Needs::default();
    needs.secrets.extend(spec.image_pull_secrets.iter().cloned());
    for container in spec.init_containers.iter().chain(&spec.containers) {
        for from in &container.env_from {
            needs.object(&from.source);
        }
        for variable in &container.env {
            match &variable.value {
                EnvValue::ConfigMapKey { name, .. } => drop(needs.config_maps.insert(name.clone())),
                EnvValue::SecretKey { name, .. } => drop(needs.secrets.insert(name.clone())),
                EnvValue::Literal(_) | EnvValue::Field(_) | EnvValue::ResourceField(_) => {}
            }
        }
    }
    let sources = spec.volumes.iter().flat_map(|volume| match &volume.source {
        VolumeSource::Projected { sources, .. } => sources.as_slice(),
        VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } => &[],
    });
    for source in sources {
        match source {
            ProjectedSource::Object { object, .. } => needs.object(object),
            ProjectedSource::Downward(_) => {}
            ProjectedSource::ServiceAccountToken { audience, expiration_seconds, .. } => {
                let key = TokenKey { audience: audience.clone(), expiration_seconds: *expiration_seconds };
                needs.tokens.insert(key);
            }
        }
    }
    needs
}
