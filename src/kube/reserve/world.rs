//! What the watches have shown, and snapshots of it for the machine. Pure: no clock, no I/O.
//!
//! Everything is kept by the UID of its Revision, which Serving writes as a label on all that it makes of it; so a
//! Revision that was deleted and made again is another one, and reserves of the old one are not taken for its own.
//! What is shown says which Revisions it concerns: only those are decided again.
//!
//! A plain Deployment, which no Revision owns, stands for itself: without an autoscaler that tells, and without a gate.

use super::ask::{self, Asker, Globals, Terms};
use super::build::{self, Blueprint, Kind, Order, Template};
use super::objects::{PodAutoscaler, Revision, Route};
use super::seen::*;
use super::words::*;
use crate::decide::purchase::{Buying, policy::Sizing as Requested};
use crate::decide::reserve::{
    Activity, Gate, Idle, Reason, Refusal, Snapshot, Standard, Wanted, Wish,
    size::{Needs, Size},
};
use crate::model::ObjectName;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::Deployment, core::v1 as core};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A Revision's or a plain Deployment's UID.
pub type Uid = String;
pub type Touched = BTreeSet<Uid>;

#[derive(Default)]
pub struct World {
    /// Revisions are shown, if there are any.
    serving: bool,
    revisions: BTreeMap<Uid, SeenRevision>,
    revision_names: BTreeMap<ObjectName, Uid>,
    autoscalers: Owned<SeenAutoscaler>,
    deployments: Owned<SeenDeployment>,
    /// Those without Knative that ask.
    plain: Owned<SeenPlain>,
    routes: BTreeMap<ObjectName, Vec<Share>>,
    /// By Revision: what each Route sends it.
    shares: BTreeMap<ObjectName, BTreeMap<ObjectName, (bool, bool)>>,
    reserves: BTreeMap<Uid, BTreeMap<ObjectName, SeenReserve>>,
    pod_names: BTreeMap<ObjectName, Uid>,
    namespaces: BTreeMap<String, String>,
    globals: Globals,
    /// The highest working set that was asked for and is not yet written down.
    measured: BTreeMap<Uid, u64>,
}

/// Objects of which a Revision has one.
struct Owned<T> {
    by_uid: BTreeMap<Uid, T>,
    names: BTreeMap<ObjectName, Uid>,
}

impl<T> Default for Owned<T> {
    fn default() -> Self {
        Self { by_uid: BTreeMap::new(), names: BTreeMap::new() }
    }
}

impl<T> Owned<T> {
    fn set(&mut self, name: ObjectName, uid: &Uid, seen: T) {
        if let Some(before) = self.names.insert(name, uid.clone()).filter(|before| before != uid) {
            self.by_uid.remove(&before);
        }
        self.by_uid.insert(uid.clone(), seen);
    }

    fn remove(&mut self, name: &ObjectName) -> Touched {
        let uid = self.names.remove(name);
        uid.into_iter().inspect(|uid| drop(self.by_uid.remove(uid))).collect()
    }
}

/// What an executor needs to know to carry effects out.
#[derive(Clone, Debug)]
pub struct Subject {
    pub uid: Uid,
    pub kind: Kind,
    pub name: ObjectName,
    /// None: it is gone, or a Deployment.
    pub revision: Option<Arc<SeenRevision>>,
    /// Its conditions; None: it is gone.
    pub conditions: Option<Vec<Value>>,
    pub plan: Option<(Arc<Template>, Blueprint)>,
    pub reserves: Vec<SeenReserve>,
    /// To be written down.
    pub learned: Option<Needs>,
    /// The reason of the last event about where it stands.
    pub told: Option<Reason>,
}

impl World {
    pub fn new(serving: bool) -> Self {
        Self { serving, ..Self::default() }
    }

    pub fn see_revision(&mut self, revision: Revision, now: Timestamp) -> Touched {
        let version = Version::of(&revision.metadata);
        let before = self.revisions.get(&version.uid);
        if before.is_some_and(|before| before.version.overtakes(&version)) {
            return Touched::new();
        }
        let unrouted_since = before.map_or(now, |before| before.unrouted_since);
        let seen = SeenRevision::of(revision, unrouted_since);
        let uid = version.uid;
        let mut touched = Touched::from([uid.clone()]);
        if let Some(old) = self.revision_names.insert(seen.name.clone(), uid.clone()).filter(|old| *old != uid) {
            self.revisions.remove(&old);
            touched.insert(old);
        }
        self.revisions.insert(uid, seen);
        touched
    }

    pub fn lose_revision(&mut self, name: &ObjectName) -> Touched {
        let uid = self.revision_names.remove(name);
        uid.into_iter()
            .inspect(|uid| {
                self.revisions.remove(uid);
                self.measured.remove(uid);
            })
            .collect()
    }

    pub fn see_autoscaler(&mut self, autoscaler: PodAutoscaler, now: Timestamp) -> Touched {
        let Some(uid) = autoscaler.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_UID)).cloned() else {
            return Touched::new();
        };
        let before = self.autoscalers.by_uid.get(&uid);
        let name = name(&autoscaler.metadata);
        let seen = SeenAutoscaler::of(autoscaler, before, now);
        self.autoscalers.set(name, &uid, seen);
        Touched::from([uid])
    }

    pub fn lose_autoscaler(&mut self, name: &ObjectName) -> Touched {
        self.autoscalers.remove(name)
    }

    pub fn see_deployment(&mut self, deployment: Deployment, now: Timestamp) -> Touched {
        let labels = deployment.metadata.labels.as_ref();
        let Some(uid) = labels.and_then(|labels| labels.get(REVISION_UID)).cloned() else {
            return self.see_plain(deployment, now);
        };
        let name = name(&deployment.metadata);
        let seen = SeenDeployment::of(deployment, self.deployments.by_uid.get(&uid), now);
        self.deployments.set(name, &uid, seen);
        Touched::from([uid])
    }

    pub fn lose_deployment(&mut self, name: &ObjectName) -> Touched {
        let mut touched = self.deployments.remove(name);
        touched.extend(self.plain.remove(name));
        touched
    }

    /// Of most nothing is kept: they don't ask, and never did.
    fn see_plain(&mut self, deployment: Deployment, now: Timestamp) -> Touched {
        let version = Version::of(&deployment.metadata);
        let before = self.plain.by_uid.get(&version.uid);
        let asks = deployment.metadata.annotations.as_ref().is_some_and(|words| words.contains_key(ASK));
        if !asks && before.is_none() && !self.reserves.contains_key(&version.uid) {
            return Touched::new();
        }
        if before.is_some_and(|before| before.version.overtakes(&version)) {
            return Touched::new();
        }
        let seen = SeenPlain::of(deployment, before, now);
        self.plain.set(seen.name.clone(), &version.uid, seen);
        Touched::from([version.uid])
    }

    pub fn see_route(&mut self, route: &Route, now: Timestamp) -> Touched {
        self.set_route(name(&route.metadata), shares(route), now)
    }

    pub fn lose_route(&mut self, name: &ObjectName, now: Timestamp) -> Touched {
        self.set_route(name.clone(), Vec::new(), now)
    }

    fn set_route(&mut self, route: ObjectName, shares: Vec<Share>, now: Timestamp) -> Touched {
        let before = self.routes.remove(&route).unwrap_or_default();
        if before == shares {
            if !shares.is_empty() {
                self.routes.insert(route, shares);
            }
            return Touched::new();
        }
        for share in &before {
            if let Some(of) = self.shares.get_mut(&share.revision) {
                of.remove(&route);
                if of.is_empty() {
                    self.shares.remove(&share.revision);
                }
            }
        }
        for share in &shares {
            let of = self.shares.entry(share.revision.clone()).or_default().entry(route.clone()).or_default();
            *of = (of.0 | share.percent, of.1 | share.tagged);
        }
        let mut touched = Touched::new();
        for share in before.iter().chain(&shares) {
            let Some(uid) = self.revision_names.get(&share.revision) else { continue };
            if let Some(revision) = self.revisions.get_mut(uid).filter(|_| touched.insert(uid.clone())) {
                revision.unrouted_since = now;
            }
        }
        if !shares.is_empty() {
            self.routes.insert(route, shares);
        }
        touched
    }

    pub fn see_reserve(&mut self, pod: core::Pod, now: Timestamp) -> Touched {
        let name = name(&pod.metadata);
        let before = self.pod_names.get(&name).and_then(|uid| self.reserves.get(uid)?.get(&name));
        if before.is_some_and(|before| before.version.overtakes(&Version::of(&pod.metadata))) {
            return Touched::new();
        }
        let Some(seen) = SeenReserve::of(pod, before, now) else { return self.lose_reserve(&name) };
        let mut touched = Touched::from([seen.owner_uid.clone()]);
        if before.is_some_and(|before| before.owner_uid != seen.owner_uid) {
            touched.extend(self.lose_reserve(&name));
        }
        self.pod_names.insert(name.clone(), seen.owner_uid.clone());
        self.reserves.entry(seen.owner_uid.clone()).or_default().insert(name, seen);
        touched
    }

    pub fn lose_reserve(&mut self, name: &ObjectName) -> Touched {
        let Some(uid) = self.pod_names.remove(name) else { return Touched::new() };
        if let Some(of) = self.reserves.get_mut(&uid) {
            of.remove(name);
            if of.is_empty() {
                self.reserves.remove(&uid);
            }
        }
        Touched::from([uid])
    }

    /// What a reserve answered when it was asked whether it is idle.
    pub fn see_idle(&mut self, uid: &Uid, pod: &str, pod_uid: &str, idle: Idle) {
        let reserves = self.reserves.get_mut(uid).into_iter().flat_map(|of| of.values_mut());
        for reserve in reserves.filter(|r| r.name.name == pod && r.version.uid == pod_uid) {
            reserve.idle = idle;
        }
    }

    /// What its standard Pods were seen to use.
    pub fn see_memory(&mut self, uid: &Uid, bytes: u64) {
        if self.revisions.contains_key(uid) {
            let most = self.measured.entry(uid.clone()).or_default();
            *most = bytes.max(*most);
        }
    }

    /// A Namespace's own word on reserves.
    pub fn see_namespace(&mut self, name: &str, word: Option<&String>) -> Touched {
        let before = match word {
            Some(word) => self.namespaces.insert(name.to_owned(), word.clone()),
            None => self.namespaces.remove(name),
        };
        if before.as_ref() == word {
            return Touched::new();
        }
        let of = |(uid, revision): (&Uid, &SeenRevision)| (revision.name.namespace == name).then(|| uid.clone());
        self.revisions.iter().filter_map(of).collect()
    }

    pub fn see_globals(&mut self, globals: Globals) -> Touched {
        if std::mem::replace(&mut self.globals, globals.clone()) == globals { Touched::new() } else { self.all() }
    }

    pub fn all(&self) -> Touched {
        self.revisions.keys().chain(self.plain.by_uid.keys()).chain(self.reserves.keys()).cloned().collect()
    }

    /// None: nothing is known of it, or not enough.
    pub fn look(&self, uid: &Uid, buying: &Buying) -> Option<(Snapshot, Subject)> {
        let reserves: Vec<&SeenReserve> = self.reserves.get(uid).into_iter().flat_map(|of| of.values()).collect();
        if let Some(plain) = self.plain.by_uid.get(uid) {
            return Some(look_plain(uid, plain, &reserves, buying));
        }
        let Some(revision) = self.revisions.get(uid) else {
            // With Serving goes what it made; that is not for us to do.
            let first = reserves.first().filter(|first| self.serving || first.kind == Kind::Deployment)?;
            let name = ObjectName::new(&first.name.namespace, &first.owner);
            let snapshot = gone(&name, &reserves);
            return Some((snapshot, subject(uid, first.kind, name, &reserves)));
        };
        let mut subject = subject(uid, Kind::Revision, revision.name.clone(), &reserves);
        subject.revision = Some(Arc::new(revision.clone()));
        subject.conditions = Some(revision.conditions.clone());
        if revision.deleting {
            return Some((gone(&revision.name, &reserves), subject));
        }
        let (autoscaler, deployment) = (self.autoscalers.by_uid.get(uid)?, self.deployments.by_uid.get(uid)?);
        let needs = self.needs(uid, revision, &reserves);
        let wish = self.wish(revision, autoscaler, deployment, needs, buying, &mut subject);
        subject.learned = (needs != revision.needs() && wish != Wish::NotAsked).then_some(needs);
        let current = subject.plan.as_ref().map(|(_, plan)| plan.hash.as_str());
        let held = revision.annotations.contains_key(HELD)
            && revision.annotations.get(RETENTION).is_some_and(|retention| retention == HOLD);
        let snapshot = Snapshot {
            name: revision.name.name.clone(),
            wish,
            standard: Standard {
                wanted: deployment.wanted,
                ready: deployment.ready,
                ready_since: deployment.ready_since,
                proven: autoscaler.initialized,
                activity: autoscaler.activity,
            },
            gate: match held {
                true => Gate::Held { seen: autoscaler.annotations.get(RETENTION).is_some_and(|r| r == HOLD) },
                false => Gate::Open,
            },
            reserves: reserves.iter().map(|reserve| reserve.show(current)).collect(),
            reported: reported(&revision.conditions),
            longest_request: revision.timeout,
        };
        Some((snapshot, subject))
    }

    fn needs(&self, uid: &Uid, revision: &SeenRevision, reserves: &[&SeenReserve]) -> Needs {
        let known = revision.needs();
        let killed = reserves.iter().filter_map(|reserve| reserve.killed_at_bytes).max();
        Needs {
            seen_bytes: known.seen_bytes.max(self.measured.get(uid).copied()),
            killed_at_bytes: known.killed_at_bytes.max(killed),
        }
    }

    fn wish(
        &self,
        revision: &SeenRevision,
        autoscaler: &SeenAutoscaler,
        deployment: &SeenDeployment,
        needs: Needs,
        buying: &Buying,
        subject: &mut Subject,
    ) -> Wish {
        let asker = Asker {
            namespace: &revision.name.namespace,
            annotations: &revision.annotations,
            labels: &revision.labels,
            of_namespace: self.namespaces.get(&revision.name.namespace).map(String::as_str),
            autoscaler: &autoscaler.annotations,
            concurrency: revision.concurrency,
        };
        let granted = match ask::terms(&asker, &self.globals, buying) {
            Terms::NotAsked => return Wish::NotAsked,
            Terms::Refused(refusal) => return Wish::Refused(refusal),
            Terms::Granted(granted) => granted,
        };
        let policy = &buying.policy.reserve;
        let order = Order {
            sizing: &granted.sizing,
            needs,
            most_memory_bytes: most_memory(buying),
            unsaid: unsaid(buying),
            class: &policy.class,
            bound: granted.bound,
            startup: policy.startup,
        };
        let plan = build::blueprint(&deployment.template, &order);
        let wanted = Wanted { build: plan.hash.clone(), startup: plan.startup };
        subject.plan = Some((Arc::clone(&deployment.template), plan));
        let sent = self.shares.get(&revision.name).into_iter().flat_map(|of| of.values());
        let routed = sent.into_iter().any(|(percent, tagged)| *percent || (*tagged && granted.tags));
        if !routed || !revision.active() {
            return Wish::Unrouted { since: revision.unrouted_since };
        }
        if deployment.template.spec.spec.is_none() {
            return Wish::Refused(Refusal::Invalid("its Deployment has no template of Pods".to_owned()));
        }
        Wish::Wanted(wanted)
    }
}

fn subject(uid: &Uid, kind: Kind, name: ObjectName, reserves: &[&SeenReserve]) -> Subject {
    Subject {
        uid: uid.clone(),
        kind,
        name,
        revision: None,
        conditions: None,
        plan: None,
        reserves: reserves.iter().copied().cloned().collect(),
        learned: None,
        told: None,
    }
}

/// Nobody tells when it will be scaled to zero, and nothing holds it: the machine keeps a reserve ready for it.
fn look_plain(uid: &Uid, plain: &SeenPlain, reserves: &[&SeenReserve], buying: &Buying) -> (Snapshot, Subject) {
    let mut subject = subject(uid, Kind::Deployment, plain.name.clone(), reserves);
    if plain.deleting {
        return (gone(&plain.name, reserves), subject);
    }
    subject.conditions = Some(plain.conditions.clone());
    let (none, policy) = (BTreeMap::new(), &buying.policy.reserve);
    let asker = Asker {
        namespace: &plain.name.namespace,
        annotations: &plain.annotations,
        labels: &plain.labels,
        of_namespace: None,
        autoscaler: &none,
        concurrency: 1,
    };
    let wish = match ask::terms(&asker, &Globals::default(), buying) {
        // The policy's word is about Revisions.
        Terms::Granted(granted) if plain.annotations.contains_key(ASK) => {
            let killed_at_bytes = reserves.iter().filter_map(|reserve| reserve.killed_at_bytes).max();
            let order = Order {
                sizing: &granted.sizing,
                needs: Needs { seen_bytes: None, killed_at_bytes },
                most_memory_bytes: most_memory(buying),
                unsaid: unsaid(buying),
                class: &policy.class,
                bound: None,
                startup: policy.startup,
            };
            let plan = build::blueprint(&plain.scale.template, &order);
            let wanted = Wanted { build: plan.hash.clone(), startup: plan.startup };
            subject.plan = Some((Arc::clone(&plain.scale.template), plan));
            Wish::Wanted(wanted)
        }
        Terms::Refused(refusal) => Wish::Refused(refusal),
        Terms::Granted(_) | Terms::NotAsked => Wish::NotAsked,
    };
    let current = subject.plan.as_ref().map(|(_, plan)| plan.hash.as_str());
    let snapshot = Snapshot {
        name: plain.name.name.clone(),
        wish,
        standard: Standard {
            wanted: plain.scale.wanted,
            ready: plain.scale.ready,
            ready_since: plain.scale.ready_since,
            proven: plain.proven,
            activity: Activity::Unmeasured,
        },
        gate: Gate::Absent,
        reserves: reserves.iter().map(|reserve| reserve.show(current)).collect(),
        reported: reported(&plain.conditions),
        longest_request: SignedDuration::from_mins(5),
    };
    (snapshot, subject)
}

/// Only what is left of it is seen.
fn gone(name: &ObjectName, reserves: &[&SeenReserve]) -> Snapshot {
    Snapshot {
        name: name.name.clone(),
        wish: Wish::Deleted,
        standard: Standard { wanted: 0, ready: 0, ready_since: None, proven: false, activity: Activity::Starting },
        gate: Gate::Absent,
        reserves: reserves.iter().map(|reserve| reserve.show(None)).collect(),
        reported: None,
        longest_request: SignedDuration::from_mins(5),
    }
}

/// No more than the largest type that the class of reserves may buy.
fn most_memory(buying: &Buying) -> Option<u64> {
    let policy = &buying.policy.reserve;
    let class = buying.policy.classes.iter().find(|class| class.name == policy.class);
    let of_class = class.and_then(|class| class.instances.max_memory_bytes);
    let largest = buying.market.catalog.types.iter().map(|spec| spec.memory_bytes).max();
    let types = [of_class, largest].into_iter().flatten().min();
    let types = types.map(|bytes| bytes.saturating_sub(buying.market.reserved_memory_bytes));
    [policy.most_memory_bytes, types].into_iter().flatten().min()
}

/// What the purchase takes a Pod to request that requests nothing.
fn unsaid(buying: &Buying) -> Size {
    let last = buying.policy.classes.last().map(|class| class.sizing);
    match last {
        Some(Requested::Requests { cpu_millis, memory_bytes } | Requested::Override { cpu_millis, memory_bytes }) => {
            Size { cpu_millis, memory_bytes }
        }
        None => Size { cpu_millis: 250, memory_bytes: 256 << 20 },
    }
}

#[cfg(test)]
mod tests;
