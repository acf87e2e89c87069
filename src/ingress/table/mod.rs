//! The routing table: what a request is matched against. Pure.
//!
//! [`compile`](compile()) turns one Ingress into routes or refuses it by field; [`merge`] joins the routes of all
//! into one [`Table`] and settles who owns a host; [`Table::find`] answers for one request.
//!
//! Precedence within a host: the longer path prefix first, then the order in which the paths were declared. (The
//! API's documentation says declared order throughout; the implementations in use sort by length, so that `/` does
//! not hide what is declared after it, and so does this one.)

mod compile;
mod find;
mod merge;
#[cfg(test)]
mod tests;

pub use compile::{Compiled, Refusal, compile};
pub use find::{Found, Listener};
pub use merge::{Owner, Taken, merge};

use super::backends::BackendKey;
use crate::model::ObjectName;
use http::{HeaderName, HeaderValue};
use std::{collections::HashMap, sync::Arc};

/// Who may reach a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Everyone: served on the external and on the internal listeners.
    External,
    /// The cluster: served on the internal listeners only.
    ClusterLocal,
}

/// What plain HTTP does where the Ingress has TLS too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    Serve,
    /// 301 to https.
    Redirect,
}

/// One path of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    pub ingress: Arc<Source>,
    pub prefix: String,
    /// All must be equal.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub plain_http: PlainHttp,
    /// Set on the request, in place of what the client sent.
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub rewrite_host: Option<HeaderValue>,
    /// Those of 0 % are left out; the others sum up to 100.
    pub splits: Vec<Split>,
}

/// The Ingress that a route is of.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub name: ObjectName,
    pub hash: HeaderValue,
    /// Served over TLS too.
    pub tls: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    pub backend: Arc<BackendKey>,
    /// 1 to 100
    pub percent: u8,
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl Route {
    /// The split at a point of 0..100: each gets as many points as it has percent.
    pub fn split(&self, point: u8) -> Option<&Split> {
        let mut upto = 0u8;
        self.splits.iter().find(|split| {
            upto = upto.saturating_add(split.percent);
            point < upto
        })
    }
}

/// The routes of a host, those with the longest prefix first.
pub type Routes = Vec<Arc<Route>>;

/// All hosts of all Ingresses. Host names are in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    external: HashMap<String, Routes>,
    internal: HashMap<String, Routes>,
}

/// The key of the routes for every host that nobody else has.
const ANY_HOST: &str = "";
