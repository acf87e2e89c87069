//! One agent's session.
//!
//! ```text
//!   Hello? --10 s--> (refused)
//!     | join: an older session of the instance is cancelled, and has ended
//!     v
//!   Connected --> reader: reports, events, notices -> updates  any of: stream ended, keepalive failed,
//!                 writer: desired, services -> agent           replaced, forgotten, shutdown
//!     |                                                                  |
//!     +------------------------------------------------------------------+--> Disconnected
//! ```

use super::{
    Shared,
    hub::{Joined, Outbound},
};
use crate::{
    model::{Generation, InstanceId, PodReport, PodUid},
    ports::AgentUpdate,
    proto::{AgentMessage, Hello, PIECE, ProviderMessage, agent_message, provider_message::Kind},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::{Status, Streaming};

const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a session ended; told to the agent where it can still hear it.
enum End {
    /// The connection is gone, or the agent left.
    Left,
    Replaced,
    /// The provider shuts down, or nobody takes updates any more.
    Shutdown,
    Refused(&'static str),
}

pub(super) async fn run(
    shared: Arc<Shared>,
    instance: InstanceId,
    mut inbound: Streaming<AgentMessage>,
    outbound: Outbound,
) {
    let end = match hello(&mut inbound).await {
        Ok(hello) => {
            let mut joined = shared.hub.join(&instance, outbound.clone());
            // Also when this task is dropped: the successor must not wait for ever.
            let _ended = joined.ended.clone().drop_guard();
            let end = serve(&shared, &instance, hello, &mut joined, &mut inbound, &outbound).await;
            if shared.hub.leave(&instance, joined.number) {
                tracing::info!(%instance, "an agent has disconnected");
                let disconnected = AgentUpdate::Disconnected { instance };
                tokio::select! {
                    // An error: nobody is there to be told.
                    _ = shared.updates.send(disconnected) => {}
                    () = shared.cancel.cancelled() => {}
                }
            }
            end
        }
        Err(end) => end,
    };
    let status = match end {
        End::Left => return,
        End::Replaced => Status::aborted("a newer session has replaced this one, or the instance was forgotten"),
        End::Shutdown => Status::unavailable("the provider is shutting down"),
        End::Refused(why) => Status::invalid_argument(why),
    };
    let _ = outbound.try_send(Box::new(Err(status)));
}

async fn hello(inbound: &mut Streaming<AgentMessage>) -> Result<Hello, End> {
    match timeout(HELLO_TIMEOUT, inbound.message()).await {
        Ok(Ok(Some(AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }))) => Ok(hello),
        Ok(Ok(Some(_))) => Err(End::Refused("the first message must be a hello")),
        Ok(_) => Err(End::Left),
        Err(_) => Err(End::Refused("no hello in time")),
    }
}

async fn serve(
    shared: &Shared,
    instance: &InstanceId,
    hello: Hello,
    joined: &mut Joined,
    inbound: &mut Streaming<AgentMessage>,
    outbound: &Outbound,
) -> End {
    let cancel = joined.cancel.clone();
    let pieces = if hello.takes_pieces { PIECE } else { usize::MAX };
    let predecessor = joined.predecessor.take();
    let holds = (!hello.pod_uid.is_empty()).then(|| (PodUid::new(hello.pod_uid), Generation(hello.generation)));
    let work = async {
        if let Some(predecessor) = predecessor {
            predecessor.cancelled().await;
        }
        // Its own words: not every text may stand in a log.
        let version: String = hello.agent_version.chars().filter(char::is_ascii_graphic).take(40).collect();
        tracing::info!(%instance, version, "an agent has connected");
        let connected = AgentUpdate::Connected { instance: instance.clone(), holds };
        if shared.updates.send(connected).await.is_err() {
            return End::Shutdown;
        }
        tokio::select! {
            end = read(shared, instance, inbound) => end,
            end = write(shared, joined, outbound, pieces) => end,
        }
    };
    tokio::select! {
        end = work => end,
        () = shared.cancel.cancelled() => End::Shutdown,
        () = cancel.cancelled() => End::Replaced,
    }
}

/// What the agent says becomes updates. A full queue stops reading, and so the agent.
async fn read(shared: &Shared, instance: &InstanceId, inbound: &mut Streaming<AgentMessage>) -> End {
    while let Ok(Some(message)) = inbound.message().await {
        let instance = instance.clone();
        let update = match message.kind {
            Some(agent_message::Kind::Report(bytes)) => serde_json::from_slice(&bytes).map(|mut report: PodReport| {
                // It is kept, and room for more containers than it has is half of it.
                report.containers.shrink_to_fit();
                AgentUpdate::Report { instance: instance.clone(), report: Box::new(report) }
            }),
            Some(agent_message::Kind::Event(bytes)) => serde_json::from_slice(&bytes)
                .map(|event| AgentUpdate::Event { instance: instance.clone(), event: Box::new(event) }),
            Some(agent_message::Kind::Notices(bytes)) => serde_json::from_slice(&bytes)
                .map(|notices| AgentUpdate::Notices { instance: instance.clone(), notices }),
            // A second hello says nothing new; an unknown kind is a later version's.
            Some(agent_message::Kind::Hello(_)) | None => continue,
        };
        match update {
            Ok(update) => {
                if shared.updates.send(update).await.is_err() {
                    return End::Shutdown;
                }
            }
            // The next one may be fine; what is lost is repeated whole with the next report.
            Err(error) => tracing::error!(%instance, %error, "an agent's message is not understood"),
        }
    }
    End::Left
}

/// A message of at most so many bytes, after the pieces that come before it.
fn in_pieces(mut bytes: Bytes, most: usize, last: impl Fn(Bytes) -> Kind) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while bytes.len() > most {
        kinds.push(Kind::Piece(bytes.split_to(most)));
    }
    kinds.push(last(bytes));
    kinds
}

/// Sends the newest desired state, and the services since what was sent last.
async fn write(shared: &Shared, joined: &mut Joined, outbound: &Outbound, most: usize) -> End {
    let mut services = shared.hub.watch_services();
    services.mark_changed();
    // None: this session has sent none yet, so it begins with all of them.
    let mut sent = None;
    loop {
        let messages = tokio::select! {
            // In this order: the Pod first, its services next.
            biased;
            desired = joined.next.take() => in_pieces(desired, most, Kind::Desired),
            changed = services.changed() => {
                if changed.is_err() {
                    return End::Shutdown;
                }
                services.borrow_and_update();
                let (version, updates) = shared.hub.services_since(sent);
                sent = version;
                updates.into_iter().flat_map(|bytes| in_pieces(bytes, most, Kind::Services)).collect()
            }
            () = outbound.closed() => return End::Left,
        };
        for kind in messages {
            if outbound.send(Box::new(Ok(ProviderMessage { kind: Some(kind) }))).await.is_err() {
                return End::Left;
            }
        }
    }
}
