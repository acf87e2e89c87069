//! Launches under way, on disk: what was about to be asked of EC2 when this process ended.
//!
//! ```text
//!  written (token, request, where it stands) -> the call -> written anew for the next call, or removed
//!        └── the process dies here ──> the next one makes the same call again, with the same token
//! ```
//!
//! With the same token EC2 gives the instances that the first call made, if it made any: so none is launched
//! twice. Each file is one part of a launch ([`super::attempts::parts`]).

use super::attempts::Progress;
use crate::files::write_atomic;
use crate::model::LaunchRequest;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Older ones are not made again: whoever waited has long asked anew.
const FRESH: SignedDuration = SignedDuration::from_mins(10);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub request: LaunchRequest,
    pub part: u32,
    pub progress: Progress,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Journal(PathBuf);

impl Journal {
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self(dir.to_owned()))
    }

    fn file(&self, token: &str, part: u32) -> PathBuf {
        self.0.join(format!("{token}-{part}.json"))
    }

    /// Replaces the file whole; of several that write the same at once any may be the last.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let file = self.file(entry.request.client_token.as_str(), entry.part);
        write_atomic(&file, &serde_json::to_vec(entry)?, 0o600)
    }

    pub fn remove(&self, entry: &Entry) -> io::Result<()> {
        match fs::remove_file(self.file(entry.request.client_token.as_str(), entry.part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What a former process left; what is too old or can't be read is removed.
    pub fn left(&self, now: Timestamp) -> io::Result<Vec<Entry>> {
        let mut left = Vec::new();
        for file in fs::read_dir(&self.0)? {
            let path = file?.path();
            let entry = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
            match entry.filter(|entry| now.duration_since(entry.at) < FRESH) {
                Some(entry) => left.push(entry),
                None => fs::remove_file(path)?,
            }
        }
        left.sort_by_key(|entry| entry.at);
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tags::tests::{offer, request};
    use super::*;
    use crate::model::Purchase;

    fn entry(part: u32, seconds: i64) -> Entry {
        Entry {
            request: request(vec![offer("c6i.large", Purchase::Spot, 1)], 3),
            part,
            progress: Progress::begin(3),
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds),
        }
    }

    #[test]
    fn the_same_written_by_several_at_once_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| journal.write(&entry(0, 600)).unwrap()));
            }
        });
        assert_eq!(journal.left(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(600)).unwrap().len(), 1);
    }

    #[test]
    fn what_was_under_way_is_found_again_until_it_is_removed_or_old() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let (first, second, old) = (entry(0, 600), entry(1, 601), entry(2, 0));
        for entry in [&first, &second, &old] {
            journal.write(entry).unwrap();
        }
        let advanced = Entry { progress: Progress { call: 1, number: 1, ..first.progress }, ..first.clone() };
        journal.write(&advanced).unwrap();
        fs::write(dir.path().join("half"), "{").unwrap();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(700);
        assert_eq!(journal.left(now).unwrap(), [advanced.clone(), second.clone()]);
        journal.remove(&advanced).unwrap();
        journal.remove(&advanced).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().left(now).unwrap(), [second]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
