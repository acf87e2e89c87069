//! The instance metadata service of EC2, version 2: what an instance may ask about itself.
//!
//! ```text
//!   PUT /latest/api/token (ttl)  ->  a session token, kept until shortly before its end
//!   GET <path> (token)           ->  the text, or nothing (404)
//! ```
//!
//! Version 1 is not spoken: instances are launched with HttpTokens=required and a hop limit of 1. Source: AWS, "Use the
//! Instance Metadata Service to access instance metadata".

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Mutex,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// It answers from the hypervisor within milliseconds; while a machine boots it may take longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that EC2 allows.
const TOKEN_LIFE: Duration = Duration::from_secs(21_600);
/// A token is renewed this long before its end.
const TOKEN_SPARE: Duration = Duration::from_secs(60);
/// More than any document it has: the identity document with its signature is about 2 KiB.
const LONGEST_ANSWER: usize = 64 << 10;

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

#[derive(Debug, thiserror::Error)]
pub enum ImdsError {
    #[error("the metadata service did not answer {path} within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut { path: String },
    #[error("the metadata service can't be asked for {path}: {message}")]
    Broken { path: String, message: String },
    #[error("the metadata service answered {path} with {status}")]
    Status { path: String, status: StatusCode },
}

/// A client of the metadata service.
pub struct Imds {
    address: SocketAddr,
    /// None: the system chooses.
    own: Option<IpAddr>,
    token: Mutex<Option<(String, Instant)>>,
}

/// Asked from this one of the machine's addresses.
impl From<Option<IpAddr>> for Imds {
    fn from(own: Option<IpAddr>) -> Self {
        Self { own, ..Self::at(ADDRESS) }
    }
}

impl Imds {
    /// One at another address, for tests.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, own: None, token: Mutex::new(None) }
    }

    /// What stands at this path (`/latest/meta-data/…`); None where there is nothing.
    pub async fn get(&self, path: &str) -> Result<Option<String>, ImdsError> {
        let token = self.token().await?;
        let (status, text) = self.call(Method::GET, path, (TOKEN_HEADER, &token)).await?;
        match status {
            StatusCode::OK => Ok(Some(text)),
            StatusCode::NOT_FOUND => Ok(None),
            status => {
                if status == StatusCode::UNAUTHORIZED {
                    // The token is no longer known: the next call asks for another.
                    *self.token.lock().await = None;
                }
                Err(ImdsError::Status { path: path.to_owned(), status })
            }
        }
    }

    async fn token(&self) -> Result<String, ImdsError> {
        let kept = self.token.lock().await.clone();
        if let Some((token, until)) = kept
            && Instant::now() < until
        {
            return Ok(token);
        }
        let path = "/latest/api/token";
        let seconds = TOKEN_LIFE.as_secs().to_string();
        let asked = Instant::now();
        let (status, token) = self.call(Method::PUT, path, (TTL_HEADER, &seconds)).await?;
        if status != StatusCode::OK {
            return Err(ImdsError::Status { path: path.to_owned(), status });
        }
        *self.token.lock().await = Some((token.clone(), asked + (TOKEN_LIFE - TOKEN_SPARE)));
        Ok(token)
    }

    async fn call(&self, method: Method, path: &str, header: (&str, &str)) -> Result<(StatusCode, String), ImdsError> {
        let broken = |message: String| ImdsError::Broken { path: path.to_owned(), message };
        let exchange = async {
            let stream = self.connect().await.map_err(|e| e.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
            let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, self.address.to_string())
                .header(header.0, header.1)
                .body(Empty::<Bytes>::new())
                .map_err(|e| e.to_string())?;
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await.map_err(|e| e.to_string())?;
            let text = String::from_utf8(body.to_bytes().into()).map_err(|e| e.to_string())?;
            Ok((status, text))
        };
        let answered = timeout(CALL_TIMEOUT, exchange).await;
        answered.map_err(|_| ImdsError::TimedOut { path: path.to_owned() })?.map_err(broken)
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let Some(own) = self.own else { return TcpStream::connect(self.address).await };
        let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::new(own, 0))?;
        socket.connect(self.address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        Router,
        extract::State,
        http::HeaderMap,
        routing::{get, put},
    };
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    /// Speaks version 2 alone: a call without the newest token is refused.
    async fn service(tokens: Arc<AtomicU32>) -> SocketAddr {
        let token = |State(tokens): State<Arc<AtomicU32>>, headers: HeaderMap| async move {
            if headers.get(TTL_HEADER).is_none_or(|ttl| ttl != "21600") {
                return (StatusCode::BAD_REQUEST, String::new());
            }
            (StatusCode::OK, format!("token-{}", tokens.fetch_add(1, Ordering::SeqCst) + 1))
        };
        let id = |State(tokens): State<Arc<AtomicU32>>, headers: HeaderMap| async move {
            let newest = format!("token-{}", tokens.load(Ordering::SeqCst));
            match headers.get(TOKEN_HEADER) {
                Some(token) if *token == *newest => (StatusCode::OK, "i-0abc".to_owned()),
                _ => (StatusCode::UNAUTHORIZED, String::new()),
            }
        };
        let app = Router::new()
            .route("/latest/api/token", put(token))
            .route("/latest/meta-data/instance-id", get(id))
            .with_state(tokens);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    const ID: &str = "/latest/meta-data/instance-id";

    #[tokio::test]
    async fn one_token_serves_many_questions_and_what_is_not_there_is_nothing() {
        let tokens = Arc::new(AtomicU32::new(0));
        let imds = Imds::at(service(Arc::clone(&tokens)).await);
        for _ in 0..3 {
            assert_eq!(imds.get(ID).await.unwrap().as_deref(), Some("i-0abc"));
        }
        assert_eq!(imds.get("/latest/meta-data/spot/instance-action").await.unwrap(), None);
        assert_eq!(tokens.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_token_that_is_no_longer_known_is_replaced_by_the_next_call() {
        let tokens = Arc::new(AtomicU32::new(0));
        let imds = Imds::at(service(Arc::clone(&tokens)).await);
        imds.get(ID).await.unwrap();
        tokens.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(imds.get(ID).await, Err(ImdsError::Status { .. })));
        assert_eq!(imds.get(ID).await.unwrap().as_deref(), Some("i-0abc"));
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_an_error_that_names_the_question() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Imds::at(address).get(ID).await.unwrap_err().to_string();
        assert!(error.contains("/latest/api/token"), "{error}");
    }
}
