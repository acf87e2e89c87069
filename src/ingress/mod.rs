//! `pilotlight gateway`: an ingress for Knative, the data plane and its controller in one process.
//!
//! (Not to be taken for [`crate::gateway`], which is where the *agents* dial in. This room is about the
//! users' requests.)
//!
//! It implements Knative's KIngress (`networking.internal.knative.dev/v1alpha1` Ingress) for the objects whose
//! annotation `networking.knative.dev/ingress.class` names its class.
//!
//! ```text
//!   Ingresses ----+                        pure                        atomic
//!   Services -----+--> control.rs --> world.rs ----> Live (one value) ----> proxy/  <---- requests
//!   EndpointSlices+        |          table/  (spec -> routes, hosts)         |  routes.rs: host, path, headers
//!   TLS Secrets --+        |          backends.rs (service -> endpoints)      |  balance.rs: which endpoint
//!                          |          status.rs                               +--> endpoints (pool.rs)
//!                          +--> status patches, after the data plane serves what they say
//! ```
//!
//! What an Ingress goes through, a generation at a time:
//!
//! ```text
//!             spec wrong, host taken
//!   seen --------------------------------> refused    NetworkConfigured=False, with the field or the owner
//!    |  a Service, endpoint or Secret that it needs is missing
//!    +--------------------------------> waiting    Unknown; the generation before it is served on
//!    |                                     | it came
//!    +--------------> serving <------------+       True, Ready; stays so while endpoints come and go
//! ```
//!
//! - Endpoints are the EndpointSlices' addresses themselves: no cluster IP, no service proxy, no DNS on the way
//!   (except for an ExternalName outside of the cluster).
//! - Any number of replicas may run: each serves by its own watches, and writes a status only if it differs from
//!   what it would write, under the version it was derived from. Equal facts give equal statuses.
//! - Nothing is kept anywhere else: a restart rebuilds all of it before it says that it is ready.

pub mod again;
pub mod backends;
pub mod balance;
mod certificate;
pub mod control;
pub mod hash;
pub mod proxy;
mod secrets;
pub mod spec;
pub mod status;
pub mod table;
pub mod world;
