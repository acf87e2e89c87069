//! What becomes of the headers on the way through. Pure.
//!
//! As RFC 9110, 7.6 asks of an intermediary: fields that are about one connection stay on it. What is added is what
//! Envoy adds under Kourier: the client's address to X-Forwarded-For, and X-Forwarded-Proto unless a proxy in front
//! of us has said it.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request};
use std::net::IpAddr;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The name under which this program writes itself into Via.
const VIA: &str = "pilotlight";
/// A request that came through here more often goes in circles: an Ingress leads back to itself.
const MOST_PASSES: usize = 8;

/// The protocol that a request asks to switch to, if it does.
pub fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = version == Version::HTTP_11 && names(headers, &header::CONNECTION).any(|name| name == "upgrade");
    headers.get(header::UPGRADE).filter(|_| wanted).cloned()
}

/// Removes what is about one connection. `TE: trailers` stays: gRPC's servers ask for it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        names(headers, &header::CONNECTION).filter_map(|name| HeaderName::try_from(name).ok()).collect();
    let trailers = names(headers, &header::TE).any(|name| name == "trailers");
    for name in named {
        headers.remove(name);
    }
    for name in
        [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE]
    {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// A request goes in circles.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle;

/// Makes a client's request head into the one for the backend, except for the URI, the host, and what the route sets.
pub fn prepare(parts: &mut request::Parts, peer: IpAddr, tls: bool) -> Result<(), Circle> {
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    // The server side of this proxy answers it itself, with 100 when the body is first asked for.
    headers.remove(header::EXPECT);
    let passes = headers.get_all(header::VIA).iter().filter(|via| via.as_bytes().ends_with(VIA.as_bytes())).count();
    if passes >= MOST_PASSES {
        return Err(Circle);
    }
    let version = if parts.version == Version::HTTP_2 { "2" } else { "1.1" };
    headers.append(header::VIA, value(format!("{version} {VIA}")));
    let mut chain = joined(headers, &FORWARDED_FOR, ", ");
    if !chain.is_empty() {
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.to_canonical().to_string().as_bytes());
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    let proto = HeaderValue::from_static(if tls { "https" } else { "http" });
    headers.entry(FORWARDED_PROTO).or_insert(proto);
    // HTTP/2 may send cookies one by one (RFC 9113, 8.2.3); HTTP/1.1 may not.
    if headers.get_all(header::COOKIE).iter().nth(1).is_some()
        && let Ok(cookies) = HeaderValue::from_bytes(&joined(headers, &header::COOKIE, "; "))
    {
        headers.insert(header::COOKIE, cookies);
    }
    Ok(())
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("letters, digits and dots are a header value")
}

fn joined(headers: &HeaderMap, name: &HeaderName, with: &str) -> Vec<u8> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    values.join(with.as_bytes())
}

/// The comma-separated words of a header, in lower case.
fn names<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + use<'a> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_ascii_lowercase())
        .filter(|word| !word.is_empty())
}
