//! Random days: traffic, faults, changes of mind, a controller that lags, dies and comes back.

use super::{super::*, sim::*};
use jiff::SignedDuration;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Chance {
    Pass(i64),
    Traffic(bool),
    Control { lag: [i64; 4], steps: usize },
    Away(i64),
    StandardFails,
    StandardWorks(bool),
    ReserveFails(usize, Fault),
    ReserveWorks(bool),
    Rebuild,
    Route(bool),
    Ask(bool),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Crash), Just(Fault::Lost), Just(Fault::Deleted), Just(Fault::Doomed)]
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let lag = prop::array::uniform4(0i64..1_000);
    let one = prop_oneof![
        12 => (1i64..4_000).prop_map(Chance::Pass),
        6 => any::<bool>().prop_map(Chance::Traffic),
        // Mostly all effects, sometimes it dies in between.
        30 => (lag, prop_oneof![4 => Just(99usize), 1 => 0usize..3]).prop_map(|(lag, steps)| Chance::Control { lag, steps }),
        1 => (1_000i64..100_000).prop_map(Chance::Away),
        1 => Just(Chance::StandardFails),
        1 => any::<bool>().prop_map(Chance::StandardWorks),
        2 => (0usize..3, fault()).prop_map(|(which, how)| Chance::ReserveFails(which, how)),
        1 => any::<bool>().prop_map(Chance::ReserveWorks),
        2 => Just(Chance::Rebuild),
        1 => any::<bool>().prop_map(Chance::Route),
        1 => any::<bool>().prop_map(Chance::Ask),
    ];
    prop::collection::vec(one, 0..120)
}

fn rules() -> impl Strategy<Value = Rules> {
    let parking = prop_oneof![
        Just(Parking::Release),
        (1i64..100).prop_map(|s| Parking::For(SignedDuration::from_secs(s))),
        Just(Parking::Always)
    ];
    let on_failure = prop_oneof![Just(OnFailure::PlainZero), Just(OnFailure::HoldStandard)];
    (parking, on_failure).prop_map(|(parking, on_failure)| Rules { parking, on_failure, ..Rules::default() })
}

/// Runs with the controller at work: it looks every 300 ms, with caches that lag a little.
fn runs(world: &mut World, millis: i64) {
    let end = world.now + millis;
    while world.now < end {
        world.control([200, 100, 150, 50], 99);
        world.pass(300);
    }
}

fn day(world: &mut World, chances: Vec<Chance>) {
    runs(world, 5_000);
    for chance in chances {
        match chance {
            Chance::Pass(millis) => runs(world, millis),
            Chance::Away(millis) => world.pass(millis),
            Chance::Traffic(traffic) => world.traffic = traffic,
            Chance::Control { lag, steps } => {
                world.control(lag, steps);
                world.pass(TICK);
            }
            Chance::StandardFails => world.standard_fails(),
            Chance::StandardWorks(works) => world.standard_works = works,
            Chance::ReserveFails(which, how) => world.reserve_fails(which, how),
            Chance::ReserveWorks(works) => world.reserve_works = works,
            Chance::Rebuild => world.rebuild(),
            Chance::Route(routed) => world.route(routed),
            Chance::Ask(asked) => world.ask(asked),
        }
    }
}

/// Everything works again.
fn calm(world: &mut World) {
    (world.standard_works, world.reserve_works) = (true, true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn on_any_day_nothing_takes_the_last_endpoint_and_nothing_is_cut_off(rules in rules(), chances in chances()) {
        let mut world = World::new(rules);
        day(&mut world, chances);
        prop_assert!(world.violations.is_empty(), "{:#?}", world.violations);
    }

    #[test]
    fn after_any_day_a_quiet_revision_is_at_zero_with_one_reserve(rules in rules(), chances in chances()) {
        let mut world = World::new(rules);
        day(&mut world, chances);
        calm(&mut world);
        world.route(true);
        world.ask(true);
        world.traffic = false;
        // The longest that anything waits for: the next try after a failure, and the hold of a failure.
        runs(&mut world, 1_800_000);
        prop_assert!(world.at_zero(), "{}", world.describe());
        prop_assert_eq!((world.answering(), world.reserves()), (1, 1), "{}", world.describe());
        prop_assert!(world.violations.is_empty(), "{:#?}", world.violations);
    }

    #[test]
    fn after_any_day_a_busy_revision_runs_on_standard_pods_and_is_held(rules in rules(), chances in chances()) {
        let mut world = World::new(rules.clone());
        day(&mut world, chances);
        calm(&mut world);
        world.route(true);
        world.ask(true);
        world.traffic = true;
        runs(&mut world, 1_000_000);
        let spare = usize::from(rules.parking == Parking::Always);
        prop_assert_eq!((world.answering(), world.reserves()), (0, spare), "{}", world.describe());
        prop_assert!(world.held() && !world.at_zero(), "{}", world.describe());
    }

    #[test]
    fn after_any_day_what_is_not_wanted_leaves_nothing(rules in rules(), chances in chances(), how in 0..3) {
        let mut world = World::new(rules);
        day(&mut world, chances);
        calm(&mut world);
        match how {
            0 => world.route(false),
            1 => world.ask(false),
            _ => world.delete(),
        }
        let time = if how == 2 { 15_000 } else { 400_000 };
        runs(&mut world, time);
        prop_assert_eq!(world.reserves(), 0, "{}", world.describe());
        prop_assert!(how == 2 || !world.held(), "{}", world.describe());
    }

    #[test]
    fn after_any_day_a_plain_deployment_has_one_reserve_that_answers_at_zero_alone(chances in chances(), busy in any::<bool>()) {
        let mut world = World::plain();
        day(&mut world, chances);
        calm(&mut world);
        world.ask(true);
        world.route(true);
        world.traffic = busy;
        runs(&mut world, 1_000_000);
        prop_assert_eq!((world.answering(), world.reserves()), (usize::from(!busy), 1), "{}", world.describe());
        prop_assert!(world.violations.is_empty(), "{:#?}", world.violations);
        world.delete();
        runs(&mut world, 400_000);
        prop_assert_eq!(world.reserves(), 0, "{}", world.describe());
    }

    /// Whatever was ready answers, of whichever template it is: its successor may still be starting, or never come.
    #[test]
    fn on_any_day_a_plain_deployment_at_zero_answers_at_once_if_any_reserve_is_ready(chances in chances()) {
        let mut world = World::plain();
        day(&mut world, chances);
        world.ask(true);
        world.route(true);
        world.traffic = true;
        world.standard_works = true;
        runs(&mut world, 10_000);
        let ready = world.ready();
        world.traffic = false;
        runs(&mut world, 1_000);
        prop_assert!(!ready || world.answering() > 0, "{}", world.describe());
        for _ in 0..60 {
            runs(&mut world, 1_000);
            prop_assert!(!ready || world.answering() > 0, "{}", world.describe());
        }
    }

    /// A controller that comes back after each of its steps has died at any point reaches the same end.
    #[test]
    fn a_controller_that_dies_after_every_effect_still_gets_there(traffic in any::<bool>(), rules in rules()) {
        let mut world = World::new(rules);
        for phase in [true, false, true, traffic] {
            world.traffic = phase;
            for _ in 0..3_000 {
                world.control([100; 4], 1);
                world.pass(TICK);
            }
        }
        prop_assert!(world.violations.is_empty(), "{:#?}", world.violations);
        prop_assert_eq!(world.answering(), usize::from(!traffic), "{}", world.describe());
    }
}

#[test]
fn a_controller_that_is_away_leaves_a_held_revision_only_slower_to_scale_down() {
    let mut world = World::new(Rules::default());
    runs(&mut world, 3_000);
    assert!(world.held());
    world.pass(3_500_000);
    assert!(!world.at_zero(), "held: {}", world.describe());
    runs(&mut world, 20_000);
    assert!(world.at_zero() && world.answering() == 1, "{}", world.describe());
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
}

/// Without a gate nobody holds the last Pod while its reserve makes way for it. Found by the days above.
#[test]
fn a_plain_deployment_that_is_scaled_down_while_its_reserve_makes_way_is_answered_for_again_within_a_second() {
    let mut world = World::plain();
    let look = |lag, steps| Chance::Control { lag, steps };
    let moment = vec![
        Chance::Traffic(true),
        look([0; 4], 99),
        look([0; 4], 99),
        Chance::Pass(1_501),
        Chance::Pass(1_501),
        Chance::Traffic(false),
        look([0, 0, 0, 5], 2),
        look([916, 186, 653, 941], 99),
    ];
    day(&mut world, moment);
    assert!(world.at_zero() && world.answering() == 0, "it is the moment: {}", world.describe());
    runs(&mut world, 1_000);
    assert_eq!(world.answering(), 1, "{}", world.describe());
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
}
