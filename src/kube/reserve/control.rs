//! The controller: watches in, decisions, effects out.
//!
//! ```text
//!   Serving's definitions are there (or not) ──> watches ──> world ──> dirty Revisions ──> decide ──> effects
//!        ^                                                    ^            ^                            │ a job each, JOBS at once
//!        │ that changed: everything is dropped                └─ answers ──┴── look again, after a      v
//!        └─────────────────────────────────────────────────────────────────    pause if one failed   API server, queue-proxy
//! ```
//!
//! One task. A Revision has at most one job; what changes meanwhile is decided when it is done. Nothing is polled:
//! at rest there are watches (seven, and two without Serving) and no request.

use super::act::{self, Learned};
use super::ask::Globals;
use super::build::Kind;
use super::objects::{PodAutoscaler, Revision, Route};
use super::words::*;
use super::world::{Subject, Touched, Uid, World};
use crate::decide::purchase::Buying;
use crate::decide::reserve::{self, Effect, Parking, Reason, State};
use crate::kube::watched::{Change, Feed};
use crate::model::ObjectName;
use crate::retry::Backoff;
use crate::telemetry::Metrics;
use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1 as core};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Without it there is no Serving to work with.
const DEFINITION: &str = "podautoscalers.autoscaling.internal.knative.dev";
/// Where Serving's settings are.
const SERVING: &str = "knative-serving";
const SETTINGS: &str = "config-autoscaler";
/// Revisions worked at at once. Each job is one request at a time.
const JOBS: usize = 32;
/// What was asked for and doesn't show is asked for again after this.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tells what Pods use.
#[async_trait]
pub trait Usage: Send + Sync {
    /// The highest working set among the running Pods of this namespace whose names begin so, without queue-proxy.
    async fn highest_memory(&self, namespace: &str, begins: &str) -> Option<u64>;
}

pub struct Config {
    pub client: Client,
    pub buying: watch::Receiver<Arc<Buying>>,
    pub usage: Arc<dyn Usage>,
    pub metrics: Metrics,
}

/// Runs until cancelled.
pub async fn run(config: Config, cancel: CancellationToken) {
    let (there, mut served) = watch::channel(None);
    let definitions = follow_definition(config.client.clone(), there);
    let control = async {
        loop {
            // Before it is known, a reserve of a Revision would seem to have none.
            let Ok(known) = served.wait_for(Option::is_some).await.map(|known| *known) else { return };
            let serving = known == Some(true);
            tracing::info!(serving, "reserves are kept; of Revisions if Knative Serving is there");
            let mut changes = served.clone();
            tokio::select! {
                () = serve(&config, serving) => return,
                changed = changes.wait_for(|now| *now != known) => if changed.is_err() { return },
            }
            config.metrics.reserves(&BTreeMap::new());
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = definitions => {}
        () = control => {}
    }
}

async fn follow_definition(client: Client, there: watch::Sender<Option<bool>>) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={DEFINITION}"));
    let mut events = watcher(api, only).default_backoff().boxed();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = false,
            Ok(watcher::Event::InitApply(_)) => listed = true,
            Ok(watcher::Event::InitDone) => drop(there.send_replace(Some(listed))),
            Ok(watcher::Event::Apply(_)) => drop(there.send_replace(Some(true))),
            Ok(watcher::Event::Delete(_)) => drop(there.send_replace(Some(false))),
            Err(error) => {
                let why = crate::kube::why(&error);
                tracing::warn!(why, "the watch on Serving's definitions broke; it is tried again");
            }
        }
    }
}

/// Follows everything of a kind, if there is such a kind.
fn feed<K>(api: Api<K>, there: bool, config: watcher::Config) -> Feed<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    if there { Feed::new(api, config) } else { Feed::of_none() }
}

/// Runs until it is dropped. Without Serving there are plain Deployments alone.
async fn serve(config: &Config, serving: bool) {
    let client = &config.client;
    let labelled = |label: &str| watcher::Config::default().labels(label);
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let all = watcher::Config::default;
    let mut revisions = feed(Api::<Revision>::all(client.clone()), serving, all());
    let mut autoscalers = feed(Api::<PodAutoscaler>::all(client.clone()), serving, all());
    let mut routes = feed(Api::<Route>::all(client.clone()), serving, all());
    // All of them: a plain one asks by an annotation, which no selector finds.
    let mut deployments = Feed::new(Api::<Deployment>::all(client.clone()), all());
    let mut reserves = Feed::new(Api::<core::Pod>::all(client.clone()), labelled(RESERVE_OF));
    let mut namespaces = feed(Api::<PartialObjectMeta<core::Namespace>>::all(client.clone()), serving, all());
    let mut settings = feed(Api::<core::ConfigMap>::namespaced(client.clone(), SERVING), serving, named(SETTINGS));
    let mut buying = config.buying.clone();
    let mut control = Control::new(config, serving);
    loop {
        let listed = revisions.listed
            && autoscalers.listed
            && routes.listed
            && deployments.listed
            && reserves.listed
            && namespaces.listed
            && settings.listed;
        if listed {
            // A reserve whose Revision is not yet listed would seem to be an orphan.
            control.work();
        }
        let next = control.next_wake().filter(|_| listed);
        let now = Timestamp::now;
        tokio::select! {
            changes = revisions.next() => control.take(changes, |world, change| match change {
                Ok(revision) => world.see_revision(revision, now()),
                Err(name) => world.lose_revision(&name),
            }),
            changes = autoscalers.next() => control.take(changes, |world, change| match change {
                Ok(autoscaler) => world.see_autoscaler(autoscaler, now()),
                Err(name) => world.lose_autoscaler(&name),
            }),
            changes = routes.next() => control.take(changes, |world, change| match change {
                Ok(route) => world.see_route(&route, now()),
                Err(name) => world.lose_route(&name, now()),
            }),
            changes = deployments.next() => control.take(changes, |world, change| match change {
                Ok(deployment) => world.see_deployment(deployment, now()),
                Err(name) => world.lose_deployment(&name),
            }),
            changes = reserves.next() => control.take(changes, |world, change| match change {
                Ok(pod) => world.see_reserve(pod, now()),
                Err(name) => world.lose_reserve(&name),
            }),
            changes = namespaces.next() => control.take(changes, |world, change| match change {
                Ok(namespace) => world.see_namespace(&namespace.name_any(), namespace.annotations().get(ASK)),
                Err(name) => world.see_namespace(&name.name, None),
            }),
            changes = settings.next() => control.take(changes, |world, change| match change {
                Ok(settings) => world.see_globals(Globals::of(&settings.data.unwrap_or_default())),
                Err(_) => world.see_globals(Globals::default()),
            }),
            changed = buying.changed() => match changed {
                Ok(()) => control.rebuild(Arc::clone(&buying.borrow_and_update())),
                // Nobody edits it any more.
                Err(_) => return,
            },
            (uid, done) = control.done() => control.finish(uid, done),
            () = wake(next) => control.wake_due(),
        }
    }
}

async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What a job brought back.
struct Done {
    effects: Vec<Effect>,
    learned: Vec<Learned>,
    failed: bool,
    /// It was asked what the standard Pods use, and this is the answer.
    measured: Option<Option<u64>>,
}

struct Control {
    client: Client,
    usage: Arc<dyn Usage>,
    metrics: Metrics,
    buying: Arc<Buying>,
    world: World,
    dirty: Touched,
    busy: BTreeSet<Uid>,
    jobs: FuturesUnordered<BoxFuture<'static, (Uid, Done)>>,
    wakes: BTreeSet<(Instant, Uid)>,
    wake_of: BTreeMap<Uid, Instant>,
    tries: BTreeMap<Uid, Tries>,
    states: BTreeMap<Uid, State>,
    counts: BTreeMap<&'static str, i64>,
    /// The reason of the last event about where each stands.
    told: BTreeMap<Uid, Reason>,
    /// Revisions whose standard Pods were asked what they use since the traffic ended.
    measured: BTreeSet<Uid>,
}

impl Control {
    fn new(config: &Config, serving: bool) -> Self {
        Self {
            client: config.client.clone(),
            usage: Arc::clone(&config.usage),
            metrics: config.metrics.clone(),
            buying: Arc::clone(&config.buying.borrow()),
            world: World::new(serving),
            dirty: Touched::new(),
            busy: BTreeSet::new(),
            jobs: FuturesUnordered::new(),
            wakes: BTreeSet::new(),
            wake_of: BTreeMap::new(),
            tries: BTreeMap::new(),
            states: BTreeMap::new(),
            counts: BTreeMap::new(),
            told: BTreeMap::new(),
            measured: BTreeSet::new(),
        }
    }

    fn take<K>(&mut self, changes: Vec<Change<K>>, see: impl Fn(&mut World, Result<K, ObjectName>) -> Touched) {
        for change in changes {
            let touched = match change {
                Change::Seen(object) => see(&mut self.world, Ok(*object)),
                Change::Gone(name) => see(&mut self.world, Err(name)),
                Change::Listed => continue,
            };
            self.dirty.extend(touched);
        }
    }

    fn rebuild(&mut self, buying: Arc<Buying>) {
        self.buying = buying;
        self.dirty.extend(self.world.all());
    }

    fn next_wake(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    fn wake_due(&mut self) {
        let now = Instant::now();
        while let Some((at, uid)) = self.wakes.first().cloned().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, uid.clone()));
            self.wake_of.remove(&uid);
            self.dirty.insert(uid);
        }
    }

    /// Earlier wakes stay.
    fn wake_at(&mut self, uid: &Uid, at: Instant) {
        if let Some(before) = self.wake_of.get(uid).copied() {
            if before <= at {
                return;
            }
            self.wakes.remove(&(before, uid.clone()));
        }
        self.wake_of.insert(uid.clone(), at);
        self.wakes.insert((at, uid.clone()));
    }

    /// Decides whatever may have changed, and starts as many jobs as may run.
    fn work(&mut self) {
        while self.jobs.len() < JOBS {
            let Some(uid) = self.dirty.iter().find(|uid| !self.busy.contains(*uid)).cloned() else { break };
            self.dirty.remove(&uid);
            self.decide(uid);
        }
        self.metrics.reserves(&self.counts);
    }

    fn decide(&mut self, uid: Uid) {
        let Some((snapshot, mut subject)) = self.world.look(&uid, &self.buying) else {
            return self.forget(&uid);
        };
        let now = Timestamp::now();
        let mut rules = self.buying.policy.reserve.rules.clone();
        if subject.kind == Kind::Deployment {
            // Nothing warns before it is at zero: what is to answer then must be there.
            rules.parking = Parking::Always;
        }
        let decision = reserve::decide(&snapshot, &rules, now);
        if subject.conditions.is_none() && snapshot.reserves.is_empty() {
            return self.forget(&uid);
        }
        self.note(&uid, decision.state);
        subject.told = self.told.get(&uid).copied();
        if let Some(at) = decision.look_again {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            self.wake_at(&uid, Instant::now() + wait);
        }
        let mut effects = decision.effects;
        if decision.state != State::Preparing {
            self.measured.remove(&uid);
        }
        // What they use must be known before a reserve is made: it is sized by it.
        let made = effects.iter().position(|effect| matches!(effect, Effect::Create { .. }));
        let measure = match made {
            Some(place) if decision.state == State::Preparing && !self.measured.contains(&uid) => {
                effects.truncate(place);
                true
            }
            _ => false,
        };
        if effects.is_empty() && subject.learned.is_none() && !measure {
            self.tries.remove(&uid);
            return;
        }
        if let Some(rest) = self.tries.get(&uid).and_then(|tries| tries.rest).filter(|rest| *rest > Instant::now()) {
            return self.wake_at(&uid, rest);
        }
        self.start(uid, subject, effects, measure);
    }

    fn start(&mut self, uid: Uid, subject: Subject, effects: Vec<Effect>, measure: bool) {
        self.busy.insert(uid.clone());
        let (client, usage) = (self.client.clone(), Arc::clone(&self.usage));
        let job = async move {
            let outcome = act::carry_out(&client, &subject, &effects).await;
            for failure in &outcome.failures {
                let failure = failure as &dyn std::error::Error;
                tracing::warn!(of = %subject.name, error = failure, "a reserve's step failed; it is tried again");
            }
            let measured = match measure {
                true => {
                    let begins = format!("{}-deployment-", subject.name.name);
                    Some(usage.highest_memory(&subject.name.namespace, &begins).await)
                }
                false => None,
            };
            let failed = !outcome.failures.is_empty();
            (uid, Done { effects, learned: outcome.learned, failed, measured })
        };
        self.jobs.push(job.boxed());
    }

    async fn done(&mut self) -> (Uid, Done) {
        match self.jobs.next().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    fn finish(&mut self, uid: Uid, done: Done) {
        self.busy.remove(&uid);
        let now = Timestamp::now();
        let Done { effects, learned, failed, measured } = done;
        for learned in learned {
            let touched = match learned {
                Learned::Revision(revision) => self.world.see_revision(*revision, now),
                Learned::Deployment(deployment) => self.world.see_deployment(*deployment, now),
                Learned::Pod(pod) => self.world.see_reserve(*pod, now),
                Learned::Idle { pod, pod_uid, idle } => {
                    self.world.see_idle(&uid, &pod, &pod_uid, idle);
                    Touched::new()
                }
            };
            self.dirty.extend(touched);
        }
        if let Some(answer) = measured {
            self.measured.insert(uid.clone());
            if let Some(bytes) = answer {
                self.world.see_memory(&uid, bytes);
            }
        }
        for effect in &effects {
            match effect {
                Effect::Report(Some(report)) if !failed => drop(self.told.insert(uid.clone(), report.reason)),
                Effect::Report(None) => drop(self.told.remove(&uid)),
                _ => {}
            }
        }
        // Asking again is no failure: the machine says when.
        let asks = effects.iter().all(|effect| matches!(effect, Effect::CheckIdle { .. }));
        let tries = self.tries.entry(uid.clone()).or_insert_with(Tries::new);
        if failed || (!asks && tries.last == effects) {
            tries.rest = Some(Instant::now() + tries.pauses.next_wait());
        } else {
            *tries = Tries::new();
        }
        tries.last = effects;
        self.dirty.insert(uid);
    }

    fn note(&mut self, uid: &Uid, state: State) {
        let before = self.states.insert(uid.clone(), state);
        if before != Some(state) {
            if let Some(before) = before {
                *self.counts.entry(before.as_str()).or_default() -= 1;
            }
            *self.counts.entry(state.as_str()).or_default() += 1;
        }
    }

    fn forget(&mut self, uid: &Uid) {
        if let Some(state) = self.states.remove(uid) {
            *self.counts.entry(state.as_str()).or_default() -= 1;
        }
        self.tries.remove(uid);
        self.told.remove(uid);
        self.measured.remove(uid);
        if let Some(at) = self.wake_of.remove(uid) {
            self.wakes.remove(&(at, uid.clone()));
        }
    }
}

/// What was asked for last, and how long not to ask again: what failed, and what has no effect.
struct Tries {
    last: Vec<Effect>,
    pauses: Backoff,
    rest: Option<Instant>,
}

impl Tries {
    fn new() -> Self {
        Self { last: Vec::new(), pauses: Backoff::new(PAUSE, LONGEST_PAUSE), rest: None }
    }
}
