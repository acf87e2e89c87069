//! A cloud as one who sells: what there is, where, at what price; and what the account has bought elsewhere.

use crate::decide::purchase::TypeSpec;
use crate::model::{ListPrice, SoldIn, SoldType, SpotPrice, Usage};
use async_trait::async_trait;

/// Asked from time to time. Each answer is whole, in the cloud's own words.
#[async_trait]
pub trait Vendor: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;
    /// Types by name or pattern (`c6i.*`).
    async fn types(&self, names: &[String]) -> Result<Vec<SoldType>, VendorError>;
    /// Which types these zones have.
    async fn zones(&self, zones: &[String]) -> Result<Vec<SoldIn>, VendorError>;
    /// The region's price list.
    async fn on_demand(&self) -> Result<Vec<ListPrice>, VendorError>;
    /// What these types cost as spot now.
    async fn spot(&self, types: &[String], zones: &[String]) -> Result<Vec<SpotPrice>, VendorError>;
    /// What of the account, of types by name or pattern, runs on demand and is not this cluster's.
    async fn usage(&self, types: &[String]) -> Result<Vec<Usage>, VendorError>;
    /// Says which types may be launched from now on, beside those that were said before.
    fn may_launch(&self, types: &[TypeSpec]);
}

#[derive(Debug, thiserror::Error)]
pub enum VendorError {
    /// The account may not ask.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Failed(String),
}
