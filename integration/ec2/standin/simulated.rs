//! Simulated machines: hundreds of instances in this one process, whose agents speak the real protocol.
//!
//! ```text
//!  launched ── pendingMillis, then bootMillis (drawn) ──> booted ── user data has an agent? ──> it registers, and
//!     │                                                                                         reports its Pod Running
//!     └───────────────────────────── ended by the API ──────────────────────────────────────> Gone
//! ```
//!
//! Of an instance only what is inside is simulated: a Pod's containers are reported and not run. The rest is the product's
//! own agent as it is: it reads its configuration from the instance's user data, asks the metadata service from the
//! instance's own address who it is, proves that by a request to STS that its role signs, keeps a session, and is told
//! what to run. The network's addresses are all this machine's own (`seed::simulated_network`), so each
//! agent speaks from its instance's. It does not ask the metadata service for notices.

use super::{
    identity,
    instances::{Instance, Machine},
    machines::{Order, Orders, carried_out},
    server::machine_is,
    world::World,
};
use async_trait::async_trait;
use jiff::Timestamp;
use pilotlight::{
    agent::{self, AgentConfig, ExecOutput, HostError, PodHost, Preparation, Rooms, ServiceSink},
    cloud::ec2::user_data::AGENT_CONFIG,
    model::{
        AgentEvent, ContainerReport, ContainerState, DesiredContainer, DesiredPod, Generation, PodReport, PodStats,
        PodUid, ServicesUpdate, Streams, Termination,
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// From the sandbox to a container that runs, on a machine that has the image.
const CONTAINER_START: Duration = Duration::from_millis(200);

/// Carries out orders until the world is gone. Boots are drawn in the order of the launches.
pub async fn run(mut orders: Orders, dir: PathBuf, seed: u64, world: Weak<World>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let mut machines = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.0.recv() => match (order, world.upgrade()) {
                (Some(Order::Boot(instance)), Some(world)) => {
                    let (pending, [least, most]) = {
                        let script = &world.state().script;
                        (script.pending_millis, script.boot_millis)
                    };
                    let boot = Duration::from_millis(pending + random.random_range(least..=most.max(least)));
                    // EC2 calls an instance running before its system has booted.
                    machine_is(&world, &instance.id, Machine::Up).await;
                    let cancel = CancellationToken::new();
                    running.insert(instance.id.clone(), cancel.clone());
                    machines.spawn(machine(*instance, boot, dir.clone(), Arc::downgrade(&world), cancel));
                }
                (Some(Order::End(ids)), Some(_)) => {
                    ids.iter().filter_map(|id| running.get(id)).for_each(CancellationToken::cancel);
                }
                _ => return,
            },
            Some(ended) = machines.join_next() => {
                let (Ok(id), Some(world)) = (ended, world.upgrade()) else { return };
                running.remove(&id);
                machine_is(&world, &id, Machine::Gone).await;
            }
        }
    }
}

/// Ends when the instance does, and says which it was.
async fn machine(
    instance: Instance,
    boot: Duration,
    dir: PathBuf,
    world: Weak<World>,
    cancel: CancellationToken,
) -> String {
    let own = dir.join(&instance.id);
    let life = async {
        tokio::time::sleep(boot).await;
        if let Some(world) = world.upgrade() {
            world.state().calls.booted += 1;
        }
        agent_of(&instance, &own, cancel.clone()).await
    };
    let result = tokio::select! {
        result = life => result,
        () = cancel.cancelled() => Ok(()),
    };
    if let Err(error) = result {
        tracing::error!(instance = instance.id, error, "a simulated machine failed");
    }
    // What a machine that did not boot never wrote.
    let _ = fs::remove_dir_all(&own);
    instance.id
}

/// Runs the agent of the user data, if it has one, until cancelled.
async fn agent_of(instance: &Instance, dir: &Path, cancel: CancellationToken) -> Result<(), String> {
    let user_data = carried_out(&identity::decoded(&instance.user_data).unwrap_or_default())?;
    let Some(file) = user_data.write_files.iter().find(|file| file.path == AGENT_CONFIG) else {
        cancel.cancelled().await;
        return Ok(());
    };
    // What differs on a machine that is shared with others: where it keeps its key, and which address is its own.
    let mut settings = file.content.clone();
    settings.push_str(&format!("stateDir: {}\naddress: {}\n", dir.display(), instance.address));
    let path = dir.join("agent.yaml");
    fs::create_dir_all(dir).and_then(|()| fs::write(&path, settings)).map_err(|error| error.to_string())?;
    let config = AgentConfig::read(&path).await.map_err(|error| format!("{error}: {:?}", error))?;
    let (events, told) = mpsc::channel(16);
    let (_silent, notices) = watch::channel(Vec::new());
    let rooms = Rooms {
        host: Arc::new(SimulatedPod { report: watch::Sender::new(None), events }),
        preparation: Box::new(Nothing),
        events: told,
        notices,
        services: Box::new(Services(0)),
    };
    agent::link(config, rooms, cancel).await.map_err(|error| format!("{error}: {error:?}"))
}

/// A Pod whose containers do what they are told, in no time worth mentioning.
struct SimulatedPod {
    report: watch::Sender<Option<Arc<PodReport>>>,
    events: mpsc::Sender<AgentEvent>,
}

impl SimulatedPod {
    /// As the real agent's, of a container whose image is there.
    fn tell(&self, desired: &DesiredPod, reason: &str) {
        for container in &desired.containers {
            let event = AgentEvent {
                uid: desired.uid.clone(),
                at: Timestamp::now(),
                warning: false,
                reason: reason.to_owned(),
                message: format!("{reason} container {}", container.name),
                container: Some((container.kind, container.name.clone())),
            };
            // Best effort, as all events.
            let _ = self.events.try_send(event);
        }
    }
}

#[async_trait]
impl PodHost for SimulatedPod {
    fn set_desired(&self, desired: Arc<DesiredPod>) {
        let now = Timestamp::now();
        let before = self.report.borrow().clone();
        if before.as_ref().is_some_and(|report| report.terminated || report.generation > desired.generation) {
            return;
        }
        let started = before.as_ref().and_then(|report| report.sandbox_ready_at);
        if desired.stop.is_some() {
            self.report.send_replace(Some(Arc::new(report(&desired, started.unwrap_or(now), &stopped(started, now)))));
            return;
        }
        if let Some(started) = started {
            let running = ContainerState::Running { started_at: started };
            let state = before.and_then(|report| Some(report.containers.first()?.state.clone())).unwrap_or(running);
            self.report.send_replace(Some(Arc::new(report(&desired, started, &state))));
            return;
        }
        let creating = ContainerState::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
        self.report.send_replace(Some(Arc::new(report(&desired, now, &creating))));
        self.tell(&desired, "Pulled");
        self.tell(&desired, "Created");
        let (sender, events) = (self.report.clone(), self.events.clone());
        tokio::spawn(async move {
            tokio::time::sleep(CONTAINER_START).await;
            let this = Self { report: sender, events };
            let running = ContainerState::Running { started_at: Timestamp::now() };
            // What it was told meanwhile stands.
            let changed = this.report.send_if_modified(|newest| {
                let Some(newest) = newest.as_mut().filter(|newest| !newest.terminated) else { return false };
                let newest = Arc::make_mut(newest);
                newest.containers.iter_mut().for_each(|container| run_it(container, &running));
                true
            });
            if changed {
                this.tell(&desired, "Started");
            }
        });
    }

    fn holds(&self) -> Option<(PodUid, Generation)> {
        self.report.borrow().as_ref().map(|report| (report.uid.clone(), report.generation))
    }

    fn report(&self) -> watch::Receiver<Option<Arc<PodReport>>> {
        self.report.subscribe()
    }

    async fn exec(&self, container: &str, _: &[String], _: Streams) -> Result<String, HostError> {
        Err(HostError::NoContainer(container.to_owned()))
    }

    async fn attach(&self, container: &str, _: Streams) -> Result<String, HostError> {
        Err(HostError::NoContainer(container.to_owned()))
    }

    async fn port_forward(&self, _: &[u16]) -> Result<String, HostError> {
        Err(HostError::NoSandbox)
    }

    async fn exec_sync(&self, container: &str, _: &[String]) -> Result<ExecOutput, HostError> {
        Err(HostError::NoContainer(container.to_owned()))
    }

    async fn stats(&self) -> Result<PodStats, HostError> {
        Err(HostError::NoSandbox)
    }

    async fn log_path(&self, _: &str) -> Result<PathBuf, HostError> {
        Err(HostError::NoSandbox)
    }

    async fn is_running(&self, _: &str) -> Result<bool, HostError> {
        Ok(false)
    }
}

fn stopped(started: Option<Timestamp>, now: Timestamp) -> ContainerState {
    ContainerState::Terminated(Termination {
        exit_code: 0,
        signal: None,
        reason: "Completed".to_owned(),
        message: String::new(),
        started_at: started,
        finished_at: now,
        container_id: None,
    })
}

fn report(desired: &DesiredPod, sandbox: Timestamp, state: &ContainerState) -> PodReport {
    PodReport {
        uid: desired.uid.clone(),
        generation: desired.generation,
        sandbox_ready_at: Some(sandbox),
        pod_ip: desired.pod_ip,
        containers: desired.containers.iter().map(|container| of(container, state)).collect(),
        terminated: desired.stop.is_some(),
    }
}

fn of(container: &DesiredContainer, state: &ContainerState) -> ContainerReport {
    let mut report = ContainerReport {
        name: container.name.clone(),
        kind: container.kind,
        state: ContainerState::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() },
        last: None,
        restart_count: 0,
        container_id: None,
        image: container.image.clone(),
        image_id: String::new(),
        started: false,
        ready: false,
    };
    run_it(&mut report, state);
    report
}

fn run_it(report: &mut ContainerReport, state: &ContainerState) {
    let runs = matches!(state, ContainerState::Running { .. });
    report.state = state.clone();
    (report.started, report.ready) = (runs, runs);
    if !matches!(state, ContainerState::Waiting { .. }) {
        report.container_id = Some(format!("containerd://simulated-{}", report.name));
    }
}

struct Nothing;

#[async_trait]
impl Preparation for Nothing {
    async fn prepare(&mut self, _: &DesiredPod) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

/// Takes note of the version alone.
struct Services(u64);

#[async_trait]
impl ServiceSink for Services {
    async fn apply(&mut self, update: &ServicesUpdate) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0 = update.to;
        Ok(())
    }

    fn version(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(generation: u64, stops: bool) -> Arc<DesiredPod> {
        let stop = stops.then(|| {
            serde_json::json!({
                "deletion": {"deadline": "2026-01-01T00:00:00Z", "grace_seconds": 1}, "reason": "deleted",
            })
        });
        let pod = serde_json::json!({
            "generation": generation, "uid": "u-1", "name": {"namespace": "default", "name": "p"},
            "labels": {}, "annotations": {}, "pod_ip": "10.72.63.254", "hostname": "p", "fqdn": null, "host_aliases": [],
            "dns": {"nameservers": [], "searches": [], "options": []},
            "host_network": false, "host_pid": false, "host_ipc": false, "share_process_namespace": false,
            "security": serde_json::to_value(pilotlight::model::PodSecurity::default()).unwrap(),
            "restart_policy": "Always", "termination_grace_seconds": 30, "containers": [], "volumes": [], "stop": stop,
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn container() -> DesiredContainer {
        DesiredContainer::new("main", "busybox")
    }

    #[tokio::test]
    async fn a_pod_has_its_address_takes_up_what_is_newer_and_ends_when_it_is_told_to() {
        let (events, _told) = mpsc::channel(16);
        let pod = SimulatedPod { report: watch::Sender::new(None), events };
        let newest = || pod.report.borrow().clone().unwrap();
        pod.set_desired(desired(2, false));
        assert_eq!((newest().generation.0, newest().pod_ip), (2, Some([10, 72, 63, 254].into())));
        pod.set_desired(desired(1, false));
        assert_eq!(pod.holds().unwrap().1.0, 2);
        pod.set_desired(desired(3, true));
        assert!(newest().terminated);
        pod.set_desired(desired(4, false));
        assert!(newest().terminated, "nothing follows");
    }

    #[tokio::test]
    async fn a_container_starts_and_stops_and_says_so() {
        let (events, mut told) = mpsc::channel(16);
        let pod = SimulatedPod { report: watch::Sender::new(None), events };
        let mut one = (*desired(1, false)).clone();
        one.containers = vec![container()];
        pod.set_desired(Arc::new(one.clone()));
        let mut reports = pod.report();
        let runs = |report: &Option<Arc<PodReport>>| report.as_ref().is_some_and(|report| report.containers[0].ready);
        reports.wait_for(runs).await.unwrap();
        let mut reasons = Vec::new();
        for _ in 0..3 {
            reasons.push(told.recv().await.unwrap().reason);
        }
        assert_eq!(reasons, ["Pulled", "Created", "Started"]);
        one.stop.clone_from(&desired(2, true).stop);
        one.generation = Generation(2);
        pod.set_desired(Arc::new(one));
        let report = reports.borrow_and_update().clone().unwrap();
        assert!(matches!(report.containers[0].state, ContainerState::Terminated(_)) && !report.containers[0].ready);
    }
}
