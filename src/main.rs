//! `pilotlight`: parse the arguments, call `runtime`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pilotlight::runtime::cli::main()
}
