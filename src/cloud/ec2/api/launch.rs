//! RunInstances, CreateFleet and the launch templates that both take.

use super::super::{limits::Kind, records::Machine, refusal::Refusal, template::Template};
use super::{Api, sdk_tags};
use crate::model::{Allocation, CreditMode};
use aws_sdk_ec2::types::{
    CapacityReservationPreference, CapacityReservationSpecification, CreditSpecificationRequest,
    DefaultTargetCapacityType, FleetLaunchTemplateConfigRequest, FleetLaunchTemplateOverridesRequest,
    FleetLaunchTemplateSpecificationRequest, FleetOnDemandAllocationStrategy, FleetType,
    InstanceNetworkInterfaceSpecification, InstanceType, LaunchTemplateBlockDeviceMappingRequest,
    LaunchTemplateEbsBlockDeviceRequest, LaunchTemplateHttpTokensState,
    LaunchTemplateIamInstanceProfileSpecificationRequest, LaunchTemplateInstanceMetadataEndpointState,
    LaunchTemplateInstanceMetadataOptionsRequest, LaunchTemplateInstanceNetworkInterfaceSpecificationRequest,
    LaunchTemplateSpecification, LaunchTemplateTagSpecificationRequest, OnDemandOptionsRequest,
    RequestLaunchTemplateData, ResourceType, ShutdownBehavior, SpotAllocationStrategy, SpotOptionsRequest,
    TagSpecification, TargetCapacitySpecificationRequest, VolumeType,
};
use std::collections::BTreeMap;

/// A template is never changed, so it has one version.
const VERSION: &str = "1";

pub struct RunOrder<'a> {
    pub template: &'a Template,
    pub instance_type: &'a str,
    pub subnet: &'a str,
    pub count: u32,
    pub token: &'a str,
    pub tags: &'a BTreeMap<String, String>,
    /// Into a capacity reservation, or not at all.
    pub reserved: bool,
}

pub struct FleetOrder<'a> {
    pub spot: bool,
    pub allocation: Allocation,
    /// Each type with its template, best first.
    pub pools: Vec<(&'a Template, &'a str)>,
    pub subnet: &'a str,
    pub count: u32,
    pub token: &'a str,
    pub tags: &'a BTreeMap<String, String>,
}

/// What a fleet launched of one type.
pub struct FleetGiven {
    pub instance_type: String,
    pub ids: Vec<String>,
}

/// Why a pool gave nothing, or too little.
pub struct FleetError {
    /// None: it is said of no pool.
    pub instance_type: Option<String>,
    pub refusal: Refusal,
}

impl Api {
    pub async fn run_instances(&self, order: &RunOrder<'_>) -> Result<Vec<Machine>, Refusal> {
        let RunOrder { template, instance_type, subnet, count, token, tags, reserved } = order;
        let network = InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(*subnet)
            .set_groups(Some(template.content.security_groups.clone()))
            // For the Pod.
            .secondary_private_ip_address_count(1)
            .delete_on_termination(true)
            .build();
        let from = LaunchTemplateSpecification::builder().launch_template_name(&template.name).version(VERSION).build();
        let only = CapacityReservationSpecification::builder()
            .capacity_reservation_preference(CapacityReservationPreference::CapacityReservationsOnly)
            .build();
        self.limits.take(Kind::LaunchedMachines, *count).await;
        self.limits.take(Kind::RunInstances, 1).await;
        let sent = self
            .client
            .run_instances()
            .min_count(1)
            .max_count(number(*count))
            .client_token(*token)
            .instance_type(InstanceType::from(*instance_type))
            .launch_template(from)
            .network_interfaces(network)
            .set_capacity_reservation_specification(reserved.then_some(only))
            .set_tag_specifications(Some(launch_tags(tags, &[ResourceType::NetworkInterface])))
            .send()
            .await;
        let answer = self.answer(Kind::RunInstances, sent)?;
        Ok(self.machines(answer.instances()))
    }

    pub async fn create_fleet(&self, order: &FleetOrder<'_>) -> Result<(Vec<FleetGiven>, Vec<FleetError>), Refusal> {
        // One entry a template: its types are its overrides.
        let mut by_template: Vec<(&Template, Vec<FleetLaunchTemplateOverridesRequest>)> = Vec::new();
        for (priority, (template, instance_type)) in (0u32..).zip(&order.pools) {
            let pool = FleetLaunchTemplateOverridesRequest::builder()
                .instance_type(InstanceType::from(*instance_type))
                .subnet_id(order.subnet)
                .priority(f64::from(priority))
                .build();
            match by_template.iter_mut().find(|(known, _)| known.name == template.name) {
                Some((_, pools)) => pools.push(pool),
                None => by_template.push((template, vec![pool])),
            }
        }
        let configs = by_template.into_iter().map(|(template, pools)| {
            let from = FleetLaunchTemplateSpecificationRequest::builder()
                .launch_template_name(&template.name)
                .version(VERSION)
                .build();
            FleetLaunchTemplateConfigRequest::builder()
                .launch_template_specification(from)
                .set_overrides(Some(pools))
                .build()
        });
        let market = if order.spot { DefaultTargetCapacityType::Spot } else { DefaultTargetCapacityType::OnDemand };
        let capacity = TargetCapacitySpecificationRequest::builder()
            .total_target_capacity(number(order.count))
            .default_target_capacity_type(market)
            .build();
        let spot = SpotOptionsRequest::builder().allocation_strategy(match order.allocation {
            Allocation::LowestPrice => SpotAllocationStrategy::LowestPrice,
            Allocation::PriceCapacityOptimized => SpotAllocationStrategy::PriceCapacityOptimized,
            Allocation::CapacityOptimized => SpotAllocationStrategy::CapacityOptimized,
        });
        // The order is the policy's.
        let on_demand =
            OnDemandOptionsRequest::builder().allocation_strategy(FleetOnDemandAllocationStrategy::Prioritized);
        self.limits.take(Kind::LaunchedMachines, order.count).await;
        self.limits.take(Kind::Mutating, 1).await;
        let sent = self
            .client
            .create_fleet()
            .r#type(FleetType::Instant)
            .client_token(order.token)
            .target_capacity_specification(capacity)
            .set_launch_template_configs(Some(configs.collect()))
            .set_spot_options(order.spot.then(|| spot.build()))
            .set_on_demand_options((!order.spot).then(|| on_demand.build()))
            .set_tag_specifications(Some(launch_tags(order.tags, &[ResourceType::Fleet])))
            .send()
            .await;
        let answer = self.answer(Kind::Mutating, sent)?;
        let given = answer.instances().iter().map(|given| FleetGiven {
            instance_type: given.instance_type().map(|t| t.as_str().to_owned()).unwrap_or_default(),
            ids: given.instance_ids().to_vec(),
        });
        let errors = answer.errors().iter().map(|error| {
            let pool = error.launch_template_and_overrides().and_then(|of| of.overrides());
            FleetError {
                instance_type: pool.and_then(|pool| pool.instance_type()).map(|t| t.as_str().to_owned()),
                refusal: Refusal::new(
                    error.error_code().unwrap_or("Unknown"),
                    error.error_message().unwrap_or("no message"),
                ),
            }
        });
        Ok((given.collect(), errors.collect()))
    }

    /// Makes the template if there is none of its name.
    pub async fn ensure_template(&self, template: &Template, cluster: &str) -> Result<(), Refusal> {
        let named = super::filter("launch-template-name", &template.name);
        self.limits.take(Kind::Describe, 1).await;
        let sent = self.client.describe_launch_templates().filters(named).max_results(5).send().await;
        if !self.answer(Kind::Describe, sent)?.launch_templates().is_empty() {
            return Ok(());
        }
        let own = [(crate::model::tag::CLUSTER.to_owned(), cluster.to_owned())].into();
        self.limits.take(Kind::Mutating, 1).await;
        let sent = self
            .client
            .create_launch_template()
            .launch_template_name(&template.name)
            .launch_template_data(template_data(template))
            .set_tag_specifications(Some(tagged(&own, &[ResourceType::LaunchTemplate])))
            .send()
            .await;
        match self.answer(Kind::Mutating, sent) {
            // Another provider was quicker; the name says that the content is the same.
            Err(refusal) if refusal.code == "InvalidLaunchTemplateName.AlreadyExistsException" => Ok(()),
            Err(refusal) => Err(refusal),
            Ok(_) => {
                tracing::info!(name = template.name, "made a launch template");
                Ok(())
            }
        }
    }
}

/// Of an instance and its volumes, and of more.
pub(super) fn launch_tags(tags: &BTreeMap<String, String>, more: &[ResourceType]) -> Vec<TagSpecification> {
    let mut all = tagged(tags, &[ResourceType::Instance, ResourceType::Volume]);
    all.extend(tagged(tags, more));
    all
}

pub(super) fn tagged(tags: &BTreeMap<String, String>, kinds: &[ResourceType]) -> Vec<TagSpecification> {
    let on = |kind: &ResourceType| {
        TagSpecification::builder().resource_type(kind.clone()).set_tags(Some(sdk_tags(tags))).build()
    };
    kinds.iter().map(on).collect()
}

fn template_data(template: &Template) -> RequestLaunchTemplateData {
    let content = &template.content;
    let network = LaunchTemplateInstanceNetworkInterfaceSpecificationRequest::builder()
        .device_index(0)
        .set_groups(Some(content.security_groups.clone()))
        .secondary_private_ip_address_count(1)
        .delete_on_termination(true)
        .build();
    // A Pod is one hop further away than the instance itself.
    let metadata = LaunchTemplateInstanceMetadataOptionsRequest::builder()
        .http_endpoint(LaunchTemplateInstanceMetadataEndpointState::Enabled)
        .http_tokens(LaunchTemplateHttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .build();
    let disk = LaunchTemplateEbsBlockDeviceRequest::builder()
        .volume_size(number(content.root_volume.size_gib))
        .volume_type(VolumeType::Gp3)
        .delete_on_termination(true)
        .build();
    let root =
        LaunchTemplateBlockDeviceMappingRequest::builder().device_name(&content.root_volume.device).ebs(disk).build();
    let profile = content
        .instance_profile
        .as_ref()
        .map(|name| LaunchTemplateIamInstanceProfileSpecificationRequest::builder().name(name).build());
    let credits = content.credits.map(|mode| {
        let word = match mode {
            CreditMode::Standard => "standard",
            CreditMode::Unlimited => "unlimited",
        };
        CreditSpecificationRequest::builder().cpu_credits(word).build()
    });
    let tags = LaunchTemplateTagSpecificationRequest::builder()
        .resource_type(ResourceType::NetworkInterface)
        .set_tags(Some(sdk_tags(&content.tags)))
        .build();
    RequestLaunchTemplateData::builder()
        .image_id(&content.image)
        .user_data(&content.user_data)
        .network_interfaces(network)
        .metadata_options(metadata)
        .block_device_mappings(root)
        .set_iam_instance_profile(profile)
        .set_credit_specification(credits)
        // One that shuts itself down is not to stay, stopped, for ever.
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .tag_specifications(tags)
        .build()
}

fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
