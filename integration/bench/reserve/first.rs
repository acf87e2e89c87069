//! The first request at zero.
//!
//! Each try is on a connection of its own, by way of the gateway and the activator, as anybody outside asks. The
//! Services take turns, so that one goes to zero while others are asked.
//!
//! A first request at zero begins a scale-up, and on this machine all that makes one (Kubernetes, Serving, the new
//! instance) wants the same processors as the request. What that alone costs is measured too: a warm Pod is asked at
//! the moment at which another Service's scale-up begins.

use crate::{
    procs,
    serving::Serving,
    site::{Rest, Site, by_reserve},
};
use anyhow::Result;
use futures::future::try_join;
use std::time::Duration;

/// Services of each kind: enough that the next is at zero when its turn comes.
const SERVICES: usize = 4;

pub struct First {
    pub reserve: Vec<Duration>,
    pub nothing: Vec<Duration>,
    pub warm: Vec<Duration>,
    /// A warm Pod, while another Service scales up.
    pub beside: Vec<Duration>,
    /// How many of the first were answered by a reserve.
    pub by_reserve: usize,
    /// Tries before which the machine did not become quiet.
    pub noisy: usize,
}

pub async fn measure(tries: usize) -> Result<First> {
    println!("first requests at zero: {tries} tries");
    let serving = Serving::new("bench-first").await;
    let warm = Site::deploy(&serving, "warm", Rest::Standard).await;
    let (mut reserves, mut nothings) = (Vec::new(), Vec::new());
    for number in 0..SERVICES {
        reserves.push(Site::deploy(&serving, &format!("kept-{number}"), Rest::Reserve).await);
        nothings.push(Site::deploy(&serving, &format!("cold-{number}"), Rest::Nothing).await);
    }
    let mut first = First {
        reserve: Vec::new(),
        nothing: Vec::new(),
        warm: Vec::new(),
        beside: Vec::new(),
        by_reserve: 0,
        noisy: 0,
    };
    // A round of each that doesn't count: images and caches.
    for round in 0..tries + SERVICES {
        let counts = round >= SERVICES;
        let (kept, cold) = (&reserves[round % SERVICES], &nothings[round % SERVICES]);
        kept.until_at_rest().await?;
        cold.until_at_rest().await?;
        let quiet = procs::quiet().await?;
        let to_warm = warm.ask().await?;
        let to_reserve = kept.ask().await?;
        // The Pods that this starts must not disturb the next.
        kept.until_standing().await?;
        let quiet = quiet & procs::quiet().await?;
        let (to_nothing, beside) = try_join(cold.ask(), warm.ask()).await?;
        if counts {
            first.warm.push(to_warm.took);
            first.reserve.push(to_reserve.took);
            first.nothing.push(to_nothing.took);
            first.beside.push(beside.took);
            first.by_reserve += usize::from(by_reserve(&to_reserve));
            first.noisy += usize::from(!quiet);
        }
        println!(
            "  {}/{tries}: warm {:.1?}, warm beside a scale-up {:.1?}, reserve {:.1?}, nothing {:.1?}",
            (round + 1).saturating_sub(SERVICES),
            to_warm.took,
            beside.took,
            to_reserve.took,
            to_nothing.took
        );
    }
    Ok(first)
}
