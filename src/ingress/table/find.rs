//! Matching a request. The least work possible: it is done for every one.

use super::{ANY_HOST, Route, Table};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{borrow::Cow, sync::Arc};

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    /// For everyone, or for the cluster only.
    pub external: bool,
    pub tls: bool,
}

#[derive(Debug)]
pub enum Found<'a> {
    Route(&'a Arc<Route>),
    /// The host is known, but not this path, or not over TLS.
    NoPath,
    NoHost,
}

impl Table {
    /// `host` as the client wrote it: case, a port and a last dot don't matter.
    pub fn find(&self, listener: Listener, host: &str, path: &str, headers: &HeaderMap) -> Found<'_> {
        let hosts = if listener.external { &self.external } else { &self.internal };
        let host = plain_host(host);
        let Some(routes) = hosts.get(host.as_ref()).or_else(|| hosts.get(ANY_HOST)) else { return Found::NoHost };
        let fits = |route: &&Arc<Route>| {
            (!listener.tls || route.ingress.tls)
                && path.starts_with(&route.prefix)
                && route.headers.iter().all(|(name, value)| header_is(headers, name, value))
        };
        routes.iter().find(fits).map_or(Found::NoPath, Found::Route)
    }
}

fn plain_host(host: &str) -> Cow<'_, str> {
    // An IPv6 literal keeps its brackets; no Ingress has one as a host.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// A header that was sent several times counts as one, its values joined by commas (RFC 9110, 5.3).
fn header_is(headers: &HeaderMap, name: &HeaderName, wanted: &HeaderValue) -> bool {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(only), None) => only == wanted,
        _ => {
            let all: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            all.join(&b","[..]) == wanted.as_bytes()
        }
    }
}
