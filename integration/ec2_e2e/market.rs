//! What EC2 sells, and at what price, is found out while the provider runs.

use super::standin::{self, Scripted, metrics, script, until, until_within};
use super::support::*;
use super::{alone, gone, of_class, provider};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Command};

/// Needs more CPU than any type of the catalog has.
fn large(name: &str, class: &str, cpu: &str, memory: &str) -> Value {
    let requests = json!({ "resources": { "requests": { "cpu": cpu, "memory": memory } } });
    let mut pod = of_class(name, class);
    let container = pod["spec"]["containers"][0].take();
    pod["spec"]["containers"][0] = with(container, requests);
    pod
}

/// A counter's or gauge's value in the metrics' text.
fn sample(text: &str, name: &str) -> Option<i64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn refreshes(kind: &str, result: &str) -> i64 {
    let name = format!("pilotlight_refreshes_total{{kind=\"{kind}\",result=\"{result}\"}}");
    sample(&metrics(), &name).unwrap_or(0)
}

#[tokio::test]
async fn a_type_that_the_policy_names_and_the_catalog_lacks_is_bought_at_ec2s_price() {
    let _turn = alone().await;
    let space = Space::new("ec2-joins").await;
    space.apply(&large("large", "larger", "3", "1Gi")).await;
    let pod = space.until_running("large").await;
    // Of the price list; the catalog's price of its small sister is 0.2.
    assert_eq!(
        (annotation(&pod, "instance-type"), annotation(&pod, "hourly-price")),
        ("c6i.xlarge".to_owned(), "0.17".to_owned())
    );
    space.apply(&of_class("small", "larger")).await;
    let pod = space.until_running("small").await;
    assert_eq!(
        (annotation(&pod, "instance-type"), annotation(&pod, "hourly-price")),
        ("c6i.large".to_owned(), "0.085".to_owned())
    );
    let text = metrics();
    for kind in ["on-demand", "spot"] {
        let name = format!("pilotlight_prices_timestamp_seconds{{kind=\"{kind}\",source=\"EC2\"}}");
        assert!(sample(&text, &name).is_some(), "{name} is not in\n{text}");
    }
    let nodes = Api::<Node>::all(space.client.clone());
    let told = kube::runtime::wait::await_condition(nodes, "pilotlight-us-east-1a", |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.clone()).unwrap_or_default();
        conditions.into_iter().any(|condition| {
            condition.type_ == "pilotlight.dev/PricesRefreshed"
                && condition.status == "True"
                && condition.message.is_some_and(|text| text.matches("from EC2").count() == 2)
        })
    });
    assert!(tokio::time::timeout(PATIENCE, told).await.is_ok(), "the node does not say of when the prices are");
    let mut status = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    let status = status.arg("status").env("KUBECONFIG", space.cluster.kubeconfig()).output().expect("it can be run");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("Prices: on demand: ") && status.contains("from EC2"), "{status}");
    gone(&space, &["large", "small"]).await;
}

/// The catalog as it was, at the end.
struct Catalog {
    file: PathBuf,
    before: String,
}

impl Catalog {
    fn of_the_provider() -> Self {
        let file = Cluster::get().provider_dir().join("catalog.yaml");
        let before = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { file, before }
    }

    fn add(&self, line: &str) {
        fs::write(&self.file, format!("{}{line}\n", self.before)).expect("written");
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.before) {
            eprintln!("{}: {error}", self.file.display());
        }
    }
}

#[tokio::test]
async fn a_type_that_an_edit_of_the_catalog_adds_is_bought_without_a_restart() {
    let _turn = alone().await;
    let space = Space::new("ec2-edit").await;
    space.apply(&large("edited", "burstable", "500m", "3Gi")).await;
    space.until_event("edited", "NoInstanceTypeFits", |_| true).await;
    let catalog = Catalog::of_the_provider();
    catalog.add(
        "  - {name: t3.medium, cpu: 2, memory: 4Gi, price: \"0.0416\", burst: {baselinePercent: 20, surplus: \"0.05\"}}",
    );
    let pod = space.until_running("edited").await;
    assert_eq!(annotation(&pod, "instance-type"), "t3.medium");
    gone(&space, &["edited"]).await;
}

/// An instance of somebody else of the account.
struct Another(String);

impl Another {
    fn runs(instance_type: &str) -> Self {
        let kind = format!("ImageId={}&InstanceType={instance_type}", standin::fact("/image"));
        let place = "Placement.AvailabilityZone=us-east-1a&MinCount=1&MaxCount=1";
        let answer = standin::by_another(&format!("Action=RunInstances&{kind}&{place}"));
        let (_, rest) = answer.split_once("<instanceId>").unwrap_or_else(|| panic!("{answer}"));
        Self(rest.split('<').next().unwrap_or_default().to_owned())
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        // A second panic would hide the first.
        if std::thread::panicking() {
            return;
        }
        standin::by_another(&format!("Action=TerminateInstances&InstanceId.1={}", self.0));
    }
}

#[tokio::test]
async fn commitments_pay_for_the_accounts_other_instances_first_and_for_the_clusters_when_those_end() {
    let _turn = alone().await;
    let space = Space::new("ec2-committed").await;
    let another = Another::runs("r6i.large");
    provider(&["kill"]);
    provider(&["up", "--ec2"]);
    for kind in ["on-demand", "usage"] {
        until("it is told", || refreshes(kind, "told") >= 1).await;
    }
    // Of two Reserved Instances one is the other's.
    for (name, price) in [("covered", "0"), ("full-price", "0.126")] {
        space.apply(&of_class(name, "committed")).await;
        let pod = space.until_running(name).await;
        let bought = (annotation(&pod, "instance-type"), annotation(&pod, "hourly-price"));
        assert_eq!(bought, ("r6i.large".to_owned(), price.to_owned()), "{name}");
    }
    let payer = format!("namespace=\"{}\"", space.name);
    let hourly = || super::metric("pilotlight_hourly_cost_dollars", &[&payer, "class=\"committed\""]);
    until("the second is paid for", || (hourly() - 0.126).abs() < 1e-9).await;
    drop(another);
    // It is asked once a minute.
    until_within(2 * PATIENCE, "the other's has become the second's", || hourly() == 0.0).await;
    gone(&space, &["covered", "full-price"]).await;
}

#[tokio::test]
async fn an_account_that_may_not_ask_for_prices_is_served_by_the_files_and_it_is_counted() {
    let _turn = alone().await;
    let space = Space::new("ec2-unpriced").await;
    let denied = |action: &str| format!(r#"{{"action": "{action}", "code": "UnauthorizedOperation"}}"#);
    let questions =
        ["DescribeInstanceTypes", "DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory", "GetProducts"];
    let _script = Scripted::new(&format!(r#"{{"faults": [{}]}}"#, questions.map(denied).join(", ")));
    provider(&["kill"]);
    provider(&["up", "--ec2"]);
    for kind in ["types", "zones", "on-demand", "spot"] {
        until("it is refused", || refreshes(kind, "denied") >= 1).await;
        assert_eq!(refreshes(kind, "told"), 0, "{kind}");
    }
    space.apply(&of_class("by-file", "larger")).await;
    let pod = space.until_running("by-file").await;
    assert_eq!(
        (annotation(&pod, "instance-type"), annotation(&pod, "hourly-price")),
        ("c6i.large".to_owned(), "0.2".to_owned()),
        "the catalog's price"
    );
    gone(&space, &["by-file"]).await;
    script("{}");
    provider(&["kill"]);
    provider(&["up", "--ec2"]);
    until("it is told again", || refreshes("on-demand", "told") >= 1).await;
}
