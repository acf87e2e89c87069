//! What goes into the world and what comes out.

use super::super::DirectoryEntry;
use crate::decide::desired::Refs;
use crate::decide::placement::{BatchWindow, Order, Pool};
use crate::decide::purchase::Buying;
use crate::decide::status::PodStatus;
use crate::model::{
    AgentEvent, Announced, DesiredPod, Generation, InstanceId, InstanceRecord, NodeName, Notice, ObjectName, PodIntent,
    PodReport, PodUid, Shortage,
};
use crate::ports::{PodEvent, PodSeen};
use jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What the world goes by. `buying` and `keep_completed` may be replaced while a provider runs.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub zones: BTreeMap<NodeName, String>,
    pub address: IpAddr,
    pub buying: Arc<Buying>,
    pub pods_per_node: u32,
    /// How long launches wait for more Pods: what a launch call costs is the cloud's.
    pub batch_window: BatchWindow,
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
        /// As the effect that asked for it numbered it.
        order: u64,
        records: Vec<InstanceRecord>,
        shortages: Vec<Shortage>,
        failure: Option<String>,
    },
    /// The files were edited.
    Reloaded {
        buying: Arc<Buying>,
        keep_completed: SignedDuration,
    },
    /// The cloud's answer to [`Effect::Terminate`]; each has one.
    Ended {
        ids: Vec<InstanceId>,
        answer: EndAnswer,
    },
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
    /// All that the cloud announces to this instance now.
    Notices {
        instance: InstanceId,
        notices: Vec<Notice>,
    },
    /// One thing that it announced elsewhere.
    Announced(Announced),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndAnswer {
    Taken,
    /// To be asked for again soon.
    Failed,
    /// At least for one of them it is no use to ask again before somebody changed something.
    Refused,
}

/// Something to carry out.
#[derive(Debug)]
pub enum Effect {
    Status {
        node: NodeName,
        name: ObjectName,
        uid: PodUid,
        status: Arc<PodStatus>,
    },
    Delete {
        node: NodeName,
        name: ObjectName,
        uid: PodUid,
    },
    /// Ask for its deletion: by the Eviction API, or without asking further.
    Evict {
        node: NodeName,
        name: ObjectName,
        uid: PodUid,
        grace_seconds: u64,
        force: bool,
    },
    Event(PodEvent, Timestamp),
    Follow(Arc<PodIntent>),
    Forget(PodUid),
    Desired(InstanceId, Arc<DesiredPod>),
    ForgetAgent(InstanceId),
    /// Numbered, so that the answer can be told.
    Launch(u64, Order),
    /// A standby pool lacks instances, which the policy forbids for this reason.
    StandbyForbidden(Pool, String),
    /// A Pod got an instance, this long after its creation.
    Bound(SignedDuration),
    /// A Pod is Running for the first time, this long after its creation.
    Started(SignedDuration),
    /// A handover came this far: `ready`, `lost`, `out-of-time`, `failed`.
    HandedOver {
        cause: &'static str,
        outcome: &'static str,
        took: SignedDuration,
    },
    Terminate(Vec<InstanceId>),
    /// What was launched came to nothing, for a reason with a code of the cloud's or of ours.
    NeverRegistered {
        /// For people.
        instance: String,
        class: String,
        code: String,
        why: String,
    },
    /// Its agent was not heard for as long as registering may take, and no Pod needs it: it is ended.
    FellSilent(InstanceId),
    /// The kubelet API's directory: set, or removed.
    List {
        name: ObjectName,
        entry: DirectoryEntry,
    },
    Unlist {
        name: ObjectName,
        uid: PodUid,
    },
}
