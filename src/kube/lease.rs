//! The Lease by which one of several replicas leads: carries out what [`crate::decide::lease`] says.
//!
//! In: the configuration. Out: a [`Standing`] that may be watched; the lease is held by a task until
//! [`Election::release`] gives it back. A standby also watches the Lease, so that it learns of a release,
//! and of each renewal, at once.

use super::why;
use crate::config::LeaderElection;
use crate::decide::lease::{Claim, Elector, Moment, Record, Standing, Step};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use std::{future::ready, pin::pin, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// A candidacy under way. Dropped, it is no longer renewed.
pub struct Election {
    standing: watch::Receiver<Option<Standing>>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Election {
    /// `me` names this process in the Lease; no other process may have the same name, ever.
    pub fn start(client: Client, config: &LeaderElection, me: String) -> Self {
        let lock = Lock {
            api: Api::namespaced(client, &config.namespace),
            name: config.lease.clone(),
            elector: Elector::new(me, config.timing),
            origin: Instant::now(),
            told_holder: None,
        };
        let (sender, standing) = watch::channel(None);
        let end = CancellationToken::new();
        let task = tokio::spawn(lock.run(sender, end.clone()));
        Self { standing, end, task }
    }

    /// None before the Lease was read for the first time.
    pub fn standing(&self) -> watch::Receiver<Option<Standing>> {
        self.standing.clone()
    }

    /// Ends the candidacy. If this replica leads, another may from now on: everything that acts must have
    /// ended before.
    pub async fn release(self) {
        self.end.cancel();
        drop(self.task.await);
    }
}

struct Lock {
    api: Api<Lease>,
    name: String,
    elector: Elector,
    origin: Instant,
    told_holder: Option<String>,
}

enum Refusal {
    Conflict,
    Other(String),
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match &error {
            // Another version, or made or deleted meanwhile.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Conflict,
            _ => Self::Other(why(&error)),
        }
    }
}

impl Lock {
    async fn run(mut self, told: watch::Sender<Option<Standing>>, end: CancellationToken) {
        let mut changes = pin!(changes(self.api.clone(), &self.name));
        loop {
            let step = self.elector.next(self.now());
            let until = Instant::now() + self.patience();
            tokio::select! {
                () = end.cancelled() => break,
                ended = self.take(step, until, &mut changes) => if ended {
                    told.send_replace(Some(Standing::Lost));
                    return;
                },
            }
            self.tell(&told);
        }
        self.hand_over().await;
    }

    /// Takes one step; true if it was the last.
    async fn take(&mut self, step: Step, until: Instant, changes: &mut (impl Stream<Item = ()> + Unpin)) -> bool {
        let begun = self.now();
        match step {
            Step::End => return true,
            Step::Rest(moment) => {
                tokio::select! {
                    () = tokio::time::sleep_until(self.origin + moment) => {}
                    Some(()) = changes.next() => self.elector.stirred(self.now()),
                }
            }
            Step::Look => match tokio::time::timeout_at(until, look(&self.api, &self.name)).await {
                Ok(Ok(record)) => self.elector.saw(record, self.now()),
                failed => self.failed("read", failed.map(|read| read.map(drop))),
            },
            Step::Write(claim) => match tokio::time::timeout_at(until, write(&self.api, &self.name, &claim)).await {
                Ok(Ok(record)) => self.elector.wrote(record, begun, self.now()),
                failed => self.failed("written", failed.map(|written| written.map(drop))),
            },
        }
        false
    }

    fn failed(&mut self, what: &'static str, outcome: Result<Result<(), Refusal>, tokio::time::error::Elapsed>) {
        let conflict = matches!(outcome, Ok(Err(Refusal::Conflict)));
        match outcome {
            Ok(Ok(()) | Err(Refusal::Conflict)) => {}
            Ok(Err(Refusal::Other(error))) => tracing::warn!(lease = self.name, error, "the lease was not {what}"),
            Err(_) => tracing::warn!(lease = self.name, "the lease was not {what}: no answer in time"),
        }
        self.elector.failed(conflict, self.now());
    }

    fn tell(&mut self, told: &watch::Sender<Option<Standing>>) {
        let holder = self.elector.holder();
        if holder != self.told_holder.as_deref() {
            tracing::info!(lease = self.name, holder, "the leader");
            self.told_holder = holder.map(ToOwned::to_owned);
        }
        let (standing, known) = (self.elector.standing(), self.elector.knows());
        told.send_if_modified(|last| {
            // Each renewal is another moment: that is no news.
            let kind = |s: &Option<Standing>| s.as_ref().map(std::mem::discriminant);
            let next = known.then_some(standing);
            let news = next.is_some() && kind(last) != kind(&next);
            if news {
                *last = next;
            }
            news
        });
    }

    async fn hand_over(&mut self) {
        let until = Instant::now() + self.patience();
        // Twice: the step that was broken off may have written it.
        for _ in 0..2 {
            let Some(claim) = self.elector.release() else { return };
            let released = tokio::time::timeout_at(until, async {
                let written = write(&self.api, &self.name, &claim).await;
                if let Err(Refusal::Conflict) = &written {
                    let record = look(&self.api, &self.name).await?;
                    self.elector.saw(record, self.origin.elapsed());
                }
                written
            });
            let error = match released.await {
                Ok(Ok(_)) => return tracing::info!(lease = self.name, "released"),
                Ok(Err(Refusal::Conflict)) => continue,
                Ok(Err(Refusal::Other(error))) => error,
                Err(_) => "no answer in time".to_owned(),
            };
            // It expires by itself.
            return tracing::warn!(lease = self.name, error, "the lease was not released");
        }
    }

    fn now(&self) -> Moment {
        self.origin.elapsed()
    }

    fn patience(&self) -> Duration {
        let now = self.now();
        self.elector.patience(now).saturating_sub(now)
    }
}

/// An item for each change of the Lease. It may miss some: whoever relies on it looks now and then.
fn changes(api: Api<Lease>, name: &str) -> impl Stream<Item = ()> + use<> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, config).default_backoff().applied_objects().filter_map(|event| ready(event.ok().map(drop)))
}

async fn look(api: &Api<Lease>, name: &str) -> Result<Option<Record>, Refusal> {
    Ok(api.get_opt(name).await?.map(record))
}

async fn write(api: &Api<Lease>, name: &str, claim: &Claim) -> Result<Record, Refusal> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let mut object = json!({
        "metadata": { "name": name },
        "spec": {
            "holderIdentity": claim.holder.as_deref().unwrap_or_default(),
            "leaseDurationSeconds": claim.lasts.as_secs(),
            "leaseTransitions": claim.transitions,
            "renewTime": now,
        },
    });
    if claim.acquires {
        object["spec"]["acquireTime"] = now.into();
    }
    let written = match &claim.version {
        Some(version) => {
            // In a patch, a version is a precondition: another one is a conflict.
            object["metadata"]["resourceVersion"] = version.as_str().into();
            api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await?
        }
        None => {
            let lease = serde_json::from_value(object).expect("a lease of this shape is valid");
            api.create(&PostParams::default(), &lease).await?
        }
    };
    Ok(record(written))
}

fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        lasts: Duration::from_secs(spec.lease_duration_seconds.and_then(|n| n.try_into().ok()).unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version.unwrap_or_default(),
    }
}
