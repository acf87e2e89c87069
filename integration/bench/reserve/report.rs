//! The table and the JSON.

use crate::{
    cost::{Bought, Cost},
    events::Event,
    first::{First, Tries},
    idle::Idle,
    net::Report as Load,
    swaps::Swaps,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const MB: f64 = 1_000_000.0;

#[derive(Default)]
pub struct Report {
    pub first: Option<First>,
    pub swaps: Option<Swaps>,
    pub events: Vec<Event>,
    pub cost: Option<Cost>,
    pub idle: Option<Idle>,
}

/// Milliseconds; by the nearest rank: 99 of 100 are not above p99.
struct Times {
    count: usize,
    p50: f64,
    p99: f64,
    most: f64,
}

impl Times {
    fn of(durations: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = durations.iter().map(|d| d.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: sorted.len(), p50: at(50), p99: at(99), most: at(100) }
    }

    fn json(&self) -> Value {
        json!({"count": self.count, "p50Ms": self.p50, "p99Ms": self.p99, "maxMs": self.most})
    }
}

fn load_json(load: &Load) -> Value {
    let took: Vec<Duration> = load.shots.iter().filter_map(|s| Some(s.result.as_ref().ok()?.took)).collect();
    json!({"requests": load.shots.len(), "failed": load.failures().len(), "times": Times::of(&took).json()})
}

impl Report {
    pub fn print(&self) {
        if let Some(first) = &self.first {
            println!("\nfirst request, {} tries each, ms", first.shared.warm.len());
            println!("{:<34} {:^29}   {:^29}", "", "control plane apart", "on the same processors");
            let heads = format!("{:>9} {:>9} {:>9}", "p50", "p99", "slowest");
            println!("{:<34} {heads}   {heads}", "");
            let rows = |tries: &Tries| {
                [&tries.warm, &tries.beside, &tries.reserve, &tries.nothing].map(|times| figures(times))
            };
            let names =
                ["to a warm Pod", "to a warm Pod, another scales up", "at zero, with a reserve", "at zero, without"];
            for ((name, apart), shared) in names.into_iter().zip(rows(&first.apart)).zip(rows(&first.shared)) {
                println!("{name:<34} {apart}   {shared}");
            }
            let over = |tries: &Tries| Times::of(&tries.reserve).p99 / Times::of(&tries.warm).p99;
            let (by, all) = (first.by_reserve, first.apart.reserve.len() + first.shared.reserve.len());
            println!(
                "reserve's p99 over warm's: {:.2}, with all on the same processors {:.2}; answered by the reserve: {by} of {all}",
                over(&first.apart),
                over(&first.shared)
            );
            if first.noisy > 0 {
                println!("the machine was busy with something else before {} tries", first.noisy);
            }
        }
        if self.swaps.is_some() || !self.events.is_empty() {
            println!("\nat 50 requests a second");
            println!(
                "{:<38} {:>9} {:>7} {:>9} {:>9} {:>11}",
                "", "requests", "failed", "p50 ms", "p99 ms", "slowest ms"
            );
        }
        if let Some(swaps) = &self.swaps {
            line(&format!("{} swaps each way, {} turned back", swaps.done, swaps.turned_back), &swaps.load);
            println!("  of them answered by a reserve: {}", swaps.by_reserve);
        }
        for event in &self.events {
            line(event.name, &event.report);
        }
        if let Some(cost) = &self.cost {
            let Bought { instance_type, hourly } = &cost.standard;
            println!("\na standard Pod that fills 2 vCPU and 4 GiB: {instance_type} ${hourly:.4}/h");
            for (name, reserve) in [("its reserve", &cost.reserve), ("its reserve at the most", &cost.largest)] {
                let (Bought { instance_type, hourly }, percent) = (reserve, cost.percent(reserve));
                println!("  {name}: {instance_type} ${hourly:.4}/h: {percent:.1} %, {:.1} % saved", 100.0 - percent);
            }
        }
        if let Some(idle) = &self.idle {
            println!("\n{} Revisions at zero, {} with a reserve that is attached", idle.revisions, idle.reserves);
            println!("  provider's RSS: {:.1} MB (before them {:.1})", mb(idle.memory.now), mb(idle.before.now));
            println!("  processor: {:.2} %", idle.processor * 100.0);
            println!("  API requests: {:.2} a Revision and minute", idle.per_revision_minute());
            for (kind, count) in &idle.requests.by_kind {
                println!("    {kind}: {count} in {:.0} s", idle.window.as_secs_f64());
            }
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let first = self.first.as_ref().map(|first| {
            let tries = |tries: &Tries| {
                json!({
                    "warm": Times::of(&tries.warm).json(),
                    "warmBesideScaleUp": Times::of(&tries.beside).json(),
                    "reserve": Times::of(&tries.reserve).json(),
                    "nothing": Times::of(&tries.nothing).json(),
                })
            };
            json!({
                "controlPlaneApart": tries(&first.apart),
                "controlPlaneShared": tries(&first.shared),
                "answeredByReserve": first.by_reserve,
                "noisyTries": first.noisy,
            })
        });
        let swaps = self.swaps.as_ref().map(|swaps| {
            json!({
                "done": swaps.done,
                "turnedBack": swaps.turned_back,
                "answeredByReserve": swaps.by_reserve,
                "load": load_json(&swaps.load),
            })
        });
        let events: Vec<Value> =
            self.events.iter().map(|e| json!({"name": e.name, "load": load_json(&e.report)})).collect();
        let cost = self.cost.as_ref().map(|cost| {
            let bought =
                |b: &Bought| json!({"instanceType": b.instance_type, "hourly": b.hourly, "percent": cost.percent(b)});
            json!({
                "standard": bought(&cost.standard), "reserve": bought(&cost.reserve), "largest": bought(&cost.largest),
            })
        });
        let idle = self.idle.as_ref().map(|idle| {
            json!({
                "revisions": idle.revisions,
                "reserves": idle.reserves,
                "before": idle.before,
                "memory": idle.memory,
                "processor": idle.processor,
                "requests": idle.requests,
                "windowSeconds": idle.window.as_secs_f64(),
                "requestsPerRevisionAndMinute": idle.per_revision_minute(),
            })
        });
        let all = json!({
            "at": jiff::Timestamp::now().to_string(),
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "optimized": !cfg!(debug_assertions),
            "first": first,
            "swaps": swaps,
            "events": events,
            "cost": cost,
            "idle": idle,
        });
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, format!("{all:#}\n")).with_context(|| path.display().to_string())
    }
}

fn line(name: &str, load: &Load) {
    let took: Vec<Duration> = load.shots.iter().filter_map(|s| Some(s.result.as_ref().ok()?.took)).collect();
    let (times, failed) = (Times::of(&took), load.failures().len());
    println!(
        "{name:<38} {:>9} {failed:>7} {:>9.1} {:>9.1} {:>11.1}",
        load.shots.len(),
        times.p50,
        times.p99,
        times.most
    );
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / MB
}

/// Three columns of the table.
fn figures(times: &[Duration]) -> String {
    if times.is_empty() {
        return format!("{:>9} {:>9} {:>9}", "-", "-", "-");
    }
    let times = Times::of(times);
    format!("{:>9.1} {:>9.1} {:>9.1}", times.p50, times.p99, times.most)
}
