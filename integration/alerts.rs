//! The alerting rules, judged by Prometheus's own parser and engine (integration/monitoring/alerts): that it loads them, and
//! that each fires on what it is for and not on what is well.

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

const RULES: &str = "manifests/components/monitoring/alerts.yaml";

fn alerts(action: &str, file: &Path, input: &str) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/tools/bin/alerts");
    assert!(program.exists(), "{} is missing: run scripts/tools monitoring", program.display());
    let mut command = Command::new(program);
    command.arg(action).arg(root.join(file)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be run");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// Of two replicas that have run for an hour: what they tell, minute by minute.
fn well() -> BTreeMap<String, String> {
    let told = [
        (r#"pilotlight_leader{pod="a"}"#, "1x60"),
        (r#"pilotlight_leader{pod="b"}"#, "0x60"),
        (r#"pilotlight_pods_waiting{pod="a"}"#, "0x60"),
        (r#"pilotlight_pods_waiting{pod="b"}"#, "0x60"),
        (r#"pilotlight_launch_failures_total{code="InsufficientInstanceCapacity"}"#, "3x60"),
        (r#"pilotlight_config_reloads_total{result="taken-up"}"#, "0+1x60"),
        (r#"pilotlight_config_reloads_total{result="refused"}"#, "1x60"),
        (r#"pilotlight_hourly_cost_dollars{namespace="shop"}"#, "20x60"),
        (r#"pilotlight_hourly_cost_dollars{namespace="lab"}"#, "9x60"),
        // Ten starts a minute, all within 30 s.
        (r#"pilotlight_pod_start_seconds_bucket{le="30.0"}"#, "0+10x60"),
        (r#"pilotlight_pod_start_seconds_bucket{le="600.0"}"#, "0+10x60"),
        (r#"pilotlight_pod_start_seconds_bucket{le="+Inf"}"#, "0+10x60"),
    ];
    told.map(|(series, values)| (series.to_owned(), values.to_owned())).into()
}

/// One of them told otherwise; "" is not told at all.
fn but(changed: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut told = well();
    for (series, values) in changed {
        assert!(told.insert((*series).to_owned(), (*values).to_owned()).is_some(), "{series} is among what is told");
    }
    told.retain(|_, values| !values.is_empty());
    told
}

/// One more is told.
fn and(told: &[(&str, &str)], more: (&str, &str)) -> BTreeMap<String, String> {
    let mut told = but(told);
    assert!(told.insert(more.0.to_owned(), more.1.to_owned()).is_none(), "{} is not among what is told", more.0);
    told
}

/// The alerts that fire after an hour of each.
fn firing(all: &[BTreeMap<String, String>]) -> Vec<Vec<String>> {
    let cases: Vec<Value> = all.iter().map(|series| json!({ "series": series, "at": "60m" })).collect();
    let output = alerts("fire", Path::new(RULES), &json!(cases).to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("it speaks UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a list of names")).collect()
}

#[test]
fn prometheus_loads_the_rules() {
    let output = alerts("check", Path::new(RULES), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_prometheus_would_not_load_is_told() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RULES)).expect("it can be read");
    for (right, wrong, named) in [
        ("sum(pilotlight_leader) > 1", "sum(pilotlight_leader >", "PilotlightTwoLeaders"),
        ("for: 2m", "fro: 2m", "fro"),
        ("{{ $value }} replicas", "{{ $value replicas", "PilotlightTwoLeaders"),
    ] {
        assert!(text.contains(right), "{right}");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.replacen(right, wrong, 1).as_bytes()).expect("written");
        let output = alerts("check", file.path(), "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(named), "{wrong}: {said}");
    }
}

#[test]
fn each_alert_fires_on_what_it_is_for_and_none_when_all_is_well() {
    let (a, b) = (r#"pilotlight_leader{pod="a"}"#, r#"pilotlight_leader{pod="b"}"#);
    let waiting = r#"pilotlight_pods_waiting{pod="a"}"#;
    let failures = r#"pilotlight_launch_failures_total{code="InsufficientInstanceCapacity"}"#;
    let new = r#"pilotlight_launch_failures_total{code="UnfulfillableCapacity"}"#;
    let refused = r#"pilotlight_config_reloads_total{result="refused"}"#;
    let quick = r#"pilotlight_pod_start_seconds_bucket{le="30.0"}"#;
    let cost = r#"pilotlight_hourly_cost_dollars{namespace="shop"}"#;
    let cases = [
        (well(), vec![]),
        (but(&[(a, "0x60")]), vec!["PilotlightWithoutLeader"]),
        (but(&[(a, ""), (b, "")]), vec!["PilotlightWithoutLeader"]),
        // One that hands over in time is none of it.
        (but(&[(a, "1x58 0x2"), (b, "0x59 1x1")]), vec![]),
        (but(&[(b, "1x60")]), vec!["PilotlightTwoLeaders"]),
        (but(&[(b, "")]), vec!["PilotlightReplicaDown"]),
        (but(&[(b, "0x40 _x9 0x10")]), vec![]),
        (but(&[(waiting, "1x60")]), vec!["PilotlightPodsWithoutInstance"]),
        // Another Pod each minute is not the one that waits, but a queue that is never empty.
        (but(&[(waiting, "3x48 0 3x10")]), vec![]),
        (but(&[(failures, "0+1x60")]), vec!["PilotlightLaunchesFail"]),
        (but(&[(failures, "0x44 0+1x4 4x11")]), vec![]),
        // A code's series begins with its first failures: they count, but for no longer than others do.
        (and(&[], (new, "_x44 6+1x15")), vec!["PilotlightLaunchesFail"]),
        (and(&[], (new, "_x44 1+1x4 5x11")), vec![]),
        (and(&[], (new, "_x44 40x15")), vec![]),
        // One that was not asked for a while is not new.
        (but(&[(failures, "40x25 _x19 40x15")]), vec![]),
        // Two codes, each for less than a quarter of an hour.
        (and(&[(failures, "0x19 0+1x20 20x20")], (new, "0x41 0+1x18")), vec![]),
        (but(&[(quick, "0x60")]), vec!["PilotlightSlowStarts"]),
        (but(&[(refused, "0x55 1x4")]), vec!["PilotlightConfigurationRefused"]),
        (but(&[(refused, "0x35 1x24")]), vec![]),
        (but(&[(cost, "22x60")]), vec!["PilotlightHourlyCostHigh"]),
        (but(&[(cost, "20x50 22x9")]), vec![]),
    ];
    let told: Vec<_> = cases.iter().map(|(series, _)| series.clone()).collect();
    for (number, (fires, (series, wanted))) in firing(&told).iter().zip(&cases).enumerate() {
        assert_eq!(fires, wanted, "case {number}: {series:?}");
    }
    // None is left out.
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RULES)).expect("it can be read");
    let all: BTreeSet<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let seen: BTreeSet<&str> = cases.iter().flat_map(|(_, fires)| fires.iter().copied()).collect();
    assert_eq!(all, seen);
}
