//! Identifiers. Each is a newtype, so that one can't be passed for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(value: impl Into<String>) -> Self {
                Self(value.into())
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// metadata.uid of a Pod. Everything about a Pod is keyed by it: names are reused.
    PodUid
}
id! {
    /// A cloud's id of an instance (`i-0123…`).
    InstanceId
}
id! {
    /// A virtual node's name, `pilotlight-<zone>`.
    NodeName
}
id! {
    /// Makes a launch idempotent: the same token never launches twice. At most 64 ASCII characters
    /// (the limit of EC2's ClientToken).
    ClientToken
}

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Orders the desired states of one Pod: an agent refuses one that is older than what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl NodeName {
    /// Of every virtual node's name.
    pub const PREFIX: &str = "pilotlight-";

    /// The node that stands for a zone.
    pub fn of_zone(zone: &str) -> Self {
        Self::new(format!("{}{zone}", Self::PREFIX))
    }
}
