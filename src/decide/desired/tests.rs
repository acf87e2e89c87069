//! Behaviour against what kubelet does, and properties over generated Pods.
