//! A role's credentials, for a Pod that shows its ServiceAccount's token: by STS (IRSA), and by EKS Pod Identity's agent,
//! which listens at the same address on every node.
//!
//! ```text
//!  the Pod's token ── of the cluster's key? for whom? as the role's trust policy wants it? ──> a session
//!                                                                                   key, secret, token, an end
//!  each later call ── a key of nobody's ──> refused; a session's: its token, before its end? ──> as that role
//! ```
//!
//! Sources: AWS, "AssumeRoleWithWebIdentity", "Create an OpenID Connect (OIDC) identity provider in IAM", "Container
//! credential provider", "Understand how EKS Pod Identity works".

use super::{
    params::Params,
    refusal::Refusal,
    world::{World, now, request_id},
    xml::{leaf, node, print},
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use axum::http::HeaderMap;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};
use x509_parser::{pem::parse_x509_pem, prelude::FromDer, x509::SubjectPublicKeyInfo};
use xmltree::Element;

/// Where EKS Pod Identity's agent listens.
pub const AGENT: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 23);
/// The test cluster's (scripts/cluster).
const ISSUER: &str = "kubernetes.default.svc.cluster.local";
/// The one role that there is, and the only ServiceAccount that Pod Identity has an association for.
const ROLE: &str = "pilotlight";
const ASSOCIATED: &str = "system:serviceaccount:pilotlight-system:pilotlight";
/// Of no session: what clients are given that take no role.
const PLAIN: &str = "standin";

#[derive(Default)]
pub struct Roles {
    trust: Option<Trust>,
    /// By access key.
    sessions: BTreeMap<String, Session>,
}

/// Whose tokens are taken.
pub struct Trust {
    /// A point of P-256.
    key: Vec<u8>,
    /// `aud` and `sub`, of the role's trust policy.
    irsa: BTreeMap<String, String>,
}

struct Session {
    by: &'static str,
    token: String,
    end: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Vec<String>,
    sub: String,
    exp: i64,
}

/// What a role's taker is given.
struct Given {
    key: String,
    secret: String,
    token: String,
    end: Timestamp,
}

impl Trust {
    /// `key`: the public key by which the cluster's tokens are signed. `policy`: IRSA's trust policy.
    pub fn read(key: &Path, policy: &Path) -> Result<Self, String> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
        let pem = read(key)?;
        let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|error| format!("{}: {error}", key.display()))?;
        let (_, info) =
            SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|error| format!("{}: {error}", key.display()))?;
        let policy: Value = serde_json::from_str(&read(policy)?.replace("${OIDC_PROVIDER}", ISSUER))
            .map_err(|error| format!("{}: {error}", policy.display()))?;
        let wanted = &policy["Statement"][0]["Condition"]["StringEquals"];
        let of = |claim: &str| {
            let value = wanted[format!("{ISSUER}:{claim}")].as_str();
            value.map(|text| (claim.to_owned(), text.to_owned())).ok_or_else(|| format!("no condition on {claim}"))
        };
        Ok(Self { key: info.subject_public_key.data.to_vec(), irsa: [of("aud")?, of("sub")?].into() })
    }

    /// Whose token this is, if it is of the cluster and for this audience. (A crate for tokens would change the
    /// features of crates that EC2's SDK is built on, and all of it would be compiled twice.)
    fn subject(&self, token: &str, audience: &str, now: Timestamp) -> Result<String, &'static str> {
        let (signed, signature) = token.rsplit_once('.').ok_or("no token")?;
        let bytes = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| "not base64url");
        let by_cluster = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.key);
        by_cluster.verify(signed.as_bytes(), &bytes(signature)?).map_err(|_| "not signed by the cluster's key")?;
        let (_, claims) = signed.split_once('.').ok_or("no token")?;
        let claims: Claims = serde_json::from_slice(&bytes(claims)?).map_err(|_| "claims are missing")?;
        if claims.iss != format!("https://{ISSUER}") || !claims.aud.iter().any(|one| one == audience) {
            return Err("Incorrect token audience");
        }
        if claims.exp <= now.as_second() {
            return Err("Token is expired");
        }
        Ok(claims.sub)
    }
}

impl Roles {
    pub fn trusting(trust: Option<Trust>) -> Self {
        Self { trust, ..Self::default() }
    }

    fn open(&mut self, by: &'static str, seconds: u64, now: Timestamp) -> Given {
        let random = |bytes: usize| (0..bytes).map(|_| format!("{:02X}", rand::random::<u8>())).collect::<String>();
        let given = Given {
            key: format!("ASIA{}", random(8)),
            secret: random(20),
            token: random(64),
            end: now + SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)),
        };
        self.sessions.retain(|_, session| session.end > now);
        self.sessions.insert(given.key.clone(), Session { by, token: given.token.clone(), end: given.end });
        given
    }

    /// How the caller came to be one: for the tests to count.
    fn caller(&self, key: &str, token: Option<&str>, now: Timestamp) -> Result<&'static str, Refusal> {
        if key == PLAIN && token.is_none() {
            return Ok("keys");
        }
        let session = self.sessions.get(key).filter(|session| token == Some(&session.token));
        match session {
            Some(session) if session.end > now => Ok(session.by),
            Some(_) => Err(Refusal::new("RequestExpired", "Request has expired.")),
            None => Err(Refusal::new("AuthFailure", "AWS was not able to validate the provided access credentials")),
        }
    }
}

/// Notes who calls; whoever is nobody is refused.
pub fn known(world: &World, headers: &HeaderMap) -> Result<(), Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header("authorization").unwrap_or_default();
    let key = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
    let mut state = world.state();
    let by = state.roles.caller(key, header("x-amz-security-token"), now())?;
    *state.calls.callers.entry(by.to_owned()).or_default() += 1;
    Ok(())
}

/// STS's answer to a web identity. Unsigned: the token is the proof.
pub fn assume_role_with_web_identity(world: &World, params: &Params) -> Result<String, Refusal> {
    let refused = |code: &str, message: String| Refusal { code: code.to_owned(), message, status: 400 };
    let mut state = world.state();
    let trust =
        state.roles.trust.as_ref().ok_or_else(|| {
            refused("InvalidIdentityToken", "No OpenIDConnect provider found in your account".to_owned())
        })?;
    let token = params.get("WebIdentityToken").unwrap_or_default();
    let subject = trust.subject(token, &trust.irsa["aud"], now());
    let subject = subject.map_err(|error| refused("InvalidIdentityToken", error.to_owned()))?;
    let role = format!("arn:aws:iam::{}:role/{ROLE}", world.account);
    if subject != trust.irsa["sub"] || params.get("RoleArn") != Some(&role) {
        let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity".to_owned();
        return Err(Refusal { code: "AccessDenied".to_owned(), message, status: 403 });
    }
    let seconds = state.script.session_seconds;
    let given = state.roles.open("irsa", seconds, now());
    let credentials = vec![
        leaf("AccessKeyId", given.key),
        leaf("SecretAccessKey", given.secret),
        leaf("SessionToken", given.token),
        leaf("Expiration", given.end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    ];
    let name = params.get("RoleSessionName").unwrap_or_default();
    let user = vec![
        leaf("Arn", format!("arn:aws:sts::{}:assumed-role/{ROLE}/{name}", world.account)),
        leaf("AssumedRoleId", format!("AROA:{name}")),
    ];
    let mut root = Element::new("AssumeRoleWithWebIdentityResponse");
    root.attributes.insert("xmlns".into(), super::sts::NAMESPACE.to_owned());
    let result = vec![
        leaf("SubjectFromWebIdentityToken", subject),
        node("AssumedRoleUser", user),
        node("Credentials", credentials),
    ];
    let metadata = node("ResponseMetadata", vec![leaf("RequestId", request_id())]);
    root.children = vec![node("AssumeRoleWithWebIdentityResult", result), metadata];
    Ok(print(&root))
}

/// `GET /v1/credentials` of EKS Pod Identity's agent: status and text.
pub fn agent(world: &World, headers: &HeaderMap) -> (u16, String) {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut state = world.state();
    let subject = state.roles.trust.as_ref().map(|trust| trust.subject(token, "pods.eks.amazonaws.com", now()));
    match subject {
        Some(Ok(subject)) if subject == ASSOCIATED => {}
        Some(Ok(subject)) => return (404, format!("there is no association for {subject}")),
        Some(Err(error)) => return (400, error.to_owned()),
        None => return (500, "this cluster has no agent".to_owned()),
    }
    let seconds = state.script.session_seconds;
    let given = state.roles.open("pod-identity", seconds, now());
    let text = json!({
        "AccessKeyId": given.key, "SecretAccessKey": given.secret, "Token": given.token, "AccountId": world.account,
        "Expiration": given.end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    (200, text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(answer: Result<&'static str, Refusal>) -> Result<&'static str, String> {
        answer.map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_session_is_known_by_its_key_with_its_token_until_its_end() {
        let now = Timestamp::UNIX_EPOCH;
        let at = |seconds: i64| now + SignedDuration::from_secs(seconds);
        let mut roles = Roles::default();
        let given = roles.open("irsa", 10, now);
        assert_eq!(code(roles.caller(&given.key, Some(&given.token), at(9))), Ok("irsa"));
        assert_eq!(code(roles.caller(&given.key, Some(&given.token), at(10))), Err("RequestExpired".to_owned()));
        let nobody = Err("AuthFailure".to_owned());
        assert_eq!(code(roles.caller(&given.key, Some("another"), at(1))), nobody);
        assert_eq!(code(roles.caller(&given.key, None, at(1))), nobody);
        assert_eq!(code(roles.caller("AKIA", None, at(1))), nobody);
        assert_eq!(code(roles.caller(PLAIN, None, at(1))), Ok("keys"));
        assert_eq!(code(roles.caller(PLAIN, Some(&given.token), at(1))), nobody);
    }
}
