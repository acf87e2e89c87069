//! What a watch has shown, with a relisting that replaces all at once.

use crate::model::ObjectName;
use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use std::{collections::BTreeSet, fmt::Debug, pin::Pin};

/// One change. After `Listed` the objects seen since the listing began are all there are.
#[derive(Debug)]
pub enum Change<K> {
    Seen(Box<K>),
    Gone(ObjectName),
    Listed,
}

/// Turns a watcher's events into changes: what a relisting does not show any more is `Gone`.
#[derive(Default)]
pub struct Names {
    known: BTreeSet<ObjectName>,
    listing: Option<BTreeSet<ObjectName>>,
}

impl Names {
    pub fn take<K: ResourceExt>(&mut self, event: watcher::Event<K>) -> Vec<Change<K>> {
        match event {
            watcher::Event::Init => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let name = name(&object);
                if let Some(listing) = &mut self.listing {
                    listing.insert(name.clone());
                }
                self.known.insert(name);
                vec![Change::Seen(Box::new(object))]
            }
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let gone = self.known.difference(&listed).cloned().map(Change::Gone).collect::<Vec<_>>();
                self.known = listed;
                gone.into_iter().chain([Change::Listed]).collect()
            }
            watcher::Event::Delete(object) => {
                let name = name(&object);
                self.known.remove(&name);
                vec![Change::Gone(name)]
            }
        }
    }
}

pub fn name<K: ResourceExt>(object: &K) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

pub type Events<K> = Pin<Box<dyn Stream<Item = watcher::Event<K>> + Send>>;

/// Watches for ever; a watch that breaks is told and tried again, with growing pauses.
pub fn events<K>(api: Api<K>, config: watcher::Config) -> Events<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(|event| async {
            event
                .inspect_err(|error| {
                    tracing::warn!(kind = %K::kind(&()), error = crate::kube::why(error), "a watch broke; it is tried again");
                })
                .ok()
        })
        .boxed()
}

/// A watch and whether its first list is through.
pub struct Feed<K> {
    events: Events<K>,
    names: Names,
    pub listed: bool,
}

impl<K> Feed<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    pub fn new(api: Api<K>, config: watcher::Config) -> Self {
        Self { events: events(api, config), names: Names::default(), listed: false }
    }

    /// Of a kind that there is not: it has shown all, and shows nothing.
    pub fn of_none() -> Self {
        Self { events: futures::stream::pending().boxed(), names: Names::default(), listed: true }
    }

    /// Dropping it loses nothing: it waits in one place only.
    pub async fn next(&mut self) -> Vec<Change<K>> {
        let Some(event) = self.events.next().await else { return std::future::pending().await };
        let changes = self.names.take(event);
        self.listed |= changes.iter().any(|change| matches!(change, Change::Listed));
        changes
    }
}
