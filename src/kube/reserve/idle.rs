//! Asks a reserve's queue-proxy whether it still works at a request.
//!
//! It answers on port 9090 with what it counted in the last second, as protobuf (pkg/autoscaler/metrics/stat.proto).
//! A request that runs longer than that counts in each second by its concurrency.

use crate::decide::reserve::Idle;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use prost::Message;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};

const PORT: u16 = 9090;
/// It is one hop away, and the answer is ready.
const PATIENCE: Duration = Duration::from_secs(1);
/// A count is some tens of bytes.
const MOST_BYTES: usize = 64 << 10;

#[derive(Clone, PartialEq, Message)]
struct Stat {
    #[prost(double, tag = "2")]
    average_concurrent_requests: f64,
    #[prost(double, tag = "4")]
    request_count: f64,
    #[prost(double, tag = "6")]
    process_uptime: f64,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("queue-proxy at {0} was not reached")]
    Connect(IpAddr, #[source] std::io::Error),
    #[error("queue-proxy did not answer")]
    Http(#[from] hyper::Error),
    #[error("queue-proxy answered {0}")]
    Status(http::StatusCode),
    #[error("queue-proxy's answer broke off: {0}")]
    Body(String),
    #[error("queue-proxy's answer is no count of requests")]
    Decode(#[from] prost::DecodeError),
}

/// `now` is when it is asked: what began before is in the answer only if a whole second lies in between, and the
/// machine sees to that.
pub async fn ask(ip: Option<IpAddr>, now: Timestamp) -> Idle {
    let Some(ip) = ip else { return Idle::Silent { at: now } };
    match timeout(PATIENCE, fetch(ip)).await {
        Ok(Ok(stat)) => verdict(&stat, now),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(%ip, error, "a reserve did not tell whether it is idle");
            Idle::Silent { at: now }
        }
        Err(_) => Idle::Silent { at: now },
    }
}

fn verdict(stat: &Stat, at: Timestamp) -> Idle {
    // Without an uptime it has not counted yet.
    if stat.process_uptime <= 0.0 {
        Idle::Silent { at }
    } else if stat.average_concurrent_requests > 0.0 || stat.request_count > 0.0 {
        Idle::Busy { at }
    } else {
        Idle::Yes { at }
    }
}

async fn fetch(ip: IpAddr) -> Result<Stat, AskError> {
    let address = SocketAddr::new(ip, PORT);
    let stream = TcpStream::connect(address).await.map_err(|source| AskError::Connect(ip, source))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get("/metrics")
        .header("host", address.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .expect("a request of constants and an address is valid");
    let exchange = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != http::StatusCode::OK {
            return Err(AskError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| AskError::Body(error.to_string()))?;
        Ok(Stat::decode(body.to_bytes())?)
    };
    // The connection ends with this call, whichever way it ends.
    tokio::pin!(connection);
    tokio::select! {
        stat = exchange => stat,
        ended = &mut connection => match ended {
            Err(error) => Err(error.into()),
            Ok(()) => Err(AskError::Body("the connection was closed".to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_of_nothing_is_idle() {
        let at = Timestamp::UNIX_EPOCH;
        // As Go writes it: a pod's name (1), fields 2, 4 and 6 as doubles, a time (7).
        let encode = |concurrency: Option<f64>, count: Option<f64>, uptime: Option<f64>| {
            let mut bytes = vec![0x0a, 3, b'p', b'o', b'd'];
            for (tag, value) in [(0x11, concurrency), (0x21, count), (0x31, uptime)] {
                if let Some(value) = value {
                    bytes.push(tag);
                    bytes.extend(value.to_le_bytes());
                }
            }
            bytes.extend([0x38, 5]);
            verdict(&Stat::decode(bytes.as_slice()).unwrap(), at)
        };
        assert_eq!(encode(None, None, Some(12.5)), Idle::Yes { at });
        assert_eq!(encode(Some(0.01), None, Some(12.5)), Idle::Busy { at });
        assert_eq!(encode(None, Some(1.0), Some(12.5)), Idle::Busy { at });
        assert_eq!(encode(None, None, None), Idle::Silent { at });
    }
}
