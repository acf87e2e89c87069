use super::{
    super::{params::Params, world::Template},
    policy::{Effect, PolicyError, Resource, Statement},
    *,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SHIPPED: &str = include_str!("../../../../manifests/aws/iam-policy.json");
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "111122223333";
const QUEUE: &str = "https://sqs.us-east-1.amazonaws.com/111122223333/dev";
const KINDS: [&str; 3] = ["instance", "volume", "network-interface"];

fn shipped() -> Policy {
    Policy::parse(SHIPPED, &[("REGION", REGION), ("ACCOUNT", ACCOUNT), ("CLUSTER", "dev")]).unwrap()
}

/// Tags for these kinds, as a request has them.
fn tagged(kinds: &[&str], cluster: &str) -> String {
    let of = |(n, kind): (usize, &&str)| {
        let at = format!("&TagSpecification.{}", n + 1);
        format!("{at}.ResourceType={kind}{at}.Tag.1.Key=pilotlight.dev/cluster{at}.Tag.1.Value={cluster}")
    };
    kinds.iter().enumerate().map(of).collect()
}

fn of_cluster(name: &str) -> Tags {
    [("pilotlight.dev/cluster".to_owned(), name.to_owned())].into()
}

/// An account with two clusters' templates, instances, volumes and network interfaces, and some of nobody's.
fn calls_in(region: &str, form: &str) -> Vec<Call> {
    let data = "ImageId=ami-1&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SecurityGroupId.1=sg-1\
                &BlockDeviceMapping.1.DeviceName=/dev/xvda&BlockDeviceMapping.1.Ebs.VolumeSize=20";
    let template = |owner: &str| Template {
        name: format!("pilotlight-{owner}-1"),
        versions: vec![Params::parse(&format!("{data}{}", tagged(&["network-interface"], owner)))],
        tags: of_cluster(owner),
    };
    let own_by_another_s_name =
        Template { name: "pilotlight-dev-untagged".to_owned(), tags: Tags::new(), ..template("dev") };
    let templates = BTreeMap::from([
        ("lt-1".to_owned(), template("dev")),
        ("lt-2".to_owned(), template("other")),
        ("lt-3".to_owned(), own_by_another_s_name),
    ]);
    let mut tags = BTreeMap::new();
    for kind in ["i", "vol", "eni"] {
        tags.insert(format!("{kind}-own"), of_cluster("dev"));
        tags.insert(format!("{kind}-other"), of_cluster("other"));
    }
    let account = Account { id: ACCOUNT, region, templates: &templates, tags: &tags };
    let params = Params::parse(form);
    let mut calls = account.calls(&params);
    for config in params.groups("LaunchTemplateConfigs") {
        // As the stand-in launches what a fleet asks for.
        let template = config.below("LaunchTemplateSpecification");
        let mut spec = Params::parse(&tagged_of(&params));
        spec.set("LaunchTemplate.LaunchTemplateName", template.get("LaunchTemplateName").unwrap());
        spec.set("SubnetId", config.get("Overrides.1.SubnetId").unwrap());
        spec.set("Action", "RunInstances");
        calls.extend(account.calls(&spec));
    }
    calls
}

/// A fleet's tags but its own.
fn tagged_of(fleet: &Params) -> String {
    let mut rest = Params::default();
    for (n, group) in fleet.groups("TagSpecification").into_iter().enumerate() {
        if group.get("ResourceType") != Some("fleet") {
            rest.merge(group.under(&format!("TagSpecification.{}", n + 1)));
        }
    }
    rest.encode()
}

fn calls(form: &str) -> Vec<Call> {
    calls_in(REGION, form)
}

fn run(template: &str, more: &str) -> String {
    format!(
        "Action=RunInstances&MinCount=1&MaxCount=2&InstanceType=t3.small&LaunchTemplate.LaunchTemplateName=pilotlight-{template}\
         &LaunchTemplate.Version=1&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SubnetId=subnet-1\
         &NetworkInterface.1.SecurityGroupId.1=sg-1{more}"
    )
}

fn fleet(template: &str, more: &str) -> String {
    let config = "LaunchTemplateConfigs.1";
    format!(
        "Action=CreateFleet&Type=instant&TargetCapacitySpecification.TotalTargetCapacity=2\
         &TargetCapacitySpecification.DefaultTargetCapacityType=spot\
         &{config}.LaunchTemplateSpecification.LaunchTemplateName=pilotlight-{template}\
         &{config}.LaunchTemplateSpecification.Version=1&{config}.Overrides.1.InstanceType=c6i.large\
         &{config}.Overrides.1.SubnetId=subnet-1{more}"
    )
}

fn make_template(more: &str) -> String {
    format!("Action=CreateLaunchTemplate&LaunchTemplateName=pilotlight-dev-9&LaunchTemplateData.ImageId=ami-1{more}")
}

/// What the provider asks for, as src/cloud/ec2 does.
fn wanted() -> Vec<(String, Vec<Call>)> {
    let looks = [
        "InstanceTypeOfferings",
        "InstanceTypes",
        "Instances",
        "LaunchTemplates",
        "NetworkInterfaces",
        "SpotPriceHistory",
        "Volumes",
    ];
    let mut all: Vec<String> = looks.map(|what| format!("Action=Describe{what}&MaxResults=5")).into();
    let launch = ["instance", "volume", "network-interface"];
    all.push(make_template(&tagged(&["launch-template"], "dev")));
    all.push(run("dev-1", &tagged(&launch, "dev")));
    let reserved = "&CapacityReservationSpecification.CapacityReservationPreference=capacity-reservations-only";
    all.push(run("dev-1", &format!("{reserved}{}", tagged(&launch, "dev"))));
    all.push(fleet("dev-1", &tagged(&["instance", "volume", "fleet"], "dev")));
    all.push("Action=DeleteLaunchTemplate&LaunchTemplateName=pilotlight-dev-1".to_owned());
    all.push("Action=DeleteNetworkInterface&NetworkInterfaceId=eni-own".to_owned());
    all.push("Action=DeleteVolume&VolumeId=vol-own".to_owned());
    all.push("Action=TerminateInstances&InstanceId.1=i-own".to_owned());
    // `pilotlight check --cloud`.
    all.push(format!(
        "Action=RunInstances&DryRun=true&MinCount=1&MaxCount=1&ImageId=ami-1&SubnetId=subnet-1&SecurityGroupId.1=sg-1{}",
        tagged(&launch, "dev")
    ));
    let mut all: Vec<_> = all.into_iter().map(|form| (form.clone(), calls(&form))).collect();
    for action in ["ReceiveMessage", "DeleteMessage"] {
        all.push((action.to_owned(), vec![on_queue(action, REGION, QUEUE)]));
    }
    // The price list is answered in few regions.
    all.push(("GetProducts".to_owned(), vec![price_list("GetProducts", "eu-central-1")]));
    all
}

/// What nobody who has the provider's credentials may do.
fn abuses() -> Vec<(String, Vec<Call>)> {
    let mut all = Vec::new();
    let mut add = |what: &str, form: &str| all.push((format!("{what}: {form}"), calls(form)));
    for n in 0..KINDS.len() {
        let mut but_one = KINDS.to_vec();
        let kind = but_one.remove(n);
        add("a launch with something untagged", &run("dev-untagged", &tagged(&but_one, "dev")));
        // A template brings tags of its own for network interfaces.
        if kind != "network-interface" {
            add("a launch with something untagged", &run("dev-1", &tagged(&but_one, "dev")));
            add("a fleet with something untagged", &fleet("dev-1", &tagged(&[but_one[0], "fleet"], "dev")));
        }
    }
    for (cluster, template) in [("other", "dev-1"), ("dev", "other-1"), ("dev", "dev-untagged"), ("dev", "dev-none")] {
        add("another's launch", &run(template, &tagged(&KINDS, cluster)));
        add("another's fleet", &fleet(template, &tagged(&["instance", "volume", "fleet"], cluster)));
    }
    add("a fleet that is not tagged", &fleet("dev-1", &tagged(&["instance", "volume"], "dev")));
    add("a launch with a key", &run("dev-1", &format!("&KeyName=root{}", tagged(&KINDS, "dev"))));
    let profile = "&IamInstanceProfile.Name=admin";
    add("a launch with a role", &run("dev-1", &format!("{profile}{}", tagged(&KINDS, "dev"))));
    add("a template that is not tagged", &make_template(""));
    add("another's template", &make_template(&tagged(&["launch-template"], "other")));
    for owner in ["other", "untagged", "none"] {
        add("the end of another's", &format!("Action=TerminateInstances&InstanceId.1=i-own&InstanceId.2=i-{owner}"));
        add("the end of another's", &format!("Action=DeleteVolume&VolumeId=vol-{owner}"));
        add("the end of another's", &format!("Action=DeleteNetworkInterface&NetworkInterfaceId=eni-{owner}"));
        add("the end of another's", &format!("Action=DeleteLaunchTemplate&LaunchTemplateName=pilotlight-{owner}-1"));
    }
    for id in ["i-own", "i-other", "vol-other", "eni-other", "lt-2"] {
        let tag = "&Tag.1.Key=pilotlight.dev/cluster&Tag.1.Value=dev";
        add("a tag on what is there", &format!("Action=CreateTags&ResourceId.1={id}{tag}"));
    }
    for action in ["StopInstances", "ModifyInstanceAttribute", "CreateVolume", "DescribeImages", "DeleteTags"] {
        add("what it never does", &format!("Action={action}&InstanceId.1=i-own"));
    }
    let own: Vec<_> = wanted().into_iter().filter(|(name, _)| !name.ends_with("Message")).collect();
    for (form, _) in own.into_iter().filter(|(name, _)| name.starts_with("Action=")) {
        all.push((format!("elsewhere: {form}"), calls_in("eu-west-1", &form)));
    }
    for url in [QUEUE.replace("dev", "other"), QUEUE.replace(ACCOUNT, "444455556666")] {
        all.push((url.clone(), vec![on_queue("ReceiveMessage", REGION, &url)]));
        all.push((url.clone(), vec![on_queue("DeleteMessage", REGION, &url)]));
    }
    for action in ["SendMessage", "PurgeQueue", "DeleteQueue"] {
        all.push((action.to_owned(), vec![on_queue(action, REGION, QUEUE)]));
    }
    // By itself: the role may have other policies, which allow the rest.
    for (cluster, create_action) in [("dev", "CreateSnapshot"), ("other", "RunInstances")] {
        for kind in KINDS {
            let arn = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:{kind}/*");
            let made = Resource { arn, kind, requested: of_cluster(cluster), tags: Tags::new() };
            let action = "ec2:CreateTags".to_owned();
            let create_action = Some(create_action);
            let call = Call { action, region: REGION.to_owned(), create_action, resources: vec![made] };
            all.push((format!("tags for {cluster}'s {kind} by {create_action:?}"), vec![call]));
        }
    }
    all
}

#[test]
fn the_shipped_policy_allows_what_the_provider_asks_for() {
    let policy = shipped();
    for (form, calls) in wanted() {
        assert!(!calls.is_empty());
        if let Err(denied) = policy.allows(&calls) {
            panic!("{form}: {denied}");
        }
    }
}

#[test]
fn the_shipped_policy_allows_none_of_what_its_credentials_might_be_abused_for() {
    let policy = shipped();
    for (what, calls) in abuses() {
        assert!(policy.allows(&calls).is_err(), "it allows {what}");
    }
}

/// The policy with one thing less, or another than it had, and what that is.
fn changed(policy: &Policy) -> Vec<(String, Policy)> {
    let mut all = Vec::new();
    for n in 0..policy.statements.len() {
        let sid = policy.statements[n].sid.clone();
        let mut with = |what: String, change: &dyn Fn(&mut Statement)| {
            let mut policy = policy.clone();
            change(&mut policy.statements[n]);
            all.push((format!("{sid}: {what}"), policy));
        };
        let statement = &policy.statements[n];
        with("without it".to_owned(), &|s| s.resources.clear());
        for (m, action) in statement.actions.iter().enumerate() {
            with(format!("without {action}"), &|s| drop(s.actions.remove(m)));
        }
        for (m, resource) in statement.resources.iter().enumerate() {
            with(format!("without {resource}"), &|s| drop(s.resources.remove(m)));
        }
        for (m, condition) in statement.conditions.iter().enumerate() {
            with(format!("whatever {} is", condition.key), &|s| drop(s.conditions.remove(m)));
            for (k, value) in condition.values.iter().enumerate() {
                with(format!("{} not {value}", condition.key), &|s| {
                    "changed".clone_into(&mut s.conditions[m].values[k])
                });
            }
        }
    }
    all
}

/// What is in the policy though no request here needs it.
const SPARE: [&str; 2] = [
    // EC2 judges a snapshot where a volume is made of one. Of the root volume's, which is made of its image's, AWS does not
    // say it, and Karpenter's policy allows it for the same launches.
    "OfWhatIsThere: without arn:aws:ec2:us-east-1::snapshot/*",
    // It is judged where a spot request is given tags, which ours is not. AWS says so of RunInstances alone, not of fleets.
    "OfWhatIsThere: without arn:aws:ec2:us-east-1:111122223333:spot-instances-request/*",
];

#[test]
fn every_part_of_the_shipped_policy_is_needed_but_what_is_said_to_be_spare() {
    let (wanted, abuses) = (wanted(), abuses());
    let same = |policy: &Policy| {
        wanted.iter().all(|(_, calls)| policy.allows(calls).is_ok())
            && abuses.iter().all(|(_, calls)| policy.allows(calls).is_err())
    };
    let all = changed(&shipped());
    let spare: Vec<_> = all.iter().filter(|(_, policy)| same(policy)).map(|(what, _)| what.as_str()).collect();
    assert_eq!(spare, SPARE);
}

#[test]
fn who_names_an_instance_profile_must_add_the_right_to_pass_its_role() {
    let role = r#""Resource": "arn:aws:iam::${ACCOUNT}:role/*"}"#;
    let pass = format!(r#"{{"Sid": "Pass", "Effect": "Allow", "Action": "iam:PassRole", {role}"#);
    let text = SHIPPED.replacen(r#""Statement": ["#, &format!(r#""Statement": [{pass},"#), 1);
    let policy = Policy::parse(&text, &[("REGION", REGION), ("ACCOUNT", ACCOUNT), ("CLUSTER", "dev")]).unwrap();
    let launch = calls(&run("dev-1", &format!("&IamInstanceProfile.Name=pods{}", tagged(&KINDS, "dev"))));
    assert_eq!(policy.allows(&launch), Ok(()));
    assert_eq!(shipped().allows(&launch).unwrap_err().action, "iam:PassRole");
}

#[test]
fn a_denial_names_the_action_the_resource_and_what_was_missing() {
    let policy = shipped();
    let denied = |form: &str| policy.allows(&calls(form)).unwrap_err().to_string();
    assert_eq!(
        denied(&run("dev-1", &tagged(&KINDS, "other"))),
        "ec2:RunInstances on arn:aws:ec2:us-east-1:111122223333:instance/*: LaunchWhatIsTaggedAsOurs: \
         aws:RequestTag/pilotlight.dev/cluster is Some(\"other\"), not [\"dev\"]"
    );
    assert_eq!(
        denied("Action=CreateTags&ResourceId.1=i-own&Tag.1.Key=pilotlight.dev/cluster&Tag.1.Value=dev"),
        "ec2:CreateTags on arn:aws:ec2:us-east-1:111122223333:instance/i-own: TagAtLaunchAlone: ec2:CreateAction is None, \
         not [\"CreateFleet\", \"CreateLaunchTemplate\", \"RunInstances\"]"
    );
    assert_eq!(denied("Action=StopInstances&InstanceId.1=i-own"), "ec2:StopInstances on *: no statement names both");
}

/// A policy of one statement or more, about a volume of the cluster `dev` that is to be deleted.
fn judged(statements: &[&str]) -> Result<(), Why> {
    let text = format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(", "));
    let policy = Policy::parse(&text, &[]).unwrap();
    policy.allows(&calls("Action=DeleteVolume&VolumeId=vol-own")).map_err(|denied| denied.why)
}

fn statement(effect: &str, resource: &str, condition: &str) -> String {
    format!(
        r#"{{"Sid": "S", "Effect": "{effect}", "Action": "ec2:DeleteV*", "Resource": "{resource}", "Condition": {condition}}}"#
    )
}

#[test]
fn a_statement_that_denies_wins_over_any_that_allows() {
    let (allow, deny) = (statement("Allow", "*", "{}"), statement("Deny", "*", "{}"));
    assert_eq!(judged(&[&allow]), Ok(()));
    assert_eq!(judged(&[&allow, &deny]), Err(Why::Explicitly("S".to_owned())));
    let of_others = statement("Deny", "*", r#"{"StringEquals": {"aws:ResourceTag/pilotlight.dev/cluster": "other"}}"#);
    assert_eq!(judged(&[&allow, &of_others]), Ok(()));
}

#[test]
fn conditions_are_all_met_each_by_any_of_its_values_and_a_key_that_is_not_there_by_none() {
    let tag = "aws:ResourceTag/pilotlight.dev/cluster";
    for (condition, met) in [
        (format!(r#"{{"StringEquals": {{"{tag}": ["other", "dev"]}}}}"#), true),
        (format!(r#"{{"StringEquals": {{"{tag}": "d*"}}}}"#), false),
        (format!(r#"{{"StringLike": {{"{tag}": "d?v"}}}}"#), true),
        (format!(r#"{{"StringEquals": {{"{tag}": "dev", "aws:RequestedRegion": "eu-west-1"}}}}"#), false),
        (format!(r#"{{"StringEquals": {{"{tag}": "dev"}}, "StringLike": {{"aws:RequestedRegion": "us-*"}}}}"#), true),
        (r#"{"StringLike": {"aws:ResourceTag/none": "*"}}"#.to_owned(), false),
        (r#"{"Null": {"aws:ResourceTag/none": "true"}}"#.to_owned(), true),
        (format!(r#"{{"Null": {{"{tag}": "true"}}}}"#), false),
        // Keys that this action has not.
        (r#"{"StringLike": {"aws:RequestTag/pilotlight.dev/cluster": "*"}}"#.to_owned(), false),
        (r#"{"StringLike": {"ec2:CreateAction": "*"}}"#.to_owned(), false),
    ] {
        assert_eq!(judged(&[&statement("Allow", "*", &condition)]).is_ok(), met, "{condition}");
    }
}

#[test]
fn an_arn_is_of_its_region_and_account_and_an_action_may_be_written_in_any_case() {
    for (resource, matches) in [
        ("arn:aws:ec2:us-east-1:111122223333:volume/*", true),
        ("arn:aws:ec2:*:*:volume/vol-?wn", true),
        ("arn:aws:ec2:eu-west-1:111122223333:volume/*", false),
        ("arn:aws:ec2:us-east-1::volume/*", false),
        ("arn:aws:ec2:us-east-1:111122223333:Volume/*", false),
    ] {
        assert_eq!(judged(&[&statement("Allow", resource, "{}")]).is_ok(), matches, "{resource}");
    }
    assert_eq!(judged(&[&statement("Allow", "*", "{}").replace("DeleteV", "deletev")]), Ok(()));
}

#[test]
fn what_is_not_understood_in_a_policy_is_refused_and_named() {
    let refused = |from: &str, to: &str| {
        let text = SHIPPED.replacen(from, to, 1);
        assert_ne!(text, SHIPPED, "{from}");
        let facts = [("REGION", REGION), ("ACCOUNT", ACCOUNT), ("CLUSTER", "dev")];
        Policy::parse(&text, &facts).unwrap_err()
    };
    let form = |from: &str, to: &str, named: &str| {
        let error = refused(from, to);
        assert!(matches!(&error, PolicyError::Form(text) if text.contains(named)), "{error}");
    };
    form(r#""Resource""#, r#""NotResource""#, "NotResource");
    form("StringEquals", "StringEqual", "StringEqual");
    form("Allow", "Permit", "Permit");
    assert!(matches!(refused("DescribeInstances", "DescribeInstance"), PolicyError::Action(..)));
    assert!(matches!(refused("aws:RequestedRegion", "aws:SourceVpc"), PolicyError::Key(..)));
    assert!(matches!(refused("${CLUSTER}", "${NAME}"), PolicyError::Placeholder(..)));
    assert!(matches!(refused("2012-10-17", "2008-10-17"), PolicyError::Version(_)));
}

proptest! {
    /// None of its statements denies: more of them allow no less.
    #[test]
    fn what_some_of_the_statements_allow_all_of_them_allow(kept in any::<u16>()) {
        let whole = shipped();
        prop_assert!(whole.statements.iter().all(|statement| statement.effect == Effect::Allow));
        let part = whole.statements.iter().enumerate().filter(|(n, _)| kept & (1 << n) != 0);
        let part = Policy { statements: part.map(|(_, statement)| statement.clone()).collect() };
        for (what, calls) in wanted().into_iter().chain(abuses()) {
            prop_assert!(part.allows(&calls).is_err() || whole.allows(&calls).is_ok(), "{what}");
        }
    }
}
