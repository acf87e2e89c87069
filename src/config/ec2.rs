//! `cloud.ec2` of provider.yaml.

use super::{ConfigError, provider::Checker, raw};
use crate::decide::{placement::BatchWindow, purchase::policy::Architecture};
use jiff::SignedDuration;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where instances of EC2 are made, and of what. The region is the provider's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Settings {
    pub endpoint_url: Option<String>,
    /// None: the region's own.
    pub sts_endpoint_url: Option<String>,
    /// None: the one that serves the region; or none is asked, where `endpoint_url` names a stand-in.
    pub price_list_endpoint_url: Option<String>,
    /// Where EventBridge's events are received; None: agents alone say what EC2 announces.
    pub interruption_queue_url: Option<String>,
    pub refresh: RefreshEvery,
    /// None: instances of any account are taken, if they are in the list.
    pub account: Option<String>,
    /// The region's certificate: with it, the identity document is a proof too.
    pub identity_certificate: Option<PathBuf>,
    /// By zone, in the order they are tried.
    pub subnets: BTreeMap<String, Vec<String>>,
    pub security_groups: Vec<String>,
    pub images: BTreeMap<Architecture, String>,
    pub instance_profile: Option<String>,
    pub root_volume_device: String,
    pub root_volume_gib: u32,
    pub tags: BTreeMap<String, String>,
    pub insecure_registries: Vec<String>,
    /// How long a burst's first Pod waits for the others.
    pub batch_window: BatchWindow,
    /// How many instances one launch call is for at most.
    pub per_call: u32,
}

/// How often EC2 is asked. None: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshEvery {
    pub types: Option<SignedDuration>,
    pub price_list: Option<SignedDuration>,
    pub spot_prices: Option<SignedDuration>,
    pub usage: Option<SignedDuration>,
}

impl Ec2Settings {
    /// Whether EC2 can tell of types that the catalog lacks: none joins without a size and a price.
    pub fn tells_of_types(&self) -> bool {
        let list = self.price_list_endpoint_url.is_some() || self.endpoint_url.is_none();
        self.refresh.types.is_some() && self.refresh.price_list.is_some() && list
    }
}

/// Behind what was expected where EC2 would know more.
pub(super) const NOT_ASKED: &str = "; or let EC2 be asked: cloud.ec2.refresh.types and .priceList are both needed";

/// EC2 changes none of it more often, and the calls are the account's.
const SHORTEST_REFRESH: SignedDuration = SignedDuration::from_mins(1);

/// AWS, "Tag restrictions"; the keys are ours alone, or AWS's.
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;
const RESERVED: [&str; 2] = ["pilotlight.dev/", "aws:"];
/// Of the fifty that a resource may have; the others are ours.
const MOST_TAGS: usize = 30;
/// EBS, gp3.
const LARGEST_GIB: u64 = 16 << 10;
/// A Pod that waits longer for the others of its burst would be served sooner without them.
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_secs(10);
/// A fleet of 500 was seen to be throttled and to fail whole (karpenter-provider-aws#9175).
const MOST_PER_CALL: u32 = 500;

pub(super) fn settings(
    check: &Checker,
    base: &Path,
    zones: &[String],
    raw: raw::Ec2,
) -> Result<Ec2Settings, ConfigError> {
    let key = |name: &str| format!("cloud.ec2.{name}");
    for (name, url) in [
        ("endpointURL", &raw.endpoint_url),
        ("stsEndpointURL", &raw.sts_endpoint_url),
        ("priceListEndpointURL", &raw.price_list_endpoint_url),
    ] {
        let Some(url) = url else { continue };
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        if host.is_none_or(|host| host.is_empty() || host.contains([' ', '@'])) {
            let problem = format!("{url:?}: expected a URL without a user, such as https://ec2.example:443");
            return Err(check.error(key(name), problem));
        }
    }
    if let Some(url) = &raw.interruption_queue_url {
        queue(check, &key("interruptionQueueURL"), url)?;
    }
    if let Some(account) = raw.account.as_ref().filter(|id| id.len() != 12 || !id.bytes().all(|b| b.is_ascii_digit())) {
        return Err(check.error(key("account"), format!("{account:?}: expected twelve digits in quotes")));
    }
    if let Some(zone) = raw.subnets.keys().find(|zone| !zones.contains(zone)) {
        let problem = format!("{zone:?} is none of the zones under nodes");
        return Err(check.error(key("subnets"), problem));
    }
    for zone in zones {
        let of = key(&format!("subnets.{zone}"));
        let subnets = raw.subnets.get(zone).map(Vec::as_slice).unwrap_or_default();
        if subnets.is_empty() {
            return Err(check.error(of, "is missing or empty: there is a node in this zone, expected a subnet for it"));
        }
        ids(check, &of, "subnet-", subnets)?;
    }
    let groups = key("securityGroups");
    if raw.security_groups.is_empty() {
        return Err(
            check.error(groups, "is empty: expected the groups of the instances, such as [sg-0123456789abcdef0]")
        );
    }
    ids(check, &groups, "sg-", &raw.security_groups)?;
    let mut images = BTreeMap::new();
    for (name, image) in raw.images {
        let of = key(&format!("images.{name}"));
        let Some(architecture) = Architecture::named(&name) else {
            return Err(check.error(of, "is no architecture: expected amd64 or arm64"));
        };
        ids(check, &of, "ami-", std::slice::from_ref(&image))?;
        images.insert(architecture, image);
    }
    if images.is_empty() {
        return Err(check.error(key("images"), "is empty: expected an image for amd64, arm64 or both"));
    }
    if let Some(profile) = &raw.instance_profile
        && (profile.is_empty()
            || profile.len() > 128
            || !profile.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b)))
    {
        let problem = format!("{profile:?}: expected the instance profile's name, not its ARN");
        return Err(check.error(key("instanceProfile"), problem));
    }
    let raw::RootVolume { device, size } = raw.root_volume;
    if !device.starts_with("/dev/") || device.len() > 32 {
        let problem = format!("{device:?}: expected the root device as the image names it, such as /dev/xvda");
        return Err(check.error(key("rootVolume.device"), problem));
    }
    let gib = check.bytes(&key("rootVolume.size"), &size)?;
    let whole = (gib % (1 << 30) == 0).then_some(gib >> 30).filter(|gib| *gib <= LARGEST_GIB);
    let root_volume_gib = whole.and_then(|gib| u32::try_from(gib).ok()).ok_or_else(|| {
        let problem = format!("{size:?}: expected whole Gi, at most {LARGEST_GIB}Gi");
        check.error(key("rootVolume.size"), problem)
    })?;
    tags(check, &key("tags"), &raw.tags)?;
    let batch_window = BatchWindow {
        idle: check.duration(&key("launches.idle"), &raw.launches.idle)?,
        longest: check.duration(&key("launches.longest"), &raw.launches.longest)?,
    };
    if batch_window.longest > LONGEST_WINDOW || batch_window.longest < batch_window.idle {
        let problem = format!("{:?}: expected at least launches.idle and at most 10s", raw.launches.longest);
        return Err(check.error(key("launches.longest"), problem));
    }
    let per_call = raw.launches.per_call;
    if !(1..MOST_PER_CALL).contains(&per_call) {
        return Err(check.error(key("launches.perCall"), format!("{per_call}: expected 1 to {}", MOST_PER_CALL - 1)));
    }
    for host in &raw.insecure_registries {
        let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) || host.contains(['/', ' ', '"']) {
            let problem = format!("{host:?}: expected host:port");
            return Err(check.error(key("insecureRegistries"), problem));
        }
    }
    Ok(Ec2Settings {
        endpoint_url: raw.endpoint_url,
        sts_endpoint_url: raw.sts_endpoint_url,
        price_list_endpoint_url: raw.price_list_endpoint_url,
        interruption_queue_url: raw.interruption_queue_url,
        refresh: RefreshEvery {
            types: every(check, "types", &raw.refresh.types)?,
            price_list: every(check, "priceList", &raw.refresh.price_list)?,
            spot_prices: every(check, "spotPrices", &raw.refresh.spot_prices)?,
            usage: every(check, "usage", &raw.refresh.usage)?,
        },
        account: raw.account,
        identity_certificate: raw.identity_certificate.map(|path| base.join(path)),
        subnets: raw.subnets,
        security_groups: raw.security_groups,
        images,
        instance_profile: raw.instance_profile,
        root_volume_device: device,
        root_volume_gib,
        tags: raw.tags,
        insecure_registries: raw.insecure_registries,
        batch_window,
        per_call,
    })
}

/// A queue's URL: a host, the account, the queue's name (AWS, "Amazon SQS queue and message identifiers").
fn queue(check: &Checker, key: &str, url: &str) -> Result<(), ConfigError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let parts: Vec<&str> = rest.split('/').collect();
    let account = |text: &str| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    let name = |text: &str| {
        (1..=80).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match parts[..] {
        [host, owner, queue] if !host.is_empty() && !host.contains([' ', '@']) && account(owner) && name(queue) => {
            Ok(())
        }
        _ => {
            let expected =
                "expected a standard queue's URL, such as https://sqs.us-east-1.amazonaws.com/123456789012/prod";
            Err(check.error(key.to_owned(), format!("{url:?}: {expected}")))
        }
    }
}

/// An interval of `cloud.ec2.refresh`.
fn every(check: &Checker, name: &str, text: &str) -> Result<Option<SignedDuration>, ConfigError> {
    if text == "off" {
        return Ok(None);
    }
    let key = format!("cloud.ec2.refresh.{name}");
    let wait = check.duration(&key, text)?;
    if wait < SHORTEST_REFRESH {
        return Err(check.error(key, format!("{text:?}: expected at least 1m, or off")));
    }
    Ok(Some(wait))
}

/// AWS's ids: a prefix, and eight or seventeen hexadecimal digits.
fn ids(check: &Checker, key: &str, prefix: &str, all: &[String]) -> Result<(), ConfigError> {
    let digits = |rest: &str| matches!(rest.len(), 8 | 17) && rest.bytes().all(|b| b.is_ascii_hexdigit());
    match all.iter().find(|id| !id.strip_prefix(prefix).is_some_and(digits)) {
        None => Ok(()),
        Some(id) => Err(check.error(key, format!("{id:?}: expected an id such as {prefix}0123456789abcdef0"))),
    }
}

fn tags(check: &Checker, key: &str, tags: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if tags.len() > MOST_TAGS {
        return Err(check.error(key, format!("has {} tags: expected at most {MOST_TAGS}", tags.len())));
    }
    for (name, value) in tags {
        let of = format!("{key}.{name}");
        if let Some(reserved) = RESERVED.iter().find(|reserved| name.to_ascii_lowercase().starts_with(**reserved)) {
            return Err(check.error(of, format!("keys that begin with {reserved} are not to be set here")));
        }
        if name.is_empty() || name.chars().count() > LONGEST_KEY || value.chars().count() > LONGEST_VALUE {
            let problem =
                format!("expected a key of 1 to {LONGEST_KEY} and a value of up to {LONGEST_VALUE} characters");
            return Err(check.error(of, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{CloudConfig, ProviderConfig, Source, Surroundings};
    use super::*;
    use std::sync::Arc;

    const GOOD: &str = include_str!("../../provider-config/provider-ec2.yaml");
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/provider-config/provider-ec2.yaml");

    fn validated(text: &str) -> Result<ProviderConfig, ConfigError> {
        ProviderConfig::of(Source::new(FILE, text), &Surroundings::default())
    }

    #[test]
    fn the_shipped_example_is_valid_and_only_what_there_is_an_image_for_is_bought() {
        let config = validated(GOOD).unwrap();
        let CloudConfig::Ec2(settings) = &config.cloud else { panic!("{:?}", config.cloud) };
        assert_eq!((settings.subnets.len(), settings.root_volume_gib), (2, 20));
        assert!(config.buying.market.catalog.types.iter().all(|spec| spec.architecture == Architecture::Amd64));
        let arm = GOOD.replace("      amd64: ami-", "      arm64: ami-");
        let types = validated(&arm).unwrap().buying.market.catalog.types.clone();
        assert!(!types.is_empty() && types.iter().all(|spec| spec.architecture == Architecture::Arm64));
    }

    #[test]
    fn what_the_catalog_lacks_is_let_pass_where_ec2_can_tell_of_it_and_refused_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let shipped = Path::new(FILE).with_file_name("catalog-ec2.yaml");
        std::fs::copy(shipped, dir.path().join("catalog-ec2.yaml")).unwrap();
        let file = dir.path().join("provider.yaml");
        let loaded = |policy: &str, (from, to): (&str, &str)| {
            assert!(GOOD.contains(from), "{from:?} is not in the example");
            std::fs::write(dir.path().join("cost-policy.yaml"), policy).unwrap();
            let text = GOOD.replacen("# costPolicy:", "costPolicy:", 1).replacen(from, to, 1);
            std::fs::write(&file, text).unwrap();
            ProviderConfig::load_in(&file, &Surroundings::default()).map_err(|error| error.to_string())
        };
        let policy = "defaults:\n  instances:\n    allow: [c6i.*, c7i-flex.*, m5.*]\ncommitments:\n\
                      - regional: {type: m5.large, count: 2}\n- zonal: {type: c6i.large, zone: us-east-1a, count: 1}\n\
                      - savingsPlan: {family: m5, hourly: 1, discountPercent: 20}\nreservations:\n\
                      - {type: m5.xlarge, zone: us-east-1a, count: 1}\n";
        let as_shipped = ("cluster: prod", "cluster: prod");
        let config = loaded(policy, as_shipped).unwrap();
        let named: Vec<(u64, &str, &str)> =
            config.unlisted.iter().map(|u| (u.line, u.key.as_str(), u.text.as_str())).collect();
        assert_eq!(
            named,
            [
                (3, "defaults.instances.allow[1]", "c7i-flex.*"),
                (3, "defaults.instances.allow[2]", "m5.*"),
                (5, "commitments[0].regional.type", "m5.large"),
                (7, "commitments[2].savingsPlan.family", "m5"),
                (9, "reservations[0].type", "m5.xlarge"),
            ]
        );
        let warning = config.unlisted[0].awaited();
        let place = dir.path().join("cost-policy.yaml").display().to_string()
            + ":3: defaults.instances.allow[1]: \"c7i-flex.*\"";
        assert!(warning.starts_with(&place), "{warning}");
        assert_eq!(config.buying.policy.commitments.len(), 3);
        // Without a size or a price none joins.
        for off in [
            ("types: 12h", "types: off"),
            ("priceList: 12h", "priceList: off"),
            ("# endpointURL: http://10.70.0.1:15000", "endpointURL: http://10.70.0.1:15000"),
        ] {
            let refused = loaded(policy, off).unwrap_err();
            let said = "allow[1]: \"c7i-flex.*\": expected a name or glob of types that are in the catalog; or let EC2 be asked";
            assert!(refused.contains(said), "{off:?}: {refused}");
        }
        // Whoever is asked: what EC2 could not have, and what must have a size or a price.
        for wrong in [
            "defaults: {instances: {allow: [m5-large]}}\n",
            "commitments:\n- regional: {type: m5.larg, count: 2}\n",
            "commitments:\n- savingsPlan: {family: m5.large, hourly: 1, discountPercent: 20}\n",
            "standby:\n- {type: m5.large, zone: us-east-1a, count: 1}\n",
            "reserve: {sizing: {listed: [m5.large]}}\n",
        ] {
            let refused = loaded(wrong, as_shipped).expect_err(wrong);
            assert!(refused.contains("cost-policy.yaml:") && refused.contains("expected"), "{refused}");
        }
    }

    #[test]
    fn an_edit_that_needs_a_restart_is_named_and_no_other() {
        let now = validated(GOOD).unwrap();
        assert!(now.needs_restart(&now).is_empty());
        for (from, to, keys) in [
            ("subnet-0b1b2c3d4e5f60718", "subnet-0b1b2c3d4e5f60719", &["cloud"][..]),
            ("cluster: prod", "cluster: other", &["cluster"]),
            ("cluster: prod", "cluster: prod\nkeepCompletedPods: 20m", &[]),
        ] {
            assert!(GOOD.contains(from), "{from:?} is not in the example");
            let other = validated(&GOOD.replacen(from, to, 1)).unwrap();
            assert_eq!(now.needs_restart(&other), keys, "{from} -> {to}");
        }
        // The policy's are taken up at once.
        let mut other = validated(GOOD).unwrap();
        let mut buying = (*other.buying).clone();
        buying.policy.ttl.launch = buying.policy.ttl.launch + buying.policy.ttl.launch;
        buying.policy.ttl.register = buying.policy.ttl.register + buying.policy.ttl.register;
        other.buying = Arc::new(buying);
        assert!(now.needs_restart(&other).is_empty());
    }

    #[test]
    fn every_broken_key_is_named_with_what_was_expected() {
        for (from, to, key, expected) in [
            ("region: us-east-1", "region: eu-west-1", "region", "us-east-1"),
            ("      us-east-1b: [subnet-0b1b2c3d4e5f60718]\n", "", "cloud.ec2.subnets.us-east-1b", "missing"),
            ("us-east-1b: [subnet", "us-east-1z: [subnet", "cloud.ec2.subnets", "none of the zones"),
            ("[subnet-0b1b2c3d4e5f60718]", "[]", "cloud.ec2.subnets.us-east-1b", "empty"),
            ("subnet-0b1b2c3d4e5f60718", "subnet-b", "cloud.ec2.subnets.us-east-1b", "subnet-0123456789abcdef0"),
            ("[sg-0123456789abcdef0]", "[]", "cloud.ec2.securityGroups", "empty"),
            ("[sg-0123456789abcdef0]", "[default]", "cloud.ec2.securityGroups", "sg-0123456789abcdef0"),
            ("amd64: ami", "x86: ami", "cloud.ec2.images.x86", "amd64 or arm64"),
            ("ami-0123456789abcdef0", "debian-13", "cloud.ec2.images.amd64", "ami-0123456789abcdef0"),
            (
                "# instanceProfile: pilotlight",
                "instanceProfile: arn:aws:iam::1:instance-profile/x",
                "cloud.ec2.instanceProfile",
                "not its ARN",
            ),
            ("device: /dev/xvda", "device: xvda", "cloud.ec2.rootVolume.device", "/dev/xvda"),
            ("size: 20Gi", "size: 1500M", "cloud.ec2.rootVolume.size", "whole Gi"),
            ("size: 20Gi", "size: huge", "cloud.ec2.rootVolume.size", "quantity"),
            ("team: platform", "pilotlight.dev/class: x", "cloud.ec2.tags", "not to be set"),
            ("team: platform", "AWS:x: y", "cloud.ec2.tags", "not to be set"),
            ("# endpointURL: http://10.70.0.1:15000", "endpointURL: 10.70.0.1", "cloud.ec2.endpointURL", "URL"),
            ("# stsEndpointURL: http://10.70.0.1:15000", "stsEndpointURL: ftp://x", "cloud.ec2.stsEndpointURL", "URL"),
            (
                "# priceListEndpointURL: http://10.70.0.1:15000",
                "priceListEndpointURL: price list",
                "cloud.ec2.priceListEndpointURL",
                "URL",
            ),
            (
                "# interruptionQueueURL: https://sqs.us-east-1.amazonaws.com/123456789012/prod",
                "interruptionQueueURL: prod",
                "cloud.ec2.interruptionQueueURL",
                "a standard queue's URL",
            ),
            (
                "# interruptionQueueURL: https://sqs.us-east-1.amazonaws.com/123456789012/prod",
                "interruptionQueueURL: https://sqs.us-east-1.amazonaws.com/123456789012/prod.fifo",
                "cloud.ec2.interruptionQueueURL",
                "a standard queue's URL",
            ),
            ("spotPrices: 10m", "spotPrices: 10s", "cloud.ec2.refresh.spotPrices", "at least 1m, or off"),
            ("types: 12h", "types: never", "cloud.ec2.refresh.types", "duration"),
            ("priceList: 12h", "prices: 12h", "cloud.ec2.refresh.prices", "unknown field"),
            ("# account: ", "account: '12' # ", "cloud.ec2.account", "twelve digits"),
            (
                "# insecureRegistries: [\"10.70.0.1:5000\"]",
                "insecureRegistries: [registry]",
                "cloud.ec2.insecureRegistries",
                "host:port",
            ),
            ("# launches: {idle: 300ms", "launches: {idle: soon", "cloud.ec2.launches.idle", "duration"),
            ("# launches: {idle: 300ms", "launches: {idle: 3s", "cloud.ec2.launches.longest", "at least"),
            ("# launches: {idle: 300ms, longest: 2s", "launches: {longest: 1m", "cloud.ec2.launches.longest", "10s"),
            ("# launches: {idle: 300ms", "launches: {calls: 1", "cloud.ec2.launches", "unknown field"),
            (
                "# launches: {idle: 300ms, longest: 2s, perCall: 100",
                "launches: {perCall: 0",
                "cloud.ec2.launches.perCall",
                "1 to",
            ),
            ("    rootVolume:", "    rootVolumes:", "cloud.ec2.rootVolumes", "unknown field"),
            ("    securityGroups: [sg-0123456789abcdef0]\n", "", "cloud.ec2", "securityGroups"),
        ] {
            assert!(GOOD.contains(from), "{from:?} is not in the example");
            let refusal = validated(&GOOD.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(refusal.contains(key) && refusal.contains(expected), "{to}: {refusal}");
        }
    }
}
