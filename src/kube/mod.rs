//! The Kubernetes adapter: API objects in, our words out, and back.
//!
//! - [`client`]: the connection to the API server.
//! - [`identity`]: certificates for a node. [`node`]: the Node object, its status and Lease.
//! - [`lease`]: which replica leads. [`authority`]: what all replicas' agents trust. [`claims`]: whose each
//!   instance is.
//! - [`pods`]: the watch on a node's own Pods. [`intent`]: Pod -> PodIntent, refusing loudly.
//! - [`refs`]: ConfigMaps, Secrets and tokens that Pods refer to, watched while they do.
//! - [`services`]: Services and EndpointSlices for the proxies.
//! - [`writer`]: status patches and final deletes, coalesced. [`render`]: what they contain.
//! - [`reserve`]: the reserves of Knative's Revisions. [`watched`]: watches as changes.
//! - [`events`]: Events on Pods. [`reviews`], [`client_ca`]: who may call the kubelet API.
//!
//! Nothing outside this room knows k8s_openapi or kube.

pub mod authority;
pub mod claims;
pub mod client;
pub mod client_ca;
pub mod events;
pub mod identity;
pub mod intent;
pub mod leader_label;
pub mod lease;
pub mod node;
pub mod pods;
pub mod refs;
pub mod render;
pub mod reserve;
pub mod reviews;
pub mod selection;
pub mod services;
pub mod watched;
pub mod writer;

/// A request that the API server did not grant.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not {operation} {object}: {why}")]
pub struct KubeError {
    operation: &'static str,
    object: String,
    why: String,
}

impl KubeError {
    pub fn new(operation: &'static str, object: impl Into<String>, source: &kube::Error) -> Self {
        Self { operation, object: object.into(), why: why(source) }
    }
}

/// What went wrong, once: the error's own text and its sources repeat each other.
pub fn why(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
        return status.message.clone();
    }
    match error.source() {
        Some(source) => why(source),
        None => error.to_string(),
    }
}
