//! Waiting for a signal or a time, without handlers: signals are blocked and read from a descriptor.
//!
//! Children inherit what is blocked; [`super::services::become_service`] unblocks it for services.

use crate::cloud::local::error::{Doing, LocalError};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

pub struct Signals(SignalFd);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// One or more children ended.
    Child,
    /// Someone asks this process to end.
    Stop,
    /// The other descriptor has something to read, or is at its end.
    Readable,
    TimeUp,
}

impl Signals {
    /// Call while the process has one thread: the mask is a thread's.
    pub fn block() -> Result<Self, LocalError> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().doing(|| "block signals".to_owned())?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .doing(|| "make a signal descriptor".to_owned())?;
        Ok(Self(fd))
    }

    /// Waits for the first of: a signal, `other` readable, `until`.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, until: Option<Instant>) -> Result<Woken, LocalError> {
        loop {
            while let Some(info) = self.0.read_signal().doing(|| "read a signal".to_owned())? {
                match i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok()) {
                    Some(Signal::SIGCHLD) => return Ok(Woken::Child),
                    Some(Signal::SIGTERM | Signal::SIGINT) => return Ok(Woken::Stop),
                    _ => {}
                }
            }
            let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(&mut fds, timeout(until)) {
                Ok(0) if until.is_some_and(|until| Instant::now() >= until) => return Ok(Woken::TimeUp),
                Ok(_) if fds.get(1).is_some_and(|fd| fd.any() == Some(true)) => return Ok(Woken::Readable),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).doing(|| "poll".to_owned()),
            }
        }
    }
}

fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    // Rounded up: a poll that is early would be repeated at once.
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// Reaps one ended child: its pid, and how it ended in words.
pub fn reap() -> Option<(i32, String)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid.as_raw(), format!("exited with {code}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                return Some((pid.as_raw(), format!("was killed by {signal}")));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            // Stopped or traced: not ended.
            Ok(_) | Err(_) => {}
        }
    }
}
