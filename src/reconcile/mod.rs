//! Snapshot -> decide -> execute, for all Pods of all our nodes.
//!
//! One task owns the [`World`]: nothing else changes it, so there is no lock. Everything comes in as an
//! [`Input`] over one bounded queue; many inputs are taken up before anything is decided, and only what
//! they touched is decided anew:
//!
//! ```text
//!  pod watch ---+                          +--> decide::lifecycle --+--> StatusSink, EventSink
//!  agents ------+--> World, dirty Pods ----+    decide::status      +--> AgentLink (desired states)
//!  cloud -------+        ^                 +--> decide::placement --+--> Cloud (launch, terminate)
//!  refs --------+        |                                          |
//!                        +------------ results come back as inputs -+
//! ```
//!
//! After a start nothing is decided before the Pods of every node are listed and the cloud has
//! described its instances; nothing is ended before agents had time to come back (ADOPTION). So a
//! provider that was killed finds everything as it was.

mod directory;
mod engine;
mod world;

pub use directory::{Directory, DirectoryEntry};
pub use engine::{Engine, EngineConfig, Input, Reload};
pub use world::{World, WorldConfig, refusal, wants};
