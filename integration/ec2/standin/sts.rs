//! STS's GetCallerIdentity for the credentials of instance identity roles, with the signature checked.
//!
//! What is refused: an unknown key, a session token that is not the key's, credentials past their time,
//! a date more than five minutes off, a scope of another day or service, a header of the kind that must
//! be signed and is not, and any signature that does not fit. Sources: AWS, "Create a signed AWS API
//! request", "GetCallerIdentity", "Instance identity roles".

use super::{
    imds::Credentials,
    refusal::Refusal,
    world::{World, now, request_id},
    xml::{leaf, node, print},
};
use axum::http::{HeaderMap, Uri};
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp, fmt::strtime};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use xmltree::Element;

const SKEW: SignedDuration = SignedDuration::from_mins(5);
pub const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

pub fn get_caller_identity(
    world: &World,
    method: &str,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<String, Refusal> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let text = value.to_str().map_err(|_| refused("SignatureDoesNotMatch", "A header is not ASCII."))?;
        let one = all.entry(name.as_str().to_owned()).or_default();
        *one = if one.is_empty() { text.to_owned() } else { format!("{one},{text}") };
    }
    let request = Signed { method, path: uri.path(), query: uri.query().unwrap_or_default(), headers: &all, body };
    let known = |key: &str| world.state().metadata.credentials.get(key).cloned();
    let instance = verify(&request, known, now())?;
    let account = &world.account;
    let (arn, user) = (
        format!("arn:aws:sts::{account}:assumed-role/aws:ec2-instance/{instance}"),
        format!("{account}:aws:ec2-instance:{instance}"),
    );
    if all.get("accept").is_some_and(|accept| accept.contains("application/json")) {
        let json = serde_json::json!({"GetCallerIdentityResponse": {
            "GetCallerIdentityResult": {"Account": account, "Arn": arn, "UserId": user},
            "ResponseMetadata": {"RequestId": request_id()},
        }});
        return Ok(json.to_string());
    }
    let mut root = Element::new("GetCallerIdentityResponse");
    root.attributes.insert("xmlns".into(), NAMESPACE.to_owned());
    let result = vec![leaf("Arn", arn), leaf("UserId", user), leaf("Account", account)];
    let metadata = node("ResponseMetadata", vec![leaf("RequestId", request_id())]);
    root.children = vec![node("GetCallerIdentityResult", result), metadata];
    Ok(print(&root))
}

pub fn error_xml(refusal: &Refusal) -> String {
    let mut root = Element::new("ErrorResponse");
    root.attributes.insert("xmlns".into(), NAMESPACE.to_owned());
    let error = vec![leaf("Type", "Sender"), leaf("Code", &refusal.code), leaf("Message", &refusal.message)];
    root.children = vec![node("Error", error), leaf("RequestId", request_id())];
    print(&root)
}

struct Signed<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    /// Names in lower case.
    headers: &'a BTreeMap<String, String>,
    body: &'a [u8],
}

fn refused(code: &str, message: &str) -> Refusal {
    Refusal { code: code.to_owned(), message: message.to_owned(), status: 403 }
}

/// Which instance's credentials signed this. Pure.
fn verify(
    request: &Signed<'_>,
    known: impl Fn(&str) -> Option<Credentials>,
    now: Timestamp,
) -> Result<String, Refusal> {
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let incomplete = || refused("IncompleteSignature", "The request is not signed by AWS4-HMAC-SHA256 in its headers.");
    let authorization =
        header("authorization").and_then(|a| a.strip_prefix("AWS4-HMAC-SHA256 ")).ok_or_else(incomplete)?;
    let part = |name: &str| {
        let found = authorization.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(incomplete)
    };
    let (credential, signed, signature) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    let date = header("x-amz-date").ok_or_else(incomplete)?;
    let at = strtime::parse("%Y%m%dT%H%M%SZ", date)
        .and_then(|broken| broken.to_datetime())
        .and_then(|datetime| datetime.to_zoned(jiff::tz::TimeZone::UTC))
        .map(|zoned| zoned.timestamp())
        .map_err(|_| incomplete())?;
    let [key, day, region, service, end] =
        credential.split('/').collect::<Vec<_>>().try_into().map_err(|_| incomplete())?;
    if day != &date[..8] || service != "sts" || end != "aws4_request" {
        return Err(refused(
            "SignatureDoesNotMatch",
            "Credential should be scoped to the request's day and to service sts.",
        ));
    }
    if at.duration_since(now).abs() > SKEW {
        return Err(refused("SignatureDoesNotMatch", "Signature expired: the request's date is too far from now."));
    }
    let invalid = || refused("InvalidClientTokenId", "The security token included in the request is invalid.");
    let credentials = known(key).ok_or_else(invalid)?;
    if header("x-amz-security-token") != Some(&credentials.token) {
        return Err(invalid());
    }
    if credentials.expires <= now {
        return Err(refused("ExpiredToken", "The security token included in the request is expired"));
    }
    let names: Vec<&str> = signed.split(';').collect();
    let must = |name: &&String| *name == "host" || name.starts_with("x-amz-");
    if !names.contains(&"host") || request.headers.keys().filter(must).any(|name| !names.contains(&name.as_str())) {
        return Err(refused("SignatureDoesNotMatch", "host and every x-amz-* header must be signed."));
    }
    let mut canonical_headers = String::new();
    for name in &names {
        let value = header(name).ok_or_else(|| refused("SignatureDoesNotMatch", "A signed header is missing."))?;
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        canonical_headers += &format!("{name}:{value}\n");
    }
    let mut query: Vec<&str> = request.query.split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let canonical = format!(
        "{}\n{}\n{}\n{canonical_headers}\n{signed}\n{}",
        request.method,
        request.path,
        query.join("&"),
        hex(&Sha256::digest(request.body))
    );
    let scope = format!("{day}/{region}/sts/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let mut signing_key = format!("AWS4{}", credentials.secret).into_bytes();
    for step in [day, region, "sts", "aws4_request"] {
        signing_key = hmac(&signing_key, step.as_bytes());
    }
    if hex(&hmac(&signing_key, to_sign.as_bytes())) != signature {
        return Err(refused(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        ));
    }
    Ok(credentials.instance)
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that curl 7.88 signed (--aws-sigv4 aws:amz:us-east-1:sts), word for word; so this
    /// test does not check one reading of the rules by itself.
    const SIGNATURE: &str = include_str!("sts_signature.txt");
    const BODY: &[u8] = b"Action=GetCallerIdentity&Version=2011-06-15";

    fn recorded() -> BTreeMap<String, String> {
        SIGNATURE
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(n, v)| (n.to_lowercase(), v.to_owned()))
            .collect()
    }

    fn credentials() -> Credentials {
        Credentials {
            instance: "i-0123456789abcdef0".to_owned(),
            access_key: "ASIATEST".to_owned(),
            secret: "not-a-real-secret".to_owned(),
            token: "the-session-token".to_owned(),
            expires: signed_at() + SignedDuration::from_hours(1),
        }
    }

    fn signed_at() -> Timestamp {
        let date = recorded()["x-amz-date"].clone();
        let [y, m, d, h, i, s] = [0..4, 4..6, 6..8, 9..11, 11..13, 13..15].map(|range| date[range].to_owned());
        format!("{y}-{m}-{d}T{h}:{i}:{s}Z").parse().unwrap()
    }

    fn check(headers: &BTreeMap<String, String>, body: &[u8], now: Timestamp) -> Result<String, String> {
        let request = Signed { method: "POST", path: "/", query: "", headers, body };
        let known = |key: &str| (key == "ASIATEST").then(credentials);
        verify(&request, known, now).map_err(|refusal| refusal.code)
    }

    #[test]
    fn what_another_program_signed_is_accepted_and_names_the_instance() {
        assert_eq!(check(&recorded(), BODY, signed_at()).unwrap(), "i-0123456789abcdef0");
        assert!(recorded()["authorization"].contains("x-pilotlight-nonce"), "a header of ours is among the signed");
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        let wrong = "SignatureDoesNotMatch".to_owned();
        for name in ["x-pilotlight-nonce", "host"] {
            let mut headers = recorded();
            headers.insert(name.to_owned(), "another".to_owned());
            assert_eq!(check(&headers, BODY, signed_at()), Err(wrong.clone()), "{name}");
            headers.remove(name);
            assert_eq!(check(&headers, BODY, signed_at()), Err(wrong.clone()), "without {name}");
        }
        assert_eq!(check(&recorded(), b"Action=GetCallerIdentity&Version=2011-06-16", signed_at()), Err(wrong.clone()));
        let mut headers = recorded();
        headers.insert("x-amz-more".to_owned(), "not signed".to_owned());
        assert_eq!(check(&headers, BODY, signed_at()), Err(wrong));
        let mut headers = recorded();
        headers.insert("x-amz-security-token".to_owned(), "another".to_owned());
        assert_eq!(check(&headers, BODY, signed_at()), Err("InvalidClientTokenId".to_owned()));
    }

    #[test]
    fn an_old_request_and_expired_credentials_are_refused() {
        let wrong = Err("SignatureDoesNotMatch".to_owned());
        assert!(check(&recorded(), BODY, signed_at() + SKEW).is_ok());
        assert_eq!(check(&recorded(), BODY, signed_at() + SKEW + SignedDuration::from_secs(1)), wrong);
        assert_eq!(check(&recorded(), BODY, signed_at() - SKEW - SignedDuration::from_secs(1)), wrong);
        let expired = |_: &str| Some(Credentials { expires: signed_at(), ..credentials() });
        let request = Signed { method: "POST", path: "/", query: "", headers: &recorded(), body: BODY };
        assert_eq!(verify(&request, expired, signed_at()).unwrap_err().code, "ExpiredToken");
    }

    #[test]
    fn what_is_not_signed_in_its_headers_is_refused() {
        let mut headers = recorded();
        headers.remove("authorization");
        assert_eq!(check(&headers, BODY, signed_at()), Err("IncompleteSignature".to_owned()));
    }
}
