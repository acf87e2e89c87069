//! The service inside each instance: it dials in to the provider, and runs one Pod as it is told.
//!
//! In: /etc/pilotlight/agent.yaml; desired states, services and tunnel requests over the session.
//! Out: reports, events and the cloud's announcements over the session; tunnels; containers, through `pod`; nftables, through
//! `proxy`.
//!
//! ```text
//!                        +-- pod host <---> containerd
//!   provider <--session--+-- service proxy --> nftables
//!                        +-- tunnels --> log files, the runtime's streaming server
//! ```
//!
//! The Pod runs whether the provider is there or not: `pod` starts before the first connection, and
//! nothing of it is stopped when the connection breaks, or when this process does.

mod attest;
mod config;
mod host;
mod identity;
pub mod imds;
mod logs;
mod notices;
mod orders;
mod outbox;
mod run;
mod services;
mod session;
mod tunnel;

pub mod pod;
pub mod proxy;

pub use config::{AgentConfig, ConfigError, DEFAULT_CONFIG, DEFAULT_STATE_DIR, Proof};
pub use host::{ExecOutput, HostError, PodHost, Preparation, Rooms, ServiceSink};
pub use identity::IdentityError;
pub use run::run;

use crate::retry::Backoff;
use identity::{Identity, Kept};
use outbox::Outbox;
use session::{Left, Link};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Between attempts to register: the provider may be restarting while this instance boots.
const FIRST_REGISTRATION_WAIT: Duration = Duration::from_millis(50);
const LONGEST_REGISTRATION_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("this instance could not register with the provider")]
    Register(#[source] IdentityError),
    #[error("the Pod that this instance runs can't be taken up")]
    State(#[source] pod::StateError),
    #[error("the Pod's runtime has ended")]
    RuntimeEnded,
}

/// Connects these rooms to the provider, until cancelled.
///
/// # Errors
/// Only when the provider refuses this instance for good.
pub async fn link(config: AgentConfig, rooms: Rooms, cancel: CancellationToken) -> Result<(), AgentError> {
    let Rooms { host, preparation, events, notices, services } = rooms;
    let outbox = Arc::new(Outbox::default());
    let (services, services_task) = services::services(services);
    let tasks = TaskTracker::new();
    // Whichever way this ends, its tasks end with it.
    let cancel = cancel.child_token();
    let _guard = cancel.clone().drop_guard();
    tasks.spawn(collect(events, Arc::clone(&outbox), cancel.clone()));
    tasks.spawn(services_task.run(cancel.clone()));
    let (orders, ordered) = watch::channel(None);
    tasks.spawn(orders::carry(ordered, preparation, Arc::clone(&host), Arc::clone(&outbox), cancel.clone()));

    let mut identified = identify(&config, &cancel).await?;
    if identified.is_some() {
        let link = Link {
            config,
            host,
            orders,
            outbox,
            notices,
            services,
            pod: watch::Sender::new(None),
            tunnels: TaskTracker::new(),
            cancel: cancel.clone(),
        };
        while let Some(identity) = identified.take() {
            match link.run(identity).await {
                Left::Cancelled => {}
                // The provider was away for longer than a certificate lives.
                Left::Expired => identified = identify(&link.config, &cancel).await?,
            }
        }
        link.tunnels.close();
        link.tunnels.wait().await;
    }
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The kept identity, or a new one. None: cancelled.
async fn identify(config: &AgentConfig, cancel: &CancellationToken) -> Result<Option<Identity>, AgentError> {
    let key = match Kept::load(config).map_err(AgentError::Register)? {
        Kept::Whole(identity) => return Ok(Some(identity)),
        Kept::Key(key) => key,
    };
    let mut backoff = Backoff::new(FIRST_REGISTRATION_WAIT, LONGEST_REGISTRATION_WAIT);
    loop {
        let registered = tokio::select! {
            registered = identity::register(config, &key) => registered,
            () = cancel.cancelled() => return Ok(None),
        };
        match registered {
            Ok(identity) => {
                tracing::info!(instance = %config.instance, "registered with the provider");
                return Ok(Some(identity));
            }
            Err(error) if error.is_final(&config.proof) => return Err(AgentError::Register(error)),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "not registered yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = cancel.cancelled() => return Ok(None),
        }
    }
}

async fn collect(mut events: mpsc::Receiver<crate::model::AgentEvent>, outbox: Arc<Outbox>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => outbox.push(event),
                None => return,
            },
            () = cancel.cancelled() => return,
        }
    }
}
