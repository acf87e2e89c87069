//! IAM: whether a policy allows what a request asks for. Pure.
//!
//! ```text
//!  request, templates, tags ── requests ──> calls: an action on resources ──> policy ──> allowed, or denied: the first
//!                                           (table: the keys each has)                  that was, and what was missing
//! ```
//!
//! Nothing is allowed but by a statement, for each resource by itself, and a statement that denies wins (AWS, "Policy
//! evaluation logic"). A condition on a key that the action does not have for the resource is never met: a statement that
//! asks for one allows nothing there, as on AWS.

mod policy;
mod requests;
mod table;
#[cfg(test)]
mod tests;

pub use policy::{Call, Denied, Policy, Why};
pub use requests::{Account, Tags, named, on_queue, price_list, requested};
