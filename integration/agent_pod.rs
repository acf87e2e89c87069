//! The Pod's runtime against a real containerd: each test has one of its own, in namespaces of its own.
//! Needs root and what scripts/tools and scripts/images make.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as its functions do")]

#[path = "agent_pod/content.rs"]
mod content;
#[path = "agent_pod/faults.rs"]
mod faults;
#[path = "agent_pod/life.rs"]
mod life;
#[path = "agent_pod/machine.rs"]
mod machine;
#[path = "agent_pod/probing.rs"]
mod probing;
#[path = "agent_pod/rights.rs"]
mod rights;
