//! What a service proxy must know: ClusterIP Services and their endpoints.

use super::{ObjectName, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One Service port with the endpoints that traffic may go to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub service: ObjectName,
    /// The port's name, empty where there is but one.
    pub port_name: String,
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// Sorted, without repeats. Empty: connections are refused at once, as kube-proxy does.
    pub endpoints: Vec<Endpoint>,
    /// sessionAffinity ClientIP: its timeout.
    pub affinity_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}

/// Names one ServicePort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePortKey {
    pub service: ObjectName,
    pub port_name: String,
    pub protocol: Protocol,
}

impl ServicePort {
    pub fn key(&self) -> ServicePortKey {
        ServicePortKey { service: self.service.clone(), port_name: self.port_name.clone(), protocol: self.protocol }
    }
}

/// Brings a proxy from version `from` to version `to`. `from` 0 means: forget everything, this is all.
/// An agent whose version is not `from` ends its session, and gets everything on the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesUpdate {
    pub from: u64,
    pub to: u64,
    pub upsert: Vec<ServicePort>,
    pub remove: Vec<ServicePortKey>,
}
