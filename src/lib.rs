//! Pilotlight: a virtual Kubernetes node whose Pods run on cloud instances of their own.
//!
//! The rooms, from the inside out (ARCHITECTURE.md draws the flow between them):
//!
//! - [`model`]: the words all rooms share: Pods, instances, desired state, reports, money.
//! - [`decide`]: every decision, pure: a snapshot and a time in, a plan with reasons out.
//! - [`ports`]: the traits through which decisions reach the world.
//! - [`config`]: the files a user edits, parsed and validated.
//! - [`kube`], [`cloud`], [`gateway`], [`kubelet_api`], [`agent`]: the adapters.
//! - [`claims`]: whose each instance is, kept for all replicas.
//! - [`ingress`]: `pilotlight gateway`, the ingress for Knative.
//! - [`reconcile`]: snapshot -> decide -> execute.
//! - [`simulate`]: the decisions driven by a trace on a simulated clock.
//! - [`telemetry`]: tracing and metrics. [`runtime`]: the wiring.

pub mod agent;
pub mod claims;
pub mod cloud;
pub mod config;
pub mod decide;
pub mod files;
pub mod gateway;
pub mod ingress;
pub mod interner;
pub mod kube;
pub mod kubelet_api;
pub mod model;
pub mod pipe;
pub mod ports;
pub mod proto;
pub mod reconcile;
pub mod retry;
pub mod runtime;
pub mod simulate;
pub mod telemetry;
