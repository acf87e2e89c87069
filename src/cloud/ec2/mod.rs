//! EC2, behind [`crate::ports::Cloud`].
//!
//! ```text
//!  launch ──> parts (launches.perCall) ──> calls: RunInstances, CreateFleet ──> records, shortages
//!               written down before each call, with its token            ──> ledger
//!  describe ──> all of the cluster that live ──> ledger ──> records
//!                 what is missing in the list: by id, in a window
//!  terminate ──> in a window ──> TerminateInstances
//!  vendor    ──> what EC2 sells, at what price ──> decide::purchase::refresh
//!  queue     ──> what EC2 announces of instances ──> the reconciler
//!  sweep     ──> what was left behind, seen twice ──> deleted
//! ```
//!
//! The tags of an instance are its record ([`tags`]): a provider that starts anew finds there all that it must
//! know. What every instance of a configuration has in common is in a launch template, named by its content.
//! Every call waits for the account's limits; what EC2 refuses is judged by its code.
//!
//! [`attest`] says which instance it is that registers.
//!
//! Pure: [`attempts`] which calls, which next; [`refusal`] what a code means; [`ledger`] what is known over
//! EC2's eventual consistency; [`leaks`] what is swept; [`template`], [`user_data`], [`tags`], [`records`] what
//! is written and read; [`queue::event`] what an event says. With I/O: [`journal`], [`window`], [`limits`], [`endpoint`],
//! [`json_service`], [`price_list`], [`queue`]. With the SDK, and so only with the cargo feature `ec2` (it takes minutes to
//! compile): `api`, `launch`, `sweep`, `vendor`, `cloud`.

#[cfg(feature = "ec2")]
mod api;
pub mod attempts;
pub mod attest;
#[cfg(feature = "ec2")]
mod cloud;
pub mod config;
pub mod endpoint;
pub mod ends;
pub mod journal;
pub mod json_service;
#[cfg(feature = "ec2")]
mod launch;
pub mod leaks;
pub mod ledger;
pub mod limits;
pub mod price_list;
pub mod queue;
pub mod records;
pub mod refusal;
#[cfg(feature = "ec2")]
mod sweep;
pub mod tags;
pub mod template;
pub mod types;
pub mod user_data;
#[cfg(feature = "ec2")]
mod vendor;
pub mod window;

#[cfg(feature = "ec2")]
pub use api::{Permission, Right, sdk_config};
#[cfg(feature = "ec2")]
pub use cloud::{Ec2Cloud, Ec2Error};
#[cfg(feature = "ec2")]
pub use vendor::Ec2Vendor;
