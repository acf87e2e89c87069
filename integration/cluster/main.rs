//! What a user of the cluster sees, on the real control plane with real containers.
//!
//! Needs a cluster with a provider (`scripts/test` starts one; PILOTLIGHT_TEST_CLUSTER names another).
//! Each test has a namespace of its own, so they run side by side. Those of `neighbours` also need the
//! real kubelet's node (`scripts/cluster up --kubelet`).

#[path = "../support/mod.rs"]
mod support;

mod api_server;
mod claims;
mod containers;
mod inputs;
mod kubelet_api;
mod life;
mod neighbours;
mod network;
mod refusals;
mod reserve;
mod status;
mod streams;
mod workloads;
