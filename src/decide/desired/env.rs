//! A container's environment.
//!
//! Services come first, envFrom over them, env over both; `$(NAME)` in a value sees what stands before it.
//! Source: kubelet_pods.go, makeEnvironmentVariables; pkg/kubelet/envvars.

use super::{PodView, ServiceLink, expand::expand, field, refs::not_found};
use crate::model::{ContainerSpec, EnvFrom, EnvValue, ObjectRef, Protocol};
use std::collections::{BTreeMap, BTreeSet};

/// Variables by name, in a stable order.
#[derive(Default)]
pub struct Environment {
    /// Of Services: seen, but overridden by all else.
    services: BTreeMap<String, String>,
    own: BTreeMap<String, String>,
    /// The names in `own`, in the order they first appeared.
    order: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.own.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn get(&self, name: &str) -> Option<&String> {
        self.own.get(name).or_else(|| self.services.get(name))
    }

    /// A reference to what isn't there stays as it is written.
    pub fn expand(&self, text: &str) -> String {
        expand(text, |name| self.get(name).cloned().unwrap_or_else(|| format!("$({name})")))
    }

    /// A reference to what isn't there, or is empty, is an error (container/helpers.go,
    /// ExpandContainerVolumeMounts).
    pub fn expand_strictly(&self, text: &str) -> Result<String, String> {
        let mut missing = BTreeSet::new();
        let expanded = expand(text, |name| {
            let value = self.get(name).cloned().unwrap_or_default();
            if value.is_empty() {
                missing.insert(name.to_owned());
            }
            value
        });
        if missing.is_empty() {
            Ok(expanded)
        } else {
            Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", ")))
        }
    }

    pub fn pairs(&self) -> Vec<(String, String)> {
        let services = self.services.iter().filter(|(name, _)| !self.own.contains_key(*name));
        let own = self.order.iter().filter_map(|name| self.own.get_key_value(name));
        services.chain(own).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

pub fn environment(pod: &PodView<'_>, container: &ContainerSpec) -> Result<Environment, String> {
    let refs = pod.refs;
    let Some(services) = &refs.services else {
        return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
    };
    let mut environment = Environment::default();
    // A namespace's own Service of that name would take its place, as it does in kubelet's map.
    let in_default = pod.intent.name.namespace == "default";
    if let Some(service) = &refs.kubernetes {
        service_variables(service, &mut environment.services);
    }
    if pod.spec.enable_service_links {
        for service in services.iter().filter(|service| !(in_default && service.name == "kubernetes")) {
            service_variables(service, &mut environment.services);
        }
    }
    for from in &container.env_from {
        for (name, value) in whole_object(pod, from)? {
            environment.set(&format!("{}{name}", from.prefix), value);
        }
    }
    for variable in &container.env {
        if let Some(value) = value(pod, container, &environment, &variable.value)? {
            environment.set(&variable.name, value);
        }
    }
    Ok(environment)
}

/// None: optional and not there, so the variable is not set.
fn value(
    pod: &PodView<'_>,
    container: &ContainerSpec,
    environment: &Environment,
    value: &EnvValue,
) -> Result<Option<String>, String> {
    let namespace = &pod.intent.name.namespace;
    match value {
        EnvValue::Literal(text) => Ok(Some(environment.expand(text))),
        EnvValue::Field(path) => field::pod_field(pod, path).map(Some),
        EnvValue::ResourceField(field) => field::resource_field(pod, Some(container), field).map(Some),
        EnvValue::ConfigMapKey { name, key, optional } => match pod.refs.config_map(name)? {
            None if *optional => Ok(None),
            None => Err(not_found(&ObjectRef::ConfigMap(name.clone()))),
            Some(object) => match object.data.get(key) {
                Some(value) => Ok(Some(value.clone())),
                None if *optional => Ok(None),
                None => Err(format!("couldn't find key {key} in ConfigMap {namespace}/{name}")),
            },
        },
        EnvValue::SecretKey { name, key, optional } => match pod.refs.secret(name)? {
            None if *optional => Ok(None),
            None => Err(not_found(&ObjectRef::Secret(name.clone()))),
            Some(object) => match object.data.get(key) {
                Some(value) => text(value, namespace, name, key).map(Some),
                None if *optional => Ok(None),
                None => Err(format!("couldn't find key {key} in Secret {namespace}/{name}")),
            },
        },
    }
}

fn whole_object(pod: &PodView<'_>, from: &EnvFrom) -> Result<Vec<(String, String)>, String> {
    let namespace = &pod.intent.name.namespace;
    let pairs = match &from.source {
        ObjectRef::ConfigMap(name) => pod.refs.config_map(name)?.map(|object| {
            let pairs = object.data.iter().map(|(key, value)| (key.clone(), value.clone()));
            Ok(pairs.collect())
        }),
        ObjectRef::Secret(name) => pod.refs.secret(name)?.map(|object| {
            let pairs = object.data.iter();
            pairs.map(|(key, value)| Ok((key.clone(), text(value, namespace, name, key)?))).collect()
        }),
    };
    match pairs {
        Some(pairs) => pairs,
        None if from.optional => Ok(Vec::new()),
        None => Err(not_found(&from.source)),
    }
}

/// CRI carries environments as text: bytes that are none could not be passed on.
fn text(bytes: &[u8], namespace: &str, name: &str, key: &str) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| format!("key {key} in Secret {namespace}/{name} is not UTF-8 text: it can't be in an environment"))
}

fn service_variables(service: &ServiceLink, into: &mut BTreeMap<String, String>) {
    let name = variable_name(&service.name);
    let ip = service.cluster_ip;
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    into.insert(format!("{name}_SERVICE_HOST"), ip.to_string());
    for (index, port) in service.ports.iter().enumerate() {
        let number = port.port;
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let url = format!("{protocol}://{host}:{number}");
        if index == 0 {
            into.insert(format!("{name}_SERVICE_PORT"), number.to_string());
            into.insert(format!("{name}_PORT"), url.clone());
        }
        if !port.name.is_empty() {
            into.insert(format!("{name}_SERVICE_PORT_{}", variable_name(&port.name)), number.to_string());
        }
        let prefix = format!("{name}_PORT_{number}_{}", protocol.to_uppercase());
        into.insert(format!("{prefix}_PROTO"), protocol.to_owned());
        into.insert(format!("{prefix}_PORT"), number.to_string());
        into.insert(format!("{prefix}_ADDR"), ip.to_string());
        into.insert(prefix, url);
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}
