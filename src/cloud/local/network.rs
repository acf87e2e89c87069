//! The bridge and the machines' wires to it, by `ip` in batches (an `ip` costs a few milliseconds).
//!
//! Everything happens in the network namespace of the calling thread.

use super::{
    addresses::mac_of,
    error::{Doing, LocalError},
};
use crate::model::InstanceId;
use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

/// The host's end of a machine's wire: unique, and short enough for IFNAMSIZ.
pub fn veth_name(id: &InstanceId) -> String {
    let tail: String = id.as_str().chars().rev().take(13).collect::<Vec<_>>().into_iter().rev().collect();
    format!("pl{tail}")
}

/// Makes the bridge if it is missing, and lets the host route for the machines behind it.
pub fn ensure_bridge(name: &str, address: Ipv4Addr, prefix_len: u8) -> Result<(), LocalError> {
    let mut lines = Vec::new();
    if !device_exists(name)? {
        // A fixed MAC: else it would change with the ports, and the machines' ARP entries go stale.
        lines.push(format!("link add name {name} address {} type bridge", mac_of(address)));
    }
    lines.push(format!("addr replace {address}/{prefix_len} dev {name}"));
    lines.push(format!("link set {name} up"));
    ip(&lines)?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(forward).doing(|| format!("read {forward}"))?.trim() != "1" {
        fs::write(forward, "1").doing(|| format!("turn on {forward}"))?;
    }
    Ok(())
}

/// What a machine calls its wire: as EC2's Nitro instances do.
const UPLINK: &str = "ens5";

/// A wire from the bridge into the network namespace of process `pid`.
pub fn connect(veth: &str, bridge: &str, address: Ipv4Addr, pid: i32) -> Result<(), LocalError> {
    ip(&[
        format!("link add {veth} type veth peer name {UPLINK} address {} netns {pid}", mac_of(address)),
        format!("link set {veth} master {bridge} up"),
    ])
}

/// The machine's own end, said inside.
pub fn configure_inside(address: Ipv4Addr, prefix_len: u8, gateway: Ipv4Addr) -> Result<(), LocalError> {
    ip(&[
        "link set lo up".to_owned(),
        format!("addr add {address}/{prefix_len} dev {UPLINK}"),
        format!("link set {UPLINK} up"),
        format!("route add default via {gateway}"),
    ])
}

/// A device that is gone is no error.
pub fn remove_device(name: &str) -> Result<(), LocalError> {
    if !device_exists(name)? {
        return Ok(());
    }
    match ip(&[format!("link del {name}")]) {
        // The kernel takes a veth away with its peer's namespace, perhaps this very moment.
        Err(_) if !device_exists(name)? => Ok(()),
        result => result,
    }
}

/// /sys/class/net shows the namespace in which /sys was mounted; this one the calling thread's.
fn device_exists(name: &str) -> Result<bool, LocalError> {
    let path = "/proc/thread-self/net/dev";
    let devices = fs::read_to_string(path).doing(|| format!("read {path}"))?;
    Ok(devices.lines().any(|line| line.split(':').next().is_some_and(|device| device.trim() == name)))
}

fn ip(lines: &[String]) -> Result<(), LocalError> {
    let batch = lines.join("\n") + "\n";
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| "start ip (Debian: iproute2)".to_owned())?;
    // Dropped at once: its end ends the batch. A failing ip may close it early; its own words say more.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(batch.as_bytes());
    }
    let output = child.wait_with_output().doing(|| "wait for ip".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(LocalError::Command { command: format!("ip ({})", lines.join("; ")), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wires_name_fits_the_kernels_limit_and_follows_from_the_id() {
        let name = veth_name(&InstanceId::new("i-0123456789abcdef0"));
        assert_eq!(name, "pl456789abcdef0");
        assert!(name.len() <= 15);
    }
}
