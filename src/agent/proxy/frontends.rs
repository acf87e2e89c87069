//! Which address and port stands for which Service port, and what an update changes of that.
//!
//! A frontend is what a client dials. Two Services never share one for long, but while an address passes
//! from one to another an update may say so: the first by name has it then, and the other when it is gone.

use super::v4;
use crate::model::{Endpoint, Protocol, ServicePort, ServicePortKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    pub ip: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What stands behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// For a comment in the rules.
    pub name: String,
    pub endpoints: Vec<(Ipv4Addr, u16)>,
    pub affinity_seconds: Option<u32>,
}

/// A frontend before and after; None: there was, or is, none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub frontend: Frontend,
    pub old: Option<Backend>,
    pub new: Option<Backend>,
    /// The first frontend of its address, or the last one gone.
    pub ip_appears: bool,
    pub ip_vanishes: bool,
}

impl Change {
    /// Where UDP flows may be pinned to although they should not be (any more): endpoints that are gone,
    /// and the Service's own address, from when nothing translated it.
    pub fn misled_udp(&self) -> BTreeSet<Ipv4Addr> {
        if self.frontend.protocol != Protocol::Udp {
            return BTreeSet::new();
        }
        let endpoints = |backend: &Option<Backend>| -> BTreeSet<Ipv4Addr> {
            backend.iter().flat_map(|backend| &backend.endpoints).map(|(ip, _)| *ip).collect()
        };
        let (old, new) = (endpoints(&self.old), endpoints(&self.new));
        let mut misled: BTreeSet<_> = old.difference(&new).copied().collect();
        if old.is_empty() && !new.is_empty() {
            misled.insert(self.frontend.ip);
        }
        misled
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontends {
    claims: BTreeMap<Frontend, BTreeMap<ServicePortKey, Backend>>,
}

impl Frontends {
    pub fn of<'a>(ports: impl IntoIterator<Item = &'a ServicePort>) -> Self {
        let mut frontends = Self::default();
        ports.into_iter().for_each(|port| frontends.claim(port));
        frontends
    }

    /// Each frontend with what stands behind it.
    pub fn iter(&self) -> impl Iterator<Item = (Frontend, &Backend)> {
        self.claims.iter().filter_map(|(frontend, claims)| Some((*frontend, claims.values().next()?)))
    }

    fn get(&self, frontend: Frontend) -> Option<&Backend> {
        self.claims.get(&frontend)?.values().next()
    }

    fn has_ip(&self, ip: Ipv4Addr) -> bool {
        let first = Frontend { ip, protocol: Protocol::Tcp, port: 0 };
        let last = Frontend { ip, protocol: Protocol::Sctp, port: u16::MAX };
        self.claims.range(first..=last).next().is_some()
    }

    /// Takes out what was there before and puts in what is there now; says which frontends that changes.
    pub fn change(&mut self, before: &[ServicePort], after: &[ServicePort]) -> Vec<Change> {
        let touched: BTreeSet<_> = before.iter().chain(after).filter_map(frontend).collect();
        let old: Vec<_> = touched.iter().map(|f| (*f, self.get(*f).cloned(), self.has_ip(f.ip))).collect();
        before.iter().for_each(|port| self.release(port));
        after.iter().for_each(|port| self.claim(port));
        let changes = old.into_iter().map(|(frontend, old, had_ip)| {
            let has_ip = self.has_ip(frontend.ip);
            Change {
                frontend,
                old,
                new: self.get(frontend).cloned(),
                ip_appears: has_ip && !had_ip,
                ip_vanishes: had_ip && !has_ip,
            }
        });
        changes.filter(|change| change.old != change.new).collect()
    }

    /// What differs in another set, for what follows a replacement.
    pub fn towards(&self, other: &Self) -> Vec<Change> {
        let all: BTreeSet<_> = self.claims.keys().chain(other.claims.keys()).copied().collect();
        let changes = all.into_iter().map(|frontend| Change {
            frontend,
            old: self.get(frontend).cloned(),
            new: other.get(frontend).cloned(),
            ip_appears: other.has_ip(frontend.ip) && !self.has_ip(frontend.ip),
            ip_vanishes: self.has_ip(frontend.ip) && !other.has_ip(frontend.ip),
        });
        changes.filter(|change| change.old != change.new).collect()
    }

    fn claim(&mut self, port: &ServicePort) {
        if let Some(frontend) = frontend(port) {
            self.claims.entry(frontend).or_default().insert(port.key(), backend(port));
        }
    }

    fn release(&mut self, port: &ServicePort) {
        let Some(frontend) = frontend(port) else { return };
        if let Some(claims) = self.claims.get_mut(&frontend) {
            claims.remove(&port.key());
            if claims.is_empty() {
                self.claims.remove(&frontend);
            }
        }
    }
}

fn frontend(port: &ServicePort) -> Option<Frontend> {
    Some(Frontend { ip: v4(port.cluster_ip)?, protocol: port.protocol, port: port.port })
}

fn backend(port: &ServicePort) -> Backend {
    let endpoints = port.endpoints.iter().filter_map(|Endpoint { ip, port }| Some((v4(*ip)?, *port)));
    let mut name = format!("{}:{}", port.service, port.port_name);
    name.truncate(name.trim_end_matches(':').len());
    Backend { name, endpoints: endpoints.collect(), affinity_seconds: port.affinity_seconds }
}
