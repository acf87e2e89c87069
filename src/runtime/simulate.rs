//! `pilotlight simulate`: what each way of being at zero would cost and how it would answer. No cluster, no account.
//!
//! A trace (or a generated one) and a cost policy -> [`crate::simulate`] -> a table, JSON, an SVG picture.
//!
//! Exit codes: 0 done; 1 something failed while it ran; 2 a broken policy, catalog, price list or trace.

use super::plan;
use super::say::say;
use crate::decide::reserve::size::{self, Size};
use crate::simulate::{
    Millis, Mode, Outcome, World, chart,
    generate::{self, Shape},
    prices::{self, Prices},
    report::Report,
    service, trace,
};
use anyhow::Context;
use jiff::Timestamp;
use std::{fs::File, io::BufWriter, path::PathBuf, process::ExitCode};

#[derive(clap::Args)]
pub struct SimulateArgs {
    /// A trace: CSV with the columns time, service, duration (seconds)
    #[arg(long, conflicts_with = "generate", required_unless_present = "generate")]
    trace: Option<PathBuf>,
    /// Make a trace up
    #[arg(long, value_enum)]
    generate: Option<Shape>,
    /// How many services to make up
    #[arg(long, default_value_t = 100)]
    services: u64,
    /// For how many days
    #[arg(long, default_value_t = 30)]
    days: u16,
    /// Another seed, another trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the made-up trace here, as CSV
    #[arg(long, requires = "generate")]
    write_trace: Option<PathBuf>,
    // Without a spot price there is no reserve on spot.
    #[command(flatten)]
    files: plan::MarketFiles,
    /// What a standard Pod requests
    #[arg(long, value_parser = size_of, default_value = "2,4Gi", value_name = "CPU,MEMORY")]
    standard: Size,
    /// What a reserve requests, unless its class says so
    #[arg(long, value_parser = size_of, default_value = "100m,512Mi", value_name = "CPU,MEMORY")]
    reserve: Size,
    /// The class of the policy that reserves are bought by, as their Pods' annotation names it
    #[arg(long, default_value = "reserve")]
    reserve_class: String,
    /// Requests at once that a Pod takes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,
    /// An instance's boot takes this many seconds, give or take a tenth
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u16).range(0..=3600))]
    boot: u16,
    /// A service's own start on a standard Pod, in milliseconds
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(0..=600_000))]
    start: u32,
    /// How fast a reserve works, in percent of a standard Pod
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100))]
    reserve_speed: u32,
    /// How many spot instances are interrupted in a month, in percent
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=99))]
    spot_interruptions: u32,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write a picture here
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

fn size_of(text: &str) -> Result<Size, String> {
    let expected = || format!("{text:?}: expected CPUs and bytes, such as 2,4Gi or 100m,512Mi");
    let (cpu, memory) = text.split_once(',').ok_or_else(expected)?;
    let cpu_millis = crate::model::parse_milli(cpu).filter(|n| *n > 0).ok_or_else(expected)?;
    let memory_bytes = crate::model::parse_units(memory).filter(|n| *n > 0).ok_or_else(expected)?;
    Ok(Size { cpu_millis, memory_bytes })
}

pub fn run(args: &SimulateArgs, now: Timestamp) -> ExitCode {
    let prices = match prices_of(args, now) {
        Ok(prices) => prices,
        Err(error) => {
            eprintln!("pilotlight: {error:#}");
            return ExitCode::from(2);
        }
    };
    match simulate(args, &prices) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pilotlight: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prices_of(args: &SimulateArgs, now: Timestamp) -> anyhow::Result<Prices> {
    let plan::Basis { policy, market, .. } = args.files.load()?;
    let annotations = [("pilotlight.dev/use-class".to_owned(), args.reserve_class.clone())].into();
    Ok(prices::prices(&policy, &market, args.standard, (args.reserve, &annotations), now)?)
}

fn simulate(args: &SimulateArgs, prices: &Prices) -> anyhow::Result<ExitCode> {
    let boot = Millis::from(args.boot) * 1000;
    let world = World {
        boot: (boot * 9 / 10, boot * 11 / 10),
        start: args.start.into(),
        reserve_slowdown: size::slowdown(args.standard, args.reserve),
        reserve_speed: args.reserve_speed,
        concurrency: args.concurrency,
        spot_interruptions: args.spot_interruptions,
        ..World::default()
    };
    let mut modes = Mode::ALL.to_vec();
    if prices.reserve_on_spot.is_none() {
        eprintln!(
            "no spot price of {} is known: no reserve on spot (give --prices or --assume-spot)",
            prices.reserve_type
        );
        modes.retain(|mode| *mode != Mode::ReserveOnSpot);
    }
    let mut outcomes: Vec<(Mode, Outcome)> = modes.into_iter().map(|mode| (mode, Outcome::default())).collect();
    let mut each = |number: u64, requests: &[trace::Request], length: Millis| {
        for (mode, sum) in &mut outcomes {
            sum.add(service::run(requests, length, *mode, &world, prices, args.seed ^ number));
        }
    };
    let (services, length) = match (&args.trace, args.generate) {
        (Some(file), _) => {
            let input = File::open(file).with_context(|| file.display().to_string())?;
            let read = match trace::read(std::io::BufReader::new(input)) {
                Ok(read) => read,
                Err(error) => {
                    eprintln!("pilotlight: {}: {error}", file.display());
                    return Ok(ExitCode::from(2));
                }
            };
            for (number, requests) in (0..).zip(read.services.values()) {
                each(number, requests, read.length);
            }
            (read.services.len() as u64, read.length)
        }
        (None, shape) => {
            let shape = shape.unwrap_or(Shape::Mixed);
            let length = Millis::from(args.days.max(1)) * 86_400_000;
            // One service at a time: a month of a thousand would fill the memory.
            for number in 0..args.services {
                each(number, &generate::requests(shape, number, args.seed, length), length);
            }
            if let Some(file) = &args.write_trace {
                let output = BufWriter::new(File::create(file).with_context(|| file.display().to_string())?);
                let all = (0..args.services)
                    .map(|n| (format!("service-{n}"), generate::requests(shape, n, args.seed, length)));
                trace::write(output, all)?;
            }
            (args.services, length)
        }
    };
    let report = Report::new(services, length, prices, outcomes);
    if let Some(file) = &args.svg {
        std::fs::write(file, chart::svg(&report)).with_context(|| file.display().to_string())?;
    }
    say(&match args.output {
        Output::Table => report.table(),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    });
    Ok(ExitCode::SUCCESS)
}
