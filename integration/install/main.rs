//! The manifests: both renderings accepted by a real API server and alike, and a provider that lives with exactly the
//! rights that they give.
//!
//! Needs helm (`scripts/tools helm`) and, but for `chart`, a cluster with a provider (`scripts/test` starts one). The provider
//! of the cluster is stopped meanwhile, so these take turns, and none of the other tests may run at the time.

#[path = "../support/mod.rs"]
mod support;

mod chart;
mod image;
mod manifests;
mod pushed;
mod rendering;
mod rights;

use tokio::sync::{Mutex, MutexGuard};

async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
