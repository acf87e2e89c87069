//! Which calls a launch comes to, and which one follows an answer. Pure.
//!
//! ```text
//!  offers, best first ── neighbours on one market ──> calls, each tried in one subnet after another
//!
//!    one offer on demand or burstable        RunInstances
//!    several on demand or burstable          CreateFleet, on demand, in their order
//!    spot                                    CreateFleet, spot
//!    capacity reservation                    RunInstances for each, into the reservation
//!
//!              all were had ──────────────────────────────> Done
//!              throttled inside a fleet's answer ─────────> Again: the same, under a new token, after a pause
//!  an answer ─ no address, and a further subnet ──────────> Try: the same there
//!              too few ── a further call ─────────────────> Try: that, for what is left
//!              too few ── none left ──────────────────────> Done, with what is short
//!              the rights or the request are wrong ───────> Failed
//! ```
//!
//! RunInstances gives one type in one zone; a fleet gives what it can of many pools, and errors beside it.
//! Source: AWS, "CreateFleet" (type `instant`), "RunInstances".

use super::refusal::{Refusal, Verdict};
use crate::model::{Offer, Purchase};
use serde::{Deserialize, Serialize};

/// Calls for one part of a launch, whatever happens: each call, each subnet, a few times throttled.
const MOST_CALLS: u32 = 24;
const MOST_THROTTLED: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    Run,
    /// Into a capacity reservation.
    RunReserved,
    FleetOnDemand,
    FleetSpot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub means: Means,
    /// Best first; never empty.
    pub offers: Vec<Offer>,
}

/// Where a part of a launch stands: what the next call is, and how many it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub call: usize,
    pub subnet: usize,
    pub left: u32,
    /// Counts the calls: a part of the client token.
    pub number: u32,
    pub throttled: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Done,
    Try(Progress),
    Again(Progress),
    Failed(Refusal),
}

pub fn calls(offers: &[Offer]) -> Vec<Call> {
    let market = |offer: &Offer| match offer.purchase {
        Purchase::Spot => Means::FleetSpot,
        Purchase::OnDemand | Purchase::Burstable => Means::FleetOnDemand,
        Purchase::CapacityReservation => Means::RunReserved,
    };
    let mut calls: Vec<Call> = Vec::new();
    for offer in offers {
        match calls.last_mut() {
            Some(last) if last.means == market(offer) && last.means != Means::RunReserved => {
                last.offers.push(offer.clone());
            }
            _ => calls.push(Call { means: market(offer), offers: vec![offer.clone()] }),
        }
    }
    for call in &mut calls {
        if call.means == Means::FleetOnDemand && call.offers.len() == 1 {
            call.means = Means::Run;
        }
    }
    calls
}

/// How many each part of a launch is for; `most` of them one call may be for.
pub fn parts(count: u32, most: u32) -> Vec<u32> {
    let parts = count.div_ceil(most.max(1));
    (0..parts).map(|n| count / parts + u32::from(n < count % parts)).collect()
}

impl Progress {
    pub fn begin(count: u32) -> Self {
        Self { call: 0, subnet: 0, left: count, number: 0, throttled: 0 }
    }
}

/// `got`: how many the call gave. `refusals`: its error, or those in a fleet's answer.
pub fn next(progress: Progress, calls: usize, subnets: usize, got: u32, refusals: &[Refusal]) -> Next {
    let Progress { call, subnet, number, throttled, .. } = progress;
    let left = progress.left.saturating_sub(got);
    let has = |verdict: Verdict| refusals.iter().any(|refusal| refusal.verdict == verdict);
    if left == 0 || number + 1 >= MOST_CALLS {
        return Next::Done;
    }
    let next = Progress { left, number: number + 1, ..progress };
    let hopeless = |refusal: &&Refusal| {
        !matches!(refusal.verdict, Verdict::Pool | Verdict::Spot | Verdict::Quota | Verdict::Subnet)
    };
    if has(Verdict::BackOff) && throttled < MOST_THROTTLED {
        return Next::Again(Progress { throttled: throttled + 1, ..next });
    }
    if let Some(refusal) = refusals.iter().find(hopeless) {
        // What came before it is kept; the others are asked for again by whoever still needs them.
        return Next::Failed(refusal.clone());
    }
    if has(Verdict::Subnet) && subnet + 1 < subnets {
        return Next::Try(Progress { subnet: subnet + 1, ..next });
    }
    if call + 1 < calls {
        return Next::Try(Progress { call: call + 1, subnet: 0, throttled: 0, ..next });
    }
    Next::Done
}

#[cfg(test)]
mod tests {
    use super::super::tags::tests::offer;
    use super::*;
    use proptest::prelude::*;

    fn refusal(code: &str) -> Refusal {
        Refusal::new(code, "m")
    }

    fn means(purchases: &[Purchase]) -> Vec<(Means, usize)> {
        let offers: Vec<Offer> = purchases.iter().map(|p| offer("c6i.large", *p, 1)).collect();
        calls(&offers).into_iter().map(|call| (call.means, call.offers.len())).collect()
    }

    #[test]
    fn a_pinned_type_is_run_and_what_is_flexible_or_spot_is_a_fleet() {
        use Purchase::{Burstable, CapacityReservation, OnDemand, Spot};
        assert_eq!(means(&[OnDemand]), [(Means::Run, 1)]);
        assert_eq!(means(&[Burstable]), [(Means::Run, 1)]);
        assert_eq!(means(&[Spot]), [(Means::FleetSpot, 1)]);
        assert_eq!(means(&[Burstable, Burstable, OnDemand]), [(Means::FleetOnDemand, 3)]);
        assert_eq!(
            means(&[CapacityReservation, CapacityReservation, Spot, Spot, OnDemand]),
            [(Means::RunReserved, 1), (Means::RunReserved, 1), (Means::FleetSpot, 2), (Means::Run, 1)]
        );
    }

    #[test]
    fn five_hundred_are_five_calls() {
        assert_eq!(parts(500, 100), [100; 5]);
        assert_eq!(parts(1, 100), [1]);
        assert_eq!(parts(101, 100), [51, 50]);
        assert_eq!(parts(3, 1), [1; 3]);
    }

    #[test]
    fn what_is_short_falls_through_to_the_next_call_for_what_is_left() {
        let begun = Progress::begin(5);
        let next = next(begun, 2, 1, 3, &[refusal("InsufficientInstanceCapacity")]);
        assert_eq!(next, Next::Try(Progress { call: 1, left: 2, number: 1, ..begun }));
    }

    #[test]
    fn a_subnet_without_addresses_falls_through_to_the_zones_next_and_then_to_the_next_call() {
        let full = [refusal("InsufficientFreeAddressesInSubnet")];
        let begun = Progress::begin(1);
        let Next::Try(second) = next(begun, 2, 2, 0, &full) else { panic!("a further subnet is there") };
        assert_eq!((second.call, second.subnet), (0, 1));
        let Next::Try(third) = next(second, 2, 2, 0, &full) else { panic!("a further call is there") };
        assert_eq!((third.call, third.subnet), (1, 0));
        assert_eq!(next(Progress { subnet: 1, ..third }, 2, 2, 0, &full), Next::Done);
    }

    #[test]
    fn a_throttled_fleet_is_asked_again_under_another_number_and_not_for_ever() {
        let throttled = [refusal("RequestLimitExceeded")];
        let mut progress = Progress::begin(2);
        let mut asked = 1;
        while let Next::Again(next) = next(progress, 1, 1, 0, &throttled) {
            assert_eq!(next.number, progress.number + 1);
            progress = next;
            asked += 1;
        }
        assert_eq!(asked, 1 + MOST_THROTTLED);
        assert_eq!(next(progress, 1, 1, 0, &throttled), Next::Failed(throttled[0].clone()));
    }

    #[test]
    fn a_wrong_request_or_a_missing_right_ends_it_at_once() {
        for code in ["InvalidParameterValue", "UnauthorizedOperation"] {
            assert_eq!(next(Progress::begin(1), 3, 3, 0, &[refusal(code)]), Next::Failed(refusal(code)));
        }
    }

    proptest! {
        #[test]
        fn a_launch_ends_never_takes_more_than_asked_and_never_repeats_a_token(
            count in 1u32..200,
            calls in 1usize..5,
            subnets in 1usize..4,
            answers in prop::collection::vec(
                (0u32..120, prop::sample::select(vec!["InsufficientInstanceCapacity", "RequestLimitExceeded", "InsufficientFreeAddressesInSubnet", "AuthFailure", ""])),
                0..60,
            ),
        ) {
            let mut progress = Progress::begin(count);
            let (mut answers, mut had, mut numbers) = (answers.into_iter(), 0, Vec::new());
            loop {
                prop_assert!(progress.call < calls && progress.subnet < subnets && progress.left > 0);
                prop_assert!(!numbers.contains(&progress.number));
                numbers.push(progress.number);
                prop_assert!(numbers.len() <= MOST_CALLS as usize);
                let (got, code) = answers.next().unwrap_or((0, "InsufficientInstanceCapacity"));
                let got = got.min(progress.left);
                had += got;
                prop_assert_eq!(had + progress.left - got, count);
                let refusals: Vec<Refusal> = Some(code).filter(|c| !c.is_empty()).map(refusal).into_iter().collect();
                progress = match next(progress, calls, subnets, got, &refusals) {
                    Next::Try(next) | Next::Again(next) => next,
                    Next::Done | Next::Failed(_) => break,
                };
            }
            prop_assert!(had <= count);
        }
    }
}
