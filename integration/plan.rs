//! `pilotlight plan` as a command, on the shipped policy, catalog and the tests' price list: what it reads, what it
//! prints, its exit codes. What it decides is tested with the decision.

use serde_json::Value;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, resources: {requests: {cpu: "1", memory: 1Gi}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
"#;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// Without an account and a cluster: neither is in its environment.
fn plan(args: &[&str], input: &str) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .arg("plan")
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pilotlight can be run");
    // It may end before it has read all, or any.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let said = Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

fn shipped() -> (String, String) {
    (root("provider-config/cost-policy.yaml"), root("integration/policy/prices.yaml"))
}

fn options(said: &Said) -> Vec<String> {
    assert_eq!(said.code, Some(0), "{}", said.err);
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    let replicas = report["replicas"].as_array().expect("a list").clone();
    replicas.iter().map(|replica| replica["purchase"].as_str().expect("bought").to_owned()).collect()
}

#[test]
fn manifests_are_read_from_the_standard_input_and_from_files_alike() {
    let (policy, prices) = shipped();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("web.yaml");
    std::fs::write(&file, WEB).expect("written");
    let with = |filename: &str| ["-f", filename, "--policy", &policy, "--prices", &prices].map(str::to_owned);
    let run = |args: &[String]| plan(&args.iter().map(String::as_str).collect::<Vec<_>>(), WEB);
    let piped = run(&with("-"));
    let read = run(&with(&file.display().to_string()));
    assert_eq!((piped.code, read.code), (Some(0), Some(0)), "{}{}", piped.err, read.err);
    assert_eq!(piped.out, read.out);
    assert!(piped.out.contains("Deployment shop/web  3") && piped.out.contains("4 Pods bought, 0 wait, 0 refused"));
    assert!(piped.out.contains("No Pods are made by Service shop/web"), "{}", piped.out);
    let other = dir.path().join("other.yaml");
    std::fs::write(&other, WEB.replace("name: web, namespace: shop", "name: other, namespace: shop")).expect("written");
    let both = run(&[&with("-")[..], &["-f".to_owned(), other.display().to_string()]].concat());
    assert!(both.out.contains("8 Pods bought"), "{}", both.out);
    let twice = run(&[&with("-")[..], &["-f".to_owned(), file.display().to_string()]].concat());
    let said = format!("{}: document 1: Deployment shop/web: is given twice", file.display());
    assert!(twice.code == Some(1) && twice.err.contains(&said), "{}", twice.err);
}

#[test]
fn a_providers_file_says_all_that_is_bought_by_and_another_policy_may_be_tried_with_it() {
    let (policy, _) = shipped();
    let provider = root("provider-config/provider-ec2.yaml");
    let plain = plan(&["-f", "-", "--config", &provider, "-o", "json"], WEB);
    assert_eq!(options(&plain), ["on-demand"; 4]);
    let tried = plan(&["-f", "-", "--config", &provider, "--policy", &policy, "-o", "json"], WEB);
    assert_eq!(options(&tried).len(), 4);
    let class = |said: &Said| serde_json::from_str::<Value>(&said.out).expect("JSON")["replicas"][0]["class"].clone();
    assert_ne!(class(&plain), class(&tried));
}

#[test]
fn a_providers_nodes_have_room_for_as_many_pods_as_its_limits_say() {
    let provider = root("provider-config/provider-ec2.yaml");
    // Two nodes of 500 Pods each, by its limits.
    let limited = plan(&["-f", "-", "--config", &provider], &WEB.replace("replicas: 4", "replicas: 1003"));
    assert_eq!(limited.code, Some(1), "{}", limited.err);
    let said = "waits: NoNodeMatches: no virtual node has room by provider.yaml's limits: 2 Too many pods";
    assert!(limited.out.contains("1000 Pods bought, 3 wait") && limited.out.contains(said), "{}", limited.out);
}

#[test]
fn spot_is_bought_at_the_prices_that_are_given() {
    let (policy, prices) = shipped();
    let base = ["-f", "-", "--policy", &policy, "-o", "json"];
    let without = plan(&base, WEB);
    // The first two and 30 % of the rest, rounded up, on demand; the rest has no price as spot.
    assert_eq!(options(&without), ["on-demand"; 4]);
    let listed = plan(&[&base[..], &["--prices", &prices]].concat(), WEB);
    assert_eq!(options(&listed), ["on-demand", "on-demand", "on-demand", "spot"]);
    let assumed = plan(&[&base[..], &["--assume-spot", "30"]].concat(), WEB);
    let report: Value = serde_json::from_str(&assumed.out).expect("JSON");
    let last = &report["replicas"][3];
    assert_eq!((last["purchase"].as_str(), last["hourly"].as_str()), (Some("spot"), Some("0.0255")), "{last}");
}

#[test]
fn what_would_wait_or_is_refused_fails_the_plan_with_1_and_is_still_printed() {
    let (policy, _) = shipped();
    let args = ["-f", "-", "--policy", &policy];
    let large = plan(&args, &WEB.replace("memory: 1Gi", "memory: 2Ti"));
    assert_eq!(large.code, Some(1), "{}", large.err);
    assert!(large.out.contains("waits: NoInstanceTypeFits") && large.out.contains("4 wait"), "{}", large.out);
    let device = WEB.replace("image: web,", "image: web, volumeDevices: [{name: d, devicePath: /d}],");
    let refused = plan(&args, &device);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.out.contains("UnsupportedField: spec.containers[web].volumeDevices[d]"), "{}", refused.out);
}

#[test]
fn manifests_that_cannot_be_read_or_make_no_pods_end_with_1_and_say_which() {
    let (policy, _) = shipped();
    for (filename, input, said) in [
        ("/no/such/file.yaml", "", "/no/such/file.yaml"),
        ("-", "kind: [", "pilotlight: -"),
        ("-", "", "nothing that makes Pods"),
        ("-", "kind: Service\nmetadata: {name: web}\n", "nothing that makes Pods"),
        ("-", "kind: Deployment\nmetadata: {name: web}\nspec: {replicas: many}\n", "spec.replicas"),
        (
            "-",
            "kind: Deployment\nmetadata: {name: web}\nspec: {replicas: 4294967295}\n",
            "expected a number of Pods up to",
        ),
    ] {
        let refused = plan(&["-f", filename, "--policy", &policy], input);
        assert_eq!(refused.code, Some(1), "{said}: {}", refused.err);
        assert!(refused.err.contains(said) && refused.out.is_empty(), "{said}: {}{}", refused.err, refused.out);
    }
}

#[test]
fn a_broken_policy_catalog_or_price_list_ends_with_2_and_says_where() {
    let (policy, prices) = shipped();
    let catalog = root("provider-config/catalog-ec2.yaml");
    let dir = tempfile::tempdir().expect("a directory");
    let broken = |name: &str, text: &str| -> PathBuf {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    };
    let bad_policy = broken("policy.yaml", "defaults: {instances: {allow: [\"c9z-large\"]}}\n").display().to_string();
    let bad_catalog = broken("catalog.yaml", "types: many\n").display().to_string();
    let bad_prices =
        broken("prices.yaml", "spot:\n  - {type: c6i.large, zone: moon, price: 1}\n").display().to_string();
    for (policy, catalog, prices, said) in [
        (&bad_policy, &catalog, &prices, "policy.yaml:1: defaults.instances.allow[0]"),
        (&policy, &bad_catalog, &prices, "catalog.yaml:1: types"),
        (&policy, &catalog, &bad_prices, "prices.yaml:2: spot[0].zone"),
    ] {
        let refused = plan(&["-f", "-", "--policy", policy, "--catalog", catalog, "--prices", prices], WEB);
        assert_eq!(refused.code, Some(2), "{said}: {}", refused.err);
        assert!(refused.err.contains(said) && refused.out.is_empty(), "{said}: {}{}", refused.err, refused.out);
    }
    let none = plan(&["-f", "-", "--policy", "/no/such/policy.yaml"], WEB);
    assert!(none.code == Some(2) && none.err.contains("/no/such/policy.yaml"), "{}", none.err);
    let none = plan(&["-f", "-", "--config", "/no/such/provider.yaml"], WEB);
    assert!(none.code == Some(2) && none.err.matches("No such file").count() == 1, "{}", none.err);
    // What clap refuses.
    let provider = root("provider-config/provider-ec2.yaml");
    assert_eq!(plan(&["-f", "-", "--config", &provider, "--catalog", &catalog], WEB).code, Some(2), "it names its own");
    assert_eq!(plan(&["-f", "-"], WEB).code, Some(2), "a policy is required");
    assert_eq!(plan(&["-f", "-", "--policy", &policy, "--assume-spot", "0"], WEB).code, Some(2));
}

#[test]
fn what_the_catalog_lacks_is_warned_of_and_the_rest_is_planned() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, "defaults: {instances: {allow: [\"c6i.*\", \"m5.*\"]}}\n").expect("written");
    let (policy, catalog) = (file.display().to_string(), root("provider-config/catalog-ec2.yaml"));
    let args = ["-f", "-", "--policy", &policy, "--catalog", &catalog, "-o", "json"];
    let planned = plan(&args, WEB);
    assert_eq!(options(&planned), ["on-demand"; 4]);
    let warning =
        format!("pilotlight: warning: {policy}:1: defaults.instances.allow[1]: \"m5.*\" is no type of the catalog");
    assert!(planned.err.starts_with(&warning) && planned.err.lines().count() == 1, "{}", planned.err);
    let large = plan(&args[..6], &WEB.replace("memory: 1Gi", "memory: 2Ti"));
    assert!(large.code == Some(1) && large.out.contains("no type is known of m5.*"), "{}", large.out);
}

#[test]
fn a_reader_that_has_enough_is_no_fault() {
    let (policy, _) = shipped();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .args(["plan", "-f", "-", "--policy", &policy, "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pilotlight can be run");
    drop(child.stdout.take());
    // More than a pipe holds.
    let many = WEB.replace("replicas: 4", "replicas: 400");
    child.stdin.take().expect("piped").write_all(many.as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn json_and_yaml_say_the_same_of_each_replica_and_of_all() {
    let (policy, prices) = shipped();
    let base = ["-f", "-", "--policy", &policy, "--prices", &prices, "-o"];
    let [json, yaml] = ["json", "yaml"].map(|format| plan(&[&base[..], &[format]].concat(), WEB).out);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(json, yaml);
    let micros = |value: &Value| -> u64 {
        let (whole, part) = value.as_str().expect("money").split_once('.').unwrap_or_default();
        format!("{whole}{part:0<6}").parse().expect("a number")
    };
    let replicas = json["replicas"].as_array().expect("a list");
    let sum: u64 = replicas.iter().map(|replica| micros(&replica["hourly"])).sum();
    assert_eq!(micros(&json["totals"]["hourly"]), sum);
    // 730 hours, as AWS reckons a month.
    assert_eq!(micros(&json["totals"]["monthly"]), sum * 730);
    assert!(json["totals"]["savedPercent"].as_i64().expect("a number") > 0);
}
