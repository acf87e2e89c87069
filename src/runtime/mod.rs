//! The wiring: what is made of what, who runs where, how it stops.
//!
//! - [`cli`]: arguments to calls, errors to exit codes.
//! - [`cloud`]: where machines come from.
//! - [`move_pod`]: `pilotlight move`.
//! - [`plan`]: `pilotlight plan`.
//! - [`provider`]: `pilotlight node`.
//! - [`simulate`]: `pilotlight simulate`.
//! - [`status`]: `pilotlight status`.

mod buying;
pub mod cli;
mod cloud;
mod credits;
mod gateway;
mod http;
mod leading;
mod move_pod;
mod node_identity;
mod node_pods;
mod plan;
mod pod_usage;
mod provider;
mod reload;
mod say;
mod simulate;
mod status;
