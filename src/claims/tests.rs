//! Ledgers before a store that conflicts and fails as a test says.

use super::*;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    claims: Claims,
    version: u32,
    writes: u32,
    /// What the next writes do instead of their work.
    faults: Vec<Fault>,
}

#[derive(Clone, Copy)]
enum Fault {
    Fails,
    /// It is done, but its answer is lost.
    AnswerLost,
}

fn failed() -> LedgerError {
    LedgerError { operation: "written", message: "as the test wants".to_owned() }
}

#[async_trait]
impl ClaimStore for Memory {
    async fn load(&self) -> Result<Stored, LedgerError> {
        let state = self.0.lock().unwrap();
        Ok(Stored { claims: state.claims.clone(), version: Some(state.version.to_string()) })
    }

    async fn replace(&self, claims: &Claims, version: &Version) -> Result<Replaced, LedgerError> {
        // So that others come in between.
        tokio::task::yield_now().await;
        let mut state = self.0.lock().unwrap();
        state.writes += 1;
        let fault = state.faults.pop();
        if matches!(fault, Some(Fault::Fails)) {
            return Err(failed());
        }
        if *version != Some(state.version.to_string()) {
            return Ok(Replaced::Conflict);
        }
        state.claims = claims.clone();
        state.version += 1;
        match fault {
            Some(_) => Err(failed()),
            None => Ok(Replaced::Now(Some(state.version.to_string()))),
        }
    }
}

fn start(store: &Memory) -> (Arc<Ledger>, CancellationToken, JoinHandle<()>) {
    let cancel = CancellationToken::new();
    let (ledger, writer) = Ledger::new(store.clone(), cancel.clone());
    (Arc::new(ledger), cancel, tokio::spawn(writer))
}

fn id(n: usize) -> InstanceId {
    InstanceId::new(format!("i-{n}"))
}

fn key(n: usize) -> KeyFingerprint {
    KeyFingerprint::of(&n.to_be_bytes())
}

#[tokio::test]
async fn many_that_claim_through_two_providers_agree_on_whose_each_instance_is() {
    let store = Memory::default();
    let (one, two) = (start(&store).0, start(&store).0);
    let mut asking = Vec::new();
    for n in 0..200 {
        let ledger = Arc::clone(if n % 2 == 0 { &one } else { &two });
        asking.push(tokio::spawn(async move { (n % 20, n, ledger.claim(&id(n % 20), key(n)).await) }));
    }
    let mut holders = BTreeMap::new();
    for task in asking {
        let (instance, by, answer) = task.await.unwrap();
        // One that lost to the other provider too often comes again, as an agent does.
        let holder = match answer {
            Ok(holder) => holder,
            Err(_) => one.claim(&id(instance), key(by)).await.unwrap(),
        };
        assert_eq!(*holders.entry(instance).or_insert(holder), holder);
    }
    let state = store.0.lock().unwrap();
    assert_eq!(state.claims.len(), 20);
    assert!(holders.iter().all(|(instance, holder)| state.claims[&id(*instance)] == *holder));
}

#[tokio::test]
async fn a_burst_is_a_few_writes() {
    let store = Memory::default();
    let (ledger, ..) = start(&store);
    let claims: Vec<_> = (0..500).map(|n| (Arc::clone(&ledger), n)).collect();
    let tasks = claims.into_iter().map(|(ledger, n)| tokio::spawn(async move { ledger.claim(&id(n), key(n)).await }));
    for (n, task) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), Ok(key(n)));
    }
    // At best one for each queue that is full.
    assert!(store.0.lock().unwrap().writes <= 20, "{}", store.0.lock().unwrap().writes);
}

#[tokio::test]
async fn a_claim_outlives_the_provider_and_the_same_key_is_answered_again() {
    let store = Memory::default();
    let (ledger, cancel, writer) = start(&store);
    assert_eq!(ledger.holder(&id(1)).await, Ok(None));
    assert_eq!(ledger.claim(&id(1), key(1)).await, Ok(key(1)));
    cancel.cancel();
    writer.await.unwrap();
    assert!(ledger.claim(&id(1), key(1)).await.is_err());
    let (ledger, ..) = start(&store);
    assert_eq!(ledger.holder(&id(1)).await, Ok(Some(key(1))));
    assert_eq!(ledger.claim(&id(1), key(2)).await, Ok(key(1)));
    assert_eq!(ledger.claim(&id(1), key(1)).await, Ok(key(1)));
    assert_eq!(store.0.lock().unwrap().writes, 1, "what is claimed is not written again");
}

#[tokio::test]
async fn a_write_that_failed_gives_nothing_and_one_whose_answer_was_lost_is_found() {
    let store = Memory::default();
    let (ledger, ..) = start(&store);
    store.0.lock().unwrap().faults = vec![Fault::AnswerLost, Fault::Fails];
    assert_eq!(ledger.claim(&id(1), key(1)).await, Err(failed()));
    assert_eq!(ledger.holder(&id(1)).await, Ok(None));
    assert_eq!(ledger.claim(&id(1), key(1)).await, Err(failed()));
    assert_eq!(ledger.claim(&id(1), key(2)).await, Ok(key(1)), "it was written after all");
}

#[tokio::test]
async fn claims_that_somebody_removed_are_put_back() {
    let store = Memory::default();
    let (ledger, ..) = start(&store);
    ledger.claim(&id(1), key(1)).await.unwrap();
    {
        let mut state = store.0.lock().unwrap();
        state.claims.clear();
        state.version += 1;
    }
    assert_eq!(ledger.claim(&id(2), key(2)).await, Ok(key(2)));
    assert_eq!(ledger.claim(&id(1), key(3)).await, Ok(key(1)));
    assert_eq!(store.0.lock().unwrap().claims, [(id(1), key(1)), (id(2), key(2))].into());
}

#[tokio::test]
async fn what_the_cloud_has_not_named_for_long_is_forgotten_with_a_later_claim() {
    for (gone_after, forgotten) in [(Duration::ZERO, true), (KEEP.gone_after, false)] {
        let store = Memory::default();
        let (ledger, writer) = Ledger::keeping(Keep { gone_after, ..KEEP }, store.clone(), CancellationToken::new());
        let _writer = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(writer));
        for n in 1..=3 {
            ledger.claim(&id(n), key(n)).await.unwrap();
        }
        let kept = || store.0.lock().unwrap().claims.keys().cloned().collect::<Vec<_>>();
        let named = async |ids: &[usize]| {
            ledger.retain(&ids.iter().map(|n| id(*n)).collect());
            // With the next request it is taken up.
            ledger.holder(&id(1)).await.unwrap();
        };
        named(&[1]).await;
        named(&[1, 2]).await;
        assert_eq!(kept(), [id(1), id(2), id(3)], "nothing is written for it alone");
        ledger.claim(&id(4), key(4)).await.unwrap();
        let rest = if forgotten { vec![id(1), id(2), id(4)] } else { vec![id(1), id(2), id(3), id(4)] };
        assert_eq!(kept(), rest);
    }
}
