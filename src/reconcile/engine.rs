//! Carries out what the [`World`] decides. It chooses nothing.

use super::world::{Effect, EndAnswer, Fact, Holding, World, WorldConfig};
use super::{Directory, DirectoryEntry};
use crate::decide::placement::{Order, Pool};
use crate::decide::purchase::Buying;
use crate::model::{InstanceId, LaunchRequest, Launched, NodeName, PodUid, tag};
use crate::ports::{
    AgentLink, AgentUpdate, Cloud, CloudError, EventSink, PodUpdate, RefSource, StatusSink, client_token,
};
use crate::telemetry::{Cost, Metrics};
use jiff::Timestamp;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Facts taken up before deciding: a burst of Pods is placed together.
const BATCH: usize = 512;
/// How long the first of a burst waits for the others.
const GATHER: Duration = Duration::from_millis(5);
/// How often the cloud is asked for all instances.
const DESCRIBE_EVERY: Duration = Duration::from_secs(2);
/// A cloud that takes longer does not answer.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the policy says nothing that can be waited for.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Ends are asked for in few calls, of which EC2 takes five a second: a thousand that are refused one by one take minutes.
const LONGEST_END: Duration = Duration::from_secs(15 * 60);

/// What the engine needs of the world outside.
pub struct EngineConfig {
    pub cluster: String,
    pub world: WorldConfig,
    pub cloud: Arc<dyn Cloud>,
    pub link: Arc<dyn AgentLink>,
    pub status: Arc<dyn StatusSink>,
    pub events: Arc<dyn EventSink>,
    pub refs: Arc<dyn RefSource>,
    pub directory: Directory,
    pub metrics: Metrics,
    /// Whether the cloud answers: the nodes' readiness.
    pub cloud_answers: watch::Sender<Result<(), String>>,
}

/// The queues that feed it.
pub struct Input {
    pub pods: mpsc::Receiver<PodUpdate>,
    pub agents: mpsc::Receiver<AgentUpdate>,
    pub refs: mpsc::UnboundedReceiver<PodUid>,
    pub reloads: mpsc::Receiver<Reload>,
}

/// What may change while a provider runs.
#[derive(Clone, Debug)]
pub struct Reload {
    pub buying: Arc<Buying>,
    pub keep_completed: jiff::SignedDuration,
}

pub struct Engine {
    config: EngineConfig,
    input: Input,
    results: mpsc::Receiver<Fact>,
    reply: mpsc::Sender<Fact>,
    tasks: TaskTracker,
    describing: Arc<Semaphore>,
    /// The policy's ttl.launch.
    launch_timeout: jiff::SignedDuration,
}

impl Engine {
    pub fn new(config: EngineConfig, input: Input) -> Self {
        let (reply, results) = mpsc::channel(1024);
        Self {
            launch_timeout: config.world.buying.policy.ttl.launch,
            config,
            input,
            results,
            reply,
            tasks: TaskTracker::new(),
            describing: Arc::new(Semaphore::new(1)),
        }
    }

    /// Runs until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut world = World::new(self.config.world.clone(), Timestamp::now());
        let mut describe = tokio::time::interval(DESCRIBE_EVERY);
        describe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was paid for since the last look, and since when.
        let (mut costs, mut counted) = (Vec::new(), tokio::time::Instant::now());
        let mut pods = Vec::with_capacity(BATCH);
        let mut agents = Vec::with_capacity(BATCH);
        let mut refs = Vec::with_capacity(BATCH);
        let mut results = Vec::with_capacity(BATCH);
        loop {
            let wake = sleep_until(world.next_wake());
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = self.input.pods.recv_many(&mut pods, BATCH) => {
                    // A Deployment's Pods come within milliseconds of each other: one launch for all.
                    tokio::time::sleep(GATHER).await;
                    while pods.len() < BATCH && let Ok(update) = self.input.pods.try_recv() {
                        pods.push(update);
                    }
                }
                _ = self.input.agents.recv_many(&mut agents, BATCH) => {}
                _ = self.input.refs.recv_many(&mut refs, BATCH) => {}
                _ = self.results.recv_many(&mut results, BATCH) => {}
                Some(Reload { buying, keep_completed }) = self.input.reloads.recv() => {
                    self.launch_timeout = buying.policy.ttl.launch;
                    results.push(Fact::Reloaded { buying, keep_completed });
                }
                _ = describe.tick() => {
                    self.describe(&mut world);
                    let elapsed = counted.elapsed();
                    counted = tokio::time::Instant::now();
                    self.config.metrics.money(&costs, elapsed);
                    costs = world.holdings().into_iter().map(cost).collect();
                }
                () = wake => {}
            }
            let now = Timestamp::now();
            for fact in results.drain(..) {
                self.cloud_health(&fact);
                world.apply(fact, now);
            }
            for update in pods.drain(..) {
                world.apply(pod_fact(update), now);
            }
            for update in agents.drain(..) {
                world.apply(agent_fact(update), now);
            }
            refs.sort();
            refs.dedup();
            for uid in refs.drain(..) {
                if let Some(found) = self.config.refs.refs(&uid) {
                    world.apply(Fact::Refs(uid, found), now);
                }
            }
            for effect in world.decide(now) {
                self.carry_out(effect);
            }
            self.config.metrics.set_counts(&world.counts());
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Status { node, name, uid, status } => self.config.status.status(&node, &name, &uid, status),
            Effect::Delete { node, name, uid } => self.config.status.delete(&node, &name, &uid),
            Effect::Evict { node, name, uid, grace_seconds, force } => {
                self.config.status.evict(&node, &name, &uid, grace_seconds, force);
            }
            Effect::Event(event, at) => self.config.events.record(event, at),
            Effect::Follow(intent) => self.config.refs.follow(&intent),
            Effect::Forget(uid) => self.config.refs.forget(&uid),
            Effect::Desired(instance, desired) => self.config.link.set_desired(&instance, desired),
            Effect::ForgetAgent(instance) => self.config.link.forget(&instance),
            Effect::Launch(number, order) => self.launch(number, order),
            Effect::StandbyForbidden(Pool { zone, instance_type }, why) => {
                tracing::warn!(zone, instance_type, why, "a standby pool is not filled: the cost policy forbids it");
            }
            Effect::Bound(after) => self.config.metrics.bound(after),
            Effect::Started(after) => self.config.metrics.started(after),
            Effect::HandedOver { cause, outcome, took } => self.config.metrics.handed_over(cause, outcome, took),
            Effect::Terminate(ids) => self.terminate(ids),
            Effect::NeverRegistered { instance, class, code, why } => {
                self.config.metrics.launch_failed(&code);
                tracing::warn!(
                    instance,
                    class,
                    code,
                    why,
                    "an instance never registered; others of its class follow more and more seldom"
                );
            }
            Effect::FellSilent(instance) => {
                tracing::warn!(%instance, "an instance without a Pod is ended: its agent is not heard any more");
            }
            Effect::List { name, entry } => self.list(&name, entry),
            Effect::Unlist { name, uid } => self.config.directory.remove(&name, &uid),
        }
    }

    fn list(&self, name: &crate::model::ObjectName, entry: DirectoryEntry) {
        self.config.directory.set(name, entry);
    }

    /// Asks the cloud, unless it still owes an answer.
    fn describe(&mut self, world: &mut World) {
        let Ok(turn) = Arc::clone(&self.describing).try_acquire_owned() else { return };
        let round = world.begin_round();
        let cloud = Arc::clone(&self.config.cloud);
        let reply = self.reply.clone();
        let answers = self.config.cloud_answers.clone();
        self.tasks.spawn(async move {
            let answer = tokio::time::timeout(DESCRIBE_TIMEOUT, cloud.describe()).await;
            drop(turn);
            let why = match answer {
                Ok(Ok(records)) => return drop(reply.send(Fact::Instances { round, records }).await),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("the cloud did not describe its instances within {} s", DESCRIBE_TIMEOUT.as_secs()),
            };
            answers.send_if_modified(|known| {
                let next = Err(why);
                let changed = *known != next;
                if let (Err(why), true) = (&next, changed) {
                    tracing::warn!(why, "the cloud does not answer");
                }
                *known = next;
                changed
            });
        });
    }

    fn cloud_health(&self, fact: &Fact) {
        if let Fact::Instances { .. } = fact {
            let back = self.config.cloud_answers.send_if_modified(|known| std::mem::replace(known, Ok(())).is_err());
            if back {
                tracing::info!("the cloud answers");
            }
        }
    }

    fn launch(&self, number: u64, order: Order) {
        let cloud = Arc::clone(&self.config.cloud);
        let reply = self.reply.clone();
        let metrics = self.config.metrics.clone();
        let (cluster, node) = (self.config.cluster.clone(), node_of(&self.config.world.zones, &order.zone));
        // A call that takes longer has failed; what it launched all the same is found by its tags.
        let patience = Duration::try_from(self.launch_timeout).unwrap_or(LAUNCH_TIMEOUT);
        self.tasks.spawn(async move {
            let batch = format!("{:016x}", rand::random::<u64>());
            let Order { class, zone, offers, allocation, credits, count } = order;
            let tags = [(tag::CLUSTER, cluster.clone()), (tag::NODE, node), (tag::BATCH, batch.clone()), (tag::CLASS, class.clone())];
            let request = LaunchRequest {
                client_token: client_token(&cluster, &batch),
                zone,
                offers,
                allocation,
                credits,
                count,
                tags: tags.map(|(key, value)| (key.to_owned(), value)).into(),
            };
            metrics.launch(count);
            let answer = tokio::time::timeout(patience, cloud.launch(&request)).await;
            let silent = |_| CloudError::Retry {
                operation: "launch",
                code: "NoAnswer".to_owned(),
                message: format!("no answer within {patience:?}"),
            };
            let (launched, failure) = match answer.map_err(silent).and_then(|answer| answer) {
                Ok(launched) => {
                    let Launched { records, shortages, failures } = &launched;
                    tracing::info!(asked = count, got = records.len(), class, zone = request.zone, best = ?request.offers[0], "launched");
                    for shortage in shortages {
                        metrics.launch_failed(&shortage.code);
                        tracing::warn!(?shortage, class, "the cloud was short");
                    }
                    for code in failures {
                        metrics.launch_failed(code);
                    }
                    (launched, None)
                }
                Err(error) => {
                    metrics.launch_failed(error.code());
                    tracing::warn!(error = &error as &dyn std::error::Error, class, zone = request.zone, "a launch failed");
                    (Launched::default(), Some(error.to_string()))
                }
            };
            let Launched { records, shortages, failures: _ } = launched;
            drop(reply.send(Fact::Launched { order: number, records, shortages, failure }).await);
        });
    }

    fn terminate(&self, ids: Vec<InstanceId>) {
        let cloud = Arc::clone(&self.config.cloud);
        let reply = self.reply.clone();
        self.tasks.spawn(async move {
            let asked = ids.clone();
            // In a task of its own: whatever becomes of it, there is an answer.
            let ended = tokio::spawn(async move { cloud.terminate(&asked).await });
            let answer = match tokio::time::timeout(LONGEST_END, ended).await {
                Ok(Ok(Ok(()))) => EndAnswer::Taken,
                Ok(Ok(Err(error @ CloudError::Retry { .. }))) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, ?ids, "instances were not terminated; trying again");
                    EndAnswer::Failed
                }
                failed @ (Ok(Err(_)) | Err(_)) => {
                    tracing::error!(?failed, ?ids, "no answer to whether instances are terminated; trying again");
                    EndAnswer::Failed
                }
                Ok(Ok(Err(error @ CloudError::Refused { .. }))) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        ?ids,
                        "some of these run on and cost money; trying again, more and more seldom"
                    );
                    EndAnswer::Refused
                }
            };
            drop(reply.send(Fact::Ended { ids, answer }).await);
        });
    }
}

fn node_of(zones: &BTreeMap<NodeName, String>, zone: &str) -> String {
    zones.iter().find(|(_, z)| *z == zone).map(|(node, _)| node.to_string()).unwrap_or_default()
}

fn cost(holding: Holding) -> Cost {
    let Holding { namespace, class, purchase, instance_type, zone, state, hourly, on_demand } = holding;
    Cost { namespace, class, purchase: purchase.as_str(), instance_type, zone, state, hourly, on_demand }
}

fn pod_fact(update: PodUpdate) -> Fact {
    match update {
        PodUpdate::Seen(seen) => Fact::Seen(seen),
        PodUpdate::Gone(uid) => Fact::Gone(uid),
        PodUpdate::Synced(node) => Fact::Synced(node),
    }
}

fn agent_fact(update: AgentUpdate) -> Fact {
    match update {
        AgentUpdate::Connected { instance, holds } => Fact::Connected { instance, holds },
        AgentUpdate::Disconnected { instance } => Fact::Disconnected(instance),
        AgentUpdate::Report { instance, report } => Fact::Report { instance, report },
        AgentUpdate::Event { instance, event } => Fact::AgentEvent { instance, event },
        AgentUpdate::Notices { instance, notices } => Fact::Notices { instance, notices },
        AgentUpdate::Announced(announced) => Fact::Announced(announced),
    }
}

async fn sleep_until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let wait = at.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}
