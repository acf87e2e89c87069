//! The stand-in for EC2 as a process: its API as a client sees it, moto behind it, real machines.
//!
//! Needs root, what scripts/tools and scripts/images make, and the stand-in itself
//! (`cargo build --example ec2-standin`). Each test has a network namespace and a directory of its own.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as its functions do")]

mod attest;
mod rights;
mod support;

use support::{Machines, StandIn, field, fields};

/// One instance of this type in the first zone.
fn run(standin: &StandIn, more: &str) -> support::Answer {
    let subnet = standin.subnet("us-east-1a");
    standin.api(&format!(
        "Action=RunInstances&ImageId=ami-1&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SubnetId={subnet}\
         &NetworkInterface.1.SecondaryPrivateIpAddressCount=1&{more}"
    ))
}

#[test]
fn a_launch_gives_as_many_as_it_can_between_its_counts_and_the_same_token_gives_the_same() {
    let standin = StandIn::start("counts", Machines::None);
    // No throttling: more launches than a bucket holds, however fast the machine makes them.
    standin.script(r#"{"limits": false, "capacity": {"on-demand:t3.micro:*": 3}}"#);
    let wanted = "InstanceType=t3.micro&MinCount=1&MaxCount=5&ClientToken=batch-1";
    let first = run(&standin, wanted);
    assert_eq!((first.status, fields(&first.text, "instanceId").len()), (200, 3), "{}", first.text);
    assert_eq!(fields(&run(&standin, wanted).text, "instanceId"), fields(&first.text, "instanceId"));
    let other = run(&standin, &wanted.replace("MaxCount=5", "MaxCount=4"));
    assert_eq!((other.status, field(&other.text, "Code").as_str()), (400, "IdempotentParameterMismatch"));
    let more = run(&standin, "InstanceType=t3.micro&MinCount=1&MaxCount=1");
    assert_eq!((more.status, field(&more.text, "Code").as_str()), (500, "InsufficientInstanceCapacity"));
    let elsewhere = run(&standin, "InstanceType=t3.small&MinCount=2&MaxCount=2");
    assert_eq!(fields(&elsewhere.text, "instanceId").len(), 2);
    let described = standin.api("Action=DescribeInstances");
    assert_eq!(fields(&described.text, "instanceId").len(), 5, "a replay launched again");
    // Capacity returns with the machines that held it.
    let ids: Vec<_> = fields(&first.text, "instanceId");
    assert_eq!(standin.terminate(&ids).status, 200);
    assert_eq!(run(&standin, "InstanceType=t3.micro&MinCount=3&MaxCount=3").status, 200);
}

#[test]
fn a_fleet_is_filled_from_several_pools_and_names_those_that_had_too_little() {
    let standin = StandIn::start("fleet", Machines::None);
    let template = standin.api(
        "Action=CreateLaunchTemplate&LaunchTemplateName=batch&LaunchTemplateData.ImageId=ami-1&LaunchTemplateData.UserData=aGVsbG8=\
         &LaunchTemplateData.NetworkInterface.1.DeviceIndex=0&LaunchTemplateData.NetworkInterface.1.SecondaryPrivateIpAddressCount=1",
    );
    let template = field(&template.text, "launchTemplateId");
    standin.script(r#"{"capacity": {"spot:t3.micro:us-east-1a": 2, "spot:t3a.micro:*": 0}}"#);
    let overrides: String = [("t3.micro", "us-east-1a"), ("t3a.micro", "us-east-1a"), ("t3.small", "us-east-1b")]
        .iter()
        .enumerate()
        .map(|(n, (t, zone))| {
            let at = format!("&LaunchTemplateConfigs.1.Overrides.{}", n + 1);
            format!("{at}.InstanceType={t}{at}.SubnetId={}{at}.Priority={n}", standin.subnet(zone))
        })
        .collect();
    let fleet = |token: &str, total: u32, strategy: &str| {
        standin.api(&format!(
            "Action=CreateFleet&Type=instant&ClientToken={token}&TargetCapacitySpecification.TotalTargetCapacity={total}\
             &TargetCapacitySpecification.DefaultTargetCapacityType=spot&SpotOptions.AllocationStrategy={strategy}\
             &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=batch&TagSpecification.1.Tag.1.Value={token}\
             &LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId={template}{overrides}"
        ))
    };
    let answer = fleet("one", 5, "capacity-optimized-prioritized");
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(fields(&answer.text, "errorCode"), ["InsufficientInstanceCapacity"; 2], "{}", answer.text);
    let described = standin.api("Action=DescribeInstances&Filter.1.Name=tag:batch&Filter.1.Value.1=one");
    let mut types = fields(&described.text, "instanceType");
    types.sort();
    assert_eq!(types, ["t3.micro", "t3.micro", "t3.small", "t3.small", "t3.small"]);
    assert_eq!(fields(&described.text, "instanceLifecycle"), ["spot"; 5]);
    assert_eq!(fleet("one", 5, "capacity-optimized-prioritized").text, answer.text);

    // Throttled inside an answer that is a success (karpenter-provider-aws#8923).
    let throttled = fleet("two", 1200, "lowest-price");
    assert_eq!(throttled.status, 200);
    assert_eq!(fields(&throttled.text, "errorCode")[0], "RequestLimitExceeded");
    assert!(fields(&throttled.text, "instanceType").len() <= 3, "only in the errors");
}

#[test]
fn an_account_that_calls_too_often_is_throttled_and_every_call_is_counted() {
    let standin = StandIn::start("limits", Machines::None);
    // Scripts begin with full buckets: five calls at once, and two a second.
    let answers: Vec<_> = (0..12).map(|_| standin.api("Action=RunInstances&MinCount=1")).collect();
    let throttled: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!throttled.is_empty() && throttled.iter().all(|a| field(&a.text, "Code") == "RequestLimitExceeded"));
    assert!(answers[..5].iter().all(|answer| answer.status == 400), "MaxCount is missing, but there were tokens");
    let calls = standin.get("/standin/calls");
    assert_eq!(calls["actions"]["ec2:RunInstances"]["calls"], 12);
    assert_eq!(calls["actions"]["ec2:RunInstances"]["throttled"], throttled.len());

    standin.script(r#"{"allowedActions": ["DescribeInstances"], "faults": [{"action": "DescribeInstances", "code": "InternalError", "times": 1}]}"#);
    assert_eq!(standin.api("Action=DescribeInstances").status, 500);
    assert_eq!(standin.api("Action=DescribeInstances").status, 200);
    let refused = standin.api("Action=DescribeSubnets");
    assert_eq!((refused.status, field(&refused.text, "Code").as_str()), (403, "UnauthorizedOperation"));
    standin.script("{}");
    let dry = standin.api("Action=TerminateInstances&DryRun=true&InstanceId.1=i-1");
    assert_eq!((dry.status, field(&dry.text, "Code").as_str()), (412, "DryRunOperation"));
}

#[test]
fn a_new_instance_is_unknown_then_pending_and_one_unknown_id_fails_a_whole_termination() {
    let standin = StandIn::start("states", Machines::None);
    // Hours: the clock decides nothing here, the test does by its scripts.
    standin.script(r#"{"notFoundMillis": 9999999}"#);
    let launched = run(&standin, "InstanceType=t3.micro&MinCount=2&MaxCount=2");
    let ids = fields(&launched.text, "instanceId");
    let by_id = format!("Action=DescribeInstances&InstanceId.1={}", ids[0]);
    assert_eq!(field(&standin.api(&by_id).text, "Code"), "InvalidInstanceID.NotFound");
    assert!(fields(&standin.api("Action=DescribeInstances").text, "instanceId").is_empty());
    assert_eq!(standin.terminate(&ids).status, 400);
    standin.script(r#"{"pendingMillis": 9999999}"#);
    assert_eq!(standin.state(&ids[0]), "pending");
    standin.script(r#"{"shuttingDownMillis": 9999999}"#);
    assert_eq!(standin.state(&ids[0]), "running");
    let wrong = standin.terminate(&[ids[0].clone(), "i-00000000000000000".to_owned()]);
    assert_eq!(field(&wrong.text, "Code"), "InvalidInstanceID.NotFound");
    assert_eq!(standin.state(&ids[0]), "running", "a batch with an unknown id ends nothing");
    let ended = standin.terminate(&ids);
    assert_eq!(fields(&ended.text, "instanceId"), ids, "{}", ended.text);
    assert_eq!(standin.state(&ids[0]), "shutting-down");
    standin.script("{}");
    assert_eq!(standin.state(&ids[0]), "terminated");
    let narrowed = "Action=DescribeInstances&Filter.1.Name=instance-state-name&Filter.1.Value.1=running";
    assert!(fields(&standin.api(narrowed).text, "instanceId").is_empty());
}

#[test]
fn an_instance_boots_by_its_user_data_asks_its_metadata_service_and_ends_with_its_termination() {
    let standin = StandIn::start("machines", Machines::Booted);
    let data = support::base64(support::USER_DATA);
    let launched = run(
        &standin,
        &format!(
            "InstanceType=t3.micro&MinCount=1&MaxCount=1&MetadataOptions.HttpTokens=required\
             &MetadataOptions.HttpPutResponseHopLimit=1&UserData={}",
            data.replace('+', "%2B").replace('=', "%3D")
        ),
    );
    let id = field(&launched.text, "instanceId");
    support::until("it runs", || standin.state(&id) == "running");
    support::until("its agent was started by the user data", || {
        standin.console(&id).contains("an agent with cloud: ec2")
    });

    let token = standin
        .inside(
            &id,
            "curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
        )
        .unwrap();
    let ask = |path: &str| {
        standin.inside(
            &id,
            &format!("curl -sSf -H 'X-aws-ec2-metadata-token: {token}' http://169.254.169.254/latest/{path}"),
        )
    };
    assert_eq!(ask("meta-data/instance-id").unwrap(), id);
    assert!(
        standin.inside(&id, "curl -sSf http://169.254.169.254/latest/meta-data/instance-id").is_err(),
        "without a token"
    );
    let described = standin.api(&format!("Action=DescribeInstances&InstanceId.1={id}"));
    let mac = ask("meta-data/mac").unwrap();
    let addresses = ask(&format!("meta-data/network/interfaces/macs/{mac}/local-ipv4s")).unwrap();
    for address in addresses.lines() {
        assert!(described.text.contains(&format!("<privateIpAddress>{address}</privateIpAddress>")), "{address}");
    }
    assert_eq!(addresses.lines().count(), 2);
    assert!(standin.inside(&id, "ip -4 -o addr show dev ens5").unwrap().contains(addresses.lines().next().unwrap()));
    assert!(ask("meta-data/spot/instance-action").is_err());
    standin.post(&format!("/standin/instances/{id}/interrupt?seconds=120"), "");
    assert!(ask("meta-data/spot/instance-action").unwrap().contains("terminate"));

    // Another hop, as a Pod is one: what the instance forwards has no hop left.
    let pod = addresses.lines().nth(1).unwrap();
    standin.inside(&id, &support::a_pods_network(pod)).unwrap();
    let from_pod = |command: &str| standin.inside(&id, &format!("nsenter --net=/run/pod-net -- {command}"));
    // bash's /dev/tcp to a closed port: refused means that it was reached.
    let knock = from_pod("bash -c '</dev/tcp/10.72.0.1/1'");
    assert!(knock.as_ref().is_err_and(|error| error.contains("refused")), "the Pod reaches nothing at all: {knock:?}");
    let answer = from_pod(
        "curl -sS --max-time 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
    );
    assert!(answer.as_ref().is_err_and(|error| error.contains("timed out")), "{answer:?}");

    // Credentials of the instance's identity role, good for one question to STS.
    let credentials: serde_json::Value =
        serde_json::from_str(&ask("meta-data/identity-credentials/ec2/security-credentials/ec2-instance").unwrap())
            .unwrap();
    let who = |secret: &str| standin.caller_identity(&credentials, secret);
    let answer = who(credentials["SecretAccessKey"].as_str().unwrap());
    assert!(
        answer.contains(&format!("<Arn>arn:aws:sts::123456789012:assumed-role/aws:ec2-instance/{id}</Arn>")),
        "{answer}"
    );
    assert!(who("guessed").contains("<Code>SignatureDoesNotMatch</Code>"));

    assert_eq!(standin.terminate(std::slice::from_ref(&id)).status, 200);
    support::until("it is terminated", || standin.state(&id) == "terminated");
    assert_eq!(standin.remains(&id), Vec::<String>::new());
}
