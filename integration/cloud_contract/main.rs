//! What every cloud promises (`ports::Cloud`), held to by each of them: one suite, run on the local cloud and,
//! with the cargo feature `ec2`, on EC2's backend against the stand-in; and what EC2's backend promises besides.
//!
//! Needs root, what scripts/tools and scripts/images make, and the stand-in (`cargo build --example ec2-standin`).
//! Each test has a network namespace and a directory of its own.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as its functions do")]

#[cfg(feature = "ec2")]
mod ec2;
mod local;
#[cfg(feature = "ec2")]
#[path = "../ec2/support/mod.rs"]
mod support;

use pilotlight::{
    model::{
        Allocation, ClientToken, CreditMode, HourlyPrice, InstanceId, InstanceRecord, InstanceState, LaunchRequest,
        Launched, Offer, Purchase, tag,
    },
    ports::{Cloud, CloudError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cloud to be held to its promises.
trait Place {
    fn cloud(&self) -> &dyn Cloud;
    fn runtime(&self) -> &Runtime;
    /// The adapter is made anew, as by a process that starts: what it had in memory is gone.
    fn restart(&mut self);
    /// A zone of it, and types that it has there.
    fn zone(&self) -> &'static str;
    fn types(&self) -> &'static [&'static str];

    fn request(&self, token: &str, count: u32) -> LaunchRequest {
        let offer = |name: &&str| Offer {
            instance_type: (*name).to_owned(),
            purchase: Purchase::OnDemand,
            price: HourlyPrice(1_234),
        };
        LaunchRequest {
            client_token: ClientToken::new(token),
            zone: self.zone().to_owned(),
            offers: self.types().iter().map(offer).collect(),
            allocation: Allocation::LowestPrice,
            credits: CreditMode::Unlimited,
            count,
            tags: [(tag::CLUSTER, "contract"), (tag::NODE, "pilotlight-a"), (tag::BATCH, token), (tag::CLASS, "web")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    fn launch(&self, request: &LaunchRequest) -> Result<Launched, CloudError> {
        self.runtime().block_on(self.cloud().launch(request))
    }

    fn describe(&self) -> BTreeMap<InstanceId, InstanceRecord> {
        let records = self.runtime().block_on(self.cloud().describe()).unwrap();
        records.into_iter().map(|record| (record.id.clone(), record)).collect()
    }

    fn terminate(&self, ids: &[InstanceId]) -> Result<(), CloudError> {
        self.runtime().block_on(self.cloud().terminate(ids))
    }
}

fn ids(launched: &Launched) -> BTreeSet<InstanceId> {
    launched.records.iter().map(|record| record.id.clone()).collect()
}

fn until(what: &str, condition: impl FnMut() -> bool) {
    until_looked(Duration::from_millis(50), what, condition);
}

/// Looks once in so long.
fn until_looked(every: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        std::thread::sleep(every);
    }
}

fn a_token_launches_once_and_means_one_request(place: &mut dyn Place) {
    let wanted = place.request("batch-1", 3);
    let first = place.launch(&wanted).unwrap();
    assert_eq!((ids(&first).len(), first.shortages.len()), (3, 0));
    assert_eq!(ids(&place.launch(&wanted).unwrap()), ids(&first));
    place.restart();
    assert_eq!(ids(&place.launch(&wanted).unwrap()), ids(&first), "a new process launched again");
    assert_eq!(place.describe().len(), 3);
    for other in [place.request("batch-1", 4), LaunchRequest { tags: BTreeMap::new(), ..wanted.clone() }] {
        let refused = place.launch(&other);
        assert!(matches!(refused, Err(CloudError::Refused { .. })), "{refused:?}");
    }
    let second = place.launch(&place.request("batch-2", 1)).unwrap();
    assert!(ids(&second).is_disjoint(&ids(&first)) && second.records.len() == 1);
}

fn two_that_launch_with_one_token_at_once_get_the_same(place: &mut dyn Place) {
    let wanted = place.request("twice", 2);
    let (cloud, runtime) = (place.cloud(), place.runtime());
    let both = runtime.block_on(async { tokio::join!(cloud.launch(&wanted), cloud.launch(&wanted)) });
    assert_eq!(ids(&both.0.unwrap()), ids(&both.1.unwrap()));
    assert_eq!(place.describe().len(), 2);
}

fn what_is_launched_is_described_as_it_was_asked_for_until_it_ends(place: &mut dyn Place) {
    let wanted = place.request("described", 2);
    let launched = place.launch(&wanted).unwrap();
    let living = |record: &InstanceRecord| matches!(record.state, InstanceState::Pending | InstanceState::Running);
    let described = place.describe();
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), ids(&launched));
    until("both have their addresses", || {
        place.describe().values().all(|r| r.private_ip.is_some() && r.pod_ip.is_some())
    });
    let described = place.describe();
    let mut addresses = BTreeSet::new();
    for record in described.values() {
        assert!(living(record), "{record:?}");
        assert_eq!((record.client_token.as_str(), record.zone.as_str()), ("described", place.zone()));
        assert!(place.types().contains(&record.instance_type.as_str()), "{record:?}");
        assert_eq!((record.purchase, record.price), (Purchase::OnDemand, HourlyPrice(1_234)));
        assert!(wanted.tags.iter().all(|(key, value)| record.tags.get(key) == Some(value)), "{record:?}");
        addresses.extend([record.private_ip, record.pod_ip]);
    }
    assert_eq!(addresses.len(), 4, "each instance and each Pod has an address of its own");
    place.restart();
    let again = place.describe();
    assert_eq!(again.keys().collect::<Vec<_>>(), described.keys().collect::<Vec<_>>(), "a new process finds them");
    for (id, record) in &described {
        let found = &again[id];
        assert_eq!(
            (&found.client_token, &found.price, found.purchase, found.launched_at, &found.tags),
            (&record.client_token, &record.price, record.purchase, record.launched_at, &record.tags)
        );
    }
}

fn what_is_terminated_ends_and_may_be_terminated_again(place: &mut dyn Place) {
    let launched = place.launch(&place.request("ended", 2)).unwrap();
    let all: Vec<InstanceId> = ids(&launched).into_iter().collect();
    let (first, kept) = (&all[..1], &all[1]);
    place.terminate(first).unwrap();
    place.terminate(first).unwrap();
    let over = |record: Option<&InstanceRecord>| record.is_none_or(|r| r.state == InstanceState::Terminated);
    until("it has ended", || over(place.describe().get(&first[0])));
    assert!(place.describe().contains_key(kept), "the other lives on");
    place.terminate(first).unwrap();
    let unknown = InstanceId::new("i-00000000000000000");
    place.terminate(&[unknown, kept.clone()]).unwrap();
    until("the one beside an unknown one has ended", || over(place.describe().get(kept)));
    place.terminate(&[]).unwrap();
}

fn what_makes_no_sense_is_refused_and_launches_nothing(place: &mut dyn Place) {
    let good = place.request("good", 1);
    let bad = [
        LaunchRequest { count: 0, ..good.clone() },
        LaunchRequest { zone: "nowhere".to_owned(), ..good.clone() },
        LaunchRequest { offers: Vec::new(), ..good.clone() },
        LaunchRequest { client_token: ClientToken::new(""), ..good.clone() },
        LaunchRequest { client_token: ClientToken::new("x".repeat(65)), ..good.clone() },
        LaunchRequest { offers: vec![Offer { instance_type: "no.such".to_owned(), ..good.offers[0].clone() }], ..good },
    ];
    for request in bad {
        let refused = place.launch(&request);
        assert!(matches!(refused, Err(CloudError::Refused { .. })), "{request:?}: {refused:?}");
    }
    assert_eq!(place.describe().len(), 0);
}

/// Every promise, for the place that `$make` makes.
macro_rules! contract {
    ($($(#[$when:meta])* $name:ident: $make:ty;)*) => { $(
        $(#[$when])*
        mod $name {
            use super::Place as _;

            fn place(name: &str) -> $make {
                <$make>::new(name)
            }

            contract!(@ a_token_launches_once_and_means_one_request, "token");
            contract!(@ two_that_launch_with_one_token_at_once_get_the_same, "twice");
            contract!(@ what_is_launched_is_described_as_it_was_asked_for_until_it_ends, "described");
            contract!(@ what_is_terminated_ends_and_may_be_terminated_again, "ended");
            contract!(@ what_makes_no_sense_is_refused_and_launches_nothing, "refused");

            #[test]
            fn at_first_nothing_is_there() {
                assert!(place("empty").describe().is_empty());
            }
        }
    )* };
    (@ $promise:ident, $short:literal) => {
        #[test]
        fn $promise() {
            super::$promise(&mut place($short));
        }
    };
}

contract! {
    the_local_cloud: super::local::Local;
    #[cfg(feature = "ec2")]
    ec2_on_the_stand_in: super::ec2::Ec2;
}
