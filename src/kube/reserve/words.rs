//! Names of labels, annotations and kinds: Knative's, Alibaba's and ours.

/// Selects a Revision's endpoints (pkg/reconciler/revision/resources/meta.go, makeSelector). On a reserve it is what
/// attaches it.
pub const REVISION_UID: &str = "serving.knative.dev/revisionUID";
/// Counted by the autoscaler (pkg/resources/pods.go): never on a reserve.
pub const REVISION: &str = "serving.knative.dev/revision";
pub const TEMPLATE_HASH: &str = "pod-template-hash";
pub const ROUTING_STATE: &str = "serving.knative.dev/routingState";

pub const CLASS: &str = "autoscaling.knative.dev/class";
pub const KPA: &str = "kpa.autoscaling.knative.dev";
pub const MIN_SCALE: [&str; 2] = ["autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/minScale"];
pub const BURST: [&str; 2] =
    ["autoscaling.knative.dev/target-burst-capacity", "autoscaling.knative.dev/targetBurstCapacity"];
/// How long the last Pod is kept after the traffic: the gate.
pub const RETENTION: &str = "autoscaling.knative.dev/scale-to-zero-pod-retention-period";
/// The longest that Serving's webhook allows.
pub const HOLD: &str = "1h";
/// On a held Revision: what the user wrote as its retention; empty if nothing.
///
/// It, and what follows, bear the autoscaler's prefix because Serving copies every other annotation of a Revision
/// into the template of its Pods (meta.go, podAnnotations): to write one would roll them.
pub const HELD: &str = "autoscaling.knative.dev/pilotlight-retention-before";
/// The highest working set that one of its standard Pods was seen with, in bytes.
pub const MEMORY_SEEN: &str = "autoscaling.knative.dev/pilotlight-memory-seen";
/// The limit under which one of its reserves was killed for want of memory, in bytes.
pub const MEMORY_KILLED_AT: &str = "autoscaling.knative.dev/pilotlight-memory-killed-at";

/// Asks for a reserve: `enabled` or `disabled`. On a Service's template, or on a Namespace as its default; on a plain
/// Deployment.
pub const ASK: &str = "pilotlight.dev/reserve";
/// Whether a tag without a share of the traffic counts: `enabled` or `disabled`.
pub const ASK_TAGS: &str = "pilotlight.dev/reserve-tags";
/// Types (t3.micro) or sizes (1-2Gi: vCPUs and memory), in order of preference.
pub const ASK_TYPES: &str = "pilotlight.dev/reserve-types";

/// As Alibaba's reserve instance is asked for.
pub const ALI_ASK: &str = "knative.aliyun.com/reserve-instance";
pub const ALI_TYPE: &str = "knative.aliyun.com/reserve-instance-type";
pub const ALI_SPECS: &str = "knative.aliyun.com/reserve-instance-eci-use-specs";
pub const ALI_REPLICAS: &str = "knative.aliyun.com/reserve-instance-replicas";

/// On a reserve Pod: the UID of its Revision or Deployment. Reserves are found by it.
pub const RESERVE_OF: &str = "pilotlight.dev/reserve-of";
/// On the reserve of a plain Deployment, while it has its template's labels, and so its Services' requests.
pub const ATTACHED: &str = "pilotlight.dev/reserve-attached";
/// On a reserve Pod: the hash of what it was made of.
pub const BUILD: &str = "pilotlight.dev/reserve-build";
/// On a reserve Pod: when it was last attached or detached.
pub const CHANGED: &str = "pilotlight.dev/reserve-attachment-changed";
/// On a reserve Pod: under which limit one before it was killed for want of memory.
pub const KILLED_AT: &str = "pilotlight.dev/reserve-memory-killed-at";
/// Which class of the cost policy buys for a Pod.
pub const USE_CLASS: &str = "pilotlight.dev/use-class";
/// The condition on a Revision or a plain Deployment that says where its reserve stands.
pub const CONDITION: &str = "pilotlight.dev/ReserveReady";

pub const QUEUE_PROXY: &str = "queue-proxy";
