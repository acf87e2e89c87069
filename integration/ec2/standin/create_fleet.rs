//! CreateFleet of type `instant`: what could be had, from several pools, and errors for what could not.

use super::{
    authorize,
    fleet::{self, Allocation, Candidate, Supply},
    launch::{Launch, into_moto, resolve, supply, template_data, with_template},
    limits::Bucket,
    params::Params,
    refusal::{Refusal, throttled},
    script::Lifecycle,
    world::{World, now, request_id},
    xml::{self, leaf, node, text},
};
use std::collections::BTreeSet;
use xmltree::XMLNode;

pub async fn create_fleet(world: &World, params: &Params) -> Result<String, Refusal> {
    if params.get("Type") != Some("instant") {
        return Err(Refusal::new("InvalidParameterValue", "The stand-in makes only fleets of type instant."));
    }
    let capacity = params.below("TargetCapacitySpecification");
    let total: u32 = capacity
        .number("TotalTargetCapacity")
        .filter(|&n| n >= 1)
        .ok_or_else(|| Refusal::new("InvalidParameterValue", "TotalTargetCapacity must be at least 1."))?;
    let spot: u32 = match (capacity.number("SpotTargetCapacity"), capacity.number::<u32>("OnDemandTargetCapacity")) {
        (Some(spot), _) => spot,
        (None, Some(on_demand)) => total.saturating_sub(on_demand),
        (None, None) if capacity.get("DefaultTargetCapacityType") == Some("spot") => total,
        (None, None) => 0,
    };
    let fleet_id = format!("fleet-{}", request_id());
    let mut content = (Vec::new(), Vec::new());
    for (lifecycle, target, options) in [
        (Lifecycle::Spot, spot.min(total), params.below("SpotOptions")),
        (Lifecycle::OnDemand, total - spot.min(total), params.below("OnDemandOptions")),
    ] {
        if target > 0 {
            fill(world, params, lifecycle, target, &options, &fleet_id, &mut content).await?;
        }
    }
    let (errors, instances) = content;
    let content = vec![leaf("fleetId", fleet_id), node("errorSet", errors), node("fleetInstanceSet", instances)];
    Ok(xml::response("CreateFleetResponse", content, &request_id()))
}

async fn fill(
    world: &World,
    params: &Params,
    lifecycle: Lifecycle,
    target: u32,
    options: &Params,
    fleet_id: &str,
    content: &mut (Vec<XMLNode>, Vec<XMLNode>),
) -> Result<(), Refusal> {
    let strategy = Allocation::parse(options.get("AllocationStrategy"))?;
    let minimum = options.number("MinTargetCapacity").unwrap_or(0);
    let (launches, candidates) = candidates(world, params, lifecycle, fleet_id)?;
    let zones: BTreeSet<&str> = candidates.iter().map(|candidate| candidate.pool.zone.as_str()).collect();
    let mut gates = Vec::new();
    // In one order for all: no two calls wait for each other.
    for zone in zones {
        gates.push(world.launching.pass(zone).await);
    }
    let supplies: Vec<Supply> = launches.iter().map(|launch| supply(world, launch, "CreateFleet")).collect();
    let mut plan = fleet::plan(&candidates, &supplies, strategy, target, minimum);
    let wanted: u32 = plan.launches.iter().map(|(_, count)| count).sum();
    let throttles = world.state().throttles(Bucket::LaunchedMachines, wanted, now());
    if throttles {
        // EC2 says so inside an answer that is otherwise a success.
        plan.errors = plan.launches.drain(..).map(|(n, _)| (n, throttled())).collect();
        world.state().calls.called("ec2", "CreateFleet").throttled += 1;
    }
    for (n, count) in plan.launches {
        let launched = match authorize::launch(world, &candidates[n].template, &launches[n]) {
            Ok(()) => into_moto(world, &launches[n], count).await,
            Err(refusal) => Err(refusal),
        };
        match launched {
            Ok((_, instances)) => content.1.push(made(&candidates[n], lifecycle, &instances)),
            Err(refusal) => plan.errors.push((n, refusal)),
        }
    }
    for (n, refusal) in plan.errors {
        let mut item = vec![leaf("errorCode", &refusal.code), leaf("errorMessage", &refusal.message)];
        item.extend([leaf("lifecycle", lifecycle.as_str()), of_what(&candidates[n])]);
        content.0.push(node("item", item));
    }
    Ok(())
}

/// Every override of every template, with what it would launch.
fn candidates(
    world: &World,
    params: &Params,
    lifecycle: Lifecycle,
    fleet_id: &str,
) -> Result<(Vec<Launch>, Vec<Candidate>), Refusal> {
    let (mut launches, mut candidates) = (Vec::new(), Vec::new());
    let mut request = Params::default();
    for (n, group) in params.groups("TagSpecification").into_iter().enumerate() {
        if group.get("ResourceType") != Some("fleet") {
            request.merge(group.under(&format!("TagSpecification.{}", n + 1)));
        }
    }
    for config in params.groups("LaunchTemplateConfigs") {
        let template = config.below("LaunchTemplateSpecification");
        let data = template_data(world, &template)?;
        let mut overrides = config.groups("Overrides");
        if overrides.is_empty() {
            overrides.push(Params::default());
        }
        for of in overrides {
            let mut spec = with_template(&data, &request);
            for name in ["InstanceType", "SubnetId", "ImageId"] {
                of.get(name).into_iter().for_each(|value| spec.set(name, value));
            }
            if let Some(zone) = of.get("AvailabilityZone") {
                spec.set("Placement.AvailabilityZone", zone);
            }
            // The instances' own tokens are EC2's, not the fleet's.
            let launch = resolve(world, spec, lifecycle, format!("{fleet_id}-{}", launches.len()))?;
            let pool = &launch.pool;
            let price = match lifecycle {
                Lifecycle::Spot => world.market.spot(&pool.instance_type, &pool.zone, now()),
                Lifecycle::OnDemand => world.market.on_demand(&pool.instance_type),
            };
            candidates.push(Candidate {
                pool: pool.clone(),
                subnet: launch.subnet.clone(),
                priority: of.number("Priority").unwrap_or(f64::MAX),
                overrides: of,
                template: template.clone(),
                price: price.unwrap_or(f64::MAX),
            });
            launches.push(launch);
        }
    }
    if launches.is_empty() {
        return Err(Refusal::new("MissingParameter", "The request must contain the parameter LaunchTemplateConfigs."));
    }
    Ok((launches, candidates))
}

fn made(candidate: &Candidate, lifecycle: Lifecycle, instances: &[XMLNode]) -> XMLNode {
    let ids = instances.iter().filter_map(XMLNode::as_element).filter_map(|i| text(i, "instanceId"));
    node(
        "item",
        vec![
            of_what(candidate),
            leaf("lifecycle", lifecycle.as_str()),
            node("instanceIds", ids.map(|id| leaf("item", id)).collect()),
            leaf("instanceType", &candidate.pool.instance_type),
        ],
    )
}

fn of_what(candidate: &Candidate) -> XMLNode {
    let fields = |params: &Params, names: &[&str]| -> Vec<XMLNode> {
        let lower = |name: &str| name[..1].to_lowercase() + &name[1..];
        names.iter().filter_map(|name| Some(leaf(&lower(name), params.get(name)?))).collect()
    };
    let mut overrides = fields(&candidate.overrides, &["MaxPrice", "WeightedCapacity", "Priority", "ImageId"]);
    overrides.push(leaf("instanceType", &candidate.pool.instance_type));
    overrides.push(leaf("subnetId", &candidate.subnet));
    overrides.push(leaf("availabilityZone", &candidate.pool.zone));
    let template = fields(&candidate.template, &["LaunchTemplateId", "LaunchTemplateName", "Version"]);
    node(
        "launchTemplateAndOverrides",
        vec![node("launchTemplateSpecification", template), node("overrides", overrides)],
    )
}

/// Notes what templates say, as they are made.
pub fn note_template(world: &World, params: &Params, answer: &xmltree::Element) {
    let mut state = world.state();
    let data = params.below("LaunchTemplateData");
    match params.action() {
        "CreateLaunchTemplate" => {
            if let Some(id) = text(answer, "launchTemplate/launchTemplateId") {
                let name = params.get("LaunchTemplateName").unwrap_or_default().to_owned();
                let tags = super::iam::requested(params).remove("launch-template").unwrap_or_default();
                state.templates.insert(id, super::world::Template { name, versions: vec![data], tags });
            }
        }
        "CreateLaunchTemplateVersion" => {
            let (id, name) = (params.get("LaunchTemplateId"), params.get("LaunchTemplateName"));
            let found = state.templates.iter_mut().find(|(key, template)| {
                id.is_some_and(|id| id == *key) || name.is_some_and(|name| name == template.name)
            });
            if let Some((_, template)) = found {
                template.versions.push(data);
            }
        }
        "DeleteLaunchTemplate" => {
            if let Some(id) = text(answer, "launchTemplate/launchTemplateId") {
                state.templates.remove(&id);
            }
        }
        _ => {}
    }
}
