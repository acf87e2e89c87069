//! The table and the JSON.

use crate::{audit::Requests, procs::Memory};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const MB: f64 = 1_000_000.0;

/// One way to start and end a Pod.
#[derive(Default)]
pub struct Series {
    start: Vec<Duration>,
    end: Vec<Duration>,
}

impl Series {
    pub fn add(&mut self, start: Duration, end: Duration) {
        self.start.push(start);
        self.end.push(end);
    }
}

pub struct Load {
    pub memory: Memory,
    pub processor_time: Duration,
    /// Of one processor.
    pub processor: f64,
}

pub struct Batch {
    pub pods: usize,
    pub idle: Memory,
    pub one: Load,
    pub many: Load,
    pub to_all_running: Duration,
    pub cpu_birth_to_death: Duration,
    pub high_water: u64,
    pub agents: Vec<Memory>,
    pub requests: Requests,
}

pub struct Report {
    tries: usize,
    batch: usize,
    /// Tries before which the machine did not become quiet.
    pub noisy: usize,
    pub raw: Series,
    pub kubelet: Series,
    pub warm: Series,
    pub boot: Series,
    pub batch_kubelet: Option<Batch>,
    pub batch_pilotlight: Option<Batch>,
}

struct Summary {
    median: f64,
    p90: f64,
    min: f64,
    max: f64,
}

fn summary(durations: &[Duration]) -> Option<Summary> {
    let mut sorted: Vec<f64> = durations.iter().map(Duration::as_secs_f64).collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] };
    // The nearest rank: nine of ten are not above it.
    let p90 = sorted[(sorted.len() * 9).div_ceil(10) - 1];
    Some(Summary { median, p90, min, max })
}

impl Report {
    pub fn new(tries: usize, batch: usize) -> Self {
        Self {
            tries,
            batch,
            noisy: 0,
            raw: Series::default(),
            kubelet: Series::default(),
            warm: Series::default(),
            boot: Series::default(),
            batch_kubelet: None,
            batch_pilotlight: None,
        }
    }

    fn series(&self) -> [(&'static str, &Series); 4] {
        [
            ("raw containerd", &self.raw),
            ("kubelet", &self.kubelet),
            ("pilotlight, warm", &self.warm),
            ("pilotlight, boot", &self.boot),
        ]
    }

    /// The last try of each, in a line.
    pub fn last(&self) -> String {
        let last = |(name, series): &(&str, &Series)| match (series.start.last(), series.end.last()) {
            (Some(start), Some(end)) => {
                format!("{name} {:.2} s, gone {:.2} s", start.as_secs_f64(), end.as_secs_f64())
            }
            _ => format!("{name} warmed up"),
        };
        self.series().iter().map(last).collect::<Vec<_>>().join("; ")
    }

    pub fn print(&self) {
        let tries = self.tries;
        let starts = |s: &Series| summary(&s.start);
        let ends = |s: &Series| summary(&s.end);
        self.print_times(&format!("created -> Running, seconds, {tries} tries each"), starts);
        self.print_times(&format!("delete (1 s grace) -> gone, seconds, {tries} tries each"), ends);
        if self.noisy > 0 {
            println!("\nThe machine was busy with something else before {} tries.", self.noisy);
        }
        if let (Some(kubelet), Some(pilotlight)) = (&self.batch_kubelet, &self.batch_pilotlight) {
            print_batches(kubelet, pilotlight);
        }
        println!();
        for (aim, value, reached) in self.aims() {
            println!("{:<52} {value:<14} {}", aim, if reached { "reached" } else { "NOT reached" });
        }
    }

    fn print_times(&self, title: &str, of: impl Fn(&Series) -> Option<Summary>) {
        println!("\n{title:<48} {:>7} {:>7} {:>7} {:>7} {:>11}", "median", "p90", "min", "max", "vs kubelet");
        let reference = of(&self.kubelet).map(|s| s.median);
        for (name, series) in self.series() {
            let Some(s) = of(series) else { continue };
            let ratio = reference.map_or(String::new(), |reference| format!("{:.2}x", s.median / reference));
            println!("{name:<48} {:>7.3} {:>7.3} {:>7.3} {:>7.3} {ratio:>11}", s.median, s.p90, s.min, s.max);
        }
    }

    /// What issue and design aim at, what came out, whether it is reached.
    fn aims(&self) -> Vec<(&'static str, String, bool)> {
        let mut aims = Vec::new();
        let median = |s: &Series| summary(&s.start).map(|s| s.median);
        if let (Some(warm), Some(kubelet)) = (median(&self.warm), median(&self.kubelet)) {
            aims.push(("a warm start is faster than the kubelet's", format!("{warm:.3} s"), warm < kubelet));
        }
        if let Some(boot) = median(&self.boot) {
            aims.push(("a start with an instance boot under 2 s", format!("{boot:.3} s"), boot < 2.0));
        }
        if let Some(batch) = &self.batch_pilotlight {
            let requests = each(batch.requests.pods, batch.pods);
            aims.push(("at most 6 API requests a Pod besides events", format!("{requests:.2}"), requests <= 6.0));
            let rss = batch.many.memory.now as f64 / MB;
            aims.push(("the provider's RSS with the batch under 40 MB", format!("{rss:.1} MB"), rss < 40.0));
            let agent = batch.agents.iter().map(|a| a.now).max().unwrap_or(0) as f64 / MB;
            aims.push(("every agent's RSS under 15 MB", format!("{agent:.1} MB"), agent < 15.0));
        }
        aims
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let series: serde_json::Map<String, Value> = self
            .series()
            .into_iter()
            .map(|(name, s)| (name.to_owned(), json!({"start": times(&s.start), "end": times(&s.end)})))
            .collect();
        let aims: Vec<Value> = self
            .aims()
            .into_iter()
            .map(|(aim, value, reached)| json!({"aim": aim, "value": value, "reached": reached}))
            .collect();
        let all = json!({
            "at": jiff::Timestamp::now().to_string(),
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "tries": self.tries,
            "batchSize": self.batch,
            "noisyTries": self.noisy,
            "series": series,
            "kubelet": self.batch_kubelet.as_ref().map(Batch::json),
            "pilotlight": self.batch_pilotlight.as_ref().map(Batch::json),
            "aims": aims,
        });
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, format!("{all:#}\n")).with_context(|| path.display().to_string())
    }
}

fn times(durations: &[Duration]) -> Value {
    let seconds: Vec<f64> = durations.iter().map(Duration::as_secs_f64).collect();
    match summary(durations) {
        None => json!({"seconds": seconds}),
        Some(s) => json!({"median": s.median, "p90": s.p90, "min": s.min, "max": s.max, "seconds": seconds}),
    }
}

fn each(count: u64, pods: usize) -> f64 {
    count as f64 / pods as f64
}

impl Batch {
    fn json(&self) -> Value {
        let load = |load: &Load| json!({"memory": load.memory, "processor": load.processor});
        json!({
            "pods": self.pods,
            "idle": self.idle,
            "onePod": load(&self.one),
            "batch": load(&self.many),
            "secondsToAllRunning": self.to_all_running.as_secs_f64(),
            "cpuSecondsBirthToDeath": self.cpu_birth_to_death.as_secs_f64(),
            "highWater": self.high_water,
            "agents": self.agents,
            "requests": self.requests,
            "requestsPerPod": each(self.requests.pods, self.pods),
            "eventsPerPod": each(self.requests.events, self.pods),
            "watchesPerPod": each(self.requests.watches, self.pods),
        })
    }

    /// The median and the largest agent.
    fn agents(&self) -> String {
        let mut sizes: Vec<f64> = self.agents.iter().map(|a| a.now as f64 / MB).collect();
        sizes.sort_by(f64::total_cmp);
        match (sizes.get(sizes.len() / 2), sizes.last()) {
            (Some(median), Some(max)) => format!("{median:.1} / {max:.1}"),
            _ => "-".to_owned(),
        }
    }
}

fn print_batches(kubelet: &Batch, pilotlight: &Batch) {
    let pods = pilotlight.pods;
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / MB);
    type Cell = Box<dyn Fn(&Batch) -> String>;
    let rows: Vec<(String, Cell)> = vec![
        ("RSS before, MB".to_owned(), Box::new(move |b| mb(b.idle.now))),
        ("RSS with 1 Pod, MB".to_owned(), Box::new(move |b| mb(b.one.memory.now))),
        (format!("RSS with {pods} Pods, MB"), Box::new(move |b| mb(b.many.memory.now))),
        ("RSS at most so far, MB".to_owned(), Box::new(move |b| mb(b.high_water))),
        ("processor with 1 Pod, %".to_owned(), Box::new(|b| format!("{:.2}", b.one.processor * 100.0))),
        (format!("processor with {pods} Pods, %"), Box::new(|b| format!("{:.2}", b.many.processor * 100.0))),
        (
            "processor a Pod, birth to death, ms".to_owned(),
            Box::new(|b| format!("{:.1}", b.cpu_birth_to_death.as_secs_f64() * 1000.0 / b.pods as f64)),
        ),
        (
            format!("{pods} Pods at once to all Running, s"),
            Box::new(|b| format!("{:.1}", b.to_all_running.as_secs_f64())),
        ),
        ("agents' RSS, median / largest, MB".to_owned(), Box::new(Batch::agents)),
        (
            "API requests a Pod, birth to death".to_owned(),
            Box::new(|b| format!("{:.2}", each(b.requests.pods, b.pods))),
        ),
        ("  events a Pod, apart".to_owned(), Box::new(|b| format!("{:.2}", each(b.requests.events, b.pods)))),
        ("  watches opened a Pod, apart".to_owned(), Box::new(|b| format!("{:.2}", each(b.requests.watches, b.pods)))),
    ];
    println!("\n{:<48} {:>14} {:>14}", format!("a batch of {pods} Pods"), "kubelet", "pilotlight");
    for (name, of) in rows {
        println!("{name:<48} {:>14} {:>14}", of(kubelet), of(pilotlight));
    }
    println!("\nrequests of the batch, by kind:");
    for (who, batch) in [("kubelet", kubelet), ("pilotlight", pilotlight)] {
        let kinds: Vec<String> = batch.requests.by_kind.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("  {who}: {}", kinds.join(", "));
    }
}
