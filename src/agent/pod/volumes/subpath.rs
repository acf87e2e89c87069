//! A subPath, pinned: what is mounted is the very file or directory that was checked to lie in the
//! volume, whatever a container does to the path afterwards.
//!
//! The kernel does the check (openat2(2) with RESOLVE_BENEATH: no step, symlink or not, leaves the
//! volume); the descriptor it gives is bound to a place of ours, and that is what the container gets.

use super::MntFlags;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};
use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Component, Path, PathBuf},
};

/// Binds `volume`/`sub` to `target`, making the directories that are missing.
pub(super) fn bind(volume: &Path, sub: &str, target: &Path) -> io::Result<()> {
    let pinned = pin(volume, sub)?;
    let is_dir =
        fstat(&pinned).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)?;
    release(target)?;
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", pinned.as_raw_fd()));
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Takes off what an earlier start of the container left.
fn release(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(_) => Ok(()),
    }
}

fn pin(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let root = open(nix::fcntl::AT_FDCWD, volume, ResolveFlag::empty())?;
    let mode = Mode::from_bits_truncate(fstat(&root)?.st_mode) & Mode::from_bits_truncate(0o7777);
    let mut at = PathBuf::new();
    let mut here = root.try_clone()?;
    for part in Path::new(sub).components() {
        let Component::Normal(name) = part else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a subPath must be relative, without `..`"));
        };
        at.push(name);
        here = match open(root.as_fd(), &at, beneath()) {
            Err(Errno::ENOENT) => {
                match mkdirat(&here, name, mode) {
                    Ok(()) => {
                        let made = open(root.as_fd(), &at, beneath())?;
                        // Whatever the umask: who may write to the volume may write here.
                        let permissions = fs::Permissions::from_mode(mode.bits());
                        fs::set_permissions(format!("/proc/self/fd/{}", made.as_raw_fd()), permissions)?;
                        made
                    }
                    // Somebody was faster.
                    Err(Errno::EEXIST) => open(root.as_fd(), &at, beneath())?,
                    Err(errno) => return Err(errno.into()),
                }
            }
            other => other?,
        };
    }
    Ok(here)
}

fn beneath() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS
}

fn open<Fd: AsFd>(at: Fd, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    openat2(at, path, OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pilotlight-subpath-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("volume")).unwrap();
        path
    }

    #[test]
    fn missing_directories_are_made_and_a_link_within_the_volume_is_followed() {
        let dir = dir("made");
        let volume = dir.join("volume");
        pin(&volume, "a/b").unwrap();
        assert!(volume.join("a/b").is_dir());
        fs::write(volume.join("a/file"), "x").unwrap();
        symlink("a/file", volume.join("link")).unwrap();
        pin(&volume, "link").unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_path_and_no_link_leads_out_of_the_volume() {
        let dir = dir("out");
        let volume = dir.join("volume");
        fs::write(dir.join("secret"), "x").unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        symlink("../missing", volume.join("dangling")).unwrap();
        for sub in ["up/secret", "etc/passwd", "../secret", "/etc", "up", "dangling", "dangling/x"] {
            assert!(pin(&volume, sub).is_err(), "{sub}");
        }
        assert!(!dir.join("missing").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
