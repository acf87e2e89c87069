//! How this instance proves on EC2 which one it is: with what only its own metadata service says.
//!
//! ```text
//!   challenge: nonce, what is taken
//!     | STS is taken, and the role is there?   sign GetCallerIdentity, bound to nonce, key and cluster
//!     | else the document is taken?            the identity document and its signature
//!     | else                                   an error that says what is missing
//! ```
//!
//! The instance identity role needs no setting and exists in every instance. Its credentials never leave the
//! instance: what is sent is a signature that is good for one question, "who is this?", for five minutes.
//! Sources: AWS, "Instance identity roles", "Instance identity documents", "Create a signed AWS API request".

use super::imds::{Imds, ImdsError};
use crate::{
    model::bootstrap::{BINDING_HEADER, KeyFingerprint, STS_BODY, STS_CONTENT_TYPE, binding},
    proto::{ChallengeResponse, IdentityDocument, StsAudience, StsProof, register_request::Proof},
};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningError, SigningSettings, sign},
    sign::v4,
};
use serde::Deserialize;
use std::time::SystemTime;

const ROLE: &str = "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const DOCUMENT_SIGNATURE: &str = "/latest/dynamic/instance-identity/rsa2048";

#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    #[error(transparent)]
    Imds(#[from] ImdsError),
    /// Without what it stumbled over, which could be a secret.
    #[error("the metadata service's answer to {0} is not understood")]
    Answer(&'static str),
    #[error("the request to STS can't be signed")]
    Sign(#[source] SigningError),
    #[error("the request to STS can't be signed: {0}")]
    Parameters(&'static str),
    #[error(
        "the provider takes no proof that this instance has (its role's credentials: {role}; its document: {document})"
    )]
    Nothing { role: &'static str, document: &'static str },
}

/// Of the instance identity role. No Debug: secrets.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RoleCredentials {
    code: String,
    access_key_id: String,
    secret_access_key: String,
    token: String,
}

/// The first proof of those that the challenge takes that this instance has.
pub async fn prove(
    imds: &Imds,
    cluster: &str,
    key: &KeyFingerprint,
    challenge: &ChallengeResponse,
    now: SystemTime,
) -> Result<Proof, AttestError> {
    let mut role = "not taken";
    if let Some(audience) = &challenge.sts {
        if let Some(text) = imds.get(ROLE).await? {
            let credentials: RoleCredentials = serde_json::from_str(&text).map_err(|_| AttestError::Answer(ROLE))?;
            if credentials.code == "Success" {
                let binding = binding(&challenge.nonce, key, cluster);
                return signed(&credentials, audience, challenge, &binding, now).map(Proof::Sts);
            }
        }
        role = "not there";
    }
    if !challenge.identity_document {
        return Err(AttestError::Nothing { role, document: "not taken" });
    }
    match (imds.get(DOCUMENT).await?, imds.get(DOCUMENT_SIGNATURE).await?) {
        (Some(document), Some(signature)) => {
            Ok(Proof::IdentityDocument(IdentityDocument { document: document.into(), signature }))
        }
        _ => Err(AttestError::Nothing { role, document: "not there" }),
    }
}

fn signed(
    credentials: &RoleCredentials,
    audience: &StsAudience,
    challenge: &ChallengeResponse,
    binding: &str,
    now: SystemTime,
) -> Result<StsProof, AttestError> {
    let identity = Credentials::new(
        &credentials.access_key_id,
        &credentials.secret_access_key,
        Some(credentials.token.clone()),
        None,
        "instance identity role",
    )
    .into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&audience.region)
        .name("sts")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| AttestError::Parameters("a part is missing"))?
        .into();
    let url = format!("https://{}/", audience.host);
    let headers = [("content-type", STS_CONTENT_TYPE), ("host", audience.host.as_str()), (BINDING_HEADER, binding)];
    let body = SignableBody::Bytes(STS_BODY.as_bytes());
    let request = SignableRequest::new("POST", url, headers.into_iter(), body).map_err(AttestError::Sign)?;
    let (instructions, signature) = sign(request, &parameters).map_err(AttestError::Sign)?.into_parts();
    let date = instructions.headers().find(|(name, _)| *name == "x-amz-date").map(|(_, value)| value.to_owned());
    Ok(StsProof {
        nonce: challenge.nonce.clone(),
        access_key_id: credentials.access_key_id.clone(),
        date: date.ok_or(AttestError::Parameters("it has no date"))?,
        session_token: credentials.token.clone(),
        signature: unhex(&signature).ok_or(AttestError::Parameters("its signature is not hexadecimal"))?.into(),
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bootstrap::{SIGNED_HEADERS, hex};
    use axum::{Router, routing::get, routing::put};
    use hmac::{Hmac, Mac};
    use sha2::{Digest, Sha256};
    use std::time::Duration;

    const CREDENTIALS: &str = r#"{"Code": "Success", "LastUpdated": "2026-01-01T00:00:00Z", "Type": "AWS-HMAC",
        "AccessKeyId": "ASIATEST00000001", "SecretAccessKey": "s3cret", "Token": "t0ken", "Expiration": "2026-01-01T06:00:00Z"}"#;

    /// A metadata service that has these and nothing else.
    async fn service(has: &'static [(&'static str, &'static str)]) -> Imds {
        let mut app = Router::new().route("/latest/api/token", put(|| async { "token" }));
        for (path, text) in has {
            app = app.route(path, get(move || async move { *text }));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Imds::at(address)
    }

    fn challenge(sts: bool, identity_document: bool) -> ChallengeResponse {
        let audience = StsAudience { region: "us-east-1".into(), host: "sts.us-east-1.amazonaws.com".into() };
        ChallengeResponse { nonce: b"nonce".to_vec().into(), sts: sts.then_some(audience), identity_document }
    }

    async fn ask(imds: &Imds, challenge: &ChallengeResponse) -> Result<Proof, AttestError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        prove(imds, "dev", &KeyFingerprint::of(b"key"), challenge, now).await
    }

    fn mac(key: &[u8], message: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(message.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// SigV4 by the steps of AWS's page, over the request as the provider composes it.
    #[tokio::test]
    async fn the_signature_is_that_of_the_request_which_the_provider_will_send() {
        let imds = service(&[(ROLE, CREDENTIALS)]).await;
        let Proof::Sts(proof) = ask(&imds, &challenge(true, false)).await.unwrap() else { panic!("another proof") };
        assert_eq!(proof.date, "20260101T000000Z");
        let binding = binding(b"nonce", &KeyFingerprint::of(b"key"), "dev");
        let canonical = format!(
            "POST\n/\n\ncontent-type:{STS_CONTENT_TYPE}\nhost:sts.us-east-1.amazonaws.com\nx-amz-date:{}\n\
             x-amz-security-token:t0ken\nx-pilotlight-binding:{binding}\n\n{SIGNED_HEADERS}\n{}",
            proof.date,
            hex(&Sha256::digest(STS_BODY))
        );
        let scope = "20260101/us-east-1/sts/aws4_request";
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", proof.date, hex(&Sha256::digest(canonical)));
        let key = ["20260101", "us-east-1", "sts", "aws4_request"]
            .iter()
            .fold(b"AWS4s3cret".to_vec(), |key, step| mac(&key, step));
        assert_eq!(hex(&proof.signature), hex(&mac(&key, &to_sign)));
        assert_eq!((proof.access_key_id.as_str(), proof.session_token.as_str()), ("ASIATEST00000001", "t0ken"));
    }

    #[tokio::test]
    async fn the_document_is_given_only_where_the_role_is_missing_and_the_document_is_taken() {
        let document = &[(DOCUMENT, "{}"), (DOCUMENT_SIGNATURE, "c2ln")];
        let imds = service(document).await;
        assert!(matches!(ask(&imds, &challenge(true, true)).await, Ok(Proof::IdentityDocument(_))));
        assert!(matches!(ask(&imds, &challenge(false, true)).await, Ok(Proof::IdentityDocument(_))));
        assert!(matches!(ask(&imds, &challenge(true, false)).await, Err(AttestError::Nothing { .. })));
        let both = service(&[(ROLE, CREDENTIALS), (DOCUMENT, "{}"), (DOCUMENT_SIGNATURE, "c2ln")]).await;
        assert!(matches!(ask(&both, &challenge(true, true)).await, Ok(Proof::Sts(_))));
        assert!(matches!(ask(&both, &challenge(false, true)).await, Ok(Proof::IdentityDocument(_))));
        let failing = service(&[(ROLE, r#"{"Code": "AssumeRoleUnauthorizedAccess"}"#)]);
        assert!(matches!(ask(&failing.await, &challenge(true, false)).await, Err(AttestError::Nothing { .. })));
    }

    #[tokio::test]
    async fn what_is_not_understood_is_an_error_that_does_not_quote_it() {
        let imds = service(&[(ROLE, r#"{"Code": 5, "SecretAccessKey": "s3cret"}"#)]).await;
        let Err(error) = ask(&imds, &challenge(true, false)).await else { panic!("it was understood") };
        let text = format!("{error} {error:?}");
        assert!(!text.contains("s3cret") && text.contains("ec2-instance"), "{text}");
    }
}
