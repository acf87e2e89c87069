//! The first request at zero.
//!
//! Each try is on a connection of its own, by way of the gateway and the activator, as anybody outside asks. The
//! Services take turns, so that one goes to zero while others are asked.
//!
//! A first request at zero begins a scale-up, and on this machine all that decides about one (etcd, the API server,
//! Serving's controllers) wants the same processors as the request itself. A cluster has machines for them. So every other
//! try is made while they leave the processors to all others; and in the others what a scale-up alone costs is measured
//! too: a warm Pod is asked at the moment at which another Service's begins.

use crate::{
    procs,
    serving::Serving,
    site::{Rest, Site, by_reserve},
    support::Cluster,
};
use anyhow::Result;
use futures::future::try_join;
use std::time::Duration;

/// Services of each kind: enough that the next is at zero when its turn comes.
const SERVICES: usize = 4;

/// What requests took.
#[derive(Default)]
pub struct Tries {
    pub reserve: Vec<Duration>,
    pub nothing: Vec<Duration>,
    pub warm: Vec<Duration>,
    /// A warm Pod, while another Service scales up.
    pub beside: Vec<Duration>,
}

#[derive(Default)]
pub struct First {
    /// With the control plane on the same processors.
    pub shared: Tries,
    /// With it out of the way. Empty where the kernel can't do that.
    pub apart: Tries,
    /// How many of the first were answered by a reserve.
    pub by_reserve: usize,
    /// Tries before which the machine did not become quiet.
    pub noisy: usize,
}

/// What is on machines of its own elsewhere.
const CONTROL_PLANE: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "knative-webhook",
    "knative-controller",
    "knative-autoscaler",
];

fn control_plane() -> Result<Vec<u32>> {
    let run = Cluster::get().state.join("run");
    CONTROL_PLANE.iter().map(|part| procs::recorded(&run.join(format!("{part}.pid")))).collect()
}

/// So many tries with the control plane here, and as many with it out of the way.
pub async fn measure(tries: usize) -> Result<First> {
    println!("first requests at zero: {tries} tries with the control plane on the same processors, {tries} without");
    let serving = Serving::new("bench-first").await;
    let warm = Site::deploy(&serving, "warm", Rest::Standard).await;
    let (mut reserves, mut nothings) = (Vec::new(), Vec::new());
    for number in 0..SERVICES {
        reserves.push(Site::deploy(&serving, &format!("kept-{number}"), Rest::Reserve).await);
        nothings.push(Site::deploy(&serving, &format!("cold-{number}"), Rest::Nothing).await);
    }
    let mut first = First::default();
    // A round of each that doesn't count: images and caches.
    for round in 0..2 * tries + SERVICES {
        let counts = round >= SERVICES;
        let (kept, cold) = (&reserves[round % SERVICES], &nothings[round % SERVICES]);
        kept.until_at_rest().await?;
        cold.until_at_rest().await?;
        let aside = if round % 2 == 0 { None } else { procs::Aside::put(control_plane()?) };
        let apart = aside.is_some();
        if round % 2 == 1 && !apart {
            continue;
        }
        let quiet = procs::quiet().await?;
        let to_warm = warm.ask().await?;
        let to_reserve = kept.ask().await?;
        // The Pods that this starts must not disturb the next.
        kept.until_standing().await?;
        let quiet = quiet & procs::quiet().await?;
        let (to_nothing, beside) = try_join(cold.ask(), warm.ask()).await?;
        drop(aside);
        if counts {
            let of = if apart { &mut first.apart } else { &mut first.shared };
            of.warm.push(to_warm.took);
            of.reserve.push(to_reserve.took);
            of.nothing.push(to_nothing.took);
            of.beside.push(beside.took);
            first.by_reserve += usize::from(by_reserve(&to_reserve));
            first.noisy += usize::from(!quiet);
        }
        println!(
            "  {} of {}, control plane {}: warm {:.1?}, warm beside a scale-up {:.1?}, reserve {:.1?}, nothing {:.1?}",
            (round + 1).saturating_sub(SERVICES),
            2 * tries,
            if apart { "apart" } else { "here" },
            to_warm.took,
            beside.took,
            to_reserve.took,
            to_nothing.took
        );
    }
    Ok(first)
}
