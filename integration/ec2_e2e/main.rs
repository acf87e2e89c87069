//! Pods on EC2, as the stand-in has it: calls of EC2's API, instances that boot by their own user data and prove
//! which one they are, and nothing left in the end.
//!
//! Needs a cluster with the stand-in and a provider in its network: `scripts/test ec2` starts them. They take
//! turns: each tells the stand-in what EC2 is to do, and counts what was launched.

mod denied;
mod market;
mod notices;
mod standin;
#[path = "../support/mod.rs"]
mod support;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use standin::{Scripted, called, instances, launched, until, until_nothing_is_left};
use std::collections::{BTreeMap, BTreeSet};
use support::*;
use tokio::sync::{Mutex, MutexGuard};

async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    standin::script("{}");
    turn
}

fn provider(action: &[&str]) {
    let output = Cluster::get().script("provider", action).output().expect("scripts/provider can be run");
    assert!(output.status.success(), "scripts/provider {action:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A Pod that the cost policy's class of this name serves.
fn of_class(name: &str, class: &str) -> Value {
    with(pod(name, spec(&[idle()])), json!({ "metadata": { "annotations": { "pilotlight.dev/use-class": class } } }))
}

fn pinned(name: &str) -> Value {
    pod(name, spec(&[shell("echo hello from $(hostname); exec sleep 1000000")]))
}

async fn gone(space: &Space, names: &[&str]) {
    for name in names {
        delete(&space.api::<Pod>(), name, None).await;
    }
    for name in names {
        space.until_gone(name).await;
    }
    until_nothing_is_left().await;
}

#[tokio::test]
async fn a_pod_gets_an_instance_that_boots_by_its_user_data_and_serves_it_and_leaves_nothing() {
    let _turn = alone().await;
    let space = Space::new("ec2-life").await;
    let before = (called("ec2:RunInstances"), launched());
    space.apply(&pinned("one")).await;
    let pod = space.until_running("one").await;
    assert_eq!((called("ec2:RunInstances"), launched()), (before.0 + 1, before.1 + 1));
    let id = annotation(&pod, "instance-id");
    let (state, pool, _) = instances().remove(&id).expect("the Pod's instance is one of EC2's");
    assert_eq!((state.as_str(), pool.as_str()), ("running", "on-demand:t3.small:us-east-1a"));
    assert_eq!(annotation(&pod, "instance-type"), "t3.small");
    assert_eq!(
        (annotation(&pod, "purchase"), annotation(&pod, "zone")),
        ("burstable".to_owned(), "us-east-1a".to_owned())
    );
    assert!(space.until_log("one", &[], |text| text.contains("hello from one")).await.contains("hello"));
    assert_eq!(space.exec("one", "hostname").await.trim(), "one");
    gone(&space, &["one"]).await;
    assert_eq!(instances()[&id].0, "terminated");
    // In moto too, which has no word of the stand-in's in it.
    let of_moto = standin::by_another(&format!("Action=DescribeInstances&InstanceId.1={id}"));
    assert!(of_moto.contains(&id) && of_moto.contains("<name>terminated</name>"), "{of_moto}");
}

#[tokio::test]
async fn spot_is_bought_as_a_fleet_for_every_pod_once() {
    let _turn = alone().await;
    let space = Space::new("ec2-spot").await;
    let before = (called("ec2:CreateFleet"), launched());
    let names = ["a", "b", "c"];
    let all = json!({ "apiVersion": "v1", "kind": "List", "items": names.map(|name| of_class(name, "spot")) });
    space.apply(&all).await;
    for name in names {
        let pod = space.until_running(name).await;
        assert_eq!(annotation(&pod, "purchase"), "spot");
        let (_, pool, _) = &instances()[&annotation(&pod, "instance-id")];
        assert!(pool.starts_with("spot:"), "{pool}");
    }
    assert_eq!(launched(), before.1 + 3);
    assert!(called("ec2:CreateFleet") > before.0);
    gone(&space, &names).await;
}

/// The sum of a metric's lines that have all of these labels.
fn metric(name: &str, labels: &[&str]) -> f64 {
    let text = standin::metrics();
    let of =
        |line: &&str| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label));
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn what_instances_cost_and_spot_saves_is_in_the_metrics() {
    let _turn = alone().await;
    let space = Space::new("ec2-money").await;
    let payer = format!("namespace=\"{}\"", space.name);
    let (payer, class) = ([payer.as_str(), "class=\"spot\""], "class=\"spot\"");
    let bound =
        || metric("pilotlight_instances", &[class, "purchase=\"spot\"", "zone=\"us-east-1a\"", "state=\"bound\""]);
    let before = metric("pilotlight_pod_start_seconds_count", &[]);
    until("what was before is not counted", || bound() == 0.0).await;
    let names = ["a", "b"];
    let both = json!({ "apiVersion": "v1", "kind": "List", "items": names.map(|name| of_class(name, "spot")) });
    space.apply(&both).await;
    for name in names {
        space.until_running(name).await;
    }
    until("both are counted", || bound() == 2.0).await;
    let hourly = metric("pilotlight_hourly_cost_dollars", &payer);
    // Two of the stand-in's spot instances: each far below the catalog's 0.2 and 0.3 on demand.
    assert!(hourly > 0.02 && hourly < 0.2, "{hourly}");
    until("what was spent and saved grows", || {
        metric("pilotlight_cost_dollars_total", &payer) > 0.0 && metric("pilotlight_saved_dollars_total", &payer) > 0.0
    })
    .await;
    for name in ["pilotlight_pod_start_seconds_count", "pilotlight_pod_bound_seconds_count"] {
        until(name, || metric(name, &[]) >= before + 2.0).await;
    }
    gone(&space, &names).await;
    until("what is gone is not counted", || bound() == 0.0 && metric("pilotlight_hourly_cost_dollars", &payer) == 0.0)
        .await;
    assert!(metric("pilotlight_cost_dollars_total", &payer) > 0.0, "the sum stays");
}

#[tokio::test]
async fn what_spot_lacks_is_bought_on_demand_and_the_pods_events_say_so() {
    let _turn = alone().await;
    let space = Space::new("ec2-ice").await;
    let _script = Scripted::new(r#"{"capacity": {"spot:*:*": 0, "on-demand:c6i.large:*": 0}}"#);
    space.apply(&of_class("falls-through", "spot")).await;
    let pod = space.until_running("falls-through").await;
    assert_eq!(
        (annotation(&pod, "purchase"), annotation(&pod, "instance-type")),
        ("on-demand".to_owned(), "m6i.large".to_owned())
    );
    let event = space.until_event("falls-through", "InstanceBound", |text| text.contains("on-demand")).await;
    assert!(event.message.is_some());
    space.until_event("falls-through", "InstanceLaunching", |text| text.contains("spot")).await;
    space.until_event("falls-through", "InsufficientInstanceCapacity", |text| text.contains("sufficient")).await;
    gone(&space, &["falls-through"]).await;
}

/// The provider is killed while its launch call for these Pods has no answer yet.
async fn killed_in_a_launch(space: &Space, names: [&str; 2]) -> Scripted {
    let before = called("ec2:RunInstances");
    let script = Scripted::new(r#"{"launchMillis": 3000}"#);
    let all = json!({ "apiVersion": "v1", "kind": "List", "items": names.map(pinned) });
    space.apply(&all).await;
    until("the launch is under way", || called("ec2:RunInstances") > before).await;
    provider(&["kill"]);
    script
}

#[tokio::test]
async fn a_provider_that_is_killed_while_it_launches_leaks_nothing_and_launches_nothing_twice() {
    let _turn = alone().await;
    let space = Space::new("ec2-killed").await;
    let before = launched();
    let names = ["a", "b"];
    let _script = killed_in_a_launch(&space, names).await;
    standin::script("{}");
    provider(&["up", "--ec2"]);
    for name in names {
        space.until_running(name).await;
    }
    assert_eq!(launched(), before + 2, "each Pod's instance was launched once");
    gone(&space, &names).await;
}

/// As a replica on another machine: it has the authority and the claims, which replicas share by the API server, and not
/// what its predecessor wrote down of its launches.
#[tokio::test]
async fn another_provider_that_takes_over_in_the_middle_of_a_launch_ends_what_nobody_needs() {
    let _turn = alone().await;
    let space = Space::new("ec2-failover").await;
    let before = launched();
    let names = ["a", "b"];
    let _script = killed_in_a_launch(&space, names).await;
    let cluster = Cluster::get();
    let journal = cluster.state.join("provider/state").join(&cluster.name).join("launches");
    std::fs::remove_dir_all(&journal).unwrap_or_else(|error| panic!("{}: {error}", journal.display()));
    provider(&["up", "--ec2"]);
    let mut backing = BTreeSet::new();
    for name in names {
        backing.insert(annotation(&space.until_running(name).await, "instance-id"));
    }
    assert_eq!(backing.len(), 2, "each Pod has an instance of its own");
    // Who takes over at once may launch what its predecessor's call is about to bring: by its tags that is found, and ended.
    assert!((before + 2..=before + 4).contains(&launched()), "{} more were launched", launched() - before);
    until("only what Pods are bound to is left", || {
        let living = instances().into_iter().filter(|(_, (state, ..))| state != "terminated");
        living.map(|(id, _)| id).collect::<BTreeSet<_>>() == backing
    })
    .await;
    gone(&space, &names).await;
}

#[tokio::test]
async fn a_throttled_launch_waits_and_is_no_shortage() {
    let _turn = alone().await;
    let space = Space::new("ec2-throttled").await;
    let _script =
        Scripted::new(r#"{"faults": [{"action": "RunInstances", "code": "RequestLimitExceeded", "times": 2}]}"#);
    space.apply(&pinned("patient")).await;
    let pod = space.until_running("patient").await;
    assert_eq!(annotation(&pod, "purchase"), "burstable");
    gone(&space, &["patient"]).await;
}

/// What the policy allows: `ec2:RunInstances`.
fn allowed_actions() -> BTreeSet<String> {
    let file = repo().join("manifests/aws/iam-policy.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let policy: Value = serde_json::from_str(&text).expect("the policy is JSON");
    let statements = policy["Statement"].as_array().expect("statements");
    assert!(statements.iter().all(|statement| statement["Effect"] == "Allow"));
    let actions = statements.iter().flat_map(|statement| match &statement["Action"] {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    });
    actions.map(|action| action.as_str().expect("a text").to_owned()).collect()
}

/// What an instance may leave, and a template of a former configuration: with the cluster's tag, of no use.
struct Leaks {
    volume: String,
    interface: String,
    template: String,
}

/// That something of this kind is the cluster's.
fn tagged(kind: &str) -> String {
    let tag = format!("Tag.1.Key=pilotlight.dev%2Fcluster&TagSpecification.1.Tag.1.Value={}", Cluster::get().name);
    format!("TagSpecification.1.ResourceType={kind}&TagSpecification.1.{tag}")
}

impl Leaks {
    fn make() -> Self {
        let cluster = &Cluster::get().name;
        let made = |call: &str, kind: &str, id: &str| {
            let answer = standin::by_another(&format!("Action={call}&{}", tagged(kind)));
            let inside = answer.split_once(&format!("<{id}>")).and_then(|(_, rest)| rest.split_once('<'));
            inside.unwrap_or_else(|| panic!("no {id} in {answer}")).0.to_owned()
        };
        let subnet = standin::fact("/subnets/us-east-1a");
        // Never the beginning of another's name, which goes on with a hash.
        let name = format!("LaunchTemplateName=pilotlight-{cluster}-former");
        let template = format!("CreateLaunchTemplate&{name}&LaunchTemplateData.ImageId=ami-1");
        Self {
            volume: made("CreateVolume&Size=1&AvailabilityZone=us-east-1a", "volume", "volumeId"),
            interface: made(
                &format!("CreateNetworkInterface&SubnetId={subnet}"),
                "network-interface",
                "networkInterfaceId",
            ),
            template: made(&template, "launch-template", "launchTemplateName"),
        }
    }

    fn are_gone(&self) -> bool {
        let there = |call: &str, id: &str| standin::by_another(&format!("Action={call}")).contains(&format!(">{id}<"));
        !there("DescribeVolumes", &self.volume)
            && !there("DescribeNetworkInterfaces", &self.interface)
            && !there("DescribeLaunchTemplates", &self.template)
    }
}

#[tokio::test]
async fn what_the_provider_calls_is_what_the_iam_policy_allows() {
    let _turn = alone().await;
    let space = Space::new("ec2-actions").await;
    let leaks = Leaks::make();
    space.apply(&pinned("pinned")).await;
    space.apply(&of_class("flexible", "flexible")).await;
    for name in ["pinned", "flexible"] {
        space.until_running(name).await;
    }
    gone(&space, &["pinned", "flexible"]).await;
    // Of nobody's instance.
    standin::put_event(
        r#"{"detail-type": "EC2 Instance Rebalance Recommendation", "time": "2027-01-01T00:00:00Z",
            "detail": {"instance-id": "i-0123456789abcdef0"}}"#,
    );
    until("the event is taken", || called("sqs:DeleteMessage") > 0).await;
    // The sweeper ends what two of its passes have seen, a minute apart.
    let swept = || leaks.are_gone();
    standin::until_within(2 * PATIENCE, "what was left behind is swept", swept).await;
    // The stand-in denies what the policy does not allow, to all tests alike; this names it. AWS asks for no right to
    // GetCallerIdentity.
    let asked: BTreeSet<String> = standin::calls().into_keys().filter(|action| !action.starts_with("sts:")).collect();
    let allowed = allowed_actions();
    let missing: Vec<_> = asked.difference(&allowed).collect();
    assert_eq!(missing, Vec::<&String>::new(), "the policy does not allow what the provider calls");
    // What was asked by dry runs alone, the provider does not do. Tags in a launch call need CreateTags, though nobody
    // calls it.
    let done = standin::done();
    let idle: Vec<_> = allowed.difference(&done).filter(|action| *action != "ec2:CreateTags").collect();
    assert_eq!(idle, Vec::<&String>::new(), "the policy allows what the provider never calls");
}

/// What env is told so that nothing is found of whoever runs the tests.
const WITHOUT_CREDENTIALS: [&str; 9] = [
    "-u",
    "AWS_ACCESS_KEY_ID",
    "-u",
    "AWS_SECRET_ACCESS_KEY",
    "-u",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
    "AWS_CONFIG_FILE=/dev/null",
    "AWS_EC2_METADATA_DISABLED=true",
];

/// `pilotlight check --cloud` of the provider's own files, in its network: whether the account may do what is needed,
/// and what is said of each action.
fn check_cloud(credentials: &[&str]) -> (bool, BTreeMap<String, String>) {
    let file = Cluster::get().provider_dir().join("provider.yaml").display().to_string();
    let mut action = vec!["exec", "--", "env"];
    action.extend(WITHOUT_CREDENTIALS);
    action.extend(credentials);
    action.extend([env!("CARGO_BIN_EXE_pilotlight"), "check", "--cloud", "--config", &file]);
    let output = Cluster::get().script("cluster", &action).output().expect("scripts/cluster can be run");
    let text = String::from_utf8(output.stdout).expect("it speaks UTF-8");
    let rights = text.lines().filter_map(|line| {
        let (action, said) = line.split_once("  ")?;
        ["ec2:", "pricing:", "sqs:"]
            .iter()
            .any(|kind| action.starts_with(kind))
            .then(|| (action.to_owned(), said.trim().to_owned()))
    });
    (output.status.success(), rights.collect())
}

#[tokio::test]
async fn the_account_s_permissions_are_told_by_dry_runs() {
    let _turn = alone().await;
    let before = launched();
    let signed = ["AWS_ACCESS_KEY_ID=standin", "AWS_SECRET_ACCESS_KEY=standin"];
    // One of the cluster's, by which a fleet is judged.
    let template = format!("LaunchTemplateName=pilotlight-{}-known", Cluster::get().name);
    let data = format!("LaunchTemplateData.ImageId=ami-1&{}", tagged("launch-template"));
    standin::by_another(&format!("Action=CreateLaunchTemplate&{template}&{data}"));
    let (fine, rights) = check_cloud(&signed);
    standin::by_another(&format!("Action=DeleteLaunchTemplate&{template}"));
    assert!(fine, "{rights:?}");
    // The policy lets these be done to what has the cluster's tag, and the dry run names nothing that is there.
    let bound = ["ec2:DeleteNetworkInterface", "ec2:DeleteVolume", "ec2:TerminateInstances"];
    for (action, said) in &rights {
        if bound.contains(&action.as_str()) {
            assert!(said.starts_with("not known: UnauthorizedOperation"), "{action}: {said}");
            assert!(said.ends_with(&format!("because no identity-based policy allows the {action} action")), "{said}");
        } else {
            assert_eq!(said, "granted", "{action}");
        }
    }
    // Whether a message may be deleted shows when one is.
    let told: BTreeSet<&str> = rights.keys().filter_map(|action| action.split(" at ").next()).collect();
    let untold: Vec<_> = allowed_actions().into_iter().filter(|action| !told.contains(action.as_str())).collect();
    assert_eq!((untold, told.len()), (vec!["sqs:DeleteMessage".to_owned()], allowed_actions().len() - 1));
    // Each of the policy's create actions.
    let tags: Vec<&str> = rights.keys().filter_map(|action| action.strip_prefix("ec2:CreateTags at ")).collect();
    assert_eq!(tags, ["CreateFleet", "CreateLaunchTemplate", "RunInstances"]);

    // What the provider itself asks for in the meantime is allowed.
    let some =
        Scripted::new(r#"{"allowedActions": ["DescribeInstances", "DescribeSpotPriceHistory", "ReceiveMessage"]}"#);
    let (fine, rights) = check_cloud(&signed);
    assert!(!fine);
    for (action, begins) in [
        ("ec2:DescribeInstances", "granted"),
        ("ec2:RunInstances", "DENIED: UnauthorizedOperation"),
        ("ec2:CreateTags at RunInstances", "not known: UnauthorizedOperation"),
        ("ec2:CreateTags at CreateLaunchTemplate", "not known: UnauthorizedOperation"),
        ("ec2:TerminateInstances", "not known: UnauthorizedOperation"),
        ("ec2:DescribeInstanceTypes", "denied; the catalog's figures are used: UnauthorizedOperation"),
        ("sqs:ReceiveMessage", "granted"),
    ] {
        assert!(rights[action].starts_with(begins), "{action}: {}", rights[action]);
    }
    drop(some);

    let (fine, rights) = check_cloud(&[]);
    assert!(!fine && rights["ec2:RunInstances"].starts_with("DENIED: NoCredentials"), "{rights:?}");
    assert!(rights["sqs:ReceiveMessage"].starts_with("denied; the agents alone"), "{rights:?}");

    // A proxy that nobody listens as: no question comes to an answer.
    let (fine, rights) = check_cloud(&[signed[0], signed[1], "HTTP_PROXY=http://127.0.0.1:9"]);
    assert!(!fine && rights["ec2:RunInstances"].starts_with("NO ANSWER"), "{rights:?}");
    assert_eq!(launched(), before, "nothing was done");
}
