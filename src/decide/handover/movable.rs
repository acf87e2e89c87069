//! Which Pods may run twice for a moment. Everything that speaks against it is named.
//!
//! | of the Pod | movable | because |
//! |---|---|---|
//! | of a ReplicaSet (a Deployment) or ReplicationController | yes | more copies than wanted are normal in a rollout |
//! | without a controller | yes | the alternative, when its instance goes, is its end |
//! | of a StatefulSet | never | at most one Pod of a name is promised |
//! | of a Job | never | its work is counted; two copies would do it twice |
//! | of another controller | with `pilotlight.dev/movable: "true"` | what it promises is not known |
//! | `pilotlight.dev/movable: "false"` | never | its owner says so |
//! | restartPolicy OnFailure, Never | never | it is to run once |
//! | hostNetwork, hostPID, hostIPC, hostPath, hostPort | never | they tie it to its instance: its address, its processes, its files |
//! | readiness gates | never | others judge the old address, and would let the new one pass unjudged |
//! | persistent volumes | (refused anyway today) | ReadWriteOnce: one instance at a time |
//!
//! What is in an emptyDir stays behind, as it does when a Deployment makes a new Pod.

use crate::model::{PodIntent, RestartPolicy, VolumeSource};
use std::fmt;

/// A Pod's owner says whether it may be moved: `"true"` or `"false"`.
pub const MOVABLE: &str = "pilotlight.dev/movable";

/// Why a Pod may not run twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmovable {
    /// It does not run here at all.
    NotHonoured,
    Annotation {
        value: String,
    },
    Owner {
        kind: String,
    },
    UnknownOwner {
        kind: String,
    },
    RestartPolicy(RestartPolicy),
    HostNamespace(&'static str),
    HostPath {
        volume: String,
    },
    HostPort(u16),
    ReadinessGates,
}

impl fmt::Display for Unmovable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHonoured => f.write_str("its spec is not honoured"),
            Self::Annotation { value } if value == "false" => write!(f, "its annotation {MOVABLE} forbids it"),
            Self::Annotation { value } => {
                write!(f, "its annotation {MOVABLE} is {value:?}: expected \"true\" or \"false\"")
            }
            Self::Owner { kind } => write!(f, "a Pod of a {kind} must not run twice"),
            Self::UnknownOwner { kind } => {
                write!(
                    f,
                    "whether a Pod of a {kind} may run twice is not known (annotation {MOVABLE}: \"true\" says it)"
                )
            }
            Self::RestartPolicy(policy) => write!(f, "with restartPolicy {policy:?} it is to run once"),
            Self::HostNamespace(field) => write!(f, "{field} ties it to its instance"),
            Self::HostPath { volume } => write!(f, "volume {volume:?} (hostPath) is its instance's own"),
            Self::HostPort(port) => write!(f, "host port {port} is reached at its instance's address"),
            Self::ReadinessGates => f.write_str("its readiness gates are about its present address"),
        }
    }
}

/// # Errors
/// All that speaks against it.
pub fn movable(intent: &PodIntent) -> Result<(), Vec<Unmovable>> {
    let Ok(spec) = &intent.spec else { return Err(vec![Unmovable::NotHonoured]) };
    let mut against = Vec::new();
    let said = intent.annotations.get(MOVABLE).map(String::as_str);
    if let Some(value) = said.filter(|value| *value != "true") {
        against.push(Unmovable::Annotation { value: value.to_owned() });
    }
    if let Some((kind, _)) = &intent.owner {
        match kind.as_str() {
            "ReplicaSet" | "ReplicationController" => {}
            "StatefulSet" | "Job" => against.push(Unmovable::Owner { kind: kind.clone() }),
            _ if said == Some("true") => {}
            _ => against.push(Unmovable::UnknownOwner { kind: kind.clone() }),
        }
    }
    if spec.restart_policy != RestartPolicy::Always {
        against.push(Unmovable::RestartPolicy(spec.restart_policy));
    }
    let shared =
        [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)].into_iter();
    against.extend(shared.filter(|(_, on)| *on).map(|(field, _)| Unmovable::HostNamespace(field)));
    for volume in &spec.volumes {
        if let VolumeSource::HostPath { .. } = volume.source {
            against.push(Unmovable::HostPath { volume: volume.name.clone() });
        }
    }
    // With hostNetwork every port is one of the host: said once is enough.
    let ports = spec.init_containers.iter().chain(&spec.containers).flat_map(|container| &container.ports);
    let host_ports = ports.filter(|_| !spec.host_network).filter_map(|port| port.host_port);
    against.extend(host_ports.map(Unmovable::HostPort));
    if !spec.readiness_gates.is_empty() {
        against.push(Unmovable::ReadinessGates);
    }
    if against.is_empty() { Ok(()) } else { Err(against) }
}
