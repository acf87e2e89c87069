//! Everything the gateway knows, and what follows from it. Pure: changes in, a plan out.
//!
//! An Ingress's new generation takes over when all that it needs is there; until then the one before is served on,
//! so that a rollout has no gap. If there was none before (a new Ingress, or a gateway that has just started), it
//! is served as it is: part of it may work.

use super::backends::{Backend, BackendKey, Directory, Missing};
use super::spec::{Ingress, IngressSpec, IngressStatus};
use super::status::{Addresses, Progress, desired_status};
use super::table::{Compiled, Owner, Refusal, Table, Taken, compile, merge};
use crate::model::ObjectName;
use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a Secret that an Ingress names for TLS turned out to hold.
#[derive(Clone, Debug)]
pub enum Certificate {
    Usable(Arc<CertifiedKey>),
    Missing,
    Unusable(String),
}

#[derive(Default)]
pub struct World {
    pub directory: Directory,
    /// Those that Ingresses name and that were looked up.
    pub certificates: BTreeMap<ObjectName, Certificate>,
    ingresses: BTreeMap<ObjectName, Known>,
    /// Who serves what has changed: the table must be built anew.
    rebuild: bool,
    table: Arc<Table>,
    taken: BTreeMap<ObjectName, Taken>,
}

struct Known {
    uid: String,
    generation: i64,
    resource_version: String,
    created: i64,
    spec: IngressSpec,
    status: IngressStatus,
    wanted: Result<Arc<Compiled>, Refusal>,
    serving: Option<Serving>,
}

struct Serving {
    generation: i64,
    compiled: Arc<Compiled>,
}

/// What the data plane should do now.
pub struct Plan {
    pub table: Arc<Table>,
    pub backends: BTreeMap<BackendKey, Result<Backend, Missing>>,
    /// By host.
    pub certificates: BTreeMap<String, Arc<CertifiedKey>>,
    /// The Secrets to be watched.
    pub secrets: BTreeSet<ObjectName>,
}

/// A status to be written under the version it was derived from.
#[derive(Debug, PartialEq, Eq)]
pub struct StatusWrite {
    pub name: ObjectName,
    pub uid: String,
    pub resource_version: String,
    pub status: IngressStatus,
}

impl World {
    pub fn new(cluster_domain: String) -> Self {
        let directory = Directory { cluster_domain, ..Directory::default() };
        Self { directory, ..Self::default() }
    }

    /// An Ingress of our class.
    pub fn see(&mut self, name: ObjectName, ingress: Ingress) {
        let meta = ingress.metadata;
        let uid = meta.uid.unwrap_or_default();
        let before = self.ingresses.remove(&name);
        // An object of the same name that was made anew inherits nothing.
        let before = before.filter(|before| before.uid == uid);
        self.rebuild |= before.is_none();
        let wanted = match &before {
            Some(before) if before.spec == ingress.spec => before.wanted.clone(),
            _ => compile(&name, &ingress.spec).map(Arc::new),
        };
        let known = Known {
            uid,
            generation: meta.generation.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            created: meta.creation_timestamp.map_or(0, |time| time.0.as_second()),
            spec: ingress.spec,
            status: ingress.status,
            wanted,
            serving: before.and_then(|before| before.serving),
        };
        self.ingresses.insert(name, known);
    }

    /// An Ingress that is gone, or no longer of our class.
    pub fn forget(&mut self, name: &ObjectName) {
        self.rebuild |= self.ingresses.remove(name).is_some();
    }

    pub fn ingresses(&self) -> usize {
        self.ingresses.len()
    }

    /// Moves every Ingress as far as it can go.
    pub fn plan(&mut self) -> Plan {
        for known in self.ingresses.values_mut() {
            let Ok(wanted) = &known.wanted else { continue };
            let ready = lacks(wanted, &self.directory, &self.certificates).is_none();
            match &mut known.serving {
                Some(serving) if Arc::ptr_eq(&serving.compiled, wanted) => serving.generation = known.generation,
                Some(_) if !ready => {}
                _ => {
                    known.serving = Some(Serving { generation: known.generation, compiled: Arc::clone(wanted) });
                    self.rebuild = true;
                }
            }
        }
        if std::mem::take(&mut self.rebuild) {
            let owners: Vec<Owner> = self.ingresses.values().filter_map(owner).collect();
            let (table, taken) = merge(&owners);
            (self.table, self.taken) = (Arc::new(table), taken);
        }
        let compiled = || {
            let of = |known: &Known| {
                let serving = known.serving.as_ref().map(|serving| Arc::clone(&serving.compiled));
                serving.into_iter().chain(known.wanted.clone().ok()).collect::<Vec<_>>()
            };
            self.ingresses.values().flat_map(of)
        };
        let mut plan = Plan {
            table: Arc::clone(&self.table),
            backends: BTreeMap::new(),
            certificates: BTreeMap::new(),
            secrets: BTreeSet::new(),
        };
        for compiled in compiled() {
            for key in &compiled.backends {
                if !plan.backends.contains_key(key) {
                    plan.backends.insert(key.clone(), self.directory.resolve(key));
                }
            }
            for (host, secret) in &compiled.certificates {
                plan.secrets.insert(secret.clone());
                if let Some(Certificate::Usable(key)) = self.certificates.get(secret) {
                    plan.certificates.entry(host.clone()).or_insert_with(|| Arc::clone(key));
                }
            }
        }
        plan
    }

    /// The statuses to be written, once the last plan is what requests meet.
    pub fn statuses(&self, addresses: &Addresses, now: Timestamp) -> Vec<StatusWrite> {
        let write = |(name, known): (&ObjectName, &Known)| {
            let progress = self.progress(name, known);
            let status = desired_status(&known.status, known.generation, &progress, addresses, now)?;
            Some(StatusWrite {
                name: name.clone(),
                uid: known.uid.clone(),
                resource_version: known.resource_version.clone(),
                status,
            })
        };
        self.ingresses.iter().filter_map(write).collect()
    }

    fn progress(&self, name: &ObjectName, known: &Known) -> Progress {
        let wanted = match &known.wanted {
            Ok(wanted) => wanted,
            Err(refusal) => return Progress::Refused { reason: "InvalidSpec", message: refusal.to_string() },
        };
        if let Some(taken) = self.taken.get(name) {
            return Progress::Refused { reason: "HostTaken", message: taken.to_string() };
        }
        match lacks(wanted, &self.directory, &self.certificates) {
            Some(Lack::Backend(Missing::Tls(key))) => {
                Progress::Refused { reason: "BackendTls", message: Missing::Tls(key).to_string() }
            }
            Some(Lack::Backend(missing)) => Progress::Waiting { message: missing.to_string() },
            Some(Lack::Certificate(message)) => Progress::Waiting { message },
            None if known.serving.as_ref().is_some_and(|serving| serving.generation == known.generation) => {
                Progress::Serving
            }
            None => Progress::Waiting { message: "not served yet".to_owned() },
        }
    }
}

enum Lack {
    Backend(Missing),
    Certificate(String),
}

/// What this Ingress needs and isn't there.
fn lacks(compiled: &Compiled, directory: &Directory, certificates: &BTreeMap<ObjectName, Certificate>) -> Option<Lack> {
    let secrets: BTreeSet<&ObjectName> = compiled.certificates.values().collect();
    let certificate = |secret: &&ObjectName| match certificates.get(*secret) {
        Some(Certificate::Usable(_)) => None,
        Some(Certificate::Unusable(why)) => {
            Some(format!("Secret {}/{} can't be used for TLS: {why}", secret.namespace, secret.name))
        }
        Some(Certificate::Missing) => Some(format!("Secret {}/{} does not exist", secret.namespace, secret.name)),
        None => Some(format!("Secret {}/{} has not been read yet", secret.namespace, secret.name)),
    };
    let backend = compiled.backends.iter().find_map(|key| directory.resolve(key).err());
    backend.map(Lack::Backend).or_else(|| secrets.iter().find_map(certificate).map(Lack::Certificate))
}

fn owner(known: &Known) -> Option<Owner> {
    let serving = known.serving.as_ref()?;
    Some(Owner { created: known.created, compiled: Arc::clone(&serving.compiled) })
}
