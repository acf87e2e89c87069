//! An HTTP endpoint of AWS's that no SDK of ours speaks to: STS, the price list. One host, one path, POST.
//!
//! Redirects are not followed, and no proxy is used.

use bytes::Bytes;
use http::{Method, Request, Uri, Version, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use std::{error::Error, io, time::Duration};
use tokio::time::timeout;

const IDLE_CONNECTIONS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("{0:?} is no endpoint: expected https://host or http://host:port, without a path")]
    Endpoint(String),
    #[error("the host's certificate authorities can't be read")]
    Roots(#[source] io::Error),
    #[error("{0} can't be asked: {1}")]
    Broken(String, String),
    #[error("{0} did not answer within {secs} s", secs = .1.as_secs())]
    TimedOut(String, Duration),
}

/// Status and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

pub struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    host: String,
    patience: Duration,
    longest_answer: usize,
}

impl Endpoint {
    /// `https://host` or `http://host:port`.
    pub fn at(endpoint: &str, patience: Duration, longest_answer: usize) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::Endpoint(endpoint.to_owned());
        let given: Uri = endpoint.parse().map_err(|_| wrong())?;
        let authority = given.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let scheme =
            given.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme)).ok_or_else(wrong)?;
        if !matches!(given.path(), "" | "/") || given.query().is_some() {
            return Err(wrong());
        }
        let uri = Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query("/").build();
        let connector = if *scheme == Scheme::HTTPS {
            let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(EndpointError::Roots)?;
            builder.https_only().enable_http1().build()
        } else {
            let none = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(none).https_or_http().enable_http1().build()
        };
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS).build(connector);
        Ok(Self { client, uri: uri.map_err(|_| wrong())?, host: authority.to_string(), patience, longest_answer })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn url(&self) -> String {
        self.uri.to_string()
    }

    pub async fn post(&self, headers: &[(&str, &str)], body: Bytes) -> Result<Answer, EndpointError> {
        let broken = |why: String| EndpointError::Broken(self.host.clone(), why);
        let mut request = Request::builder().method(Method::POST).uri(self.uri.clone()).version(Version::HTTP_11);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| broken(root(&error)))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), self.longest_answer).collect().await;
            let body = body.map_err(|error| broken(error.to_string()))?.to_bytes().to_vec();
            Ok(Answer { status, body })
        };
        timeout(self.patience, exchange)
            .await
            .unwrap_or_else(|_| Err(EndpointError::TimedOut(self.host.clone(), self.patience)))
    }
}

/// The last cause says most.
fn root(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => root(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_a_host_and_nothing_more() {
        crate::gateway::install_crypto_provider();
        let host = |endpoint: &str| {
            Endpoint::at(endpoint, Duration::from_secs(1), 1).map(|endpoint| endpoint.host().to_owned()).ok()
        };
        assert_eq!(host("http://127.0.0.1:5000"), Some("127.0.0.1:5000".to_owned()));
        assert_eq!(host("http://127.0.0.1:5000/"), Some("127.0.0.1:5000".to_owned()));
        for wrong in
            ["sts.us-east-1.amazonaws.com", "ftp://host", "https://host/path", "https://host/?a=b", "https://a@b", "/"]
        {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
