//! The Pod's runtime on its instance: keeps one Pod as the provider wants it, over the CRI.
//!
//! In: desired states ([`PodRuntime::set_desired`]), the newest generation wins. Out: whole reports
//! ([`PodRuntime::report`]), only when something changed, and events.
//!
//! One [`worker`] task owns the Pod: it looks ([`observe`]), decides (`decide::containers`, pure), has the
//! actions done by tasks of its own ([`start`], [`kill`], [`images`], [`volumes`]), and reports. It acts
//! at once on a desired state, on the runtime's event stream, on a finished piece of work, on a probe's
//! verdict; a look every 10 s is for what all of them missed. [`spec`], [`resources`], [`reference`] and
//! [`keyring`] are pure.
//!
//! Nothing essential lives in its memory: restart counts and back-off are on the runtime's containers,
//! the desired Pod is in the state directory. An agent that comes back adopts what runs; while
//! containerd is away everything waits for it, and the containers live on.

mod cri;
#[cfg(test)]
mod fixtures;
mod hooks;
mod host;
mod http;
mod images;
mod keyring;
mod kill;
mod labels;
mod logs;
mod machine;
mod messages;
mod network;
mod observe;
mod probes;
mod reference;
mod resources;
mod spec;
mod start;
mod state;
mod volumes;
mod worker;

pub use cri::{CriClient, CriError, ExecOutput, Found, Which};
pub use state::StateError;

use crate::model::{
    AgentEvent, ContainerKind, DesiredContainer, DesiredPod, Generation, ObjectName, PodReport, PodUid,
};
use jiff::Timestamp;
use machine::Machine;
use state::StateDir;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use volumes::PodDir;

/// A burst of a Pod's life is some dozens; while nobody listens, older ones are kept and newer ones dropped.
const EVENT_QUEUE: usize = 256;

/// Where everything is on this instance.
#[derive(Clone, Debug)]
pub struct PodRuntimeConfig {
    pub containerd_socket: PathBuf,
    /// A tmpfs of the agent's own: survives the agent, not the machine.
    pub state_dir: PathBuf,
    /// The Pod's volumes.
    pub pods_dir: PathBuf,
    /// Container logs, laid out as a kubelet does.
    pub logs_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    /// The interface whose subnet the Pod's address is of. None: that of the default route, whatever its name (`ens5`
    /// on EC2's Nitro instances, `eth0` on others).
    pub uplink: Option<String>,
}

impl Default for PodRuntimeConfig {
    fn default() -> Self {
        Self {
            containerd_socket: "/run/containerd/containerd.sock".into(),
            state_dir: "/run/pilotlight".into(),
            pods_dir: "/var/lib/pilotlight/pods".into(),
            logs_dir: "/var/log/pods".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            uplink: None,
        }
    }
}

/// The one Pod of this instance, or none yet.
#[derive(Debug)]
pub struct PodRuntime {
    cri: CriClient,
    logs_dir: PathBuf,
    orders: watch::Sender<Option<Arc<DesiredPod>>>,
    reports: watch::Receiver<Option<Arc<PodReport>>>,
    ended: CancellationToken,
    _worker: AbortOnDropHandle<()>,
}

impl PodRuntime {
    /// Takes up what the state directory and the runtime have; does not wait for the runtime. The
    /// worker ends with `cancel` or with the returned value, and leaves all containers running.
    pub async fn start(
        config: PodRuntimeConfig,
        cancel: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<AgentEvent>), StateError> {
        let state = StateDir::new(&config.state_dir);
        let desired = state.load_desired()?.map(Arc::new);
        let kept = state.load_progress()?.unwrap_or_default();
        let cri = CriClient::new(&config.containerd_socket);
        let logs_dir = config.logs_dir.clone();
        let shared = Arc::new(Shared { cri: cri.clone(), machine: Machine::look(), config });
        let (events, said) = mpsc::channel(EVENT_QUEUE);
        let (orders, ordered) = watch::channel(desired);
        let (report, reports) = watch::channel(None);
        let worker = worker::Worker::new(worker::Parts { shared, state, kept, ordered, report, events });
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            // Also on a panic: whoever waits for the end then ends the process.
            let _guard = guard;
            worker.run(cancel).await;
        });
        let runtime = Self { cri, logs_dir, orders, reports, ended, _worker: AbortOnDropHandle::new(task) };
        Ok((runtime, said))
    }

    /// The latest generation wins; an older one is refused, and so is another Pod's: an instance runs
    /// one Pod in its life.
    pub fn set_desired(&self, desired: Arc<DesiredPod>) {
        self.orders.send_if_modified(|held| {
            if let Some(held) = held.as_deref() {
                if held.uid != desired.uid {
                    tracing::error!(held = %held.uid, refused = %desired.uid, "this instance runs another Pod: refused");
                    return false;
                }
                if desired.generation < held.generation {
                    let (held, refused) = (held.generation.0, desired.generation.0);
                    tracing::warn!(held, refused, "an older desired state came: refused");
                    return false;
                }
                if desired.generation == held.generation {
                    return false;
                }
            }
            *held = Some(desired);
            true
        });
    }

    /// What this instance runs already.
    pub fn holds(&self) -> Option<(PodUid, Generation)> {
        self.orders.borrow().as_deref().map(|desired| (desired.uid.clone(), desired.generation))
    }

    /// The desired Pod itself, for tunnels: which containers there are.
    pub fn desired(&self) -> Option<Arc<DesiredPod>> {
        self.orders.borrow().clone()
    }

    /// The latest whole report; changes only when something did. None until the first look.
    pub fn report(&self) -> watch::Receiver<Option<Arc<PodReport>>> {
        self.reports.clone()
    }

    pub fn cri(&self) -> CriClient {
        self.cri.clone()
    }

    /// The directory of a Pod's logs: `<container>/<attempt>.log` ([`Found::log_path`]).
    pub fn pod_logs(&self, name: &ObjectName, uid: &PodUid) -> PathBuf {
        pod_logs(&self.logs_dir, name, uid)
    }

    /// Cancelled when the worker has ended, for whatever reason: without it the agent is of no use.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

/// As a kubelet lays them out: `<namespace>_<name>_<uid>`.
fn pod_logs(root: &Path, name: &ObjectName, uid: &PodUid) -> PathBuf {
    root.join(format!("{}_{}_{uid}", name.namespace, name.name))
}

/// What all work needs.
#[derive(Debug)]
struct Shared {
    cri: CriClient,
    machine: Machine,
    config: PodRuntimeConfig,
}

impl Shared {
    fn pod_logs(&self, pod: &DesiredPod) -> PathBuf {
        pod_logs(&self.config.logs_dir, &pod.name, &pod.uid)
    }
    fn pod_dir(&self, pod: &DesiredPod) -> PodDir {
        PodDir::new(&self.config.pods_dir, &pod.uid)
    }
}

/// Tells events of one Pod.
#[derive(Clone, Debug)]
struct Teller {
    uid: PodUid,
    events: mpsc::Sender<AgentEvent>,
}

impl Teller {
    fn container(&self, container: &DesiredContainer, warning: bool, reason: &str, message: &str) {
        self.tell(warning, reason, message, Some((container.kind, container.name.clone())));
    }

    fn pod(&self, warning: bool, reason: &str, message: &str) {
        self.tell(warning, reason, message, None);
    }

    fn tell(&self, warning: bool, reason: &str, message: &str, container: Option<(ContainerKind, String)>) {
        let event = AgentEvent {
            uid: self.uid.clone(),
            at: Timestamp::now(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            container,
        };
        if self.events.try_send(event).is_err() {
            tracing::warn!(reason, message, "nobody takes events: one is lost");
        }
    }
}
