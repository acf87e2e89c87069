//! The table and the JSON.

use crate::{Args, UNBATCHED, burst::Measured, ec2::StandIn, raw::Raw};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const MB: f64 = 1_000_000.0;

pub struct Report {
    optimized: bool,
    pub raw: Option<Raw>,
    pub bursts: Vec<Measured>,
}

/// Seconds; by the nearest rank.
fn at(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, Duration::as_secs_f64)
}

fn each(count: u64, pods: usize) -> f64 {
    count as f64 / pods as f64
}

fn aims_of(burst: &Measured) -> [(String, String, bool); 4] {
    let (pods, all, calls) = (burst.pods, at(&burst.steps.running, 100), burst.calls.launches());
    let (throttles, rss) = (burst.calls_in_the_end.throttles(), burst.running.high_water as f64 / MB);
    let named = |aim: String| format!("{}: {aim}", burst.name);
    [
        (named(format!("{pods} Pods Running within 30 s")), format!("{all:.1} s"), all <= 30.0),
        (named("at most 10 launch calls".to_owned()), calls.to_string(), calls <= 10),
        (named("no call throttled".to_owned()), throttles.to_string(), throttles == 0),
        (named("the provider's RSS at most 60 MB".to_owned()), format!("{rss:.1} MB"), rss <= 60.0),
    ]
}

impl Report {
    pub fn new(args: &Args) -> Self {
        Self { optimized: args.release, raw: None, bursts: Vec::new() }
    }

    fn raw_seconds(&self) -> Option<f64> {
        self.raw.as_ref().map(|raw| raw.booted.as_secs_f64())
    }

    /// What is aimed at, what came out, whether it is reached: of each burst but the one that is there to be compared with.
    fn aims(&self) -> Vec<(String, String, bool)> {
        let judged = self.bursts.iter().filter(|burst| burst.name != UNBATCHED);
        judged.flat_map(aims_of).collect()
    }

    pub fn print(&self) {
        type Cell = fn(&Measured) -> String;
        let rows: [(&str, Cell); 20] = [
            ("Pods", |m| m.pods.to_string()),
            ("all created and scheduled, s", |m| format!("{:.1}", at(&m.steps.scheduled, 100))),
            ("instance bound: first, s", |m| format!("{:.1}", at(&m.steps.bound, 0))),
            ("instance bound: last, s", |m| format!("{:.1}", at(&m.steps.bound, 100))),
            ("Running: first, s", |m| format!("{:.1}", at(&m.steps.running, 0))),
            ("Running: median, s", |m| format!("{:.1}", at(&m.steps.running, 50))),
            ("Running: all, s", |m| format!("{:.1}", at(&m.steps.running, 100))),
            ("launch calls", |m| m.calls.launches().to_string()),
            ("describe calls till all ran", |m| m.calls.of("DescribeInstances").to_string()),
            ("terminate calls", |m| m.calls_in_the_end.of("TerminateInstances").to_string()),
            ("calls throttled", |m| m.calls_in_the_end.throttles().to_string()),
            ("moto's launches, s", |m| format!("{:.1}", m.calls.moto(Some("RunInstances")))),
            ("moto's lists, s", |m| format!("{:.1}", m.calls.moto(Some("DescribeInstances")))),
            ("API requests a Pod, birth to death", |m| format!("{:.2}", each(m.requests.pods, m.pods))),
            ("  events a Pod, apart", |m| format!("{:.2}", each(m.requests.events, m.pods))),
            ("RSS before, MB", |m| format!("{:.1}", m.idle.now as f64 / MB)),
            ("RSS when all ran, MB", |m| format!("{:.1}", m.running.now as f64 / MB)),
            ("RSS at most till then, MB", |m| format!("{:.1}", m.running.high_water as f64 / MB)),
            ("processor a Pod till all ran, ms", |m| {
                format!("{:.1}", m.processor_time.as_secs_f64() * 1000.0 / m.pods as f64)
            }),
            ("processor at rest with all, %", |m| format!("{:.2}", m.at_rest * 100.0)),
        ];
        if let Some(raw) = &self.raw {
            println!(
                "\nraw: {} instances by {} calls, all launched after {:.1} s, all booted after {:.1} s; moto took {:.1} s of it",
                raw.instances,
                raw.calls.launches(),
                raw.launched.as_secs_f64(),
                raw.booted.as_secs_f64(),
                raw.calls.moto(None),
            );
        }
        print!("\n{:<40}", "");
        self.bursts.iter().for_each(|burst| print!("{:>14}", burst.name));
        println!();
        for (name, of) in rows {
            print!("{name:<40}");
            self.bursts.iter().for_each(|burst| print!("{:>14}", of(burst)));
            println!();
        }
        if let Some(raw) = self.raw_seconds() {
            print!("{:<40}", "Running: all, times raw's boot");
            self.bursts.iter().for_each(|burst| print!("{:>14.2}", at(&burst.steps.running, 100) / raw));
            println!();
        }
        for burst in &self.bursts {
            let kinds: Vec<String> = burst.requests.by_kind.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            println!("\nrequests, {}: {}", burst.name, kinds.join(", "));
        }
        println!();
        for (aim, value, reached) in self.aims() {
            println!("{aim:<45} {value:<14} {}", if reached { "reached" } else { "NOT reached" });
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let raw = self.raw.as_ref().map(|raw| {
            json!({
                "instances": raw.instances, "launchedSeconds": raw.launched.as_secs_f64(),
                "bootedSeconds": raw.booted.as_secs_f64(), "calls": raw.calls.json(),
            })
        });
        let burst = |measured: &Measured| {
            let m = measured;
            let steps = |sorted: &[Duration]| json!({"first": at(sorted, 0), "median": at(sorted, 50), "p90": at(sorted, 90), "all": at(sorted, 100)});
            json!({
                "name": m.name,
                "pods": m.pods,
                "seconds": {"scheduled": steps(&m.steps.scheduled), "bound": steps(&m.steps.bound), "running": steps(&m.steps.running)},
                "ratioToRaw": self.raw_seconds().map(|raw| at(&m.steps.running, 100) / raw),
                "launchCalls": m.calls.launches(),
                "throttles": m.calls_in_the_end.throttles(),
                "motoSeconds": {"launches": m.calls.moto(Some("RunInstances")), "all": m.calls.moto(None)},
                "callsTillRunning": m.calls.json(),
                "calls": m.calls_in_the_end.json(),
                "requests": m.requests,
                "requestsPerPod": each(m.requests.pods, m.pods),
                "eventsPerPod": each(m.requests.events, m.pods),
                "memory": {"idle": m.idle, "running": m.running},
                "cpuSecondsTillRunning": m.processor_time.as_secs_f64(),
                "processorAtRest": m.at_rest,
            })
        };
        let aims: Vec<Value> = self
            .aims()
            .into_iter()
            .map(|(aim, value, reached)| json!({"aim": aim, "value": value, "reached": reached}))
            .collect();
        let all = json!({
            "at": jiff::Timestamp::now().to_string(),
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "optimized": self.optimized,
            "leastSeconds": StandIn::least_seconds(),
            "raw": raw,
            "bursts": self.bursts.iter().map(burst).collect::<Vec<Value>>(),
            "aims": aims,
        });
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, format!("{all:#}\n")).with_context(|| path.display().to_string())
    }
}
