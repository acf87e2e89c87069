//! What PID 1 runs, and how it ends it.
//!
//! ```text
//!  a service:  Running(pid) ── ended ──> Due(in RESTART_DELAY) ── time ──> Running(new pid)
//!
//!  shutdown:   the last service (the agent) ─> containers ─> the other services, last first ─> exit
//!              each: SIGTERM, then SIGKILL after STEP_LIMIT
//! ```
//!
//! Services stop in the reverse order of their start; the containers go before the one that runs them.
//! What is left then (shims) goes with the pid namespace.

use super::{
    console,
    signals::{Signals, Woken, reap},
};
use crate::cloud::local::{
    cgroup::LEAF,
    error::{Doing, LocalError},
    user_data::Service,
};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, setsid},
};
use std::{
    fs, io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// systemd's default is 100 ms (RestartSec=); a service that fails at once should not eat a small
/// machine's CPU.
const RESTART_DELAY: Duration = Duration::from_millis(500);
/// Pods have been stopped with their own grace before the machine is ended; this is for what is left.
const STEP_LIMIT: Duration = Duration::from_secs(4);
/// A container's end is no child's end of PID 1: it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub struct Services(Vec<Running>);

struct Running {
    service: Service,
    state: State,
}

enum State {
    Running(i32),
    Due(Instant),
}

impl Services {
    /// Starts all at once: each waits for what it needs of the others.
    pub fn start(services: Vec<Service>) -> Self {
        let now = Instant::now();
        let mut all = Self(services.into_iter().map(|service| Running { service, state: State::Due(now) }).collect());
        all.start_due();
        all
    }

    pub fn start_due(&mut self) {
        let now = Instant::now();
        for running in &mut self.0 {
            if matches!(running.state, State::Due(at) if at <= now) {
                running.state = match spawn(&running.service) {
                    Ok(pid) => State::Running(pid),
                    Err(error) => {
                        console(&format!("{} did not start: {error}", running.service.name));
                        State::Due(now + RESTART_DELAY)
                    }
                };
            }
        }
    }

    pub fn next_start(&self) -> Option<Instant> {
        let due = |running: &Running| match running.state {
            State::Due(at) => Some(at),
            State::Running(_) => None,
        };
        self.0.iter().filter_map(due).min()
    }

    /// Takes note of every ended child; orphans of the machine are PID 1's children too.
    pub fn reap(&mut self) {
        while let Some((pid, how)) = reap() {
            if let Some(running) = self.0.iter_mut().find(|r| matches!(r.state, State::Running(p) if p == pid)) {
                console(&format!("{} {how}", running.service.name));
                running.state = State::Due(Instant::now() + RESTART_DELAY);
            }
        }
    }

    pub fn shut_down(mut self, signals: &Signals) -> Result<(), LocalError> {
        let agent = self.0.len().saturating_sub(1);
        self.stop(agent, signals)?;
        stop_containers(&mut self, signals)?;
        for index in (0..agent).rev() {
            self.stop(index, signals)?;
        }
        Ok(())
    }

    fn stop(&mut self, index: usize, signals: &Signals) -> Result<(), LocalError> {
        let pid = move |all: &mut Self| match all.0.get(index)?.state {
            State::Running(pid) => Some(pid),
            State::Due(_) => None,
        };
        end(self, signals, move |all| pid(all).into_iter().collect())
    }
}

fn stop_containers(services: &mut Services, signals: &Signals) -> Result<(), LocalError> {
    end(services, signals, |_| container_processes(Path::new("/proc")))
}

/// SIGTERM to what `find` finds, and SIGKILL after STEP_LIMIT, until it finds nothing.
fn end(services: &mut Services, signals: &Signals, find: impl Fn(&mut Services) -> Vec<i32>) -> Result<(), LocalError> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + STEP_LIMIT;
        let mut told: Vec<i32> = Vec::new();
        while Instant::now() < deadline {
            services.reap();
            let found = find(services);
            if found.is_empty() {
                return Ok(());
            }
            for pid in found {
                if !told.contains(&pid) {
                    told.push(pid);
                    // It may have ended since.
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
            while signals.wait(None, Some(Instant::now() + LOOK_AGAIN))? == Woken::Stop {}
        }
    }
    console("something did not end even when killed");
    Ok(())
}

/// Processes in cgroups of their own: PID 1, the services and the shims are all in the machine's.
fn container_processes(proc: &Path) -> Vec<i32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let in_container = |pid: &i32| {
        let text = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).unwrap_or_default();
        text.lines().any(is_below_the_machines)
    };
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(in_container).collect()
}

/// A line of /proc/<pid>/cgroup (cgroups(7)): `number:controllers:path`, the path as of the namespace.
fn is_below_the_machines(line: &str) -> bool {
    line.splitn(3, ':').nth(2).is_some_and(|path| path != "/" && path.strip_prefix('/') != Some(LEAF))
}

fn spawn(service: &Service) -> Result<i32, LocalError> {
    let console = || io::stderr().as_fd().try_clone_to_owned().doing(|| "share the console".to_owned());
    let child = Command::new("/proc/self/exe")
        .args(["local-machine", "--exec", "--"])
        .args(&service.command)
        .env_clear()
        .envs(&service.environment)
        .stdin(Stdio::null())
        .stdout(console()?)
        .stderr(console()?)
        .current_dir("/")
        .spawn()
        .doing(|| format!("start {}", service.name))?;
    Ok(i32::try_from(child.id()).expect("the kernel's pids are positive i32"))
}

/// Replaces this process by the service. A process inherits what its parent blocks, and PID 1 may not
/// unblock for a moment: a request to stop would be lost in it. So that is done here, between fork and
/// the service.
pub fn become_service(command: &[String]) -> Result<(), LocalError> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| LocalError::Settings("a service without a command".to_owned()))?;
    // Refused if it is a leader already.
    let _ = setsid();
    SigSet::empty().thread_set_mask().doing(|| "unblock signals".to_owned())?;
    Err(Command::new(program).args(arguments).exec()).doing(|| format!("start {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_below_the_machines_own_cgroup_are_containers() {
        for (line, expected) in [
            ("9:memory:/", false),
            ("0::/init", false),
            ("9:memory:/k8s.io/abc", true),
            ("0::/kubepods/pod1/abc", true),
            ("1:name=systemd:/", false),
            ("", false),
        ] {
            assert_eq!(is_below_the_machines(line), expected, "{line}");
        }
    }
}
