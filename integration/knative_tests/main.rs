//! Real Knative Serving, its Pods on a virtual node.
//!
//! Needs a cluster with Serving and a provider (`scripts/test knative` starts one named knative;
//! PILOTLIGHT_TEST_CLUSTER names another: `scripts/cluster up --kubelet --knative`, `scripts/provider up`).
//! Requests go from this process into the cluster's network, where the activator listens.

#[path = "../support/mod.rs"]
mod support;

mod net;
mod serving;

mod gateway;
mod life;
mod reserve;
mod reserving;
mod traffic;
