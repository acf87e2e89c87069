//! What the account lets us do, asked by dry runs: EC2 judges the right and does nothing.
//!
//! A right that is bound to the cluster's tag (manifests/aws/iam-policy.json) shows on what has the tag alone. EC2 judges what is
//! not there too, as something without tags: kubernetes-sigs/karpenter#2813 has a fleet's dry run denied for its made-up template.

use super::super::{
    config::Ec2Config,
    refusal::{Refusal, Verdict},
};
use super::{
    Api,
    launch::{launch_tags, tagged},
    refusal,
};
use aws_sdk_ec2::{
    error::{ProvideErrorMetadata, SdkError},
    types::{
        DefaultTargetCapacityType, FleetLaunchTemplateConfigRequest, FleetLaunchTemplateSpecificationRequest,
        FleetType, RequestLaunchTemplateData, ResourceType, TargetCapacitySpecificationRequest,
    },
};
use std::{error::Error, fmt::Debug};

/// The id of nothing.
const NOTHING: &str = "00000000000000000";
const FLEET: &str = "ec2:CreateFleet";
const NO_TEMPLATE: &str = "ec2:DeleteLaunchTemplate";
const TAGS: &str = "ec2:CreateTags";
const RUN: &str = "ec2:RunInstances";
const TEMPLATE: &str = "ec2:CreateLaunchTemplate";
const FIGURES: &str = "the catalog's figures are used";

/// What a dry run of an action came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    Granted,
    Denied(String),
    /// The dry run failed for another reason, or could only be made on something that is not there: a right that
    /// holds for what is tagged as ours alone does not show then.
    Unclear(String),
    /// The question came to no answer.
    Unanswered(String),
}

/// An action, as IAM names it (with the one at which it is asked for, where that matters), and whether it may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    pub action: &'static str,
    pub right: Right,
    /// What is done without it; None where nothing is.
    pub instead: Option<&'static str>,
}

impl Permission {
    fn of(action: &'static str, right: Right) -> Self {
        Self { action, right, instead: None }
    }

    fn or(self, instead: &'static str) -> Self {
        Self { instead: Some(instead), ..self }
    }

    /// The price list knows no dry run: what a question of it came to.
    pub fn of_price_list(answer: Result<(), Refusal>) -> Self {
        Self::of("pricing:GetProducts", right(answer)).or(FIGURES)
    }

    /// Nor does a queue. That it may be received from is seen; whether deleted from, not.
    pub fn of_queue(answer: Result<(), Refusal>) -> Self {
        Self::of("sqs:ReceiveMessage", right(answer)).or("the agents alone tell of interruptions")
    }
}

fn right(answer: Result<(), Refusal>) -> Right {
    match answer {
        Ok(()) => Right::Granted,
        Err(refusal) if refusal.verdict == Verdict::Denied => Right::Denied(told(&refusal)),
        Err(refusal) => unclear(&refusal),
    }
}

fn unclear(refusal: &Refusal) -> Right {
    if refusal.is_unanswered() { Right::Unanswered(told(refusal)) } else { Right::Unclear(told(refusal)) }
}

/// Without what only STS can read, which is longer than the rest. What names nothing else is left as it is.
fn told(refusal: &Refusal) -> String {
    let text = refusal.to_string();
    match text.split_once(". Encoded authorization failure message:") {
        Some((plain, _)) if plain.contains("not authorized to perform: ") => plain.to_owned(),
        _ => text,
    }
}

/// Whether a thing may be made, and whether it may be given tags then (a right of its own for each action, by the condition
/// `ec2:CreateAction`): both by what became of a request with tags. A call of CreateTags by itself would be denied by a policy that
/// allows tags on what is made alone, as ours is.
fn with_tags(made: Permission, tagging: &'static str) -> [Permission; 2] {
    let unclear = |right: &Right, unless: bool| match right {
        Right::Denied(why) if why.contains(TAGS) != unless => Right::Unclear(why.clone()),
        other => other.clone(),
    };
    let tags = Permission::of(tagging, unclear(&made.right, true));
    [Permission { right: unclear(&made.right, false), ..made }, tags]
}

fn judge<T, E, R>(action: &'static str, answer: Result<T, SdkError<E, R>>) -> Permission
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: Debug + 'static,
{
    let right = match answer.as_ref().map_err(refusal) {
        Ok(_) => Right::Granted,
        Err(refusal) if refusal.code == "DryRunOperation" => Right::Granted,
        // The right was judged, and then the thing was looked for.
        Err(Refusal { verdict: Verdict::NotFound | Verdict::TemplateGone, .. }) => Right::Granted,
        Err(refusal) if refusal.verdict == Verdict::Denied => Right::Denied(told(&refusal)),
        Err(refusal) => unclear(&refusal),
    };
    Permission::of(action, right)
}

/// Of a dry run on what does not exist: it has no tags, by which a right may be bound.
fn judge_on_nothing<T, E, R>(action: &'static str, answer: Result<T, SdkError<E, R>>) -> Permission
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: Debug + 'static,
{
    let judged = judge(action, answer);
    match judged.right {
        Right::Denied(why) => Permission { right: Right::Unclear(why), ..judged },
        _ => judged,
    }
}

/// Before the first launch there is no template with our tag: what is denied for that alone says nothing.
fn of_no_template(judged: Permission) -> Permission {
    match judged.right {
        Right::Denied(why) if why.contains(":launch-template/") => Permission { right: Right::Unclear(why), ..judged },
        _ => judged,
    }
}

impl Api {
    /// Every action that the provider calls.
    pub async fn permissions(&self, config: &Ec2Config) -> Vec<Permission> {
        let client = &self.client;
        let subnet = config.subnets.values().flatten().next().cloned().unwrap_or_default();
        let image = config.images.values().next().cloned().unwrap_or_default();
        // A template of ours is judged by its tags; before the first launch there is none.
        let made = self.templates(&config.cluster).await.ok().and_then(|made| made.into_iter().next());
        let new = format!("{}dry-run", super::super::template::name_prefix(&config.cluster));
        let template = made.as_ref().unwrap_or(&new);
        let from =
            FleetLaunchTemplateSpecificationRequest::builder().launch_template_name(template).version("1").build();
        let fleet = FleetLaunchTemplateConfigRequest::builder().launch_template_specification(from).build();
        let capacity = TargetCapacitySpecificationRequest::builder()
            .total_target_capacity(1)
            .default_target_capacity_type(DefaultTargetCapacityType::OnDemand)
            .build();
        let data = RequestLaunchTemplateData::builder().image_id(&image).build();
        // As at a launch: a right may hold for what is tagged as ours alone.
        let own = [(crate::model::tag::CLUSTER.to_owned(), config.cluster.clone())].into();
        let instance = format!("i-{NOTHING}");
        let tags = |kinds: &[ResourceType]| Some(launch_tags(&own, kinds));
        let volume = format!("vol-{NOTHING}");
        let interface = format!("eni-{NOTHING}");
        let launch = judge(
            RUN,
            client
                .run_instances()
                .dry_run(true)
                .min_count(1)
                .max_count(1)
                .image_id(&image)
                .subnet_id(subnet)
                .set_security_group_ids(Some(config.security_groups.clone()))
                .set_tag_specifications(tags(&[ResourceType::NetworkInterface]))
                .send()
                .await,
        );
        let fleet = client
            .create_fleet()
            .dry_run(true)
            .r#type(FleetType::Instant)
            .target_capacity_specification(capacity)
            .launch_template_configs(fleet)
            .set_tag_specifications(tags(&[ResourceType::Fleet]))
            .send()
            .await;
        let no_template = client.delete_launch_template().dry_run(true).launch_template_name(template).send().await;
        let (fleet, no_template) = match made {
            Some(_) => (judge(FLEET, fleet), judge(NO_TEMPLATE, no_template)),
            None => (of_no_template(judge(FLEET, fleet)), judge_on_nothing(NO_TEMPLATE, no_template)),
        };
        let launch_template = judge(
            TEMPLATE,
            client
                .create_launch_template()
                .dry_run(true)
                .launch_template_name(&new)
                .launch_template_data(data)
                .set_tag_specifications(Some(tagged(&own, &[ResourceType::LaunchTemplate])))
                .send()
                .await,
        );
        let [launch, launch_tags] = with_tags(launch, "ec2:CreateTags at RunInstances");
        let [fleet, fleet_tags] = with_tags(fleet, "ec2:CreateTags at CreateFleet");
        let [launch_template, template_tags] = with_tags(launch_template, "ec2:CreateTags at CreateLaunchTemplate");
        vec![
            judge("ec2:DescribeInstances", client.describe_instances().dry_run(true).max_results(5).send().await),
            judge("ec2:DescribeVolumes", client.describe_volumes().dry_run(true).max_results(5).send().await),
            judge(
                "ec2:DescribeNetworkInterfaces",
                client.describe_network_interfaces().dry_run(true).max_results(5).send().await,
            ),
            judge(
                "ec2:DescribeLaunchTemplates",
                client.describe_launch_templates().dry_run(true).max_results(5).send().await,
            ),
            launch_template,
            template_tags,
            no_template,
            launch,
            launch_tags,
            fleet,
            fleet_tags,
            judge_on_nothing(
                "ec2:TerminateInstances",
                client.terminate_instances().dry_run(true).instance_ids(&instance).send().await,
            ),
            judge(
                "ec2:DescribeInstanceTypes",
                client.describe_instance_types().dry_run(true).max_results(5).send().await,
            )
            .or(FIGURES),
            judge(
                "ec2:DescribeInstanceTypeOfferings",
                client.describe_instance_type_offerings().dry_run(true).max_results(5).send().await,
            )
            .or(FIGURES),
            judge(
                "ec2:DescribeSpotPriceHistory",
                client.describe_spot_price_history().dry_run(true).max_results(5).send().await,
            )
            .or(FIGURES),
            judge_on_nothing("ec2:DeleteVolume", client.delete_volume().dry_run(true).volume_id(volume).send().await),
            judge_on_nothing(
                "ec2:DeleteNetworkInterface",
                client.delete_network_interface().dry_run(true).network_interface_id(interface).send().await,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As EC2 says it.
    fn denied(action: &str) -> Refusal {
        let text = format!(
            "You are not authorized to perform this operation. User: arn:aws:sts::111122223333:assumed-role/pilotlight/x is \
             not authorized to perform: {action} on resource: arn:aws:ec2:us-east-1:111122223333:instance/* because no \
             identity-based policy allows the {action} action. Encoded authorization failure message: 4g0iZ"
        );
        Refusal::new("UnauthorizedOperation", text)
    }

    #[test]
    fn a_denial_is_told_without_what_only_sts_can_read_unless_that_is_all_there_is() {
        let Right::Denied(why) = right(Err(denied("ec2:RunInstances"))) else { panic!("it is a denial") };
        assert!(why.ends_with("allows the ec2:RunInstances action") && !why.contains("4g0iZ"), "{why}");
        let bare = "You are not authorized to perform this operation. Encoded authorization failure message: 4g0iZ";
        let Right::Denied(why) = right(Err(Refusal::new("UnauthorizedOperation", bare))) else { panic!("it is one") };
        assert!(why.contains("4g0iZ"), "{why}");
    }

    #[test]
    fn a_fleet_that_is_denied_for_its_made_up_template_alone_says_nothing_of_the_right() {
        let of = |resource: &str| {
            let text =
                format!("not authorized to perform: ec2:CreateFleet on resource: arn:aws:ec2:r:1:{resource} because");
            let right = right(Err(Refusal::new("UnauthorizedOperation", text)));
            of_no_template(Permission::of(FLEET, right)).right
        };
        assert!(matches!(of("launch-template/lt-0"), Right::Unclear(_)));
        assert!(matches!(of("fleet/*"), Right::Denied(_)));
    }

    #[test]
    fn whether_tags_may_be_given_shows_on_what_is_not_denied_for_itself_and_the_other_way_round() {
        let of = |right: Right| with_tags(Permission::of(RUN, right), TAGS).map(|permission| permission.right);
        assert_eq!(of(Right::Granted), [Right::Granted, Right::Granted]);
        let denied = |action: &str| right(Err(denied(action)));
        let (Right::Denied(tags), Right::Denied(run)) = (denied(TAGS), denied(RUN)) else { panic!("they are") };
        assert_eq!(of(denied(TAGS)), [Right::Unclear(tags.clone()), Right::Denied(tags)]);
        assert_eq!(of(denied(RUN)), [Right::Denied(run.clone()), Right::Unclear(run)]);
        for right in [Right::Unclear("m".to_owned()), Right::Unanswered("m".to_owned())] {
            assert_eq!(of(right.clone()), [right.clone(), right]);
        }
    }
}
