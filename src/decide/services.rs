//! Services and EndpointSlices -> what the service proxies must know, whole and in increments.
//!
//! In: plain [`Service`]s and [`Slice`]s. Out: [`service_ports`]'s set of [`ServicePort`]s, and
//! [`ServicesState`], which both ends keep: the provider's [`ServicesState::advance`] makes a
//! [`ServicesUpdate`], an agent's [`ServicesState::apply`] takes it.
//!
//! ```text
//!  provider: set ──advance()──> update {from: v, to: v+1} ──> agent at v ──apply()──> v+1
//!                                                             agent elsewhere ──> NotNext: it asks for all
//!            whole() ──> update {from: 0, to: v} ───────────> any agent ──apply()──> v
//! ```
//!
//! The rules are kube-proxy's (pkg/proxy/topology.go, CategorizeEndpoints; endpointslicecache.go): ready
//! endpoints, or if none is ready those that still serve while they terminate. What differs:
//!
//! - IPv4 alone. Zone hints and trafficDistribution are not looked at: all endpoints are equal.
//! - internalTrafficPolicy Local means the endpoints on this provider's own nodes: every agent gets the
//!   same set, so "this instance alone" can't be said; what runs on other machines is never chosen.
//! - Node ports, external IPs and load balancers' addresses are no business of an instance's.

use crate::model::{Endpoint, NodeName, ObjectName, Protocol, ServicePort, ServicePortKey, ServicesUpdate};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A Service, as far as a proxy cares. The adapter leaves out those that name another proxy
/// (label service.kubernetes.io/service-proxy-name) and those of type ExternalName.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ObjectName,
    /// spec.clusterIPs; empty for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    /// sessionAffinity ClientIP's timeout.
    pub affinity_seconds: Option<u32>,
    /// internalTrafficPolicy Local.
    pub local_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty where there is but one.
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
}

/// An EndpointSlice of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The namespace, and the label kubernetes.io/service-name.
    pub service: ObjectName,
    /// `port` is the endpoints' own.
    pub ports: Vec<Port>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// addresses[0]: the others mean the same endpoint, and nobody uses them.
    pub ip: IpAddr,
    pub node: Option<NodeName>,
    /// conditions.ready; true where it says nothing.
    pub ready: bool,
    /// conditions.serving; as ready where it says nothing.
    pub serving: bool,
    pub terminating: bool,
}

/// Every Service port with the endpoints that traffic may go to now. `own_nodes`: this provider's.
pub fn service_ports<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a Slice>,
    own_nodes: &BTreeSet<NodeName>,
) -> BTreeMap<ServicePortKey, ServicePort> {
    let mut by_service: BTreeMap<&ObjectName, Vec<&Slice>> = BTreeMap::new();
    for slice in slices {
        by_service.entry(&slice.service).or_default().push(slice);
    }
    let mut ports = BTreeMap::new();
    for service in services {
        let Some(cluster_ip) = service.cluster_ips.iter().find(|ip| ip.is_ipv4()) else { continue };
        let slices = by_service.get(&service.name).map(Vec::as_slice).unwrap_or_default();
        for port in &service.ports {
            let port = ServicePort {
                service: service.name.clone(),
                port_name: port.name.clone(),
                cluster_ip: *cluster_ip,
                port: port.port,
                protocol: port.protocol,
                endpoints: endpoints(service, port, slices, own_nodes),
                affinity_seconds: service.affinity_seconds,
            };
            ports.insert(port.key(), port);
        }
    }
    ports
}

/// Sorted, without repeats.
fn endpoints(service: &Service, port: &Port, slices: &[&Slice], own_nodes: &BTreeSet<NodeName>) -> Vec<Endpoint> {
    let mut ready = BTreeSet::new();
    let mut draining = BTreeSet::new();
    for slice in slices {
        // A slice's port belongs to the Service's port of the same name and protocol.
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for target in ports {
            let usable = slice.endpoints.iter().filter(|endpoint| endpoint.ip.is_ipv4()).filter(|endpoint| {
                !service.local_only || endpoint.node.as_ref().is_some_and(|node| own_nodes.contains(node))
            });
            for endpoint in usable {
                let at = Endpoint { ip: endpoint.ip, port: target.port };
                if endpoint.ready {
                    ready.insert(at);
                } else if endpoint.serving && endpoint.terminating {
                    draining.insert(at);
                }
            }
        }
    }
    let chosen = if ready.is_empty() { draining } else { ready };
    chosen.into_iter().collect()
}

/// A set of Service ports with a version, the same at both ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesState {
    version: u64,
    ports: BTreeMap<ServicePortKey, ServicePort>,
}

/// An update for somebody who is at another version: whoever sees it must ask for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("services are at version {at}, but the update is from {from} to {to}")]
pub struct NotNext {
    pub at: u64,
    pub from: u64,
    pub to: u64,
}

impl ServicesState {
    /// A provider's state. `version` is above 0 and one that no earlier process gave to anything else (the
    /// time in milliseconds, say): agents that outlive a provider compare versions alone.
    pub fn starting_at(version: u64) -> Self {
        Self { version: version.max(1), ports: BTreeMap::new() }
    }

    /// 0: nothing is known.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn ports(&self) -> &BTreeMap<ServicePortKey, ServicePort> {
        &self.ports
    }

    /// Takes up a new set and says what brings others there. None if nothing changed.
    pub fn advance(&mut self, new: BTreeMap<ServicePortKey, ServicePort>) -> Option<ServicesUpdate> {
        let upsert: Vec<_> = new.iter().filter(|(key, port)| self.ports.get(*key) != Some(*port)).collect();
        let upsert: Vec<ServicePort> = upsert.into_iter().map(|(_, port)| port.clone()).collect();
        let remove: Vec<_> = self.ports.keys().filter(|key| !new.contains_key(*key)).cloned().collect();
        if upsert.is_empty() && remove.is_empty() {
            return None;
        }
        let from = self.version;
        self.version += 1;
        self.ports = new;
        Some(ServicesUpdate { from, to: self.version, upsert, remove })
    }

    /// Everything, for one who has nothing or something else.
    pub fn whole(&self) -> ServicesUpdate {
        ServicesUpdate { from: 0, to: self.version, upsert: self.ports.values().cloned().collect(), remove: Vec::new() }
    }

    /// Takes an update; on an error nothing has changed.
    pub fn apply(&mut self, update: &ServicesUpdate) -> Result<(), NotNext> {
        if update.from == 0 {
            self.ports.clear();
        } else if update.from != self.version {
            return Err(NotNext { at: self.version, from: update.from, to: update.to });
        }
        for key in &update.remove {
            self.ports.remove(key);
        }
        self.ports.extend(update.upsert.iter().map(|port| (port.key(), port.clone())));
        self.version = update.to;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
