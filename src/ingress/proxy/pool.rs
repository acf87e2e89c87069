//! Connections to one endpoint.
//!
//! ```text
//!   HTTP/1.1: free --taken--> in use --response read to its end--> free (the latest first), closed after IDLE
//!                                 \--broken, or given up half-way--> closed
//!   h2c:      shared by up to STREAMS requests each; one more connection when all are full
//! ```
//!
//! The rule about trying again is made here: [`SendError::NotSent`] gives the request back, and is returned only if
//! not a byte of it was written.

use super::body::{Leased, Outgoing};
use crate::ingress::backends::{Address, Protocol};
use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_util::task::TaskTracker;

/// As Kourier's clusters.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection is kept unused.
const IDLE: Duration = Duration::from_secs(60);
/// The most connections that are kept unused, for each endpoint.
const MOST_IDLE: usize = 256;
/// Requests that share an HTTP/2 connection. Servers allow 100 or more (RFC 9113, 6.5.2).
const STREAMS: usize = 100;
/// An endpoint that could not be reached is avoided for so long.
const SUSPECT: Duration = Duration::from_secs(5);
/// A dead peer is noticed after at most the sum of the two, also while a response is awaited.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(20);
/// The head of a response; as much as of a request.
const HEAD: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("not within {} s", CONNECT.as_secs())]
    TimedOut,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

pub enum SendError {
    /// Nothing of it was written: it may be tried again.
    NotSent { request: Box<Request<Outgoing>>, why: ConnectError },
    /// Some of it may have arrived.
    Broken(hyper::Error),
}

type Known = HashMap<(Address, Protocol), Weak<Endpoint>>;

/// All endpoints that somebody uses.
#[derive(Clone, Default)]
pub struct Endpoints {
    known: Arc<Mutex<Known>>,
    tasks: TaskTracker,
}

impl Endpoints {
    pub fn at(&self, address: &Address, protocol: Protocol) -> Arc<Endpoint> {
        let mut known = self.known.lock().expect("no panic while the lock is held");
        let slot = known.entry((address.clone(), protocol)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Endpoint::new(address.clone(), protocol, self.tasks.clone()));
            *slot = Arc::downgrade(&made);
            made
        })
    }

    /// Closes what has been unused for long, forgets endpoints that nobody uses. To be called now and then.
    pub fn sweep(&self) {
        let mut known = self.known.lock().expect("no panic while the lock is held");
        known.retain(|_, endpoint| endpoint.upgrade().is_some_and(|endpoint| endpoint.sweep()));
    }
}

pub struct Endpoint {
    pub address: Address,
    pub protocol: Protocol,
    free: Mutex<Vec<Free>>,
    shared: Mutex<Vec<Shared>>,
    /// One at a time makes a shared connection; the others wait for it.
    making: Semaphore,
    in_flight: AtomicUsize,
    failed: Mutex<Option<Instant>>,
    tasks: TaskTracker,
}

struct Free {
    sender: http1::SendRequest<Outgoing>,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<Outgoing>,
    streams: Arc<()>,
}

impl Endpoint {
    fn new(address: Address, protocol: Protocol, tasks: TaskTracker) -> Self {
        Self {
            address,
            protocol,
            free: Mutex::default(),
            shared: Mutex::default(),
            making: Semaphore::new(1),
            in_flight: AtomicUsize::new(0),
            failed: Mutex::default(),
            tasks,
        }
    }

    /// Requests that are being answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A connection to it failed a short while ago.
    pub fn suspect(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.elapsed() < SUSPECT)
    }

    /// Sends a request whose URI is in the form that the endpoint's protocol wants. The response's head is there
    /// when this returns, its body streams. `upgrade`: over HTTP/1.1 whatever the protocol, since only that can
    /// switch.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<Outgoing>,
        upgrade: bool,
    ) -> Result<Response<Leased>, SendError> {
        let busy = Busy::new(self);
        let sent = match self.protocol {
            Protocol::H2c if !upgrade => self.send_shared(request, busy).await,
            _ => self.send_alone(request, busy).await,
        };
        *lock(&self.failed) = matches!(sent, Err(SendError::NotSent { .. })).then(Instant::now);
        sent
    }

    async fn send_alone(
        self: &Arc<Self>,
        request: Request<Outgoing>,
        busy: Busy,
    ) -> Result<Response<Leased>, SendError> {
        let mut request = request;
        loop {
            let (mut sender, reused) = match self.take_free() {
                Some(sender) => (sender, true),
                None => match self.connect_alone().await {
                    Ok(sender) => (sender, false),
                    Err(why) => return Err(SendError::NotSent { request: Box::new(request), why }),
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|body| Leased::new(body, Lease::Alone(Arc::clone(self), sender, busy))));
                }
                Err(mut error) => match error.take_message() {
                    // Closed while it was unused.
                    Some(unsent) if reused => request = unsent,
                    Some(unsent) => {
                        let why = ConnectError::Http(error.into_error());
                        return Err(SendError::NotSent { request: Box::new(unsent), why });
                    }
                    None => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
    }

    async fn send_shared(&self, request: Request<Outgoing>, busy: Busy) -> Result<Response<Leased>, SendError> {
        let mut request = request;
        loop {
            let (mut sender, streams, reused) = match self.shared().await {
                Ok(found) => found,
                Err(why) => return Err(SendError::NotSent { request: Box::new(request), why }),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| Leased::new(body, Lease::Shared(streams, busy)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        lock(&self.shared).retain(|shared| !shared.sender.is_closed());
                        request = unsent;
                    }
                    Some(unsent) => {
                        let why = ConnectError::Http(error.into_error());
                        return Err(SendError::NotSent { request: Box::new(unsent), why });
                    }
                    None => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
    }

    fn take_free(&self) -> Option<http1::SendRequest<Outgoing>> {
        let mut free = lock(&self.free);
        std::iter::from_fn(|| free.pop())
            .map(|free| free.sender)
            .find(|sender| sender.is_ready() && !sender.is_closed())
    }

    fn give_back(&self, sender: http1::SendRequest<Outgoing>) {
        let mut free = lock(&self.free);
        if !sender.is_closed() && free.len() < MOST_IDLE {
            free.push(Free { sender, since: Instant::now() });
        }
    }

    async fn connect_alone(&self) -> Result<http1::SendRequest<Outgoing>, ConnectError> {
        let stream = connect(&self.address).await?;
        let (sender, connection) = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
        // Ends when the sender and the body in flight are dropped, or the peer closes. Its error is the request's.
        self.tasks.spawn(async move { drop(connection.with_upgrades().await) });
        Ok(sender)
    }

    /// A connection with room, the claim on a place in it, and whether it was there before.
    async fn shared(&self) -> Result<(http2::SendRequest<Outgoing>, Arc<()>, bool), ConnectError> {
        if let Some((sender, streams)) = self.take_shared() {
            return Ok((sender, streams, true));
        }
        let _turn = self.making.acquire().await.expect("the semaphore is never closed");
        if let Some((sender, streams)) = self.take_shared() {
            return Ok((sender, streams, true));
        }
        let stream = connect(&self.address).await?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream));
        let (sender, connection) =
            tokio::time::timeout(CONNECT, handshake).await.map_err(|_| ConnectError::TimedOut)??;
        self.tasks.spawn(async move { drop(connection.await) });
        let streams = Arc::new(());
        lock(&self.shared).push(Shared { sender: sender.clone(), streams: Arc::clone(&streams) });
        Ok((sender, streams, false))
    }

    fn take_shared(&self) -> Option<(http2::SendRequest<Outgoing>, Arc<()>)> {
        let mut shared = lock(&self.shared);
        shared.retain(|shared| !shared.sender.is_closed());
        // One of the claims is the pool's own.
        let room = shared.iter().find(|shared| Arc::strong_count(&shared.streams) <= STREAMS)?;
        Some((room.sender.clone(), Arc::clone(&room.streams)))
    }

    fn sweep(&self) -> bool {
        lock(&self.free).retain(|free| !free.sender.is_closed() && free.since.elapsed() < IDLE);
        // The first stays: it is kept alive by pings, and the next request wants it.
        let mut first = true;
        lock(&self.shared).retain(|shared| {
            let kept = !shared.sender.is_closed() && (Arc::strong_count(&shared.streams) > 1 || first);
            first &= !kept;
            kept
        });
        true
    }
}

/// What a response holds on to until its body is read or dropped.
pub(super) enum Lease {
    Alone(Arc<Endpoint>, http1::SendRequest<Outgoing>, #[allow(dead_code, reason = "counts while it lives")] Busy),
    Shared(
        #[allow(dead_code, reason = "counts while it lives")] Arc<()>,
        #[allow(dead_code, reason = "likewise")] Busy,
    ),
}

impl Lease {
    /// The body was read to its end: the connection may serve another request.
    pub fn finish(self) {
        let Self::Alone(endpoint, mut sender, _) = self else { return };
        if sender.is_ready() {
            endpoint.give_back(sender);
            return;
        }
        // The connection's own task has to take notice first; or the request's body is still being sent.
        let tasks = endpoint.tasks.clone();
        let endpoint = Arc::downgrade(&endpoint);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            tasks.spawn_on(
                async move {
                    if sender.ready().await.is_ok()
                        && let Some(endpoint) = endpoint.upgrade()
                    {
                        endpoint.give_back(sender);
                    }
                },
                &runtime,
            );
        }
    }
}

/// One more request in flight, until it is dropped.
pub(super) struct Busy(Arc<Endpoint>);

impl Busy {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connect(address: &Address) -> Result<TcpStream, ConnectError> {
    let connecting = async {
        match address {
            Address::Socket(address) => TcpStream::connect(address).await,
            Address::Name(name, port) => TcpStream::connect((name.as_str(), *port)).await,
        }
    };
    let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|_| ConnectError::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}
