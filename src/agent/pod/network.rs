//! The Pod's network on this machine: the CNI configuration and the kernel's settings for it.
//!
//! One Pod, one address, a secondary one of the machine's subnet. The Pod gets it on a veth (CNI `ptp`
//! with `static` addresses) whose other end answers as 169.254.1.1; the machine answers ARP for it on its
//! uplink (proxy_arp) and forwards. The machine itself must not have the address, or what is for the Pod ends
//! there: cloud-init gives EC2's secondary addresses to the interface unless it is told otherwise.
//!
//! Two peculiarities of the plugins (containernetworking/plugins 1.x):
//! - ptp deletes the route of the address's prefix and fails where there is none: a /32 has none, so the
//!   address is given as a /31. Its one neighbour is reached over the gateway like everyone else.
//! - ptp adds its route to the gateway after the routes of the address plugin, which need it already:
//!   a route of our own to the gateway comes first in the list, with another metric.

use super::cri::{CriClient, CriError};
use crate::model::DesiredPod;
use nix::ifaddrs::getifaddrs;
use serde_json::json;
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const GATEWAY: &str = "169.254.1.1";
const CONF_NAME: &str = "10-pilotlight.conflist";
/// The runtime watches the directory and loads a new file within some milliseconds.
const LOAD_POLL: Duration = Duration::from_millis(3);
const LOAD_LIMIT: Duration = Duration::from_secs(10);
/// rtnetlink's RT_SCOPE_LINK.
const SCOPE_LINK: u8 = 253;

#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the Pod has no address")]
    NoAddress,
    #[error("the machine has no default route: the interface to the Pod's subnet is not known")]
    NoUplink,
    #[error("the machine's addresses can't be read: {0}")]
    Addresses(nix::Error),
    #[error("the Pod's address can't be taken from {interface}, which has it: {why}")]
    Taken { interface: String, why: String },
    #[error("the runtime did not load {CONF_NAME} within {} s", LOAD_LIMIT.as_secs())]
    NotLoaded,
    #[error(transparent)]
    Runtime(#[from] CriError),
}

/// Makes the network ready for the Pod's sandbox.
pub(super) async fn prepare(
    client: &CriClient,
    conf_dir: &Path,
    uplink: Option<&str>,
    pod: &DesiredPod,
) -> Result<(), NetworkError> {
    let ip = pod.pod_ip.ok_or(NetworkError::NoAddress)?;
    let uplink = match uplink {
        Some(named) => named.to_owned(),
        None => {
            let path = Path::new("/proc/net/route");
            let read = fs::read_to_string(path).map_err(|source| NetworkError::Read { path: path.to_owned(), source });
            default_interface(&read?).ok_or(NetworkError::NoUplink)?
        }
    };
    take_from_machine(ip)?;
    forward(&uplink, ip)?;
    write_if_new(&conf_dir.join(CONF_NAME), &configuration(ip))?;
    let loaded = address(ip);
    let began = Instant::now();
    while !client.cni_config().await?.contains(&loaded) {
        if began.elapsed() > LOAD_LIMIT {
            return Err(NetworkError::NotLoaded);
        }
        tokio::time::sleep(LOAD_POLL).await;
    }
    Ok(())
}

/// The interface of the default route with the lowest metric, of `/proc/net/route` (proc_pid_net(5)): columns Iface,
/// Destination, Gateway, Flags, RefCnt, Use, Metric, Mask, …, addresses in hexadecimal.
fn default_interface(routes: &str) -> Option<String> {
    let all = routes.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [interface, "00000000", _, _, _, _, metric, "00000000", ..] = columns[..] else { return None };
        Some((metric.parse::<u32>().ok()?, interface))
    });
    all.min_by_key(|(metric, _)| *metric).map(|(_, interface)| interface.to_owned())
}

/// The address is the Pod's alone.
fn take_from_machine(ip: IpAddr) -> Result<(), NetworkError> {
    for interface in getifaddrs().map_err(NetworkError::Addresses)? {
        let own = interface.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|address| address.ip());
        if own.map(IpAddr::from) != Some(ip) {
            continue;
        }
        let interface = interface.interface_name;
        let only = format!("{ip}/32");
        let flushed = Command::new("ip").args(["-4", "address", "flush", "dev", &interface, "to", &only]).output();
        let why = match flushed {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("ip (Debian: iproute2): {error}"),
        };
        return Err(NetworkError::Taken { interface, why });
    }
    Ok(())
}

fn address(ip: IpAddr) -> String {
    format!("{ip}/31")
}

/// Host ports are the service proxy's: no portmap here.
fn configuration(ip: IpAddr) -> String {
    let ptp = json!({
        "type": "ptp",
        "ipMasq": false,
        "ipam": {
            "type": "static",
            "addresses": [{ "address": address(ip), "gateway": GATEWAY }],
            "routes": [
                // The zero gateway means: on the link itself.
                { "dst": format!("{GATEWAY}/32"), "gw": "0.0.0.0", "scope": SCOPE_LINK, "priority": 1024 },
                { "dst": "0.0.0.0/0", "gw": GATEWAY },
            ],
        },
    });
    json!({ "cniVersion": "1.1.0", "name": "pilotlight", "plugins": [ptp] }).to_string()
}

fn write_if_new(path: &Path, content: &str) -> Result<(), NetworkError> {
    let fault = |source| NetworkError::Write { path: path.to_owned(), source };
    if fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(fault)?;
    let new = path.with_extension("new");
    fs::write(&new, content).map_err(fault)?;
    fs::rename(&new, path).map_err(fault)
}

/// Forwarding, and answering ARP for the Pod on the uplink: at once, not after the random delay of up
/// to 0.8 s that a proxy makes by default (proxy_delay).
fn forward(uplink: &str, ip: IpAddr) -> Result<(), NetworkError> {
    if ip.is_ipv6() {
        return Ok(());
    }
    let root = Path::new("/proc/sys/net/ipv4");
    let settings = [
        (root.join("ip_forward"), "1"),
        (root.join("conf").join(uplink).join("proxy_arp"), "1"),
        (root.join("neigh").join(uplink).join("proxy_delay"), "0"),
    ];
    for (path, value) in settings {
        if fs::read_to_string(&path).is_ok_and(|old| old.trim() == value) {
            continue;
        }
        fs::write(&path, value).map_err(|source| NetworkError::Write { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::default_interface;

    #[test]
    fn the_uplink_is_where_the_default_route_of_the_lowest_metric_goes() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let subnet = "ens5\t0000FA0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let second = "ens6\t00000000\t0100FA0A\t0003\t0\t0\t200\t00000000\t0\t0\t0\n";
        let first = "ens5\t00000000\t0100FA0A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let half = "tun0\t00000000\t0100FA0A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
        let of = |routes: &[&str]| default_interface(&[&[head], routes].concat().concat());
        assert_eq!(of(&[subnet, second, first, half]).as_deref(), Some("ens5"));
        assert_eq!(of(&[second]).as_deref(), Some("ens6"));
        assert_eq!(of(&[subnet, half]), None);
        assert_eq!(default_interface(""), None);
    }
}
