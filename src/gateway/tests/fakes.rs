//! A cloud and a Pod that only remember.

use crate::{
    agent::{ExecOutput, HostError, PodHost, Preparation, ServiceSink},
    model::{
        DesiredPod, Generation, InstanceId, InstanceRecord, InstanceState, LaunchRequest, Launched, PodReport,
        PodStats, PodUid, ServicePort, ServicesUpdate, Streams,
    },
    ports::{ClaimError, Cloud, CloudError, InstanceProof},
};
use async_trait::async_trait;
use std::{
    collections::HashSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

#[derive(Default)]
pub struct FakeCloud {
    pub claimed: Mutex<HashSet<InstanceId>>,
}

#[async_trait]
impl Cloud for FakeCloud {
    async fn launch(&self, _: &LaunchRequest) -> Result<Launched, CloudError> {
        Ok(Launched::default())
    }
    async fn describe(&self) -> Result<Vec<InstanceRecord>, CloudError> {
        Ok(vec![])
    }
    async fn terminate(&self, _: &[InstanceId]) -> Result<(), CloudError> {
        Ok(())
    }
    async fn claim(&self, proof: &InstanceProof) -> Result<InstanceRecord, ClaimError> {
        if proof.token != format!("token-of-{}", proof.instance) {
            return Err(ClaimError::BadProof(proof.instance.clone()));
        }
        if !self.claimed.lock().unwrap().insert(proof.instance.clone()) {
            return Err(ClaimError::AlreadyClaimed(proof.instance.clone()));
        }
        Ok(InstanceRecord {
            id: proof.instance.clone(),
            client_token: crate::model::ClientToken::new("t"),
            instance_type: "small".into(),
            zone: "local-a".into(),
            purchase: crate::model::Purchase::OnDemand,
            state: InstanceState::Running,
            state_reason: None,
            private_ip: Some(proof.peer),
            pod_ip: None,
            launched_at: jiff::Timestamp::UNIX_EPOCH,
            price: serde_json::from_value("0.01".into()).unwrap(),
            tags: Default::default(),
        })
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
