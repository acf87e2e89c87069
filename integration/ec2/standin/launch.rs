//! RunInstances: MinCount to MaxCount machines of one pool, made by moto; and what CreateFleet needs of it.

use super::{
    describe::laid_over,
    fleet::Supply,
    instances::{Instance, Machine, Subnet},
    limits::Bucket,
    params::Params,
    refusal::{Refusal, no_capacity, throttled},
    script::{Lifecycle, Pool},
    world::{Template, World, new_id, now, request_id},
    xml::{self, items, leaf, node, text},
};
use std::net::Ipv4Addr;
use xmltree::{Element, XMLNode};

/// What is launched: everything said by template and request together.
pub struct Launch {
    pub spec: Params,
    pub pool: Pool,
    pub subnet: String,
    pub client_token: String,
}

pub async fn run_instances(world: &World, params: &Params) -> Result<String, Refusal> {
    let mut spec = params.clone();
    if params.has("LaunchTemplate") {
        let template = params.below("LaunchTemplate");
        spec = with_template(&template_data(world, &template)?, params);
        spec.remove("LaunchTemplate");
    }
    let count = |name: &str| {
        let wrong = || Refusal::new("InvalidParameterValue", format!("Value for parameter {name} is invalid."));
        spec.number::<u32>(name).filter(|&n| n >= 1).ok_or_else(wrong)
    };
    let (min, max) = (count("MinCount")?, count("MaxCount")?);
    if min > max {
        return Err(Refusal::new("InvalidParameterValue", "MinCount may not be greater than MaxCount."));
    }
    let lifecycle = match spec.get("InstanceMarketOptions.MarketType") {
        Some("spot") => Lifecycle::Spot,
        _ => Lifecycle::OnDemand,
    };
    let client_token = params.get("ClientToken").map_or_else(request_id, str::to_owned);
    let launch = resolve(world, spec, lifecycle, client_token)?;
    let _gate = world.launching.pass(&launch.pool.zone).await;
    let supply = supply(world, &launch, "RunInstances");
    let given = supply.gives(max);
    if given < min {
        return Err(match supply {
            Supply::Refuses(refusal) => refusal,
            _ => no_capacity(&launch.pool.instance_type, &launch.pool.zone),
        });
    }
    if world.state().throttles(Bucket::LaunchedMachines, given, now()) {
        return Err(throttled());
    }
    let (reservation, instances) = into_moto(world, &launch, given).await?;
    let content =
        vec![leaf("reservationId", reservation), leaf("ownerId", &world.account), node("instancesSet", instances)];
    Ok(xml::response("RunInstancesResponse", content, &request_id()))
}

/// What a template says, as parameters of a request.
pub fn template_data(world: &World, named: &Params) -> Result<Params, Refusal> {
    let state = world.state();
    let Some((_, found)) = Template::find(&state.templates, named) else {
        return Err(match (named.get("LaunchTemplateId"), named.get("LaunchTemplateName")) {
            (Some(id), _) => Refusal::new(
                "InvalidLaunchTemplateId.NotFound",
                format!("The specified launch template, with template ID {id}, does not exist."),
            ),
            (None, Some(name)) => Refusal::new(
                "InvalidLaunchTemplateName.NotFoundException",
                format!("The specified launch template, with template name {name}, does not exist."),
            ),
            (None, None) => Refusal::new("MissingParameter", "A launch template must be named by its id or name."),
        });
    };
    found.version(named).cloned().ok_or_else(|| {
        Refusal::new("InvalidLaunchTemplateId.VersionNotFound", "Could not find the launch template version.")
    })
}

/// The request wins over the template, parameter by parameter; tags of both are given.
pub fn with_template(template: &Params, request: &Params) -> Params {
    let mut merged = template.clone();
    let mut tags = merged.groups("TagSpecification");
    tags.extend(request.groups("TagSpecification"));
    for name in [
        "ImageId",
        "InstanceType",
        "UserData",
        "SecurityGroupId",
        "NetworkInterface",
        "MetadataOptions",
        "BlockDeviceMapping",
    ] {
        if request.has(name) || request.get(name).is_some() {
            merged.remove(name);
        }
    }
    merged.merge(request.clone());
    merged.remove("TagSpecification");
    for (n, group) in tags.into_iter().enumerate() {
        merged.merge(group.under(&format!("TagSpecification.{}", n + 1)));
    }
    merged
}

/// Finds the pool and subnet that the parameters mean.
pub fn resolve(world: &World, spec: Params, lifecycle: Lifecycle, client_token: String) -> Result<Launch, Refusal> {
    let state = world.state();
    let instance_type = spec.get("InstanceType").unwrap_or("m1.small").to_owned();
    if world.market.size(&instance_type).is_none() {
        return Err(Refusal::new(
            "InvalidParameterValue",
            format!("Invalid value '{instance_type}' for InstanceType."),
        ));
    }
    // With which code EC2 does not say.
    if spec.has("CreditSpecification") && burstable(&instance_type).is_none() {
        let message = format!("The instance type {instance_type} takes no credit specification.");
        return Err(Refusal::new("InvalidParameterCombination", message));
    }
    let wanted_zone = spec.get("Placement.AvailabilityZone");
    let named = spec.get("SubnetId").or_else(|| spec.get("NetworkInterface.1.SubnetId"));
    let subnet = match named {
        Some(id) => Some((
            id.to_owned(),
            state.subnets.get(id).ok_or_else(|| {
                Refusal::new("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
            })?,
        )),
        None => state
            .subnets
            .iter()
            .find(|(_, (_, zone))| wanted_zone.is_none_or(|z| z == zone))
            .map(|(id, of)| (id.clone(), of)),
    };
    let Some((subnet, (_, zone))) = subnet else {
        return Err(Refusal::new("InvalidParameterValue", "There is no subnet in the Availability Zone."));
    };
    let pool = Pool { lifecycle, instance_type, zone: zone.clone() };
    Ok(Launch { spec, pool, subnet, client_token })
}

/// What the pool and the subnet can give now.
pub fn supply(world: &World, launch: &Launch, action: &str) -> Supply {
    let mut state = world.state();
    let state = &mut *state;
    state.tick(now());
    if let Some(refusal) = state.script.pool_fault(action, &launch.pool) {
        return Supply::Refuses(refusal);
    }
    let capacity =
        state.script.capacity_of(&launch.pool).map(|most| most.saturating_sub(state.instances.held(&launch.pool)));
    let each = 1 + secondary_count(&launch.spec);
    let room =
        state.subnets.get(&launch.subnet).map_or(0, |(subnet, _)| state.instances.free_addresses(*subnet) / each);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    if room == 0 {
        let message = format!(
            "There are not enough free addresses in subnet '{}' to satisfy the requested number of instances.",
            launch.subnet
        );
        return Supply::Refuses(Refusal::new("InsufficientFreeAddressesInSubnet", message));
    }
    match capacity {
        Some(left) => Supply::Up(left.min(room)),
        None if room < 1000 => Supply::Up(room),
        None => Supply::Unbounded,
    }
}

/// As asked for, or the family's own. (AWS, "Unlimited mode for burstable performance instances": T2 is launched as standard, the
/// others as unlimited.)
fn credits(launch: &Launch) -> Option<String> {
    let family = burstable(&launch.pool.instance_type)?;
    let own = if family == "t2" { "standard" } else { "unlimited" };
    Some(launch.spec.get("CreditSpecification.CpuCredits").unwrap_or(own).to_owned())
}

/// Its family.
fn burstable(instance_type: &str) -> Option<&str> {
    let family = instance_type.split('.').next()?;
    let rest = family.strip_prefix('t')?;
    rest.starts_with(|c: char| c.is_ascii_digit()).then_some(family)
}

fn secondary_count(spec: &Params) -> usize {
    spec.number("NetworkInterface.1.SecondaryPrivateIpAddressCount").unwrap_or(0)
}

/// Has moto make them, notes them, and boots their machines. The gate of the zone must be held.
pub async fn into_moto(world: &World, launch: &Launch, count: u32) -> Result<(String, Vec<XMLNode>), Refusal> {
    let mut request = launch.spec.clone();
    for name in ["IamInstanceProfile", "CapacityReservationSpecification", "CreditSpecification"] {
        request.remove(name);
    }
    request.remove("InstanceMarketOptions.SpotOptions");
    if launch.pool.lifecycle == Lifecycle::Spot {
        request.set("InstanceMarketOptions.MarketType", "spot");
    }
    request.set("Action", "RunInstances");
    request.set("Version", "2016-11-15");
    request.set("MinCount", count.to_string());
    request.set("MaxCount", count.to_string());
    request.set("ClientToken", &launch.client_token);
    if request.has("NetworkInterface") {
        request.remove("SubnetId");
        request.set("NetworkInterface.1.SubnetId", &launch.subnet);
    } else {
        request.set("SubnetId", &launch.subnet);
    }
    let answer = world.moto.query(&request).await?;
    let reservation = text(&answer, "reservationId").unwrap_or_default();
    let mut instances = Vec::new();
    for item in items(&answer, "instancesSet") {
        let instance = note(world, launch, &reservation, item)?;
        let state = world.state();
        instances.push(XMLNode::Element(laid_over(item, &instance, &state.script, now())));
        drop(state);
        if let Some(machines) = &world.machines {
            machines.boot(&instance);
        }
    }
    Ok((reservation, instances))
}

fn note(world: &World, launch: &Launch, reservation: &str, item: &Element) -> Result<Instance, Refusal> {
    let broken = |what: &str| Refusal::new("InternalError", format!("moto's instance has no {what}"));
    let at = |path: &str| text(item, path).filter(|text| !text.is_empty());
    let address: Ipv4Addr = at("privateIpAddress").and_then(|ip| ip.parse().ok()).ok_or_else(|| broken("address"))?;
    let mut state = world.state();
    let subnet: Subnet = state.subnets.get(&launch.subnet).ok_or_else(|| broken("subnet"))?.0;
    let secondary = state.instances.secondary(subnet, secondary_count(&launch.spec)).ok_or_else(|| broken("room"))?;
    let [a, b, c, d] = address.octets();
    let instance = Instance {
        id: at("instanceId").ok_or_else(|| broken("id"))?,
        reservation: reservation.to_owned(),
        pool: launch.pool.clone(),
        subnet: launch.subnet.clone(),
        address,
        secondary,
        client_token: launch.client_token.clone(),
        credits: credits(launch),
        user_data: launch.spec.get("UserData").unwrap_or_default().to_owned(),
        hop_limit: launch.spec.number("MetadataOptions.HttpPutResponseHopLimit").unwrap_or(1),
        // As the local cloud's machines have it.
        mac: format!("02:70:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        interface: at("networkInterfaceSet/item/networkInterfaceId").unwrap_or_else(|| new_id("eni")),
        image: at("imageId").unwrap_or_default(),
        launched_at: now(),
        machine: if world.machines.is_some() { Machine::Awaited } else { Machine::NotWanted },
        stopped: false,
        stopping: None,
        ended_at: None,
    };
    state.instances.0.insert(instance.id.clone(), instance.clone());
    state.calls.launched += 1;
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wins_over_its_template_and_the_tags_of_both_are_given() {
        let template = Params::of(&[
            ("ImageId", "ami-1"),
            ("InstanceType", "t3.micro"),
            ("NetworkInterface.1.DeviceIndex", "0"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "a"),
        ]);
        let request = Params::of(&[
            ("InstanceType", "t3.small"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "b"),
        ]);
        let merged = with_template(&template, &request);
        assert_eq!(merged.get("ImageId"), Some("ami-1"));
        assert_eq!(merged.get("InstanceType"), Some("t3.small"));
        assert_eq!(merged.get("NetworkInterface.1.DeviceIndex"), Some("0"));
        let keys: Vec<_> =
            merged.groups("TagSpecification").iter().map(|g| g.get("Tag.1.Key").unwrap().to_owned()).collect();
        assert_eq!(keys, ["a", "b"]);
    }
}
