//! Places to get machines from, each behind [`crate::ports::Cloud`].
//!
//! - [`local`]: light machines on this host: the embedded default, it needs no account.
//! - [`ec2`]: instances of Amazon EC2. Built with the cargo feature `ec2`.

pub mod ec2;
pub mod local;
