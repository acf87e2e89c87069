//! `scripts/bench launch`: many Pods at once on the stand-in for EC2, with EC2's limits and EC2's delays.
//!
//! ```text
//!   raw        RunInstances for 100 at a time and nothing else      the floor: calls, moto, delays, boots
//!   batched    Pods, the scheduler, the provider                    launches gathered, 100 a call
//!   shipped    batched, with the whole catalog, refreshed, and log  what all that takes besides
//!   unbatched  the same with a call for each Pod                    what EC2's limits make of that
//! ```
//!
//! A launch call takes 1.5 s, an instance is pending for 5 s and boots within 10 to 14 s, drawn; then its simulated
//! machine speaks the agent's real protocol (integration/ec2/standin/simulated.rs). The API server, the
//! scheduler and the provider are real. Times run from before the first Pod is created until a watch has shown each Pod
//! Running. Prints a table with what is aimed at, writes JSON, and fails for no figure: they depend on the machine.

#[path = "../audit.rs"]
#[allow(dead_code, reason = "shared with another bench")]
mod audit;
mod burst;
mod ec2;
#[path = "../pods.rs"]
#[allow(dead_code, reason = "shared with another bench")]
mod pods;
#[path = "../procs.rs"]
#[allow(dead_code, reason = "shared with another bench")]
mod procs;
mod raw;
mod report;
#[path = "../start.rs"]
mod start;

use anyhow::{Context, Result, bail};
use clap::Parser;
use ec2::StandIn;
use report::Report;
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command};

#[derive(Parser)]
struct Args {
    /// The test cluster's directory
    #[arg(long)]
    state: PathBuf,
    /// The test cluster's name
    #[arg(long)]
    cluster: String,
    /// The repository: scripts/provider is run there
    #[arg(long)]
    repository: PathBuf,
    /// Where the JSON goes
    #[arg(long)]
    out: PathBuf,
    /// The release build of the provider
    #[arg(long)]
    release: bool,
    /// Pods created at once
    #[arg(long, default_value_t = 500)]
    pods: usize,
    /// The same where each gets a call of its own
    #[arg(long, default_value_t = 500)]
    unbatched: usize,
}

/// To be compared with: what it would be without the gathering.
const UNBATCHED: &str = "unbatched";

fn main() -> Result<()> {
    start::start("a test cluster with the stand-in for EC2: run scripts/bench launch", run)
}

async fn run(args: Args) -> Result<()> {
    let api = pods::namespace().await?;
    let standin = StandIn::new();
    let mut report = Report::new(&args);

    println!("raw: {} instances", args.pods);
    report.raw = Some(raw::measure(&standin, &args.cluster, args.pods).await?);
    report.write(&args.out)?;

    for (name, pods, own) in [
        ("batched", args.pods, bare(&json!({}))),
        // The whole catalog, refreshed from EC2, and a line of log for each launch and each Pod's end.
        ("shipped", args.pods, json!({"catalog": args.repository.join("provider-config/catalog-ec2.yaml")})),
        // Last, as no time is aimed at here: moto never forgets an instance, and is slower with each that it ever had.
        (UNBATCHED, args.unbatched, bare(&json!({"idle": "0s", "longest": "0s", "perCall": 1}))),
    ] {
        println!("{name}: {pods} Pods");
        let log = if name == "shipped" { "info" } else { "warn" };
        provider(&args, "up", &settings(&args, pods, &own), log)?;
        let burst = burst::Burst { api: &api, standin: &standin, state: &args.state, name, pods };
        let measured = burst.measure().await;
        provider(&args, "down", &Value::Null, log)?;
        report.bursts.push(measured.with_context(|| format!("the {name} burst"))?);
        report.write(&args.out)?;
    }
    report.print();
    println!("\n{}", args.out.display());
    Ok(())
}

/// What of provider.yaml is other than scripts/provider has it, and what this burst has for itself.
fn settings(args: &Args, pods: usize, own: &Value) -> Value {
    let mut settings = json!({
        "limits": {"cpu": "2000", "memory": "8Ti", "pods": pods + 10},
        "costPolicy": args.repository.join("integration/bench/launch/cost-policy.yaml"),
    });
    for (key, value) in own.as_object().into_iter().flatten() {
        settings[key] = value.clone();
    }
    settings
}

/// What EC2 sells is asked for every few hours; moto's lists of types would be in the way of its launches.
fn bare(launches: &Value) -> Value {
    json!({"cloud": {"ec2": {"launches": launches, "refresh": {"types": "off", "priceList": "off", "spotPrices": "off"}}}})
}

fn provider(args: &Args, action: &str, settings: &Value, log: &str) -> Result<()> {
    let mut command = Command::new(args.repository.join("scripts/provider"));
    command.args([action, "--name", &args.cluster, "--ec2"]).env("EC2_SETTINGS", settings.to_string());
    command.env("PILOTLIGHT_LOG", log);
    if args.release {
        command.arg("--release");
    }
    let status = command.status().context("scripts/provider")?;
    if !status.success() {
        bail!("scripts/provider {action}: {status}");
    }
    Ok(())
}
