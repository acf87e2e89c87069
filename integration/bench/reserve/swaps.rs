//! Swaps under load: 50 requests a second, with pauses just long enough that the Service goes to zero.
//!
//! ```text
//!   50/s until a standard Pod has taken over --> silence --> idle --> the reserve comes, the standard Pods go --+
//!     ^                                                        |                                               |
//!     +--- each third time: before the swap is through --------+------- a moment after it is at zero ----------+
//! ```
//!
//! (Steady traffic alone never swaps: the autoscaler has no reason to.)

use crate::{
    net::{Load, Report},
    serving::Serving,
    site::{Rest, Site},
};
use anyhow::Result;
use futures::future::try_join_all;
use rand::Rng;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

const PER_SECOND: u32 = 50;
const SERVICES: usize = 3;
/// How long traffic lasts after the standard Pods have taken over, at most.
const STANDING: u64 = 1_500;
/// How long after the Service has become idle, or is at zero, traffic comes back, at most.
const PAUSE: u64 = 2_000;

pub struct Swaps {
    /// To the reserve and back.
    pub done: usize,
    /// Traffic came back while the reserve was coming.
    pub turned_back: usize,
    pub load: Report,
    pub by_reserve: usize,
}

pub async fn measure(count: usize) -> Result<Swaps> {
    println!("{count} swaps each way, {PER_SECOND} requests a second");
    let serving = Serving::new("bench-swaps").await;
    let done = AtomicUsize::new(0);
    let all = (0..SERVICES).map(|number| one(&serving, number, count, &done));
    let mut sum = Swaps { done: 0, turned_back: 0, load: Report { shots: Vec::new() }, by_reserve: 0 };
    for part in try_join_all(all).await? {
        sum.done += part.done;
        sum.turned_back += part.turned_back;
        sum.by_reserve += part.by_reserve;
        sum.load.shots.extend(part.load.shots);
    }
    Ok(sum)
}

async fn one(serving: &Serving, number: usize, count: usize, done: &AtomicUsize) -> Result<Swaps> {
    let site = Site::deploy(serving, &format!("swap-{number}"), Rest::Reserve).await;
    let mut mine = Swaps { done: 0, turned_back: 0, load: Report { shots: Vec::new() }, by_reserve: 0 };
    let pause = |most: u64| Duration::from_millis(rand::rng().random_range(0..most));
    site.until_standing().await?;
    for round in 1.. {
        if done.load(Ordering::Relaxed) >= count {
            break;
        }
        let early = round % 3 == 0;
        if early {
            site.until("idle", |state| state.idle).await?;
        } else {
            site.until_at_rest().await?;
        }
        tokio::time::sleep(pause(PAUSE)).await;
        let load = Load::start(&site.target, "/", PER_SECOND);
        let swapped = !site.state().await?.attached.is_empty();
        site.until_standing().await?;
        tokio::time::sleep(pause(STANDING)).await;
        let report = load.stop().await;
        for failure in report.failures() {
            println!("  {}: FAILED {failure}", site.name);
        }
        mine.by_reserve +=
            report.by_pod().iter().filter(|(pod, _)| pod.contains("-reserve-")).map(|(_, n)| n).sum::<usize>();
        println!("  {} of {count}: {}: {report}", done.load(Ordering::Relaxed), site.name);
        mine.load.shots.extend(report.shots);
        if swapped {
            mine.done += 1;
            done.fetch_add(1, Ordering::Relaxed);
        } else {
            mine.turned_back += 1;
        }
    }
    Ok(mine)
}
