//! Which bytes of a container's log a reader gets. Pure: lines in, bytes out.
//!
//! A CRI log line is `<RFC3339Nano> <stream> <tags> <text>`, where the tags start with `P` (the text
//! goes on in the next line of this stream) or `F` (it ends here, with a newline). Source:
//! k8s.io/cri-client/pkg/logs/logs.go, which also gives the order of the options: tail counts lines of
//! the file, then `since` leaves out older ones, then `limitBytes` cuts what is written.

use crate::model::{ContainerReport, ContainerState, LogOptions, PodReport, Termination};
use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSource {
    Stdout,
    Stderr,
}

impl LogSource {
    /// As in PodLogOptions.stream: `Stdout`, `Stderr`, or `All`, which is None.
    pub fn wanted(stream: Option<&str>) -> Option<Self> {
        match stream {
            Some("Stdout") => Some(Self::Stdout),
            Some("Stderr") => Some(Self::Stderr),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    pub at: Timestamp,
    pub source: LogSource,
    /// The text goes on in the next line of this source.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Reads one line, without its newline. None: it isn't one.
pub fn parse_line(line: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let source = match parts.next()? {
        b"stdout" => LogSource::Stdout,
        b"stderr" => LogSource::Stderr,
        _ => return None,
    };
    let tags = parts.next()?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(LogLine { at, source, partial, text: parts.next()? })
}

/// What a reader with these options gets, line by line.
#[derive(Debug)]
pub struct LogView {
    source: Option<LogSource>,
    since: Option<Timestamp>,
    timestamps: bool,
    remaining: Option<u64>,
    /// For stdout and stderr: the next text begins a line.
    at_start: [bool; 2],
}

impl LogView {
    pub fn new(options: &LogOptions) -> Self {
        Self {
            source: LogSource::wanted(options.stream.as_deref()),
            since: options.since,
            timestamps: options.timestamps,
            remaining: options.limit_bytes,
            at_start: [true; 2],
        }
    }

    /// Appends what the reader gets of this line (which has no newline). False: it gets no more at all.
    /// A line that can't be read is left out.
    pub fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        if self.remaining == Some(0) {
            return false;
        }
        let Some(line) = parse_line(line) else { return true };
        if self.source.is_some_and(|wanted| wanted != line.source) {
            return true;
        }
        let begins = std::mem::replace(&mut self.at_start[line.source as usize], !line.partial);
        if self.since.is_some_and(|since| line.at < since) {
            return true;
        }
        let from = out.len();
        if self.timestamps && begins {
            // Go's RFC3339Nano with all its digits, as kubelet prints it.
            out.extend_from_slice(format!("{:.9} ", line.at).as_bytes());
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        if let Some(remaining) = &mut self.remaining {
            let written = out.len() - from;
            let allowed = usize::try_from(*remaining).unwrap_or(usize::MAX).min(written);
            out.truncate(from + allowed);
            *remaining -= allowed as u64;
            return *remaining > 0;
        }
        true
    }
}

/// Finds where the last `wanted` lines of a log start, reading it backwards in blocks.
///
/// Without a source every line counts, readable or not (as kubelet counts); with one, its lines alone.
#[derive(Debug)]
pub struct TailFinder {
    wanted: u64,
    source: Option<LogSource>,
    /// The end of a line whose start is in an earlier block.
    carried: Vec<u8>,
}

impl TailFinder {
    /// `wanted` is not 0: then nothing need be read.
    pub fn new(wanted: u64, source: Option<LogSource>) -> Self {
        Self { wanted, source, carried: Vec::new() }
    }

    /// Takes the block that starts at `offset` and ends where the one before began. Returns the offset
    /// of the first wanted line once it is known. At offset 0 the file is done: the next block is an
    /// older file's last.
    pub fn feed(&mut self, offset: u64, block: &[u8]) -> Option<u64> {
        let mut data = block.to_vec();
        data.append(&mut self.carried);
        let mut end = data.len();
        while end > 0 {
            // Each line keeps its newline; the last one may have none yet.
            let start = data[..end - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            if start == 0 && offset > 0 {
                data.truncate(end);
                self.carried = data;
                return None;
            }
            if self.counts(data[start..end].strip_suffix(b"\n").unwrap_or(&data[start..end])) {
                self.wanted -= 1;
                if self.wanted == 0 {
                    return Some(offset + start as u64);
                }
            }
            end = start;
        }
        None
    }

    fn counts(&self, line: &[u8]) -> bool {
        self.source.is_none_or(|wanted| parse_line(line).is_some_and(|line| line.source == wanted))
    }
}

/// Why there is no log, in kubelet's words (pkg/kubelet/kubelet_pods.go, validateContainerLogStatus).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLog {
    #[error("container \"{container}\" in pod \"{pod}\" is not available")]
    NotAvailable { pod: String, container: String },
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    NoPrevious { pod: String, container: String },
    #[error("container \"{container}\" in pod \"{pod}\" is terminated")]
    Terminated { pod: String, container: String },
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")]
    Waiting { pod: String, container: String, reason: String },
}

/// The runtime's id of the container whose log is meant.
pub fn container_to_read(
    report: Option<&PodReport>,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<String, NoLog> {
    let names = || (pod.to_owned(), container.to_owned());
    let found = report.and_then(|report| report.containers.iter().find(|candidate| candidate.name == container));
    let Some(found) = found else {
        let (pod, container) = names();
        return Err(NoLog::NotAvailable { pod, container });
    };
    let id = |termination: &Termination| termination.container_id.as_deref().and_then(bare_id);
    let last = found.last.as_ref();
    if previous {
        let (pod, container) = names();
        return last.and_then(id).ok_or(NoLog::NoPrevious { pod, container });
    }
    let (pod, container) = names();
    match &found.state {
        ContainerState::Running { .. } => {
            own_id(found).ok_or_else(|| NoLog::Waiting { pod, container, reason: "no logs yet".into() })
        }
        ContainerState::Terminated(termination) => {
            id(termination).or_else(|| last.and_then(id)).ok_or(NoLog::Terminated { pod, container })
        }
        ContainerState::Waiting { reason, .. } => match last {
            Some(last) => id(last).ok_or(NoLog::Terminated { pod, container }),
            None => {
                let reason = match reason.as_str() {
                    "ErrImagePull" => "image can't be pulled",
                    "ImagePullBackOff" => "trying and failing to pull image",
                    reason => reason,
                };
                Err(NoLog::Waiting { pod, container, reason: reason.to_owned() })
            }
        },
    }
}

fn own_id(container: &ContainerReport) -> Option<String> {
    container.container_id.as_deref().and_then(bare_id)
}

/// `containerd://<id>` -> `<id>`
fn bare_id(id: &str) -> Option<String> {
    let bare = id.split_once("://").map_or(id, |(_, bare)| bare);
    (!bare.is_empty()).then(|| bare.to_owned())
}

#[cfg(test)]
#[path = "log_view_tests.rs"]
mod tests;
