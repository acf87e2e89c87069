//! Which calls IAM judges of one request.
//!
//! | request | judged |
//! |---|---|
//! | Describe… | the action, on `*` |
//! | RunInstances | itself on what it makes and on what it uses; CreateTags on each kind it gives tags; PassRole |
//! | CreateFleet | itself, and CreateTags on each kind that its own request gives tags; then the launches, each as RunInstances |
//! | CreateLaunchTemplate | itself and CreateTags; the tags inside it are judged when it is used |
//! | TerminateInstances, Delete… | the action on each that is named |
//! | CreateTags | itself, without a create action: nothing is made |
//!
//! What is made has `*` for an id. What is not there is judged too, as something without tags (kubernetes-sigs/karpenter#2813:
//! CreateFleet's dry run on a template that does not exist is denied on `launch-template/*`). With which create action the tags
//! of a fleet's instances and volumes are judged AWS does not say. The fleet's request asks for them, and the launch inside of
//! it does, in the name of who called (aws/karpenter-provider-aws#7370; with `RunInstances` in kubernetes-sigs/karpenter#1713).
//! Both are judged here.
//!
//! Sources: AWS, Service Authorization Reference; EC2's user guide, "Grant permission to tag resources during creation"
//! (which also says that a template's tags are judged), "Work with Spot Instances" (a spot request is judged only where it is
//! given tags), "Example policies to control access to the Amazon EC2 API".

use super::{
    super::{launch::with_template, params::Params, world::Template},
    policy::{Call, Resource},
};
use std::collections::BTreeMap;

pub type Tags = BTreeMap<String, String>;

/// What of an account a request may name.
#[derive(Clone, Copy)]
pub struct Account<'a> {
    pub id: &'a str,
    pub region: &'a str,
    pub templates: &'a BTreeMap<String, Template>,
    /// Of the things that [`named`] names. Images, subnets and security groups have none here.
    pub tags: &'a BTreeMap<String, Tags>,
}

/// The ids of what a request ends or tags: their tags are to be looked up.
pub fn named(params: &Params) -> Vec<String> {
    let one = |name: &str| params.get(name).into_iter().map(str::to_owned).collect();
    match params.action() {
        "TerminateInstances" => params.list("InstanceId"),
        "DeleteVolume" => one("VolumeId"),
        "DeleteNetworkInterface" => one("NetworkInterfaceId"),
        "CreateTags" => params.list("ResourceId"),
        _ => Vec::new(),
    }
}

/// SQS's action on the queue at this URL.
pub fn on_queue(action: &str, region: &str, url: &str) -> Call {
    let mut parts = url.rsplit('/');
    let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let queue =
        Resource { arn: format!("arn:aws:sqs:{region}:{account}:{name}"), kind: "queue", ..Resource::default() };
    call("sqs", action, region, vec![queue])
}

pub fn price_list(action: &str, region: &str) -> Call {
    call("pricing", action, region, vec![Resource { arn: "*".to_owned(), ..Resource::default() }])
}

fn call(service: &str, action: &str, region: &str, resources: Vec<Resource>) -> Call {
    Call { action: format!("{service}:{action}"), region: region.to_owned(), create_action: None, resources }
}

impl Account<'_> {
    /// Of a request of EC2's; of a fleet's without its launches.
    pub fn calls(&self, params: &Params) -> Vec<Call> {
        let action = params.action();
        let alone = |resources: Vec<Resource>| vec![call("ec2", action, self.region, resources)];
        let own = |kind: &'static str| named(params).iter().map(|id| self.there(kind, id)).collect();
        match action {
            "RunInstances" => self.launch(&params.below("LaunchTemplate"), &self.merged(params)),
            "CreateFleet" => self.fleet(params),
            "CreateLaunchTemplate" => {
                let tags = requested(params);
                let mut calls = alone(vec![self.made("launch-template", &tags)]);
                calls.extend(self.tagging("CreateLaunchTemplate", &tags));
                calls
            }
            "DeleteLaunchTemplate" => alone(vec![self.template(params)]),
            "DeleteVolume" => alone(own("volume")),
            "DeleteNetworkInterface" => alone(own("network-interface")),
            "TerminateInstances" => alone(own("instance")),
            "CreateTags" => {
                let requested = tags(&params.groups("Tag"));
                let of = |id: &String| Resource { requested: requested.clone(), ..self.there(kind(id), id) };
                alone(named(params).iter().map(of).collect())
            }
            _ => alone(vec![Resource { arn: "*".to_owned(), ..Resource::default() }]),
        }
    }

    /// A launch of `spec`, which has what the template says.
    pub fn launch(&self, template: &Params, spec: &Params) -> Vec<Call> {
        let tags = requested(spec);
        let interfaces = spec.groups("NetworkInterface");
        let mut resources: Vec<Resource> =
            ["instance", "volume", "network-interface"].map(|kind| self.made(kind, &tags)).into();
        if *template != Params::default() {
            resources.push(self.template(template));
        }
        let named = |kind: &'static str, id: Option<&str>| self.there(kind, id.unwrap_or("*"));
        resources.push(named("image", spec.get("ImageId")));
        let subnet = interfaces.iter().find_map(|interface| interface.get("SubnetId"));
        resources.push(named("subnet", spec.get("SubnetId").or(subnet)));
        let mut groups = spec.list("SecurityGroupId");
        groups.extend(interfaces.iter().flat_map(|interface| interface.list("SecurityGroupId")));
        // The VPC's own.
        groups.extend(groups.is_empty().then(|| "*".to_owned()));
        resources.extend(groups.iter().map(|id| self.there("security-group", id)));
        let disks = spec.groups("BlockDeviceMapping");
        let snapshots = disks.iter().filter_map(|disk| disk.get("Ebs.SnapshotId"));
        resources.extend(snapshots.map(|id| self.there("snapshot", id)));
        for (kind, name) in [("key-pair", "KeyName"), ("placement-group", "Placement.GroupName")] {
            resources.extend(spec.get(name).map(|name| self.there(kind, name)));
        }
        // Of one that is only preferred, or that must be open to it, AWS does not say whether it is judged.
        if spec.has("CapacityReservationSpecification") {
            let target = "CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId";
            resources.push(named("capacity-reservation", spec.get(target)));
        }
        if tags.contains_key("spot-instances-request") {
            resources.push(self.made("spot-instances-request", &tags));
        }
        let mut calls = vec![call("ec2", "RunInstances", self.region, resources)];
        calls.extend(self.tagging("RunInstances", &tags));
        if spec.has("IamInstanceProfile") {
            // Which role is in it is not known here.
            let role =
                Resource { arn: format!("arn:aws:iam::{}:role/*", self.id), kind: "role", ..Resource::default() };
            calls.push(call("iam", "PassRole", self.region, vec![role]));
        }
        calls
    }

    fn fleet(&self, params: &Params) -> Vec<Call> {
        let tags = requested(params);
        let mut resources: Vec<Resource> = ["fleet", "instance", "volume"].map(|kind| self.made(kind, &tags)).into();
        for config in params.groups("LaunchTemplateConfigs") {
            let template = config.below("LaunchTemplateSpecification");
            resources.push(self.template(&template));
            let overrides = config.groups("Overrides");
            let image = |of: &Params| of.get("ImageId").map(|id| self.there("image", id));
            resources.extend(overrides.iter().chain(&self.data(&template)).filter_map(image));
            resources.extend(overrides.iter().filter_map(|of| Some(self.there("subnet", of.get("SubnetId")?))));
        }
        let mut calls = vec![call("ec2", "CreateFleet", self.region, resources)];
        calls.extend(self.tagging("CreateFleet", &tags));
        calls
    }

    /// That these kinds of what is made get these tags.
    fn tagging(&self, action: &'static str, tags: &BTreeMap<&'static str, Tags>) -> Option<Call> {
        let resources: Vec<Resource> = tags.keys().map(|kind| self.made(kind, tags)).collect();
        let call = Call { create_action: Some(action), ..call("ec2", "CreateTags", self.region, resources) };
        (!tags.is_empty()).then_some(call)
    }

    fn data(&self, named: &Params) -> Option<Params> {
        Template::find(self.templates, named).and_then(|(_, template)| template.version(named)).cloned()
    }

    fn merged(&self, params: &Params) -> Params {
        let mut spec = match self.data(&params.below("LaunchTemplate")) {
            Some(data) => with_template(&data, params),
            None => params.clone(),
        };
        spec.remove("LaunchTemplate");
        spec
    }

    fn template(&self, named: &Params) -> Resource {
        match Template::find(self.templates, named) {
            Some((id, template)) => Resource {
                arn: self.arn("launch-template", id),
                kind: "launch-template",
                tags: template.tags.clone(),
                ..Resource::default()
            },
            None => self.there("launch-template", "*"),
        }
    }

    fn made(&self, kind: &'static str, tags: &BTreeMap<&'static str, Tags>) -> Resource {
        let requested = tags.get(kind).cloned().unwrap_or_default();
        Resource { arn: self.arn(kind, "*"), kind, requested, ..Resource::default() }
    }

    fn there(&self, kind: &'static str, id: &str) -> Resource {
        let tags = self.tags.get(id).cloned().unwrap_or_default();
        Resource { arn: self.arn(kind, id), kind, tags, ..Resource::default() }
    }

    /// Images and snapshots are of no account.
    fn arn(&self, kind: &str, id: &str) -> String {
        let account = if matches!(kind, "image" | "snapshot") { "" } else { self.id };
        format!("arn:aws:ec2:{}:{account}:{kind}/{id}", self.region)
    }
}

/// The tags that a request gives, by the kind of what gets them.
pub fn requested(params: &Params) -> BTreeMap<&'static str, Tags> {
    let mut all: BTreeMap<&'static str, Tags> = BTreeMap::new();
    for group in params.groups("TagSpecification") {
        let name = group.get("ResourceType").unwrap_or_default();
        all.entry(known(name)).or_default().extend(tags(&group.groups("Tag")));
    }
    all
}

fn tags(groups: &[Params]) -> Tags {
    let of = |tag: &Params| Some((tag.get("Key")?.to_owned(), tag.get("Value").unwrap_or_default().to_owned()));
    groups.iter().filter_map(of).collect()
}

/// Those that may be tagged here. No policy allows it for what has no name.
fn known(kind: &str) -> &'static str {
    let kinds = ["fleet", "instance", "launch-template", "network-interface", "spot-instances-request", "volume"];
    kinds.into_iter().find(|known| *known == kind).unwrap_or("")
}

fn kind(id: &str) -> &'static str {
    match id.split('-').next() {
        Some("i") => "instance",
        Some("vol") => "volume",
        Some("eni") => "network-interface",
        Some("lt") => "launch-template",
        Some("fleet") => "fleet",
        Some("sir") => "spot-instances-request",
        _ => "",
    }
}
