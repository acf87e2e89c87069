//! The controller: watches in, the data plane and the statuses out.
//!
//! One task. Changes are taken up in batches (SETTLE); each batch makes one plan, which is published as a whole;
//! then the statuses that differ are written, a few at a time, each under the version it was derived from: a write
//! that came too late fails, and the watch brings what it missed.

use super::backends::{Service, ServicePort, Slice};
use super::proxy::{Endpoints, Live, Metrics};
use super::secrets::Secrets;
use super::spec::{CLASS_ANNOTATION, Ingress};
use super::status::Addresses;
use super::world::{Certificate, StatusWrite, World};
use crate::kube::watched::{Change, Feed, name};
use crate::model::ObjectName;
use crate::retry::Backoff;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use rustls::crypto::CryptoProvider;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes come in bursts. Short: it is part of how long a new endpoint waits for its first request.
const SETTLE: Duration = Duration::from_millis(5);
/// Status writes under way at once.
const WRITES: usize = 8;
const SWEEP: Duration = Duration::from_secs(15);

pub struct Config {
    pub class: String,
    pub cluster_domain: String,
    pub addresses: Addresses,
}

/// Runs until cancelled. `live` gets every picture; `synced` is told once the first complete one is published: with
/// all certificates, unless they can't be read within SWEEP.
pub async fn run(
    client: Client,
    config: Config,
    crypto: Arc<CryptoProvider>,
    live: watch::Sender<Arc<Live>>,
    metrics: Metrics,
    synced: watch::Sender<bool>,
    cancel: CancellationToken,
) {
    let mut ingresses = Feed::new(Api::<Ingress>::all(client.clone()), watcher::Config::default());
    let mut services = Feed::new(Api::<core::Service>::all(client.clone()), watcher::Config::default());
    // Headless Services' slices and those of others are small, and any may be asked for by the next Ingress.
    let mut slices = Feed::new(Api::<discovery::EndpointSlice>::all(client.clone()), watcher::Config::default());
    let mut controller = Controller {
        world: World::new(config.cluster_domain.clone()),
        slice_owners: BTreeMap::new(),
        endpoints: Endpoints::default(),
        secrets: Secrets::new(client.clone(), crypto),
        writer: Writer::new(client),
        config,
        live,
        metrics,
    };
    let mut published = false;
    let mut due: Option<tokio::time::Instant> = None;
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    loop {
        let publish = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            () = cancel.cancelled() => return,
            changes = ingresses.next() => controller.take_ingresses(changes),
            changes = services.next() => controller.take_services(changes),
            changes = slices.next() => controller.take_slices(changes),
            (name, found) = controller.secrets.next() => controller.take_certificate(name, found),
            written = controller.writer.next() => controller.take_written(written),
            () = publish => {
                due = None;
                if controller.publish() {
                    synced.send_replace(true);
                }
                published = true;
                false
            }
            _ = sweep.tick() => {
                controller.endpoints.sweep();
                if published {
                    synced.send_replace(true);
                }
                false
            }
        };
        // An Ingress that is published before its Services are known would seem to have no backend.
        let listed = ingresses.listed && services.listed && slices.listed;
        if changed && listed && due.is_none() {
            due = Some(tokio::time::Instant::now() + SETTLE);
        }
    }
}

struct Controller {
    world: World,
    /// Which Service each slice is of: a deletion names the slice only.
    slice_owners: BTreeMap<ObjectName, ObjectName>,
    endpoints: Endpoints,
    secrets: Secrets,
    writer: Writer,
    config: Config,
    live: watch::Sender<Arc<Live>>,
    metrics: Metrics,
}

impl Controller {
    fn take_ingresses(&mut self, changes: Vec<Change<Ingress>>) -> bool {
        for change in changes {
            match change {
                Change::Seen(ingress) => {
                    let name = name(&*ingress);
                    let ours = ingress.annotations().get(CLASS_ANNOTATION) == Some(&self.config.class);
                    // One that is being deleted is served until it is gone.
                    if ours { self.world.see(name, *ingress) } else { self.world.forget(&name) }
                }
                Change::Gone(name) => self.world.forget(&name),
                Change::Listed => {}
            }
        }
        self.metrics.ingresses.set(i64::try_from(self.world.ingresses()).unwrap_or(i64::MAX));
        true
    }

    fn take_services(&mut self, changes: Vec<Change<core::Service>>) -> bool {
        let services = &mut self.world.directory.services;
        for change in changes {
            match change {
                Change::Seen(object) => drop(services.insert(name(&*object), service(&object))),
                Change::Gone(name) => drop(services.remove(&name)),
                Change::Listed => {}
            }
        }
        true
    }

    fn take_slices(&mut self, changes: Vec<Change<discovery::EndpointSlice>>) -> bool {
        for change in changes {
            match change {
                Change::Seen(object) => {
                    let name = name(&*object);
                    self.forget_slice(&name);
                    if let Some(slice) = slice(&object) {
                        self.slice_owners.insert(name.clone(), slice.service.clone());
                        let of = self.world.directory.slices.entry(slice.service.clone()).or_default();
                        of.insert(name.name, slice);
                    }
                }
                Change::Gone(name) => self.forget_slice(&name),
                Change::Listed => {}
            }
        }
        true
    }

    fn forget_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slice_owners.remove(name) else { return };
        if let Some(of) = self.world.directory.slices.get_mut(&service) {
            of.remove(&name.name);
            if of.is_empty() {
                self.world.directory.slices.remove(&service);
            }
        }
    }

    fn take_written(&mut self, written: Written) -> bool {
        match written {
            // As if the watch had shown it: the next plan doesn't write it again.
            Written::Done(ingress) => self.world.see(name(&*ingress), *ingress),
            Written::Overtaken { .. } => return std::mem::take(&mut self.writer.skipped),
            Written::Failed => {}
        }
        true
    }

    fn take_certificate(&mut self, name: ObjectName, found: Certificate) -> bool {
        self.world.certificates.insert(name, found);
        true
    }

    /// Whether every certificate that is wanted has been looked up.
    fn publish(&mut self) -> bool {
        let plan = self.world.plan();
        self.secrets.watch(&plan.secrets);
        self.world.certificates.retain(|name, _| plan.secrets.contains(name));
        self.live.send_replace(Arc::new(Live::of(&plan, &self.endpoints)));
        // Requests that come from here on meet the new picture: now it may be said.
        for write in self.world.statuses(&self.config.addresses, Timestamp::now()) {
            self.writer.write(write);
        }
        plan.secrets.iter().all(|name| self.world.certificates.contains_key(name))
    }
}

enum Written {
    Done(Box<Ingress>),
    /// The object has changed or gone meanwhile: the watch tells.
    Overtaken {
        version: Option<String>,
    },
    /// Not now; the pause after it is over.
    Failed,
}

/// Writes statuses, at most one an Ingress and WRITES in all at a time. What finds no place is written by a later
/// round: every write that ends makes one.
struct Writer {
    client: Client,
    under_way: FuturesUnordered<BoxFuture<'static, (ObjectName, Written)>>,
    busy: BTreeSet<ObjectName>,
    failures: BTreeMap<ObjectName, Backoff>,
    /// The version under which a write failed: no other is tried before the watch has shown a newer one.
    overtaken: BTreeMap<ObjectName, String>,
    /// Something found no place.
    skipped: bool,
}

impl Writer {
    fn new(client: Client) -> Self {
        Self {
            client,
            under_way: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            failures: BTreeMap::new(),
            overtaken: BTreeMap::new(),
            skipped: false,
        }
    }

    fn write(&mut self, write: StatusWrite) {
        if self.busy.contains(&write.name) || self.overtaken.get(&write.name) == Some(&write.resource_version) {
            return;
        }
        if self.busy.len() >= WRITES {
            self.skipped = true;
            return;
        }
        self.busy.insert(write.name.clone());
        self.overtaken.remove(&write.name);
        let mut backoff = self
            .failures
            .remove(&write.name)
            .unwrap_or_else(|| Backoff::new(Duration::from_millis(200), Duration::from_secs(30)));
        let pause = backoff.next_wait();
        self.failures.insert(write.name.clone(), backoff);
        let api: Api<Ingress> = Api::namespaced(self.client.clone(), &write.name.namespace);
        let under_way = async move {
            // The version and the UID make it a write to what was seen, or none.
            let patch = json!({
                "metadata": { "uid": write.uid, "resourceVersion": write.resource_version },
                "status": write.status,
            });
            let written = api.patch_status(&write.name.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            let written = match written {
                Ok(ingress) => Written::Done(Box::new(ingress)),
                Err(kube::Error::Api(status)) if status.code == 404 => Written::Overtaken { version: None },
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    Written::Overtaken { version: Some(write.resource_version) }
                }
                Err(error) => {
                    let (namespace, ingress) = (&write.name.namespace, &write.name.name);
                    let why = crate::kube::why(&error);
                    tracing::warn!(namespace, ingress, why, "a status was not written; it is tried again");
                    tokio::time::sleep(pause).await;
                    Written::Failed
                }
            };
            (write.name, written)
        };
        self.under_way.push(under_way.boxed());
    }

    async fn next(&mut self) -> Written {
        let Some((name, written)) = self.under_way.next().await else { return std::future::pending().await };
        self.busy.remove(&name);
        if !matches!(written, Written::Failed) {
            self.failures.remove(&name);
        }
        if let Written::Overtaken { version: Some(version) } = &written {
            self.overtaken.insert(name, version.clone());
        }
        written
    }
}

fn service(object: &core::Service) -> Service {
    let spec = object.spec.as_ref();
    let external = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName"));
    let families = spec.and_then(|spec| spec.ip_families.as_ref());
    let port = |port: &core::ServicePort| {
        Some(ServicePort {
            name: port.name.clone().unwrap_or_default(),
            number: u16::try_from(port.port).ok()?,
            app_protocol: port.app_protocol.clone(),
        })
    };
    Service {
        external_name: external.and_then(|spec| spec.external_name.clone()),
        ports: spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten().filter_map(port).collect(),
        ipv6: families.and_then(|families| families.first()).is_some_and(|family| family == "IPv6"),
    }
}

fn slice(object: &discovery::EndpointSlice) -> Option<Slice> {
    let service = object.labels().get("kubernetes.io/service-name")?;
    let ready = |endpoint: &&discovery::Endpoint| {
        // Unknown counts as ready, says the API.
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    let addresses = object.endpoints.iter().flatten().filter(ready).flat_map(|endpoint| &endpoint.addresses);
    let ports = object
        .ports
        .iter()
        .flatten()
        .filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?)));
    Some(Slice {
        service: ObjectName::new(object.namespace().unwrap_or_default(), service.clone()),
        ports: ports.collect(),
        ready: addresses.filter_map(|address| address.parse::<IpAddr>().ok()).collect(),
    })
}
