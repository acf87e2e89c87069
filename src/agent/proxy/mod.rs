//! The service proxy of an instance: ClusterIP Services and host ports, by nftables.
//!
//! In: [`ServicesUpdate`]s from the agent's stream, and the Pod's address and ports. Out: nftables
//! transactions, fed to `nft -f -` one at a time, each atomic: traffic sees the old rules or the new.
//!
//! Two tables, so that each lives by itself:
//! - `ip pilotlight`: Services. A whole update replaces it at one stroke; an increment touches only the
//!   Services that changed. It stays in place while the agent restarts: [`ServiceProxy::version`] is 0
//!   then, and the next session brings everything.
//! - `ip pilotlight-pod`: what goes with the Pod: host ports, hairpin masquerade, no metadata service.
//!
//! ```text
//!             apply(from 0)                     apply(from = version)
//!  version 0 ──────────────> version n ────────────────────────────> version m
//!      ^                         │  nft refuses: the whole table is written anew; that fails too:
//!      └─────────────────────────┴── Err, version 0, the kernel keeps the last good rules
//! ```
//!
//! [`render`] makes the text and is pure; [`frontends`] knows which rules an update touches; this module
//! runs the tools.

mod frontends;
mod render;
#[cfg(test)]
mod tests;
mod tools;

use super::ServiceSink;
use crate::{
    decide::services::{NotNext, ServicesState},
    model::{PortSpec, ServicesUpdate},
};
use async_trait::async_trait;
use frontends::{Change, Frontends};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};
use tools::Tools;

/// How long an emptied chain is kept: before Linux 6.2 a chain counts as in use for a moment after the last
/// map element that named it is gone, and deleting it then fails the transaction (kube-proxy's nftables
/// mode waits as long).
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Ask for everything again.
    #[error(transparent)]
    NotNext(#[from] NotNext),
    #[error("could not run {tool}")]
    Run { tool: &'static str, source: std::io::Error },
    #[error("nft refused to {operation}: {message}")]
    Refused { operation: &'static str, message: String },
    #[error("nft did not {operation} within {seconds} s")]
    TimedOut { operation: &'static str, seconds: u64 },
    #[error("the Pod's address {0} is not IPv4: Services and host ports are for IPv4 alone")]
    NotIpv4(IpAddr),
}

/// The Services' table of a network namespace. Calls come one after another (`&mut self`).
pub struct ServiceProxy {
    tools: Tools,
    state: ServicesState,
    frontends: Frontends,
    /// Where the agent dials: what the machine sends there is left alone ([`render`]).
    provider: Option<SocketAddrV4>,
    /// Emptied chains and sets, and since when.
    stale: BTreeMap<render::Name, Instant>,
}

impl Default for ServiceProxy {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceProxy {
    /// A proxy for the network namespace that this process is in. Touches nothing yet.
    pub fn new() -> Self {
        Self::with_prefix(Vec::new())
    }

    /// Puts these words before each command: `ip netns exec <name>`, say.
    pub fn with_prefix(prefix: Vec<String>) -> Self {
        Self {
            tools: Tools::new(prefix),
            state: ServicesState::default(),
            frontends: Frontends::default(),
            provider: None,
            stale: BTreeMap::new(),
        }
    }

    /// For an agent that dials this address.
    pub fn apart_from(self, provider: Option<SocketAddrV4>) -> Self {
        Self { provider, ..self }
    }

    /// The version of the Services in place; 0 before the first update: ask for everything.
    pub fn version(&self) -> u64 {
        self.state.version()
    }

    /// Brings the kernel to `update.to`. On an error the rules are as before; after any error other than
    /// [`ProxyError::NotNext`] the version is 0.
    pub async fn apply(&mut self, update: &ServicesUpdate) -> Result<(), ProxyError> {
        if update.from == 0 {
            let mut state = ServicesState::default();
            state.apply(update)?;
            return self.replace(state).await;
        }
        let mut state = std::mem::take(&mut self.state);
        let touched: BTreeSet<_> = update.remove.iter().cloned().chain(update.upsert.iter().map(|p| p.key())).collect();
        let before: Vec<_> = touched.iter().filter_map(|key| state.ports().get(key).cloned()).collect();
        if let Err(not_next) = state.apply(update) {
            self.state = state;
            return Err(not_next.into());
        }
        self.sweep().await;
        let changes = self.frontends.change(&before, &update.upsert);
        let script = render::increment(&changes);
        if let Err(error) = self.tools.nft("change Services", &script).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an increment of Services failed: writing them all anew"
            );
            return self.replace(state).await;
        }
        self.state = state;
        self.note_stale(&changes);
        self.forget_flows(&changes).await;
        Ok(())
    }

    /// Removes the Services' table: the instance is to be as new.
    pub async fn clear(&mut self) -> Result<(), ProxyError> {
        self.state = ServicesState::default();
        self.frontends = Frontends::default();
        self.stale.clear();
        self.tools.nft("remove the Services", &render::no_services()).await
    }

    async fn replace(&mut self, state: ServicesState) -> Result<(), ProxyError> {
        self.state = ServicesState::default();
        let old = std::mem::take(&mut self.frontends);
        let frontends = Frontends::of(state.ports().values());
        self.stale.clear();
        self.tools.nft("write all Services", &render::whole(&frontends, self.provider)).await?;
        let changes = old.towards(&frontends);
        self.frontends = frontends;
        self.state = state;
        self.forget_flows(&changes).await;
        Ok(())
    }

    fn note_stale(&mut self, changes: &[Change]) {
        let now = Instant::now();
        for change in changes {
            for name in render::left_over(change) {
                self.stale.insert(name, now);
            }
            for name in render::in_use(change) {
                self.stale.remove(&name);
            }
        }
    }

    /// Deletes what has been empty for long enough. A failure costs a few bytes of the kernel's memory:
    /// it is tried again with the next update.
    async fn sweep(&mut self) {
        let due: Vec<_> =
            self.stale.iter().filter(|(_, since)| since.elapsed() >= GRACE).map(|(name, _)| name.clone()).collect();
        if due.is_empty() {
            return;
        }
        match self.tools.nft("delete empty chains", &render::deletion(&due)).await {
            Ok(()) => self.stale.retain(|name, _| !due.contains(name)),
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "empty chains stay for now"),
        }
    }

    /// The kernel pins a UDP flow to where its first packet went, for as long as packets come: flows to what
    /// is no endpoint are forgotten, so that the next packet is sent to one.
    async fn forget_flows(&self, changes: &[Change]) {
        for change in changes {
            for endpoint in change.misled_udp() {
                self.tools.forget_flow(change.frontend, endpoint).await;
            }
        }
    }
}

#[async_trait]
impl ServiceSink for ServiceProxy {
    async fn apply(&mut self, update: &ServicesUpdate) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(ServiceProxy::apply(self, update).await?)
    }

    fn version(&self) -> u64 {
        ServiceProxy::version(self)
    }
}

/// The rules that go with the Pod: its host ports lead to it, it may reach itself through a Service, and
/// the cloud's metadata service is out of its reach.
pub struct PodRules {
    tools: Tools,
}

impl Default for PodRules {
    fn default() -> Self {
        Self::new()
    }
}

impl PodRules {
    /// For the network namespace that this process is in. Touches nothing yet.
    pub fn new() -> Self {
        Self::with_prefix(Vec::new())
    }

    /// Puts these words before each command.
    pub fn with_prefix(prefix: Vec<String>) -> Self {
        Self { tools: Tools::new(prefix) }
    }

    /// Replaces an earlier Pod's rules at one stroke. To be called before the Pod's network is set up, with
    /// or without host ports.
    pub async fn set(&self, pod_ip: IpAddr, ports: &[PortSpec]) -> Result<(), ProxyError> {
        let IpAddr::V4(pod_ip) = pod_ip else { return Err(ProxyError::NotIpv4(pod_ip)) };
        self.tools.nft("set the Pod's rules", &render::pod(pod_ip, ports)).await
    }

    /// No Pod, no rules.
    pub async fn clear(&self) -> Result<(), ProxyError> {
        self.tools.nft("remove the Pod's rules", &render::no_pod()).await
    }
}

/// An IPv4 address, for those who checked before.
fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
