//! All that the provider knows, and what follows from it. Pure: inputs and a time in, effects out.
//!
//! ```text
//!   apply(input, now)     takes a fact up, marks what it touches
//!   decide(now)           decides anew what was touched -> effects
//!   next_wake()           when to decide again although nothing happened
//! ```
//!
//! - [`facts`]: what goes in and what comes out.
//! - [`instances`]: the instances, and which Pod each is bound to. [`early`]: what was said of those not known yet.
//!   [`failures`]: those that never registered.
//! - [`pods`]: a Pod's desired state, release and end. [`status`]: what is written of it, and when.
//! - [`handover`]: a Pod on two instances for a while.
//! - [`placing`]: who gets which instance. [`money`]: what all of it costs.

mod announcements;
mod early;
mod facts;
mod failures;
mod handover;
mod instances;
mod money;
mod placing;
mod pods;
mod status;

pub use facts::{Effect, EndAnswer, Fact, WorldConfig};
pub use handover::refusal;
pub use money::Holding;
pub use placing::wants;

use crate::decide::desired::Refs;
use crate::decide::handover::causes::RESERVE;
use crate::decide::lifecycle::{self, Backing, Step};
use crate::decide::placement::{Order, Pool};
use crate::decide::purchase::{self, Market, Why};
use crate::decide::status::{INTERRUPTED, PodStatus, Reason};
use crate::model::{
    Announced, Counts, DesiredDigest, Generation, InstanceId, InstanceRecord, NodeName, Notice, PodReport, PodUid,
};
use crate::ports::PodSeen;
use announcements::Announcements;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How long after a start agents may take to come back before anything of theirs is ended.
pub const ADOPTION: SignedDuration = SignedDuration::from_secs(15);
/// A Pod on its way, or of a new generation, is no news: most often something better to say follows. Events
/// tell the story meanwhile.
const HOLD_QUIET: SignedDuration = SignedDuration::from_secs(5);
/// A Pod being stopped is out of its Services already: what happens on the way is told at the end.
const HOLD_STOPPING: SignedDuration = SignedDuration::from_secs(10);
/// When the API server says something else than we wrote for this long, it is written again: another
/// controller overwrote it (virtual-kubelet#899).
const REASSERT: SignedDuration = SignedDuration::from_secs(5);
/// A delete that showed no effect is asked for again after this long.
const DELETE_AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// How often a launch is tried again after the cloud failed to do it.
const COOLING: SignedDuration = SignedDuration::from_secs(10);
/// An instance must be missing from this many descriptions in a row before it counts as gone: clouds
/// are only eventually consistent.
const ABSENT: u8 = 2;
/// An instance whose end the cloud took note of and that it still describes as living after this many descriptions (one
/// every two seconds) is ended again.
const END_AGAIN: u64 = 15;
/// Refused each time, it is asked for after twice as many each time, at most so often twice: eight minutes.
const REFUSED_DOUBLINGS: u32 = 4;
/// An agent that was not heard for this long makes its Pod unready: what a node whose kubelet is silent
/// gets (node-monitor-grace-period of kube-controller-manager).
const SILENT: SignedDuration = SignedDuration::from_secs(40);

/// Reasons of failures that are decided here, not by the exit codes of containers.
const FAILURES: [&str; 3] = ["DeadlineExceeded", "InstanceLost", INTERRUPTED];

pub struct World {
    config: WorldConfig,
    started_at: Timestamp,
    unsynced: BTreeSet<NodeName>,
    described: bool,
    /// The round of descriptions under way or last finished.
    round: u64,
    /// Boxed, as they are large and a B-tree's nodes are two thirds full.
    pods: BTreeMap<PodUid, Box<PodEntry>>,
    instances: BTreeMap<InstanceId, InstanceEntry>,
    /// What was said of instances that the cloud has not told of yet.
    early: early::Early,
    /// Instances that Pods are bound to but that the cloud has not told of yet.
    expected: BTreeMap<InstanceId, PodUid>,
    /// Which instance says that it holds a Pod.
    holders: BTreeMap<PodUid, InstanceId>,
    /// The catalog and prices, with what the cloud was short of.
    market: Market,
    /// Launch calls under way: instances that are not known by name yet.
    launching: BTreeMap<u64, Order>,
    orders: u64,
    /// By class and zone: when to ask again after the cloud failed to launch, and what it said last.
    cooling: BTreeMap<(String, String), Timestamp>,
    refusals: BTreeMap<(String, String), String>,
    /// Where what is launched never registers.
    failing: failures::Failures,
    /// Standby pools that were said to lack what the policy forbids, and why, whatever the price was.
    forbidden: BTreeMap<Pool, Why>,
    dirty: BTreeSet<PodUid>,
    placement_dirty: bool,
    wakes: BTreeSet<(Timestamp, PodUid)>,
    placement_wake: Option<Timestamp>,
    effects: Vec<Effect>,
}

struct PodEntry {
    seen: PodSeen,
    /// What it asks of the cost policy.
    wants: Arc<purchase::Demand>,
    gone: bool,
    instance: Option<InstanceId>,
    report: Option<Box<PodReport>>,
    refs: Option<Arc<Refs>>,
    /// What the API server has, or will have when the writer is through.
    status: Option<Arc<PodStatus>>,
    written_at: Option<Timestamp>,
    failed: Option<(Reason, Timestamp)>,
    waiting: Option<Reason>,
    wants_instance: Option<Timestamp>,
    held_since: Option<Timestamp>,
    generation: Generation,
    /// The desired state that its instance was sent last.
    sent: Option<DesiredDigest>,
    /// When its object was asked to be deleted for good.
    finalized_at: Option<Timestamp>,
    /// Reasons told by events, so that each is told once.
    told: BTreeSet<String>,
    handover: Option<handover::Handover>,
    /// How the last handover ended.
    outcome: Option<Reason>,
    /// After a failed handover.
    rest_until: Option<Timestamp>,
    evicted: Option<handover::Evicted>,
    /// The last wish to move that was dealt with.
    moved: Option<String>,
}

struct InstanceEntry {
    record: InstanceRecord,
    pod: Option<PodUid>,
    connected: bool,
    ever_connected: bool,
    /// Since when its agent is not connected.
    silent_since: Option<Timestamp>,
    known_since_round: u64,
    /// The launch that it came of, or the last one before it was found.
    order: u64,
    absent: u8,
    ending: Option<Ending>,
    holds: Option<(PodUid, Generation)>,
    gone: Option<String>,
    announcements: Announcements,
}

/// One whose end was asked for.
///
/// ```text
///  Asked ── taken ───> Heard: living END_AGAIN rounds later ──> Asked
///    ├───── failed ──> Heard: in the next round ──────────────> Asked
///    └───── refused ─> Heard: twice as many rounds each time ─> Asked
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The cloud owes the answer: it is not asked twice at once. `refused`: so often in a row.
    Asked { refused: u32 },
    /// From this round of descriptions on it is asked for again, if it still lives.
    Heard { again: u64, refused: u32 },
}

impl InstanceEntry {
    /// The cloud is about to take it; `replaces`: also for a recommendation it is let go.
    fn doomed(&self, replaces: bool) -> bool {
        self.notices().any(|notice| match notice {
            Notice::Interruption { .. } | Notice::Maintenance { .. } => true,
            Notice::Rebalance { .. } => replaces,
        })
    }

    fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.announcements.iter()
    }

    fn usable(&self) -> bool {
        self.ending.is_none() && self.gone.is_none() && self.pod.is_none()
    }

    fn silent(&self, now: Timestamp) -> bool {
        self.silent_since.is_some_and(|since| now.duration_since(since) >= SILENT)
    }
}

impl World {
    pub fn new(config: WorldConfig, now: Timestamp) -> Self {
        Self {
            unsynced: config.zones.keys().cloned().collect(),
            started_at: now,
            described: false,
            round: 0,
            pods: BTreeMap::new(),
            instances: BTreeMap::new(),
            early: early::Early::default(),
            expected: BTreeMap::new(),
            holders: BTreeMap::new(),
            market: config.buying.market.clone(),
            launching: BTreeMap::new(),
            orders: 0,
            cooling: BTreeMap::new(),
            refusals: BTreeMap::new(),
            failing: failures::Failures::default(),
            forbidden: BTreeMap::new(),
            dirty: BTreeSet::new(),
            placement_dirty: true,
            wakes: BTreeSet::new(),
            placement_wake: None,
            effects: Vec::new(),
            config,
        }
    }

    /// Everything is known once: decisions may be made.
    pub fn ready(&self) -> bool {
        self.unsynced.is_empty() && self.described
    }

    /// For metrics.
    pub fn counts(&self) -> Counts {
        let live = self.instances.values().filter(|i| i.gone.is_none());
        let bound = live.clone().filter(|i| i.pod.is_some()).count();
        Counts {
            pods: self.pods.len(),
            waiting: self.pods.values().filter(|pod| pod.wants_instance.is_some()).count(),
            bound,
            free: live.count() - bound,
        }
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
            Fact::Launched { order, records, shortages, failure } => {
                self.launched(order, records, shortages, failure, now);
            }
            Fact::Reloaded { buying, keep_completed } => {
                let quarantine = std::mem::take(&mut self.market.quarantine);
                self.market = Market { quarantine, ..buying.market.clone() };
                self.config.buying = buying;
                self.config.keep_completed = keep_completed;
                self.placement_dirty = true;
                self.dirty.extend(self.pods.keys().cloned());
            }
            Fact::Ended { ids, answer } => self.ended(&ids, answer),
            Fact::Connected { instance, holds } if !self.instances.contains_key(&instance) => {
                self.early.connected(instance, holds, self.round);
            }
            Fact::Connected { instance, holds } => self.connected(instance, holds),
            Fact::Disconnected(instance) => self.disconnected(&instance, now),
            Fact::Report { instance, report } => {
                if let Some(entry) = self.pods.get_mut(&report.uid) {
                    let uid = report.uid.clone();
                    if entry.instance.as_ref() == Some(&instance) {
                        entry.report = Some(report);
                    } else if let Some(leg) = entry.leg_of(&instance) {
                        leg.report = Some(report);
                    } else {
                        return;
                    }
                    self.dirty.insert(uid);
                }
            }
            Fact::Notices { instance, notices } if !self.instances.contains_key(&instance) => {
                self.early.told(instance, notices, self.round);
            }
            Fact::Notices { instance, notices } => self.noticed(&instance, notices, now),
            Fact::Announced(announced) if !self.instances.contains_key(&announced.instance) => {
                self.early.announced(announced, self.round);
            }
            Fact::Announced(Announced { instance, notice }) => self.announced(&instance, notice, now),
            Fact::AgentEvent { instance, event } => {
                if let Some(entry) = self.pods.get_mut(&event.uid)
                    && (entry.instance.as_ref() == Some(&instance) || entry.leg_of(&instance).is_some())
                {
                    let intent = &entry.seen.intent;
                    let at = event.at;
                    let event = status::agent_event(intent, *event);
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
                let over = entry.status.as_ref().is_some_and(|s| s.phase.is_terminal());
                if seen.intent != entry.seen.intent && !over {
                    self.effects.push(Effect::Follow(Arc::clone(&seen.intent)));
                }
                if seen.intent != entry.seen.intent {
                    entry.wants = placing::wants(&self.config.zones, &seen.intent);
                    self.placement_dirty |= entry.wants_instance.is_some();
                }
                // What was written is most often what is read back: kept once.
                let written = entry.status.clone().filter(|written| Some(written) == seen.status.as_ref());
                entry.seen = PodSeen { status: written.or(seen.status), ..seen };
            }
            None => {
                let status = seen.status.clone();
                if !status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
                    self.effects.push(Effect::Follow(Arc::clone(&seen.intent)));
                }
                // A provider that comes back finds a decision of its predecessor in the status.
                let failed = status.as_ref().filter(|s| s.phase.is_terminal()).and_then(|s| {
                    let reason = s.reason.clone().filter(|r| FAILURES.contains(&r.as_str()))?;
                    Some((Reason { reason, message: s.message.clone().unwrap_or_default() }, now))
                });
                self.pods.insert(
                    uid.clone(),
                    Box::new(PodEntry {
                        wants: placing::wants(&self.config.zones, &seen.intent),
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
                        sent: None,
                        finalized_at: None,
                        told: BTreeSet::new(),
                        handover: None,
                        outcome: None,
                        rest_until: None,
                        evicted: None,
                        moved: None,
                    }),
                );
                self.adopt(&uid, now);
            }
        }
        if !ignored.is_empty() {
            self.tell(&uid, true, "UnsupportedField", &ignored.join("; "), now);
        }
        self.list(&uid);
        self.dirty.insert(uid);
    }

    fn list(&mut self, uid: &PodUid) {
        let Some(entry) = self.pods.get(uid).filter(|e| !e.gone) else { return };
        let intent = &entry.seen.intent;
        let containers = match &intent.spec {
            Ok(spec) => spec.init_containers.iter().chain(&spec.containers).map(|c| c.name.clone()).collect(),
            Err(_) => Vec::new(),
        };
        let backing = entry.seen.status.as_ref().map(|status| &status.annotations);
        self.effects.push(Effect::List {
            name: intent.name.clone(),
            entry: super::DirectoryEntry {
                uid: uid.clone(),
                node: intent.node.clone(),
                instance: entry.instance.clone(),
                containers,
                started: entry.report.is_some(),
                released: entry.status.as_ref().is_some_and(|s| s.ran()) && entry.instance.is_none(),
                reserve: intent.labels.contains_key(RESERVE).then(|| backing.cloned().unwrap_or_default()),
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
        self.hand_over(uid, now);
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
            status: entry.status.as_deref(),
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
            // What drains beside it ends first; that has a bound of its own.
            Step::Finalize if self.pods.get(uid).is_some_and(|e| e.handover.is_some() && !e.gone) => {}
            Step::Finalize => return self.finalize(uid, now),
            Step::Rest => {}
        }
        if let Some(since) = self.pods.get(uid).and_then(|e| self.instances.get(e.instance.as_ref()?)?.silent_since) {
            let due = since.saturating_add(SILENT).unwrap_or(Timestamp::MAX);
            if due > now {
                self.wakes.insert((due, uid.clone()));
            }
        }
        self.write_status(uid, false, now);
    }

    fn need_instance(&mut self, uid: &PodUid, now: Timestamp) {
        if self.pods.get(uid).is_some_and(|e| e.instance.is_some()) {
            self.unbind(uid);
        }
        if self.bind_holder(uid) {
            return;
        }
        if let Some(entry) = self.pods.get_mut(uid)
            && entry.wants_instance.is_none()
        {
            entry.wants_instance = Some(now);
            self.placement_dirty = true;
        }
    }
}

#[cfg(test)]
mod tests;
