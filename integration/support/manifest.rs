//! Manifests in few words.

use super::BUSYBOX;
use serde_json::{Value, json};

/// Lays `over` onto `base`: objects merge, everything else is replaced.
pub fn with(mut base: Value, over: Value) -> Value {
    merge(&mut base, over);
    base
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A container named `main` that runs a shell script.
pub fn shell(script: &str) -> Value {
    json!({ "name": "main", "image": BUSYBOX, "command": ["sh", "-c", script] })
}

/// Does nothing, for ever.
pub fn idle() -> Value {
    shell("exec sleep 1000000")
}

/// The spec of a Pod of these containers on a virtual node.
pub fn spec(containers: &[Value]) -> Value {
    json!({
        "nodeSelector": { "type": "virtual-kubelet" },
        "tolerations": [{ "key": "virtual-kubelet.io/provider", "value": "pilotlight", "effect": "NoSchedule" }],
        "terminationGracePeriodSeconds": 1,
        "containers": containers,
    })
}

pub fn pod(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec })
}

/// A Pod of one container that runs a script once, and is not restarted.
pub fn once(name: &str, script: &str) -> Value {
    pod(name, with(spec(&[shell(script)]), json!({ "restartPolicy": "Never" })))
}

/// A Pod template with the label that [`selector`] selects.
pub fn template(app: &str, spec: Value) -> Value {
    json!({ "metadata": { "labels": { "app": app } }, "spec": spec })
}

pub fn selector(app: &str) -> Value {
    json!({ "matchLabels": { "app": app } })
}

/// A ClusterIP Service of port 80 to `port` of the Pods with this app label.
pub fn service(app: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": app },
        "spec": { "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": port }] },
    })
}
