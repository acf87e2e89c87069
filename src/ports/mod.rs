//! The traits through which decisions reach the world. Adapters implement them; nothing here does I/O.

mod bootstrap;
mod vendor;

pub use bootstrap::*;
pub use vendor::*;

use crate::decide::{desired::Refs, status::PodStatus};
use crate::model::{
    AgentEvent, Announced, ClientToken, DesiredPod, Generation, InstanceId, InstanceRecord, LaunchRequest, Launched,
    NodeName, Notice, ObjectName, PodIntent, PodReport, PodUid, ServicesUpdate, TunnelHead, TunnelRequest, Unsupported,
};
use async_trait::async_trait;
use jiff::Timestamp;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};
use tokio::io::DuplexStream;

/// A place to get machines from. One implementation a cloud; all pass the same contract tests.
///
/// Every call is idempotent. `launch` with a token that was used before returns the machines that the
/// first call made and makes none; `terminate` of what is gone succeeds.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// Starts machines. May return fewer than asked, never more; returns before they are up. What could
    /// not be had now is no error: the answer says it. An error means that nothing was started, or that
    /// what was is found by its tags.
    async fn launch(&self, request: &LaunchRequest) -> Result<Launched, CloudError>;
    /// All machines of this cluster that exist or ended a short while ago, whoever launched them.
    async fn describe(&self) -> Result<Vec<InstanceRecord>, CloudError>;
    /// Ends machines. Returns when they are on their way out, not when they are gone.
    /// One that is refused keeps no other from its end; the error names it.
    async fn terminate(&self, ids: &[InstanceId]) -> Result<(), CloudError>;
    /// One machine of [`Cloud::describe`]. Where describing all is dear, an adapter answers from what it
    /// saw a short while ago.
    async fn find(&self, id: &InstanceId) -> Result<Option<InstanceRecord>, CloudError> {
        Ok(self.describe().await?.into_iter().find(|record| record.id == *id))
    }
    /// What a machine that registers from this address is to sign. None where machines prove by what they
    /// were given at their birth.
    fn challenge(&self, _peer: IpAddr) -> Option<Challenge> {
        None
    }
    /// Accepts a machine's proof of which instance it is, for one key: never for another key, again for the
    /// same. What it accepted is kept durably when it returns.
    async fn claim(&self, claim: &Claim) -> Result<InstanceRecord, ClaimError>;
}

/// Classified by what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// Try again later; the same request.
    #[error("the cloud did not {operation}: {message}")]
    Retry { operation: &'static str, code: String, message: String },
    /// The request is wrong: trying it again is no use.
    #[error("the cloud refuses to {operation}: {message}")]
    Refused { operation: &'static str, code: String, message: String },
}

impl CloudError {
    /// The cloud's word for it, for metrics: one of not too many.
    pub fn code(&self) -> &str {
        match self {
            Self::Retry { code, .. } | Self::Refused { code, .. } => code,
        }
    }
}

/// The provider's end of all agents' connections.
#[async_trait]
pub trait AgentLink: Send + Sync {
    /// Tells the agent what it should run; the latest wins. Nothing is kept for one that is not connected: an agent
    /// that connects is sent it after its [`AgentUpdate::Connected`], by what that says it holds.
    fn set_desired(&self, instance: &InstanceId, desired: Arc<DesiredPod>);
    /// Sends a change of services to every agent (each agent's version is tracked by the link).
    fn publish_services(&self, update: Arc<ServicesUpdate>, whole: Arc<ServicesUpdate>);
    /// Forgets an instance that is no more; its connection is ended.
    fn forget(&self, instance: &InstanceId);
    /// Opens a tunnel. The head is the agent's answer; the stream then carries raw bytes.
    async fn open_tunnel(
        &self,
        instance: &InstanceId,
        request: TunnelRequest,
    ) -> Result<(TunnelHead, DuplexStream), TunnelError>;
}

#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("the agent of instance {0} is not connected")]
    NotConnected(InstanceId),
    #[error("the agent of instance {0} did not answer in time")]
    TimedOut(InstanceId),
    #[error("the tunnel to instance {0} broke: {1}")]
    Broken(InstanceId, String),
}

/// What the link tells the reconciler, over one bounded queue; and what a cloud says of instances in their agents' stead.
#[derive(Debug)]
pub enum AgentUpdate {
    /// `holds`: the Pod and generation that it already runs.
    Connected {
        instance: InstanceId,
        holds: Option<(PodUid, Generation)>,
    },
    Disconnected {
        instance: InstanceId,
    },
    Report {
        instance: InstanceId,
        report: Box<PodReport>,
    },
    Event {
        instance: InstanceId,
        event: Box<AgentEvent>,
    },
    /// All that the cloud announces to the instance now.
    Notices {
        instance: InstanceId,
        notices: Vec<Notice>,
    },
    /// The cloud announced it to us; the instance may be nobody's.
    Announced(Announced),
}

/// A Pod as the API server's watch showed it.
#[derive(Clone, Debug)]
pub struct PodSeen {
    pub intent: Arc<PodIntent>,
    /// The status that the API server has, if a node wrote one.
    pub status: Option<Arc<PodStatus>>,
    /// Every condition's type and whether it is True, for readiness gates.
    pub gates: BTreeMap<String, bool>,
    /// What is let pass without being acted on, worth an event.
    pub unhonoured: Vec<Unsupported>,
}

/// What the watch on a node's Pods tells the reconciler.
#[derive(Debug)]
pub enum PodUpdate {
    Seen(Box<PodSeen>),
    Gone(PodUid),
    /// The first full list is through: what was not seen does not exist.
    Synced(NodeName),
}

/// Writes what the API server should say of Pods. One writer; it coalesces, retries and never blocks.
pub trait StatusSink: Send + Sync {
    /// Writes this status soon; a later one for the same Pod replaces it.
    fn status(&self, node: &NodeName, name: &ObjectName, uid: &PodUid, status: Arc<PodStatus>);
    /// Deletes the object for good, after any status that still waits.
    fn delete(&self, node: &NodeName, name: &ObjectName, uid: &PodUid);
    /// Asks once that it is deleted with this grace period: by the Eviction API, which may refuse; with `force` by a
    /// deletion. Whether it worked is seen by the watch.
    fn evict(&self, node: &NodeName, name: &ObjectName, uid: &PodUid, grace_seconds: u64, force: bool);
}

/// One thing that happened to a Pod, for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodEvent {
    pub node: NodeName,
    pub pod: ObjectName,
    pub uid: PodUid,
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    pub message: String,
    /// `spec.containers{name}`
    pub field_path: Option<String>,
}

/// Takes events; may drop some under load, and counts what it dropped.
pub trait EventSink: Send + Sync {
    fn record(&self, event: PodEvent, at: Timestamp);
}

/// What Pods refer to: ConfigMaps, Secrets, service-account tokens, the Services of their namespace.
/// Watched only while a Pod uses it. Says by a queue given at construction which Pods have changed refs.
pub trait RefSource: Send + Sync {
    /// Follows what this Pod refers to, from now on. Idempotent.
    fn follow(&self, pod: &Arc<PodIntent>);
    fn forget(&self, pod: &PodUid);
    /// None until everything was looked up once (found or missing).
    fn refs(&self, pod: &PodUid) -> Option<Arc<Refs>>;
}

/// Makes a client token from what identifies a launch; the caller persists the inputs first.
pub fn client_token(cluster: &str, batch: &str) -> ClientToken {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{cluster}\n{batch}"));
    ClientToken::new(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
}
