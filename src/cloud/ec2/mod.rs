//! EC2, behind [`crate::ports::Cloud`].
//!
//! - [`attest`]: which instance is it that registers.
//! - [`user_data`]: what a new instance is told. [`config`]: what the backend is told.

pub mod attest;
pub mod config;
pub mod user_data;
