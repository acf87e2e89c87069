//! The ledger of claims, in a ConfigMap of a real API server: what several replicas agree by.

use crate::support::*;
use k8s_openapi::api::core::v1::ConfigMap;
use pilotlight::{
    claims::{Keep, Ledger},
    config::SecretRef,
    kube::claims::ConfigMapStore,
    model::{InstanceId, bootstrap::KeyFingerprint},
    ports::ClaimLedger,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

const NAME: &str = "claims";

/// A replica's: with a connection and a writer of its own.
struct Replica {
    ledger: Ledger,
    _writer: AbortOnDropHandle<()>,
}

impl Replica {
    async fn of(space: &Space) -> Self {
        Self::keeping(space, None).await
    }

    async fn keeping(space: &Space, keep: Option<Keep>) -> Self {
        let object = SecretRef { namespace: space.name.clone(), name: NAME.to_owned() };
        let store = ConfigMapStore::new(space.cluster.client().await, &object);
        let cancel = CancellationToken::new();
        match keep {
            None => {
                let (ledger, writer) = Ledger::new(store, cancel);
                Self { ledger, _writer: AbortOnDropHandle::new(tokio::spawn(writer)) }
            }
            Some(keep) => {
                let (ledger, writer) = Ledger::keeping(keep, store, cancel);
                Self { ledger, _writer: AbortOnDropHandle::new(tokio::spawn(writer)) }
            }
        }
    }

    async fn claim(&self, instance: usize, key: &str) -> KeyFingerprint {
        self.ledger.claim(&id(instance), of(key)).await.unwrap_or_else(|error| panic!("{instance}: {error}"))
    }
}

fn id(number: usize) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}"))
}

fn of(key: &str) -> KeyFingerprint {
    KeyFingerprint::of(key.as_bytes())
}

async fn kept(space: &Space) -> BTreeMap<String, String> {
    space.api::<ConfigMap>().get(NAME).await.expect("the ConfigMap is there").data.unwrap_or_default()
}

#[tokio::test]
async fn an_instance_is_its_first_keys_and_stays_so_after_a_restart() {
    let space = Space::new("claims-once").await;
    let first = Replica::of(&space).await;
    assert_eq!(first.ledger.holder(&id(1)).await.expect("read"), None);
    assert_eq!(first.claim(1, "mine").await, of("mine"));
    assert_eq!(first.claim(1, "another's").await, of("mine"), "who comes second is told whose it is");
    assert_eq!(first.claim(1, "mine").await, of("mine"), "and the first may ask again");
    drop(first);
    let next = Replica::of(&space).await;
    assert_eq!(next.claim(1, "another's").await, of("mine"));
    assert_eq!(kept(&space).await, [(id(1).to_string(), of("mine").to_string())].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_both_believe_to_lead_one_has_each_instance_and_both_say_the_same() {
    const INSTANCES: usize = 60;
    let space = Space::new("claims-race").await;
    let (one, other) = (Replica::of(&space).await, Replica::of(&space).await);
    let race = (0..INSTANCES).map(|n| {
        let (one, other) = (&one, &other);
        async move { tokio::join!(one.claim(n, "one"), other.claim(n, "other")) }
    });
    // As they come: some in a batch, some alone.
    let told = futures::future::join_all(race).await;
    let kept = kept(&space).await;
    assert_eq!(kept.len(), INSTANCES);
    for (n, (by_one, by_other)) in told.into_iter().enumerate() {
        assert_eq!(by_one, by_other, "{n}: both say whose it is");
        assert!([of("one"), of("other")].contains(&by_one));
        assert_eq!(kept[&id(n).to_string()], by_one.to_string());
    }
}

#[tokio::test]
async fn claims_of_instances_that_are_gone_are_dropped_with_the_next_write() {
    let space = Space::new("claims-gone").await;
    let at_once = Keep { gone_after: Duration::ZERO, gone_soonest: Duration::ZERO, most: 100 };
    let replica = Replica::keeping(&space, Some(at_once)).await;
    for n in 1..=3 {
        replica.claim(n, "its").await;
    }
    replica.ledger.retain(&BTreeSet::from([id(2)]));
    replica.claim(4, "its").await;
    assert_eq!(kept(&space).await.into_keys().collect::<Vec<_>>(), [2, 4].map(|n| id(n).to_string()));
}

/// The API server's bound on a ConfigMap's data (k8s.io/api, core/v1, MaxSecretSize).
const MOST_BYTES: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_claims_have_room_and_beyond_it_those_who_are_gone_longest_make_some() {
    const MANY: usize = 4000;
    let space = Space::new("claims-many").await;
    let keep = Keep { gone_after: Duration::from_secs(3600), gone_soonest: Duration::ZERO, most: MANY };
    let replica = Replica::keeping(&space, Some(keep)).await;
    futures::future::join_all((0..MANY).map(|n| replica.claim(n, "its"))).await;
    let size = |data: &BTreeMap<String, String>| data.iter().map(|(id, key)| id.len() + key.len()).sum::<usize>();
    let data = kept(&space).await;
    assert_eq!(data.len(), MANY);
    let each = size(&data).div_ceil(MANY);
    assert!(each * 10_000 < MOST_BYTES, "ten thousand of {each} bytes each would not have room");
    // All but the first hundred are gone: as many as are claimed anew make room.
    replica.ledger.retain(&(0..100).map(id).collect());
    futures::future::join_all((MANY..MANY + 50).map(|n| replica.claim(n, "new"))).await;
    let data = kept(&space).await;
    assert!(data.len() <= MANY, "{} are kept", data.len());
    let there = |n: usize| data.contains_key(&id(n).to_string());
    assert!((0..100).all(there) && (MANY..MANY + 50).all(there), "who lives is kept");
    assert_eq!(replica.claim(5, "another's").await, of("its"));
}
