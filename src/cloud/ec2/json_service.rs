//! AWS's JSON protocols, spoken by hand: one signed POST a question. For services that are asked one thing or two:
//! an SDK for each would be half as large as EC2's.
//!
//! Sources: AWS, "Signature Version 4"; Smithy, "AWS JSON 1.0 protocol" and "AWS JSON 1.1 protocol".

use super::{endpoint::Endpoint, refusal::Refusal};
use aws_credential_types::{Credentials, provider::ProvideCredentials, provider::SharedCredentialsProvider};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use bytes::Bytes;
use serde_json::Value;
use std::{collections::BTreeMap, time::SystemTime};

pub struct JsonService {
    pub endpoint: Endpoint,
    /// As signatures name it: `pricing`, `sqs`.
    pub service: &'static str,
    /// That signatures are for.
    pub region: String,
    /// `application/x-amz-json-1.0` or `-1.1`.
    pub content_type: &'static str,
    pub credentials: SharedCredentialsProvider,
}

impl JsonService {
    /// `target` is the operation as the protocol names it: `AmazonSQS.ReceiveMessage`. The answer's body.
    pub async fn call(&self, target: &str, question: &Value) -> Result<Vec<u8>, Refusal> {
        let nobody = |error: &dyn std::error::Error| Refusal::no_credentials(error.to_string());
        let credentials = self.credentials.provide_credentials().await.map_err(|error| nobody(&error))?;
        let body = question.to_string();
        let signed = self.signed(&credentials, target, &body).map_err(Refusal::unanswered)?;
        let mut headers = vec![("content-type", self.content_type), ("x-amz-target", target)];
        headers.extend(signed.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let answer = self.endpoint.post(&headers, Bytes::from(body.clone())).await;
        let answer = answer.map_err(|error| Refusal::unanswered(error.to_string()))?;
        if answer.status == 200 { Ok(answer.body) } else { Err(refused(self.service, answer.status, &answer.body)) }
    }

    /// The headers that sign it.
    fn signed(&self, credentials: &Credentials, target: &str, body: &str) -> Result<BTreeMap<String, String>, String> {
        let identity = credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?
            .into();
        let headers = [("content-type", self.content_type), ("host", self.endpoint.host()), ("x-amz-target", target)];
        let request = SignableRequest::new(
            "POST",
            self.endpoint.url(),
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        )
        .map_err(|error| error.to_string())?;
        let (instructions, _) = sign(request, &parameters).map_err(|error| error.to_string())?.into_parts();
        Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// Services write `message` or `Message`, and some both.
fn refused(service: &str, status: u16, body: &[u8]) -> Refusal {
    let fault: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = fault["message"].as_str().or(fault["Message"].as_str()).unwrap_or_default();
    match fault["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).filter(|code| !code.is_empty()) {
        Some(code) => Refusal::new(code, message),
        None => Refusal::unanswered(format!("{service} answers with status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Verdict;
    use super::*;

    #[test]
    fn a_refusal_is_judged_by_its_type() {
        for (body, verdict) in [
            (r#"{"__type":"AccessDeniedException","Message":"no"}"#, Verdict::Denied),
            (r#"{"__type":"com.amazonaws.pricing#ThrottlingException","message":"slowly"}"#, Verdict::BackOff),
            (r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"none","Message":"none"}"#, Verdict::Refused),
            ("<html>", Verdict::BackOff),
        ] {
            assert_eq!(refused("x", 400, body.as_bytes()).verdict, verdict, "{body}");
        }
    }
}
