//! All that the provider knows, and what follows from it. Pure: inputs and a time in, effects out.
//!
//! ```text
//!   apply(input, now)     takes a fact up, marks what it touches
//!   decide(now)           decides anew what was touched -> effects
//!   next_wake()           when to decide again although nothing happened
//! ```
//!
//! The bindings between Pods and instances are kept in both directions and changed only by `bind` and
//! `unbind`. What an agent says that it holds outranks the annotation on the Pod, which outranks
//! nothing: so a crash between a binding and its record is healed by the agent.

use crate::decide::desired::{NodeFacts, Refs, pod_size, resolve};
use crate::decide::lifecycle::{self, Backing, Step};
use crate::decide::placement::{self, Demand, Pool, Rules, Supply};
use crate::decide::status::{Facts, Phase, PodStatus, Reason, status};
use crate::model::{
    AgentEvent, ContainerKind, ContainerState, DesiredPod, DnsConfig, Generation, InstanceId, InstanceRecord,
    InstanceState, InstanceType, NodeName, ObjectName, PodIntent, PodReport, PodUid, Stop,
};
use crate::ports::{PodEvent, PodSeen};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// How long after a start agents may take to come back before anything of theirs is ended.
pub const ADOPTION: SignedDuration = SignedDuration::from_secs(15);
/// What is no news is not written at once: most often something better to say follows.
const HOLD: SignedDuration = SignedDuration::from_secs(1);
/// When the API server says something else than we wrote for this long, it is written again: another
/// controller overwrote it (virtual-kubelet#899).
const REASSERT: SignedDuration = SignedDuration::from_secs(5);
/// A delete that showed no effect is asked for again after this long.
const DELETE_AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// How often a pool is asked again after the cloud refused.
const COOLING: SignedDuration = SignedDuration::from_secs(10);
/// An instance must be missing from this many descriptions in a row before it counts as gone: clouds
/// are only eventually consistent.
const ABSENT: u8 = 2;

/// What never changes while a provider runs.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub zones: BTreeMap<NodeName, String>,
    pub address: IpAddr,
    pub types: Vec<InstanceType>,
    pub standby: BTreeMap<Pool, u32>,
    pub default_cpu_millis: u64,
    pub default_memory_bytes: u64,
    pub reserved_memory_bytes: u64,
    pub pods_per_node: u32,
    pub registration_timeout: SignedDuration,
    pub keep_completed: SignedDuration,
    pub dns_server: IpAddr,
    pub dns_domain: String,
}

/// A fact from outside.
#[derive(Debug)]
pub enum Fact {
    Seen(Box<PodSeen>),
    Gone(PodUid),
    Synced(NodeName),
    Refs(PodUid, Arc<Refs>),
    /// A full description of the cloud. `round` counts up; it was asked for after everything that the
    /// world knew when the round began.
    Instances {
        round: u64,
        records: Vec<InstanceRecord>,
    },
    Launched {
        pool: Pool,
        asked: u32,
        records: Vec<InstanceRecord>,
        failure: Option<String>,
    },
    NotTerminated(Vec<InstanceId>),
    Connected {
        instance: InstanceId,
        holds: Option<(PodUid, Generation)>,
    },
    Disconnected(InstanceId),
    Report {
        instance: InstanceId,
        report: Box<PodReport>,
    },
    AgentEvent {
        instance: InstanceId,
        event: Box<AgentEvent>,
    },
}

/// Something to carry out.
#[derive(Debug)]
pub enum Effect {
    Status {
        node: NodeName,
        name: ObjectName,
        uid: PodUid,
        status: Box<PodStatus>,
    },
    Delete {
        node: NodeName,
        name: ObjectName,
        uid: PodUid,
    },
    Event(PodEvent, Timestamp),
    Follow(Arc<PodIntent>),
    Forget(PodUid),
    Desired(InstanceId, Arc<DesiredPod>),
    ForgetAgent(InstanceId),
    Launch(Pool, u32),
    /// A Pod is Running for the first time, this long after its creation.
    Started(SignedDuration),
    Terminate(Vec<InstanceId>),
    /// The kubelet API's directory: set, or removed.
    List {
        name: ObjectName,
        entry: super::DirectoryEntry,
    },
    Unlist {
        name: ObjectName,
        uid: PodUid,
    },
}

pub struct World {
    config: WorldConfig,
    started_at: Timestamp,
    unsynced: BTreeSet<NodeName>,
    described: bool,
    /// The round of descriptions under way or last finished.
    round: u64,
    pods: BTreeMap<PodUid, PodEntry>,
    instances: BTreeMap<InstanceId, InstanceEntry>,
    /// Launch calls under way: instances that are not known by name yet.
    launching: BTreeMap<Pool, u32>,
    cooling: BTreeMap<Pool, Timestamp>,
    failures: BTreeMap<Pool, String>,
    dirty: BTreeSet<PodUid>,
    placement_dirty: bool,
    wakes: BTreeSet<(Timestamp, PodUid)>,
    placement_wake: Option<Timestamp>,
    effects: Vec<Effect>,
}

struct PodEntry {
    seen: PodSeen,
    gone: bool,
    instance: Option<InstanceId>,
    report: Option<Box<PodReport>>,
    refs: Option<Arc<Refs>>,
    /// What the API server has, or will have when the writer is through.
    status: Option<PodStatus>,
    written_at: Option<Timestamp>,
    failed: Option<(Reason, Timestamp)>,
    waiting: Option<Reason>,
    wants_instance: Option<Timestamp>,
    held_since: Option<Timestamp>,
    generation: Generation,
    desired: Option<Arc<DesiredPod>>,
    /// When its object was asked to be deleted for good.
    finalized_at: Option<Timestamp>,
    /// The last reason told by an event, so that it is told once.
    told: Option<String>,
}

struct InstanceEntry {
    record: InstanceRecord,
    pod: Option<PodUid>,
    connected: bool,
    ever_connected: bool,
    known_since_round: u64,
    absent: u8,
    ending: bool,
    holds: Option<(PodUid, Generation)>,
    gone: Option<String>,
}

impl InstanceEntry {
    fn usable(&self) -> bool {
        !self.ending && self.gone.is_none() && self.pod.is_none()
    }
}

impl World {
    pub fn new(config: WorldConfig, now: Timestamp) -> Self {
        Self {
            unsynced: config.zones.keys().cloned().collect(),
            config,
            started_at: now,
            described: false,
            round: 0,
            pods: BTreeMap::new(),
            instances: BTreeMap::new(),
            launching: BTreeMap::new(),
            cooling: BTreeMap::new(),
            failures: BTreeMap::new(),
            dirty: BTreeSet::new(),
            placement_dirty: true,
            wakes: BTreeSet::new(),
            placement_wake: None,
            effects: Vec::new(),
        }
    }

    /// Everything is known once: decisions may be made.
    pub fn ready(&self) -> bool {
        self.unsynced.is_empty() && self.described
    }

    /// Counts for metrics: Pods, instances by whether a Pod is bound.
    pub fn counts(&self) -> (usize, usize, usize) {
        let live = self.instances.values().filter(|i| i.gone.is_none());
        let bound = live.clone().filter(|i| i.pod.is_some()).count();
        (self.pods.len(), bound, live.count() - bound)
    }

    /// Begins a round of descriptions; what is added from now on can't be missing from it.
    pub fn begin_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    pub fn apply(&mut self, fact: Fact, now: Timestamp) {
        match fact {
            Fact::Seen(seen) => self.seen(*seen, now),
            Fact::Gone(uid) => {
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.gone = true;
                    self.dirty.insert(uid);
                }
            }
            Fact::Synced(node) => {
                self.unsynced.remove(&node);
            }
            Fact::Refs(uid, refs) => {
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.refs = Some(refs);
                    self.dirty.insert(uid);
                }
            }
            Fact::Instances { round, records } => self.described(round, records, now),
            Fact::Launched { pool, asked, records, failure } => self.launched(pool, asked, records, failure, now),
            Fact::NotTerminated(ids) => {
                for id in ids {
                    if let Some(entry) = self.instances.get_mut(&id) {
                        entry.ending = false;
                        self.placement_dirty = true;
                    }
                }
            }
            Fact::Connected { instance, holds } => self.connected(instance, holds),
            Fact::Disconnected(instance) => {
                if let Some(entry) = self.instances.get_mut(&instance) {
                    entry.connected = false;
                    self.dirty.extend(entry.pod.clone());
                    self.placement_dirty = true;
                }
            }
            Fact::Report { instance, report } => {
                if let Some(entry) = self.pods.get_mut(&report.uid)
                    && entry.instance.as_ref() == Some(&instance)
                {
                    self.dirty.insert(report.uid.clone());
                    entry.report = Some(report);
                }
            }
            Fact::AgentEvent { instance, event } => {
                if let Some(entry) = self.pods.get(&event.uid)
                    && entry.instance.as_ref() == Some(&instance)
                {
                    let intent = &entry.seen.intent;
                    let at = event.at;
                    let event = agent_event(intent, *event);
                    self.effects.push(Effect::Event(event, at));
                }
            }
        }
    }

    fn seen(&mut self, seen: PodSeen, now: Timestamp) {
        let uid = seen.intent.uid.clone();
        let ignored: Vec<String> = seen.unhonoured.iter().map(ToString::to_string).collect();
        match self.pods.get_mut(&uid) {
            Some(entry) => {
                if seen.intent != entry.seen.intent {
                    self.effects.push(Effect::Follow(Arc::clone(&seen.intent)));
                }
                entry.seen = seen;
            }
            None => {
                self.effects.push(Effect::Follow(Arc::clone(&seen.intent)));
                let status = seen.status.clone();
                // A provider that comes back finds a decision of its predecessor in the status.
                let failed = status.as_ref().filter(|s| s.phase.is_terminal()).and_then(|s| {
                    let reason = s.reason.clone().filter(|r| r == "DeadlineExceeded" || r == "InstanceLost")?;
                    Some((Reason { reason, message: s.message.clone().unwrap_or_default() }, now))
                });
                self.pods.insert(
                    uid.clone(),
                    PodEntry {
                        seen,
                        gone: false,
                        instance: None,
                        report: None,
                        refs: None,
                        status,
                        written_at: None,
                        failed,
                        waiting: None,
                        wants_instance: None,
                        held_since: None,
                        generation: Generation(0),
                        desired: None,
                        finalized_at: None,
                        told: None,
                    },
                );
                self.adopt(&uid);
            }
        }
        if !ignored.is_empty() {
            self.tell(&uid, true, "UnsupportedField", &ignored.join("; "), now);
        }
        self.list(&uid);
        self.dirty.insert(uid);
    }

    /// Finds the instance that a Pod already has: one whose agent holds it, or the one annotated.
    fn adopt(&mut self, uid: &PodUid) {
        let holder = self.instances.iter().find(|(_, i)| i.holds.as_ref().is_some_and(|(held, _)| held == uid));
        let annotated = || {
            let status = self.pods.get(uid)?.status.as_ref()?;
            status.annotations.get("pilotlight.dev/instance-id").map(|id| InstanceId::new(id.clone()))
        };
        if let Some(id) = holder.map(|(id, _)| id.clone()).or_else(annotated) {
            self.bind(uid, &id);
        }
    }

    fn bind(&mut self, uid: &PodUid, id: &InstanceId) {
        self.unbind(uid);
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.instance = Some(id.clone());
        pod.wants_instance = None;
        pod.waiting = None;
        pod.desired = None;
        if let Some(instance) = self.instances.get_mut(id) {
            if let Some((held, generation)) = &instance.holds
                && held == uid
            {
                pod.generation = pod.generation.max(*generation);
            }
            instance.pod = Some(uid.clone());
        }
        self.dirty.insert(uid.clone());
        self.placement_dirty = true;
        self.list(uid);
    }

    fn unbind(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if let Some(id) = pod.instance.take()
            && let Some(instance) = self.instances.get_mut(&id)
            && instance.pod.as_ref() == Some(uid)
        {
            instance.pod = None;
        }
        pod.report = None;
        pod.desired = None;
        self.placement_dirty = true;
    }

    fn add_instance(&mut self, record: InstanceRecord) {
        let id = record.id.clone();
        let annotated = self.pods.iter().find(|(_, p)| p.instance.as_ref() == Some(&id)).map(|(uid, _)| uid.clone());
        self.instances.entry(id).or_insert_with(|| InstanceEntry {
            record,
            pod: annotated,
            connected: false,
            ever_connected: false,
            known_since_round: self.round,
            absent: 0,
            ending: false,
            holds: None,
            gone: None,
        });
        self.placement_dirty = true;
    }

    fn described(&mut self, round: u64, records: Vec<InstanceRecord>, now: Timestamp) {
        let mut absent: BTreeSet<InstanceId> = self.instances.keys().cloned().collect();
        for record in records {
            absent.remove(&record.id);
            match self.instances.get_mut(&record.id) {
                None if record.state == InstanceState::Terminated => {}
                None => self.add_instance(record),
                Some(entry) => {
                    entry.absent = 0;
                    if entry.record != record {
                        self.dirty.extend(entry.pod.clone());
                        self.placement_dirty = true;
                        entry.record = record;
                    }
                    let record = &entry.record;
                    let over = matches!(record.state, InstanceState::Terminated | InstanceState::ShuttingDown);
                    if over && entry.gone.is_none() {
                        let why = record.state_reason.clone().unwrap_or_else(|| "the cloud ended it".to_owned());
                        entry.gone = Some(format!("instance {}: {why}", record.id));
                        self.dirty.extend(entry.pod.clone());
                    }
                }
            }
        }
        for id in absent {
            let Some(entry) = self.instances.get_mut(&id) else { continue };
            if entry.known_since_round >= round {
                continue;
            }
            entry.absent = entry.absent.saturating_add(1);
            if entry.absent >= ABSENT && entry.gone.is_none() {
                entry.gone = Some(format!("instance {id} does not exist any more"));
                self.dirty.extend(entry.pod.clone());
            }
        }
        if !self.described {
            self.described = true;
            self.dirty.extend(self.pods.keys().cloned());
        }
        self.prune(now);
    }

    /// Forgets instances that are gone and that nobody asks about, and ends those that never registered.
    fn prune(&mut self, now: Timestamp) {
        let timeout = self.config.registration_timeout;
        let mut late = Vec::new();
        for (id, entry) in &mut self.instances {
            let since = entry.record.launched_at.max(self.started_at);
            if entry.gone.is_none() && !entry.ever_connected && !entry.ending && now.duration_since(since) > timeout {
                entry.ending = true;
                late.push(id.clone());
                self.dirty.extend(entry.pod.clone());
            }
        }
        if !late.is_empty() {
            for id in &late {
                if let Some(entry) = self.instances.get_mut(id) {
                    entry.gone = Some(format!("instance {id} did not register within {timeout:#}"));
                }
            }
            self.effects.push(Effect::Terminate(late));
            self.placement_dirty = true;
        }
        let forgotten: Vec<InstanceId> = self
            .instances
            .iter()
            .filter(|(_, e)| {
                e.pod.is_none()
                    && e.gone.is_some()
                    && (e.absent >= ABSENT || e.record.state == InstanceState::Terminated)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in forgotten {
            self.instances.remove(&id);
            self.effects.push(Effect::ForgetAgent(id));
        }
    }

    fn launched(
        &mut self,
        pool: Pool,
        asked: u32,
        records: Vec<InstanceRecord>,
        failure: Option<String>,
        now: Timestamp,
    ) {
        if let Some(count) = self.launching.get_mut(&pool) {
            *count = count.saturating_sub(asked);
            if *count == 0 {
                self.launching.remove(&pool);
            }
        }
        for record in records {
            self.add_instance(record);
        }
        match failure {
            Some(message) => {
                self.cooling.insert(pool.clone(), now.saturating_add(COOLING).unwrap_or(Timestamp::MAX));
                self.failures.insert(pool, message);
            }
            None => {
                self.cooling.remove(&pool);
                self.failures.remove(&pool);
            }
        }
        self.placement_dirty = true;
    }

    fn connected(&mut self, id: InstanceId, holds: Option<(PodUid, Generation)>) {
        let Some(entry) = self.instances.get_mut(&id) else { return };
        entry.connected = true;
        entry.ever_connected = true;
        // Nothing yet, but what was sent may be on its way.
        entry.holds = holds.clone().or_else(|| entry.holds.take());
        self.placement_dirty = true;
        match holds {
            Some((uid, generation)) => match self.pods.get_mut(&uid) {
                Some(pod) if pod.instance.as_ref() == Some(&id) => {
                    pod.generation = pod.generation.max(generation);
                    // The agent may have missed what was sent meanwhile: decided anew, sent again if it differs.
                    self.dirty.insert(uid);
                }
                // Too late: the Pod was given to another meanwhile. This one is a stray.
                Some(pod) if pod.instance.as_ref().is_some_and(|other| holds_pod(&self.instances, other, &uid)) => {}
                Some(_) => self.bind(&uid, &id),
                None => {}
            },
            None => self.dirty.extend(entry.pod.clone()),
        }
    }

    /// Whether the cloud has told of this instance: the engine keeps an early agent's word until then.
    pub fn knows_instance(&self, id: &InstanceId) -> bool {
        self.instances.contains_key(id)
    }

    fn list(&mut self, uid: &PodUid) {
        let Some(entry) = self.pods.get(uid).filter(|e| !e.gone) else { return };
        let intent = &entry.seen.intent;
        let containers = match &intent.spec {
            Ok(spec) => spec.init_containers.iter().chain(&spec.containers).map(|c| c.name.clone()).collect(),
            Err(_) => Vec::new(),
        };
        self.effects.push(Effect::List {
            name: intent.name.clone(),
            entry: super::DirectoryEntry {
                uid: uid.clone(),
                node: intent.node.clone(),
                instance: entry.instance.clone(),
                containers,
                started: entry.report.is_some(),
                object: Arc::clone(&entry.seen.object),
            },
        });
    }

    /// When to call `decide` again if nothing is applied before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let pod = self.wakes.first().map(|(at, _)| *at);
        [pod, self.placement_wake].into_iter().flatten().min()
    }

    /// Decides anew whatever was touched or is due.
    pub fn decide(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.ready() {
            while let Some((at, uid)) = self.wakes.first().cloned() {
                if at > now {
                    break;
                }
                self.wakes.remove(&(at, uid.clone()));
                self.dirty.insert(uid);
            }
            if self.placement_wake.is_some_and(|at| at <= now) {
                self.placement_wake = None;
                self.placement_dirty = true;
            }
            // Placement touches Pods and Pods touch placement; neither goes on for ever, since a Pod that
            // was bound, failed or told why it waits is not touched again for the same reason.
            while !self.dirty.is_empty() || self.placement_dirty {
                for uid in std::mem::take(&mut self.dirty) {
                    self.decide_pod(&uid, now);
                }
                if std::mem::take(&mut self.placement_dirty) {
                    self.place(now);
                }
            }
        }
        std::mem::take(&mut self.effects)
    }

    fn decide_pod(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get(uid) else { return };
        let instance = entry.instance.as_ref().map(|id| match self.instances.get(id) {
            Some(InstanceEntry { gone: Some(why), .. }) => Backing::Gone { why: why.clone() },
            Some(i) => Backing::Alive { record: &i.record, connected: i.connected },
            None => Backing::Gone { why: format!("instance {id} does not exist any more") },
        });
        let view = lifecycle::View {
            intent: &entry.seen.intent,
            gone: entry.gone,
            instance,
            report: entry.report.as_deref(),
            status: entry.status.as_ref(),
            keep_completed: self.config.keep_completed,
            failed: entry.failed.as_ref().map(|(reason, at)| (reason, *at)),
        };
        let plan = lifecycle::plan(&view, now);
        if let Some(at) = plan.wake_at {
            self.wakes.insert((at, uid.clone()));
        }
        if let Some(reason) = plan.failed {
            self.tell(uid, true, &reason.reason, &reason.message, now);
            if let Some(entry) = self.pods.get_mut(uid) {
                entry.failed = Some((reason, now));
                self.dirty.insert(uid.clone());
            }
        }
        match plan.step {
            Step::NeedInstance => self.need_instance(uid, now),
            Step::Run { stop } => self.send_desired(uid, stop),
            Step::Release => self.release(uid),
            Step::Finalize => return self.finalize(uid, now),
            Step::Rest => {}
        }
        self.write_status(uid, now);
    }

    fn need_instance(&mut self, uid: &PodUid, now: Timestamp) {
        if self.pods.get(uid).is_some_and(|e| e.instance.is_some()) {
            self.unbind(uid);
        }
        if let Some(entry) = self.pods.get_mut(uid)
            && entry.wants_instance.is_none()
        {
            entry.wants_instance = Some(now);
            self.placement_dirty = true;
        }
    }

    /// Sends the Pod's desired state if it differs from what was sent last.
    fn send_desired(&mut self, uid: &PodUid, stop: Option<Stop>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some((id, instance)) = entry.instance.as_ref().and_then(|id| Some((id, self.instances.get_mut(id)?)))
        else {
            return;
        };
        // Before its agent was heard, the generation that it holds is not known.
        if !instance.ever_connected {
            return;
        }
        let empty = Arc::new(Refs::default());
        let refs = match (&entry.refs, &stop) {
            (Some(refs), _) => refs,
            (None, Some(_)) => &empty,
            (None, None) => return,
        };
        let Ok(spec) = &entry.seen.intent.spec else { return };
        let facts = NodeFacts {
            pod_ip: instance.record.pod_ip,
            host_ips: vec![instance.record.private_ip.unwrap_or(self.config.address)],
            allocatable: allocatable(&self.config, &instance.record),
            cluster_domain: self.config.dns_domain.clone(),
            cluster_dns: vec![self.config.dns_server],
            host_dns: DnsConfig::default(),
        };
        let next = resolve(&entry.seen.intent, spec, refs, &facts, entry.generation, stop);
        if entry.desired.as_ref().is_some_and(|sent| **sent == next) {
            return;
        }
        entry.generation = Generation(entry.generation.0 + 1);
        let desired = Arc::new(DesiredPod { generation: entry.generation, ..next });
        entry.desired = Some(Arc::clone(&desired));
        // From here on it is this Pod's, also after the Pod is gone: an instance serves one Pod in its life.
        instance.holds = Some((uid.clone(), entry.generation));
        self.effects.push(Effect::Desired(id.clone(), desired));
    }

    /// Nothing of the Pod runs any more: its instance goes, the object stays.
    fn release(&mut self, uid: &PodUid) {
        let Some(id) = self.pods.get(uid).and_then(|e| e.instance.clone()) else { return };
        self.unbind(uid);
        self.end(&[id]);
        self.list(uid);
    }

    fn end(&mut self, ids: &[InstanceId]) {
        let mut ended = Vec::new();
        for id in ids {
            if let Some(entry) = self.instances.get_mut(id)
                && entry.gone.is_none()
                && !entry.ending
            {
                entry.ending = true;
                ended.push(id.clone());
            }
        }
        if !ended.is_empty() {
            match self.effects.last_mut() {
                Some(Effect::Terminate(more)) => more.extend(ended),
                _ => self.effects.push(Effect::Terminate(ended)),
            }
        }
    }

    fn finalize(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.wants_instance = None;
        let again = |at: Timestamp| at.saturating_add(DELETE_AGAIN).unwrap_or(Timestamp::MAX);
        if !entry.gone && entry.finalized_at.is_some_and(|at| now < again(at)) {
            return;
        }
        entry.finalized_at = Some(now);
        let intent = Arc::clone(&entry.seen.intent);
        let ran = entry.report.is_some();
        if !entry.gone {
            if ran {
                self.write_status(uid, now);
            }
            self.effects.push(Effect::Delete {
                node: intent.node.clone(),
                name: intent.name.clone(),
                uid: uid.clone(),
            });
        }
        let instance = self.pods.get(uid).and_then(|e| e.instance.clone());
        self.unbind(uid);
        if let Some(id) = instance {
            self.end(&[id]);
        }
        self.effects.push(Effect::Forget(uid.clone()));
        if let Some(entry) = self.pods.get_mut(uid) {
            if entry.gone {
                self.pods.remove(uid);
                self.effects.push(Effect::Unlist { name: intent.name.clone(), uid: uid.clone() });
            } else {
                // The object goes soon; if the delete should be lost, it is asked for again.
                self.wakes.insert((again(now), uid.clone()));
            }
        }
    }

    fn write_status(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let instance = entry.instance.as_ref().and_then(|id| self.instances.get(id)).map(|i| &i.record);
        let facts = Facts {
            intent: &entry.seen.intent,
            instance,
            class: "default",
            report: entry.report.as_deref(),
            waiting: entry.waiting.as_ref(),
            failed: entry.failed.as_ref().map(|(reason, _)| reason),
            previous: entry.status.as_ref(),
            gates: &entry.seen.gates,
        };
        let next = status(&facts, now);
        let refused = next.reason.clone().filter(|_| entry.seen.intent.spec.is_err()).zip(next.message.clone());
        let differs = entry.status.as_ref() != Some(&next);
        let overwritten = entry.seen.status.as_ref().is_none_or(|api| !next.agrees_with(api));
        if differs {
            if let Some(hold) = hold(&next, entry) {
                let since = *entry.held_since.get_or_insert(now);
                let due = since.saturating_add(hold).unwrap_or(Timestamp::MAX);
                if now < due {
                    if due < Timestamp::MAX {
                        self.wakes.insert((due, uid.clone()));
                    }
                    return;
                }
            }
        } else if !overwritten {
            entry.held_since = None;
            return;
        } else {
            // Written before, but the API server shows something else: perhaps the write is still on its way.
            let due = entry.written_at.unwrap_or(self.started_at).saturating_add(REASSERT).unwrap_or(now);
            if now < due {
                self.wakes.insert((due, uid.clone()));
                return;
            }
        }
        let before = entry.status.as_ref().map(|s| s.phase);
        if next.phase == Phase::Running && before.is_none_or(|phase| phase == Phase::Pending) {
            self.effects.push(Effect::Started(now.duration_since(entry.seen.intent.created_at)));
        }
        entry.held_since = None;
        entry.written_at = Some(now);
        entry.status = Some(next.clone());
        let intent = &entry.seen.intent;
        self.effects.push(Effect::Status {
            node: intent.node.clone(),
            name: intent.name.clone(),
            uid: uid.clone(),
            status: Box::new(next),
        });
        if let Some((reason, message)) = refused {
            self.tell(uid, true, &reason, &message, now);
        }
    }

    /// An event of ours on a Pod; the same reason is told once.
    fn tell(&mut self, uid: &PodUid, warning: bool, reason: &str, message: &str, now: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if entry.told.as_deref() == Some(reason) {
            return;
        }
        entry.told = Some(reason.to_owned());
        let intent = &entry.seen.intent;
        let event = PodEvent {
            node: intent.node.clone(),
            pod: intent.name.clone(),
            uid: uid.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            field_path: None,
        };
        self.effects.push(Effect::Event(event, now));
    }

    fn place(&mut self, now: Timestamp) {
        let adopting = now < self.started_at.saturating_add(ADOPTION).unwrap_or(Timestamp::MIN);
        let (demands, supplies, rules) = self.placement_input(now);
        let plan = placement::plan(&demands, &supplies, &rules, now);
        self.placement_wake = plan.wake_at;
        // Before a Pod gets an instance, everyone who may already hold it must have spoken.
        let bind = if adopting && self.awaits_agents() { Vec::new() } else { plan.bind };
        for (uid, id) in bind {
            self.bind(&uid, &id);
            if let Some(record) = self.instances.get(&id).map(|i| i.record.clone()) {
                let message = format!(
                    "Backed by instance {} ({}, {}, ${}/h) in {}",
                    record.id,
                    record.instance_type,
                    record.purchase.as_str(),
                    record.price,
                    record.zone,
                );
                self.tell(&uid, false, "InstanceBound", &message, now);
            }
        }
        for (pool, count) in plan.launch {
            *self.launching.entry(pool.clone()).or_default() += count;
            self.effects.push(Effect::Launch(pool, count));
        }
        for (uid, why) in plan.waiting {
            let mut message = why.message();
            if let placement::Waiting::NoCapacity { instance_type, .. } = &why {
                let failure = self.failures.iter().find(|(pool, _)| pool.instance_type == *instance_type);
                if let Some((_, failure)) = failure {
                    message = format!("{message}: {failure}");
                }
            }
            let launching = matches!(why, placement::Waiting::Launching { .. });
            let reason = why.reason();
            self.tell(&uid, !launching, if launching { "InstanceLaunching" } else { reason }, &message, now);
            if let Some(entry) = self.pods.get_mut(&uid) {
                let next = Some(Reason { reason: reason.to_owned(), message }).filter(|_| !launching);
                if entry.waiting != next {
                    entry.waiting = next;
                    self.dirty.insert(uid);
                }
            }
        }
        if adopting {
            // Agents may still come back and say what they hold.
            let later = self.started_at.saturating_add(ADOPTION).unwrap_or(now);
            if !plan.release.is_empty() || self.strays().next().is_some() || self.awaits_agents() {
                self.placement_wake = Some(self.placement_wake.map_or(later, |at| at.min(later)));
            }
        } else {
            let strays: Vec<InstanceId> = self.strays().collect();
            self.end(&plan.release);
            self.end(&strays);
        }
    }

    fn placement_input(&self, now: Timestamp) -> (Vec<Demand>, Vec<Supply>, Rules) {
        let zone_of = |node: &NodeName| self.config.zones.get(node).cloned().unwrap_or_default();
        let demands = self
            .pods
            .iter()
            .filter_map(|(uid, entry)| {
                let since = entry.wants_instance?;
                let spec = entry.seen.intent.spec.as_ref().ok()?;
                let size = pod_size(spec);
                Some(Demand {
                    pod: uid.clone(),
                    zone: zone_of(&entry.seen.intent.node),
                    cpu_millis: size.cpu_millis.unwrap_or(self.config.default_cpu_millis),
                    memory_bytes: size.memory_bytes.unwrap_or(self.config.default_memory_bytes),
                    since,
                })
            })
            .collect();
        let pool =
            |record: &InstanceRecord| Pool { zone: record.zone.clone(), instance_type: record.instance_type.clone() };
        let holds_nothing = |entry: &InstanceEntry| entry.holds.is_none();
        let known = self.instances.iter().filter(|(_, e)| e.usable() && holds_nothing(e)).map(|(id, e)| Supply {
            instance: id.clone(),
            pool: pool(&e.record),
            ready: e.connected,
            launched_at: e.record.launched_at,
        });
        // Launches under way have no names yet; they are never bound or released, only counted.
        let coming = self.launching.iter().flat_map(|(pool, count)| {
            (0..*count).map(move |n| Supply {
                instance: InstanceId::new(format!("launching-{}-{}-{n}", pool.zone, pool.instance_type)),
                pool: pool.clone(),
                ready: false,
                launched_at: now,
            })
        });
        let supplies = known.chain(coming).collect();
        let mut room: BTreeMap<String, u32> =
            self.config.zones.values().map(|zone| (zone.clone(), self.config.pods_per_node)).collect();
        for entry in self.instances.values().filter(|e| !e.ending && e.gone.is_none()) {
            if let Some(left) = room.get_mut(&entry.record.zone) {
                *left = left.saturating_sub(1);
            }
        }
        for (pool, count) in &self.launching {
            if let Some(left) = room.get_mut(&pool.zone) {
                *left = left.saturating_sub(*count);
            }
        }
        let rules = Rules {
            types: self.config.types.clone(),
            reserved_memory_bytes: self.config.reserved_memory_bytes,
            standby: self.config.standby.clone(),
            cooling: self.cooling.clone(),
            room,
        };
        (demands, supplies, rules)
    }

    /// Whether an instance from before this start has not said yet what it holds.
    fn awaits_agents(&self) -> bool {
        let silent = |e: &InstanceEntry| e.usable() && !e.ever_connected && e.record.launched_at <= self.started_at;
        self.instances.values().any(silent)
    }

    /// Instances whose agent holds a Pod that no longer exists, or that is backed by another.
    fn strays(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.instances.iter().filter(|(_, e)| e.usable() && e.holds.is_some()).map(|(id, _)| id.clone())
    }
}

fn holds_pod(instances: &BTreeMap<InstanceId, InstanceEntry>, id: &InstanceId, uid: &PodUid) -> bool {
    let live = instances.get(id).filter(|entry| entry.gone.is_none());
    live.is_some_and(|entry| entry.holds.as_ref().is_some_and(|(held, _)| held == uid))
}

fn allocatable(config: &WorldConfig, record: &InstanceRecord) -> crate::model::Resources {
    let known = config.types.iter().find(|t| t.name == record.instance_type);
    crate::model::Resources {
        cpu_millis: known.map(|t| t.cpu_millis),
        memory_bytes: known.map(|t| t.memory_bytes.saturating_sub(config.reserved_memory_bytes)),
        ephemeral_storage_bytes: None,
    }
}

/// How long a status may wait for a better one. None: it is news.
fn hold(next: &PodStatus, entry: &PodEntry) -> Option<SignedDuration> {
    let before = entry.status.as_ref();
    let pending = only_waits(next) && before.is_none_or(only_waits);
    // The end of a Pod comes in pieces: containers, sandbox, and then for good.
    let stopping = entry.seen.intent.deletion.is_some()
        && before.is_some()
        && !entry.gone
        && !entry.report.as_ref().is_some_and(|report| report.terminated);
    // Only metadata.generation moved on: nothing about the Pod itself is new. Where it did because of the
    // deletion, the last status will say it.
    let renumbered = before
        .is_some_and(|before| *next == PodStatus { observed_generation: next.observed_generation, ..before.clone() });
    match (stopping, renumbered) {
        (true, true) => Some(SignedDuration::MAX),
        _ => (pending || stopping || renumbered).then_some(HOLD),
    }
}

/// Says nothing but that the Pod is on its way.
fn only_waits(status: &PodStatus) -> bool {
    status.phase == Phase::Pending
        && status.reason.is_none()
        && status.init_containers.iter().chain(&status.containers).all(|c| match &c.state {
            ContainerState::Waiting { reason, .. } => reason == "ContainerCreating" || reason == "PodInitializing",
            _ => false,
        })
}

fn agent_event(intent: &PodIntent, event: AgentEvent) -> PodEvent {
    let field_path = event.container.map(|(kind, name)| match kind {
        ContainerKind::App => format!("spec.containers{{{name}}}"),
        ContainerKind::Init | ContainerKind::Sidecar => format!("spec.initContainers{{{name}}}"),
    });
    PodEvent {
        node: intent.node.clone(),
        pod: intent.name.clone(),
        uid: event.uid,
        warning: event.warning,
        reason: event.reason,
        message: event.message,
        field_path,
    }
}

#[cfg(test)]
mod tests;
