//! ConfigMaps, Secrets and tokens that Pods refer to, watched only while some Pod does.
//!
//! Each object is watched by name under the identity of the node whose Pods use it (all that the Node
//! authorizer allows), once however many Pods use it, and for LINGER after the last. Tokens are asked
//! for a Pod each, bound to it, and renewed before they expire.
//!
//! ```text
//!   follow(pod) --needs()--> watch of each object ---+--> all known once? --> uid into the queue
//!                            token of each audience -+        (and again on every change)
//! ```

use super::services::ServiceStore;
use crate::decide::desired::{ConfigMap, Fetched, Needs, Refs, Secret, TokenKey, needs};
use crate::model::{NodeName, ObjectName, PodIntent, PodUid};
use crate::ports::RefSource;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1 as api;
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The next Pod of the same workload often comes right after the last: its objects are still watched.
const LINGER: Duration = Duration::from_secs(30);
/// A new Pod may not be known to the Node authorizer yet: the first refusals, for some three seconds, are not told.
const PATIENCE: u32 = 7;
/// Tokens that a node asks for at once. What the authorizer does not know yet keeps its place, so that the Pods behind it
/// ask when it has caught up, and not each of them in vain: under load it is seconds behind, for hundreds of Pods.
const ASKING: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct RefStore {
    shared: Arc<Shared>,
}

struct Shared {
    clients: HashMap<NodeName, Client>,
    /// Places of those that ask for a token.
    asking: HashMap<NodeName, Arc<Semaphore>>,
    services: ServiceStore,
    changed: mpsc::UnboundedSender<PodUid>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pods: HashMap<PodUid, Followed>,
    config_maps: HashMap<ObjectKey, Watched<ConfigMap>>,
    secrets: HashMap<ObjectKey, Watched<Secret>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ObjectKey {
    node: NodeName,
    object: ObjectName,
}

struct Followed {
    node: NodeName,
    name: ObjectName,
    service_account: String,
    needs: Needs,
    tokens: BTreeMap<TokenKey, Fetched<String>>,
    cancel: CancellationToken,
}

struct Watched<T> {
    users: BTreeSet<PodUid>,
    value: Option<Fetched<T>>,
    cancel: CancellationToken,
}

impl RefStore {
    /// `changed` hears of a Pod each time that what it refers to has changed; at most one message a Pod
    /// and change, so the number of Pods bounds it.
    pub fn new(
        clients: HashMap<NodeName, Client>,
        services: ServiceStore,
        changed: mpsc::UnboundedSender<PodUid>,
        cancel: CancellationToken,
    ) -> Self {
        let asking = clients.keys().map(|node| (node.clone(), Arc::new(Semaphore::new(ASKING)))).collect();
        let (tasks, state) = (TaskTracker::new(), Mutex::default());
        Self { shared: Arc::new(Shared { clients, asking, services, changed, tasks, cancel, state }) }
    }
}

impl RefSource for RefStore {
    fn follow(&self, pod: &Arc<PodIntent>) {
        let Ok(spec) = &pod.spec else { return };
        let wanted = needs(spec);
        let shared = &self.shared;
        let mut state = shared.lock();
        let entry = state.pods.entry(pod.uid.clone()).or_insert_with(|| Followed {
            node: pod.node.clone(),
            name: pod.name.clone(),
            service_account: spec.service_account.clone(),
            needs: Needs::default(),
            tokens: BTreeMap::new(),
            cancel: shared.cancel.child_token(),
        });
        let before = std::mem::replace(&mut entry.needs, wanted.clone());
        if before == wanted && !(wanted == Needs::default()) {
            return;
        }
        let cancel = entry.cancel.clone();
        let key = |name: &String| ObjectKey {
            node: pod.node.clone(),
            object: ObjectName::new(pod.name.namespace.clone(), name.clone()),
        };
        for name in wanted.config_maps.difference(&before.config_maps) {
            shared.use_object::<ConfigMap>(&mut state, key(name), &pod.uid);
        }
        for name in wanted.secrets.difference(&before.secrets) {
            shared.use_object::<Secret>(&mut state, key(name), &pod.uid);
        }
        for token in wanted.tokens.difference(&before.tokens) {
            shared.tasks.spawn(keep_token(Arc::clone(shared), pod.uid.clone(), token.clone(), cancel.clone()));
        }
        drop(state);
        shared.notify(&pod.uid);
    }

    fn forget(&self, pod: &PodUid) {
        let mut state = self.shared.lock();
        let Some(followed) = state.pods.remove(pod) else { return };
        drop(state);
        followed.cancel.cancel();
        let shared = Arc::clone(&self.shared);
        let pod = pod.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = shared.cancel.cancelled() => {}
                () = tokio::time::sleep(LINGER) => shared.drop_user(&pod, &followed),
            }
        });
    }

    fn refs(&self, pod: &PodUid) -> Option<Arc<Refs>> {
        self.shared.assemble(pod)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    fn notify(&self, pod: &PodUid) {
        // Nobody listens any more only when everything stops.
        drop(self.changed.send(pod.clone()));
    }

    fn assemble(&self, pod: &PodUid) -> Option<Arc<Refs>> {
        let state = self.lock();
        let followed = state.pods.get(pod)?;
        let namespace = &followed.name.namespace;
        let key = |name: &String| ObjectKey {
            node: followed.node.clone(),
            object: ObjectName::new(namespace.clone(), name.clone()),
        };
        let refs = Refs {
            config_maps: known(&followed.needs.config_maps, |name| state.config_maps.get(&key(name))),
            secrets: known(&followed.needs.secrets, |name| state.secrets.get(&key(name))),
            tokens: followed.tokens.clone(),
            kubernetes: self.services.link(&ObjectName::new("default", "kubernetes")),
            services: self.services.links(namespace),
        };
        refs.answers(&followed.needs).then(|| Arc::new(refs))
    }

    /// Drops the Pod's use of its objects, and the watches that nobody uses any more.
    fn drop_user(&self, pod: &PodUid, followed: &Followed) {
        let mut state = self.lock();
        if state.pods.contains_key(pod) {
            return;
        }
        let key = |name: &String| ObjectKey {
            node: followed.node.clone(),
            object: ObjectName::new(followed.name.namespace.clone(), name.clone()),
        };
        for name in &followed.needs.config_maps {
            release(&mut state.config_maps, &key(name), pod);
        }
        for name in &followed.needs.secrets {
            release(&mut state.secrets, &key(name), pod);
        }
    }

    fn use_object<T: Kind>(self: &Arc<Self>, state: &mut State, key: ObjectKey, user: &PodUid) {
        let watched = T::map(state).entry(key.clone()).or_insert_with(|| {
            let cancel = self.cancel.child_token();
            if let Some(client) = self.clients.get(&key.node) {
                self.tasks.spawn(watch_object::<T>(Arc::clone(self), client.clone(), key, cancel.clone()));
            }
            Watched { users: BTreeSet::new(), value: None, cancel }
        });
        watched.users.insert(user.clone());
    }

    fn set<T: Kind>(&self, key: &ObjectKey, value: Fetched<T>) {
        let mut state = self.lock();
        let Some(watched) = T::map(&mut state).get_mut(key) else { return };
        if watched.value.as_ref() == Some(&value) {
            return;
        }
        watched.value = Some(value);
        let users = watched.users.clone();
        drop(state);
        users.iter().for_each(|user| self.notify(user));
    }

    fn known_value<T: Kind>(&self, key: &ObjectKey) -> bool {
        T::map(&mut self.lock()).get(key).is_some_and(|w| matches!(w.value, Some(Fetched::Found(_) | Fetched::Missing)))
    }
}

fn known<'a, T: 'a>(
    names: &BTreeSet<String>,
    find: impl Fn(&String) -> Option<&'a Watched<T>>,
) -> BTreeMap<String, Fetched<T>> {
    names
        .iter()
        .filter_map(|name| {
            let value = match find(name)?.value.as_ref()? {
                Fetched::Found(object) => Fetched::Found(Arc::clone(object)),
                Fetched::Missing => Fetched::Missing,
                Fetched::Failed(why) => Fetched::Failed(why.clone()),
            };
            Some((name.clone(), value))
        })
        .collect()
}

fn release<T>(map: &mut HashMap<ObjectKey, Watched<T>>, key: &ObjectKey, user: &PodUid) {
    if let Some(watched) = map.get_mut(key) {
        watched.users.remove(user);
        if watched.users.is_empty() {
            watched.cancel.cancel();
            map.remove(key);
        }
    }
}

/// A kind of object that Pods refer to.
trait Kind: PartialEq + Sized + Send + Sync + 'static {
    type Object: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static;
    fn map(state: &mut State) -> &mut HashMap<ObjectKey, Watched<Self>>;
    fn from_object(object: Self::Object) -> Self;
}

impl Kind for ConfigMap {
    type Object = api::ConfigMap;
    fn map(state: &mut State) -> &mut HashMap<ObjectKey, Watched<Self>> {
        &mut state.config_maps
    }
    fn from_object(object: api::ConfigMap) -> Self {
        Self {
            data: object.data.unwrap_or_default(),
            binary_data: object.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
        }
    }
}

impl Kind for Secret {
    type Object = api::Secret;
    fn map(state: &mut State) -> &mut HashMap<ObjectKey, Watched<Self>> {
        &mut state.secrets
    }
    fn from_object(object: api::Secret) -> Self {
        Self { data: object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect() }
    }
}

async fn watch_object<T: Kind>(shared: Arc<Shared>, client: Client, key: ObjectKey, cancel: CancellationToken) {
    let objects: Api<T::Object> = Api::namespaced(client, &key.object.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.object.name));
    let mut failures = 0u32;
    let mut stream = watcher(objects, config).boxed();
    let mut found = false;
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Ok(event)) => {
                // Init comes before each attempt, also one that fails: it proves nothing.
                if !matches!(event, watcher::Event::Init) {
                    failures = 0;
                }
                match event {
                    watcher::Event::Init => found = false,
                    watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                        found = true;
                        shared.set(&key, Fetched::Found(Arc::new(T::from_object(object))));
                    }
                    watcher::Event::InitDone if found => {}
                    watcher::Event::InitDone | watcher::Event::Delete(_) => shared.set::<T>(&key, Fetched::Missing),
                }
            }
            Some(Err(error)) => {
                failures += 1;
                // What was known stays true until the API server says otherwise.
                if failures >= PATIENCE && !shared.known_value::<T>(&key) {
                    shared.set::<T>(&key, Fetched::Failed(super::why(&error)));
                }
                if pause(failures, &cancel).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn pause(failures: u32, cancel: &CancellationToken) -> Result<(), ()> {
    let wait = (FIRST_RETRY * 2u32.pow(failures.min(10) - 1)).min(LONGEST_RETRY);
    tokio::select! {
        () = cancel.cancelled() => Err(()),
        () = tokio::time::sleep(wait) => Ok(()),
    }
}

struct Answer {
    token: String,
    expiry: Timestamp,
}

impl From<TokenRequest> for Answer {
    fn from(answer: TokenRequest) -> Self {
        let status = answer.status.unwrap_or_default();
        let expiry = status.expiration_timestamp.map_or_else(Timestamp::now, |at| at.0);
        Self { token: status.token.unwrap_or_default(), expiry }
    }
}

/// A token for this audience, bound to the Pod.
fn question(pod: &PodUid, name: &ObjectName, key: &TokenKey) -> TokenRequest {
    serde_json::from_value(json!({
        "spec": {
            "audiences": key.audience.iter().collect::<Vec<_>>(),
            "expirationSeconds": key.expiration_seconds,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": name.name, "uid": pod },
        },
    }))
    .expect("a token request of this shape is valid")
}

/// Gets the Pod's token and renews it: after 80 % of its life, or 24 h
/// (pkg/kubelet/token/token_manager.go).
async fn keep_token(shared: Arc<Shared>, pod: PodUid, key: TokenKey, cancel: CancellationToken) {
    let Some((node, name, service_account)) =
        shared.lock().pods.get(&pod).map(|f| (f.node.clone(), f.name.clone(), f.service_account.clone()))
    else {
        return;
    };
    let (Some(client), Some(asking)) = (shared.clients.get(&node), shared.asking.get(&node)) else { return };
    let (mut failures, mut place) = (0u32, None);
    loop {
        let asked = async {
            if place.is_none() {
                place = asking.acquire().await.ok();
            }
            let accounts: Api<api::ServiceAccount> = Api::namespaced(client.clone(), &name.namespace);
            accounts.create_token_request(&service_account, &PostParams::default(), &question(&pod, &name, &key)).await
        };
        // Boxed: what a question and its answer take is not kept for the hours between two of a Pod.
        let answer = tokio::select! {
            () = cancel.cancelled() => return,
            answer = Box::pin(async { asked.await.map(Answer::from).map_err(|error| super::why(&error)) }) => answer,
        };
        let wait = match answer {
            Ok(Answer { token, expiry }) => {
                (failures, place) = (0, None);
                shared.set_token(&pod, &key, Fetched::Found(Arc::new(token)));
                let life = Duration::try_from(expiry.duration_since(Timestamp::now())).unwrap_or_default();
                (life * 4 / 5).min(Duration::from_secs(24 * 3600)).max(Duration::from_secs(10))
            }
            Err(why) => {
                failures += 1;
                if failures >= PATIENCE {
                    place = None;
                    shared.set_token(&pod, &key, Fetched::Failed(why));
                }
                if pause(failures, &cancel).await.is_err() {
                    return;
                }
                continue;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Shared {
    fn set_token(&self, pod: &PodUid, key: &TokenKey, value: Fetched<String>) {
        let mut state = self.lock();
        let Some(followed) = state.pods.get_mut(pod) else { return };
        let had = followed.tokens.get(key).is_some_and(|known| matches!(known, Fetched::Found(_)));
        // An old token that still works is better than the reason why there is no new one.
        if matches!(value, Fetched::Failed(_)) && had {
            return;
        }
        followed.tokens.insert(key.clone(), value);
        drop(state);
        self.notify(pod);
    }
}
