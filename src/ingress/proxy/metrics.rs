//! What is counted of the data plane.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{sync::Arc, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Repetition {
    cause: &'static str,
}

/// Cheap to clone; all clones count together. One label a metric at most: their number doesn't grow with users.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Answer, Counter>,
    seconds: Histogram,
    failures: Family<Failure, Counter>,
    repetitions: Family<Repetition, Counter>,
    pub connections: Gauge,
    pub in_flight: Gauge,
    pub ingresses: Gauge,
    pub tunnels: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pilotlight_ingress");
        let requests = Family::default();
        registry.register("requests", "Requests answered, by status code", requests.clone());
        // From what a proxy adds (fractions of a millisecond) to a cold start (tens of seconds).
        let seconds = Histogram::new([
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ]);
        registry.register("first_byte_seconds", "From a request's head to its response's head", seconds.clone());
        let failures = Family::default();
        registry.register("upstream_failures", "Attempts at an endpoint that failed, by stage", failures.clone());
        let repetitions = Family::default();
        registry.register("repetitions", "Requests that were sent once more, by cause", repetitions.clone());
        let connections = Gauge::default();
        registry.register("connections", "Connections from clients that are open", connections.clone());
        let in_flight = Gauge::default();
        registry.register("in_flight", "Requests that are being answered", in_flight.clone());
        let ingresses = Gauge::default();
        registry.register("ingresses", "Ingresses of this gateway's class", ingresses.clone());
        let tunnels = Gauge::default();
        registry.register("tunnels", "Upgraded connections that are open", tunnels.clone());
        let registry = Arc::new(registry);
        Self { registry, requests, seconds, failures, repetitions, connections, in_flight, ingresses, tunnels }
    }
}

impl Metrics {
    pub fn answered(&self, code: u16, after: Duration) {
        self.requests.get_or_create(&Answer { code }).inc();
        self.seconds.observe(after.as_secs_f64());
    }

    /// `stage`: connect, send.
    pub fn failed(&self, stage: &'static str) {
        self.failures.get_or_create(&Failure { stage }).inc();
    }

    /// `cause`: broken, gateway.
    pub fn repeated(&self, cause: &'static str) {
        self.repetitions.get_or_create(&Repetition { cause }).inc();
    }

    /// All of it, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

/// One more, until it is dropped.
pub struct Counted(Gauge);

impl Counted {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
