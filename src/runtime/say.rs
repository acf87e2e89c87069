//! What a command says on standard output.

use std::io::{ErrorKind, Write};

/// Whether anybody still reads. Who has read enough (`| head`) is at no fault.
pub(super) fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != ErrorKind::BrokenPipe {
                eprintln!("pilotlight: cannot write: {error}");
            }
            false
        }
    }
}

/// A table, each column as wide as its widest cell.
pub(super) fn columns<const N: usize>(heads: [&str; N], lines: impl Iterator<Item = [String; N]>) -> String {
    let lines: Vec<[String; N]> = std::iter::once(heads.map(str::to_owned)).chain(lines).collect();
    let widths: [usize; N] = std::array::from_fn(|column| lines.iter().map(|l| l[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
