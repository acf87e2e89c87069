//! The sweeper: looks for leaks every while, and ends those that it saw twice ([`super::leaks`]).

use super::{
    api::Api,
    leaks::{Leak, Suspects, Uses},
    refusal::{Refusal, Verdict},
};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Runs for ever.
pub async fn run(api: Arc<Api>, cluster: String, templates: Arc<Mutex<Uses>>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Twice in a row, however early the clock lets the second pass come.
    let mut suspects = Suspects::new(SignedDuration::try_from(every / 2).unwrap_or(SignedDuration::from_secs(30)));
    loop {
        ticks.tick().await;
        let found = match look(&api, &cluster, &templates).await {
            Ok(found) => found,
            // The nodes' readiness tells of missing rights.
            Err(refusal) if refusal.verdict == Verdict::Denied => continue,
            Err(refusal) => {
                tracing::warn!(%refusal, "leaks can't be looked for");
                continue;
            }
        };
        for leak in suspects.pass(&found, Timestamp::now()) {
            match api.delete(&leak).await {
                Ok(()) => tracing::warn!(?leak, "ended what was left behind"),
                Err(refusal) => tracing::warn!(?leak, %refusal, "what was left behind can't be ended"),
            }
        }
    }
}

async fn look(api: &Api, cluster: &str, templates: &Mutex<Uses>) -> Result<BTreeSet<Leak>, Refusal> {
    let mut found = api.detached(cluster).await?;
    let stopped = api.stopped(cluster).await?;
    found.extend(stopped.into_iter().map(|machine| Leak::StoppedInstance(machine.id.to_string())));
    let made = api.templates(cluster).await?;
    let used = templates.lock().unwrap_or_else(PoisonError::into_inner).in_use(Timestamp::now());
    found.extend(made.into_iter().filter(|name| !used.contains(name)).map(Leak::LaunchTemplate));
    Ok(found)
}
