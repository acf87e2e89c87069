//! Services and EndpointSlices to the endpoints of a backend. Pure.
//!
//! Ready addresses only, straight from the slices. The protocol is the Service port's: HTTP/2 without TLS if its
//! appProtocol is `kubernetes.io/h2c` or its name says so, HTTP/1.1 otherwise. An ExternalName within the cluster
//! (Knative's DomainMappings make those: a host is rewritten and comes back in by the gateway's own Service) is
//! followed to that Service; one outside is left to DNS.

use super::spec::PortRef;
use crate::model::ObjectName;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

/// An ExternalName may name another one; not without end.
const MOST_NAMES: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub service: ObjectName,
    pub port: PortRef,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.service.namespace, self.service.name, self.port)
    }
}

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    /// The addresses of slices of the other family are the same Pods again.
    pub ipv6: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub number: u16,
    pub app_protocol: Option<String>,
}

/// What is kept of an EndpointSlice: the ready addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub service: ObjectName,
    pub ports: Vec<(String, u16)>,
    pub ready: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    H2c,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Socket(SocketAddr),
    /// To be looked up at each connection.
    Name(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub protocol: Protocol,
    /// Sorted, each once.
    pub addresses: Vec<Address>,
}

/// Why a backend has no endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("Service {}/{} does not exist", .0.namespace, .0.name)]
    Service(ObjectName),
    #[error("Service {}/{} has no port {}", .0.service.namespace, .0.service.name, .0.port)]
    Port(BackendKey),
    #[error("Service {}/{} has no ready endpoint", .0.namespace, .0.name)]
    Endpoint(ObjectName),
    #[error("Service {}/{} leads through more than {MOST_NAMES} ExternalNames", .0.namespace, .0.name)]
    Names(ObjectName),
    /// Will not come by waiting.
    #[error("port {} of Service {}/{} speaks TLS: encryption between gateway and backends is not supported",
        .0.port, .0.service.namespace, .0.service.name)]
    Tls(BackendKey),
}

/// The Services and slices of the cluster, as far as they matter here.
#[derive(Default)]
pub struct Directory {
    pub services: BTreeMap<ObjectName, Service>,
    /// By the name of the Service, then of the slice.
    pub slices: BTreeMap<ObjectName, BTreeMap<String, Slice>>,
    /// `cluster.local`
    pub cluster_domain: String,
}

impl Directory {
    pub fn resolve(&self, key: &BackendKey) -> Result<Backend, Missing> {
        let mut key = key.clone();
        let asked = key.service.clone();
        for _ in 0..MOST_NAMES {
            let service = self.services.get(&key.service).ok_or_else(|| Missing::Service(key.service.clone()))?;
            let Some(name) = &service.external_name else { return self.endpoints(&key, service) };
            let port = external_port(service, &key)?;
            match self.in_cluster(name) {
                Some(service) => key = BackendKey { service, port: PortRef::Number(i32::from(port)) },
                None => {
                    let protocol = service.ports.iter().find(|p| p.number == port).map_or(Protocol::Http1, protocol);
                    return Ok(Backend { protocol, addresses: vec![Address::Name(name.clone(), port)] });
                }
            }
        }
        Err(Missing::Names(asked))
    }

    fn endpoints(&self, key: &BackendKey, service: &Service) -> Result<Backend, Missing> {
        let port = find_port(service, &key.port).ok_or_else(|| Missing::Port(key.clone()))?;
        if port.name == "https" || port.app_protocol.as_deref().is_some_and(|p| p.eq_ignore_ascii_case("https")) {
            return Err(Missing::Tls(key.clone()));
        }
        let mut addresses: Vec<Address> = Vec::new();
        for slice in self.slices.get(&key.service).into_iter().flat_map(BTreeMap::values) {
            let Some((_, number)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
            let family = slice.ready.iter().filter(|ip| ip.is_ipv6() == service.ipv6);
            addresses.extend(family.map(|ip| Address::Socket(SocketAddr::new(*ip, *number))));
        }
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(Missing::Endpoint(key.service.clone()));
        }
        Ok(Backend { protocol: protocol(port), addresses })
    }

    /// `name.namespace.svc` with or without the cluster's domain, if there is such a Service.
    fn in_cluster(&self, name: &str) -> Option<ObjectName> {
        let name = name.trim_end_matches('.');
        let short = name.strip_suffix(&self.cluster_domain).and_then(|n| n.strip_suffix('.')).unwrap_or(name);
        let (service, namespace) = short.strip_suffix(".svc")?.split_once('.')?;
        let found = ObjectName::new(namespace, service);
        self.services.contains_key(&found).then_some(found)
    }
}

fn find_port<'a>(service: &'a Service, wanted: &PortRef) -> Option<&'a ServicePort> {
    service.ports.iter().find(|port| match wanted {
        PortRef::Number(number) => i32::from(port.number) == *number,
        PortRef::Name(name) => port.name == *name,
    })
}

/// An ExternalName needs no list of ports: a number is then the port itself.
fn external_port(service: &Service, key: &BackendKey) -> Result<u16, Missing> {
    if let Some(port) = find_port(service, &key.port) {
        return Ok(port.number);
    }
    match &key.port {
        PortRef::Number(number) if service.ports.is_empty() => {
            u16::try_from(*number).map_err(|_| Missing::Port(key.clone()))
        }
        _ => Err(Missing::Port(key.clone())),
    }
}

fn protocol(port: &ServicePort) -> Protocol {
    let by_app = match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => Some(Protocol::H2c),
        Some("http") => Some(Protocol::Http1),
        _ => None,
    };
    // Knative's own Services are named http2; h2c is how others name it.
    by_app.unwrap_or_else(|| match port.name.split('-').next() {
        Some("http2" | "h2c" | "grpc") => Protocol::H2c,
        _ => Protocol::Http1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ports: &[(&str, u16, Option<&str>)]) -> Service {
        let port = |(name, number, app): &(&str, u16, Option<&str>)| ServicePort {
            name: (*name).to_owned(),
            number: *number,
            app_protocol: app.map(str::to_owned),
        };
        Service { external_name: None, ports: ports.iter().map(port).collect(), ipv6: false }
    }

    fn external(name: &str) -> Service {
        Service { external_name: Some(name.to_owned()), ..service(&[]) }
    }

    fn slice(of: &str, ports: &[(&str, u16)], ready: &[&str]) -> Slice {
        Slice {
            service: ObjectName::new("ns", of),
            ports: ports.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect(),
            ready: ready.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn directory(services: &[(&str, Service)], slices: &[Slice]) -> Directory {
        let mut directory = Directory { cluster_domain: "cluster.local".to_owned(), ..Directory::default() };
        for (name, service) in services {
            directory.services.insert(ObjectName::new("ns", *name), service.clone());
        }
        for (index, slice) in slices.iter().enumerate() {
            let of = directory.slices.entry(slice.service.clone()).or_default();
            of.insert(index.to_string(), slice.clone());
        }
        directory
    }

    fn key(service: &str, port: i32) -> BackendKey {
        BackendKey { service: ObjectName::new("ns", service), port: PortRef::Number(port) }
    }

    fn sockets(backend: &Backend) -> Vec<String> {
        backend.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_ready_addresses_of_all_slices_are_the_endpoints_each_once() {
        let slices = [
            slice("a", &[("http", 8080), ("other", 1)], &["10.0.0.2", "10.0.0.1"]),
            slice("a", &[("http", 9090)], &["10.0.0.3"]),
            slice("a", &[("http", 8080)], &["10.0.0.1", "fd00::1"]),
            slice("b", &[("http", 8080)], &["10.0.0.9"]),
        ];
        let directory = directory(&[("a", service(&[("http", 80, None)]))], &slices);
        let backend = directory.resolve(&key("a", 80)).unwrap();
        assert_eq!(sockets(&backend), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090"]);
        let by_name = BackendKey { port: PortRef::Name("http".to_owned()), ..key("a", 0) };
        assert_eq!(directory.resolve(&by_name).unwrap(), backend);
    }

    #[test]
    fn the_protocol_is_the_ports() {
        for (name, app, expected) in [
            ("http", None, Protocol::Http1),
            ("", None, Protocol::Http1),
            ("http2", None, Protocol::H2c),
            ("h2c", None, Protocol::H2c),
            ("grpc-api", None, Protocol::H2c),
            ("http", Some("kubernetes.io/h2c"), Protocol::H2c),
            ("http2", Some("http"), Protocol::Http1),
        ] {
            let slices = [slice("a", &[(name, 1)], &["10.0.0.1"])];
            let directory = directory(&[("a", service(&[(name, 80, app)]))], &slices);
            assert_eq!(directory.resolve(&key("a", 80)).unwrap().protocol, expected, "{name} {app:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let services = [
            ("a", service(&[("http", 80, None), ("https", 443, None)])),
            ("loop", external("loop.ns.svc.cluster.local")),
        ];
        let directory = directory(&services, &[slice("a", &[("http", 8080)], &[])]);
        let missing = |key: &BackendKey| directory.resolve(key).unwrap_err();
        assert_eq!(missing(&key("none", 80)), Missing::Service(ObjectName::new("ns", "none")));
        assert_eq!(missing(&key("a", 81)), Missing::Port(key("a", 81)));
        assert_eq!(missing(&key("a", 80)), Missing::Endpoint(ObjectName::new("ns", "a")));
        assert_eq!(missing(&key("a", 443)), Missing::Tls(key("a", 443)));
        assert_eq!(missing(&key("loop", 80)), Missing::Names(ObjectName::new("ns", "loop")));
    }

    #[test]
    fn an_external_name_in_the_cluster_is_followed_and_another_is_left_to_dns() {
        let services = [
            ("in", external("a.ns.svc.cluster.local")),
            ("short", external("a.ns.svc")),
            ("out", external("www.example.com")),
            ("gone", external("nobody.ns.svc.cluster.local")),
            ("a", service(&[("http2", 80, None)])),
        ];
        let directory = directory(&services, &[slice("a", &[("http2", 8081)], &["10.0.0.1"])]);
        for name in ["in", "short"] {
            let backend = directory.resolve(&key(name, 80)).unwrap();
            assert_eq!((sockets(&backend), backend.protocol), (vec!["10.0.0.1:8081".to_owned()], Protocol::H2c));
        }
        assert_eq!(sockets(&directory.resolve(&key("out", 80)).unwrap()), ["www.example.com:80"]);
        assert_eq!(sockets(&directory.resolve(&key("gone", 80)).unwrap()), ["nobody.ns.svc.cluster.local:80"]);
    }
}
