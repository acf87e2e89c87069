//! One Ingress's spec to routes. What can't be honoured is refused, by its field.

use super::{PlainHttp, Route, Source, Split, Visibility};
use crate::ingress::backends::BackendKey;
use crate::ingress::hash::ingress_hash;
use crate::ingress::spec::{HttpPath, IngressRule, IngressSpec};
use crate::model::ObjectName;
use http::{HeaderName, HeaderValue, header};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A spec that will never be served as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?}: expected {expected}")]
pub struct Refusal {
    pub field: String,
    pub value: String,
    pub expected: &'static str,
}

/// An Ingress ready to be merged into the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Compiled {
    pub source: Arc<Source>,
    pub rules: Vec<Rule>,
    /// The backends that get traffic: the Ingress is ready once each has an endpoint.
    pub backends: BTreeSet<BackendKey>,
    /// The certificates: the Secret of each host.
    pub certificates: BTreeMap<String, ObjectName>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// In lower case; none: every host.
    pub hosts: Vec<String>,
    pub visibility: Visibility,
    pub routes: Vec<Arc<Route>>,
}

pub fn compile(name: &ObjectName, spec: &IngressSpec) -> Result<Compiled, Refusal> {
    let hash = HeaderValue::from_str(&ingress_hash(spec, name)).expect("hexadecimal digits are a header value");
    let source = Arc::new(Source { name: name.clone(), hash, tls: !spec.tls.is_empty() });
    let redirect = match spec.http_option.as_str() {
        "" | "Enabled" => false,
        "Redirected" => true,
        other => return Err(refuse("spec.httpOption", other, "Enabled or Redirected")),
    };
    if spec.rules.is_empty() {
        return Err(refuse("spec.rules", "", "at least one rule"));
    }
    let mut rules = Vec::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        rules.push(compile_rule(&source, rule, redirect, &format!("spec.rules[{index}]"))?);
    }
    let splits = rules.iter().flat_map(|rule| &rule.routes).flat_map(|route| &route.splits);
    let backends = splits.map(|split| split.backend.as_ref().clone()).collect();
    let certificates = certificates(name, spec, &rules)?;
    Ok(Compiled { source, rules, backends, certificates })
}

fn compile_rule(source: &Arc<Source>, rule: &IngressRule, redirect: bool, at: &str) -> Result<Rule, Refusal> {
    let visibility = match rule.visibility.as_str() {
        "" | "ExternalIP" => Visibility::External,
        "ClusterLocal" => Visibility::ClusterLocal,
        other => return Err(refuse(format!("{at}.visibility"), other, "ExternalIP or ClusterLocal")),
    };
    let mut hosts = Vec::new();
    for (index, host) in rule.hosts.iter().enumerate() {
        hosts.push(host_name(host).ok_or_else(|| refuse(format!("{at}.hosts[{index}]"), host, HOST))?);
    }
    let paths = rule.http.as_ref().and_then(|http| http.paths.as_deref()).unwrap_or_default();
    if paths.is_empty() {
        return Err(refuse(format!("{at}.http.paths"), "", "at least one path"));
    }
    let plain_http = match (redirect, visibility) {
        (true, Visibility::External) => PlainHttp::Redirect,
        _ => PlainHttp::Serve,
    };
    let mut routes = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let route = compile_path(source, path, plain_http, &format!("{at}.http.paths[{index}]"))?;
        routes.push(Arc::new(route));
    }
    Ok(Rule { hosts, visibility, routes })
}

fn compile_path(source: &Arc<Source>, path: &HttpPath, plain_http: PlainHttp, at: &str) -> Result<Route, Refusal> {
    let prefix = if path.path.is_empty() { "/".to_owned() } else { path.path.clone() };
    if !prefix.starts_with('/') {
        return Err(refuse(format!("{at}.path"), prefix, "a path that begins with /"));
    }
    let mut headers = Vec::new();
    for (key, wanted) in &path.headers {
        headers.push(header(key, &wanted.exact, &format!("{at}.headers"))?);
    }
    let rewrite_host = match path.rewrite_host.as_str() {
        "" => None,
        host => {
            let host = host_name(host).ok_or_else(|| refuse(format!("{at}.rewriteHost"), host, HOST))?;
            Some(HeaderValue::from_str(&host).expect("a host name is a header value"))
        }
    };
    Ok(Route {
        ingress: Arc::clone(source),
        prefix,
        headers,
        plain_http,
        set: set_headers(&path.append_headers, at)?,
        rewrite_host,
        splits: splits(path, at)?,
    })
}

fn splits(path: &HttpPath, at: &str) -> Result<Vec<Split>, Refusal> {
    let declared = path.splits.as_deref().unwrap_or_default();
    let mut splits = Vec::new();
    for (index, split) in declared.iter().enumerate() {
        let at = format!("{at}.splits[{index}]");
        let missing = |field: &str| refuse(format!("{at}.{field}"), "", "a name");
        if split.service_namespace.is_empty() {
            return Err(missing("serviceNamespace"));
        }
        if split.service_name.is_empty() {
            return Err(missing("serviceName"));
        }
        // One alone may leave it out.
        let percent = if declared.len() == 1 && split.percent == 0 { 100 } else { split.percent };
        let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
        let percent = percent
            .ok_or_else(|| refuse(format!("{at}.percent"), split.percent.to_string(), "a number from 0 to 100"))?;
        let set = set_headers(&split.append_headers, &at)?;
        let service = ObjectName::new(split.service_namespace.clone(), split.service_name.clone());
        let backend = Arc::new(BackendKey { service, port: split.service_port.clone() });
        splits.push(Split { backend, percent, set });
    }
    let total: u32 = splits.iter().map(|split| u32::from(split.percent)).sum();
    if total != 100 {
        return Err(refuse(format!("{at}.splits"), total.to_string(), "percentages that sum up to 100"));
    }
    splits.retain(|split| split.percent > 0);
    Ok(splits)
}

/// Which Secret's certificate each host gets. Without hosts an entry is for all hosts of the rules.
fn certificates(
    name: &ObjectName,
    spec: &IngressSpec,
    rules: &[Rule],
) -> Result<BTreeMap<String, ObjectName>, Refusal> {
    let mut certificates = BTreeMap::new();
    for (index, tls) in spec.tls.iter().enumerate() {
        let at = format!("spec.tls[{index}]");
        if tls.secret_name.is_empty() {
            return Err(refuse(format!("{at}.secretName"), "", "the name of a Secret"));
        }
        let namespace = if tls.secret_namespace.is_empty() { &name.namespace } else { &tls.secret_namespace };
        let secret = ObjectName::new(namespace.clone(), tls.secret_name.clone());
        for (index, host) in tls.hosts.iter().enumerate() {
            let host = host_name(host).ok_or_else(|| refuse(format!("{at}.hosts[{index}]"), host, HOST))?;
            certificates.entry(host).or_insert_with(|| secret.clone());
        }
        if tls.hosts.is_empty() {
            for host in rules.iter().flat_map(|rule| &rule.hosts) {
                certificates.entry(host.clone()).or_insert_with(|| secret.clone());
            }
        }
    }
    Ok(certificates)
}

/// Headers that frame a message or name its target: setting them would break either.
fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 7] = [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
    ];
    RESERVED.contains(name)
}

fn set_headers(from: &BTreeMap<String, String>, at: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let at = format!("{at}.appendHeaders");
    let mut set = Vec::new();
    for (key, value) in from {
        let (name, value) = header(key, value, &at)?;
        if is_reserved(&name) {
            return Err(refuse(
                format!("{at}[{key}]"),
                key,
                "a header that neither frames a message nor names its target",
            ));
        }
        set.push((name, value));
    }
    Ok(set)
}

fn header(key: &str, value: &str, at: &str) -> Result<(HeaderName, HeaderValue), Refusal> {
    let name = HeaderName::try_from(key).map_err(|_| refuse(at, key, "the name of a header"))?;
    let value = HeaderValue::try_from(value).map_err(|_| refuse(format!("{at}[{key}]"), value, "a header's value"))?;
    Ok((name, value))
}

const HOST: &str = "a DNS name without a port or a wildcard";

/// In lower case, without a last dot.
fn host_name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    (host.len() <= 253 && host.split('.').all(label)).then(|| host.to_ascii_lowercase())
}

fn refuse(field: impl Into<String>, value: impl Into<String>, expected: &'static str) -> Refusal {
    Refusal { field: field.into(), value: value.into(), expected }
}
