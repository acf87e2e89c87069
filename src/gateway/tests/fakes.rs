//! A cloud and a Pod that only remember.

use crate::{
    agent::{ExecOutput, HostError, PodHost, Preparation, ServiceSink},
    decide::admission::Refusal,
    model::{
        DesiredPod, Generation, InstanceId, InstanceRecord, InstanceState, LaunchRequest, Launched, PodReport,
        PodStats, PodUid, ServicePort, ServicesUpdate, Streams, bootstrap::KeyFingerprint,
    },
    ports::{Claim, ClaimError, Cloud, CloudError, InstanceProof, ProofFault},
};
use async_trait::async_trait;
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

#[derive(Default)]
pub struct FakeCloud {
    /// Whose each is.
    pub claimed: Mutex<HashMap<InstanceId, KeyFingerprint>>,
    pub gone: Mutex<HashSet<InstanceId>>,
}

fn record(id: &InstanceId, state: InstanceState) -> InstanceRecord {
    InstanceRecord { state, ..crate::decide::fixtures::instance(id.as_str(), jiff::Timestamp::UNIX_EPOCH) }
}

#[async_trait]
impl Cloud for FakeCloud {
    async fn launch(&self, _: &LaunchRequest) -> Result<Launched, CloudError> {
        Ok(Launched::default())
    }
    async fn describe(&self) -> Result<Vec<InstanceRecord>, CloudError> {
        Ok(vec![])
    }
    async fn find(&self, id: &InstanceId) -> Result<Option<InstanceRecord>, CloudError> {
        let gone = self.gone.lock().unwrap().contains(id);
        Ok(Some(record(id, if gone { InstanceState::Terminated } else { InstanceState::Running })))
    }
    async fn terminate(&self, _: &[InstanceId]) -> Result<(), CloudError> {
        Ok(())
    }
    async fn claim(&self, claim: &Claim) -> Result<InstanceRecord, ClaimError> {
        let id = &claim.instance;
        match &claim.proof {
            InstanceProof::Token(token) if *token == format!("token-of-{id}") => {}
            _ => return Err(ClaimError::BadProof(id.clone(), ProofFault::Token)),
        }
        if *self.claimed.lock().unwrap().entry(id.clone()).or_insert(claim.key) != claim.key {
            return Err(ClaimError::NotAdmitted(id.clone(), Refusal::OtherKey));
        }
        Ok(record(id, InstanceState::Running))
    }
}

pub struct FakeHost {
    pub desired: watch::Sender<Option<Arc<DesiredPod>>>,
    pub report: watch::Sender<Option<Arc<PodReport>>>,
    /// The "runtime's streaming server".
    pub streaming: SocketAddr,
}

#[async_trait]
impl PodHost for FakeHost {
    fn set_desired(&self, desired: Arc<DesiredPod>) {
        self.desired.send_replace(Some(desired));
    }
    fn holds(&self) -> Option<(PodUid, Generation)> {
        self.desired.borrow().as_ref().map(|desired| (desired.uid.clone(), desired.generation))
    }
    fn report(&self) -> watch::Receiver<Option<Arc<PodReport>>> {
        self.report.subscribe()
    }
    async fn exec(&self, container: &str, _: &[String], _: Streams) -> Result<String, HostError> {
        match container {
            "app" => Ok(format!("http://{}/exec/a-token", self.streaming)),
            other => Err(HostError::NoContainer(other.to_owned())),
        }
    }
    async fn attach(&self, container: &str, _: Streams) -> Result<String, HostError> {
        Err(HostError::NoContainer(container.to_owned()))
    }
    async fn port_forward(&self, _: &[u16]) -> Result<String, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn exec_sync(&self, _: &str, command: &[String]) -> Result<ExecOutput, HostError> {
        Ok(ExecOutput { stdout: command.join(" ").into_bytes(), stderr: b"!".to_vec(), exit_code: 0 })
    }
    async fn stats(&self) -> Result<PodStats, HostError> {
        Ok(PodStats { at: jiff::Timestamp::UNIX_EPOCH, containers: vec![] })
    }
    async fn log_path(&self, _: &str) -> Result<PathBuf, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn is_running(&self, _: &str) -> Result<bool, HostError> {
        Ok(false)
    }
}

/// A proxy that only remembers.
pub struct FakeServices(pub watch::Sender<(u64, Vec<ServicePort>)>);

#[async_trait]
impl ServiceSink for FakeServices {
    async fn apply(&mut self, update: &ServicesUpdate) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.send_modify(|(version, ports)| {
            if update.from == 0 {
                ports.clear();
            }
            ports.retain(|port| !update.remove.contains(&port.key()));
            for port in &update.upsert {
                ports.retain(|old| old.key() != port.key());
                ports.push(port.clone());
            }
            *version = update.to;
        });
        Ok(())
    }
    fn version(&self) -> u64 {
        self.0.borrow().0
    }
}

pub struct Unprepared;

#[async_trait]
impl Preparation for Unprepared {
    async fn prepare(&mut self, _: &DesiredPod) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}
