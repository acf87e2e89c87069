//! What an account is told by `manifests/aws`: who may take the provider's role, and what fills its queue. The policy itself
//! is the stand-in's matter (integration/ec2/standin/iam).

use pilotlight::cloud::ec2::queue::event::announced;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

fn text(file: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn json_of(file: &str) -> Value {
    serde_json::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml_of(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// The provider's, in the shipped manifests: `namespace:name`.
fn service_account() -> String {
    let account = yaml_of(&text("manifests/base/service-account.yaml"));
    assert_eq!(account["kind"], "ServiceAccount");
    let deployment = yaml_of(&text("manifests/base/deployment.yaml"));
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], account["metadata"]["name"]);
    let part = |name: &str| account["metadata"][name].as_str().expect("a text").to_owned();
    format!("{}:{}", part("namespace"), part("name"))
}

#[test]
fn by_irsa_the_shipped_service_account_takes_the_role_and_nobody_else() {
    let account = service_account();
    // AWS, "IAM roles for service accounts".
    assert_eq!(
        json_of("manifests/aws/trust-irsa.json"),
        json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": { "Federated": "arn:aws:iam::${ACCOUNT}:oidc-provider/${OIDC_PROVIDER}" },
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": { "StringEquals": {
                    "${OIDC_PROVIDER}:aud": "sts.amazonaws.com",
                    "${OIDC_PROVIDER}:sub": format!("system:serviceaccount:{account}"),
                } },
            }],
        })
    );
}

#[test]
fn the_chart_makes_the_same_service_account_and_the_readme_names_it_for_pod_identity() {
    let account = service_account();
    let (namespace, name) = account.split_once(':').expect("both");
    // Names are fixed; the namespace is the release's, which both files say is this one.
    assert!(text("manifests/helm/pilotlight/templates/service-account.yaml").contains(&format!("\n  name: {name}\n")));
    for file in ["manifests/README.md", "manifests/helm/pilotlight/values.yaml"] {
        let install = format!("helm install pilotlight manifests/helm/pilotlight -n {namespace} ");
        assert!(text(file).contains(&install), "{file}: {install}");
    }
    let association = format!("--namespace {namespace} --service-account {name} ");
    assert!(text("manifests/aws/README.md").contains(&association), "{association}");
}

#[test]
fn by_pod_identity_eks_takes_the_role_for_its_pods() {
    // AWS, "EKS Pod Identity", "Create an IAM role for the association".
    assert_eq!(
        json_of("manifests/aws/trust-pod-identity.json"),
        json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": { "Service": "pods.eks.amazonaws.com" },
                "Action": ["sts:AssumeRole", "sts:TagSession"],
            }],
        })
    );
}

/// `!Ref X` and `!GetAtt X.Y` in their long form, `{Ref: X}` and `{Fn::GetAtt: X.Y}`: tags get lost in a JSON value (AWS,
/// "Intrinsic function reference").
fn cloud_formation(file: &str) -> Value {
    let mut long = String::new();
    let text = text(file);
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('!') {
        let (tag, after) = after.split_once(' ').expect("a tag and its value");
        let end = after.find([',', ']', '}', '\n']).unwrap_or(after.len());
        let key = match tag {
            "Ref" => "Ref",
            "GetAtt" => "Fn::GetAtt",
            other => panic!("{file}: !{other} is not known here"),
        };
        long += &format!("{before}{{\"{key}\": \"{}\"}}", &after[..end]);
        rest = &after[end..];
    }
    yaml_of(&(long + rest))
}

fn queue_template() -> Value {
    cloud_formation("manifests/aws/interruption-queue.yaml")
}

/// The resources of this type, by name: their properties.
fn resources(template: &Value, kind: &str) -> BTreeMap<String, Value> {
    let all = template["Resources"].as_object().expect("a map");
    let of = all.iter().filter(|(_, resource)| resource["Type"] == kind);
    of.map(|(name, resource)| (name.clone(), resource["Properties"].clone())).collect()
}

#[test]
fn the_queue_is_named_as_the_policy_names_it_and_a_cluster_may_be_named() {
    let template = queue_template();
    assert_eq!(resources(&template, "AWS::SQS::Queue")["Queue"]["QueueName"], json!({ "Ref": "Cluster" }));
    assert_eq!(template["Outputs"]["QueueURL"]["Value"], json!({ "Ref": "Queue" }));
    let policy = json_of("manifests/aws/iam-policy.json");
    let statements = policy["Statement"].as_array().expect("a list");
    let of_sqs: Vec<&Value> =
        statements.iter().filter(|statement| statement["Action"].to_string().contains("sqs:")).collect();
    assert_eq!(of_sqs.len(), 1);
    assert_eq!(of_sqs[0]["Resource"], "arn:aws:sqs:${REGION}:${ACCOUNT}:${CLUSTER}");
}

#[test]
fn every_rule_sends_to_the_queue_and_eventbridge_may_for_them_alone() {
    let template = queue_template();
    let queue = json!({ "Fn::GetAtt": "Queue.Arn" });
    let rules = resources(&template, "AWS::Events::Rule");
    for (name, rule) in &rules {
        let targets = rule["Targets"].as_array().expect("a list");
        assert!(targets.len() == 1 && targets[0]["Arn"] == queue, "{name}: {targets:?}");
    }
    let policies = resources(&template, "AWS::SQS::QueuePolicy");
    let policy = &policies["QueuePolicy"];
    assert_eq!(policy["Queues"], json!([{ "Ref": "Queue" }]));
    let statements = policy["PolicyDocument"]["Statement"].as_array().expect("a list");
    let allowed: Vec<&Value> = statements.iter().filter(|statement| statement["Effect"] != "Deny").collect();
    let mut sources: Vec<Value> = rules.keys().map(|name| json!({ "Fn::GetAtt": format!("{name}.Arn") })).collect();
    let by_text = |value: &Value| value.to_string();
    sources.sort_by_key(by_text);
    let mut told = allowed[0]["Condition"]["ArnEquals"]["aws:SourceArn"].as_array().expect("a list").clone();
    told.sort_by_key(by_text);
    assert_eq!(told, sources);
    // AWS, "Using resource-based policies for Amazon EventBridge", "Amazon SQS permissions".
    let mut statement = allowed[0].clone();
    statement["Condition"] = Value::Null;
    assert_eq!(
        (allowed.len(), statement),
        (
            1,
            json!({
                "Sid": "EventBridgeSends", "Effect": "Allow", "Principal": { "Service": "events.amazonaws.com" },
                "Action": "sqs:SendMessage", "Resource": queue, "Condition": null,
            })
        )
    );
}

/// Events as AWS documents them, each as the provider's reader counts it, and of what service they are.
fn documented() -> Vec<(&'static str, Value)> {
    let id = "i-1234567890abcdef0";
    let of = |source: &str, kind: &str, detail: Value| json!({ "version": "0", "source": source, "detail-type": kind, "time": "2027-01-01T00:00:00Z", "detail": detail });
    let health = |service: &str, category: &str| {
        let detail = json!({
            "service": service, "eventTypeCategory": category, "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
            "startTime": "Sat, 05 Jun 2027 15:10:09 GMT", "affectedEntities": [{ "entityValue": id }],
        });
        of("aws.health", "AWS Health Event", detail)
    };
    let instance = json!({ "instance-id": id, "instance-action": "terminate", "state": "running" });
    vec![
        ("interruption", of("aws.ec2", "EC2 Spot Instance Interruption Warning", instance.clone())),
        ("rebalance", of("aws.ec2", "EC2 Instance Rebalance Recommendation", instance.clone())),
        ("maintenance", health("EC2", "scheduledChange")),
        ("ignored", health("EC2", "issue")),
        ("ignored", health("EC2", "accountNotification")),
        ("ignored", health("RDS", "scheduledChange")),
        ("ignored", of("aws.ec2", "EC2 Instance State-change Notification", instance.clone())),
        ("ignored", of("aws.autoscaling", "EC2 Instance Launch Successful", instance)),
    ]
}

/// Every field of a pattern is there with one of its values (AWS, "Amazon EventBridge event patterns").
fn matches(pattern: &Value, event: &Value) -> bool {
    match pattern {
        Value::Object(fields) => fields.iter().all(|(name, pattern)| matches(pattern, &event[name])),
        Value::Array(values) => values.contains(event),
        other => panic!("{other} is no pattern"),
    }
}

#[test]
fn the_rules_let_through_exactly_what_the_queues_reader_understands() {
    let rules = resources(&queue_template(), "AWS::Events::Rule");
    let mut heard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (kind, event) in documented() {
        let read = announced(&event.to_string()).unwrap_or_else(|error| panic!("{event}: {error}"));
        assert_eq!(read.kind, kind, "{event}");
        let through: Vec<&str> = rules
            .iter()
            .filter(|(_, rule)| matches(&rule["EventPattern"], &event))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(through.len(), usize::from(kind != "ignored"), "{event}: {through:?}");
        through.into_iter().for_each(|rule| heard.entry(rule).or_default().push(kind));
    }
    let expected = [("HealthRule", "maintenance"), ("RebalanceRule", "rebalance"), ("SpotRule", "interruption")];
    assert_eq!(heard, expected.map(|(rule, kind)| (rule, vec![kind])).into(), "no rule is without an event");
    assert_eq!(rules.len(), 3);
}
