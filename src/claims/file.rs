//! The claims in a file, for a provider that is the only replica.
//!
//! Its version is the digest of its content; a lock beside it keeps two processes of one host apart.

use super::{ClaimStore, Claims, Replaced, Stored, Version};
use crate::files::write_atomic;
use crate::model::bootstrap::hex;
use crate::ports::LedgerError;
use async_trait::async_trait;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use tokio::task::spawn_blocking;

pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let path = self.path.clone();
        let failed = |message: String| LedgerError { operation, message };
        let worked = spawn_blocking(move || work(&path).map_err(|error| format!("{}: {error}", path.display())));
        worked.await.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }
}

#[async_trait]
impl ClaimStore for FileStore {
    async fn load(&self) -> Result<Stored, LedgerError> {
        self.blocking("read", read).await
    }

    async fn replace(&self, claims: &Claims, version: &Version) -> Result<Replaced, LedgerError> {
        let (claims, version) = (claims.clone(), version.clone());
        self.blocking("written", move |path| {
            let _lock = lock(path)?;
            if read(path)?.version != version {
                return Ok(Replaced::Conflict);
            }
            let text = serde_json::to_vec_pretty(&claims)?;
            write_atomic(path, &text, 0o600)?;
            // The new name, too, must survive a loss of power.
            File::open(directory(path))?.sync_all()?;
            Ok(Replaced::Now(Some(digest(&text))))
        })
        .await
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    match fs::read(path) {
        Ok(text) => Ok(Stored { claims: serde_json::from_slice(&text)?, version: Some(digest(&text)) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stored::default()),
        Err(error) => Err(error),
    }
}

/// Held until it is dropped.
fn lock(path: &Path) -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory(path))?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.with_extension("lock"))?;
    file.lock()?;
    Ok(file)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn digest(text: &[u8]) -> String {
    hex(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, bootstrap::KeyFingerprint};

    #[tokio::test]
    async fn of_two_that_read_the_same_one_writes_and_what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/claims.json");
        let (one, two) = (FileStore::new(path.clone()), FileStore::new(path));
        assert_eq!(one.load().await.unwrap(), Stored::default());
        let claims = |n: u8| Claims::from([(InstanceId::new("i-1"), KeyFingerprint::of(&[n]))]);
        let Replaced::Now(version) = one.replace(&claims(1), &None).await.unwrap() else { panic!("a conflict") };
        assert_eq!(two.replace(&claims(2), &None).await.unwrap(), Replaced::Conflict);
        assert_eq!(two.load().await.unwrap(), Stored { claims: claims(1), version: version.clone() });
        assert!(matches!(two.replace(&claims(2), &version).await.unwrap(), Replaced::Now(_)));
        assert_eq!(one.replace(&claims(3), &version).await.unwrap(), Replaced::Conflict);
    }

    #[tokio::test]
    async fn a_file_that_is_damaged_is_an_error_and_not_an_empty_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claims.json");
        fs::write(&path, r#"{"i-1": "short"}"#).unwrap();
        let error = FileStore::new(path).load().await.unwrap_err();
        assert!(error.message.contains("claims.json"), "{error}");
    }
}
