//! The command line: arguments to calls, errors to exit codes.
//!
//! Exit codes: 0 done; 1 something failed while it ran; 2 wrong arguments or a broken file (as clap does);
//! 3 (`node`) the lease was lost.

use super::say::say;
use crate::cloud::local::machine;
use crate::config::{ConfigError, ProviderConfig, Surroundings};
use crate::telemetry::{self, LogFormat};
use clap::{Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Parser)]
#[command(name = "pilotlight", version, about = "A virtual Kubernetes node whose Pods run on instances of their own")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the provider: register the virtual nodes and run their Pods
    Node {
        /// provider.yaml
        #[arg(long)]
        config: PathBuf,
        #[arg(long, value_enum, default_value_t)]
        log_format: LogFormat,
    },
    /// Validate provider.yaml and the catalog, cost policy and prices that it names, together
    Check {
        #[arg(long)]
        config: PathBuf,
        /// Also ask the cloud, by dry runs, whether the account may do what the provider does
        #[arg(long)]
        cloud: bool,
    },
    /// Show Pods, what backs each, and what it costs
    Status(super::status::StatusArgs),
    /// Move a Pod to another instance without losing a request, and show how it goes
    Move(super::move_pod::MoveArgs),
    /// Show what a cost policy would buy for manifests, why, and at what price; needs no cluster
    Plan(super::plan::PlanArgs),
    /// Run the ingress for Knative: a KIngress controller and its data plane
    Gateway(super::gateway::GatewayArgs),
    /// Replay requests: what plain zero, min-scale 1 and a reserve cost and how they answer; needs no cluster
    Simulate(super::simulate::SimulateArgs),
    /// A machine of the local cloud (started by the provider)
    #[command(hide = true)]
    LocalMachine(machine::MachineArgs),
}

pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::LocalMachine(args) => machine::run(args),
        // Not necessarily where it will run: what the Pod would say of itself is made up.
        Command::Check { config, cloud } => {
            match served(&config, ProviderConfig::load_in(&config, &Surroundings::of_some_pod())) {
                Ok(valid) => {
                    say(&checked(&config, &valid));
                    if cloud { permitted(runtime().block_on(super::cloud::check(&valid))) } else { ExitCode::SUCCESS }
                }
                Err(refused) => refused,
            }
        }
        Command::Node { config, log_format } => match load_to_run(&config) {
            Ok((config, broken)) => {
                telemetry::init_logs(log_format);
                if let Some(broken) = broken {
                    let why = chain(&broken);
                    tracing::error!(
                        why,
                        "the configuration is broken; the last good catalog, prices and cost policy are used"
                    );
                }
                finish(runtime().block_on(super::provider::run(config)))
            }
            Err(refused) => refused,
        },
        Command::Plan(args) => super::plan::run(&args, jiff::Timestamp::now()),
        Command::Gateway(args) => {
            telemetry::init_logs(args.log_format);
            finish(runtime().block_on(super::gateway::run(args)))
        }
        Command::Simulate(args) => super::simulate::run(&args, jiff::Timestamp::now()),
        Command::Move(args) => finish(runtime().block_on(super::move_pod::run(args))),
        Command::Status(args) => finish(runtime().block_on(super::status::run(args))),
    }
}

/// What was understood, so that a person sees whether it was meant.
fn checked(file: &Path, valid: &ProviderConfig) -> String {
    let zones: Vec<&str> = valid.nodes.iter().map(|n| n.zone.as_str()).collect();
    let policy = &valid.buying.policy;
    let classes: Vec<&str> = policy.classes.iter().map(|class| class.name.as_str()).collect();
    let mut text =
        format!("{} is valid: zones {}, {} instance types\n", file.display(), zones.join(", "), valid.types.len());
    text += &format!(
        "classes {}; {} limits, {} commitments, {} standby pools, {} spot prices\n",
        classes.join(", "),
        policy.limits.len(),
        policy.commitments.len() + policy.reservations.len(),
        policy.standby.len(),
        valid.buying.market.spot.len(),
    );
    for unlisted in &valid.unlisted {
        text += &format!("warning: {}\n", unlisted.awaited());
    }
    for source in valid.sources.all().skip(1) {
        text += &format!("  with {}\n", source.file.display());
    }
    text
}

fn permitted(answer: anyhow::Result<bool>) -> ExitCode {
    match answer {
        Ok(false) => ExitCode::FAILURE,
        other => finish(other.map(drop)),
    }
}

/// To run by, and why that is not the files as they are now.
fn load_to_run(file: &Path) -> Result<(ProviderConfig, Option<ConfigError>), ExitCode> {
    let (config, broken) = ProviderConfig::load_or_last_good(file, &Surroundings::of_this_process())
        .map_err(|error| broken_file(&error))?;
    Ok((served(file, Ok(config))?, broken))
}

/// A configuration that this program can serve; or what to exit with, when it has been told why not.
fn served(file: &Path, loaded: Result<ProviderConfig, ConfigError>) -> Result<ProviderConfig, ExitCode> {
    let config = loaded.map_err(|error| broken_file(&error))?;
    match super::cloud::not_built_in(&config) {
        None => Ok(config),
        Some(why) => {
            eprintln!("pilotlight: {}: {why}", file.display());
            Err(ExitCode::from(2))
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        // One process serves hundreds of Pods; more threads would only cost memory.
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

fn broken_file(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("pilotlight: {}", chain(error));
    ExitCode::from(2)
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pilotlight: {error:#}");
            ExitCode::FAILURE
        }
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
