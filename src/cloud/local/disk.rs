//! A machine's files: the clone of the image, and their removal.

use super::error::{Doing, LocalError};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Subdirectories of an instance's directory, and where they are inside. containerd's root and the
/// volumes must be on a real file system: an overlay can't be the upper layer of another.
pub const DISK: &[(&str, &str)] = &[
    ("disk/containerd", "/var/lib/containerd"),
    ("disk/pilotlight", "/var/lib/pilotlight"),
    ("disk/pods-log", "/var/log/pods"),
    ("disk/cni", "/var/lib/cni"),
];
pub const UPPER: &str = "upper";
pub const WORK: &str = "work";
pub const ROOT: &str = "root";

/// What goes when a machine ends; its record and console stay.
const MACHINE_FILES: &[&str] = &[UPPER, WORK, ROOT, "disk", super::record::USER_DATA];

const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

/// A copy of a containerd root under way.
pub struct Clone {
    /// None once it was waited for.
    child: Option<Child>,
    image: PathBuf,
    target: PathBuf,
}

pub fn make_directories(dir: &Path) -> Result<(), LocalError> {
    for name in [UPPER, WORK, ROOT].into_iter().chain(DISK.iter().map(|(name, _)| *name)) {
        let path = dir.join(name);
        fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

/// Starts to clone `image` into the machine's containerd root: files are linked, as blobs and committed
/// snapshots never change in place. `cp` knows about attributes, devices and other file systems.
pub fn start_clone(image: &Path, dir: &Path) -> Result<Clone, LocalError> {
    let target = dir.join(DISK[0].0);
    let child = Command::new("cp")
        .args(["--archive", if same_device(image, &target)? { "--link" } else { "--reflink=auto" }, "--"])
        .arg(image.join("."))
        .arg(&target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| "start cp".to_owned())?;
    Ok(Clone { child: Some(child), image: image.to_owned(), target })
}

impl Clone {
    /// Waits for its end, and gives the machine its own databases: those are written in place.
    pub fn finish(mut self) -> Result<(), LocalError> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let output = child.wait_with_output().doing(|| "wait for cp".to_owned())?;
        if !output.status.success() {
            return Err(LocalError::Command {
                command: format!("cp of {}", self.image.display()),
                message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        for plugin in list(&self.target)? {
            if !plugin.is_dir() {
                continue;
            }
            for file in list(&plugin)? {
                if file.extension().is_some_and(|extension| extension == "db") {
                    let copy = file.with_extension("db.copy");
                    fs::copy(&file, &copy)
                        .and_then(|_| fs::rename(&copy, &file))
                        .doing(|| format!("copy {}", file.display()))?;
                }
            }
        }
        Ok(())
    }
}

/// A clone that nobody wants any more must not write into what is being removed.
impl Drop for Clone {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended, and there is nobody left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Removes everything of the machine but its record and console.
pub fn remove_machine_files(dir: &Path) -> Result<(), LocalError> {
    for name in MACHINE_FILES {
        remove(&dir.join(name))?;
    }
    Ok(())
}

/// What is not there is no error. The `cp` of a killed supervisor may still be writing here: it fails
/// and ends as soon as its directories are gone, so what it adds meanwhile is removed again.
pub fn remove(path: &Path) -> Result<(), LocalError> {
    let deadline = Instant::now() + REMOVE_PATIENCE;
    loop {
        let result = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound)
                    && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result.doing(|| format!("remove {}", path.display())),
        }
    }
}

pub fn list(dir: &Path) -> Result<Vec<PathBuf>, LocalError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .doing(|| format!("list {}", dir.display()))
}

fn same_device(a: &Path, b: &Path) -> Result<bool, LocalError> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).doing(|| format!("look at {}", path.display()));
    Ok(device(a)? == device(b)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_clone_shares_files_with_its_image_but_not_databases() {
        let base = std::env::temp_dir().join(format!("pilotlight-disk-{}", std::process::id()));
        let (image, dir) = (base.join("image"), base.join("machine"));
        let plugin = image.join("io.containerd.metadata.v1.bolt");
        fs::create_dir_all(&plugin).unwrap();
        fs::write(plugin.join("meta.db"), "database").unwrap();
        fs::write(plugin.join("blob"), "blob").unwrap();
        make_directories(&dir).unwrap();
        start_clone(&image, &dir).unwrap().finish().unwrap();

        let cloned = dir.join("disk/containerd/io.containerd.metadata.v1.bolt");
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(cloned.join("blob")), inode(plugin.join("blob")));
        assert_ne!(inode(cloned.join("meta.db")), inode(plugin.join("meta.db")));
        assert_eq!(fs::read_to_string(cloned.join("meta.db")).unwrap(), "database");

        remove_machine_files(&dir).unwrap();
        assert!(list(&dir).unwrap().is_empty());
        assert_eq!(fs::read_to_string(plugin.join("blob")).unwrap(), "blob");
        remove(&base).unwrap();
    }
}
