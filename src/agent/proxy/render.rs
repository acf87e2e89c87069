//! Rules as text for `nft -f -`. Pure.
//!
//! How a packet to a Service goes (kube-proxy's nftables mode is the model, pkg/proxy/nftables):
//!
//! ```text
//!  prerouting (from the Pod) ─┐                     map service-ips
//!  output (from the machine) ─┴─> chain services ──────────────────> chain svc-<ip>-<proto>-<port>
//!                                                                        │ numgen: dnat to an endpoint
//!                                                                        └ affinity: goto ep-… first
//!  input, forward, output ──> still addressed to one of the cluster-ips: reject
//! ```
//!
//! Where the agent reaches its provider by a Service's address, what the machine sends there passes by all this: the
//! endpoints are known from the provider, so those of one that is gone would lead to nobody for ever.
//!
//! A Service without endpoints has its address among the cluster-ips but no element in the map: so it is
//! refused at once, as is a port that no Service has.
//!
//! Priorities are the kernel's (linux/netfilter_ipv4.h): -100 before destinations are translated, 0 where
//! packets are filtered, 100 after sources are. By number: nft 1.0.6 knows their names at some hooks only.

use super::frontends::{Backend, Change, Frontend, Frontends};
use crate::model::{PortSpec, Protocol};
use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

const TABLE: &str = "ip pilotlight";
const POD_TABLE: &str = "ip pilotlight-pod";
/// Where clouds serve an instance's own credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// A comment's limit in libnftnl, NFTNL_UDATA_COMMENT_MAXLEN, is 128 with its end.
const COMMENT_MAX: usize = 127;

/// A chain or a set of table `pilotlight`. Chains come first: they refer to sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Of a frontend: refers to those of its endpoints.
    Chain(String),
    EndpointChain(String),
    Set(String),
}

/// Replaces everything there was, at one stroke. `provider`: where the agent dials.
pub fn whole(frontends: &Frontends, provider: Option<SocketAddrV4>) -> String {
    let mut out = format!(
        "add table {TABLE}
delete table {TABLE}
add table {TABLE}
add map {TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
add set {TABLE} cluster-ips {{ type ipv4_addr; }}
add chain {TABLE} services
add rule {TABLE} services ip daddr . meta l4proto . th dport vmap @service-ips
add chain {TABLE} refuse
add rule {TABLE} refuse ip daddr @cluster-ips reject
add chain {TABLE} prerouting {{ type nat hook prerouting priority -100; policy accept; }}
add rule {TABLE} prerouting jump services
add chain {TABLE} output {{ type nat hook output priority -100; policy accept; }}
"
    );
    let pass_by = |out: &mut String, chain: &str| {
        if let Some(provider) = provider {
            let (ip, port) = (provider.ip(), provider.port());
            line(out, format_args!("add rule {TABLE} {chain} ip daddr {ip} tcp dport {port} accept"));
        }
    };
    pass_by(&mut out, "output");
    line(&mut out, format_args!("add rule {TABLE} output jump services"));
    for hook in ["input", "forward", "output"] {
        let chain = format!("filter-{hook}");
        line(
            &mut out,
            format_args!("add chain {TABLE} {chain} {{ type filter hook {hook} priority 0; policy accept; }}"),
        );
        if hook == "output" {
            pass_by(&mut out, &chain);
        }
        line(&mut out, format_args!("add rule {TABLE} {chain} ct state new jump refuse"));
    }
    let mut ips = BTreeSet::new();
    let mut elements = Vec::new();
    for (frontend, backend) in frontends.iter() {
        ips.insert(frontend.ip.to_string());
        if serves(backend) {
            chains(&mut out, frontend, backend);
            elements.push(mapping(frontend));
        }
    }
    // All at once: one statement each would take nft a time that grows with the square of their number.
    if !ips.is_empty() {
        let ips: Vec<_> = ips.into_iter().collect();
        line(&mut out, format_args!("add element {TABLE} cluster-ips {{ {} }}", ips.join(", ")));
    }
    if !elements.is_empty() {
        line(&mut out, format_args!("add element {TABLE} service-ips {{ {} }}", elements.join(", ")));
    }
    out
}

/// Touches what changed, and nothing else. Elements go before others of the same key come.
pub fn increment(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        let had = change.old.as_ref().is_some_and(serves);
        if had && !change.new.as_ref().is_some_and(serves) {
            line(&mut out, format_args!("delete element {TABLE} service-ips {{ {} }}", element(change.frontend)));
        }
        for name in left_over(change) {
            if let Name::Chain(name) | Name::EndpointChain(name) = name {
                line(&mut out, format_args!("flush chain {TABLE} {name}"));
            }
        }
    }
    // Every vanished frontend of an address says so; deleting it twice would fail.
    let vanished: BTreeSet<_> = changes.iter().filter(|change| change.ip_vanishes).map(|c| c.frontend.ip).collect();
    for ip in vanished {
        line(&mut out, format_args!("delete element {TABLE} cluster-ips {{ {ip} }}"));
    }
    for change in changes {
        let Some(new) = &change.new else { continue };
        if change.ip_appears {
            line(&mut out, format_args!("add element {TABLE} cluster-ips {{ {} }}", change.frontend.ip));
        }
        if serves(new) {
            chains(&mut out, change.frontend, new);
            if !change.old.as_ref().is_some_and(serves) {
                line(&mut out, format_args!("add element {TABLE} service-ips {{ {} }}", mapping(change.frontend)));
            }
        }
    }
    out
}

/// Deletes chains and sets that nothing refers to any more.
pub fn deletion(names: &[Name]) -> String {
    let mut sorted: Vec<_> = names.iter().collect();
    sorted.sort();
    let mut out = String::new();
    for name in sorted {
        match name {
            Name::Chain(name) | Name::EndpointChain(name) => {
                line(&mut out, format_args!("delete chain {TABLE} {name}"));
            }
            Name::Set(name) => line(&mut out, format_args!("delete set {TABLE} {name}")),
        }
    }
    out
}

/// No table, whether or not there was one.
pub fn no_services() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// No table, whether or not there was one.
pub fn no_pod() -> String {
    format!("add table {POD_TABLE}\ndelete table {POD_TABLE}\n")
}

/// What goes with the Pod.
pub fn pod(pod_ip: Ipv4Addr, ports: &[PortSpec]) -> String {
    let mut out = format!(
        "add table {POD_TABLE}
delete table {POD_TABLE}
add table {POD_TABLE}
add chain {POD_TABLE} host-ports
add chain {POD_TABLE} prerouting {{ type nat hook prerouting priority -100; policy accept; }}
add rule {POD_TABLE} prerouting fib daddr type local goto host-ports
add chain {POD_TABLE} output {{ type nat hook output priority -100; policy accept; }}
add rule {POD_TABLE} output fib daddr type local ip daddr != 127.0.0.0/8 goto host-ports
add chain {POD_TABLE} postrouting {{ type nat hook postrouting priority 100; policy accept; }}
add rule {POD_TABLE} postrouting ct status dnat ip saddr {pod_ip} ip daddr {pod_ip} masquerade fully-random
add chain {POD_TABLE} forward {{ type filter hook forward priority 0; policy accept; }}
add rule {POD_TABLE} forward ip daddr {METADATA} drop
"
    );
    for port in ports {
        let Some(host_port) = port.host_port else { continue };
        let host_ip = match port.host_ip {
            Some(IpAddr::V4(ip)) if !ip.is_unspecified() => format!("ip daddr {ip} "),
            None | Some(IpAddr::V4(_)) => String::new(),
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => String::new(),
            Some(IpAddr::V6(_)) => continue,
        };
        let protocol = protocol(port.protocol);
        line(
            &mut out,
            format_args!(
                "add rule {POD_TABLE} host-ports {host_ip}{protocol} dport {host_port} dnat to {pod_ip}:{}",
                port.container_port
            ),
        );
    }
    out
}

/// What a change leaves behind empty.
pub fn left_over(change: &Change) -> Vec<Name> {
    let used = change.new.as_ref().map(|new| names(change.frontend, new)).unwrap_or_default();
    let before = change.old.as_ref().map(|old| names(change.frontend, old)).unwrap_or_default();
    before.into_iter().filter(|name| !used.contains(name)).collect()
}

/// What a change needs from now on.
pub fn in_use(change: &Change) -> Vec<Name> {
    change.new.as_ref().map(|new| names(change.frontend, new)).unwrap_or_default()
}

fn names(frontend: Frontend, backend: &Backend) -> Vec<Name> {
    if !serves(backend) {
        return Vec::new();
    }
    let mut names = vec![Name::Chain(chain(frontend))];
    if let Some(seconds) = backend.affinity_seconds {
        for endpoint in &backend.endpoints {
            names.push(Name::EndpointChain(endpoint_chain(frontend, *endpoint)));
            names.push(Name::Set(affinity_set(frontend, *endpoint, seconds)));
        }
    }
    names
}

pub fn serves(backend: &Backend) -> bool {
    !backend.endpoints.is_empty()
}

/// The frontend's chain written anew, and those of its endpoints.
fn chains(out: &mut String, frontend: Frontend, backend: &Backend) {
    let chain = chain(frontend);
    let protocol = protocol(frontend.protocol);
    // Once added, a chain keeps its comment: the address may pass on to another Service, so it has none.
    line(out, format_args!("add chain {TABLE} {chain}"));
    line(out, format_args!("flush chain {TABLE} {chain}"));
    let comment = comment(&backend.name);
    let count = backend.endpoints.len();
    match (backend.affinity_seconds, backend.endpoints.as_slice()) {
        (None, [(ip, port)]) => {
            let rule = format!("meta l4proto {protocol} dnat to {ip}:{port}");
            line(out, format_args!("add rule {TABLE} {chain} {rule} comment {comment}"));
        }
        (None, endpoints) => {
            let targets = endpoints.iter().enumerate().map(|(i, (ip, port))| format!("{i} : {ip} . {port}"));
            let rule = format!(
                "meta l4proto {protocol} dnat ip addr . port to numgen random mod {count} map {{ {} }}",
                targets.collect::<Vec<_>>().join(", ")
            );
            line(out, format_args!("add rule {TABLE} {chain} {rule} comment {comment}"));
        }
        (Some(seconds), endpoints) => {
            for endpoint in endpoints {
                let (ip, port) = endpoint;
                let set = affinity_set(frontend, *endpoint, seconds);
                let own = endpoint_chain(frontend, *endpoint);
                line(
                    out,
                    format_args!(
                        "add set {TABLE} {set} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; }}"
                    ),
                );
                line(out, format_args!("add chain {TABLE} {own}"));
                line(out, format_args!("flush chain {TABLE} {own}"));
                line(out, format_args!("add rule {TABLE} {own} update @{set} {{ ip saddr }}"));
                line(out, format_args!("add rule {TABLE} {own} meta l4proto {protocol} dnat to {ip}:{port}"));
                line(out, format_args!("add rule {TABLE} {chain} ip saddr @{set} goto {own}"));
            }
            let targets = endpoints.iter().enumerate();
            let targets = targets.map(|(i, endpoint)| format!("{i} : goto {}", endpoint_chain(frontend, *endpoint)));
            let rule = format!("numgen random mod {count} vmap {{ {} }}", targets.collect::<Vec<_>>().join(", "));
            line(out, format_args!("add rule {TABLE} {chain} {rule} comment {comment}"));
        }
    }
}

fn element(Frontend { ip, protocol: proto, port }: Frontend) -> String {
    format!("{ip} . {} . {port}", protocol(proto))
}

fn mapping(frontend: Frontend) -> String {
    format!("{} : goto {}", element(frontend), chain(frontend))
}

fn chain(Frontend { ip, protocol: proto, port }: Frontend) -> String {
    format!("svc-{ip}-{}-{port}", protocol(proto))
}

fn endpoint_chain(Frontend { ip, protocol: proto, port }: Frontend, (to, at): (Ipv4Addr, u16)) -> String {
    format!("ep-{ip}-{}-{port}-{to}-{at}", protocol(proto))
}

/// The timeout is in the name: a set's can't be changed once it is there.
fn affinity_set(Frontend { ip, protocol: proto, port }: Frontend, (to, at): (Ipv4Addr, u16), seconds: u32) -> String {
    format!("aff-{ip}-{}-{port}-{to}-{at}-{seconds}", protocol(proto))
}

pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Quoted, of harmless characters alone, within the limit.
fn comment(text: &str) -> String {
    let harmless = text.chars().filter(|c| c.is_ascii_alphanumeric() || "-./:".contains(*c));
    format!("\"{}\"", harmless.take(COMMENT_MAX).collect::<String>())
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String can't fail");
    out.push('\n');
}
