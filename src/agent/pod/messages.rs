//! The last words of a container: its termination message, or the end of its log.

use super::labels;
use k8s_cri::v1 as cri;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// pkg/kubelet/container/runtime.go: MaxContainerTerminationMessageLength and its log fallback.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_TEXT: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// Enough of the log's end for the text above with its timestamps and stream names.
const LOG_WINDOW: u64 = 16 << 10;

/// The message that a container which has exited leaves; empty: none.
pub(super) fn of(status: &cri::ContainerStatus, pod_logs: &Path) -> String {
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let path = annotation(labels::TERMINATION_MESSAGE_PATH);
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);
    let written = mount.map(|mount| file_start(Path::new(&mount.host_path))).unwrap_or_default();
    let fallback = annotation(labels::TERMINATION_MESSAGE_POLICY) == "FallbackToLogsOnError" && status.exit_code != 0;
    if !written.is_empty() || !fallback {
        return written;
    }
    let (Some(metadata), log) = (&status.metadata, Path::new(&status.log_path)) else { return String::new() };
    let path = if log.as_os_str().is_empty() {
        pod_logs.join(&metadata.name).join(format!("{}.log", metadata.attempt))
    } else {
        log.to_owned()
    };
    log_end(&path)
}

/// A file that can't be read has no message: what a container does to its own file is its own affair.
fn file_start(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_MESSAGE).read_to_end(&mut bytes));
    if read.is_err() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() }
}

fn log_end(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_WINDOW)))?;
        let mut bytes = Vec::new();
        file.take(LOG_WINDOW).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| log_text(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
}

/// The text of CRI log lines (`<time> <stream> <F|P> <text>`), at most so much of the end.
fn log_text(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some("stdout" | "stderr"), Some(tag), Some(content)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            // The window begins in the middle of a line.
            continue;
        };
        text.push_str(content);
        if !tag.starts_with('P') {
            text.push('\n');
        }
    }
    let lines = text.lines().count().saturating_sub(MAX_LOG_LINES);
    let text: String = text.split_inclusive('\n').skip(lines).collect();
    let mut begin = text.len().saturating_sub(MAX_LOG_TEXT);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    text[begin..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        format!("2026-11-23T10:00:00.000000000Z stderr F {text}\n")
    }

    #[test]
    fn the_log_fallback_keeps_the_last_eighty_lines() {
        let log: String = (0..100).map(|n| line(&format!("line {n}"))).collect();
        let text = log_text(&log);
        assert!(text.starts_with("line 20\n") && text.ends_with("line 99\n"), "{text}");
    }

    #[test]
    fn the_log_fallback_keeps_the_last_2048_bytes_and_joins_partial_lines() {
        let log: String = (0..60).map(|n| line(&format!("{n:0>60}"))).collect();
        assert_eq!(log_text(&log).len(), 2048);
        let partial = "t stdout P one \nt stdout F two\ngarbage\n";
        assert_eq!(log_text(partial), "one two\n");
    }

    #[test]
    fn a_message_is_read_from_its_mount_and_no_further_than_4096_bytes() {
        let dir = std::env::temp_dir().join(format!("pilotlight-messages-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("message");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        let status = cri::ContainerStatus {
            annotations: [(labels::TERMINATION_MESSAGE_PATH.to_owned(), "/dev/termination-log".to_owned())].into(),
            mounts: vec![cri::Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: file.to_string_lossy().into_owned(),
                ..Default::default()
            }],
            exit_code: 1,
            ..Default::default()
        };
        assert_eq!(of(&status, &dir).len(), 4096);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
