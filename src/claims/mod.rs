//! Whose each instance is: the ledger that makes a registration once-only, across restarts and replicas.
//!
//! In: claims, from as many registrations as there are at a time. Out: whose the instance is, when that is
//! durable. What is kept, and how two writers are told apart, is a [`ClaimStore`]'s: a ConfigMap
//! ([`crate::kube::claims`]) or a file ([`FileStore`]).
//!
//! ```text
//!   claim, claim, claim ... --(bounded queue)--> all that wait, at once:
//!        load, once                                         failed  -> each is told; the next try loads anew
//!        whose is claimed already is answered
//!        the others: replace the whole, if its version is still the one that was read
//!            done     -> each is told: it is yours
//!            conflict -> another writer was faster: load, and judge them anew
//!            failed   -> each is told; it may have been written, so the next try loads anew
//! ```
//!
//! So a burst of 500 registrations is a few writes, and of two providers that both believe to lead, one writes.
//! What was claimed once stays so as long as this process lives, also if somebody removes it from the store.

mod batch;
mod file;

pub use batch::Keep;
pub use file::FileStore;

use crate::model::{InstanceId, bootstrap::KeyFingerprint};
use crate::ports::{ClaimLedger, LedgerError};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub type Claims = BTreeMap<InstanceId, KeyFingerprint>;

/// Registrations that wait for the writer; more of them wait for a place.
const QUEUE: usize = 256;
/// A writer that loses this often in a row is not the only one at work for long: its callers come again.
const ATTEMPTS: usize = 5;
/// An instance that the cloud has not named for so long is gone. (Its list may lag behind by minutes.) A ConfigMap has
/// room for some 12,000 claims.
const KEEP: Keep = Keep { gone_after: Duration::from_secs(3600), gone_soonest: Duration::from_secs(300), most: 10_000 };

/// The claims as a whole, under a version.
#[async_trait]
pub trait ClaimStore: Send + Sync + 'static {
    async fn load(&self) -> Result<Stored, LedgerError>;
    /// Puts these in the place of what was loaded under `version`. Durable when it returns.
    async fn replace(&self, claims: &Claims, version: &Version) -> Result<Replaced, LedgerError>;
}

/// In the store's own words. None: there was nothing yet.
pub type Version = Option<String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub claims: Claims,
    pub version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    Now(Version),
    /// What is there is not what was loaded.
    Conflict,
}

/// The ledger, as registrations see it.
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    existing: watch::Sender<Option<BTreeSet<InstanceId>>>,
}

enum Request {
    Holder(InstanceId, oneshot::Sender<Result<Option<KeyFingerprint>, LedgerError>>),
    Claim(Claim),
}

struct Claim {
    instance: InstanceId,
    key: KeyFingerprint,
    answer: oneshot::Sender<Result<KeyFingerprint, LedgerError>>,
}

impl Ledger {
    /// The ledger, and the task that is its only writer.
    pub fn new(store: impl ClaimStore, cancel: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        Self::keeping(KEEP, store, cancel)
    }

    /// [`Self::new`], with other bounds.
    pub fn keeping(
        keep: Keep,
        store: impl ClaimStore,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, taken) = mpsc::channel(QUEUE);
        let existing = watch::Sender::new(None);
        let (existing_now, missing) = (existing.subscribe(), BTreeMap::new());
        let writer = Writer { store, known: None, existing: existing_now, missing, keep };
        let writer = writer.run(taken, cancel);
        (Self { requests, existing }, writer)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, LedgerError>>) -> Request,
    ) -> Result<T, LedgerError> {
        let ended = || LedgerError { operation: "asked", message: "the provider is shutting down".to_owned() };
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

#[async_trait]
impl ClaimLedger for Ledger {
    async fn holder(&self, instance: &InstanceId) -> Result<Option<KeyFingerprint>, LedgerError> {
        self.ask(|answer| Request::Holder(instance.clone(), answer)).await
    }

    async fn claim(&self, instance: &InstanceId, key: KeyFingerprint) -> Result<KeyFingerprint, LedgerError> {
        self.ask(|answer| Request::Claim(Claim { instance: instance.clone(), key, answer })).await
    }

    fn retain(&self, existing: &BTreeSet<InstanceId>) {
        self.existing.send_replace(Some(existing.clone()));
    }
}

struct Writer<S> {
    store: S,
    /// What is in the store, as far as is known. None: not read yet, or not sure any more.
    known: Option<Stored>,
    existing: watch::Receiver<Option<BTreeSet<InstanceId>>>,
    /// Claimed, but not named by the cloud: since when.
    missing: BTreeMap<InstanceId, Instant>,
    keep: Keep,
}

impl<S: ClaimStore> Writer<S> {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, cancel: CancellationToken) {
        let mut remembered = Claims::new();
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                // Dropping a sender of an answer tells who waits for it.
                () = cancel.cancelled() => return,
                count = requests.recv_many(&mut waiting, QUEUE) => if count == 0 { return },
            }
            let serve = self.serve(waiting, &mut remembered);
            tokio::select! {
                () = serve => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    async fn serve(&mut self, waiting: Vec<Request>, remembered: &mut Claims) {
        let mut claims = Vec::new();
        if let Err(error) = self.load(remembered).await {
            for request in waiting {
                // Who does not wait any more need not be told: so too below.
                match request {
                    Request::Holder(_, answer) => drop(answer.send(Err(error.clone()))),
                    Request::Claim(claim) => drop(claim.answer.send(Err(error.clone()))),
                }
            }
            return;
        }
        self.note_missing();
        for request in waiting {
            match request {
                Request::Holder(instance, answer) => drop(answer.send(Ok(remembered.get(&instance).copied()))),
                Request::Claim(claim) => claims.push(claim),
            }
        }
        let settled = self.settle(&claims, remembered).await;
        for claim in claims {
            let lost = || LedgerError { operation: "settled", message: format!("{} is in none", claim.instance) };
            let holder = settled.clone().and_then(|()| remembered.get(&claim.instance).copied().ok_or_else(lost));
            drop(claim.answer.send(holder));
        }
    }

    /// Reads the store where it is not known what is in it. What this process knows to be claimed stays so.
    async fn load(&mut self, remembered: &mut Claims) -> Result<(), LedgerError> {
        if self.known.is_none() {
            let stored = self.store.load().await?;
            let lost = remembered.keys().filter(|id| !stored.claims.contains_key(*id)).count();
            if lost > 0 {
                tracing::error!(lost, "claims of instances were removed from where they are kept; they are put back");
            }
            remembered.extend(stored.claims.iter().map(|(id, key)| (id.clone(), *key)));
            self.known = Some(stored);
        }
        Ok(())
    }

    /// When it returns Ok, `remembered` says durably whose each claimed instance is.
    async fn settle(&mut self, claims: &[Claim], remembered: &mut Claims) -> Result<(), LedgerError> {
        for _ in 0..ATTEMPTS {
            self.load(remembered).await?;
            let Some(known) = &self.known else { continue };
            let missing = self.missing.iter().map(|(id, since)| (id, since.elapsed()));
            let gone = batch::gone(missing, known.claims.len() + claims.len(), &self.keep);
            let asked = claims.iter().map(|claim| (&claim.instance, claim.key));
            let Some(next) = batch::next(&known.claims, remembered, asked, &gone) else { return Ok(()) };
            // Until it is known how this ends.
            let version = self.known.take().and_then(|known| known.version);
            match self.store.replace(&next, &version).await? {
                Replaced::Now(version) => {
                    for id in &gone {
                        self.missing.remove(id);
                    }
                    remembered.clone_from(&next);
                    self.known = Some(Stored { claims: next, version });
                    return Ok(());
                }
                Replaced::Conflict => {}
            }
        }
        Err(LedgerError { operation: "written", message: "another provider writes them all the time".to_owned() })
    }

    fn note_missing(&mut self) {
        let existing = self.existing.borrow_and_update();
        let (Some(existing), Some(known)) = (&*existing, &self.known) else { return };
        self.missing.retain(|id, _| !existing.contains(id) && known.claims.contains_key(id));
        for id in known.claims.keys().filter(|id| !existing.contains(*id)) {
            self.missing.entry(id.clone()).or_insert_with(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests;
