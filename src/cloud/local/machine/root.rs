//! A machine's file system: the host's operating system beneath, everything else its own.
//!
//! The root is an overlay: lower the host's `/`, upper a directory of the instance. Of the host's
//! top-level directories only those of the operating system are seen; the others (homes, data, this
//! project) are empty, as is whatever [`MachineSpec::hidden`] names.

use super::MachineSpec;
use crate::cloud::local::{
    cgroup::Cgroups,
    disk::{DISK, ROOT, UPPER, WORK, list},
    error::{Doing, LocalError},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::{chdir, pivot_root},
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// The operating system, and the directories that get a mount of their own here.
const KEPT: &[&str] = &[
    "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "opt", "boot", "dev", "proc", "sys", "run",
    "tmp",
];
/// Empty in a new machine, whatever the host has there: others write into them.
const EMPTY: &[&str] =
    &["etc/cni", "etc/containerd", "etc/kubernetes", "etc/pilotlight", "var/lib/kubelet", "var/log/containers"];
/// Character devices without state of their own, as a container engine makes them (the OCI runtime
/// specification's default devices), and the two that user programs mount and tunnel with.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun", "kmsg"];

/// Makes the root and enters it. To be called by PID 1 in all its new namespaces.
pub fn enter(dir: &Path, spec: &MachineSpec, cgroups: &Cgroups) -> Result<(), LocalError> {
    // Nothing of what follows is seen outside, nor what happens outside in here.
    do_mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let root = dir.join(ROOT);
    // volatile: no syncs. The upper layer is never used again after this boot.
    let options =
        format!("lowerdir=/,upperdir={},workdir={},volatile", dir.join(UPPER).display(), dir.join(WORK).display());
    do_mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(&options))?;
    hide(&root, spec)?;
    kernel_file_systems(&root, cgroups)?;
    devices(&root)?;
    for (name, target) in DISK {
        bind(&dir.join(name), &below(&root, Path::new(target)), false)?;
    }
    for tool in &spec.tools {
        bind(&tool.source, &below(&root, &tool.target), true)?;
    }
    identity(&root, spec)?;
    // The old root goes on top of the new one's "/" and is then taken away (pivot_root(2), NOTES).
    chdir(&root).doing(|| format!("enter {}", root.display()))?;
    pivot_root(".", ".").doing(|| "change the root".to_owned())?;
    umount2(".", MntFlags::MNT_DETACH).doing(|| "let go of the host's root".to_owned())?;
    chdir("/").doing(|| "enter the new root".to_owned())
}

fn hide(root: &Path, spec: &MachineSpec) -> Result<(), LocalError> {
    for path in list(root)? {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_dir && !KEPT.contains(&name) {
            tmpfs(&path, if name == "root" { "mode=700" } else { "mode=755" })?;
        }
    }
    tmpfs(&below(root, Path::new("/run")), "mode=755")?;
    tmpfs(&below(root, Path::new("/tmp")), "mode=1777")?;
    for name in EMPTY {
        let path = root.join(name);
        fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
        tmpfs(&path, "mode=755")?;
    }
    for hidden in &spec.hidden {
        let path = below(root, hidden);
        if path.is_dir() {
            tmpfs(&path, "mode=000,size=4k")?;
        }
    }
    Ok(())
}

fn kernel_file_systems(root: &Path, cgroups: &Cgroups) -> Result<(), LocalError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    do_mount(Some("proc"), &root.join("proc"), Some("proc"), flags, None)?;
    do_mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), flags, None)?;
    cgroups.mount_inside(root)
}

fn devices(root: &Path) -> Result<(), LocalError> {
    let dev = root.join("dev");
    do_mount(Some("dev"), &dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=16m"))?;
    for name in ["pts", "shm", "mqueue", "net"] {
        fs::create_dir(dev.join(name)).doing(|| format!("make /dev/{name}"))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    do_mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        flags,
        Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
    )?;
    do_mount(Some("shm"), &dev.join("shm"), Some("tmpfs"), flags | MsFlags::MS_NODEV, Some("mode=1777"))?;
    do_mount(Some("mqueue"), &dev.join("mqueue"), Some("mqueue"), flags | MsFlags::MS_NODEV, None)?;
    for name in DEVICES {
        // The host's say which number; what it lacks, its machines lack too.
        let Ok(metadata) = fs::metadata(Path::new("/dev").join(name)) else { continue };
        if !metadata.file_type().is_char_device() {
            continue;
        }
        let number = metadata.rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let mode = if *name == "kmsg" { 0o600 } else { 0o666 };
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(mode), makedev(major, minor))
            .map_err(std::io::Error::from)
            // mknod's mode is cut by the umask.
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .doing(|| format!("make /dev/{name}"))?;
    }
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name)).doing(|| format!("make /dev/{name}"))?;
    }
    Ok(())
}

/// The machine's own name, and the resolver as a plain file (the host's may be a link into /run).
fn identity(root: &Path, spec: &MachineSpec) -> Result<(), LocalError> {
    let resolv = fs::read("/etc/resolv.conf").unwrap_or_default();
    let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{}\t{}\n", spec.address, spec.instance);
    let files: [(&str, &[u8]); 3] =
        [("etc/hostname", spec.instance.as_bytes()), ("etc/hosts", hosts.as_bytes()), ("etc/resolv.conf", &resolv)];
    for (name, content) in files {
        let path = root.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
        }
        fs::write(&path, content).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), LocalError> {
    if source.is_dir() {
        fs::create_dir_all(target).doing(|| format!("make {}", target.display()))?;
    } else if !target.exists() {
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(target, ""))
            .doing(|| format!("make {}", target.display()))?;
    }
    do_mount(Some(&source.to_string_lossy()), target, None, MsFlags::MS_BIND, None)?;
    if read_only {
        // Flags of a bind mount count only when it is mounted again (mount(2)).
        do_mount(None, target, None, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None)?;
    }
    Ok(())
}

fn tmpfs(target: &Path, options: &str) -> Result<(), LocalError> {
    do_mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
}

fn do_mount(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), LocalError> {
    mount(source, target, kind, flags, options)
        .doing(|| format!("mount {} on {}", source.or(kind).unwrap_or("again"), target.display()))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
