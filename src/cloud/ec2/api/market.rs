//! What EC2 sells: DescribeInstanceTypes, DescribeInstanceTypeOfferings, DescribeSpotPriceHistory. In its words; what
//! is made of them is `decide::purchase::refresh`'s.

use super::super::{limits::Kind, refusal::Refusal};
use super::{Api, MOST_VALUES, PRODUCT, any_of, filter, more};
use crate::model::{SoldIn, SoldType, SpotPrice};
use aws_sdk_ec2::{
    primitives::DateTime,
    types::{InstanceType, InstanceTypeInfo, LocationType},
};
use jiff::Timestamp;
use std::time::SystemTime;

/// AWS, "DescribeInstanceTypes": 5 to 100; of the others up to 1000.
const TYPES_PAGE: i32 = 100;
const PAGE: i32 = 1000;

fn sold(info: &InstanceTypeInfo) -> SoldType {
    let architectures = info.processor_info().map(|of| of.supported_architectures()).unwrap_or_default();
    SoldType {
        name: info.instance_type().map(|name| name.as_str().to_owned()).unwrap_or_default(),
        architectures: architectures.iter().map(|of| of.as_str().to_owned()).collect(),
        vcpus: info.v_cpu_info().and_then(|of| of.default_v_cpus()).map(i64::from),
        memory_mib: info.memory_info().and_then(|of| of.size_in_mib()),
        burstable: info.burstable_performance_supported().unwrap_or(false),
    }
}

impl Api {
    /// Of these names and patterns, on machines that our images can run on.
    pub async fn sold_types(&self, names: &[String]) -> Result<Vec<SoldType>, Refusal> {
        let mut found = Vec::new();
        for names in names.chunks(MOST_VALUES) {
            let filters = vec![
                any_of("instance-type", names),
                filter("supported-virtualization-type", "hvm"),
                // A whole machine is not what a pattern such as `c6i.*` means. Who wants one puts it into the catalog.
                filter("bare-metal", "false"),
            ];
            let mut next = None;
            loop {
                self.limits.take(Kind::Describe, 1).await;
                let sent = self
                    .client
                    .describe_instance_types()
                    .set_filters(Some(filters.clone()))
                    .max_results(TYPES_PAGE)
                    .set_next_token(next)
                    .send()
                    .await;
                let page = self.answer(Kind::Describe, sent)?;
                found.extend(page.instance_types().iter().map(sold));
                next = more(page.next_token());
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(found)
    }

    pub async fn sold_in(&self, zones: &[String]) -> Result<Vec<SoldIn>, Refusal> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            self.limits.take(Kind::Describe, 1).await;
            let sent = self
                .client
                .describe_instance_type_offerings()
                .location_type(LocationType::AvailabilityZone)
                .filters(any_of("location", zones))
                .max_results(PAGE)
                .set_next_token(next)
                .send()
                .await;
            let page = self.answer(Kind::Describe, sent)?;
            found.extend(page.instance_type_offerings().iter().map(|offering| SoldIn {
                instance_type: offering.instance_type().map(|name| name.as_str().to_owned()).unwrap_or_default(),
                zone: offering.location().unwrap_or_default().to_owned(),
            }));
            next = more(page.next_token());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// The prices that hold now: a history that begins now has one entry for each pool.
    pub async fn spot_prices(&self, types: &[String], zones: &[String]) -> Result<Vec<SpotPrice>, Refusal> {
        let types: Vec<InstanceType> = types.iter().map(|name| InstanceType::from(name.as_str())).collect();
        let now = DateTime::from(SystemTime::now());
        let mut found = Vec::new();
        for types in types.chunks(MOST_VALUES) {
            self.spot_prices_of(types, zones, now, &mut found).await?;
        }
        Ok(found)
    }

    async fn spot_prices_of(
        &self,
        types: &[InstanceType],
        zones: &[String],
        now: DateTime,
        found: &mut Vec<SpotPrice>,
    ) -> Result<(), Refusal> {
        let mut next = None;
        loop {
            self.limits.take(Kind::Describe, 1).await;
            let sent = self
                .client
                .describe_spot_price_history()
                .set_instance_types(Some(types.to_vec()))
                .filters(any_of("availability-zone", zones))
                .product_descriptions(PRODUCT)
                .start_time(now)
                .max_results(PAGE)
                .set_next_token(next)
                .send()
                .await;
            let page = self.answer(Kind::Describe, sent)?;
            found.extend(page.spot_price_history().iter().map(|price| SpotPrice {
                instance_type: price.instance_type().map(|name| name.as_str().to_owned()).unwrap_or_default(),
                zone: price.availability_zone().unwrap_or_default().to_owned(),
                product: price.product_description().map(|of| of.as_str().to_owned()).unwrap_or_default(),
                price: price.spot_price().unwrap_or_default().to_owned(),
                since: price.timestamp().and_then(|at| Timestamp::from_second(at.secs()).ok()).unwrap_or_default(),
            }));
            next = more(page.next_token());
            if next.is_none() {
                return Ok(());
            }
        }
    }
}
