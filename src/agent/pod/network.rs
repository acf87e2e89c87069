//! The Pod's network on this machine: the CNI configuration and the kernel's settings for it.
//!
//! One Pod, one address, a secondary one of the machine's subnet. The Pod gets it on a veth (CNI `ptp`
//! with `static` addresses) whose other end answers as 169.254.1.1; the machine answers ARP for it on its
//! uplink (proxy_arp) and forwards.
//!
//! Two peculiarities of the plugins (containernetworking/plugins 1.x):
//! - ptp deletes the route of the address's prefix and fails where there is none: a /32 has none, so the
//!   address is given as a /31. Its one neighbour is reached over the gateway like everyone else.
//! - ptp adds its route to the gateway after the routes of the address plugin, which need it already:
//!   a route of our own to the gateway comes first in the list, with another metric.

use super::cri::{CriClient, CriError};
use crate::model::DesiredPod;
use serde_json::json;
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
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
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the Pod has no address")]
    NoAddress,
    #[error("the runtime did not load {CONF_NAME} within {} s", LOAD_LIMIT.as_secs())]
    NotLoaded,
    #[error(transparent)]
    Runtime(#[from] CriError),
}

/// Makes the network ready for the Pod's sandbox.
pub(super) async fn prepare(
    client: &CriClient,
    conf_dir: &Path,
    uplink: &str,
    pod: &DesiredPod,
) -> Result<(), NetworkError> {
    let ip = pod.pod_ip.ok_or(NetworkError::NoAddress)?;
    forward(uplink, ip)?;
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
