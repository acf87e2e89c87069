//! [`Vendor`] on EC2 and its price list.

use super::{
    api::Api,
    price_list::PriceList,
    refusal::{Refusal, Verdict},
    types::Types,
};
use crate::{
    decide::purchase::TypeSpec,
    model::{ListPrice, SoldIn, SoldType, SpotPrice, Usage},
    ports::{Vendor, VendorError},
};
use async_trait::async_trait;
use std::sync::Arc;

pub struct Ec2Vendor {
    pub(super) api: Arc<Api>,
    pub(super) cluster: String,
    /// None: it is not asked.
    pub(super) price_list: Option<PriceList>,
    pub(super) types: Arc<Types>,
}

impl Ec2Vendor {
    /// Whether there is a price list to ask.
    pub fn has_price_list(&self) -> bool {
        self.price_list.is_some()
    }
}

fn vendor_error(refusal: Refusal) -> VendorError {
    match refusal.verdict {
        Verdict::Denied => VendorError::Denied(refusal.to_string()),
        _ => VendorError::Failed(refusal.to_string()),
    }
}

#[async_trait]
impl Vendor for Ec2Vendor {
    fn name(&self) -> &str {
        "EC2"
    }

    async fn types(&self, names: &[String]) -> Result<Vec<SoldType>, VendorError> {
        self.api.sold_types(names).await.map_err(vendor_error)
    }

    async fn zones(&self, zones: &[String]) -> Result<Vec<SoldIn>, VendorError> {
        self.api.sold_in(zones).await.map_err(vendor_error)
    }

    async fn on_demand(&self) -> Result<Vec<ListPrice>, VendorError> {
        let Some(list) = &self.price_list else {
            return Err(VendorError::Denied("the price list is not to be asked".to_owned()));
        };
        list.on_demand().await.map_err(vendor_error)
    }

    async fn spot(&self, types: &[String], zones: &[String]) -> Result<Vec<SpotPrice>, VendorError> {
        self.api.spot_prices(types, zones).await.map_err(vendor_error)
    }

    async fn usage(&self, types: &[String]) -> Result<Vec<Usage>, VendorError> {
        self.api.usage_beside(&self.cluster, types).await.map_err(vendor_error)
    }

    fn may_launch(&self, types: &[TypeSpec]) {
        self.types.add(types);
    }
}
