//! Whole services, in all modes.

use super::{prices::Prices, service::run, trace::Request, *};
use crate::model::HourlyPrice;
use proptest::prelude::*;

const HOUR: Millis = 3_600_000;

fn prices() -> Prices {
    Prices {
        standard: vec![HourlyPrice(85_000)],
        standard_type: "c6i.large".into(),
        reserve: HourlyPrice(10_400),
        reserve_type: "t3.micro".into(),
        reserve_on_spot: Some(HourlyPrice(3_100)),
        origins: Default::default(),
    }
}

fn asked(every: Millis, until: Millis) -> Vec<Request> {
    (1..).map(|n| n * every).take_while(|at| *at < until).map(|at| Request { at, takes: 100 }).collect()
}

fn simulate(requests: &[Request], length: Millis, mode: Mode) -> Outcome {
    run(requests, length, mode, &World::default(), &prices(), 1)
}

#[test]
fn without_a_reserve_the_first_request_after_a_pause_waits_for_an_instance() {
    let outcome = simulate(&asked(HOUR, 24 * HOUR), 24 * HOUR, Mode::Cold);
    assert_eq!((outcome.requests, outcome.cold_starts, outcome.after_pause.len()), (23, 23, 23));
    assert!(outcome.after_pause.iter().all(|wait| (17_500..=21_500).contains(wait)), "{:?}", outcome.after_pause);
}

#[test]
fn with_a_reserve_nothing_waits_and_it_costs_less_than_a_standard_pod() {
    let requests = asked(HOUR, 24 * HOUR);
    let (reserve, always) =
        (simulate(&requests, 24 * HOUR, Mode::Reserve), simulate(&requests, 24 * HOUR, Mode::MinScale));
    assert_eq!((reserve.waited, reserve.cold_starts, reserve.swaps), (0, 0, 24));
    // It is slower at the work, that is all: 100 ms at 60 %.
    assert!(reserve.after_pause.iter().all(|wait| *wait == 66), "{:?}", reserve.after_pause);
    assert_eq!(always.waited, 0);
    assert!(reserve.cost() * 3 < always.cost(), "{} {}", reserve.cost(), always.cost());
}

#[test]
fn a_pod_that_always_runs_costs_exactly_its_price() {
    let outcome = simulate(&asked(HOUR, 24 * HOUR), 24 * HOUR, Mode::MinScale);
    assert_eq!((outcome.standard_cost, outcome.reserve_cost), (85_000 * 24, 0));
}

#[test]
fn a_service_that_is_never_quiet_never_has_a_reserve_for_long() {
    let requests = asked(1_000, 6 * HOUR);
    let outcome = simulate(&requests, 6 * HOUR, Mode::Reserve);
    assert_eq!(outcome.swaps, 0);
    assert_eq!(outcome.reserve_cost, 0);
}

#[test]
fn a_spot_reserve_that_is_interrupted_is_replaced_before_it_goes() {
    let world = World { spot_interruptions: 99, ..World::default() };
    let month = 730 * HOUR;
    let requests = asked(6 * HOUR, month);
    let outcome = run(&requests, month, Mode::ReserveOnSpot, &world, &prices(), 3);
    assert_eq!((outcome.waited, outcome.unanswered), (0, 0));
}

/// By hand, without the simulator: each request wakes one instance; it boots, gets ready, works, idles for a window
/// and up to two ticks, and drains.
#[test]
fn the_bill_of_plain_zero_is_the_sum_of_its_waking_times() {
    let world = World { boot: (18_000, 18_000), ..World::default() };
    let requests = asked(HOUR, 24 * HOUR);
    let outcome = run(&requests, 24 * HOUR, Mode::Cold, &world, &prices(), 1);
    let first = 18_000 + 1_500 + 31_000;
    let awake = 18_000 + 1_500 + 100 + 60_000 + 31_000;
    let least = 85_000u128 * (first + 23 * awake) / 3_600_000;
    let most = 85_000u128 * (first + 4_000 + 23 * (awake + 4_000)) / 3_600_000;
    assert!((least..=most).contains(&outcome.standard_cost), "{least} {} {most}", outcome.standard_cost);
}

/// A burst makes the autoscaler panic; the panic outlasts what is seen in the window.
#[test]
fn after_a_burst_all_pods_go() {
    let requests: Vec<Request> = (0..300).map(|n| Request { at: HOUR + n * 10, takes: 2_000 }).collect();
    for mode in [Mode::Cold, Mode::Reserve] {
        let day = simulate(&requests, 24 * HOUR, mode);
        let month = simulate(&requests, 720 * HOUR, mode);
        assert_eq!(day.standard_cost, month.standard_cost, "{mode:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_request_is_answered_or_still_waits_and_a_reserve_never_makes_more_wait(
        gaps in prop::collection::vec((0i64..400_000, 1u32..3_000), 1..60), seed in any::<u64>(),
    ) {
        let mut at = 0;
        // The first reserve takes a moment after the deployment.
        let requests: Vec<Request> = gaps.iter().map(|(gap, takes)| { at += gap; Request { at: 300_000 + at, takes: *takes } }).collect();
        let length = 300_000 + at + 200_000;
        let of = |mode| run(&requests, length, mode, &World::default(), &prices(), seed);
        let (cold, reserve, always) = (of(Mode::Cold), of(Mode::Reserve), of(Mode::MinScale));
        for outcome in [&cold, &reserve, &always] {
            prop_assert_eq!(outcome.requests, requests.len() as u64);
            prop_assert_eq!(outcome.unanswered, 0);
        }
        prop_assert_eq!(always.cold_starts, 0);
        prop_assert_eq!(reserve.cold_starts, 0);
        prop_assert!(reserve.waited <= cold.waited, "{} {}", reserve.waited, cold.waited);
    }
}
