//! Reads a container's log files: CRI has no call for it, so the kubelet reads them itself, and so do we.
//!
//! ```text
//!   files: <n>.log.<when> (rotated, oldest first) ... <n>.log (written now)
//!   open:  tail? -> backwards by blocks, from the newest file to the older ones
//!   copy:  forwards to the end --follow--> poll: more / rotated: next file / container ended: drain, done
//! ```
//!
//! Without `follow` it stops at what the file held when it was opened: a container that writes faster
//! than its reader reads would never let it end.

use super::host::PodHost;
use crate::{
    decide::log_view::{LogSource, LogView, TailFinder},
    model::LogOptions,
};
use std::{
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep},
};

const BLOCK_BYTES: u64 = 32 * 1024;
/// While following only. kubelet waits for inotify, with a poll of a second behind it.
const POLL: Duration = Duration::from_millis(100);
/// How often the runtime is asked whether the container still runs.
const STATE_POLL: Duration = Duration::from_millis(500);
/// The runtime splits lines at 16 KiB (containerd, max_container_log_line_size). A longer one is no
/// log line, and must not fill the memory.
const LONGEST_LINE: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("failed to find the log of container \"{0}\": {1}")]
    Unknown(String, super::HostError),
    #[error("failed to open log file \"{path}\": {error}")]
    Open { path: PathBuf, error: io::Error },
}

/// An opened log, at the first line that its reader wants.
pub(super) struct LogStream {
    host: Arc<dyn PodHost>,
    container_id: String,
    path: PathBuf,
    options: LogOptions,
    /// Oldest first; the last is the one that is written now.
    files: Vec<OpenFile>,
}

struct OpenFile {
    file: File,
    inode: u64,
    /// How much it held when it was opened.
    length: u64,
    position: u64,
}

pub(super) async fn open(
    host: Arc<dyn PodHost>,
    container_id: String,
    options: LogOptions,
) -> Result<LogStream, LogError> {
    let path = host.log_path(&container_id).await.map_err(|error| LogError::Unknown(container_id.clone(), error))?;
    let failed = |error| LogError::Open { path: path.clone(), error };
    let mut files = Vec::new();
    for rotated in rotated(&path).await {
        // It may have been removed since it was listed.
        if let Ok(file) = OpenFile::open(&rotated).await {
            files.push(file);
        }
    }
    let current = OpenFile::open(&path).await.map_err(failed)?;
    // Rotated between listing and opening: it is not in the list twice.
    files.retain(|file| file.inode != current.inode);
    files.push(current);
    if let Some(lines) = options.tail_lines {
        skip_to_tail(&mut files, lines, &options).await.map_err(failed)?;
    }
    Ok(LogStream { host, container_id, path, options, files })
}

/// The files that this one was renamed to, oldest first: their suffixes are times.
async fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else { return Vec::new() };
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let suffix = name.to_string_lossy().strip_prefix(&prefix).map(str::to_owned);
        // `.tmp` and `.gz`: what a compressing rotation has in hand, or is done with.
        if suffix.is_some_and(|suffix| !suffix.ends_with(".tmp") && !suffix.ends_with(".gz")) {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Moves each file's position to the first of the last `lines` lines of them all.
async fn skip_to_tail(files: &mut [OpenFile], lines: u64, options: &LogOptions) -> io::Result<()> {
    let mut finder = TailFinder::new(lines, LogSource::wanted(options.stream.as_deref()));
    let mut found = lines == 0;
    for open in files.iter_mut().rev() {
        if found {
            open.position = open.length;
            continue;
        }
        let mut end = open.length;
        while end > 0 && !found {
            let start = end.saturating_sub(BLOCK_BYTES);
            let mut block = vec![0; (end - start) as usize];
            open.file.seek(SeekFrom::Start(start)).await?;
            open.file.read_exact(&mut block).await?;
            if let Some(offset) = finder.feed(start, &block) {
                open.position = offset;
                found = true;
            }
            end = start;
        }
    }
    Ok(())
}

impl OpenFile {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        let metadata = file.metadata().await?;
        Ok(Self { file, inode: metadata.ino(), length: metadata.len(), position: 0 })
    }
}

/// Lines out of a file, and what the reader gets of them.
struct Copier<'a, W> {
    view: LogView,
    line: Vec<u8>,
    /// The line in hand is too long: its rest is left out.
    skipping: bool,
    out: &'a mut W,
}

impl<W: AsyncWrite + Unpin> Copier<'_, W> {
    /// Copies from the position to `until` or the present end. False: the reader gets no more.
    async fn copy(&mut self, open: &mut OpenFile, until: Option<u64>) -> io::Result<bool> {
        open.file.seek(SeekFrom::Start(open.position)).await?;
        let mut block = vec![0; BLOCK_BYTES as usize];
        loop {
            let room = until.map_or(BLOCK_BYTES, |until| until.saturating_sub(open.position).min(BLOCK_BYTES));
            let count = open.file.read(&mut block[..room as usize]).await?;
            if count == 0 {
                return Ok(true);
            }
            open.position += count as u64;
            if !self.take(&block[..count]).await? {
                return Ok(false);
            }
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let mut out = Vec::new();
        let mut more = true;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(rest) = piece.strip_suffix(b"\n") else {
                self.keep(piece);
                break;
            };
            self.keep(rest);
            let line = std::mem::take(&mut self.line);
            if !std::mem::take(&mut self.skipping) && !self.view.push(&line, &mut out) {
                more = false;
                break;
            }
        }
        self.out.write_all(&out).await?;
        Ok(more)
    }

    fn keep(&mut self, piece: &[u8]) {
        self.skipping |= self.line.len() + piece.len() > LONGEST_LINE;
        if self.skipping {
            self.line.clear();
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    /// A last line that has no newline, of a file that nobody writes any more.
    async fn finish_line(&mut self) -> io::Result<bool> {
        if self.line.is_empty() {
            return Ok(true);
        }
        self.take(b"\n").await
    }
}

impl LogStream {
    /// Writes what the reader wants, to the log's end.
    pub async fn copy_to(mut self, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut copier = Copier { view: LogView::new(&self.options), line: Vec::new(), skipping: false, out };
        let Some(mut current) = self.files.pop() else { return Ok(()) };
        for mut older in self.files.drain(..) {
            if !copier.copy(&mut older, None).await? || !copier.finish_line().await? {
                return Ok(());
            }
        }
        if !self.options.follow {
            let length = current.length;
            if copier.copy(&mut current, Some(length)).await? {
                copier.finish_line().await?;
            }
            return Ok(());
        }
        let mut asked: Option<Instant> = None;
        loop {
            // Before the read, so that what was written until then is in it.
            let ended = if asked.is_none_or(|asked| asked.elapsed() >= STATE_POLL) {
                asked = Some(Instant::now());
                // Can't be told: the container's runtime restarts, say. It is asked again.
                matches!(self.host.is_running(&self.container_id).await, Ok(false))
            } else {
                false
            };
            let successor = self.successor(&current).await;
            if !copier.copy(&mut current, None).await? {
                return Ok(());
            }
            match successor {
                Some(next) => {
                    if !copier.finish_line().await? {
                        return Ok(());
                    }
                    current = next;
                }
                None if ended => {
                    copier.finish_line().await?;
                    return Ok(());
                }
                None => sleep(POLL).await,
            }
        }
    }

    /// The file that is written now, when it isn't this one any more.
    async fn successor(&self, current: &OpenFile) -> Option<OpenFile> {
        // Missing: it has just been renamed; the runtime makes it again.
        let metadata = tokio::fs::metadata(&self.path).await.ok()?;
        if metadata.ino() == current.inode {
            return None;
        }
        OpenFile::open(&self.path).await.ok()
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
