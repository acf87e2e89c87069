//! Every broken policy of integration/policy/broken is refused as it should be; every example is
//! accepted, by the loader and by its schema.

use super::*;
use crate::decide::purchase::Policy;
use std::collections::BTreeMap;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn catalog() -> Catalog {
    load_market(&root("provider-config/catalog-ec2.yaml"), None).unwrap().catalog
}

/// As a provider loads it that asks nobody.
fn by_the_catalog(file: &Path, catalog: &Catalog) -> Result<Policy, ConfigError> {
    Ok(load_policy(file, catalog)?.by_the_catalog_alone("")?)
}

/// What stands behind `<file>.yaml:` in each error: line, key, what was wrong and what was expected.
const BROKEN: &[(&str, &str)] = &[
    ("after-nothing", "2: defaults.purchase[0].after: ice: expected a step before it"),
    (
        "bad-cron",
        "5: standby[0].schedules[0].cron: \"0 25 * * *\": Component error: Number out of bounds.: expected five fields: minute, hour, day of month, month, day of week",
    ),
    ("bad-duration", "3: defaults.ice.quarantine: \"soon\": expected a duration above zero, such as 30s, 10m or 1h30m"),
    (
        "bad-glob",
        "5: defaults.instances.allow[1]: \"m6i.[lx]large\": expected a name or a pattern of lower-case letters, digits, `.`, `-`, `*` and `?`, such as c6i.*",
    ),
    (
        "bad-quantity",
        "2: defaults.sizing.requests.cpu: \"lots\": expected a quantity of CPUs above zero, such as 2 or 500m",
    ),
    ("cap-below-base", "3: classes[0].mix.onDemandBase: 5: expected at most the 3 instances of its limit"),
    (
        "cron-of-six-fields",
        "5: standby[0].schedules[0].cron: \"0 0 8 * * *\": Invalid pattern: Pattern must have 5 fields when seconds are disallowed.: expected five fields: minute, hour, day of month, month, day of week",
    ),
    ("cyclic-narrowing", "7: classes[2].narrows: a -> b -> c -> a: expected classes that do not narrow each other"),
    (
        "discount-above-hundred",
        "2: commitments[0].savingsPlan.discountPercent: 120: expected a percentage from 0 to 99",
    ),
    ("empty-allow", "3: defaults.instances.allow: is empty: expected names or globs, or no key at all"),
    (
        "glob-of-nothing",
        "3: defaults.instances.allow[1]: \"c9z.*\": expected a name or glob of types that are in the catalog",
    ),
    ("limit-of-nothing", "2: limits[0]: expected maxHourly, maxInstances or both"),
    ("limit-of-unknown-class", "2: limits[0].scope.class: \"web\": expected the name of a class"),
    ("limit-twice", "3: limits[1].scope: is given twice: expected one limit a scope"),
    ("listed-without-list", "3: classes[0].instances.order: listed: expected `allow` beside it, whose order is meant"),
    ("missing-name", "2: classes[0]: missing field `name`"),
    ("mix-above-hundred", "5: classes[0].mix.onDemandPercentAboveBase: 130: expected a percentage from 0 to 100"),
    ("mix-without-spot", "4: classes[0].mix: expected spot and a way of buying on demand in the class's purchase"),
    ("narrows-itself", "3: classes[0].narrows: a -> a: expected classes that do not narrow each other"),
    ("narrows-nothing", "3: classes[0].narrows: \"web\": expected the name of another class"),
    (
        "negative-price",
        "2: defaults.maxHourlyPrice: \"-0.5\" is not a price: expected dollars an hour with at most six decimals, such as 0.0104",
    ),
    ("no-attempts", "2: defaults.ice.maxAttempts: 0: expected at least 1"),
    ("no-purchase", "3: classes[0].purchase: is empty: expected at least one way of buying"),
    ("nothing-of-on-demand", "2: defaults.purchase[0].maxPercentOfOnDemand: 0: expected a percentage above zero"),
    ("not-yaml", "2: classes: unclosed bracket '{'"),
    (
        "overlapping-cron",
        "6: standby[0].schedules[1]: overlaps schedules[0] at 2026-01-02T16:00:00Z: expected windows that do not overlap",
    ),
    (
        "overlapping-itself",
        "5: standby[0].schedules[0]: begins again at 2026-01-01T01:00:00Z before it has ended: expected windows that do not overlap",
    ),
    ("percent-of-on-demand", "2: defaults.purchase[0].maxPercentOfOnDemand: expected with option spot alone"),
    (
        "price-with-unit",
        "3: classes[0].maxHourlyPrice: \"$0.10\" is not a price: expected dollars an hour with at most six decimals, such as 0.0104",
    ),
    (
        "reserve-applies-to-nobody",
        "2: reserve.appliesTo[0]: is empty: expected namespaces (`*` for all), labels or both",
    ),
    ("reserve-bought-by-nobody", "2: reserve.class: \"small\": expected the name of a class"),
    (
        "reserve-by-override",
        "4: reserve.class: \"small\" buys by its own sizes, whatever a Pod requests: expected a class of sizing.mode requests, because a reserve requests what its service was seen to need",
    ),
    (
        "reserve-of-unknown-type",
        "3: reserve.sizing.listed[1]: \"t3.tiny\": expected a type of the catalog, or vCPUs and memory as 1-2Gi",
    ),
    ("reserve-parked", "2: reserve.parking: \"sometimes\": expected release, always or a duration such as 10m"),
    ("reserve-percent", "2: reserve.sizing.fraction.cpuPercent: 110: expected a percentage from 0 to 100"),
    ("reserve-unbounded", "2: reserve.unboundedConcurrency: 0: expected a number above zero, or refuse"),
    ("reserved-name", "2: classes[0].name: \"default\" is empty, given twice or `default`, which is reserved"),
    ("same-class-twice", "3: classes[1].name: \"web\" is empty, given twice or `default`, which is reserved"),
    ("same-purchase-twice", "2: defaults.purchase[1].option: is given twice: expected each way of buying once"),
    ("short-window", "5: standby[0].schedules[0].duration: \"1m\": expected at least 15m"),
    (
        "too-fine-price",
        "3: limits[0].maxHourly: \"0.00000001\" is not a price: expected dollars an hour with at most six decimals, such as 0.0104",
    ),
    (
        "unknown-architecture",
        "3: defaults.instances.architectures[0]: unknown variant `x86`, expected one of amd64, arm64",
    ),
    ("unknown-family", "2: commitments[0].savingsPlan.family: \"x9\": expected a family of the catalog, such as c6i"),
    (
        "unknown-key",
        "2: defaults.instances.alow: unknown field `alow`, expected one of allow, deny, architectures, minGeneration, burstable, maxVcpu, maxMemory, order, maxCandidates",
    ),
    (
        "unknown-section",
        "2: limit: unknown field `limit`, expected one of defaults, classes, limits, standby, commitments, reservations, overrides, reserve",
    ),
    (
        "unknown-standby-zone",
        "2: standby[0].zone: \"us-west-2a\": expected a zone of the catalog: us-east-1a, us-east-1b, us-east-1c",
    ),
    (
        "unknown-time-zone",
        "5: standby[0].schedules[0].timeZone: \"Europe/Atlantis\": expected an IANA time zone such as Europe/Berlin",
    ),
    ("unknown-type", "2: standby[0].type: \"t3.tiny\": expected an instance type of the catalog"),
    (
        "unknown-zone",
        "4: classes[0].placement.zones[1]: \"us-east-9z\": expected a zone of the catalog: us-east-1a, us-east-1b, us-east-1c",
    ),
    ("widening-burstable", "6: classes[1].instances.burstable: true: expected false, as in the class that it narrows"),
    ("widening-mix", "12: classes[1].mix.groupBy: expected the same as in the class that it narrows"),
    ("widening-override", "2: overrides.max-hourly-price: unknown variant `allow`, expected one of lower-only, deny"),
    ("widening-purchase", "8: classes[1].purchase[1].option: spot: expected a way of buying of class web"),
    ("widening-zones", "6: classes[1].placement.zones: expected a zone of the class that it narrows"),
    (
        "type-with-dash",
        "3: defaults.instances.allow[1]: \"m6i-large\" is no type of the catalog: expected a family, a dot and a size, such as c6i.large, or a pattern of such, such as c6i.*",
    ),
    (
        "family-without-size",
        "3: defaults.instances.allow[0]: \"c6i\" is no type of the catalog: expected a family, a dot and a size, such as c6i.large, or a pattern of such, such as c6i.*",
    ),
    (
        "misspelt-size",
        "3: defaults.instances.allow[0]: \"c6i.lagre\" is no type of the catalog: expected a family, a dot and a size, such as c6i.large, or a pattern of such, such as c6i.*",
    ),
    (
        "denied-without-dot",
        "5: classes[0].instances.deny[0]: \"m6ilarge\" is no type of the catalog: expected a family, a dot and a size, such as c6i.large, or a pattern of such, such as c6i.*",
    ),
    (
        "type-in-capitals",
        "3: defaults.instances.allow[0]: \"C6I.large\": expected a name or a pattern of lower-case letters, digits, `.`, `-`, `*` and `?`, such as c6i.*",
    ),
    (
        "committed-to-unknown-type",
        "2: commitments[0].regional.type: \"m5.large\": expected an instance type of the catalog",
    ),
    ("committed-to-pattern", "2: commitments[0].zonal.type: \"m5.*\": expected an instance type of the catalog"),
    ("reserved-of-unknown-type", "2: reservations[0].type: \"m5.large\": expected an instance type of the catalog"),
    (
        "family-in-savings-plan",
        "2: commitments[0].savingsPlan.family: \"m5.large\": expected a family of the catalog, such as c6i",
    ),
    ("wrong-type", "3: classes[0].weight: expected a whole number"),
    (
        "christmas-on-a-saturday",
        "6: standby[0].schedules[1]: overlaps schedules[0] at 2027-12-25T09:00:00Z: expected windows that do not overlap",
    ),
    (
        "no-such-day",
        "5: standby[0].schedules[0].cron: \"0 8 31 2 *\" never begins: expected a day of month that one of the months has",
    ),
    ("cap-of-namespace-below-base", "4: classes[0].mix.onDemandBase: 3: expected at most the 1 instances of its limit"),
    ("spread-of-zones", "2: defaults.placement.spread: unknown field `spread`, expected one of zones"),
    (
        "price-that-is-no-number",
        "3: defaults.maxHourlyPrice: \".nan\" is not a price: expected dollars an hour with at most six decimals, such as 0.0104",
    ),
    ("key-twice", "3: defaults.maxHourlyPrice: maxHourlyPrice is given twice: expected each key once"),
    ("one-for-a-list", "2: defaults.purchase: expected a list"),
    ("empty-name", "2: classes[0].name: expected a text, found nothing"),
    ("commitment-of-no-kind", "2: commitments[0]: expected a map with one key"),
];

#[test]
fn every_broken_policy_is_refused_with_file_line_key_and_what_was_expected() {
    let catalog = catalog();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root("integration/policy/broken")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let error = by_the_catalog(&path, &catalog).err().unwrap_or_else(|| panic!("{name} should be refused"));
        let said = error.to_string();
        let expected_start = format!("{}:", path.display());
        let rest = said.strip_prefix(&expected_start).unwrap_or_else(|| panic!("{said}")).to_owned();
        found.insert(name, rest);
    }
    let expected: BTreeMap<String, String> =
        BROKEN.iter().map(|(name, said)| ((*name).to_owned(), (*said).to_owned())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_provider_buys_nothing_in_zones_without_a_node_and_so_must_not_be_told_to() {
    let nodes = ["us-east-1a".to_owned(), "us-east-1b".to_owned()];
    let refused = |text: &str| {
        let source = Source::new("policy.yaml", text);
        policy_of(&source, &catalog()).expect("by the catalog alone it is good");
        policy_for(&source, &catalog(), &nodes).map(|_| ()).map_err(|error| error.to_string())
    };
    let expected = "\"us-east-1c\": expected a zone in which there is a node: us-east-1a, us-east-1b";
    assert_eq!(
        refused("standby:\n- type: t3.small\n  zone: us-east-1c\n"),
        Err(format!("policy.yaml:3: standby[0].zone: {expected}"))
    );
    assert_eq!(
        refused("classes:\n- name: web\n  placement: {zones: [us-east-1b, us-east-1c]}\n"),
        Err(format!("policy.yaml:3: classes[0].placement.zones[1]: {expected}"))
    );
    // What is paid for elsewhere is paid for all the same.
    assert_eq!(refused("commitments:\n- zonal: {type: c6i.large, zone: us-east-1c, count: 1}\n"), Ok(()));
    assert_eq!(refused("defaults: {placement: {zones: [us-east-1a]}}"), Ok(()));
}

#[test]
fn a_mix_is_not_judged_by_a_namespaces_limit_where_the_class_has_pods_of_others_too() {
    for namespaces in ["[jobs, shop]", "[\"jobs*\"]", "[]"] {
        let text = format!(
            "classes:\n- name: batch\n  match: {{namespaces: {namespaces}}}\n  mix: {{onDemandBase: 3, \
             onDemandPercentAboveBase: 10}}\n  purchase: [{{option: spot}}, {{option: on-demand}}]\n\
             limits: [{{scope: {{namespace: jobs}}, maxInstances: 1}}]\n"
        );
        policy_of(&Source::new("policy.yaml", text), &catalog()).unwrap_or_else(|e| panic!("{namespaces}: {e}"));
    }
}

#[test]
fn a_policy_that_is_not_there_is_named() {
    let error = load_policy(&root("integration/policy/none.yaml"), &catalog()).unwrap_err();
    assert!(error.to_string().ends_with("none.yaml: cannot be read"), "{error}");
}

#[test]
fn a_price_that_is_given_twice_is_refused_and_not_the_last_one_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prices.yaml");
    let refused = |text: &str| {
        std::fs::write(&file, format!("source: mine\ndate: 2026-11\n{text}")).unwrap();
        load_market(&root("provider-config/catalog-ec2.yaml"), Some(&file)).unwrap_err().to_string()
    };
    let listed = "- {type: c6i.large, price: \"0.05\"}\n";
    assert!(
        refused(&format!("onDemand:\n{listed}{listed}"))
            .ends_with("prices.yaml:5: onDemand[1]: this type is given twice")
    );
    let sold = "- {type: c6i.large, zone: us-east-1a, price: \"0.03\"}\n";
    assert!(
        refused(&format!("spot:\n{sold}{sold}")).ends_with("prices.yaml:5: spot[1]: this type and zone is given twice")
    );
}

#[test]
fn the_checked_in_schemas_are_what_the_types_say() {
    // To renew them: UPDATE_SCHEMAS=1 cargo test --lib schemas
    for (file, schema) in [
        ("provider-config/cost-policy.schema.json", crate::config::schema::cost_policy()),
        ("provider-config/catalog.schema.json", crate::config::schema::catalog()),
        ("provider-config/prices.schema.json", crate::config::schema::prices()),
    ] {
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(root(file), &schema).unwrap();
        }
        let checked_in = std::fs::read_to_string(root(file)).unwrap_or_default();
        assert!(checked_in == schema, "{file} is stale: renew it with UPDATE_SCHEMAS=1 cargo test --lib schemas");
    }
}

fn yaml(path: &Path) -> serde_json::Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn validator(schema: &str) -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap()
}

#[test]
fn every_example_is_valid_by_its_schema_and_by_the_loader() {
    let valid = |schema: &jsonschema::Validator, file: &str| {
        let errors: Vec<String> = schema.iter_errors(&yaml(&root(file))).map(|e| e.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{file}");
    };
    let policies = validator(&crate::config::schema::cost_policy());
    for file in [
        "provider-config/cost-policy.yaml",
        "manifests/overlays/eks/cost-policy.yaml",
        "integration/policy/everything.yaml",
        "integration/bench/launch/cost-policy.yaml",
        "integration/ec2_e2e/cost-policy.yaml",
        "integration/knative/config/cost-policy.yaml",
    ] {
        valid(&policies, file);
        by_the_catalog(&root(file), &catalog()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let catalogs = validator(&crate::config::schema::catalog());
    for file in ["provider-config/catalog-ec2.yaml", "provider-config/catalog.yaml", "integration/ec2_e2e/catalog.yaml"]
    {
        valid(&catalogs, file);
    }
    let prices = validator(&crate::config::schema::prices());
    for file in ["integration/policy/prices.yaml", "integration/ec2_e2e/prices.yaml"] {
        valid(&prices, file);
    }
    let prices = root("integration/policy/prices.yaml");
    let market = load_market(&root("provider-config/catalog-ec2.yaml"), Some(&prices)).unwrap();
    assert!(market.origins.spot.is_some_and(|origin| !origin.date.is_empty()));
}

#[test]
fn the_schema_refuses_what_is_wrong_by_its_shape_alone() {
    let policies = validator(&crate::config::schema::cost_policy());
    for name in [
        "unknown-key",
        "unknown-section",
        "wrong-type",
        "missing-name",
        "unknown-architecture",
        "negative-price",
        "price-with-unit",
        "widening-override",
    ] {
        let file = root(&format!("integration/policy/broken/{name}.yaml"));
        assert!(!policies.is_valid(&yaml(&file)), "{name}");
    }
}

#[test]
fn a_class_that_narrows_another_has_no_more_than_it() {
    let policy = by_the_catalog(&root("integration/policy/everything.yaml"), &catalog()).unwrap();
    let class = |name: &str| policy.classes.iter().find(|class| class.name == name).unwrap();
    let (wide, narrow) = (class("web"), class("web-cheap"));
    assert_eq!(narrow.max_hourly, Some("0.1".parse().unwrap()));
    assert_eq!(wide.max_hourly, Some("0.3".parse().unwrap()));
    assert_eq!(narrow.placement.zones.as_deref(), Some(&["us-east-1b".to_owned()][..]));
    assert_eq!(narrow.instances.allow.len(), wide.instances.allow.len() + 1);
    assert_eq!(narrow.mix, wide.mix);
}

#[test]
fn a_class_that_narrows_another_never_has_a_smaller_share_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    let narrowed = |own: &str| {
        let text = format!(
            "classes:\n- name: web\n  mix: {{onDemandBase: 2, onDemandPercentAboveBase: 30}}\n  \
             purchase: [{{option: spot}}, {{option: on-demand}}]\n- name: part\n  narrows: web\n  {own}\n"
        );
        std::fs::write(&file, text).unwrap();
        let policy = by_the_catalog(&file, &catalog()).unwrap();
        let mix = policy.classes.iter().find(|class| class.name == "part").unwrap().mix;
        mix.map(|mix| (mix.on_demand_base, mix.on_demand_percent_above_base))
    };
    assert_eq!(narrowed("mix: {onDemandBase: 1, onDemandPercentAboveBase: 50}"), Some((2, 50)));
    assert_eq!(narrowed("mix: {onDemandBase: 4, onDemandPercentAboveBase: 0}"), Some((4, 30)));
    assert_eq!(narrowed("weight: 1"), Some((2, 30)));
    // It takes a part of the ways of buying, and that part leaves nothing to mix.
    assert_eq!(narrowed("purchase: [{option: spot}]"), None);
}

/// What a class may take, of a policy of these classes.
fn instances_of(classes: &str, name: &str) -> crate::decide::purchase::policy::Instances {
    let text = format!("classes:\n{classes}");
    let policy = policy_of(&Source::new("policy.yaml", text), &catalog()).unwrap().policy;
    policy.classes.iter().find(|class| class.name == name).unwrap().instances.clone()
}

#[test]
fn naming_an_older_type_does_not_let_it_off_the_generation_of_a_narrowed_class_that_names_none() {
    let narrowed = |wide: &str, narrow: &str| {
        let classes = format!(
            "- name: web\n  instances: {{burstable: true, {wide}}}\n- {{name: some, narrows: web}}\n\
             - name: part\n  narrows: some\n  instances: {{{narrow}}}\n"
        );
        instances_of(&classes, "part").strict_generation
    };
    assert_eq!(narrowed("minGeneration: 6", "allow: [t3.small]"), Some(6));
    // Its own generation has its own exceptions, and a class that names types made them.
    assert_eq!(narrowed("minGeneration: 3", "allow: [t3.small], minGeneration: 6"), Some(3));
    assert_eq!(narrowed("minGeneration: 6, allow: [t3.small, c6i.large]", "allow: [t3.small]"), None);
}

#[test]
fn a_class_that_narrows_another_takes_types_in_the_order_that_it_says_itself() {
    let listed = |order: &str| {
        let classes = format!(
            "- name: web\n  instances: {{allow: [m6i.large, c6i.large], order: listed}}\n\
             - name: part\n  narrows: web\n  instances: {{{order}}}\n"
        );
        instances_of(&classes, "part").listed.is_some()
    };
    assert!(listed("maxVcpu: 4"));
    assert!(!listed("order: price"));
}
