//! What a reserve requests: small, but enough to live.
//!
//! In: what the template requests, what the policy says ([`Sizing`]), what the service's Pods were seen to need
//! ([`Needs`]). Out: a [`Size`], with what a person should know ([`Advice`]).
//!
//! Memory is what a process needs to live; too little of it kills. CPU is what it needs to be fast; too little
//! makes it slow. So CPU follows the policy, and memory has a floor.

use crate::model::{parse_milli, parse_units};
use jiff::SignedDuration;

const MI: u64 = 1 << 20;
/// What was seen needs this much room above it: a peak between two readings, page cache, a fork. In percent.
const HEADROOM: u64 = 125;
/// Floors are multiples of this, so that each new reading does not make a new reserve.
const STEP: u64 = 64 * MI;

/// What a Pod or an instance type offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// How the policy sizes a reserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizing {
    Absolute(Size),
    /// Of what the template requests, in percent.
    Fraction {
        cpu_percent: u32,
        memory_percent: u32,
        least: Size,
    },
    /// Sizes of types in order of preference: the first that the memory floor fits.
    Listed(Vec<Size>),
}

/// What is known of the service's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The highest working set of one of its Pods.
    pub seen_bytes: Option<u64>,
    /// The limit under which one of its reserves was killed for want of memory.
    pub killed_at_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sized {
    pub size: Size,
    pub advice: Option<Advice>,
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The policy's memory was not enough: this is what it got, and why.
    Raised { from_bytes: u64, floor_bytes: u64 },
    /// Nothing that the policy offers is enough; it gets the largest.
    TooSmall { largest_bytes: u64, floor_bytes: u64 },
}

/// The least memory that a reserve lives with: what was seen with room above it, twice what it was killed at.
pub fn floor(needs: Needs) -> Option<u64> {
    let seen = needs.seen_bytes.map(|seen| seen.saturating_mul(HEADROOM) / 100);
    let killed = needs.killed_at_bytes.map(|limit| limit.saturating_mul(2));
    seen.max(killed).map(|bytes| bytes.div_ceil(STEP).saturating_mul(STEP))
}

/// `template` is what the standard Pod requests; `largest` the most memory that may be bought for a reserve.
pub fn size(sizing: &Sizing, template: Size, needs: Needs, largest: Option<u64>) -> Sized {
    let floor = floor(needs);
    let wanted = match sizing {
        Sizing::Absolute(size) => *size,
        Sizing::Fraction { cpu_percent, memory_percent, least } => Size {
            cpu_millis: part(template.cpu_millis, *cpu_percent).max(least.cpu_millis),
            memory_bytes: part(template.memory_bytes, *memory_percent).max(least.memory_bytes),
        },
        Sizing::Listed(sizes) => return listed(sizes, template, floor),
    };
    let Some(floor) = floor.filter(|floor| *floor > wanted.memory_bytes) else {
        return Sized { size: wanted, advice: None };
    };
    match largest {
        Some(largest) if largest < floor => Sized {
            size: Size { memory_bytes: largest.max(wanted.memory_bytes), ..wanted },
            advice: Some(Advice::TooSmall { largest_bytes: largest.max(wanted.memory_bytes), floor_bytes: floor }),
        },
        _ => Sized {
            size: Size { memory_bytes: floor, ..wanted },
            advice: Some(Advice::Raised { from_bytes: wanted.memory_bytes, floor_bytes: floor }),
        },
    }
}

fn listed(sizes: &[Size], template: Size, floor: Option<u64>) -> Sized {
    let floor = floor.unwrap_or(0);
    let largest = sizes.iter().copied().max_by_key(|size| size.memory_bytes);
    let Some((first, largest)) = sizes.first().copied().zip(largest) else {
        return Sized { size: template, advice: None };
    };
    match sizes.iter().find(|size| size.memory_bytes >= floor) {
        Some(size) if size.memory_bytes == first.memory_bytes => Sized { size: *size, advice: None },
        Some(size) => {
            Sized { size: *size, advice: Some(Advice::Raised { from_bytes: first.memory_bytes, floor_bytes: floor }) }
        }
        None => Sized {
            size: largest,
            advice: Some(Advice::TooSmall { largest_bytes: largest.memory_bytes, floor_bytes: floor }),
        },
    }
}

/// `1-2Gi`: vCPUs and memory.
pub fn parse(text: &str) -> Option<Size> {
    let (cpu, memory) = text.split_once('-')?;
    let size = Size { cpu_millis: parse_milli(cpu)?, memory_bytes: parse_units(memory)? };
    (size.cpu_millis > 0 && size.memory_bytes > 0).then_some(size)
}

fn part(of: u64, percent: u32) -> u64 {
    u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// By how much a probe's patience grows on a smaller CPU: the ratio of the CPUs, at least 1, at most `MOST`.
///
/// A JVM's start is bound by CPU: with a tenth of it, it takes up to ten times as long.
pub fn slowdown(template: Size, reserve: Size) -> u32 {
    const MOST: u64 = 20;
    let ratio = template.cpu_millis.div_ceil(reserve.cpu_millis.max(1)).clamp(1, MOST);
    u32::try_from(ratio).unwrap_or(1)
}

/// How long a reserve may take to be ready: the rules' time, or longer if its own startup probe allows more.
pub fn startup(rules: SignedDuration, probe: Option<SignedDuration>) -> SignedDuration {
    // Besides the probe's time the instance must boot and the image must come.
    probe.map_or(rules, |probe| rules.max(probe.saturating_add(rules)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Size = Size { cpu_millis: 100, memory_bytes: 256 * MI };
    const TEMPLATE: Size = Size { cpu_millis: 2000, memory_bytes: 4096 * MI };

    fn seen(mi: u64) -> Needs {
        Needs { seen_bytes: Some(mi * MI), killed_at_bytes: None }
    }

    #[test]
    fn an_absolute_size_is_taken_as_it_is_while_it_fits() {
        let sized = size(&Sizing::Absolute(SMALL), TEMPLATE, seen(200), None);
        assert_eq!(sized, Sized { size: SMALL, advice: None });
    }

    #[test]
    fn a_service_that_was_seen_to_need_more_gets_more_and_a_warning() {
        let sized = size(&Sizing::Absolute(SMALL), TEMPLATE, seen(300), None);
        assert_eq!(sized.size, Size { memory_bytes: 384 * MI, ..SMALL });
        assert_eq!(sized.advice, Some(Advice::Raised { from_bytes: 256 * MI, floor_bytes: 384 * MI }));
    }

    #[test]
    fn what_was_killed_for_memory_gets_twice_as_much() {
        let needs = Needs { seen_bytes: Some(MI), killed_at_bytes: Some(256 * MI) };
        assert_eq!(size(&Sizing::Absolute(SMALL), TEMPLATE, needs, None).size.memory_bytes, 512 * MI);
    }

    #[test]
    fn a_fraction_is_of_the_template_and_not_below_the_least() {
        let sizing = Sizing::Fraction { cpu_percent: 10, memory_percent: 25, least: SMALL };
        let expected = Size { cpu_millis: 200, memory_bytes: 1024 * MI };
        assert_eq!(size(&sizing, TEMPLATE, Needs::default(), None).size, expected);
        let tiny = Size { cpu_millis: 10, memory_bytes: MI };
        assert_eq!(size(&sizing, tiny, Needs::default(), None).size, SMALL);
    }

    #[test]
    fn of_listed_sizes_the_first_that_holds_the_floor_is_taken() {
        let larger = Size { cpu_millis: 100, memory_bytes: 1024 * MI };
        let sizing = Sizing::Listed(vec![SMALL, larger]);
        assert_eq!(size(&sizing, TEMPLATE, Needs::default(), None), Sized { size: SMALL, advice: None });
        assert_eq!(size(&sizing, TEMPLATE, seen(400), None).size, larger);
        let sized = size(&sizing, TEMPLATE, seen(2000), None);
        assert_eq!(sized.size, larger);
        assert!(matches!(sized.advice, Some(Advice::TooSmall { .. })), "{sized:?}");
    }

    #[test]
    fn a_slow_start_is_given_the_ratio_of_the_cpus() {
        assert_eq!(slowdown(TEMPLATE, SMALL), 20);
        assert_eq!(slowdown(SMALL, TEMPLATE), 1);
        assert_eq!(slowdown(TEMPLATE, Size { cpu_millis: 500, ..SMALL }), 4);
        assert_eq!(slowdown(TEMPLATE, Size { cpu_millis: 0, ..SMALL }), 20);
    }

    proptest! {
        #[test]
        fn whatever_was_seen_the_reserve_holds_it_or_says_that_it_does_not(
            memory in 1u64..1 << 40, seen in 0u64..1 << 40, killed in proptest::option::of(0u64..1 << 40),
            largest in proptest::option::of(1u64..1 << 40), listed in proptest::collection::vec(1u64..1 << 40, 1..5), mode in 0..3,
        ) {
            let needs = Needs { seen_bytes: Some(seen), killed_at_bytes: killed };
            let of = |memory_bytes| Size { cpu_millis: 100, memory_bytes };
            let sizing = match mode {
                0 => Sizing::Absolute(of(memory)),
                1 => Sizing::Fraction { cpu_percent: 10, memory_percent: 10, least: of(1) },
                _ => Sizing::Listed(listed.into_iter().map(of).collect()),
            };
            let sized = size(&sizing, of(memory), needs, largest);
            let floor = floor(needs).unwrap();
            prop_assert!(floor >= seen && floor.is_multiple_of(STEP));
            let warned = matches!(sized.advice, Some(Advice::TooSmall { .. }));
            prop_assert_eq!(sized.size.memory_bytes >= floor, !warned, "{:?} {}", sized, floor);
        }
    }
}
