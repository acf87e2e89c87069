//! [`Vendor`] on EC2 and its price list.

use super::{
    api::Api,
    ledger::Ledger,
    price_list::PriceList,
    refusal::{Refusal, Verdict},
    types::Types,
};
use crate::{
    decide::purchase::TypeSpec,
    model::{InstanceId, ListPrice, SoldIn, SoldType, SpotPrice, Usage},
    ports::{Vendor, VendorError},
};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError};

pub struct Ec2Vendor {
    pub(super) api: Arc<Api>,
    pub(super) cluster: String,
    /// None: it is not asked.
    pub(super) price_list: Option<PriceList>,
    pub(super) types: Arc<Types>,
    /// Of what the cluster launched.
    pub(super) ledger: Arc<Mutex<Ledger>>,
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
        let launched = |id: &InstanceId| self.ledger.lock().unwrap_or_else(PoisonError::into_inner).get(id).is_some();
        self.api.usage_beside(&self.cluster, types, launched).await.map_err(vendor_error)
    }

    fn may_launch(&self, types: &[TypeSpec]) {
        self.types.add(types);
    }
}
