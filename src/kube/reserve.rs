//! Reserves for Knative's Revisions: the adapter of [`crate::decide::reserve`].
//!
//! In: watches on Revisions, PodAutoscalers, Routes, their Deployments, the reserve Pods, Namespaces and Serving's
//! config-autoscaler; the cost policy's section `reserve`. Out: reserve Pods, the hold on a Revision (Serving is
//! neither patched nor asked), a condition and events on the Revision that say where it stands and why.
//!
//! ```text
//!   watches --> seen.rs (one object) --> world.rs --> Snapshot --> decide::reserve --> effects --> act.rs --> API server
//!                                        |   ask.rs: who has one, on what terms                      |
//!                                        |   build.rs: the Pod it would be                           +--> idle.rs --> queue-proxy
//!                                        +-- control.rs drives it all
//! ```
//!
//! The states are drawn on the machine's own page. Nothing here is remembered that matters: all is read from the API
//! server, so whoever leads next goes on where this one stopped.

mod act;
mod ask;
mod build;
mod control;
mod idle;
mod objects;
mod seen;
mod words;
mod world;

pub use control::{Config, Usage, run};
