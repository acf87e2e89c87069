//! Which endpoint gets a request. Pure: the random number is passed in.
//!
//! Of two endpoints drawn at random the one with fewer requests in flight ("the power of two choices": nearly as
//! even as knowing the least loaded one, without looking at all). One that could not be reached a moment ago is
//! drawn only if there is no other.

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub in_flight: usize,
    /// A connection to it failed a short while ago.
    pub suspect: bool,
    /// This request has tried it already.
    pub tried: bool,
}

/// The index of the endpoint, None if all have been tried. `random` is uniform.
pub fn choose(loads: &[Load], random: u64) -> Option<usize> {
    let rank = |load: &Load| (!load.tried).then_some(load.suspect);
    let best = loads.iter().filter_map(rank).min()?;
    let candidates: Vec<usize> = (0..loads.len()).filter(|i| rank(&loads[*i]) == Some(best)).collect();
    let count = candidates.len() as u64;
    // The halves of a uniform number are independent.
    let first = candidates[usize::try_from((random >> 32) % count).unwrap_or(0)];
    let second = candidates[usize::try_from((random & 0xffff_ffff) % count).unwrap_or(0)];
    Some(if loads[second].in_flight < loads[first].in_flight { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_endpoint_is_chosen_unless_all_were_tried_and_suspects_only_for_want_of_others(
            loads in proptest::collection::vec((0..9usize, any::<bool>(), any::<bool>()), 0..9), random: u64
        ) {
            let loads: Vec<Load> =
                loads.into_iter().map(|(in_flight, suspect, tried)| Load { in_flight, suspect, tried }).collect();
            match choose(&loads, random) {
                None => prop_assert!(loads.iter().all(|l| l.tried)),
                Some(i) => {
                    prop_assert!(!loads[i].tried);
                    if loads[i].suspect {
                        prop_assert!(loads.iter().all(|l| l.tried || l.suspect));
                    }
                }
            }
        }
    }

    #[test]
    fn the_busiest_of_many_is_hardly_ever_chosen() {
        let mut loads = vec![Load { in_flight: 1, suspect: false, tried: false }; 10];
        loads[3].in_flight = 50;
        let mut state = 1u64;
        let draws = 10_000;
        let hits = (0..draws)
            .filter(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                choose(&loads, state ^ (state >> 29)) == Some(3)
            })
            .count();
        // Only when both draws fall on it: 1 in 100.
        assert!(hits < draws / 50, "{hits}");
    }
}
