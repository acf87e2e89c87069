//! The cgroup that makes an instance's size real, in every hierarchy the host has.
//!
//! `<mount>/pilotlight/<cluster>/<instance>` is the root of the instance's cgroup namespace: inside,
//! each hierarchy is mounted again and begins there. cgroup v1 (each controller apart), v2 (unified),
//! and both side by side (hybrid: the unified one has no controllers) are known.
//!
//! v2 lets no cgroup both hold processes and give controllers to its children, unless it is the real
//! root; the root of a namespace is not exempt (kernel: Documentation/admin-guide/cgroup-v2.rst, "No
//! Internal Process Constraint"). So PID 1 joins the instance's cgroup, unshares the namespace there,
//! and then moves to the leaf `init`, after which containerd may give controllers to its containers.

use super::error::{Doing, LocalError};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "pilotlight";
/// PID 1 and its services live in this leaf on v2.
pub const LEAF: &str = "init";
/// The default of the kernel and of every runtime.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// What containers are limited by. (Beside v1 the unified hierarchy may have others: nothing here needs
/// them, and whoever stands in a cgroup namespace's root may not give them.)
const V2_CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "cpuset", "io"];
/// The kernel's default of `kernel.pid_max` for a machine of up to 32 processors (proc_sys_kernel(5)): a
/// fork bomb takes its own machine's processes, not the host's.
const MAX_PROCESSES: u32 = 32_768;
/// A cgroup whose last process has just died refuses to go for a moment.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

/// One mounted cgroup hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    pub version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// What to say to mount it again: `cpu,cpuacct`, `name=systemd`.
    V1 {
        options: String,
    },
    V2,
}

impl Version {
    fn has(&self, controller: &str) -> bool {
        matches!(self, Self::V1 { options } if options.split(',').any(|option| option == controller))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// An instance's cgroups in all hierarchies.
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    cluster: String,
    instance: String,
}

impl Cgroups {
    pub fn new(cluster: &str, instance: &str) -> Result<Self, LocalError> {
        Ok(Self { hierarchies: hierarchies()?, cluster: cluster.to_owned(), instance: instance.to_owned() })
    }

    fn dir(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount_point.join(PARENT).join(&self.cluster).join(&self.instance)
    }

    /// Makes them, and sets the size. An error if no controller enforces CPU or memory.
    pub fn create(&self, size: Size) -> Result<(), LocalError> {
        let root = open_root()?;
        root.lock_shared().doing(|| format!("lock {ROOT}"))?;
        let (mut cpu, mut memory) = (false, false);
        for hierarchy in &self.hierarchies {
            let mut dir = hierarchy.mount_point.clone();
            for name in [PARENT, &self.cluster, &self.instance] {
                if hierarchy.version == Version::V2 {
                    give_controllers(&dir)?;
                }
                let parent = dir.clone();
                dir.push(name);
                fs::create_dir_all(&dir).doing(|| format!("make cgroup {}", dir.display()))?;
                if hierarchy.version.has("cpuset") {
                    copy_cpuset(&parent, &dir)?;
                }
            }
            for (file, value) in limits(&hierarchy.version, size) {
                let path = dir.join(file);
                if path.exists() {
                    fs::write(&path, &value).doing(|| format!("write {value} to {}", path.display()))?;
                    cpu |= file.starts_with("cpu.");
                    memory |= file.starts_with("memory.");
                }
            }
        }
        if cpu && memory {
            Ok(())
        } else {
            Err(LocalError::Host(
                "no cgroup controller for cpu and memory, so no instance type's size holds".to_owned(),
            ))
        }
    }

    /// Moves this process in.
    pub fn join(&self) -> Result<(), LocalError> {
        for hierarchy in &self.hierarchies {
            enter(&self.dir(hierarchy))?;
        }
        Ok(())
    }

    /// Mounts the hierarchies beneath `root`, where the host has them. To be called in the new cgroup
    /// namespace: it decides what the mounts show.
    pub fn mount_inside(&self, root: &Path) -> Result<(), LocalError> {
        let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        let base = below(Path::new(ROOT));
        if self.hierarchies.iter().any(|h| h.mount_point != Path::new(ROOT)) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("cgroup"), &base, Some("tmpfs"), flags, Some("mode=755,size=1m"))
                .doing(|| format!("mount a tmpfs on {}", base.display()))?;
        }
        for hierarchy in &self.hierarchies {
            let target = below(&hierarchy.mount_point);
            fs::create_dir_all(&target).doing(|| format!("make {}", target.display()))?;
            let (kind, options) = match &hierarchy.version {
                Version::V1 { options } => ("cgroup", Some(options.as_str())),
                Version::V2 => ("cgroup2", None),
            };
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some(kind), &target, Some(kind), flags, options)
                .doing(|| format!("mount {kind} on {}", target.display()))?;
            link_names_of_joint_controllers(&target)?;
            if hierarchy.version == Version::V2 && !controllers(&target).is_empty() {
                let leaf = target.join(LEAF);
                fs::create_dir_all(&leaf).doing(|| format!("make cgroup {}", leaf.display()))?;
                enter(&leaf)?;
                give_controllers(&target)?;
            }
        }
        Ok(())
    }

    /// Kills what is still in them, and removes them bottom-up. What is gone is no error.
    pub fn remove(&self) -> Result<(), LocalError> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        for hierarchy in &self.hierarchies {
            remove_tree(&self.dir(hierarchy), deadline)?;
        }
        Ok(())
    }
}

/// Removes the cluster's cgroups, and ours above it if no other cluster uses it.
pub fn remove_cluster(cluster: &str) -> Result<(), LocalError> {
    // Else it could go between another cluster's making it and making its own in it.
    let root = open_root()?;
    root.lock().doing(|| format!("lock {ROOT}"))?;
    for hierarchy in hierarchies()? {
        let parent = hierarchy.mount_point.join(PARENT);
        remove_tree(&parent.join(cluster), Instant::now() + REMOVE_PATIENCE)?;
        match fs::remove_dir(&parent) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
                return Err(error).doing(|| format!("remove cgroup {}", parent.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn open_root() -> Result<File, LocalError> {
    File::open(ROOT).doing(|| format!("open {ROOT}"))
}

fn enter(dir: &Path) -> Result<(), LocalError> {
    // 0 is the writer, whatever its number is in whose namespace.
    let path = dir.join("cgroup.procs");
    fs::write(&path, "0").doing(|| format!("join {}", path.display()))
}

fn hierarchies() -> Result<Vec<Hierarchy>, LocalError> {
    let path = "/proc/self/mountinfo";
    let found = parse_mountinfo(&fs::read_to_string(path).doing(|| format!("read {path}"))?);
    if found.is_empty() {
        return Err(LocalError::Host("no cgroup hierarchy is mounted".to_owned()));
    }
    Ok(found)
}

/// Each hierarchy once, below /sys/fs/cgroup (proc_pid_mountinfo(5): field 5 is where, after ` - ` come
/// the type, the source and the superblock's options).
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(mount_point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        let version = match right.next() {
            Some("cgroup2") => Version::V2,
            Some("cgroup") => {
                let ignored = |o: &&str| !matches!(*o, "rw" | "ro" | "xattr") && !o.starts_with("release_agent=");
                let options: Vec<&str> = right.nth(1).unwrap_or_default().split(',').filter(ignored).collect();
                Version::V1 { options: options.join(",") }
            }
            _ => continue,
        };
        if Path::new(mount_point).starts_with(ROOT) && !found.iter().any(|h| h.version == version) {
            found.push(Hierarchy { mount_point: mount_point.into(), version });
        }
    }
    found
}

/// What makes a size real: files and values.
fn limits(version: &Version, size: Size) -> Vec<(&'static str, String)> {
    let quota = size.cpu_millis * CPU_PERIOD_MICROS / 1000;
    match version {
        Version::V1 { .. } => {
            let mut limits = Vec::new();
            if version.has("cpu") {
                limits.push(("cpu.cfs_period_us", CPU_PERIOD_MICROS.to_string()));
                limits.push(("cpu.cfs_quota_us", quota.to_string()));
            }
            if version.has("memory") {
                limits.push(("memory.limit_in_bytes", size.memory_bytes.to_string()));
            }
            if version.has("pids") {
                limits.push(("pids.max", MAX_PROCESSES.to_string()));
            }
            limits
        }
        Version::V2 => vec![
            ("cpu.max", format!("{quota} {CPU_PERIOD_MICROS}")),
            ("memory.max", size.memory_bytes.to_string()),
            // Machines have no swap.
            ("memory.swap.max", "0".to_owned()),
            ("pids.max", MAX_PROCESSES.to_string()),
        ],
    }
}

fn controllers(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let known = |name: &&str| V2_CONTROLLERS.contains(name);
    text.split_whitespace().filter(known).map(str::to_owned).collect()
}

fn give_controllers(dir: &Path) -> Result<(), LocalError> {
    let line: Vec<String> = controllers(dir).iter().map(|name| format!("+{name}")).collect();
    if line.is_empty() {
        return Ok(());
    }
    let path = dir.join("cgroup.subtree_control");
    fs::write(&path, line.join(" ")).doing(|| format!("write to {}", path.display()))
}

/// A cpuset takes no process until it has CPUs and memory nodes (v1).
fn copy_cpuset(parent: &Path, dir: &Path) -> Result<(), LocalError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), dir.join(file));
        if fs::read_to_string(&to).doing(|| format!("read {}", to.display()))?.trim().is_empty() {
            let value = fs::read_to_string(&from).doing(|| format!("read {}", from.display()))?;
            fs::write(&to, value.trim()).doing(|| format!("write to {}", to.display()))?;
        }
    }
    Ok(())
}

/// `cpu` and `cpuacct` beside `cpu,cpuacct`, as every host has them.
fn link_names_of_joint_controllers(target: &Path) -> Result<(), LocalError> {
    let Some(name) = target.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(',')) else {
        return Ok(());
    };
    for part in name.split(',') {
        let link = target.with_file_name(part);
        std::os::unix::fs::symlink(name, &link).doing(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), LocalError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).doing(|| format!("list cgroup {}", dir.display())),
    };
    for entry in entries {
        let entry = entry.doing(|| format!("list cgroup {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), deadline)?;
        }
    }
    loop {
        kill_all(dir);
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel tells nobody when a dying cgroup is free: ask again.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            result => return result.doing(|| format!("remove cgroup {}", dir.display())),
        }
    }
}

fn kill_all(dir: &Path) {
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
        // Gone meanwhile: so much the better.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_HOST: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
52 99 0:32 / /somewhere/else rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn each_hierarchy_of_a_host_is_found_once_with_what_mounts_it_again() {
        let found = parse_mountinfo(V1_HOST);
        let told: Vec<_> = found
            .iter()
            .map(|h| match &h.version {
                Version::V1 { options } => (h.mount_point.to_str().unwrap(), options.as_str()),
                Version::V2 => (h.mount_point.to_str().unwrap(), "v2"),
            })
            .collect();
        assert_eq!(
            told,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
                ("/sys/fs/cgroup/memory", "memory"),
                ("/sys/fs/cgroup/systemd", "name=systemd"),
                ("/sys/fs/cgroup/unified", "v2"),
            ]
        );
        let unified = parse_mountinfo("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(unified, [Hierarchy { mount_point: "/sys/fs/cgroup".into(), version: Version::V2 }]);
    }

    #[test]
    fn a_size_becomes_a_quota_and_a_limit_in_either_version() {
        let size = Size { cpu_millis: 1500, memory_bytes: 1 << 30 };
        let v1 = |options: &str| limits(&Version::V1 { options: options.to_owned() }, size);
        assert_eq!(v1("cpu,cpuacct")[1], ("cpu.cfs_quota_us", "150000".to_owned()));
        assert_eq!(v1("memory"), [("memory.limit_in_bytes", "1073741824".to_owned())]);
        assert_eq!(v1("pids"), [("pids.max", "32768".to_owned())]);
        assert_eq!(v1("cpuset"), []);
        let v2 = limits(&Version::V2, size);
        assert_eq!(v2[0], ("cpu.max", "150000 100000".to_owned()));
        assert_eq!(v2[1], ("memory.max", "1073741824".to_owned()));
        assert_eq!(v2[3], ("pids.max", "32768".to_owned()));
    }
}
