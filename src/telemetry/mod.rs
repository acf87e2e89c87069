//! Logs by tracing, metrics in Prometheus text.
//!
//! Logs: human on a terminal, JSON with `--log-format json`; the level by PILOTLIGHT_LOG (as
//! tracing-subscriber's EnvFilter reads it). Metrics: [`Metrics`] is cheap to clone; [`Metrics::text`]
//! renders all of it in the OpenMetrics text format.

mod money;

pub use money::Cost;

use crate::model::{Counts, ObjectName};
use money::Money;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::{Arc, atomic::AtomicU64};
use tracing_subscriber::{EnvFilter, prelude::*};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

/// What is logged unless PILOTLIGHT_LOG says otherwise. AWS's libraries tell at each look for credentials where they looked;
/// what came of it is in our own words.
const USUAL: &str = "info,aws_config=warn,aws_runtime=error";

/// Starts logging to standard error. Once a process.
pub fn init_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env("PILOTLIGHT_LOG").unwrap_or_else(|_| EnvFilter::new(USUAL));
    let registry = tracing_subscriber::registry().with(filter);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Human => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failure {
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refusal {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reloading {
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refreshing {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CloudEvent {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OddEntry {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PriceSource {
    kind: &'static str,
    source: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReserveState {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReserveCredits {
    namespace: String,
    pod: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handover {
    cause: String,
    outcome: String,
}

/// Everything that is counted.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pods: Gauge,
    pods_waiting: Gauge,
    instances_bound: Gauge,
    instances_free: Gauge,
    launches: Counter,
    launched: Counter,
    launch_failures: Family<Failure, Counter>,
    pod_start: Histogram,
    leader: Gauge,
    pod_bound: Histogram,
    money: Money,
    reloads: Family<Reloading, Counter>,
    refreshes: Family<Refreshing, Counter>,
    refresh_dropped: Family<OddEntry, Counter>,
    prices_of: Family<PriceSource, Gauge>,
    registrations: Counter,
    registrations_refused: Family<Refusal, Counter>,
    connections_refused: Family<Refusal, Counter>,
    cloud_events: Family<CloudEvent, Counter>,
    reserves: Family<ReserveState, Gauge>,
    reserve_credits: Family<ReserveCredits, Gauge<f64, AtomicU64>>,
    handovers: Family<Handover, Counter>,
    handover_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pilotlight");
        let pods = Gauge::default();
        registry.register("pods", "Pods bound to our nodes", pods.clone());
        let pods_waiting = Gauge::default();
        registry.register("pods_waiting", "Pods that want an instance and have none yet", pods_waiting.clone());
        let instances_bound = Gauge::default();
        registry.register("instances_bound", "Instances that a Pod is bound to", instances_bound.clone());
        let instances_free = Gauge::default();
        registry.register("instances_free", "Instances without a Pod: booting or on standby", instances_free.clone());
        let launches = Counter::default();
        registry.register("launch_calls", "Launch calls to the cloud", launches.clone());
        let launched = Counter::default();
        registry.register("instances_asked", "Instances asked of the cloud", launched.clone());
        let launch_failures = Family::<Failure, Counter>::default();
        registry.register(
            "launch_failures",
            "Launches that failed, and pools that were short, by the cloud's code",
            launch_failures.clone(),
        );
        // From a warm start (tenths of a second) to a cloud's boot (tens of seconds).
        let seconds = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
        let pod_start = Histogram::new(seconds);
        registry.register("pod_start_seconds", "From a Pod's creation to Running, as first seen", pod_start.clone());
        let leader = Gauge::default();
        registry.register("leader", "1 if this replica leads", leader.clone());
        let pod_bound = Histogram::new(seconds);
        registry.register("pod_bound_seconds", "From a Pod's creation to an instance of its own", pod_bound.clone());
        let money = Money::new(&mut registry);
        let reloads = Family::<Reloading, Counter>::default();
        // From the start: of a series that begins with its first count nothing increases.
        for result in ["taken-up", "refused"] {
            drop(reloads.get_or_create(&Reloading { result: result.to_owned() }));
        }
        registry.register(
            "config_reloads",
            "Edits of the configuration, by whether they were taken up",
            reloads.clone(),
        );
        let refreshes = Family::<Refreshing, Counter>::default();
        let help = "Questions to the cloud about what it sells, by kind and by how they were answered";
        registry.register("refreshes", help, refreshes.clone());
        let refresh_dropped = Family::<OddEntry, Counter>::default();
        let help = "Entries of such answers that were not taken, by why";
        registry.register("refresh_entries_dropped", help, refresh_dropped.clone());
        let prices_of = Family::<PriceSource, Gauge>::default();
        let help = "Of when the prices in use are, in seconds since 1970, and where they are from";
        registry.register("prices_timestamp_seconds", help, prices_of.clone());
        let registrations = Counter::default();
        registry.register("registrations", "Certificates given to instances for a proof", registrations.clone());
        let registrations_refused = Family::<Refusal, Counter>::default();
        registry.register(
            "registrations_refused",
            "Registrations of instances that were not accepted, by why",
            registrations_refused.clone(),
        );
        let connections_refused = Family::<Refusal, Counter>::default();
        registry.register(
            "agent_connections_refused",
            "Connections to the agents' port that were closed at once, by which limit",
            connections_refused.clone(),
        );
        let cloud_events = Family::<CloudEvent, Counter>::default();
        let help = "Messages of the cloud's queue, by what they announce";
        registry.register("cloud_events", help, cloud_events.clone());
        let reserves = Family::<ReserveState, Gauge>::default();
        registry.register("reserve_revisions", "Revisions by where their reserve stands", reserves.clone());
        let reserve_credits = Family::<ReserveCredits, Gauge<f64, AtomicU64>>::default();
        registry.register(
            "reserve_cpu_credits",
            "CPU credits of reserves on burstable instances, modelled of what their containers used by the catalog's \
             baseline and EC2's rules; the cloud's own figures may differ",
            reserve_credits.clone(),
        );
        let handovers = Family::<Handover, Counter>::default();
        registry.register(
            "handovers",
            "Pods that went from one instance to another, by cause and by how they came to the switch",
            handovers.clone(),
        );
        let handover_seconds = Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0]);
        registry.register(
            "handover_seconds",
            "From the wish for a second instance to the switch",
            handover_seconds.clone(),
        );
        Self {
            registry: Arc::new(registry),
            leader,
            pods,
            pods_waiting,
            instances_bound,
            instances_free,
            launches,
            launched,
            launch_failures,
            pod_start,
            pod_bound,
            money,
            reloads,
            refreshes,
            refresh_dropped,
            prices_of,
            registrations,
            registrations_refused,
            connections_refused,
            cloud_events,
            reserves,
            reserve_credits,
            handovers,
            handover_seconds,
        }
    }
}

impl Metrics {
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub fn set_counts(&self, counts: &Counts) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.pods.set(number(counts.pods));
        self.pods_waiting.set(number(counts.waiting));
        self.instances_bound.set(number(counts.bound));
        self.instances_free.set(number(counts.free));
    }

    pub fn launch(&self, instances: u32) {
        self.launches.inc();
        self.launched.inc_by(u64::from(instances));
    }

    pub fn launch_failed(&self, code: &str) {
        self.launch_failures.get_or_create(&Failure { code: code.to_owned() }).inc();
    }

    /// A Pod is Running, this long after its creation.
    pub fn started(&self, after: jiff::SignedDuration) {
        self.pod_start.observe(after.as_secs_f64());
    }

    /// A Pod got an instance, this long after its creation.
    pub fn bound(&self, after: jiff::SignedDuration) {
        self.pod_bound.observe(after.as_secs_f64());
    }

    /// What is paid for now, and was for `elapsed`.
    pub fn money(&self, costs: &[Cost], elapsed: std::time::Duration) {
        self.money.observe(costs, elapsed);
    }

    /// An instance has proved itself.
    pub fn registered(&self) {
        self.registrations.inc();
    }

    /// `reason` is one of a few fixed words.
    pub fn registration_refused(&self, reason: &'static str) {
        self.registrations_refused.get_or_create(&Refusal { reason }).inc();
    }

    /// `limit` is one of a few fixed words.
    pub fn connection_refused(&self, limit: &'static str) {
        self.connections_refused.get_or_create(&Refusal { reason: limit }).inc();
    }

    /// `kind` is one of a few fixed words.
    pub fn cloud_event(&self, kind: &'static str) {
        self.cloud_events.get_or_create(&CloudEvent { kind }).inc();
    }

    pub fn reloaded(&self, well: bool) {
        self.reloads.get_or_create(&Reloading { result: if well { "taken-up" } else { "refused" }.to_owned() }).inc();
    }

    /// All three are of a few fixed words.
    pub fn refreshed(&self, kind: &'static str, result: &'static str) {
        self.refreshes.get_or_create(&Refreshing { kind, result }).inc();
    }

    pub fn refresh_dropped(&self, kind: &'static str, reason: &'static str) {
        self.refresh_dropped.get_or_create(&OddEntry { kind, reason }).inc();
    }

    /// Where the prices of this kind are from, and of when. None: nobody says.
    pub fn prices_of(&self, kind: &'static str, found: Option<(String, jiff::Timestamp)>) {
        for source in ["file", "EC2"] {
            let now = found.as_ref().filter(|(from, _)| from == source);
            let labels = PriceSource { kind, source: source.to_owned() };
            match now {
                Some((_, at)) => {
                    self.prices_of.get_or_create(&labels).set(at.as_second());
                }
                None => {
                    self.prices_of.remove(&labels);
                }
            }
        }
    }

    /// How many Revisions are in each state of the reserve's machine.
    pub fn reserves(&self, states: &std::collections::BTreeMap<&'static str, i64>) {
        for (state, count) in states {
            self.reserves.get_or_create(&ReserveState { state: (*state).to_owned() }).set(*count);
        }
        if states.is_empty() {
            self.reserves.clear();
        }
    }

    /// The modelled CPU credits of all reserves that have any.
    pub fn reserve_credits(&self, accounts: impl Iterator<Item = (ObjectName, [(&'static str, f64); 3])>) {
        self.reserve_credits.clear();
        for (name, kinds) in accounts {
            for (kind, credits) in kinds {
                let labels = ReserveCredits { namespace: name.namespace.clone(), pod: name.name.clone(), kind };
                self.reserve_credits.get_or_create(&labels).set(credits);
            }
        }
    }

    /// A Pod's handover came to its switch, or failed.
    pub fn handed_over(&self, cause: &str, outcome: &str, took: jiff::SignedDuration) {
        let labels = Handover { cause: cause.to_owned(), outcome: outcome.to_owned() };
        self.handovers.get_or_create(&labels).inc();
        if outcome != "failed" {
            self.handover_seconds.observe(took.as_secs_f64());
        }
    }

    /// All of it, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, time::Duration};

    /// The metrics' names in a text: of samples, or of expressions.
    fn names(text: &str) -> BTreeSet<String> {
        let inside = |c: char| c.is_ascii_lowercase() || c == '_';
        text.match_indices("pilotlight_")
            .map(|(at, _)| &text[at..])
            .map(|rest| rest[..rest.find(|c| !inside(c)).unwrap_or(rest.len())].to_owned())
            .collect()
    }

    #[test]
    fn every_metric_that_an_alert_asks_for_exists() {
        let metrics = Metrics::default();
        metrics.launch_failed("InsufficientInstanceCapacity");
        metrics.reloaded(false);
        metrics.started(jiff::SignedDuration::from_secs(1));
        let cost = Cost {
            namespace: "default".to_owned(),
            class: "web".to_owned(),
            purchase: "spot",
            instance_type: "c6i.large".to_owned(),
            zone: "a".to_owned(),
            state: "bound",
            hourly: crate::model::HourlyPrice(1),
            on_demand: crate::model::HourlyPrice(2),
        };
        metrics.money(&[cost], Duration::from_secs(1));
        let there = names(&metrics.text());
        let alerts = include_str!("../../manifests/components/monitoring/alerts.yaml");
        let read: serde_json::Value = serde_saphyr::from_str(alerts).expect("YAML");
        let groups = read["spec"]["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let asked: BTreeSet<String> = rules.filter_map(|rule| rule["expr"].as_str()).flat_map(names).collect();
        assert!(asked.len() >= 6, "{asked:?}");
        let missing: Vec<&String> = asked.difference(&there).collect();
        assert!(missing.is_empty(), "no such metrics: {missing:?} among {there:?}");
        assert!(alerts.contains("result=\"refused\"") && metrics.text().contains("result=\"refused\""));
    }
}
