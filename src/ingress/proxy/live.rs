//! What requests are served by: one value, replaced as a whole.

use super::pool::{Endpoint, Endpoints};
use crate::ingress::backends::{BackendKey, Protocol};
use crate::ingress::table::Table;
use crate::ingress::world::Plan;
use rustls::sign::CertifiedKey;
use std::{collections::HashMap, sync::Arc};

/// An immutable picture; a request takes the newest one at its start.
#[derive(Default)]
pub struct Live {
    pub table: Arc<Table>,
    pub backends: HashMap<BackendKey, LiveBackend>,
    /// By host, or `*.` and a host's parent.
    pub certificates: HashMap<String, Arc<CertifiedKey>>,
}

#[derive(Clone)]
pub struct LiveBackend {
    pub protocol: Protocol,
    /// Not empty.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

impl Live {
    /// The same address of the same protocol is the same endpoint, whichever backends lead to it: the activator
    /// stands behind all Revisions at zero.
    pub fn of(plan: &Plan, endpoints: &Endpoints) -> Self {
        let live = |(key, resolved): (&BackendKey, &Result<_, _>)| {
            let backend: &crate::ingress::backends::Backend = resolved.as_ref().ok()?;
            let of = |address| endpoints.at(address, backend.protocol);
            let endpoints = backend.addresses.iter().map(of).collect();
            Some((key.clone(), LiveBackend { protocol: backend.protocol, endpoints }))
        };
        Self {
            table: Arc::clone(&plan.table),
            backends: plan.backends.iter().filter_map(live).collect(),
            certificates: plan.certificates.iter().map(|(host, key)| (host.clone(), Arc::clone(key))).collect(),
        }
    }
}
