//! Every decision, pure: a snapshot and a time in, a plan with reasons out.
//!
//! No clock, id, random number or I/O in here: the same input always gives the same plan, so that a
//! simulator can drive these functions through thousands of bad days.
//!
//! - [`admission`]: whose an instance is, when somebody says to be it.
//! - [`placement`]: which Pod gets which instance; what to launch, what to release.
//! - [`lifecycle`]: one Pod's life: what its agent should do, when its object and instance go.
//! - [`handover`]: how what backs a Pod is changed without losing a request, and which Pods may.
//! - [`reserve`]: when what is scaled to zero has a warm copy that answers, and when not.
//! - [`credits`]: the CPU credits of a burstable instance, modelled.
//! - [`purchase`]: what to buy for a Pod by the cost policy, and why.
//! - [`status`]: what the API server should say of a Pod.
//! - [`desired`]: a Pod with every reference resolved, as its agent gets it.
//! - [`containers`], [`probe`], [`backoff`]: what an agent does next to a Pod's containers.
//! - [`services`]: what the service proxies must know.
//! - [`lease`]: which of several replicas leads.
//! - [`log_view`]: which bytes of a container's log a reader gets.

pub mod admission;
pub mod backoff;
pub mod containers;
pub mod credits;
pub mod desired;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod handover;
pub mod lease;
pub mod lifecycle;
pub mod log_view;
pub mod placement;
pub mod probe;
pub mod purchase;
pub mod reserve;
pub mod services;
pub mod status;
