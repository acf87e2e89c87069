//! What instances cost, in dollars: rates as gauges, sums as counters since this process started.

use crate::model::HourlyPrice;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

/// An instance's share in the figures.
#[derive(Clone, Debug)]
pub struct Cost {
    pub namespace: String,
    pub class: String,
    pub purchase: &'static str,
    pub instance_type: String,
    pub zone: String,
    pub state: &'static str,
    pub hourly: HourlyPrice,
    pub on_demand: HourlyPrice,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Pool {
    class: String,
    purchase: String,
    r#type: String,
    zone: String,
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Payer {
    namespace: String,
    class: String,
}

#[derive(Clone)]
pub(super) struct Money {
    instances: Family<Pool, Gauge<i64, AtomicI64>>,
    hourly: Family<Payer, Gauge<f64, AtomicU64>>,
    cost: Family<Payer, Counter<f64, AtomicU64>>,
    saved: Family<Payer, Counter<f64, AtomicU64>>,
}

impl Money {
    pub fn new(registry: &mut Registry) -> Self {
        let money = Self {
            instances: Family::default(),
            hourly: Family::default(),
            cost: Family::default(),
            saved: Family::default(),
        };
        registry.register("instances", "Instances that are paid for", money.instances.clone());
        registry.register("hourly_cost_dollars", "What they cost an hour", money.hourly.clone());
        registry.register("cost_dollars", "What they have cost since this process started", money.cost.clone());
        let help = "What they would have cost more on demand, of the same types, since this process started";
        registry.register("saved_dollars", help, money.saved.clone());
        money
    }

    /// As it is now, and as it was for `elapsed`. What is no more stands at zero.
    pub fn observe(&self, costs: &[Cost], elapsed: Duration) {
        let mut pools: BTreeMap<Pool, i64> = BTreeMap::new();
        let mut payers: BTreeMap<Payer, (u64, u64)> = BTreeMap::new();
        for cost in costs {
            let pool = Pool {
                class: cost.class.clone(),
                purchase: cost.purchase.to_owned(),
                r#type: cost.instance_type.clone(),
                zone: cost.zone.clone(),
                state: cost.state.to_owned(),
            };
            *pools.entry(pool).or_default() += 1;
            let payer = Payer { namespace: cost.namespace.clone(), class: cost.class.clone() };
            let (hourly, on_demand) = payers.entry(payer).or_default();
            *hourly = hourly.saturating_add(cost.hourly.0);
            *on_demand = on_demand.saturating_add(cost.on_demand.0.max(cost.hourly.0));
        }
        // A metric's value is a float; prices and what is decided by them never are.
        let dollars = |micros: u64| micros as f64 / 1_000_000.0;
        let hours = elapsed.as_secs_f64() / 3600.0;
        self.instances.clear();
        for (pool, count) in pools {
            self.instances.get_or_create(&pool).set(count);
        }
        self.hourly.clear();
        for (payer, (hourly, on_demand)) in payers {
            self.hourly.get_or_create(&payer).set(dollars(hourly));
            self.cost.get_or_create(&payer).inc_by(dollars(hourly) * hours);
            self.saved.get_or_create(&payer).inc_by(dollars(on_demand - hourly) * hours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn cost(class: &str, hourly: u64, on_demand: u64) -> Cost {
        Cost {
            namespace: "default".to_owned(),
            class: class.to_owned(),
            purchase: "spot",
            instance_type: "c6i.large".to_owned(),
            zone: "a".to_owned(),
            state: "bound",
            hourly: HourlyPrice(hourly),
            on_demand: HourlyPrice(on_demand),
        }
    }

    #[test]
    fn costs_add_up_by_the_hour_and_what_is_gone_leaves_the_gauges_but_not_the_sums() {
        let metrics = Metrics::default();
        let half = Duration::from_secs(1800);
        metrics.money(&[cost("web", 20_000, 80_000), cost("web", 20_000, 80_000)], half);
        let text = metrics.text();
        let pool = "class=\"web\",purchase=\"spot\",type=\"c6i.large\",zone=\"a\",state=\"bound\"";
        assert!(text.contains(&format!("pilotlight_instances{{{pool}}} 2")), "{text}");
        assert!(text.contains("pilotlight_hourly_cost_dollars{namespace=\"default\",class=\"web\"} 0.04"), "{text}");
        assert!(text.contains("pilotlight_cost_dollars_total{namespace=\"default\",class=\"web\"} 0.02"), "{text}");
        assert!(text.contains("pilotlight_saved_dollars_total{namespace=\"default\",class=\"web\"} 0.06"), "{text}");
        metrics.money(&[], half);
        let text = metrics.text();
        assert!(!text.contains("pilotlight_instances{") && text.contains("cost_dollars_total{namespace"), "{text}");
    }
}
