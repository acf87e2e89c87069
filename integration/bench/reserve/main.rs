//! `scripts/bench reserve`: what a reserve is worth, and what it costs, on real Serving.
//!
//! ```text
//!   first    the first request at zero: with a reserve, without one; and one to a Pod that is warm
//!   swaps    50 requests a second to Services that go to zero and come back, again and again
//!   events   50 requests a second while the template changes, traffic shifts, a reserve crashes
//!   cost     a reserve's price over a standard Pod's, by the shipped cost policy
//!   idle     many Revisions at zero: the provider's memory, processor time and API requests
//! ```
//!
//! What is compared is done in turns on one machine, so that whatever else the machine does falls on all of it.
//! Requests are sent at fixed times, however long the answers take, and their times count from when they were due.
//! Prints a table, writes JSON, judges nothing: figures depend on the machine.

#[path = "../audit.rs"]
#[allow(dead_code, reason = "shared with another bench")]
mod audit;
mod cost;
mod events;
mod first;
mod idle;
#[path = "../../knative_tests/net.rs"]
mod net;
#[path = "../procs.rs"]
#[allow(dead_code, reason = "shared with another bench")]
mod procs;
mod report;
#[path = "../../knative_tests/serving.rs"]
mod serving;
mod site;
#[path = "../start.rs"]
mod start;
#[path = "../../support/mod.rs"]
mod support;
mod swaps;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use report::Report;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    First,
    Swaps,
    Events,
    Cost,
    Idle,
}

#[derive(Parser)]
struct Args {
    /// Where the JSON goes
    #[arg(long)]
    out: PathBuf,
    /// pilotlight
    #[arg(long)]
    program: PathBuf,
    /// First requests of each kind
    #[arg(long, default_value_t = 100)]
    tries: usize,
    /// Swaps each way
    #[arg(long, default_value_t = 100)]
    swaps: usize,
    /// Revisions at zero
    #[arg(long, default_value_t = 1000)]
    revisions: usize,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

fn main() -> Result<()> {
    start::start("a test cluster with Serving: run scripts/bench reserve", run)
}

async fn run(args: Args) -> Result<()> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut report = Report::default();
    if wanted(Part::Cost) {
        report.cost = Some(cost::compare(&args.program)?);
    }
    if wanted(Part::First) {
        report.first = Some(first::measure(args.tries).await?);
        report.write(&args.out)?;
    }
    if wanted(Part::Swaps) {
        report.swaps = Some(swaps::measure(args.swaps).await?);
        report.write(&args.out)?;
    }
    if wanted(Part::Events) {
        report.events = events::measure().await?;
        report.write(&args.out)?;
    }
    if wanted(Part::Idle) {
        report.idle = Some(idle::measure(args.revisions).await?);
    }
    report.write(&args.out)?;
    report.print();
    println!("\n{}", args.out.display());
    Ok(())
}
