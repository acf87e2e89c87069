//! PID 1 of a machine.
//!
//! ```text
//!  start -> join cgroups, unshare -> "namespaces" -> root -> user data -> ("go") -> address
//!        -> services started -> "up" -> Running <─┐
//!                                         │       ├─ a service ended: started again a little later
//!                                         │       └─ any other child ended: reaped
//!                                         └─ SIGTERM -> shutdown ([`services`]) -> exit
//! ```
//!
//! Its death ends everything in the machine; its supervisor's death is its own.

use super::{
    MachineSpec, SAID_FAILED, SAID_NAMESPACES, SAID_UP, console, root,
    services::Services,
    signals::{Signals, Woken},
};
use crate::cloud::local::{
    cgroup::Cgroups,
    error::{Doing, LocalError, chain},
    network,
    record::{InstanceDir, MACHINE, USER_DATA},
    user_data::UserData,
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{sethostname, setsid},
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

pub fn run(dir: &InstanceDir) -> Result<(), LocalError> {
    set_pdeathsig(Signal::SIGKILL).doing(|| "bind this process to its supervisor".to_owned())?;
    let signals = Signals::block()?;
    // Its supervisor is in another session; a refusal means that this is a leader already.
    let _ = setsid();
    let services = match boot(dir) {
        Ok(services) => services,
        Err(error) => {
            let message = chain(&error).replace('\n', " ");
            say(&format!("{SAID_FAILED}{message}"))?;
            return Err(error);
        }
    };
    run_services(services, &signals)
}

fn boot(dir: &InstanceDir) -> Result<Services, LocalError> {
    let missing = |name: &str| LocalError::Content { path: dir.file(name), message: "it is missing".to_owned() };
    let spec: MachineSpec = dir.read(MACHINE)?.ok_or_else(|| missing(MACHINE))?;
    let path = dir.file(USER_DATA);
    let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    let user_data: UserData =
        serde_saphyr::from_str(&text).map_err(|error| LocalError::Content { path, message: error.to_string() })?;

    let cgroups = Cgroups::new(&spec.cluster, &spec.instance)?;
    // Before the cgroup namespace is made: it is rooted where this process is then.
    cgroups.join()?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).doing(|| "unshare namespaces".to_owned())?;
    say(SAID_NAMESPACES)?;
    sethostname(&spec.instance).doing(|| "set the host name".to_owned())?;
    root::enter(dir.path(), &spec, &cgroups)?;
    for file in &user_data.write_files {
        write_file(&file.path, &file.permissions, &file.content)?;
    }
    wait_for_go()?;
    network::configure_inside(spec.address, spec.prefix_len, spec.gateway)?;
    let services = Services::start(user_data.services);
    say(SAID_UP)?;
    Ok(services)
}

fn run_services(mut services: Services, signals: &Signals) -> Result<(), LocalError> {
    loop {
        services.reap();
        services.start_due();
        match signals.wait(None, services.next_start())? {
            Woken::Stop => {
                console("shutting down");
                return services.shut_down(signals);
            }
            Woken::Child | Woken::TimeUp | Woken::Readable => {}
        }
    }
}

fn say(line: &str) -> Result<(), LocalError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).doing(|| "speak to the supervisor".to_owned())
}

/// A supervisor that died before PDEATHSIG was set shows here: its end of the pipe is closed.
fn wait_for_go() -> Result<(), LocalError> {
    let mut byte = [0];
    while byte[0] != b'\n' {
        io::stdin().lock().read_exact(&mut byte).doing(|| "hear from the supervisor".to_owned())?;
    }
    Ok(())
}

fn write_file(path: &str, permissions: &str, content: &str) -> Result<(), LocalError> {
    let mode = u32::from_str_radix(permissions, 8)
        .map_err(|_| LocalError::Content { path: path.into(), message: format!("{permissions:?} is no file mode") })?;
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)
        .and_then(|()| OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path))
        .and_then(|mut file| {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(content.as_bytes())
        })
        .doing(|| format!("write {path}"))
}
