//! What a cloud says that it sells, in its own words: nothing in it is checked yet.
//!
//! `decide::purchase::refresh` reads it.

use jiff::Timestamp;

/// An instance type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoldType {
    pub name: String,
    /// `x86_64`, `arm64`, …
    pub architectures: Vec<String>,
    pub vcpus: Option<i64>,
    pub memory_mib: Option<i64>,
    pub burstable: bool,
}

/// A type is sold in a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoldIn {
    pub instance_type: String,
    pub zone: String,
}

/// Of the price list: on demand, Linux, in the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPrice {
    pub instance_type: String,
    /// Dollars an hour.
    pub price: String,
}

/// How many instances of an account run in a pool, on demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub instance_type: String,
    pub zone: String,
    /// Linux on shared hardware, as the cluster's are: what Reserved Instances for it pay for. Savings Plans pay for any.
    pub reservable: bool,
    pub instances: u32,
}

/// What spot cost from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpotPrice {
    pub instance_type: String,
    pub zone: String,
    /// `Linux/UNIX`, …
    pub product: String,
    /// Dollars an hour.
    pub price: String,
    pub since: Timestamp,
}
