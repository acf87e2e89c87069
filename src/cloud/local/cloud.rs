//! [`Cloud`] on this host: what is asked becomes records and supervisors.
//!
//! One provider at a time works on a cluster's directory (a flock says so), so what it has in memory is
//! what is on disk, and describing is cheap: a look into /proc for each machine that is not at its end.
//! Everything blocks, so every call runs on a thread for that, and no lock is held across an await.

use super::{
    addresses::{Subnet, allocate},
    config::LocalCloudConfig,
    disk,
    error::{Doing, LocalError, chain},
    launch::{self, GivenMachine, hex},
    lifecycle::{Action, Known, Supervisor, judge},
    network, notice,
    process::boot_id,
    record::{CONSOLE, INSTANCE, InstanceDir, LOCK, Phase, SUPERVISOR, StoredInstance, SupervisorNote},
    sweep::{self, CLOUD, CloudFile},
};
use crate::{
    decide::admission::{Applicant, Refusal, admit},
    model::{
        InstanceId, InstanceRecord, InstanceState, InstanceType, LaunchRequest, Launched, Offer, Shortage,
        bootstrap::KeyFingerprint,
    },
    ports::{Claim, ClaimError, Cloud, CloudError, InstanceProof, ProofFault},
};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::task::{JoinHandle, spawn_blocking};

/// EC2's limit on a ClientToken, and ours.
const TOKEN_LENGTH: usize = 64;

#[derive(Clone)]
pub struct LocalCloud(Arc<Inner>);

struct Inner {
    config: LocalCloudConfig,
    self_binary: PathBuf,
    boot_id: String,
    restrict_oom_score_adj: bool,
    machines: Mutex<BTreeMap<InstanceId, Machine>>,
    /// Clears up what ended machines left: one at a time, off the path of `describe`.
    cleaner: Mutex<Option<JoinHandle<()>>>,
    /// Held as long as this provider works on the cluster.
    _lock: File,
}

struct Machine {
    stored: StoredInstance,
    note: Option<SupervisorNote>,
    /// Where this process started the supervisor, and it has not been seen to end.
    child: Option<Child>,
}

impl LocalCloud {
    /// Takes over the cluster's machines, if there are any, and makes the bridge. It blocks; to be
    /// called as root, in the network namespace that has or gets the bridge.
    pub fn new(config: LocalCloudConfig) -> Result<Self, LocalError> {
        if !geteuid().is_root() {
            return Err(LocalError::Host("machines of the local cloud need root".to_owned()));
        }
        let config = config.validated()?;
        let cluster_dir = config.cluster_dir();
        fs::create_dir_all(&cluster_dir).doing(|| format!("make {}", cluster_dir.display()))?;
        let lock = sweep::lock_patiently(&cluster_dir.join(LOCK))?;
        // Before the bridge is made: what is to be removed one day is written down first.
        InstanceDir::at(cluster_dir.clone()).write_durably(CLOUD, &CloudFile { bridge: config.bridge.clone() })?;
        network::ensure_bridge(&config.bridge, config.bridge_address, config.prefix_len)?;
        let machines = sweep::read_records(&cluster_dir)?
            .into_iter()
            .map(|stored| (stored.instance.id.clone(), Machine { stored, note: None, child: None }))
            .collect();
        Ok(Self(Arc::new(Inner {
            self_binary: config.self_binary.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe")),
            boot_id: boot_id()?,
            restrict_oom_score_adj: !can_lower_oom_score(),
            machines: Mutex::new(machines),
            cleaner: Mutex::new(None),
            _lock: lock,
            config,
        })))
    }

    /// See [`sweep::destroy_all`]. No provider may be at work there.
    pub fn destroy_all(state_dir: &Path, cluster: &str) -> Result<(), LocalError> {
        sweep::destroy_all(state_dir, cluster)
    }

    /// The machine's console: what its PID 1, containerd and agent printed.
    pub fn console_log(&self, id: &InstanceId) -> PathBuf {
        self.0.dir(id).file(CONSOLE)
    }

    /// Boots a machine that another cloud made ([`GivenMachine`]); describe and terminate treat it as any.
    pub async fn boot_given(&self, given: GivenMachine) -> Result<(), CloudError> {
        self.blocking("launch", move |inner| {
            let mut machines = inner.machines();
            if machines.contains_key(&given.id) {
                return Ok(());
            }
            let stored = launch::record_given(&inner.config, inner.restrict_oom_score_adj, &given, Timestamp::now())
                .map_err(|error| retry("launch", &error))?;
            inner.start(&mut machines, stored);
            Ok(())
        })
        .await
    }

    fn start_cleaner(&self, due: Vec<InstanceId>) {
        let mut cleaner = self.0.cleaner.lock().unwrap_or_else(PoisonError::into_inner);
        if !due.is_empty() && cleaner.as_ref().is_none_or(JoinHandle::is_finished) {
            let inner = Arc::clone(&self.0);
            *cleaner = Some(spawn_blocking(move || due.iter().for_each(|id| inner.clean(id))));
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&Inner) -> Result<T, CloudError> + Send + 'static,
    ) -> Result<T, CloudError> {
        let inner = Arc::clone(&self.0);
        let broken = |error: tokio::task::JoinError| CloudError::Retry {
            operation,
            code: "Internal".to_owned(),
            message: error.to_string(),
        };
        spawn_blocking(move || call(&inner)).await.map_err(broken)?
    }
}

#[async_trait]
impl Cloud for LocalCloud {
    async fn launch(&self, request: &LaunchRequest) -> Result<Launched, CloudError> {
        let request = request.clone();
        self.blocking("launch", move |inner| inner.launch(&request, Timestamp::now())).await
    }

    async fn describe(&self) -> Result<Vec<InstanceRecord>, CloudError> {
        let described = |inner: &Inner| inner.describe(Timestamp::now()).map_err(|error| retry("describe", &error));
        let (records, due) = self.blocking("describe", described).await?;
        self.start_cleaner(due);
        Ok(records)
    }

    async fn terminate(&self, ids: &[InstanceId]) -> Result<(), CloudError> {
        let ids = ids.to_vec();
        self.blocking("terminate", move |inner| {
            inner.terminate(&ids, Timestamp::now()).map_err(|error| retry("terminate", &error))
        })
        .await
    }

    async fn claim(&self, claim: &Claim) -> Result<InstanceRecord, ClaimError> {
        let (inner, claim) = (Arc::clone(&self.0), claim.clone());
        let id = claim.instance.clone();
        let broken = move |error: tokio::task::JoinError| ClaimError::Unsettled(id, error.to_string());
        spawn_blocking(move || inner.claim(&claim)).await.map_err(broken)?
    }
}

impl Inner {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Machine>> {
        // Every change is made on disk and in memory by single assignments: a panic leaves no half of one.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, id: &InstanceId) -> InstanceDir {
        InstanceDir::new(&self.config.cluster_dir(), id)
    }

    fn launch(&self, request: &LaunchRequest, now: Timestamp) -> Result<Launched, CloudError> {
        let offer = self.check(request)?;
        let mut machines = self.machines();
        let seen: Vec<&StoredInstance> = machines
            .values()
            .map(|machine| &machine.stored)
            .filter(|stored| stored.instance.client_token == request.client_token)
            .collect();
        if !seen.is_empty() {
            return if seen.iter().all(|stored| same_request(stored, request)) {
                let records = seen.into_iter().map(|stored| stored.instance.clone()).collect();
                Ok(Launched { records, ..Launched::default() })
            } else {
                Err(refused(format!("token {} was used for another request", request.client_token)))
            };
        }
        let subnet = Subnet { gateway: self.config.bridge_address, prefix_len: self.config.prefix_len };
        let pairs = allocate(subnet, &taken(machines.values()), request.count as usize);
        if pairs.is_empty() {
            return Ok(Launched { shortages: vec![self.no_address(request)], ..Launched::default() });
        }
        let pairs_left = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        let mut launched = Vec::new();
        for pair in pairs {
            match launch::record(&self.config, self.restrict_oom_score_adj, request, offer, pair, now) {
                Ok(stored) => launched.push(stored),
                Err(error) if launched.is_empty() => return Err(retry("launch", &error)),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "launched fewer instances than asked for");
                    break;
                }
            }
        }
        let mut records = Vec::new();
        let short = pairs_left < request.count;
        for stored in launched {
            records.push(stored.instance.clone());
            self.start(&mut machines, stored);
        }
        let shortages = if short { vec![self.no_address(request)] } else { Vec::new() };
        Ok(Launched { records, shortages, ..Launched::default() })
    }

    fn start(&self, machines: &mut BTreeMap<InstanceId, Machine>, stored: StoredInstance) {
        let id = stored.instance.id.clone();
        let child = launch::start(&self.self_binary, &self.dir(&id));
        let mut machine = Machine { stored, note: None, child: None };
        match child {
            Ok(child) => machine.child = Some(child),
            // It stays a record without a supervisor: the next look ends it and clears up.
            Err(error) => tracing::warn!(instance = %id, error = chain(&error), "the instance did not start"),
        }
        machines.insert(id, machine);
    }

    /// Of every type: there is one subnet for all.
    fn no_address(&self, request: &LaunchRequest) -> Shortage {
        Shortage {
            purchase: None,
            instance_type: None,
            zone: Some(request.zone.clone()),
            code: "InsufficientFreeAddressesInSubnet".to_owned(),
            message: format!("no address is free on {}", self.config.bridge),
        }
    }

    /// The best offer: this machine has capacity for each, and takes any way of paying at the price it is told.
    fn check<'a>(&'a self, request: &'a LaunchRequest) -> Result<(&'a Offer, &'a InstanceType), CloudError> {
        let token = request.client_token.as_str();
        if token.is_empty() || token.len() > TOKEN_LENGTH || !token.is_ascii() {
            return Err(refused(format!("{token:?} is no client token: 1 to {TOKEN_LENGTH} ASCII characters")));
        }
        if request.count == 0 {
            return Err(refused("a launch of no instance".to_owned()));
        }
        if !self.config.zones.contains(&request.zone) {
            return Err(refused(format!("there is no zone {}", request.zone)));
        }
        let known = |offer: &Offer| self.config.types.iter().find(|t| t.name == offer.instance_type);
        if let Some(offer) = request.offers.iter().find(|offer| known(offer).is_none()) {
            return Err(refused(format!("there is no instance type {}", offer.instance_type)));
        }
        let best = request.offers.first().ok_or_else(|| refused("a launch without an offer".to_owned()))?;
        let instance_type = known(best).ok_or_else(|| refused("a launch without an offer".to_owned()))?;
        Ok((best, instance_type))
    }

    /// Returns the records, and whose remains are to be cleared up.
    fn describe(&self, now: Timestamp) -> Result<(Vec<InstanceRecord>, Vec<InstanceId>), LocalError> {
        let mut machines = self.machines();
        let (mut due, mut past) = (Vec::new(), Vec::new());
        for (id, machine) in machines.iter_mut() {
            let dir = self.dir(id);
            if machine.stored.instance.state == InstanceState::Running && notice::is_due(&dir, now) {
                self.stop(machine, &dir, Some(notice::TAKEN_BACK), now)?;
            }
            let supervisor = self.look(machine, &dir)?;
            let stored = &machine.stored;
            let known = Known {
                state: stored.instance.state,
                stop_requested_at: stored.stop_requested_at,
                ended_at: stored.ended_at,
                cleaned: stored.cleaned,
            };
            let verdict = judge(&known, &supervisor, now);
            if verdict.state != stored.instance.state {
                let mut next = stored.clone();
                next.instance.state = verdict.state;
                if let Some(ended) = verdict.ended {
                    tracing::info!(instance = %id, reason = ended.reason, "the instance ended");
                    next.ended_at = Some(ended.at);
                    // Why it was stopped says more than that it was.
                    next.instance.state_reason.get_or_insert(ended.reason);
                }
                dir.write_durably(INSTANCE, &next)?;
                machine.stored = next;
            }
            match verdict.action {
                Action::Nothing => {}
                Action::AskToStop => self.signal(machine, Signal::SIGTERM),
                Action::Kill => self.signal(machine, Signal::SIGKILL),
                Action::Clean => due.push(id.clone()),
                Action::Purge => past.push(id.clone()),
            }
        }
        for id in past {
            disk::remove(self.dir(&id).path())?;
            machines.remove(&id);
        }
        Ok((machines.values().map(|machine| machine.stored.instance.clone()).collect(), due))
    }

    /// Whether the machine's supervisor is alive, and its last word.
    fn look(&self, machine: &mut Machine, dir: &InstanceDir) -> Result<Supervisor, LocalError> {
        if machine.stored.instance.state == InstanceState::Terminated {
            return Ok(Supervisor::Gone { phase: None });
        }
        let ended = |child: &mut Child| child.try_wait().doing(|| format!("wait for process {}", child.id()));
        if let Some(child) = &mut machine.child
            && ended(child)?.is_some()
        {
            machine.child = None;
        }
        let settled = |machine: &Machine| machine.note.as_ref().is_some_and(|note| note.phase == Phase::Up);
        if !settled(machine) {
            machine.note = read_note(dir);
        }
        let alive = match (&machine.child, &machine.note) {
            (Some(_), _) => true,
            (None, Some(note)) => note.process.is_alive(&self.boot_id),
            // Left by a former provider at the moment of its launch.
            (None, None) => dir.try_lock()?.is_none(),
        };
        if !alive {
            machine.note = read_note(dir);
        }
        let phase = machine.note.as_ref().map(|note| note.phase.clone());
        Ok(if alive { Supervisor::Alive { phase } } else { Supervisor::Gone { phase } })
    }

    fn signal(&self, machine: &Machine, signal: Signal) {
        match (&machine.child, &machine.note) {
            (Some(child), _) => {
                let pid = i32::try_from(child.id()).map(Pid::from_raw).expect("the kernel's pids are positive i32");
                // Not waited for, so the pid is still its own; if it ended, that is what was wanted.
                let _ = kill(pid, signal);
            }
            (None, Some(note)) => note.process.signal(&self.boot_id, signal),
            (None, None) => {}
        }
    }

    fn terminate(&self, ids: &[InstanceId], now: Timestamp) -> Result<(), LocalError> {
        let mut machines = self.machines();
        for id in ids {
            let Some(machine) = machines.get_mut(id) else { continue };
            if !matches!(machine.stored.instance.state, InstanceState::Pending | InstanceState::Running) {
                continue;
            }
            self.stop(machine, &self.dir(id), None, now)?;
        }
        Ok(())
    }

    fn stop(
        &self,
        machine: &mut Machine,
        dir: &InstanceDir,
        why: Option<&str>,
        now: Timestamp,
    ) -> Result<(), LocalError> {
        let mut next = machine.stored.clone();
        next.instance.state = InstanceState::ShuttingDown;
        next.instance.state_reason = why.map(str::to_owned);
        next.stop_requested_at = Some(now);
        dir.write_durably(INSTANCE, &next)?;
        machine.stored = next;
        self.look(machine, dir)?;
        self.signal(machine, Signal::SIGTERM);
        Ok(())
    }

    fn clean(&self, id: &InstanceId) {
        let dir = self.dir(id);
        let cleaned = dir.try_lock().and_then(|lock| match lock {
            // Its last moments; the next look comes soon.
            None => Ok(false),
            Some(_lock) => sweep::clear_machine(&dir, &self.config.cluster, id.as_str()).map(|()| true),
        });
        let recorded = cleaned.and_then(|cleaned| {
            let mut machines = self.machines();
            if let Some(machine) = machines.get_mut(id).filter(|_| cleaned) {
                let next = StoredInstance { cleaned: true, ..machine.stored.clone() };
                dir.write_durably(INSTANCE, &next)?;
                machine.stored = next;
                machine.child = None;
            }
            Ok(())
        });
        if let Err(error) = recorded {
            tracing::warn!(instance = %id, error = chain(&error), "can't clear up after the instance, will try again");
        }
    }

    fn claim(&self, claim: &Claim) -> Result<InstanceRecord, ClaimError> {
        let id = &claim.instance;
        let not_admitted = |refusal| ClaimError::NotAdmitted(id.clone(), refusal);
        let unsettled = |error: LocalError| ClaimError::Unsettled(id.clone(), chain(&error));
        let applicant = Applicant { peer: claim.peer, key: claim.key };
        let machines = self.machines();
        let stored = machines.get(id).map(|machine| &machine.stored);
        let holder = match stored {
            Some(_) => self.dir(id).holder().map_err(unsettled)?,
            None => None,
        };
        // The token proves it at any time.
        let admitted = |holder: Option<&KeyFingerprint>| {
            let record = stored.map(|stored| &stored.instance);
            admit(&applicant, record, holder, SignedDuration::MAX, Timestamp::now()).map_err(not_admitted)
        };
        admitted(holder.as_ref())?;
        let stored = stored.ok_or_else(|| not_admitted(Refusal::Unknown))?;
        let InstanceProof::Token(token) = &claim.proof else {
            return Err(ClaimError::BadProof(id.clone(), ProofFault::Kind));
        };
        if !equal_in_constant_time(&hex(&Sha256::digest(token)), &stored.token_sha256) {
            return Err(ClaimError::BadProof(id.clone(), ProofFault::Token));
        }
        let holder = self.dir(id).claim_for(&claim.key).map_err(unsettled)?;
        admitted(Some(&holder))?;
        Ok(stored.instance.clone())
    }
}

fn taken<'a>(machines: impl Iterator<Item = &'a Machine>) -> BTreeSet<Ipv4Addr> {
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    machines
        .filter(|machine| !machine.stored.cleaned)
        .flat_map(|machine| [machine.stored.instance.private_ip, machine.stored.instance.pod_ip])
        .filter_map(|ip| ip.and_then(v4))
        .collect()
}

fn same_request(stored: &StoredInstance, request: &LaunchRequest) -> bool {
    let instance = &stored.instance;
    stored.offers == request.offers
        && instance.zone == request.zone
        && stored.launch_count == request.count
        && *instance.tags == request.tags
}

fn read_note(dir: &InstanceDir) -> Option<SupervisorNote> {
    dir.read(SUPERVISOR).unwrap_or_else(|error| {
        // After a loss of power: the lock tells whether there is a supervisor.
        tracing::warn!(error = chain(&error), "a supervisor's note can't be read");
        None
    })
}

/// Without CAP_SYS_RESOURCE an OOM score can't be lowered, and a runtime that tries fails: try.
fn can_lower_oom_score() -> bool {
    let path = "/proc/self/oom_score_adj";
    let Ok(Ok(score)) = fs::read_to_string(path).map(|text| text.trim().parse::<i32>()) else { return false };
    let lowered = fs::write(path, (score - 1).max(-1000).to_string()).is_ok();
    lowered && fs::write(path, score.to_string()).is_ok()
}

fn equal_in_constant_time(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

fn refused(message: String) -> CloudError {
    CloudError::Refused { operation: "launch", code: "InvalidRequest".to_owned(), message }
}

fn retry(operation: &'static str, error: &LocalError) -> CloudError {
    CloudError::Retry { operation, code: "LocalFault".to_owned(), message: chain(error) }
}
