//! What a command says on standard output.

use std::io::{ErrorKind, Write};

/// Whoever reads may have read enough (`| head`): that is no fault.
pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => eprintln!("pilotlight: cannot write: {error}"),
        _ => {}
    }
}
