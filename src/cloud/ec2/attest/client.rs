//! The one HTTP call of the attestation: a composed question to the region's STS, which is fixed.
//!
//! The endpoint is the region's own unless provider.yaml names another one, for a stand-in. Nothing that an agent
//! sends has a say in it; redirects are not followed, and no proxy is used.

use super::{AskSts, SignedQuestion, StsAnswer};
use async_trait::async_trait;
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

/// The agent waits ten seconds for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer has some 500 bytes.
const LONGEST_ANSWER: usize = 64 << 10;
const IDLE_CONNECTIONS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0:?} is no endpoint: expected https://host or http://host:port, without a path")]
    Endpoint(String),
    #[error("the host's certificate authorities can't be read")]
    Roots(#[source] io::Error),
    #[error("STS can't be asked: {0}")]
    Broken(String),
    #[error("STS did not answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

pub struct StsClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    host: String,
}

impl StsClient {
    /// The region's own endpoint. (AWS, "AWS STS endpoints and quotas".)
    pub fn of_region(region: &str) -> Result<Self, ClientError> {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Self::at(&format!("https://sts.{region}.{suffix}"))
    }

    /// Another one, for a stand-in.
    pub fn at(endpoint: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Endpoint(endpoint.to_owned());
        let given: Uri = endpoint.parse().map_err(|_| wrong())?;
        let authority = given.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let scheme =
            given.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme)).ok_or_else(wrong)?;
        if !matches!(given.path(), "" | "/") || given.query().is_some() {
            return Err(wrong());
        }
        let uri = Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query("/").build();
        let connector = if *scheme == Scheme::HTTPS {
            let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(ClientError::Roots)?;
            builder.https_only().enable_http1().build()
        } else {
            let none = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(none).https_or_http().enable_http1().build()
        };
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS).build(connector);
        Ok(Self { client, uri: uri.map_err(|_| wrong())?, host: authority.to_string() })
    }
}

#[async_trait]
impl AskSts for StsClient {
    fn host(&self) -> &str {
        &self.host
    }

    async fn ask(&self, question: &SignedQuestion) -> Result<StsAnswer, ClientError> {
        let mut request = Request::builder().method(Method::POST).uri(self.uri.clone()).version(Version::HTTP_11);
        for (name, value) in &question.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from_static(question.body.as_bytes())));
        let request = request.map_err(|error| ClientError::Broken(error.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| ClientError::Broken(root(&error)))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes().to_vec();
            Ok(StsAnswer { status, body })
        };
        timeout(TIMEOUT, exchange).await.unwrap_or(Err(ClientError::TimedOut))
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
        let host = |endpoint: &str| StsClient::at(endpoint).map(|client| client.host().to_owned()).ok();
        assert_eq!(host("http://127.0.0.1:5000"), Some("127.0.0.1:5000".to_owned()));
        assert_eq!(host("http://127.0.0.1:5000/"), Some("127.0.0.1:5000".to_owned()));
        for wrong in
            ["sts.us-east-1.amazonaws.com", "ftp://host", "https://host/path", "https://host/?a=b", "https://a@b", "/"]
        {
            assert_eq!(host(wrong), None, "{wrong}");
        }
        let of = |region| StsClient::of_region(region).map(|client| client.host).ok();
        assert_eq!(of("eu-west-1"), Some("sts.eu-west-1.amazonaws.com".to_owned()));
        assert_eq!(of("cn-north-1"), Some("sts.cn-north-1.amazonaws.com.cn".to_owned()));
    }
}
