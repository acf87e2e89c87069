//! The beginning of a bench that scripts/bench runs.

use anyhow::{Result, bail};
use clap::Parser;

/// Reads the arguments and runs the bench on two threads. Run as `cargo bench` does, without them, it says what it
/// `needs` and measures nothing.
pub fn start<Args: Parser, Run: Future<Output = Result<()>>>(needs: &str, run: impl FnOnce(Args) -> Run) -> Result<()> {
    // `--bench` is cargo's.
    let arguments: Vec<String> = std::env::args().filter(|argument| argument != "--bench").collect();
    if arguments.len() == 1 {
        println!("This needs {needs}");
        return Ok(());
    }
    let args = Args::parse_from(arguments);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}
