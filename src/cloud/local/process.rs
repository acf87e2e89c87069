//! Knowing a process again: a pid alone may have been given to another.

use super::error::{Doing, LocalError};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::fs;

/// A process for all times: pid, start time in clock ticks since boot, and which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    pub start_ticks: u64,
    pub boot_id: String,
}

impl ProcessId {
    pub fn of_this_process() -> Result<Self, LocalError> {
        let stat = fs::read_to_string("/proc/self/stat").doing(|| "read /proc/self/stat".to_owned())?;
        let pid = Pid::this().as_raw();
        let (start_ticks, _) = parse_stat(&stat)
            .ok_or_else(|| LocalError::Content { path: "/proc/self/stat".into(), message: stat.clone() })?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// A zombie is not alive: it does nothing any more, whoever forgets to reap it.
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id
            && fs::read_to_string(format!("/proc/{}/stat", self.pid))
                .ok()
                .and_then(|stat| parse_stat(&stat))
                .is_some_and(|(start, state)| start == self.start_ticks && !matches!(state, 'Z' | 'X'))
    }

    /// A process that is gone already is no error.
    pub fn signal(&self, boot_id: &str, signal: Signal) {
        if self.is_alive(boot_id)
            && let Err(error) = kill(Pid::from_raw(self.pid), signal)
        {
            tracing::debug!(pid = self.pid, %signal, %error, "the signal did not reach its process");
        }
    }
}

pub fn boot_id() -> Result<String, LocalError> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).doing(|| format!("read {path}"))?.trim().to_owned())
}

/// Start time and state (proc_pid_stat(5): fields 22 and 3; the name in field 2 may hold anything).
fn parse_stat(stat: &str) -> Option<(u64, char)> {
    let mut rest = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = rest.next()?.chars().next()?;
    Some((rest.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_brackets_does_not_confuse() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9 9";
        assert_eq!(parse_stat(stat), Some((4711, 'S')));
        assert_eq!(parse_stat("7 (x"), None);
    }

    #[test]
    fn this_process_is_alive_and_one_with_its_pid_but_another_start_or_boot_is_not() {
        let boot = boot_id().unwrap();
        let me = ProcessId::of_this_process().unwrap();
        assert!(me.is_alive(&boot));
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me.clone() }.is_alive(&boot));
        assert!(!me.is_alive("another boot"));
    }

    #[test]
    fn a_child_that_nobody_reaped_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (start_ticks, _) = parse_stat(&stat()).unwrap();
        while parse_stat(&stat()).unwrap().1 != 'Z' {
            std::thread::yield_now();
        }
        let boot_id = boot_id().unwrap();
        assert!(!ProcessId { pid, start_ticks, boot_id: boot_id.clone() }.is_alive(&boot_id));
        child.wait().unwrap();
    }
}
