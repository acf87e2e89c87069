//! Places to get machines from, each behind [`crate::ports::Cloud`].
//!
//! - [`local`]: light machines on this host: the embedded default, it needs no account.

pub mod local;
