//! The words every room shares.
//!
//! Plain data with serde; no I/O, no clock, no randomness, no Kubernetes, CRI or cloud SDK types.
//!
//! - [`PodIntent`]: what the API server says a Pod should be (from `kube/`).
//! - [`DesiredPod`]: the same Pod with everything resolved, as one agent gets it, with a generation.
//! - [`PodReport`]: what an agent sees of it.
//! - [`InstanceRecord`], [`InstanceType`]: what a cloud says of its machines.
//! - [`SoldType`], [`SpotPrice`]: what a cloud says that it sells.
//! - [`Notice`]: what a cloud announces to an instance: that it will be taken back.
//! - [`ServicesUpdate`]: what the service proxy in an instance must know, whole or in increments.
//! - [`bootstrap`]: how an instance proves which one it is, as far as both ends must agree on it.
//!
//! Types that cross the wire ([`DesiredPod`], [`PodReport`], [`AgentEvent`], [`ServicesUpdate`],
//! [`TunnelRequest`], [`TunnelHead`]) tolerate unknown fields, so that provider and agent may differ
//! by a version.

pub mod bootstrap;
mod desired;
mod ids;
mod instance;
mod money;
mod notice;
mod pod;
mod quantity;
mod report;
mod services;
mod sold;
mod tunnel;

pub use desired::*;
pub use ids::*;
pub use instance::*;
pub use money::*;
pub use notice::*;
pub use pod::*;
pub use quantity::*;
pub use report::*;
pub use services::*;
pub use sold::*;
pub use tunnel::*;
