//! The data plane: requests in, requests out, nothing kept in between.
//!
//! ```text
//!   listener (server.rs, tls.rs) -> connection -> request (forward.rs)
//!                                            |  table: host, path, headers -> route -> split -> backend
//!                                            |  headers.rs: what is added, set, left out
//!                                            v
//!                          endpoint (pool.rs) -- a connection that is free, or a new one
//!                                            |
//!                                  body.rs <-+-> tunnel.rs (after 101 Switching Protocols)
//! ```
//!
//! Bodies stream in both directions, a frame at a time; trailers too. Any request is tried again while nothing of it can
//! have reached anybody: no connection was made, or the one taken from the pool turned out to be closed before the first
//! byte. One that may have reached somebody is sent once more as `again.rs` says.

mod body;
mod forward;
mod headers;
mod live;
mod metrics;
mod pool;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;

pub use body::ProxyBody;
pub use live::{Live, LiveBackend};
pub use metrics::Metrics;
pub use pool::{Endpoint, Endpoints};
pub use server::{Limits, Proxy};
