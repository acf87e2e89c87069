//! What a class or an annotation names and no type is known of: the Pod waits and is told so, until the cloud tells of it.

use super::refresh::{Known, Told, merged};
use super::*;
use crate::config::{Source, policy::policy_of};
use crate::model::{ListPrice, SoldType};

const POLICY: &str = "defaults: {instances: {allow: [m5.*, m6id.*]}}\noverrides: {instance-types: allow, eci: allow}\n\
                      commitments:\n- regional: {type: m5.large, count: 1}\n";

fn files() -> Buying {
    let spec = TypeSpec {
        name: "c6i.large".into(),
        architecture: Architecture::Amd64,
        cpu_millis: 2000,
        memory_bytes: 4 << 30,
        on_demand: HourlyPrice(85_000),
        burst: None,
    };
    let catalog = Catalog { region: "r".into(), zones: vec!["a".into()], types: vec![spec] };
    let policy = policy_of(&Source::new("policy.yaml", POLICY), &catalog).unwrap().policy;
    Buying { policy, market: Market { catalog, ..Market::default() } }
}

fn pend(buying: &Buying, annotations: &[(&str, &str)]) -> Pend {
    let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let demand = Demand { annotations: Arc::new(annotations), ..Demand::default() };
    match decide(&buying.policy, &demand, &buying.market, &Ledger::new(&buying.policy, &buying.market), now()).outcome {
        Outcome::Pend(pend) => pend,
        Outcome::Plan(choice) => panic!("{choice:?}"),
    }
}

#[test]
fn a_pod_whose_class_names_only_what_nobody_knows_waits_until_the_cloud_tells_of_it() {
    let files = files();
    let waits = pend(&files, &[]);
    assert_eq!(waits.reason, "NoInstanceTypeAllowed");
    assert!(waits.message.ends_with("; no type is known of m5.*, m6id.*"), "{}", waits.message);

    let mut known = Known::default();
    let m5 = |vcpus: i64, name: &str| SoldType {
        name: name.to_owned(),
        architectures: vec!["x86_64".to_owned()],
        vcpus: Some(vcpus),
        memory_mib: Some(vcpus * 4096),
        burstable: false,
    };
    known.learn(&Told::Types(vec![m5(2, "m5.large"), m5(4, "m5.xlarge")]), now());
    let priced = |name: &str, price: &str| ListPrice { instance_type: name.to_owned(), price: price.to_owned() };
    known.learn(&Told::OnDemand(vec![priced("m5.large", "0.096"), priced("m5.xlarge", "0.192")]), now());
    let merged = merged(&files, &known, &[Architecture::Amd64].into(), "ec2");
    let buying = Buying { policy: files.policy, market: merged.market };
    let planner = Planner::new(&buying.policy, &buying.market, now());
    let demand = Demand::default();
    let decision = planner.decide(&demand, &Ledger::new(&buying.policy, &buying.market));
    let Outcome::Plan(choice) = decision.outcome else { panic!("{decision:?}") };
    // It is paid for by the commitment on what the catalog did not have either.
    assert_eq!((choice.instance_type, choice.price), ("m5.large", HourlyPrice(0)));
    let large = Demand { cpu_millis: Some(64_000), ..Demand::default() };
    let Outcome::Pend(pend) = planner.decide(&large, &Ledger::new(&buying.policy, &buying.market)).outcome else {
        panic!()
    };
    assert_eq!(pend.reason, "NoInstanceTypeFits");
    assert!(pend.message.ends_with("; no type is known of m6id.*"), "{}", pend.message);
}

#[test]
fn a_pod_that_narrows_itself_to_what_nobody_knows_is_told_which() {
    let mut files = files();
    files.policy.classes[0].instances.allow.clear();
    for (key, value, unknown) in [
        (INSTANCE_TYPES, "m5.large, c6i.xlarge", "c6i.xlarge, m5.large"),
        (INSTANCE_TYPES, "c6i-large", "c6i-large"),
        ("k8s.aliyun.com/eci-use-specs", "8-16Gi,ecs.m5.large", "8000m-16384Mi, m5.large"),
        ("k8s.aliyun.com/eci-instance-family", "m5", "m5.*"),
        (INSTANCE_TYPES, "m1.*,m2.*,m3.*,m4.*,m5.*,m6.*,m7.*", "m1.*, m2.*, m3.*, m4.*, m5.* and 2 more"),
    ] {
        let waits = pend(&files, &[(key, value)]);
        assert_eq!(waits.reason, "NarrowedAway", "{value}");
        assert!(waits.message.ends_with(&format!("; no type is known of {unknown}")), "{}", waits.message);
    }
}
