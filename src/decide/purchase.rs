//! What to buy for a Pod: an instance type, a zone and a way of paying, or why nothing.
//!
//! In: the [`Policy`], the [`Market`] (catalog, prices, what is short), the [`Ledger`] (what lives
//! already) and a [`Demand`]. Out: a [`Decision`]: the cheapest pool that everything allows, with what to
//! try next if it has no capacity, or a [`Pend`]; both with the reason for each candidate dropped.
//!
//! ```text
//!  Pod ─> class (weight, match) ─> annotations narrow it ─> size
//!           │
//!           v
//!   types x zones ── allowed? fits? zone? ──────────────────────────> dropped: why
//!           │
//!           v   for each purchase step, in order (a mix puts on-demand first while the group lacks it)
//!   offered there? quarantine, price after commitments + surplus credits, caps, limits > dropped: why
//!           │
//!           ├── some left: the cheapest (or first listed) is the plan, the rest its alternatives
//!           └── none in any step: pend, with the reason of the candidate that came nearest
//! ```
//!
//! A batch is a fold over its Pods sorted by UID, each booked in the ledger before the next is decided:
//! so limits, mixes and commitments hold within the batch, and the order of the input does not matter.
//!
//! Cost: per Pod O(types x zones + survivors log survivors); what depends on class, type and zone alone
//! is prepared once per [`Planner`].

mod bill;
mod choose;
mod decision;
mod eci;
mod glob;
mod ledger;
mod market;
mod narrow;
mod plain;
mod planner;
pub mod policy;
pub mod refresh;
mod schedule;
#[cfg(test)]
mod tests;
pub mod type_name;
mod why;

pub use bill::{Running, bill};
pub use choose::{Case, decide};
pub use decision::{Choice, Decision, Dropped, Outcome, Pend, PoolId};
pub use glob::{Glob, GlobError};
pub use ledger::{Draw, Ledger, Live, Tally, is_on_demand};
pub use market::{Burst, Buying, Catalog, Market, Origin, Origins, Others, Quarantine, Sku, SpotPrices, TypeSpec};
pub use narrow::{INSTANCE_TYPES, MAX_HOURLY, NarrowError, Narrowing, PURCHASE, narrowing};
pub use planner::Planner;
pub use policy::Policy;
pub use schedule::{Window, overlap, standby};
pub use why::{Unfit, Why};

use crate::model::Labels;
use std::sync::Arc;

/// A Pod that needs an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Unique; batches are decided in its order.
    pub uid: String,
    pub namespace: String,
    pub labels: Arc<Labels>,
    pub annotations: Arc<Labels>,
    /// The controller's kind and name.
    pub owner: Option<(String, String)>,
    /// What it requests; None where nothing.
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Where it may run (its node's zone, its volumes', its affinity's); None: anywhere.
    pub zones: Option<Vec<String>>,
    /// The class that serves it, by name; None: that which matches.
    pub class: Option<String>,
    /// None: whatever its class allows.
    pub architecture: Option<policy::Architecture>,
}
