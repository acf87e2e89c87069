//! `pilotlight-agent`: the service inside an instance.

use clap::Parser;
use pilotlight::{
    agent::{self, AgentConfig, DEFAULT_CONFIG},
    telemetry::{LogFormat, init_logs},
};
use std::{path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs one Pod on this instance, as the provider wants it.
#[derive(Parser)]
#[command(name = "pilotlight-agent", version)]
struct Arguments {
    /// Written by the cloud when the instance was made.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

/// One thread: an instance's memory and processors are its Pod's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_logs(arguments.log_format);
    let config = match AgentConfig::read(&arguments.config).await {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the configuration can't be used");
            return ExitCode::from(2);
        }
    };
    let cancel = CancellationToken::new();
    let stop = async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::io::Result::Ok(())
    };
    let running = agent::run(config, cancel.clone());
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        _ = stop => {
            cancel.cancel();
            running.await
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the agent has ended");
            ExitCode::FAILURE
        }
    }
}
