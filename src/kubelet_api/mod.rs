//! The kubelet's HTTPS API, one listener a virtual node: logs, exec, attach, port-forward, stats,
//! metrics. What must be answered, and in which words: pkg/kubelet/server/server.go and auth.go.
//!
//! In: requests of kube-apiserver, metrics-server, Prometheus. Out: tunnels to agents
//! ([`crate::ports::AgentLink`]), reviews of callers ([`Reviews`]), Pods from a [`PodDirectory`].
//!
//! ```text
//!   TLS (any client certificate is let in)
//!     -> who: a certificate of the client CA, else a bearer token (TokenReview) ---no---> 401
//!     -> may they: SubjectAccessReview on nodes/<subresource> ---no---> 403
//!     -> route -> pod, container ---unknown---> 404
//!     -> tunnel to the agent -> bytes
//! ```

mod access;
mod attributes;
mod cache;
mod directory;
mod exec;
mod logs;
mod options;
mod reply;
mod resources;
mod routes;
mod server;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod upgrade;

pub use access::{ReviewError, Reviews, User};
pub use attributes::Attributes;
pub use directory::{FoundPod, PodDirectory};
pub use server::{KubeletApi, KubeletApiConfig, KubeletApiError};
pub use tls::{BadCertificate, ServingCertificate};
