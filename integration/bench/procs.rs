//! What /proc and /sys say: memory, processor time, the cluster's instances and agents, and whether the
//! machine is quiet.

use anyhow::{Context, Result, bail};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Bytes, resident.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub now: u64,
    pub high_water: u64,
}

/// The process of a file that scripts wrote: an id and its start time.
pub fn recorded(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let id = text.split_whitespace().next().and_then(|id| id.parse().ok());
    id.with_context(|| format!("{}: no process id", file.display()))
}

pub fn memory(process: u32) -> Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    match (bytes("VmRSS:"), bytes("VmHWM:")) {
        (Some(now), Some(high_water)) => Ok(Memory { now, high_water }),
        _ => bail!("{path} tells no memory: the process has ended"),
    }
}

/// Processor time in user and kernel mode since the process began.
pub fn cpu(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // proc(5): fields 14 and 15; the name before may have spaces and ends with the last ')'.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let a_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100);
    Ok(Duration::from_millis(ticks * 1000 / a_second))
}

/// Daemons that leave the processors to all others while this lives. Each is a scheduling group of its own, so it is the
/// group's nice value that counts (sched(7), "The autogroup feature").
pub struct Aside(Vec<u32>);

impl Aside {
    /// None where the kernel has no such groups.
    pub fn put(processes: Vec<u32>) -> Option<Self> {
        let aside = Self(processes);
        aside.nice(15).then_some(aside)
    }

    fn nice(&self, value: u8) -> bool {
        self.0.iter().all(|process| fs::write(format!("/proc/{process}/autogroup"), value.to_string()).is_ok())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.nice(0);
    }
}

/// The machine seen from one cluster.
pub struct Machine {
    cgroup: String,
}

impl Machine {
    pub fn new(cluster: &str) -> Self {
        Self { cgroup: format!("pilotlight/{cluster}") }
    }

    /// The agents in this cluster's instances.
    pub fn agents(&self) -> Result<Vec<u32>> {
        let mut agents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
                continue;
            };
            // The kernel keeps 15 characters of a name. Processes may go while this looks.
            let named = fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "pilotlight-agen");
            if named
                && fs::read_to_string(path.join("cgroup"))
                    .is_ok_and(|text| text.contains(&format!("{}/i-", self.cgroup)))
            {
                agents.push(id);
            }
        }
        Ok(agents)
    }

    /// How many instances have a cgroup: they boot, run or are being cleared away.
    fn instances(&self) -> Result<usize> {
        let mut found = BTreeSet::new();
        let root = Path::new("/sys/fs/cgroup");
        let mut places = vec![root.to_owned()];
        places.extend(fs::read_dir(root)?.filter_map(|entry| Some(entry.ok()?.path())));
        for place in places {
            // Most places are no hierarchy, or have none of ours.
            let Ok(entries) = fs::read_dir(place.join(&self.cgroup)) else { continue };
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            found.extend(names.filter(|name| name.starts_with("i-")));
        }
        Ok(found.len())
    }

    /// Waits until all that is left of earlier tries are `standby` instances whose agents are
    /// connected; then, for a while, until the machine is quiet. Says whether it was.
    pub async fn settle(&self, standby: usize) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut calm = 0;
        // A connection is there a moment before its agent is known: see it several times.
        while calm < 6 {
            let (instances, connected) = (self.instances()?, connected()?);
            calm = if instances == standby && connected == standby { calm + 1 } else { 0 };
            if Instant::now() > deadline {
                bail!("{instances} instances with {connected} connected agents stay, not {standby}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        quiet().await
    }
}

/// Waits, for a while, until the machine does little else. Says whether it got so.
pub async fn quiet() -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let before = busy()?;
        tokio::time::sleep(Duration::from_millis(250)).await;
        let after = busy()?;
        let (busy, all) = (after.0 - before.0, after.1 - before.1);
        if busy * 5 < all {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Established connections to the agents' port, in this network namespace.
fn connected() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/net/tcp")?;
    // The kernel prints addresses as little-endian hexadecimal: 10.72.0.1:10255, state 01.
    let ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"0100480A:280F") && fields.get(3) == Some(&"01")
    };
    Ok(text.lines().filter(ours).count())
}

/// Ticks in which the processors worked, and all ticks.
fn busy() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // proc(5): idle and iowait are the fourth and fifth.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().take(8).sum();
    Ok((all - idle, all))
}
