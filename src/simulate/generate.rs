//! Traces in shapes that were published, made of a seed.
//!
//! How often services are asked follows "Serverless in the Wild" (Shahrad and others, USENIX ATC 2020, about
//! Azure Functions): 45 % of applications at most once an hour, 81 % at most once a minute. The busiest here get
//! twelve requests a minute: what is busier never is at zero, and shows nothing. Durations follow its log-normal
//! fit (mean of the logarithm of seconds -0.38, deviation 2.36), each service with a median of its own, cut at 30 s.

use super::{Millis, trace::Request};
use rand::{Rng, SeedableRng, rngs::StdRng};

const DAY: f64 = 86_400_000.0;
const MINUTE: f64 = 60_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// More by day than by night, less at the weekend.
    Diurnal,
    /// Silence, then many at once.
    Bursty,
    /// At most once an hour.
    Rare,
    /// A third of each.
    Mixed,
}

/// The requests of service `number`.
pub fn requests(shape: Shape, number: u64, seed: u64, length: Millis) -> Vec<Request> {
    let mut chance = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let shape = match (shape, number % 3) {
        (Shape::Mixed, 0) => Shape::Diurnal,
        (Shape::Mixed, 1) => Shape::Bursty,
        (Shape::Mixed, _) => Shape::Rare,
        (shape, _) => shape,
    };
    let median = normal(&mut chance).mul_add(2.36, -0.38).exp().clamp(0.005, 5.0);
    let takes = |chance: &mut StdRng| {
        let seconds = (median * normal(chance).mul_add(0.5, 0.0).exp()).min(30.0);
        (seconds * 1000.0) as u32
    };
    let gap = match shape {
        Shape::Rare => rare_gap(&mut chance),
        _ => any_gap(&mut chance),
    };
    let phase: f64 = chance.random_range(0.0..DAY);
    let mut made = Vec::new();
    let mut at = exponential(&mut chance, gap);
    while at < length as f64 {
        match shape {
            Shape::Bursty => {
                // The gap is between requests: bursts are as many times rarer as they are long.
                let size = 1 + exponential(&mut chance, 20.0) as usize;
                let mut moment = at;
                for _ in 0..size {
                    if moment < length as f64 {
                        made.push(Request { at: moment as Millis, takes: takes(&mut chance) });
                    }
                    moment += exponential(&mut chance, 200.0);
                }
                at += exponential(&mut chance, gap * 21.0);
            }
            // Thinned: a candidate is taken as often as the hour is busy.
            Shape::Diurnal => {
                if chance.random_range(0.0..2.0) < busy(at, phase) {
                    made.push(Request { at: at as Millis, takes: takes(&mut chance) });
                }
                at += exponential(&mut chance, gap / 2.0);
            }
            Shape::Rare | Shape::Mixed => {
                made.push(Request { at: at as Millis, takes: takes(&mut chance) });
                at += exponential(&mut chance, gap);
            }
        }
    }
    made.sort_unstable();
    made
}

/// From 0 to 2, 1 on the average of a working day.
fn busy(at: f64, phase: f64) -> f64 {
    let weekend = if (at / DAY) as u64 % 7 >= 5 { 0.4 } else { 1.0 };
    let hour = ((at + phase) / DAY * std::f64::consts::TAU).sin();
    weekend * (1.0 + 0.9 * hour)
}

/// The mean time between two requests, of any service.
fn any_gap(chance: &mut StdRng) -> f64 {
    match chance.random_range(0..100) {
        0..45 => rare_gap(chance),
        45..81 => log_uniform(chance, MINUTE, 60.0 * MINUTE),
        _ => log_uniform(chance, MINUTE / 12.0, MINUTE),
    }
}

fn rare_gap(chance: &mut StdRng) -> f64 {
    log_uniform(chance, 60.0 * MINUTE, 2.0 * DAY)
}

fn log_uniform(chance: &mut StdRng, from: f64, to: f64) -> f64 {
    chance.random_range(from.ln()..to.ln()).exp()
}

fn exponential(chance: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - chance.random_range(0.0..1.0f64)).ln()
}

/// Box and Muller's.
fn normal(chance: &mut StdRng) -> f64 {
    let (a, b): (f64, f64) = (1.0 - chance.random_range(0.0..1.0), chance.random_range(0.0..1.0));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Millis = 7 * 86_400_000;

    #[test]
    fn the_same_seed_makes_the_same_trace_and_another_another() {
        let made = |seed| (0..20).map(|n| requests(Shape::Mixed, n, seed, WEEK)).collect::<Vec<_>>();
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }

    #[test]
    fn shares_of_rare_services_are_the_published_ones() {
        let rates: Vec<f64> = (0..200).map(|n| requests(Shape::Diurnal, n, 7, WEEK).len() as f64 / 168.0).collect();
        let share = |most: f64| rates.iter().filter(|rate| **rate <= most).count() * 100 / rates.len();
        assert!((35..=60).contains(&share(1.0)), "{}", share(1.0));
        assert!((72..=92).contains(&share(60.0)), "{}", share(60.0));
    }

    #[test]
    fn a_bursty_service_is_asked_many_times_within_seconds() {
        let all: Vec<Request> = (0..50).flat_map(|n| requests(Shape::Bursty, n, 3, WEEK)).collect();
        let close = all.windows(2).filter(|pair| (0..2_000).contains(&(pair[1].at - pair[0].at))).count();
        assert!(close * 10 > all.len() * 8, "{close} of {}", all.len());
    }

    #[test]
    fn requests_are_sorted_and_within_the_trace() {
        for shape in [Shape::Diurnal, Shape::Bursty, Shape::Rare] {
            for number in 0..30 {
                let made = requests(shape, number, 11, WEEK);
                assert!(made.is_sorted() && made.iter().all(|r| (0..WEEK).contains(&r.at)), "{shape:?} {number}");
            }
        }
    }
}
