//! What the node's Pods use, as /stats/summary and the metrics endpoints tell it. No I/O.
//!
//! Samples come from the agents; [`Usage`] remembers the last of each container, for two reasons: a rate
//! needs two samples, and the node's CPU counter must not fall when a Pod goes.

use crate::model::{ContainerStats, ObjectName, PodStats, PodUid};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Mutex, PoisonError},
};

/// A rate is measured over this time at least: the runtime looks at its counters only every some
/// seconds (cAdvisor's housekeeping does so every 10 s).
const RATE_NANOS: u128 = 10_000_000_000;

/// One Pod's sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub name: ObjectName,
    pub uid: PodUid,
    pub stats: PodStats,
}

/// One container now, with what it used a second.
#[derive(Clone, Debug, PartialEq)]
struct Row<'a> {
    stats: &'a ContainerStats,
    nano_cores: u64,
}

/// What is remembered of a container.
#[derive(Clone, Copy)]
struct Seen {
    core_nanos: u64,
    /// Where the present rate was measured from, and the one before it.
    base: (Timestamp, u64),
    nano_cores: u64,
}

#[derive(Default)]
struct State {
    /// By Pod and container; a restarted container starts over, at another time.
    last: HashMap<(PodUid, String, Timestamp), Seen>,
    /// All that was ever seen used.
    node_core_nanos: u64,
}

#[derive(Default)]
pub(super) struct Usage(Mutex<State>);

/// All samples of one scrape.
pub(super) struct Snapshot<'a> {
    at: Timestamp,
    pods: Vec<(&'a Sample, Vec<Row<'a>>)>,
    node_core_nanos: u64,
    /// Pods that could not be asked.
    failed: usize,
}

impl Usage {
    /// Takes in a scrape. With none failed every Pod is in it, so what is missing is gone.
    pub fn take<'a>(&self, at: Timestamp, samples: &'a [Sample], failed: usize) -> Snapshot<'a> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashMap::new();
        let mut pods = Vec::new();
        for sample in samples {
            let mut rows = Vec::new();
            for stats in &sample.stats.containers {
                let key = (sample.uid.clone(), stats.name.clone(), stats.started_at);
                let used = cpu(stats);
                let known = state.last.get(&key).copied();
                let before = known.map_or(0, |known| known.core_nanos);
                state.node_core_nanos += used.saturating_sub(before);
                let now = observe(known, (stats.started_at, 0), (sample.stats.at, used));
                rows.push(Row { stats, nano_cores: now.nano_cores });
                seen.insert(key, now);
            }
            pods.push((sample, rows));
        }
        if failed == 0 {
            state.last = seen;
        } else {
            // Some were not asked: what is known of them must not be counted a second time.
            state.last.extend(seen);
        }
        Snapshot { at, pods, node_core_nanos: state.node_core_nanos, failed }
    }
}

/// At first the average since the start; then anew whenever enough time has gone by.
fn observe(known: Option<Seen>, start: (Timestamp, u64), now: (Timestamp, u64)) -> Seen {
    let base = known.map_or(start, |known| known.base);
    let elapsed = u128::try_from(now.0.duration_since(base.0).as_nanos()).unwrap_or(0);
    match known {
        Some(known) if elapsed < RATE_NANOS => Seen { core_nanos: now.1, ..known },
        _ => {
            let rate = u128::from(now.1.saturating_sub(base.1)) * 1_000_000_000 / elapsed.max(1);
            Seen { core_nanos: now.1, base: now, nano_cores: u64::try_from(rate).unwrap_or(u64::MAX) }
        }
    }
}

/// Never 0: metrics-server drops a whole Pod for a container that says so, and what runs has used some.
fn cpu(stats: &ContainerStats) -> u64 {
    stats.cpu_usage_core_nanos.max(1)
}

fn memory(stats: &ContainerStats) -> u64 {
    stats.memory_working_set_bytes.max(1)
}

impl Snapshot<'_> {
    /// k8s.io/kubelet/pkg/apis/stats/v1alpha1, Summary.
    pub fn summary(&self, node: &str) -> Value {
        let pods: Vec<Value> = self.pods.iter().map(|(sample, rows)| pod_summary(sample, rows)).collect();
        let time = self.at.to_string();
        let all = || self.pods.iter().flat_map(|(_, rows)| rows);
        json!({
            "node": {
                "nodeName": node,
                "cpu": {
                    "time": time,
                    "usageNanoCores": all().map(|row| row.nano_cores).sum::<u64>(),
                    "usageCoreNanoSeconds": self.node_core_nanos,
                },
                "memory": {
                    "time": time,
                    "usageBytes": all().map(|row| row.stats.memory_usage_bytes).sum::<u64>(),
                    "workingSetBytes": all().map(|row| memory(row.stats)).sum::<u64>(),
                },
            },
            "pods": pods,
        })
    }

    /// /metrics/resource (pkg/kubelet/metrics/collectors/resource_metrics.go).
    pub fn resource(&self) -> String {
        let mut text = Text::default();
        text.family(
            "container_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            "counter",
        );
        self.each(|sample, row| text.line(&container(sample, row), seconds(cpu(row.stats)), Some(sample.stats.at)));
        text.family(
            "container_memory_working_set_bytes",
            "[STABLE] Current working set of the container in bytes",
            "gauge",
        );
        self.each(|sample, row| text.line(&container(sample, row), memory(row.stats) as f64, Some(sample.stats.at)));
        text.family(
            "container_start_time_seconds",
            "[STABLE] Start time of the container since unix epoch in seconds",
            "gauge",
        );
        self.each(|sample, row| text.line(&container(sample, row), started(row), None));
        text.family(
            "node_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            "counter",
        );
        text.line("", seconds(self.node_core_nanos), Some(self.at));
        text.family("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", "gauge");
        let memory_sum: u64 = self.pods.iter().flat_map(|(_, rows)| rows).map(|row| memory(row.stats)).sum();
        text.line("", memory_sum as f64, Some(self.at));
        text.family(
            "pod_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            "counter",
        );
        self.each_pod(|sample, rows| {
            let used = rows.iter().map(|row| cpu(row.stats)).sum();
            text.line(&pod(sample), seconds(used), Some(sample.stats.at));
        });
        text.family("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes", "gauge");
        self.each_pod(|sample, rows| {
            let used: u64 = rows.iter().map(|row| memory(row.stats)).sum();
            text.line(&pod(sample), used as f64, Some(sample.stats.at));
        });
        let failed = f64::from(u8::from(self.failed > 0));
        text.family(
            "resource_scrape_error",
            "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
            "gauge",
        );
        text.line("", failed, None);
        text.family(
            "scrape_error",
            "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise",
            "gauge",
        );
        text.line("", failed, None);
        text.text
    }

    /// /metrics/cadvisor: those of its series that are known here.
    pub fn cadvisor(&self) -> String {
        let mut text = Text::default();
        text.family("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "counter");
        self.each(|sample, row| text.line(&container(sample, row), seconds(cpu(row.stats)), Some(sample.stats.at)));
        text.family(
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            "gauge",
        );
        self.each(|sample, row| {
            text.line(&container(sample, row), row.stats.memory_usage_bytes as f64, Some(sample.stats.at))
        });
        text.family("container_memory_working_set_bytes", "Current working set in bytes.", "gauge");
        self.each(|sample, row| text.line(&container(sample, row), memory(row.stats) as f64, Some(sample.stats.at)));
        text.family(
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds.",
            "gauge",
        );
        self.each(|sample, row| text.line(&container(sample, row), started(row).floor(), Some(sample.stats.at)));
        text.text
    }

    fn each(&self, mut line: impl FnMut(&Sample, &Row<'_>)) {
        for (sample, rows) in &self.pods {
            rows.iter().for_each(|row| line(sample, row));
        }
    }

    fn each_pod(&self, mut line: impl FnMut(&Sample, &[Row<'_>])) {
        for (sample, rows) in self.pods.iter().filter(|(_, rows)| !rows.is_empty()) {
            line(sample, rows);
        }
    }
}

fn pod_summary(sample: &Sample, rows: &[Row<'_>]) -> Value {
    let time = sample.stats.at.to_string();
    let usage = |nano_cores: u64, core_nanos: u64, bytes: u64, working_set: u64| {
        (
            json!({"time": time, "usageNanoCores": nano_cores, "usageCoreNanoSeconds": core_nanos}),
            json!({"time": time, "usageBytes": bytes, "workingSetBytes": working_set}),
        )
    };
    let containers: Vec<Value> = rows
        .iter()
        .map(|row| {
            let stats = row.stats;
            let (cpu, memory) = usage(row.nano_cores, cpu(stats), stats.memory_usage_bytes, memory(stats));
            json!({"name": stats.name, "startTime": stats.started_at.to_string(), "cpu": cpu, "memory": memory})
        })
        .collect();
    let sum = |of: fn(&Row<'_>) -> u64| rows.iter().map(of).sum::<u64>();
    let (cpu, memory) = usage(
        sum(|row| row.nano_cores),
        sum(|row| cpu(row.stats)),
        sum(|row| row.stats.memory_usage_bytes),
        sum(|row| memory(row.stats)),
    );
    json!({
        "podRef": {"name": sample.name.name, "namespace": sample.name.namespace, "uid": sample.uid.as_str()},
        "startTime": rows.iter().map(|row| row.stats.started_at).min().unwrap_or(sample.stats.at).to_string(),
        "containers": containers,
        "cpu": cpu,
        "memory": memory,
    })
}

/// In this order: virtual-kubelet's suite takes the second label for the Pod's name. Names of
/// Kubernetes objects hold nothing that must be escaped.
fn container(sample: &Sample, row: &Row<'_>) -> String {
    let ObjectName { namespace, name } = &sample.name;
    format!("{{namespace=\"{namespace}\",pod=\"{name}\",container=\"{}\"}}", row.stats.name)
}

fn pod(sample: &Sample) -> String {
    let ObjectName { namespace, name } = &sample.name;
    format!("{{namespace=\"{namespace}\",pod=\"{name}\"}}")
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn started(row: &Row<'_>) -> f64 {
    row.stats.started_at.as_nanosecond() as f64 / 1e9
}

/// Prometheus' text format, by hand: the values carry the time they were taken at, which the metrics
/// library does not write.
#[derive(Default)]
struct Text {
    text: String,
    name: &'static str,
}

impl Text {
    fn family(&mut self, name: &'static str, help: &str, kind: &str) {
        self.name = name;
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, labels: &str, value: f64, at: Option<Timestamp>) {
        let _ = write!(self.text, "{}{labels} {value}", self.name);
        if let Some(at) = at {
            let _ = write!(self.text, " {}", at.as_millisecond());
        }
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn sample(pod: &str, second: i64, cpu_seconds: u64) -> Sample {
        let container = ContainerStats {
            name: "app".into(),
            started_at: at(0),
            cpu_usage_core_nanos: cpu_seconds * 1_000_000_000,
            memory_working_set_bytes: 1000,
            memory_usage_bytes: 2000,
        };
        Sample {
            name: ObjectName::new("ns", pod),
            uid: PodUid::new(format!("uid-{pod}")),
            stats: PodStats { at: at(second), containers: vec![container] },
        }
    }

    #[test]
    fn the_resource_metrics_read_as_the_kubelets() {
        let samples = [sample("p", 10, 5)];
        let text = Usage::default().take(at(10), &samples, 0).resource();
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\",container=\"app\"} 5 1700000010000",
            "container_memory_working_set_bytes{namespace=\"ns\",pod=\"p\",container=\"app\"} 1000 1700000010000",
            "container_start_time_seconds{namespace=\"ns\",pod=\"p\",container=\"app\"} 1700000000",
            "node_cpu_usage_seconds_total 5 1700000010000",
            "node_memory_working_set_bytes 1000 1700000010000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 5 1700000010000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 1000 1700000010000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|got| got == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_running_container_never_uses_nothing() {
        let mut idle = sample("p", 10, 0);
        idle.stats.containers[0].memory_working_set_bytes = 0;
        let samples = [idle];
        let text = Usage::default().take(at(10), &samples, 0).resource();
        let values =
            text.lines().filter(|line| line.contains("container=")).map(|line| line.split(' ').nth(1).unwrap());
        assert!(
            values.clone().count() == 3 && values.clone().all(|value| value.parse::<f64>().unwrap() > 0.0),
            "{text}"
        );
    }

    #[test]
    fn the_nodes_cpu_counter_never_falls_and_counts_nothing_twice() {
        let usage = Usage::default();
        let node = |snapshot: Snapshot<'_>| snapshot.node_core_nanos / 1_000_000_000;
        assert_eq!(node(usage.take(at(10), &[sample("a", 10, 5), sample("b", 10, 1)], 0)), 6);
        // b can't be asked for once.
        assert_eq!(node(usage.take(at(20), &[sample("a", 20, 7)], 1)), 8);
        assert_eq!(node(usage.take(at(30), &[sample("a", 30, 7), sample("b", 30, 2)], 0)), 9);
        // a is gone.
        assert_eq!(node(usage.take(at(40), &[sample("b", 40, 2)], 0)), 9);
    }

    #[test]
    fn the_summary_tells_rates_between_scrapes() {
        let usage = Usage::default();
        let first = [sample("p", 10, 5)];
        let summary = usage.take(at(10), &first, 0).summary("node");
        assert_eq!(summary["pods"][0]["containers"][0]["cpu"]["usageNanoCores"], 500_000_000);
        // Too soon for another.
        let hardly_later = [sample("p", 11, 5)];
        let summary = usage.take(at(11), &hardly_later, 0).summary("node");
        assert_eq!(summary["pods"][0]["cpu"]["usageNanoCores"], 500_000_000);
        let second = [sample("p", 20, 25)];
        let summary = usage.take(at(20), &second, 0).summary("node");
        assert_eq!(summary["pods"][0]["cpu"]["usageNanoCores"], 2_000_000_000u64);
        assert_eq!(summary["node"]["cpu"]["usageCoreNanoSeconds"], 25_000_000_000u64);
        assert_eq!(summary["pods"][0]["podRef"]["uid"], "uid-p");
        assert_eq!(summary["pods"][0]["containers"][0]["startTime"], "2023-11-14T22:13:20Z");
    }
}
