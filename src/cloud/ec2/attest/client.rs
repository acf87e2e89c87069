//! The one HTTP call of the attestation: a composed question to the region's STS, which is fixed.
//!
//! The endpoint is the region's own unless provider.yaml names another one, for a stand-in. Nothing that an agent
//! sends has a say in it.

use super::{AskSts, SignedQuestion, StsAnswer};
use crate::cloud::ec2::endpoint::{Endpoint, EndpointError};
use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;

/// The agent waits ten seconds for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer has some 500 bytes.
const LONGEST_ANSWER: usize = 64 << 10;

pub type ClientError = EndpointError;

pub struct StsClient(Endpoint);

impl StsClient {
    /// The region's own endpoint. (AWS, "AWS STS endpoints and quotas".)
    pub fn of_region(region: &str) -> Result<Self, ClientError> {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Self::at(&format!("https://sts.{region}.{suffix}"))
    }

    /// Another one, for a stand-in.
    pub fn at(endpoint: &str) -> Result<Self, ClientError> {
        Endpoint::at(endpoint, TIMEOUT, LONGEST_ANSWER).map(Self)
    }
}

#[async_trait]
impl AskSts for StsClient {
    fn host(&self) -> &str {
        self.0.host()
    }

    async fn ask(&self, question: &SignedQuestion) -> Result<StsAnswer, ClientError> {
        let headers: Vec<(&str, &str)> = question.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self.0.post(&headers, Bytes::from_static(question.body.as_bytes())).await?;
        Ok(StsAnswer { status: answer.status, body: answer.body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_has_its_own() {
        crate::gateway::install_crypto_provider();
        let of = |region| StsClient::of_region(region).map(|client| client.host().to_owned()).ok();
        assert_eq!(of("eu-west-1"), Some("sts.eu-west-1.amazonaws.com".to_owned()));
        assert_eq!(of("cn-north-1"), Some("sts.cn-north-1.amazonaws.com.cn".to_owned()));
    }
}
