//! How long the purchase decision takes: 10,000 Pods, 60 types, 3 zones, one core.
//!
//! Prints a table and writes target/bench/decide.json. Pods are of many sizes, owners and classes, so
//! that no decision can be taken over from the one before.

use jiff::Timestamp;
use pilotlight::config::{Source, policy::policy_of};
use pilotlight::decide::purchase::policy::Architecture;
use pilotlight::decide::purchase::{Burst, Catalog, Demand, Ledger, Market, Outcome, Planner, TypeSpec};
use pilotlight::model::HourlyPrice;
use std::{path::Path, sync::Arc, time::Instant};
use tikv_jemallocator::Jemalloc;

/// As in the product.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const PODS: u64 = 10_000;
const TYPES: u64 = 60;
const ROUNDS: usize = 15;
const AIM_MS: f64 = 100.0;

const POLICY: &str = r#"
defaults:
  instances: {allow: ["c6i.*", "m6i.*", "r6i.*", "c7i.*", "m7i.*", "t3.*"], burstable: false}
classes:
  - name: batch
    weight: 50
    match: {labels: {tier: batch}}
    purchase: [{option: spot, minPools: 3, maxPercentOfOnDemand: 90}, {option: on-demand, after: ice}]
  - name: small
    weight: 40
    match: {labels: {tier: small}}
    purchase: [{option: burstable}, {option: on-demand}]
    instances: {burstable: true}
  - name: web
    weight: 10
    mix: {onDemandBase: 2, onDemandPercentAboveBase: 30}
    purchase: [{option: capacity-reservation}, {option: spot}, {option: on-demand, after: ice}]
limits:
  - {scope: cluster, maxHourly: 1000000}
  - {scope: {namespace: n3}, maxInstances: 500}
commitments:
  - savingsPlan: {hourly: 10, discountPercent: 30}
"#;

fn main() -> anyhow::Result<()> {
    let market = market();
    let policy = policy_of(&Source::new("bench-policy.yaml", POLICY), &market.catalog)?.policy;
    let demands: Vec<Demand> = (0..PODS).map(demand).collect();
    let mut times = Vec::new();
    let (mut bought, mut dropped) = (0, 0);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let planner = Planner::new(&policy, &market, Timestamp::UNIX_EPOCH);
        let decisions = planner.decide_all(&demands, &mut Ledger::new(&policy, &market));
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        bought = decisions.iter().filter(|d| matches!(d.outcome, Outcome::Plan(_))).count();
        dropped = decisions.iter().map(|d| d.dropped().count()).sum();
    }
    times.sort_by(f64::total_cmp);
    let (best, median, worst) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("{PODS} Pods x {TYPES} types x 3 zones, {ROUNDS} rounds on one core; aim {AIM_MS} ms");
    println!("{:>12} {:>12} {:>12} {:>10} {:>10}", "BEST ms", "MEDIAN ms", "WORST ms", "BOUGHT", "REASONS");
    println!("{best:>12.1} {median:>12.1} {worst:>12.1} {bought:>10} {dropped:>10}");
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/decide.json");
    let report = serde_json::json!({
        "pods": PODS, "types": TYPES, "zones": 3, "rounds": ROUNDS, "bought": bought, "reasons": dropped,
        "bestMs": best, "medianMs": median, "worstMs": worst, "aimMs": AIM_MS, "optimized": !cfg!(debug_assertions),
    });
    std::fs::create_dir_all(out.parent().expect("it is in a directory"))?;
    std::fs::write(&out, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("{}", out.display());
    Ok(())
}

fn market() -> Market {
    let zones: Vec<String> = ["a", "b", "c"].map(|z| format!("us-east-1{z}")).to_vec();
    let sizes =
        ["medium", "large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "32xlarge"];
    let families = [("c6i", 2), ("m6i", 4), ("r6i", 8), ("c7i", 2), ("m7i", 4), ("t3", 2)];
    let types: Vec<TypeSpec> = (0u64..)
        .zip(families)
        .flat_map(|(number, (family, gib))| {
            (0u64..).zip(sizes).map(move |(step, size)| {
                let cpu = 1000 << step.min(6);
                TypeSpec {
                    name: format!("{family}.{size}"),
                    architecture: Architecture::Amd64,
                    cpu_millis: cpu,
                    memory_bytes: (cpu / 1000 * gib) << 30,
                    on_demand: HourlyPrice(cpu * (42 + number * 3) + step),
                    burst: (family == "t3").then_some(Burst { baseline_millis: cpu / 5, surplus: HourlyPrice(50_000) }),
                }
            })
        })
        .collect();
    assert_eq!(types.len() as u64, TYPES);
    let spot = types
        .iter()
        .flat_map(|t| zones.iter().map(move |z| (t, z)))
        .enumerate()
        .map(|(i, (t, z))| ((t.name.clone(), z.clone()), HourlyPrice(t.on_demand.0 * (25 + i as u64 * 7 % 40) / 100)))
        .collect();
    Market { catalog: Catalog { region: "us-east-1".to_owned(), zones, types }, spot, ..Market::default() }
}

fn demand(number: u64) -> Demand {
    let tier = ["batch", "small", "web", "web", "api"][(number % 5) as usize];
    Demand {
        uid: format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        namespace: format!("n{}", number % 20),
        labels: Arc::new(
            [("tier".to_owned(), tier.to_owned()), ("app".to_owned(), format!("app-{}", number % 400))].into(),
        ),
        owner: Some(("ReplicaSet".to_owned(), format!("app-{}", number % 400))),
        cpu_millis: Some(100 + number * 37 % 7900),
        memory_bytes: Some((128 + number * 91 % 16_000) << 20),
        ..Demand::default()
    }
}
