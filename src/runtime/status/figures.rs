//! What the provider counts since its start, of its metrics.

use super::samples::Sample;
use crate::model::HourlyPrice;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// All that are paid for, also those without a Pod.
    pub instances: Vec<Instances>,
    pub costs: Vec<Cost>,
    pub launches: Launches,
    /// From a Pod's creation to an instance of its own.
    pub pod_bound_seconds: Option<Quantiles>,
    /// From a Pod's creation to Running.
    pub pod_start_seconds: Option<Quantiles>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instances {
    pub class: String,
    pub purchase: String,
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    /// booting, ready (it waits for a Pod), bound, ending.
    pub state: String,
    pub count: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Empty for instances without a Pod.
    pub namespace: String,
    pub class: String,
    pub hourly: HourlyPrice,
    pub cost_micros: u64,
    /// Against the same types on demand.
    pub saved_micros: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Launches {
    pub calls: u64,
    pub instances: u64,
    /// By the cloud's code.
    pub failures: BTreeMap<String, u64>,
}

/// As Prometheus' `histogram_quantile` estimates them.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quantiles {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
}

impl Figures {
    pub fn of(samples: &[Sample]) -> Self {
        let named = |name: &'static str| samples.iter().filter(move |sample| sample.name == name);
        let single = |name| named(name).map(|sample| whole(sample.value)).sum();
        let mut instances: Vec<Instances> = named("pilotlight_instances").map(Instances::of).collect();
        instances.sort_unstable();
        let mut costs: BTreeMap<(String, String), Cost> = BTreeMap::new();
        for sample in named("pilotlight_hourly_cost_dollars") {
            Cost::of(&mut costs, sample).hourly = HourlyPrice(micros(sample.value));
        }
        for sample in named("pilotlight_cost_dollars_total") {
            Cost::of(&mut costs, sample).cost_micros = micros(sample.value);
        }
        for sample in named("pilotlight_saved_dollars_total") {
            Cost::of(&mut costs, sample).saved_micros = micros(sample.value);
        }
        let failures =
            named("pilotlight_launch_failures_total").map(|sample| (label(sample, "code"), whole(sample.value)));
        Self {
            instances,
            costs: costs.into_values().collect(),
            launches: Launches {
                calls: single("pilotlight_launch_calls_total"),
                instances: single("pilotlight_instances_asked_total"),
                failures: failures.collect(),
            },
            pod_bound_seconds: Quantiles::of(named("pilotlight_pod_bound_seconds_bucket")),
            pod_start_seconds: Quantiles::of(named("pilotlight_pod_start_seconds_bucket")),
        }
    }
}

impl Instances {
    fn of(sample: &Sample) -> Self {
        Self {
            class: label(sample, "class"),
            purchase: label(sample, "purchase"),
            instance_type: label(sample, "type"),
            zone: label(sample, "zone"),
            state: label(sample, "state"),
            count: whole(sample.value),
        }
    }
}

impl Cost {
    fn of<'a>(costs: &'a mut BTreeMap<(String, String), Self>, sample: &Sample) -> &'a mut Self {
        let (namespace, class) = (label(sample, "namespace"), label(sample, "class"));
        costs.entry((namespace.clone(), class.clone())).or_insert_with(|| Self {
            namespace,
            class,
            hourly: HourlyPrice(0),
            cost_micros: 0,
            saved_micros: 0,
        })
    }
}

impl Quantiles {
    /// None before anything was observed.
    fn of<'a>(buckets: impl Iterator<Item = &'a Sample>) -> Option<Self> {
        // Each with all that is below it; `+Inf` is read as infinity.
        let bound = |sample: &Sample| sample.labels.get("le")?.parse::<f64>().ok();
        let mut buckets: Vec<(f64, f64)> = buckets.filter_map(|sample| Some((bound(sample)?, sample.value))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        Some(Self { count: whole(count), p50: quantile(&buckets, 0.5 * count), p99: quantile(&buckets, 0.99 * count) })
    }
}

/// The value below which there are `rank`: between a bucket's bounds by the straight line, and above the last finite
/// bound that bound.
fn quantile(buckets: &[(f64, f64)], rank: f64) -> f64 {
    let (mut low, mut below) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank && bound.is_finite() && count > below {
            return low + (bound - low) * (rank - below) / (count - below);
        }
        if bound.is_finite() {
            (low, below) = (bound, count);
        }
    }
    low
}

fn label(sample: &Sample, name: &str) -> String {
    sample.labels.get(name).cloned().unwrap_or_default()
}

/// A metric's value is a float; negative ones and those beyond the range are not any of these.
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

fn micros(dollars: f64) -> u64 {
    whole(dollars * 1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::super::samples::parse;
    use super::*;
    use crate::telemetry::{self, Metrics};
    use jiff::SignedDuration;
    use std::time::Duration;

    fn held(namespace: &str, class: &str, state: &'static str, hourly: u64, on_demand: u64) -> telemetry::Cost {
        telemetry::Cost {
            namespace: namespace.to_owned(),
            class: class.to_owned(),
            purchase: "spot",
            instance_type: "c6i.large".to_owned(),
            zone: "a".to_owned(),
            state,
            hourly: HourlyPrice(hourly),
            on_demand: HourlyPrice(on_demand),
        }
    }

    fn figures(metrics: &Metrics) -> Figures {
        Figures::of(&parse(&metrics.text()).unwrap())
    }

    #[test]
    fn what_is_counted_is_what_is_shown() {
        let metrics = Metrics::default();
        let all = [
            held("shop", "web", "bound", 20_000, 80_000),
            held("shop", "web", "bound", 30_000, 80_000),
            held("", "default", "ready", 10_400, 10_400),
        ];
        metrics.money(&all, Duration::from_secs(1800));
        metrics.launch(2);
        metrics.launch(1);
        metrics.launch_failed("InsufficientInstanceCapacity");
        let figures = figures(&metrics);
        let instances: Vec<(&str, &str, u64)> =
            figures.instances.iter().map(|i| (i.class.as_str(), i.state.as_str(), i.count)).collect();
        assert_eq!(instances, [("default", "ready", 1), ("web", "bound", 2)]);
        let cost = |namespace: &str, class: &str, hourly, cost_micros, saved_micros| Cost {
            namespace: namespace.to_owned(),
            class: class.to_owned(),
            hourly: HourlyPrice(hourly),
            cost_micros,
            saved_micros,
        };
        let expected = [cost("", "default", 10_400, 5_200, 0), cost("shop", "web", 50_000, 25_000, 55_000)];
        assert_eq!(figures.costs, expected);
        let failures = [("InsufficientInstanceCapacity".to_owned(), 1)].into();
        assert_eq!(figures.launches, Launches { calls: 2, instances: 3, failures });
    }

    #[test]
    fn what_is_gone_still_has_its_sums() {
        let metrics = Metrics::default();
        metrics.money(&[held("shop", "web", "bound", 20_000, 80_000)], Duration::from_secs(3600));
        metrics.money(&[], Duration::from_secs(3600));
        let figures = figures(&metrics);
        assert!(figures.instances.is_empty());
        let [cost] = &figures.costs[..] else { panic!("one payer") };
        assert_eq!((cost.hourly, cost.cost_micros, cost.saved_micros), (HourlyPrice(0), 20_000, 60_000));
    }

    #[test]
    fn quantiles_are_those_of_the_buckets() {
        let metrics = Metrics::default();
        assert_eq!(figures(&metrics).pod_start_seconds, None);
        (0..99).for_each(|_| metrics.started(SignedDuration::from_millis(1500)));
        metrics.started(SignedDuration::from_secs(6000));
        // Half of a hundred is in the bucket from 1 to 2 s, at 50 of its 99; the 99th at its end.
        let found = figures(&metrics).pod_start_seconds.unwrap();
        assert_eq!(found.count, 100);
        assert!((found.p50 - (1.0 + 50.0 / 99.0)).abs() < 1e-9, "{found:?}");
        assert!((found.p99 - 2.0).abs() < 1e-9, "{found:?}");
        // All above the last bound: it is all that is known.
        let metrics = Metrics::default();
        metrics.bound(SignedDuration::from_secs(6000));
        let found = figures(&metrics).pod_bound_seconds;
        assert_eq!(found, Some(Quantiles { count: 1, p50: 600.0, p99: 600.0 }));
    }
}
