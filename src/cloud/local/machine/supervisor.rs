//! One process outside each machine: boots it, waits for its end, clears up after it.
//!
//! ```text
//!  lock, check the record -> Booting -> Up -> PID 1 gone -> clear up -> Ended
//!                               │        │        ^
//!                               │        └─ SIGTERM: passed on; after STOP_LIMIT SIGKILL
//!                               └─ failed or SIGTERM: PID 1 killed ─> clear up -> Ended
//! ```
//!
//! It holds the directory's lock for its whole life. Killed at any point, it takes PID 1 with it, and
//! the provider finds the lock free and clears up ([`super::super::sweep`]).

use super::{
    MachineSpec, SAID_FAILED, SAID_NAMESPACES, SAID_UP, console,
    signals::{Signals, Woken, reap},
};
use crate::{
    cloud::local::{
        cgroup::Cgroups,
        disk,
        error::{Doing, LocalError, chain},
        network,
        process::ProcessId,
        record::{INSTANCE, InstanceDir, MACHINE, Phase, SUPERVISOR, StoredInstance, SupervisorNote},
        sweep,
    },
    model::InstanceState,
};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// Longer than all steps of an orderly shutdown together (`init`).
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// A boot takes a fraction of a second; a host under load may take many times that.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

pub fn run(dir: &InstanceDir) -> Result<(), LocalError> {
    let signals = Signals::block()?;
    // Fails if this is the leader of its session already: then there is nothing to leave.
    let _ = setsid();
    let Some(_lock) = dir.try_lock()? else {
        return Err(LocalError::InUse(dir.path().display().to_string()));
    };
    let stored: Option<StoredInstance> = dir.read(INSTANCE)?;
    if !stored.is_some_and(|stored| stored.instance.state == InstanceState::Pending) {
        console("the instance's record does not ask for a boot");
        return Ok(());
    }
    let spec: MachineSpec = dir
        .read(MACHINE)?
        .ok_or_else(|| LocalError::Content { path: dir.file(MACHINE), message: "it is missing".to_owned() })?;
    let mut supervisor = Supervisor {
        note: SupervisorNote { process: ProcessId::of_this_process()?, init_pid: None, phase: Phase::Booting },
        dir,
        spec,
        signals,
    };
    let ended = supervisor.live();
    let reason = match &ended {
        Ok(reason) => reason.clone(),
        Err(error) => format!("the machine did not boot: {}", chain(error)),
    };
    console(&reason);
    // What can't be cleared the provider tries again; the reason must not get lost with it.
    let cleared = sweep::clear_machine(dir, &supervisor.spec.cluster, &supervisor.spec.instance);
    supervisor.tell(Phase::Ended { reason })?;
    cleared
}

struct Supervisor<'a> {
    note: SupervisorNote,
    dir: &'a InstanceDir,
    spec: MachineSpec,
    signals: Signals,
}

/// The supervisor's ends of PID 1.
struct Init {
    pid: Pid,
    /// Closed with this process: what tells PID 1 of a death before PDEATHSIG was set.
    go: ChildStdin,
    said: Said,
}

impl Supervisor<'_> {
    fn tell(&mut self, phase: Phase) -> Result<(), LocalError> {
        self.note.phase = phase;
        self.dir.write(SUPERVISOR, &self.note)
    }

    /// Returns why the machine ended, once PID 1 and its pid namespace are gone.
    fn live(&mut self) -> Result<String, LocalError> {
        let began = Instant::now();
        self.tell(Phase::Booting)?;
        disk::make_directories(self.dir.path())?;
        let clone = match &self.spec.image {
            Some(image) => Some(disk::start_clone(image, self.dir.path())?),
            None => None,
        };
        Cgroups::new(&self.spec.cluster, &self.spec.instance)?.create(self.spec.size())?;
        let mut init = start_init(self.dir.path())?;
        self.note.init_pid = Some(init.pid.as_raw());
        let booted = self.boot(&mut init, clone, began);
        if let Err(error) = booted {
            let _ = kill(init.pid, Signal::SIGKILL);
            self.wait_for_end(init.pid, None)?;
            return Err(error);
        }
        self.tell(Phase::Up)?;
        console(&format!("up after {} ms", began.elapsed().as_millis()));
        let how = self.wait_for_end(init.pid, Some(init.go))?;
        Ok(format!("the machine shut down: PID 1 {how}"))
    }

    fn boot(&self, init: &mut Init, clone: Option<disk::Clone>, began: Instant) -> Result<(), LocalError> {
        let deadline = began + BOOT_LIMIT;
        init.said.expect(SAID_NAMESPACES, &self.signals, deadline)?;
        network::connect(&self.spec.veth, &self.spec.bridge, self.spec.address, init.pid.as_raw())?;
        let wired = began.elapsed();
        if let Some(clone) = clone {
            clone.finish()?;
        }
        console(&format!("wired after {} ms, disk after {} ms", wired.as_millis(), began.elapsed().as_millis()));
        init.go.write_all(b"go\n").doing(|| "say go to PID 1".to_owned())?;
        init.said.expect(SAID_UP, &self.signals, deadline)
    }

    /// Passes a request to stop on, and insists after a while. `_lifeline` is held until the end.
    fn wait_for_end(&self, init: Pid, _lifeline: Option<ChildStdin>) -> Result<String, LocalError> {
        let mut insist = None;
        loop {
            while let Some((pid, how)) = reap() {
                if pid == init.as_raw() {
                    return Ok(how);
                }
            }
            match self.signals.wait(None, insist)? {
                Woken::Stop if insist.is_none() => {
                    insist = Some(Instant::now() + STOP_LIMIT);
                    // Gone already: then the next turn reaps it.
                    let _ = kill(init, Signal::SIGTERM);
                }
                Woken::TimeUp => {
                    console("the machine did not shut down in time, killing it");
                    let _ = kill(init, Signal::SIGKILL);
                    insist = None;
                }
                Woken::Stop | Woken::Child | Woken::Readable => {}
            }
        }
    }
}

/// Starts PID 1 of a new pid namespace. Only children are in it: this process goes on in its own.
fn start_init(dir: &Path) -> Result<Init, LocalError> {
    let own = File::open("/proc/self/ns/pid").doing(|| "open /proc/self/ns/pid".to_owned())?;
    unshare(CloneFlags::CLONE_NEWPID).doing(|| "unshare the pid namespace".to_owned())?;
    let child = Command::new("/proc/self/exe")
        .args(["local-machine", "--init", "--dir"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .doing(|| "start PID 1".to_owned());
    // Children to come belong to this namespace again: the other one dies with its PID 1.
    setns(own.as_fd(), CloneFlags::CLONE_NEWPID).doing(|| "return to the pid namespace".to_owned())?;
    let mut child = child?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).expect("the kernel's pids are positive i32");
    let go = child.stdin.take().expect("stdin was asked to be a pipe");
    let said = Said { pipe: child.stdout.take().expect("stdout was asked to be a pipe"), text: String::new() };
    Ok(Init { pid, go, said })
}

/// What PID 1 has said and nobody has read yet.
struct Said {
    pipe: ChildStdout,
    text: String,
}

impl Said {
    fn expect(&mut self, word: &str, signals: &Signals, deadline: Instant) -> Result<(), LocalError> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                if let Some(message) = line.strip_prefix(SAID_FAILED) {
                    return Err(LocalError::Boot(message.to_owned()));
                }
                if line != word {
                    return Err(LocalError::Boot(format!("PID 1 said {line:?} instead of {word:?}")));
                }
                self.text = rest.to_owned();
                return Ok(());
            }
            match signals.wait(Some(self.pipe.as_fd()), Some(deadline))? {
                Woken::Readable => {
                    let mut bytes = [0; 4096];
                    let count = self.pipe.read(&mut bytes).doing(|| "read from PID 1".to_owned())?;
                    if count == 0 {
                        return Err(LocalError::Boot("PID 1 ended".to_owned()));
                    }
                    self.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
                Woken::Stop => return Err(LocalError::Boot("it was asked to stop before it was up".to_owned())),
                Woken::TimeUp => return Err(LocalError::Boot(format!("no word from PID 1 in {BOOT_LIMIT:?}"))),
                Woken::Child => {}
            }
        }
    }
}
