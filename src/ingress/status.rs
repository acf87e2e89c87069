//! What an Ingress's status should say. Pure, and the same whoever computes it.

use super::spec::{Condition, IngressStatus, LoadBalancer, LoadBalancerIngress};
use jiff::Timestamp;

/// How far the data plane is with one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Never, as the spec is.
    Refused { reason: &'static str, message: String },
    /// Not yet.
    Waiting { message: String },
    /// This generation is what requests meet.
    Serving,
}

/// The gateway's own Services, by which it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// `name.namespace.svc.cluster.local`
    pub external: String,
    pub internal: String,
}

/// None if `current` says it all already.
pub fn desired_status(
    current: &IngressStatus,
    generation: i64,
    progress: &Progress,
    addresses: &Addresses,
    now: Timestamp,
) -> Option<IngressStatus> {
    let was_ready = current.observed_generation == generation && is(current, "NetworkConfigured", "True");
    let network = match progress {
        Progress::Serving => condition("NetworkConfigured", "True", "", ""),
        // Said once, it holds for the generation: endpoints may come and go, and a replica that starts a moment
        // later than another must not take back what that one has said.
        Progress::Waiting { .. } if was_ready => condition("NetworkConfigured", "True", "", ""),
        Progress::Waiting { message } => condition("NetworkConfigured", "Unknown", "Waiting", message),
        Progress::Refused { reason, message } => condition("NetworkConfigured", "False", reason, message),
    };
    let ready = Condition { kind: "Ready".to_owned(), ..network.clone() };
    let balancer = condition("LoadBalancerReady", "True", "", "");
    // In the order that Knative's own libraries write them.
    let mut conditions = vec![balancer, network, ready];
    for condition in &mut conditions {
        let same = current.conditions.iter().find(|old| {
            (&old.kind, &old.status, &old.reason, &old.message)
                == (&condition.kind, &condition.status, &condition.reason, &condition.message)
        });
        condition.last_transition_time = same
            .map(|old| old.last_transition_time.clone())
            .filter(|time| !time.is_empty())
            .unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    let wanted = IngressStatus {
        observed_generation: generation,
        conditions,
        public_load_balancer: Some(balancer_at(&addresses.external)),
        private_load_balancer: Some(balancer_at(&addresses.internal)),
    };
    (wanted != *current).then_some(wanted)
}

fn is(status: &IngressStatus, kind: &str, value: &str) -> bool {
    status.conditions.iter().any(|condition| condition.kind == kind && condition.status == value)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: String::new(),
    }
}

fn balancer_at(domain: &str) -> LoadBalancer {
    let entry = LoadBalancerIngress { domain_internal: domain.to_owned(), ..LoadBalancerIngress::default() };
    LoadBalancer { ingress: vec![entry] }
}
