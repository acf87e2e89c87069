//! Rotation of container logs, as pkg/kubelet/logs/container_log_manager.go does it: at 10 MiB a log is
//! renamed to `<n>.log.<time>` and the runtime opens a new one; the newest four of the old are kept.
//! (A kubelet also compresses all but the newest of them; the agent does not.)

use super::cri::{CriClient, CriError};
use jiff::Timestamp;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const MAX_BYTES: u64 = 10 << 20;
/// With the one being written.
const MAX_FILES: usize = 5;

#[derive(Debug, thiserror::Error)]
pub(super) enum RotateError {
    #[error("{operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Runtime(#[from] CriError),
}

/// Rotates one container's log if it has grown too large.
pub(super) async fn rotate(client: &CriClient, id: &str, log: &Path) -> Result<(), RotateError> {
    let fault = |operation| move |source| RotateError::File { operation, path: log.to_owned(), source };
    match fs::metadata(log) {
        Ok(found) if found.len() >= MAX_BYTES => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault("look at")(error)),
    }
    for old in stale(log).map_err(fault("list the old files of"))? {
        fs::remove_file(&old).map_err(|source| RotateError::File { operation: "remove", path: old, source })?;
    }
    let mut rotated = log.as_os_str().to_owned();
    rotated.push(Timestamp::now().strftime(".%Y%m%d-%H%M%S").to_string());
    fs::rename(log, &rotated).map_err(fault("rename"))?;
    if let Err(error) = client.reopen_log(id).await {
        // The runtime goes on writing to the renamed file: give it its name back.
        fs::rename(&rotated, log).map_err(fault("give back the name of"))?;
        return Err(error.into());
    }
    Ok(())
}

/// The rotated files that must go before one more comes.
fn stale(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut old = rotated(log)?;
    let keep = MAX_FILES - 2;
    old.truncate(old.len().saturating_sub(keep));
    Ok(old)
}

/// All rotated files of a log, the oldest first.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}.", log.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(log.parent().unwrap_or(log))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// All files of one attempt's log.
pub(super) fn remove(log: &Path) -> io::Result<()> {
    let old = match rotated(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        old => old?,
    };
    for path in old.iter().map(PathBuf::as_path).chain([log]) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rotated_files_go_and_other_attempts_stay() {
        let dir = std::env::temp_dir().join(format!("pilotlight-logs-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let log = dir.join("1.log");
        for name in [
            "1.log",
            "1.log.20260101-000001",
            "1.log.20260101-000003",
            "1.log.20260101-000002",
            "1.log.20260101-000004",
            "11.log",
        ] {
            fs::write(dir.join(name), "x").unwrap();
        }
        assert_eq!(stale(&log).unwrap(), [dir.join("1.log.20260101-000001")]);
        remove(&log).unwrap();
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["11.log"]);
        fs::remove_dir_all(dir).unwrap();
    }
}
