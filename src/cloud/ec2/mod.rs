//! EC2, behind [`crate::ports::Cloud`].
//!
//! - [`user_data`]: what a new instance is told. [`config`]: what the backend is told.

pub mod config;
pub mod user_data;
