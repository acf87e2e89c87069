//! The stand-in for EC2 in the test cluster's network, asked from outside of it.

#![allow(dead_code, reason = "each test target uses a part of this")]

use crate::support::{Cluster, PATIENCE};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const STANDIN: &str = "http://10.70.0.1:15000/standin";

fn curl(args: &[&str], path: &str) -> String {
    let url = format!("{STANDIN}/{path}");
    let mut command = vec!["curl", "-sSf"];
    command.extend(args);
    command.push(&url);
    Cluster::get().inside(&command)
}

fn get(path: &str) -> Value {
    serde_json::from_str(&curl(&[], path)).expect("the stand-in answers JSON")
}

/// Sets what EC2 does from now on; all of it.
pub fn script(script: &str) {
    curl(&["-X", "PUT", "--data-raw", script], "script");
}

/// The script's end, also when its test fails: the next one begins with an EC2 that does what it is asked.
pub struct Scripted;

impl Scripted {
    pub fn new(text: &str) -> Self {
        script(text);
        Self
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            script("{}");
        }
    }
}

/// How often each action was called: `ec2:RunInstances`.
pub fn calls() -> BTreeMap<String, u64> {
    let calls = get("calls");
    let actions = calls["actions"].as_object().expect("an object");
    actions.iter().map(|(name, count)| (name.clone(), count["calls"].as_u64().unwrap_or(0))).collect()
}

pub fn called(action: &str) -> u64 {
    calls().get(action).copied().unwrap_or(0)
}

/// What was called in earnest, and allowed.
pub fn done() -> BTreeSet<String> {
    let calls = get("calls");
    let actions = calls["actions"].as_object().expect("an object");
    let number = |count: &Value| count.as_u64().unwrap_or(0);
    let not_done = |count: &Value| {
        let refused = ["DryRunOperation", "UnauthorizedOperation"].map(|code| number(&count["refused"][code]));
        refused.iter().sum::<u64>()
    };
    let done = actions.iter().filter(|(_, count)| number(&count["calls"]) > not_done(count));
    done.map(|(name, _)| name.clone()).collect()
}

/// How many calls were signed so: `keys`, `irsa`, `pod-identity`.
pub fn called_by(how: &str) -> u64 {
    get("calls")["callers"][how].as_u64().unwrap_or(0)
}

/// All that were ever launched.
pub fn launched() -> u64 {
    get("calls")["launched"].as_u64().expect("a number")
}

/// Of what clients must be configured with: by its JSON pointer.
pub fn fact(pointer: &str) -> String {
    let facts = get("facts");
    let fact = facts.pointer(pointer).and_then(Value::as_str);
    fact.unwrap_or_else(|| panic!("no {pointer} in {facts}")).to_owned()
}

/// State, pool and whether its machine is there, by id.
pub fn instances() -> BTreeMap<String, (String, String, String)> {
    let all = get("instances");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |i: &Value| (text(&i["id"]), (text(&i["state"]), text(&i["pool"]), text(&i["machine"])));
    all.as_array().expect("a list").iter().map(of).collect()
}

/// Those that cost something, or whose machine is still there.
pub fn left() -> Vec<String> {
    let over = |(state, _, machine): &(String, String, String)| state == "terminated" && machine == "Gone";
    instances().into_iter().filter(|(_, instance)| !over(instance)).map(|(id, of)| format!("{id}: {of:?}")).collect()
}

/// What the instance's metadata service announces from now on.
pub fn announce(instance: &str, told: &str) {
    curl(&["-X", "PUT", "--data-raw", told], &format!("instances/{instance}/metadata"));
}

/// EC2 takes a spot instance back: its metadata service says so at once, and after these seconds it is ended.
pub fn interrupt(instance: &str, seconds: u32) {
    curl(&["-X", "POST"], &format!("instances/{instance}/interrupt?seconds={seconds}"));
}

/// Why it is ended, as EC2's StateReason says; none if it is not.
pub fn ended_by(instance: &str) -> Option<String> {
    let all = get("instances");
    let found = all.as_array().expect("a list").iter().find(|one| one["id"] == instance);
    found.unwrap_or_else(|| panic!("no {instance} in {all}"))["ended"].as_str().map(str::to_owned)
}

/// What EventBridge puts into the cluster's queue.
pub fn put_event(event: &str) {
    curl(&["-X", "POST", "--data-raw", event], "queue");
}

/// A call of somebody else of the account.
pub fn by_another(call: &str) -> String {
    curl(&["-X", "POST", "--data-raw", &format!("{call}&Version=2016-11-15")], "by-another")
}

/// The provider's metrics.
pub fn metrics() -> String {
    Cluster::get().inside(&["curl", "-sSf", "http://127.0.0.1:10280/metrics"])
}

pub async fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(PATIENCE, what, condition).await;
}

pub async fn until_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while !condition() {
            tick.tick().await;
        }
    };
    assert!(tokio::time::timeout(patience, wait).await.is_ok(), "not so after {patience:?}: {what}");
}

pub async fn until_nothing_is_left() {
    until("every instance is terminated and every machine gone", || left().is_empty()).await;
}
