//! What the EC2 backend needs to know. Values are checked where the file is read (`config::ec2`).

use crate::decide::purchase::policy::Architecture;
use crate::model::HourlyPrice;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Config {
    /// Names what is ours: every instance is tagged with it, and no other is looked at.
    pub cluster: String,
    pub region: String,
    /// Instead of the region's endpoint, for a stand-in.
    pub endpoint_url: Option<String>,
    /// The price list's, for a stand-in; None: AWS's own, and none beside an `endpoint_url`.
    pub price_list_endpoint_url: Option<String>,
    /// Where its events are received, if anywhere.
    pub interruption_queue_url: Option<String>,
    /// By zone, in the order they are tried. Instances and their Pods take their addresses there.
    pub subnets: BTreeMap<String, Vec<String>>,
    pub security_groups: Vec<String>,
    /// By architecture.
    pub images: BTreeMap<Architecture, String>,
    /// A name; None: the instances get no role of their own.
    pub instance_profile: Option<String>,
    pub root_volume: RootVolume,
    /// More tags for instances, volumes and network interfaces.
    pub tags: BTreeMap<String, String>,
    /// Where agents dial in: `https://host:port`.
    pub provider_url: String,
    /// Whom they trust there.
    pub ca_pem: String,
    /// Registries spoken to by plain HTTP, as host:port.
    pub insecure_registries: Vec<String>,
    /// At the start; more may join ([`super::types`]).
    pub types: BTreeMap<String, TypeFacts>,
    /// How many instances one launch call is for at most.
    pub per_call: u32,
    /// Where launches under way are written down ([`super::journal`]).
    pub journal_dir: PathBuf,
    /// How often leaks are looked for.
    pub sweep_every: Duration,
    /// A launch template that no launch has used for so long is deleted; the next launch makes it anew.
    pub template_idle: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootVolume {
    /// As the image names it.
    pub device: String,
    pub size_gib: u32,
}

/// What the backend must know of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeFacts {
    pub architecture: Architecture,
    pub burstable: bool,
    pub on_demand: HourlyPrice,
}

/// `https://host:port`, with the brackets that an IPv6 address needs.
pub fn provider_url(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("https://[{ip}]:{port}"),
        _ => format!("https://{host}:{port}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn config() -> Ec2Config {
        let facts =
            |architecture, burstable, price| TypeFacts { architecture, burstable, on_demand: HourlyPrice(price) };
        Ec2Config {
            cluster: "dev".to_owned(),
            region: "us-east-1".to_owned(),
            endpoint_url: None,
            price_list_endpoint_url: None,
            interruption_queue_url: None,
            subnets: [
                ("us-east-1a".to_owned(), vec!["subnet-a1".to_owned(), "subnet-a2".to_owned()]),
                ("us-east-1b".to_owned(), vec!["subnet-b1".to_owned()]),
            ]
            .into(),
            security_groups: vec!["sg-1".to_owned()],
            images: [(Architecture::Amd64, "ami-x".to_owned()), (Architecture::Arm64, "ami-arm".to_owned())].into(),
            instance_profile: None,
            root_volume: RootVolume { device: "/dev/xvda".to_owned(), size_gib: 20 },
            tags: BTreeMap::new(),
            provider_url: "https://10.0.0.1:10255".to_owned(),
            ca_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            insecure_registries: Vec::new(),
            types: [
                ("c6i.large".to_owned(), facts(Architecture::Amd64, false, 85_000)),
                ("m6i.large".to_owned(), facts(Architecture::Amd64, false, 96_000)),
                ("c7g.large".to_owned(), facts(Architecture::Arm64, false, 72_500)),
                ("t3.micro".to_owned(), facts(Architecture::Amd64, true, 10_400)),
                ("t3a.micro".to_owned(), facts(Architecture::Amd64, true, 9_400)),
            ]
            .into(),
            per_call: 100,
            journal_dir: PathBuf::from("/nonexistent"),
            sweep_every: Duration::from_secs(60),
            template_idle: Duration::from_secs(3600),
        }
    }

    #[test]
    fn an_ipv6_address_gets_its_brackets() {
        assert_eq!(provider_url("10.0.0.1", 10255), "https://10.0.0.1:10255");
        assert_eq!(provider_url("fd00::1", 10255), "https://[fd00::1]:10255");
        assert_eq!(provider_url("agents.example", 443), "https://agents.example:443");
    }
}
