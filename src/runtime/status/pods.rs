//! A Pod's row, of its own annotations and conditions.

use crate::decide::status::INSTANCE_READY;
use crate::model::HourlyPrice;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub namespace: String,
    pub pod: String,
    pub phase: String,
    /// None: it has been let go.
    pub instance: Option<String>,
    pub instance_type: String,
    pub purchase: String,
    pub class: String,
    pub zone: String,
    pub hourly_price: HourlyPrice,
    pub seconds: u64,
    /// Micro-dollars since the instance was bound.
    pub cost_micros: u64,
}

/// None for a Pod that no instance has backed.
pub fn row(pod: &Pod, now: Timestamp) -> Option<Row> {
    let get = |key: &str| pod.annotations().get(&format!("pilotlight.dev/{key}")).cloned();
    let status = pod.status.as_ref()?;
    let bound = status.conditions.iter().flatten().find(|c| c.type_ == INSTANCE_READY)?;
    let backed = bound.status == "True";
    let since = bound.last_transition_time.as_ref().map_or(now, |t| t.0);
    let seconds = u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
    let seconds = if backed { seconds } else { 0 };
    let hourly_price: HourlyPrice = get("hourly-price")?.parse().ok()?;
    Some(Row {
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
        phase: status.phase.clone().unwrap_or_default(),
        instance: if backed { Some(get("instance-id")?) } else { None },
        instance_type: get("instance-type")?,
        purchase: get("purchase")?,
        class: get("class").unwrap_or_default(),
        zone: get("zone")?,
        hourly_price,
        seconds,
        cost_micros: hourly_price.cost_of_seconds(seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(ready: &str, annotations: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "annotations": annotations },
            "status": {
                "phase": "Running",
                "conditions": [{
                    "type": INSTANCE_READY, "status": ready, "lastTransitionTime": "2026-11-27T10:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    fn of(pod: &Pod) -> Option<Row> {
        row(pod, "2026-11-27T10:30:00Z".parse().unwrap())
    }

    fn bought() -> Value {
        json!({
            "pilotlight.dev/instance-id": "i-1", "pilotlight.dev/instance-type": "c6i.large",
            "pilotlight.dev/purchase": "spot", "pilotlight.dev/zone": "a", "pilotlight.dev/hourly-price": "0.03",
        })
    }

    #[test]
    fn a_pod_costs_what_its_instance_costs_since_it_was_bound() {
        let row = of(&pod("True", bought())).unwrap();
        assert_eq!((row.instance.as_deref(), row.seconds, row.cost_micros), (Some("i-1"), 1800, 15_000));
        let released = of(&pod("False", bought())).unwrap();
        assert_eq!((released.instance, released.seconds, released.cost_micros), (None, 0, 0));
    }

    #[test]
    fn a_pod_that_nothing_was_bought_for_has_no_row() {
        assert!(of(&pod("False", json!({}))).is_none());
        assert!(of(&Pod::default()).is_none());
    }
}
