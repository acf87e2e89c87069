//! Labels and annotations on the runtime's objects: a kubelet's own keys, so that tools such as crictl
//! read them well (k8s.io/kubelet/pkg/types/labels.go, pkg/kubelet/kuberuntime/labels.go), and so that
//! an agent that comes back finds everything.

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Ours: the back-off in seconds that follows this attempt's end (decide::backoff).
pub const BACKOFF_SECONDS: &str = "pilotlight.dev/backoff-seconds";
