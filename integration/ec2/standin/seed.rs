//! What is there before anybody asks: a VPC with one subnet a zone, and the metadata service's address.

use super::{
    instances::Subnet,
    moto::Moto,
    params::Params,
    refusal::Refusal,
    xml::{items, text},
};
use std::{collections::BTreeMap, net::Ipv4Addr, process::Command};

pub struct Seeded {
    /// By id: its addresses and zone.
    pub subnets: BTreeMap<String, (Subnet, String)>,
    pub by_zone: BTreeMap<String, String>,
    pub security_group: String,
}

pub async fn seed(moto: &Moto, network: &str, zones: &[String]) -> Result<Seeded, Refusal> {
    let wrong = |what: &str| Refusal::new("InternalError", format!("moto did not make the {what}"));
    let ask = |fields: &[(&str, &str)]| {
        let mut params = Params::parse("Version=2016-11-15");
        fields.iter().for_each(|(name, value)| params.set(*name, *value));
        params
    };
    let vpc = moto.query(&ask(&[("Action", "CreateVpc"), ("CidrBlock", network)])).await?;
    let vpc = text(&vpc, "vpc/vpcId").ok_or_else(|| wrong("VPC"))?;
    let groups = moto
        .query(&ask(&[("Action", "DescribeSecurityGroups"), ("Filter.1.Name", "vpc-id"), ("Filter.1.Value.1", &vpc)]))
        .await?;
    let security_group = items(&groups, "securityGroupInfo").find_map(|item| text(item, "groupId"));
    let whole = Subnet::parse(network).ok_or_else(|| wrong("network"))?;
    let mut seeded = Seeded {
        subnets: BTreeMap::new(),
        by_zone: BTreeMap::new(),
        security_group: security_group.ok_or_else(|| wrong("security group"))?,
    };
    for (zone, part) in zones.iter().zip(parts(whole, zones.len())) {
        let cidr = format!("{}/{}", part.network, part.prefix_len);
        let fields = [("Action", "CreateSubnet"), ("VpcId", &vpc), ("CidrBlock", &cidr), ("AvailabilityZone", zone)];
        let subnet = moto.query(&ask(&fields)).await?;
        let id = text(&subnet, "subnet/subnetId").ok_or_else(|| wrong("subnet"))?;
        seeded.by_zone.insert(zone.clone(), id.clone());
        seeded.subnets.insert(id, (part, zone.clone()));
    }
    Ok(seeded)
}

/// As many equal parts as are needed.
fn parts(whole: Subnet, count: usize) -> Vec<Subnet> {
    let bits = u8::try_from(count.next_power_of_two().trailing_zeros()).unwrap_or(8);
    let prefix_len = whole.prefix_len + bits;
    let size = 1u32 << (32 - prefix_len);
    let first = u32::from(whole.network);
    (0u32..).take(count).map(|n| Subnet { network: (first + n * size).into(), prefix_len }).collect()
}

/// A bridge with nobody behind it, whose network is all this machine's own: any of its addresses can be spoken from.
pub fn simulated_network(bridge: &str, address: Ipv4Addr, network: &str, prefix_len: u8) -> Result<(), String> {
    // What an earlier run left, killed halfway.
    remove_simulated_network(bridge, network);
    ip(&["link", "add", bridge, "type", "bridge"])?;
    ip(&["addr", "add", &format!("{address}/{prefix_len}"), "dev", bridge])?;
    ip(&["link", "set", bridge, "up"])?;
    ip(&["route", "add", "local", network, "dev", "lo"])
}

/// What is not there is no error.
pub fn remove_simulated_network(bridge: &str, network: &str) {
    for args in [&["route", "del", "local", network, "dev", "lo"][..], &["link", "del", bridge]] {
        let _ = ip(args);
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    match Command::new("ip").args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// On the bridge: instances reach it by their default route, and no further hop lies between.
pub fn own_address(bridge: &str, address: Ipv4Addr) -> Result<(), String> {
    ip(&["addr", "replace", &format!("{address}/32"), "dev", bridge])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_shared_out_in_equal_parts_that_do_not_meet() {
        let all = parts(Subnet::parse("10.72.0.0/16").unwrap(), 3);
        let told: Vec<_> = all.iter().map(|s| format!("{}/{}", s.network, s.prefix_len)).collect();
        assert_eq!(told, ["10.72.0.0/18", "10.72.64.0/18", "10.72.128.0/18"]);
    }
}
