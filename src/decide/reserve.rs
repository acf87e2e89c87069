//! The reserve: what scales to zero keeps one small warm copy that answers.
//!
//! In: a [`Snapshot`] of one scalable thing (a Knative Revision, or a plain Deployment), the [`Rules`] and
//! the time. Out: a [`Decision`]: the [`State`], [`Effect`]s to carry out in order, and when to look again.
//!
//! ```text
//!                       idle, under the hold                 a reserve is ready and attached
//!   +---------> Standing ----------------> Preparing ----------------------------> Leaving
//!   |  detach,   ^   ^  \  SetHold           |  |     ClearHold (the standard Pods    |
//!   |  drain,    |   |   (the gate)          |  |      may go now)                    | the last one goes
//!   |  park or   |   +---- traffic again ----+  | no reserve within its time          v
//!   |  release   |                              +--------> Failed <----------------- AtZero <--+
//!   |            |                                (plain zero, or held:               |  ^     | a new template,
//!   |            |                                 as the rules say; retried)         |  |     | a doomed instance:
//!   |            +--------- ready for a while ------ ScalingUp <-- a request ---------+  |     | make, then break
//!   |                                                   |                                +-----+
//!   +-- Deploying (the first time: no reserve yet)      +-- standard Pods never come: it stays
//!
//!   Off: not asked for, refused, no traffic, deleted: the hold is cleared, reserves drain and go.
//! ```
//!
//! **The gate.** An autoscaler takes the last standard Pod milliseconds after it says "idle". While the hold is
//! set it doesn't: it says "idle", and the Pods stay. So the hold is set while standard Pods run, and cleared when
//! a reserve answers. A controller that is away leaves a held Revision, which only goes to zero later.
//!
//! **Nothing is remembered.** All input can be read from the API server: labels and annotations of the reserve
//! Pods, annotations and conditions of the Revision. Effects come in an order in which every prefix is harmless,
//! names are determined by the snapshot, and each effect is given again until the snapshot shows that it has
//! happened: a crash anywhere costs nothing but time.
//!
//! What holds, whatever happens (tests/any_day.rs drives it through random days against a small Knative):
//! a decision never takes the last endpoint of what once was ready; a reserve is detached only while the hold is
//! seen by the autoscaler; it is deleted by force only after it was seen idle.
//!
//! [`size`] decides what a reserve requests; [`Policy`] is what the cost policy says of all of this.

mod drain;
mod facts;
mod machine;
mod outcome;
mod policy;
pub mod size;
#[cfg(test)]
mod tests;

pub use facts::{
    Activity, Attachment, Deleting, Fit, Gate, Idle, Life, Refusal, Reported, Reserve, Snapshot, Standard, Wanted, Wish,
};
pub use machine::{OnFailure, Parking, Rules, decide};
pub use outcome::{Decision, Effect, Grace, Reason, Report, State, Truth, Why};
pub use policy::{AppliesTo, MOST_SPECS, Policy, PolicySizing, Unbounded};
