//! Services and EndpointSlices, watched once for all Pods and all proxies.
//!
//! Under the provider's own identity: a node's may not list EndpointSlices. Changes are taken up in
//! batches (SETTLE), turned into Service ports by `decide::services` and published in increments.

use crate::decide::desired::{ServiceLink, ServiceLinkPort};
use crate::decide::services::{Port, Service, ServicesState, Slice, SliceEndpoint, service_ports};
use crate::model::{NodeName, ObjectName, Protocol};
use crate::ports::AgentLink;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// A rollout changes slices in bursts: one update for all of it. kube-proxy's minSyncPeriod is 1 s; ours
/// is shorter, since a Pod without its Service is a failed request.
const SETTLE: Duration = Duration::from_millis(50);

type Links = BTreeMap<ObjectName, Arc<ServiceLink>>;

/// The Services of each namespace, for Pods' environments. Cheap to clone; all clones see the same.
#[derive(Clone, Default)]
pub struct ServiceStore {
    /// None until the first full list.
    links: Arc<Mutex<Option<Links>>>,
}

impl ServiceStore {
    pub fn link(&self, name: &ObjectName) -> Option<Arc<ServiceLink>> {
        self.lock().as_ref()?.get(name).cloned()
    }

    /// In the order of their names; None until the first full list.
    pub fn links(&self, namespace: &str) -> Option<Vec<Arc<ServiceLink>>> {
        let links = self.lock();
        let first = ObjectName::new(namespace, "");
        let all = links.as_ref()?.range(first..).take_while(|(name, _)| name.namespace == namespace);
        Some(all.map(|(_, link)| link.clone()).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Links>> {
        self.links.lock().expect("no panic while the lock is held")
    }
}

struct Watched<T> {
    current: BTreeMap<ObjectName, T>,
    listing: BTreeMap<ObjectName, T>,
    listed: bool,
}

impl<T> Watched<T> {
    fn new() -> Self {
        Self { current: BTreeMap::new(), listing: BTreeMap::new(), listed: false }
    }

    fn take<K: ResourceExt>(&mut self, event: watcher::Event<K>, convert: impl Fn(&K) -> Option<T>) {
        let name = |object: &K| ObjectName::new(object.namespace().unwrap_or_default(), object.name_any());
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(object) => {
                if let Some(converted) = convert(&object) {
                    self.listing.insert(name(&object), converted);
                }
            }
            watcher::Event::InitDone => {
                self.current = std::mem::take(&mut self.listing);
                self.listed = true;
            }
            watcher::Event::Apply(object) => match convert(&object) {
                Some(converted) => drop(self.current.insert(name(&object), converted)),
                None => drop(self.current.remove(&name(&object))),
            },
            watcher::Event::Delete(object) => drop(self.current.remove(&name(&object))),
        }
    }
}

/// Watches until cancelled. `listed` is told once both kinds have been listed.
pub async fn watch(
    client: Client,
    own_nodes: BTreeSet<NodeName>,
    store: ServiceStore,
    link: Arc<dyn AgentLink>,
    listed: tokio::sync::watch::Sender<bool>,
    cancel: CancellationToken,
) {
    let mut service_events = stream::<api::Service>(client.clone());
    let mut slice_events = stream::<discovery::EndpointSlice>(client);
    let mut services: Watched<Service> = Watched::new();
    let mut slices: Watched<Slice> = Watched::new();
    // A version that no earlier process used: agents outlive providers.
    let start = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(1);
    let mut state = ServicesState::starting_at(start);
    let mut due: Option<tokio::time::Instant> = None;
    loop {
        let publish = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(event) = service_events.next() => services.take(event, service),
            Some(event) = slice_events.next() => slices.take(event, slice),
            () = publish => {
                due = None;
                *store.lock() = Some(services.current.values().filter_map(service_link).collect());
                let ports = service_ports(services.current.values(), slices.current.values(), &own_nodes);
                if let Some(update) = state.advance(ports) {
                    link.publish_services(Arc::new(update), Arc::new(state.whole()));
                }
                listed.send_replace(true);
                continue;
            }
        }
        if services.listed && slices.listed && due.is_none() {
            due = Some(tokio::time::Instant::now() + SETTLE);
        }
    }
}

fn stream<K>(client: Client) -> std::pin::Pin<Box<dyn Stream<Item = watcher::Event<K>> + Send>>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .filter_map(|event| async {
            event
                .inspect_err(|error| {
                    tracing::warn!(kind = %K::kind(&()), error = super::why(error), "a watch broke; it is tried again");
                })
                .ok()
        })
        .boxed()
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn service(object: &api::Service) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    let other_proxy = object.labels().contains_key("service.kubernetes.io/service-proxy-name");
    if other_proxy || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let ips = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse::<IpAddr>().ok());
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    Some(Service {
        name: ObjectName::new(object.namespace().unwrap_or_default(), object.name_any()),
        cluster_ips: ips.collect(),
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                let name = p.name.clone().unwrap_or_default();
                Some(Port { name, port: number(p.port)?, protocol: protocol(p.protocol.as_deref())? })
            })
            .collect(),
        // Three hours: the API server's default.
        affinity_seconds: affinity.then(|| timeout.and_then(|t| u32::try_from(t).ok()).unwrap_or(10_800)),
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
    })
}

fn service_link(service: &Service) -> Option<(ObjectName, Arc<ServiceLink>)> {
    let link = ServiceLink {
        name: service.name.name.clone(),
        cluster_ip: *service.cluster_ips.first()?,
        ports: service
            .ports
            .iter()
            .map(|p| ServiceLinkPort { name: p.name.clone(), port: p.port, protocol: p.protocol })
            .collect(),
    };
    Some((service.name.clone(), Arc::new(link)))
}

fn slice(object: &discovery::EndpointSlice) -> Option<Slice> {
    let name = object.labels().get("kubernetes.io/service-name")?.clone();
    Some(Slice {
        service: ObjectName::new(object.namespace().unwrap_or_default(), name),
        ports: object
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                let name = p.name.clone().unwrap_or_default();
                Some(Port { name, port: number(p.port?)?, protocol: protocol(p.protocol.as_deref())? })
            })
            .collect(),
        endpoints: object.endpoints.iter().flatten().filter_map(endpoint).collect(),
    })
}

fn endpoint(endpoint: &discovery::Endpoint) -> Option<SliceEndpoint> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    Some(SliceEndpoint {
        ip: endpoint.addresses.first()?.parse().ok()?,
        node: endpoint.node_name.clone().map(NodeName::new),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
    })
}
