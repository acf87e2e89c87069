//! What each action that the provider needs is authorised against, and which condition keys it has there.
//!
//! Sources: AWS, Service Authorization Reference, "Actions, resources, and condition keys for" Amazon EC2, Amazon SQS, AWS
//! Price List, AWS Identity and Access Management. Two columns of it that matter here: tags that a request gives
//! (`aws:RequestTag/…`) and tags that are there (`aws:ResourceTag/…`). `aws:RequestedRegion` is of every request, and
//! `ec2:CreateAction` of CreateTags alone. RunInstances has five kinds more, which no launch here knows how to ask for:
//! elastic-gpu, elastic-inference, group, license-configuration, secondary-subnet.

use super::policy::{Call, Resource};
use std::fmt;

pub struct Row {
    pub action: &'static str,
    /// Empty: against none, `*`.
    pub kinds: &'static [Kind],
}

/// A resource type.
pub struct Kind {
    pub name: &'static str,
    pub tags: Which,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Neither.
    Untagged,
    /// Those of the request: the action makes it.
    Requested,
    /// Its own.
    There,
    Both,
}

const fn made(name: &'static str) -> Kind {
    Kind { name, tags: Which::Requested }
}

const fn there(name: &'static str) -> Kind {
    Kind { name, tags: Which::There }
}

const fn both(name: &'static str) -> Kind {
    Kind { name, tags: Which::Both }
}

const fn untagged(name: &'static str) -> Kind {
    Kind { name, tags: Which::Untagged }
}

const fn row(action: &'static str, kinds: &'static [Kind]) -> Row {
    Row { action, kinds }
}

pub const ACTIONS: &[Row] = &[
    row("ec2:DescribeInstanceTypeOfferings", &[]),
    row("ec2:DescribeInstanceTypes", &[]),
    row("ec2:DescribeInstances", &[]),
    row("ec2:DescribeLaunchTemplates", &[]),
    row("ec2:DescribeNetworkInterfaces", &[]),
    row("ec2:DescribeSpotPriceHistory", &[]),
    row("ec2:DescribeVolumes", &[]),
    row("pricing:GetProducts", &[]),
    row("sqs:DeleteMessage", &[untagged("queue")]),
    row("sqs:ReceiveMessage", &[untagged("queue")]),
    row("ec2:CreateLaunchTemplate", &[made("launch-template")]),
    row("ec2:DeleteLaunchTemplate", &[there("launch-template")]),
    row("ec2:DeleteNetworkInterface", &[there("network-interface")]),
    row("ec2:DeleteVolume", &[there("volume")]),
    row("ec2:TerminateInstances", &[there("instance")]),
    row(
        "ec2:CreateFleet",
        &[
            made("fleet"),
            made("instance"),
            made("volume"),
            there("image"),
            there("launch-template"),
            there("placement-group"),
            there("subnet"),
        ],
    ),
    row(
        "ec2:RunInstances",
        &[
            made("instance"),
            made("network-interface"),
            // The reference's table lacks it; "Work with Spot Instances" (EC2's user guide) has it.
            made("spot-instances-request"),
            made("volume"),
            there("capacity-reservation"),
            there("image"),
            there("key-pair"),
            there("launch-template"),
            there("placement-group"),
            there("security-group"),
            there("snapshot"),
            there("subnet"),
        ],
    ),
    row(
        "ec2:CreateTags",
        &[
            both("fleet"),
            both("instance"),
            both("launch-template"),
            both("network-interface"),
            both("spot-instances-request"),
            both("volume"),
        ],
    ),
    row("iam:PassRole", &[untagged("role")]),
];

/// A condition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    RequestedRegion,
    CreateAction,
    RequestTag(String),
    ResourceTag(String),
}

impl Key {
    pub fn parse(name: &str) -> Option<Self> {
        let tag = |prefix: &str| name.strip_prefix(prefix).filter(|tag| !tag.is_empty()).map(str::to_owned);
        match name {
            "aws:RequestedRegion" => Some(Self::RequestedRegion),
            "ec2:CreateAction" => Some(Self::CreateAction),
            _ => {
                tag("aws:RequestTag/").map(Self::RequestTag).or_else(|| tag("aws:ResourceTag/").map(Self::ResourceTag))
            }
        }
    }

    /// None: the request has no such key for this resource.
    pub fn value<'a>(&self, call: &'a Call, resource: &'a Resource) -> Option<&'a str> {
        let tags = || {
            let row = ACTIONS.iter().find(|row| row.action == call.action)?;
            row.kinds.iter().find(|kind| kind.name == resource.kind).map(|kind| kind.tags)
        };
        match self {
            Self::RequestedRegion => Some(&call.region),
            Self::CreateAction if call.action == "ec2:CreateTags" => call.create_action,
            Self::CreateAction => None,
            Self::RequestTag(tag) => {
                let has = matches!(tags()?, Which::Requested | Which::Both);
                resource.requested.get(tag).filter(|_| has).map(String::as_str)
            }
            Self::ResourceTag(tag) => {
                let has = matches!(tags()?, Which::There | Which::Both);
                resource.tags.get(tag).filter(|_| has).map(String::as_str)
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestedRegion => f.write_str("aws:RequestedRegion"),
            Self::CreateAction => f.write_str("ec2:CreateAction"),
            Self::RequestTag(tag) => write!(f, "aws:RequestTag/{tag}"),
            Self::ResourceTag(tag) => write!(f, "aws:ResourceTag/{tag}"),
        }
    }
}
