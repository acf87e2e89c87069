//! The shipped policy as the stand-in enforces it on whoever has the provider's credentials.

use crate::support::{Answer, StandIn, field, fields};

fn tagged(kinds: &[&str], cluster: &str) -> String {
    let of = |(n, kind): (usize, &&str)| {
        let at = format!("&TagSpecification.{}", n + 1);
        format!("{at}.ResourceType={kind}{at}.Tag.1.Key=pilotlight.dev%2Fcluster{at}.Tag.1.Value={cluster}")
    };
    kinds.iter().enumerate().map(of).collect()
}

const LAUNCH: [&str; 3] = ["instance", "volume", "network-interface"];

fn launch(standin: &StandIn, cluster: &str) -> String {
    let (subnet, tags) = (standin.subnet("us-east-1a"), tagged(&LAUNCH, cluster));
    format!("Action=RunInstances&ImageId=ami-1&InstanceType=t3.micro&MinCount=1&MaxCount=1&SubnetId={subnet}{tags}")
}

fn template(cluster: &str) -> String {
    let tags = tagged(&["launch-template"], cluster);
    format!(
        "Action=CreateLaunchTemplate&LaunchTemplateName=pilotlight-{cluster}-1&LaunchTemplateData.ImageId=ami-1{tags}"
    )
}

/// Of volume, network interface and template, each tagged so: their ids, made by anybody.
fn things(standin: &StandIn, cluster: &str) -> [String; 3] {
    let made = |form: &str, id: &str| field(&standin.by_another(form), id);
    let (volume, interface) = (tagged(&["volume"], cluster), tagged(&["network-interface"], cluster));
    let subnet = standin.subnet("us-east-1a");
    [
        made(&format!("Action=CreateVolume&Size=1&AvailabilityZone=us-east-1a{volume}"), "volumeId"),
        made(&format!("Action=CreateNetworkInterface&SubnetId={subnet}{interface}"), "networkInterfaceId"),
        made(&template(cluster), "launchTemplateId"),
    ]
}

#[track_caller]
fn denied(answer: &Answer, action: &str, resource: &str) {
    assert_eq!(
        (answer.status, field(&answer.text, "Code").as_str()),
        (403, "UnauthorizedOperation"),
        "{}",
        answer.text
    );
    let said =
        format!("is not authorized to perform: {action} on resource: arn:aws:ec2:us-east-1:123456789012:{resource}");
    assert!(answer.text.contains(&said), "{said} is not in {}", answer.text);
}

#[track_caller]
fn done(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[test]
fn whoever_has_the_providers_credentials_ends_nothing_of_another_cluster_and_everything_of_its_own() {
    let standin = StandIn::judging("ends");
    let others = field(&standin.by_another(&launch(&standin, "other")), "instanceId");
    denied(&standin.terminate(std::slice::from_ref(&others)), "ec2:TerminateInstances", &format!("instance/{others}"));
    let own = standin.api(&launch(&standin, "ends"));
    done(&own);
    let own = field(&own.text, "instanceId");
    let both = [own.clone(), others.clone()];
    denied(&standin.terminate(&both), "ec2:TerminateInstances", &format!("instance/{others}"));
    assert_eq!(standin.state(&own), "running", "it was denied for both");
    done(&standin.terminate(&[own]));
    let gone = "i-00000000000000000".to_owned();
    denied(&standin.terminate(std::slice::from_ref(&gone)), "ec2:TerminateInstances", &format!("instance/{gone}"));

    let end = |[volume, interface, template]: &[String; 3]| {
        [
            ("ec2:DeleteVolume", format!("volume/{volume}"), format!("VolumeId={volume}")),
            (
                "ec2:DeleteNetworkInterface",
                format!("network-interface/{interface}"),
                format!("NetworkInterfaceId={interface}"),
            ),
            ("ec2:DeleteLaunchTemplate", format!("launch-template/{template}"), format!("LaunchTemplateId={template}")),
        ]
    };
    for (action, resource, named) in end(&things(&standin, "other")) {
        denied(&standin.api(&format!("Action={}&{named}", &action[4..])), action, &resource);
    }
    let by_name = standin.api("Action=DeleteLaunchTemplate&LaunchTemplateName=pilotlight-other-1");
    denied(&by_name, "ec2:DeleteLaunchTemplate", "launch-template/lt-");
    for (action, _, named) in end(&things(&standin, "ends")) {
        done(&standin.api(&format!("Action={}&{named}", &action[4..])));
    }
}

#[test]
fn it_launches_nothing_but_what_is_tagged_as_its_own_from_its_own_templates_and_tags_nothing_that_is_there() {
    let standin = StandIn::judging("launches");
    denied(&standin.api(&launch(&standin, "other")), "ec2:RunInstances", "instance/*");
    let own = launch(&standin, "launches");
    let untagged = own.replace("ResourceType=volume", "ResourceType=instance");
    denied(&standin.api(&untagged), "ec2:RunInstances", "volume/*");
    denied(&standin.api(&format!("{own}&DryRun=true&KeyName=root")), "ec2:RunInstances", "key-pair/root");
    let dry = standin.api(&format!("{own}&DryRun=true"));
    assert_eq!((dry.status, field(&dry.text, "Code").as_str()), (412, "DryRunOperation"));

    denied(&standin.api(&template("other")), "ec2:CreateLaunchTemplate", "launch-template/*");
    standin.by_another(&template("other"));
    done(&standin.api(&template("launches")));
    let subnet = standin.subnet("us-east-1a");
    let fleet = |from: &str, kinds: &[&str]| {
        standin.api(&format!(
            "Action=CreateFleet&Type=instant&TargetCapacitySpecification.TotalTargetCapacity=1\
             &TargetCapacitySpecification.DefaultTargetCapacityType=spot\
             &LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName=pilotlight-{from}-1\
             &LaunchTemplateConfigs.1.Overrides.1.InstanceType=t3.micro&LaunchTemplateConfigs.1.Overrides.1.SubnetId={subnet}{}",
            tagged(kinds, "launches")
        ))
    };
    denied(&fleet("other", &["instance", "volume", "fleet"]), "ec2:CreateFleet", "launch-template/lt-");
    denied(&fleet("none", &["instance", "volume", "fleet"]), "ec2:CreateFleet", "launch-template/*");
    // The template gives network interfaces no tag, so the launches inside are denied: among the errors of a success.
    let launched = fleet("launches", &["instance", "volume", "fleet"]);
    done(&launched);
    assert_eq!(field(&launched.text, "errorCode"), "UnauthorizedOperation", "{}", launched.text);
    assert!(
        launched.text.contains("ec2:RunInstances on resource: arn:aws:ec2:us-east-1:123456789012:network-interface/*")
    );
    assert_eq!(fields(&launched.text, "instanceIds"), Vec::<String>::new());

    let made = standin.api(&own);
    done(&made);
    let id = field(&made.text, "instanceId");
    let tag = standin.api(&format!("Action=CreateTags&ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value=b"));
    denied(&tag, "ec2:CreateTags", &format!("instance/{id}"));
    denied_elsewhere(&standin.api(&format!("Action=StopInstances&InstanceId.1={id}")), "ec2:StopInstances");
    done(&standin.api("Action=DescribeInstances"));
}

#[track_caller]
fn denied_elsewhere(answer: &Answer, action: &str) {
    assert_eq!(answer.status, 403, "{}", answer.text);
    assert!(answer.text.contains(&format!("{action} on resource: * because")), "{}", answer.text);
}

#[test]
fn it_reads_its_own_queue_and_no_other() {
    let standin = StandIn::judging("reads");
    let path = standin.get("/standin/facts")["queue"].as_str().unwrap().to_owned();
    assert_eq!(path, "/123456789012/reads");
    let receive = |operation: &str, name: &str| {
        let url = format!("http://{}/123456789012/{name}", standin.address());
        standin.signed(
            "sqs",
            &format!("AmazonSQS.{operation}"),
            &format!(r#"{{"QueueUrl": "{url}", "WaitTimeSeconds": 0}}"#),
        )
    };
    let own = receive("ReceiveMessage", "reads");
    assert!(!own.contains("__type"), "{own}");
    for (operation, name) in [("ReceiveMessage", "other"), ("PurgeQueue", "reads")] {
        let answer = receive(operation, name);
        assert!(answer.contains(r#""__type":"AccessDeniedException""#), "{answer}");
        assert!(
            answer.contains(&format!("on resource: arn:aws:sqs:us-east-1:123456789012:{name} because")),
            "{answer}"
        );
    }
}
