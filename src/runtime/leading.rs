//! Waiting until this replica leads, and ending when it does no more.
//!
//! ```text
//!   standby: /healthz, /readyz, /metrics; reads and watches its Lease, and nothing else
//!      | won
//!      v
//!   leads: everything else runs --SIGTERM, or a part fails--> all of it ends -> lease released -> exit
//!      | lost
//!      v
//!   exit code 3 at once: another may lead already. Whoever started it starts it again, as a standby
//! ```

use super::provider::Begun;
use crate::config::LeaderElection;
use crate::decide::lease::Standing;
use crate::kube::lease::Election;
use anyhow::{Context, bail};
use tokio::task::JoinHandle;

/// The process' exit code when it has lost the lease.
pub const LOST: i32 = 3;

pub struct Leadership {
    election: Election,
    watchman: JoinHandle<()>,
}

impl Leadership {
    /// Everything has ended: another replica may lead.
    pub async fn hand_over(self) {
        self.watchman.abort();
        self.election.release().await;
    }
}

/// Waits until this replica leads. None: it was asked to end before.
pub(super) async fn win(config: &LeaderElection, begun: &mut Begun) -> anyhow::Result<Option<Leadership>> {
    let me = name();
    tracing::info!(lease = config.lease, namespace = config.namespace, me, "waiting to lead");
    begun.problem.send_replace(Some(format!("the lease {}/{} was not read yet", config.namespace, config.lease)));
    let election = Election::start(begun.provider.clone(), config, me);
    let mut standing = election.standing();
    loop {
        tokio::select! {
            () = begun.cancel.cancelled() => {
                election.release().await;
                return Ok(None);
            }
            Some(ended) = begun.tasks.join_next() => {
                ended??;
                // Asked to end, by a signal.
                begun.cancel.cancel();
            }
            changed = standing.changed() => changed.context("the election ended")?,
        }
        let now = *standing.borrow_and_update();
        match now {
            None => {}
            // Able to take over.
            Some(Standing::Standby) => drop(begun.problem.send_replace(None)),
            Some(Standing::Leading { .. }) => break,
            Some(Standing::Lost) => bail!("the lease was lost"),
        }
    }
    tracing::info!("this replica leads");
    begun.problem.send_replace(Some("starting".to_owned()));
    let watchman = tokio::spawn(async move {
        let lost = |standing: &Option<Standing>| *standing == Some(Standing::Lost);
        // An error means that the election's task is gone: nobody renews.
        let lost = standing.wait_for(lost).await.map(drop);
        tracing::error!(election_ended = lost.is_err(), "the lease is lost: another replica may lead; ending at once");
        // No goodbye: each further act could meet another leader's.
        std::process::exit(LOST);
    });
    Ok(Some(Leadership { election, watchman }))
}

/// This process, for the Lease: where it runs, and a part that no other process has.
fn name() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{}_{:016x}", host.unwrap_or_else(|| "pilotlight".to_owned()), rand::random::<u64>())
}
