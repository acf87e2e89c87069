//! Broken configuration files are refused loudly: exit code 2, the file, the key's path, never a panic.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const GOOD: &str = include_str!("../provider-config/provider.yaml");
const CATALOG: &str = include_str!("../provider-config/catalog.yaml");

fn pilotlight(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(args).output().expect("pilotlight can be run")
}

/// Runs `pilotlight node` and `pilotlight check` on these files; what both say of them.
fn refusal(provider: &str, catalog: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("provider.yaml");
    // What was good last of the shipped stateDir is not for these.
    fs::write(&file, provider.replacen("stateDir: /", "stateDir: ./", 1)).expect("written");
    fs::write(dir.path().join("catalog.yaml"), catalog).expect("written");
    let path = file.display().to_string();
    let texts = ["node", "check"].map(|command| {
        let output = pilotlight(&[command, "--config", &path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command}: {text}");
        assert!(!text.contains("panicked"), "{command}: {text}");
        assert!(output.stdout.is_empty(), "{command} says nothing else");
        text
    });
    assert_eq!(texts[0], texts[1], "node and check judge alike");
    texts[0].replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn the_shipped_files_are_accepted() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config/provider.yaml");
    let output = pilotlight(&["check", "--config", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("is valid"));
}

/// What is for EC2 alone: fine where it is built in, and else refused for the want of that.
fn fit_for_ec2(file: &Path, refused_by: &[&str]) {
    let file = file.display().to_string();
    let output = pilotlight(&["check", "--config", &file]);
    if cfg!(feature = "ec2") {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    } else {
        for command in refused_by {
            let output = pilotlight(&[command, "--config", &file]);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains("cloud.ec2") && text.contains("--features ec2"), "{text}");
        }
    }
}

#[test]
fn the_shipped_file_for_ec2_is_accepted_or_refused_for_want_of_support_alone() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config/provider-ec2.yaml");
    fit_for_ec2(&file, &["check", "node"]);
}

#[test]
fn the_eks_overlays_files_are_valid_together_as_its_pod_has_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a directory");
    for (from, to) in [
        ("manifests/overlays/eks/provider.yaml", "provider.yaml"),
        ("manifests/overlays/eks/cost-policy.yaml", "cost-policy.yaml"),
        // provider-config/Kustomization.
        ("provider-config/catalog-ec2.yaml", "catalog.yaml"),
    ] {
        fs::copy(root.join(from), dir.path().join(to)).expect("copied");
    }
    let provider = dir.path().join("provider.yaml");
    // `node` would miss what a Pod is told of itself.
    fit_for_ec2(&provider, &["check"]);
    let text = fs::read_to_string(&provider).expect("read");
    let broken = text.replacen("securityGroups: [sg-", "securityGroups: [group-", 1);
    assert_ne!(broken, text);
    fs::write(&provider, broken).expect("written");
    let output = pilotlight(&["check", "--config", &provider.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("cloud.ec2.securityGroups"), "{said}");
}

#[test]
fn check_warns_of_what_the_catalog_lacks_where_ec2_is_asked_for_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config");
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(root.join("catalog-ec2.yaml"), dir.path().join("catalog-ec2.yaml")).expect("copied");
    let provider = fs::read_to_string(root.join("provider-ec2.yaml")).expect("read");
    let file = dir.path().join("provider.yaml");
    fs::write(&file, provider.replacen("# costPolicy:", "costPolicy:", 1)).expect("written");
    let policy = dir.path().join("cost-policy.yaml");
    fs::write(&policy, "defaults:\n  instances:\n    allow: [c6i.*, m5.*]\n").expect("written");
    fit_for_ec2(&file, &["check"]);
    let output = pilotlight(&["check", "--config", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let warning = format!("warning: {}:3: defaults.instances.allow[1]: \"m5.*\"", policy.display());
    assert!(!cfg!(feature = "ec2") || said.contains(&warning), "{said}");
    fs::write(&policy, "defaults:\n  instances:\n    allow: [m5-large]\n").expect("written");
    let output = pilotlight(&["check", "--config", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && said.contains("cost-policy.yaml:3: defaults.instances.allow[0]"),
        "{said}"
    );
}

#[test]
fn each_broken_key_is_named_by_its_path() {
    for (from, to, key) in [
        ("cluster: dev", "cluster: Not A Name", "cluster"),
        ("cluster: dev", "clutser: dev", "clutser"),
        ("address: 10.70.0.1", "address: here", "address"),
        ("kubeletPort: 10260", "kubeletPort: 70000", "nodes[0].kubeletPort"),
        ("cpu: 64", "cpu: sixty", "limits.cpu"),
        ("memory: 128Gi", "memory: -1", "limits.memory"),
        ("listen: 10.72.0.1:10255", "listen: nowhere", "agents.listen"),
        ("registrationTimeout: 2m", "registrationTimeout: soon", "agents.registrationTimeout"),
        ("standby: []", "standby: [{instanceType: t3.nano, zone: moon, count: 1}]", "standby[0].zone"),
        ("standby: []", "standby: [{instanceType: none, zone: local-a, count: 1}]", "standby[0].instanceType"),
        ("subnet: 10.72.0.1/16", "subnet: 10.72.0.1/99", "cloud.local.subnet"),
        ("bridge: pl0", "bridge: far-too-long-for-an-interface", "cloud.local.bridge"),
        ("  local:", "  elsewhere:", "cloud"),
    ] {
        assert!(GOOD.contains(from), "{from:?} is not in the example");
        let text = refusal(&GOOD.replacen(from, to, 1), CATALOG);
        assert!(text.contains("DIR/provider.yaml") && text.contains(key), "{to}: {text}");
    }
}

#[test]
fn a_broken_catalog_is_named_with_its_own_path() {
    for (from, to, key) in [
        ("cpu: 2", "cpu: two", "types[0].cpu"),
        ("memory: 512Mi", "memory: lots", "types[0].memory"),
        ("price: \"0.0052\"", "price: \"cheap\"", "types[0].price"),
        ("name: t3.micro", "name: t3.nano", "types[1].name"),
    ] {
        assert!(CATALOG.contains(from), "{from:?} is not in the catalog");
        let text = refusal(GOOD, &CATALOG.replacen(from, to, 1));
        assert!(text.contains("DIR/catalog.yaml") && text.contains(key), "{to}: {text}");
    }
}

#[test]
fn what_is_no_yaml_or_no_file_is_refused() {
    for broken in ["", "[]", "nodes: [", "\t", "just words", "cluster: {a: *b}"] {
        let text = refusal(broken, CATALOG);
        assert!(text.contains("DIR/provider.yaml"), "{broken:?}: {text}");
    }
    let output = pilotlight(&["node", "--config", "/no/such/file.yaml"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("/no/such/file.yaml"), "{text}");
    assert_eq!(pilotlight(&["node"]).status.code(), Some(2), "the option is required");
}

/// `pilotlight check` of the shipped provider.yaml with a cost policy and a price list beside it.
fn check_with(policy: &str, prices: &str) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("provider.yaml");
    let named = "costPolicy: cost-policy.yaml\nprices: prices.yaml\n";
    fs::write(&file, format!("{GOOD}{named}")).expect("written");
    for (name, text) in [("catalog.yaml", CATALOG), ("cost-policy.yaml", policy), ("prices.yaml", prices)] {
        fs::write(dir.path().join(name), text).expect("written");
    }
    pilotlight(&["check", "--config", &file.display().to_string()])
}

#[test]
fn check_judges_policy_and_prices_for_the_providers_own_catalog_and_zones() {
    let policy = "classes:\n  - {name: web, placement: {zones: [local-a]}}\n";
    let prices = "spot:\n  - {type: t3.nano, zone: local-a, price: 0.001}\n";
    let output = check_with(policy, prices);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("classes web, default") && text.contains("1 spot prices"), "{text}");
    assert!(text.contains("cost-policy.yaml") && text.contains("prices.yaml"), "{text}");
    for (policy, prices, said) in [
        (
            "classes:\n  - {name: web, placement: {zones: [moon]}}\n",
            prices,
            "cost-policy.yaml:2: classes[0].placement.zones[0]",
        ),
        ("defaults:\n  instances: {allow: [m9.large]}\n", prices, "cost-policy.yaml:2: defaults.instances.allow[0]"),
        (policy, "spot:\n  - {type: t3.nano, zone: moon, price: 0.001}\n", "prices.yaml:2: spot[0].zone"),
        (policy, "onDemand:\n  - {type: none, price: 1}\n", "prices.yaml:2: onDemand[0].type"),
    ] {
        let output = check_with(policy, prices);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(said), "{said}: {text}");
    }
}
