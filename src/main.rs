//! `pilotlight`: parse the arguments, call `runtime`.

use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// What a burst of Pods took goes back to the system when they are gone; glibc's allocator keeps it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    pilotlight::runtime::cli::main()
}
