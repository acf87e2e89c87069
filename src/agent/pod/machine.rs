//! What this machine is and allows.

use std::fs;

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub memory_bytes: u64,
    /// -1000, or 0 where the kernel lets nobody lower a score (no CAP_SYS_RESOURCE).
    pub lowest_oom_score: i64,
}

impl Machine {
    pub fn look() -> Self {
        Self { memory_bytes: memory(), lowest_oom_score: if may_lower_oom_score() { -1000 } else { 0 } }
    }
}

/// Without the figure (no machine is like that) everything burstable just looks small.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.map_or(u64::MAX / 2000, |kib| kib << 10)
}

/// Tries it on the agent's own score, and puts it back.
fn may_lower_oom_score() -> bool {
    let Some(own) = fs::read_to_string(OOM_SCORE).ok().and_then(|text| text.trim().parse::<i64>().ok()) else {
        return false;
    };
    let lower = (own.min(0) - 1).max(-1000);
    let lowered = fs::write(OOM_SCORE, lower.to_string()).is_ok();
    // Raising one's score is always allowed.
    lowered && fs::write(OOM_SCORE, own.to_string()).is_ok()
}
