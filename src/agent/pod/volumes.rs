//! The Pod's volumes and the files beside them, on this machine. Blocking: call off the async threads.
//!
//! ```text
//! <pods>/<uid>/volumes/<volume>               emptyDir (tmpfs for Memory), files (always tmpfs: they
//!                                              may be secrets, and secrets never touch a disk)
//! <pods>/<uid>/etc-hosts                       the managed /etc/hosts
//! <pods>/<uid>/containers/<container>/<n>      termination message of the nth start
//! <pods>/<uid>/subpaths/<container>/<i>        bind of a subPath, pinned so that it can't escape
//! ```
//!
//! Everything is idempotent: what is there and right is left alone, so an agent that comes back, or a
//! new generation, only changes what differs.

mod atomic;
mod hosts;
mod mounts;
mod subpath;

pub(super) use mounts::of_container;

use crate::model::{DesiredPod, DesiredVolume, DesiredVolumeSource, PodUid};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{Gid, chown},
};
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
    SetUp { volume: String, reason: String },
    #[error("{operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\": {reason}")]
    SubPath { mount: String, container: String, reason: String },
    #[error("still mounted: {}", .0.display())]
    StillMounted(PathBuf),
}

impl VolumeError {
    fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}

/// Where one Pod's things lie.
#[derive(Clone, Debug)]
pub(super) struct PodDir(PathBuf);

impl PodDir {
    pub fn new(pods: &Path, uid: &PodUid) -> Self {
        Self(pods.join(uid.as_str()))
    }
    fn volume(&self, name: &str) -> PathBuf {
        self.0.join("volumes").join(name)
    }
    fn hosts(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }
    fn termination_message(&self, container: &str, number: u32) -> PathBuf {
        self.0.join("containers").join(container).join(number.to_string())
    }
    fn sub_path(&self, container: &str, index: usize) -> PathBuf {
        self.0.join("subpaths").join(container).join(index.to_string())
    }
}

/// Makes the volumes as desired. Those that are blocked are left as they are.
pub(super) fn set_up(pod: &DesiredPod, dir: &PodDir) -> Result<(), VolumeError> {
    fs::create_dir_all(&dir.0).map_err(VolumeError::file("make", &dir.0))?;
    // Volumes hold secrets; the way to them is through mounts alone.
    set_mode(&dir.0, 0o750)?;
    for volume in &pod.volumes {
        set_up_one(pod, volume, dir).map_err(|error| match error {
            VolumeError::SetUp { .. } => error,
            other => VolumeError::SetUp { volume: volume.name.clone(), reason: other.to_string() },
        })?;
    }
    hosts::write(pod, &dir.hosts())
}

fn set_up_one(pod: &DesiredPod, volume: &DesiredVolume, dir: &PodDir) -> Result<(), VolumeError> {
    let path = dir.volume(&volume.name);
    let fs_group = pod.security.fs_group;
    match &volume.source {
        DesiredVolumeSource::EmptyDir { memory, size_limit_bytes } => {
            let new = !path.exists();
            fs::create_dir_all(&path).map_err(VolumeError::file("make", &path))?;
            let mounted = *memory && tmpfs(&path, *size_limit_bytes)?;
            if new || mounted {
                // pkg/volume/emptydir: 0777 whatever the umask; then `SetVolumeOwnership`.
                set_mode(&path, 0o777 | fs_group.map_or(0, |_| 0o2000))?;
                own(&path, fs_group)?;
            }
            Ok(())
        }
        DesiredVolumeSource::HostPath { path, kind } => host_path(Path::new(path), kind)
            .map_err(|reason| VolumeError::SetUp { volume: volume.name.clone(), reason }),
        DesiredVolumeSource::Files(files) => {
            fs::create_dir_all(&path).map_err(VolumeError::file("make", &path))?;
            tmpfs(&path, None)?;
            set_mode(&path, 0o777 | fs_group.map_or(0, |_| 0o2000))?;
            own(&path, fs_group)?;
            atomic::write(&path, files, fs_group)
        }
        DesiredVolumeSource::Blocked(_) => Ok(()),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(VolumeError::file("set the mode of", path))
}

/// Gives it to the group, if there is one.
fn own(path: &Path, group: Option<i64>) -> Result<(), VolumeError> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    chown(path, None, Some(Gid::from_raw(group))).map_err(|e| VolumeError::file("give to its group", path)(e.into()))
}

/// Mounts a tmpfs unless there is one; says whether it did.
fn tmpfs(path: &Path, size: Option<u64>) -> Result<bool, VolumeError> {
    if is_mount_point(path)? {
        return Ok(false);
    }
    let options = size.map(|size| format!("size={size}"));
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref())
        .map_err(|errno| VolumeError::file("mount a tmpfs on", path)(errno.into()))?;
    Ok(true)
}

fn is_mount_point(path: &Path) -> Result<bool, VolumeError> {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).map_err(VolumeError::file("look at", path));
    Ok(device(path)? != device(path.parent().unwrap_or(path))?)
}

/// pkg/volume/hostpath/host_path.go: what must be there, or is made.
fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let fault = |what: &str| format!("hostPath type check failed: {shown} is not {what}");
    let found = fs::metadata(path);
    let make = |result: io::Result<()>| result.map_err(|error| format!("{kind} {shown}: {error}"));
    match (kind, found) {
        ("DirectoryOrCreate", Err(_)) => make(fs::create_dir_all(path)),
        ("FileOrCreate", Err(_)) => make(fs::OpenOptions::new().create(true).append(true).open(path).map(drop)),
        ("Directory" | "DirectoryOrCreate", Ok(found)) if found.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Ok(found)) if found.is_file() => Ok(()),
        ("Socket", Ok(found)) if found.file_type().is_socket() => Ok(()),
        ("CharDevice", Ok(found)) if found.file_type().is_char_device() => Ok(()),
        ("BlockDevice", Ok(found)) if found.file_type().is_block_device() => Ok(()),
        ("", _) => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => Err(fault("a directory")),
        ("File" | "FileOrCreate", _) => Err(fault("a file")),
        ("Socket", _) => Err(fault("a socket file")),
        ("CharDevice", _) => Err(fault("a character device")),
        ("BlockDevice", _) => Err(fault("a block device")),
        (other, _) => Err(format!("unknown hostPath type {other}")),
    }
}

/// Unmounts and removes all of a Pod's. Nothing is removed while anything is mounted below: it might be
/// a host's directory (a subPath of a hostPath volume).
pub(super) fn tear_down(dir: &PodDir) -> Result<(), VolumeError> {
    // The last mounted comes off first.
    for point in mounts_below(&dir.0)?.into_iter().rev() {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Gone with the one it lay on.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(VolumeError::file("unmount", &point)(errno.into())),
        }
    }
    if let Some(point) = mounts_below(&dir.0)?.into_iter().next() {
        return Err(VolumeError::StillMounted(point));
    }
    match fs::remove_dir_all(&dir.0) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeError::file("remove", &dir.0)(error)),
        _ => Ok(()),
    }
}

fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(VolumeError::file("read", table))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// proc(5): blanks and backslashes are written in octal.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_what_their_type_says_or_a_clear_fault() {
        let dir = std::env::temp_dir().join(format!("pilotlight-hostpath-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        assert_eq!(host_path(&file, "FileOrCreate"), Ok(()));
        assert_eq!(host_path(&file, "File"), Ok(()));
        assert_eq!(host_path(&dir.join("new/deep"), "DirectoryOrCreate"), Ok(()));
        assert_eq!(host_path(Path::new("/dev/null"), "CharDevice"), Ok(()));
        assert_eq!(host_path(&dir.join("absent"), ""), Ok(()));
        let fault = format!("hostPath type check failed: {} is not a directory", file.display());
        assert_eq!(host_path(&file, "Directory"), Err(fault));
        assert!(host_path(&dir.join("absent"), "Socket").is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
