//! `pilotlight plan`: what would be bought for manifests, why, and at what price. No cluster, no account.
//!
//! Manifests -> [`manifests`] -> a node for each replica ([`nodes`]) -> the Demand that the provider would have of it
//! -> [`crate::decide::purchase`], as one batch on an empty account -> [`Report`] -> [`render`].
//!
//! Exit codes: 0 all can be bought; 1 something would wait or is refused, or no manifest can be read;
//! 2 a broken policy, catalog, price list or provider.yaml.

mod manifests;
mod nodes;
mod render;
mod report;

use super::say::say;
use crate::config::policy::{self, Loaded};
use crate::config::{ConfigError, Limits, ProviderConfig, Surroundings};
use crate::decide::purchase::{Buying, Market, Planner, Policy};
use jiff::Timestamp;
use manifests::Manifests;
use nodes::Nodes;
use report::Report;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// What an instance keeps for itself, as provider.yaml's `defaults.reservedMemory` where it says none.
const RESERVED_MEMORY: u64 = 128 << 20;

#[derive(clap::Args)]
pub struct PlanArgs {
    /// Manifests, or - for the standard input; may be given several times
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    files: MarketFiles,
    /// The namespace of manifests that name none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is bought by, and what there is to buy.
#[derive(clap::Args)]
pub(super) struct MarketFiles {
    /// provider.yaml: region, zones, nodes' capacity, types, prices, cost policy and reserved memory are that provider's; EC2 is not
    /// asked
    #[arg(long, conflicts_with_all = ["catalog", "prices"])]
    config: Option<PathBuf>,
    /// cost-policy.yaml; beside --config in the place of the one that it names
    #[arg(long, required_unless_present = "config")]
    policy: Option<PathBuf>,
    /// Types, zones and on-demand prices [default: catalog-ec2.yaml beside the policy]
    #[arg(long)]
    catalog: Option<PathBuf>,
    /// Spot prices, and on-demand prices in place of the catalog's
    #[arg(long)]
    prices: Option<PathBuf>,
    /// What spot is taken to cost where no price is known, in percent of on demand; without it nothing is bought there
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    assume_spot: Option<u32>,
}

/// What the files say.
pub(super) struct Basis {
    pub policy: Policy,
    pub market: Market,
    /// Each node's capacity; None where no provider.yaml says it.
    limits: Option<Limits>,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
    Yaml,
}

pub fn run(args: &PlanArgs, now: Timestamp) -> ExitCode {
    let basis = match args.files.load() {
        Ok(basis) => basis,
        Err(error) => {
            eprintln!("pilotlight: {}", super::cli::chain(&error));
            return ExitCode::from(2);
        }
    };
    match plan(args, &basis, now) {
        Ok((text, true)) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Ok((text, false)) => {
            say(&text);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pilotlight: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl MarketFiles {
    /// The policy, what can be bought, and how much has room. Says on standard error what the policy names and the catalog lacks.
    pub(super) fn load(&self) -> Result<Basis, ConfigError> {
        let (Loaded { policy, unlisted }, mut market, limits) = match &self.config {
            Some(config) => {
                let (loaded, market, limits) = self.of_a_provider(config)?;
                (loaded, market, Some(limits))
            }
            None => {
                let policy = self.policy.as_deref().expect("clap requires it where there is no --config");
                let (loaded, market) = self.by_themselves(policy)?;
                (loaded, market, None)
            }
        };
        if let Some(percent) = self.assume_spot {
            market.assume_spot(percent);
        }
        for unlisted in unlisted {
            eprintln!("pilotlight: warning: {}", unlisted.left_out());
        }
        Ok(Basis { policy, market, limits })
    }

    /// What that provider buys by before it has asked anybody: in the zones of its nodes.
    fn of_a_provider(&self, config: &Path) -> Result<(Loaded, Market, Limits), ConfigError> {
        // Not necessarily where it runs: what the Pod would say of itself is made up.
        let surroundings = Surroundings::of_some_pod();
        let config = match &self.policy {
            Some(policy) => ProviderConfig::load_with_policy(config, &surroundings, policy)?,
            None => ProviderConfig::load_in(config, &surroundings)?,
        };
        let Buying { policy, mut market } = Arc::unwrap_or_clone(config.buying);
        market.catalog.zones.retain(|zone| config.nodes.iter().any(|node| node.zone == *zone));
        Ok((Loaded { policy, unlisted: config.unlisted }, market, config.limits))
    }

    /// The catalog that stands beside the policy unless another is named.
    fn by_themselves(&self, policy: &Path) -> Result<(Loaded, Market), ConfigError> {
        // What is named comes before what only stands beside it.
        if let Err(source) = std::fs::metadata(policy) {
            return Err(ConfigError::Unreadable { file: policy.to_owned(), source });
        }
        let beside = policy.parent().unwrap_or(Path::new(".")).join("catalog-ec2.yaml");
        let catalog = self.catalog.as_deref().unwrap_or(&beside);
        let market = policy::load_market(catalog, self.prices.as_deref())?;
        let loaded = policy::load_policy(policy, &market.catalog)?;
        Ok((loaded, Market { reserved_memory_bytes: RESERVED_MEMORY, ..market }))
    }
}

/// The plan as text, and whether all of it can be bought.
fn plan(args: &PlanArgs, basis: &Basis, now: Timestamp) -> anyhow::Result<(String, bool)> {
    let Basis { policy, market, limits } = basis;
    let mut manifests = Manifests::default();
    for file in &args.filename {
        manifests::read(file, &args.namespace, &mut manifests)?;
    }
    manifests.settle();
    if manifests.workloads.is_empty() {
        anyhow::bail!("the manifests have nothing that makes Pods");
    }
    let planner = Planner::new(policy, market, now);
    let report = Report::new(&planner, market, policy, manifests, Nodes::of(&market.catalog, *limits));
    let text = match args.output {
        Output::Table => render::table(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&report)?,
    };
    Ok((text, report.totals.waiting == 0 && report.totals.refused == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/provider-config/cost-policy.yaml");

    fn planned(manifest: &str, output: Output) -> (String, bool) {
        planned_by(manifest, output, EXAMPLE.as_ref())
    }

    fn planned_by(manifest: &str, output: Output, policy: &Path) -> (String, bool) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pods.yaml");
        std::fs::write(&file, manifest).unwrap();
        let args = PlanArgs {
            filename: vec![file],
            files: MarketFiles {
                config: None,
                policy: Some(policy.to_owned()),
                catalog: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/provider-config/catalog-ec2.yaml").into()),
                prices: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/integration/policy/prices.yaml").into()),
                assume_spot: None,
            },
            namespace: "default".into(),
            output,
        };
        let basis = args.files.load().unwrap();
        plan(&args, &basis, "2026-11-23T12:00:00Z".parse().unwrap()).unwrap()
    }

    const WEB: &str = "kind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 6\n  template:\n    metadata: {labels: {app: web}}\n    \
                       spec: {containers: [{name: web, image: web, resources: {requests: {cpu: 1, memory: 1Gi}}}]}\n";

    #[test]
    fn a_deployment_is_mixed_and_costs_less_than_on_demand() {
        let (text, bought) = planned(WEB, Output::Json);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(bought);
        let options: Vec<_> =
            report["replicas"].as_array().unwrap().iter().map(|r| r["purchase"].as_str().unwrap()).collect();
        // base 2 + ceil(30 % of 4) on demand.
        assert_eq!(options.iter().filter(|o| **o == "on-demand").count(), 4, "{options:?}");
        assert_eq!(report["totals"]["onDemandHourly"], "0.51");
        // The catalog's other types are a number; each of the class's own has its reason.
        let replica = &report["replicas"][0];
        let not_taken = replica["notTaken"].as_array().unwrap();
        assert!(replica["typesNotAllowed"].as_u64().unwrap() > 100);
        assert!(not_taken.iter().any(|why| why["type"] == "c6i.32xlarge" && why["reason"] == "PriceCapExceeded"));
        assert!(not_taken.iter().all(|why| why["type"] != "t3.nano"), "{not_taken:?}");
    }

    #[test]
    fn what_is_saved_is_measured_by_what_the_class_has_on_demand() {
        let plain = |manifest: &str| {
            let (text, _) = planned(manifest, Output::Json);
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            let replica = &report["replicas"][0];
            [&replica["purchase"], &replica["onDemandType"], &replica["onDemandHourly"]]
                .map(|v| v.as_str().unwrap().to_owned())
        };
        // The catalog has cheaper ones with room for it, of families that the class does not have.
        assert_eq!(plain(WEB), ["on-demand", "c6i.large", "0.085"]);
        // A reserve's class has burstable types alone: by those of the defaults.
        let reserve = "kind: Pod\nmetadata: {name: flame, annotations: {pilotlight.dev/use-class: reserve}}\n\
                       spec: {containers: [{name: web, image: web}]}\n";
        assert_eq!(plain(reserve), ["burstable", "c6i.large", "0.085"]);
    }

    #[test]
    fn the_table_says_what_where_why_and_the_saving() {
        let (text, _) = planned(WEB, Output::Table);
        for part in [
            "Deployment default/web",
            "c6i.large",
            "us-east-1a",
            "/month",
            "saved",
            "next if it has no capacity: ",
            "on demand 2026-07-20, from AWS price list",
            "; spot 2026-",
            "other types: not among the class's instances",
            "more for PriceCapExceeded (-o json has all)",
            "since the class's mix lacks one on demand",
            "not asked, as that had something: spot",
            "Each Pod is bought for in one zone, its node's",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn where_a_pod_may_not_run_nothing_is_bought() {
        let zones = |spec: &str| {
            let manifest =
                format!("kind: Pod\nmetadata: {{name: one}}\nspec: {{containers: [{{name: a, image: b}}], {spec}}}\n");
            let (text, _) = planned(&manifest, Output::Json);
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            report["replicas"][0]["zone"].as_str().map(str::to_owned)
        };
        let affinity = |expression: &str| {
            format!(
                "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: \
                 [{{matchExpressions: [{expression}]}}]}}}}}}"
            )
        };
        let not_in = affinity("{key: topology.kubernetes.io/zone, operator: NotIn, values: [us-east-1a]}");
        assert_eq!(zones("enableServiceLinks: true").as_deref(), Some("us-east-1a"));
        assert_eq!(zones(&not_in).as_deref(), Some("us-east-1b"));
        let named = "nodeSelector: {kubernetes.io/hostname: pilotlight-us-east-1c}";
        assert_eq!(zones(named).as_deref(), Some("us-east-1c"));
        assert_eq!(zones("nodeSelector: {topology.kubernetes.io/zone: moon}"), None);
    }

    fn report(manifest: &str) -> serde_json::Value {
        serde_json::from_str(&planned(manifest, Output::Json).0).unwrap()
    }

    /// Of each replica.
    fn field(report: &serde_json::Value, key: &str) -> Vec<String> {
        let replicas = report["replicas"].as_array().unwrap();
        replicas.iter().map(|replica| replica[key].as_str().unwrap_or("-").to_owned()).collect()
    }

    const BATCH: &str = "kind: Job\nmetadata: {name: sums, namespace: jobs}\nspec:\n  parallelism: 4\n  template:\n    \
                         metadata: {labels: {tier: batch}}\n    \
                         spec: {containers: [{name: sums, image: sums, resources: {requests: {cpu: 1500m, memory: 3Gi}}}]}\n";

    #[test]
    fn each_pod_is_bought_for_in_its_nodes_zone_alone() {
        // Only the first zone has a spot price of three types (minPools).
        let report = report(BATCH);
        assert_eq!(field(&report, "zone"), ["us-east-1a", "us-east-1b", "us-east-1c", "us-east-1a"]);
        assert_eq!(field(&report, "purchase"), ["spot", "on-demand", "on-demand", "spot"]);
        let not_taken = report["replicas"][1]["notTaken"].as_array().unwrap();
        assert!(
            not_taken.iter().all(|not| not["zone"].as_str().is_none_or(|zone| zone == "us-east-1b")),
            "{not_taken:?}"
        );
        assert_eq!(report["replicas"][0]["next"], serde_json::json!(["c6i.large", "c6i.xlarge"]));
    }

    /// The other side of the plan: Pods that are bound to the zone's nodes, as the provider sees and decides them.
    #[test]
    fn what_is_planned_for_a_pod_is_what_the_provider_launches_for_it_on_that_zones_node() {
        use crate::decide::placement::{self, BatchWindow, Demand, Rules};
        use crate::model::{NodeName, PodUid, Purchase};
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let shipped = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let files = MarketFiles {
            config: None,
            policy: Some(EXAMPLE.into()),
            catalog: None,
            prices: Some(shipped("integration/policy/prices.yaml")),
            assume_spot: None,
        };
        let Basis { policy, market, .. } = files.load().unwrap();
        let zones = market.catalog.zones.iter().map(|zone| (NodeName::of_zone(zone), zone.clone())).collect();
        let resources = |text: &str| serde_json::json!({"requests": {"cpu": text, "memory": "3Gi"}});
        let web = WEB.replace("cpu: 1, memory: 1Gi", "cpu: 1500m, memory: 3Gi");
        for (manifest, namespace, labels, owner) in
            [(BATCH, "jobs", ("tier", "batch"), "Job"), (web.as_str(), "default", ("app", "web"), "ReplicaSet")]
        {
            let report = report(manifest);
            let planned =
                field(&report, "zone").into_iter().zip(field(&report, "type")).zip(field(&report, "purchase"));
            let mut planned: Vec<_> = planned.collect();
            let demand = |(number, ((zone, _), _)): (usize, &((String, String), String))| {
                let pod = serde_json::from_value(serde_json::json!({
                    "metadata": {
                        "name": "pod", "namespace": namespace, "uid": format!("{number:08}"),
                        "creationTimestamp": now.to_string(), "labels": {labels.0: labels.1},
                        "ownerReferences": [
                            {"apiVersion": "v1", "kind": owner, "name": "a-1234", "uid": "1", "controller": true}
                        ],
                    },
                    "spec": {
                        "nodeName": format!("pilotlight-{zone}"),
                        "containers": [{"name": "a", "image": "b", "resources": resources("1500m")}],
                    },
                }));
                let intent = crate::kube::intent::pod_intent(&pod.unwrap()).unwrap();
                let wants = crate::reconcile::wants(&zones, &intent);
                Demand {
                    pod: PodUid::new(format!("{number:08}")),
                    zone: zone.clone(),
                    wants,
                    since: now,
                    urgent: false,
                }
            };
            let demands: Vec<Demand> = planned.iter().enumerate().map(demand).collect();
            let rules = Rules {
                policy: &policy,
                market: &market,
                cooling: Default::default(),
                failing: Default::default(),
                room: zones.values().map(|zone| (zone.clone(), 100)).collect(),
                window: BatchWindow::default(),
            };
            let orders = placement::plan(&demands, &[], &[], &rules, now).launch;
            let each = orders.iter().flat_map(|order| {
                let offer = &order.offers[0];
                let one =
                    ((order.zone.clone(), offer.instance_type.clone()), Purchase::as_str(offer.purchase).to_owned());
                (0..order.count).map(move |_| one.clone())
            });
            let mut launched: Vec<_> = each.collect();
            launched.sort();
            planned.sort();
            assert_eq!(planned, launched, "{manifest}");
        }
    }

    #[test]
    fn a_pod_whose_zone_its_class_does_not_have_waits_there() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.yaml");
        std::fs::write(&policy, "defaults: {instances: {allow: [\"c6i.*\"]}, placement: {zones: [us-east-1b]}}\n")
            .unwrap();
        let (text, bought) = planned_by(WEB, Output::Json, &policy);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(!bought);
        assert_eq!(field(&report, "status"), ["waits", "bought", "waits", "waits", "bought", "waits"]);
        assert_eq!(field(&report, "zone")[..3], ["us-east-1a", "us-east-1b", "us-east-1c"]);
        assert_eq!(report["replicas"][0]["reason"], "NoZoneAllowed");
        let selected = WEB
            .replace("spec: {containers", "spec: {nodeSelector: {topology.kubernetes.io/zone: us-east-1b}, containers");
        assert!(planned_by(&selected, Output::Json, &policy).1);
    }

    #[test]
    fn a_pod_that_no_virtual_node_is_for_waits_and_is_told_why() {
        let selector = WEB.replace("spec: {containers", "spec: {nodeSelector: {disktype: ssd}, containers");
        let (text, bought) = planned(&selector, Output::Table);
        assert!(!bought && text.contains("waits: NoNodeMatches: no virtual node has disktype=ssd"), "{text}");
        let apart = "spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                     [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}, containers";
        let report = report(&WEB.replace("spec: {containers", apart));
        assert_eq!(field(&report, "status"), ["bought", "bought", "bought", "waits", "waits", "waits"]);
        assert_eq!(field(&report, "reason")[3], "NoNodeMatches");
    }

    #[test]
    fn what_does_not_tolerate_the_nodes_taint_is_named_and_planned_for_all_the_same() {
        let (text, bought) = planned(WEB, Output::Table);
        let said = "until they tolerate the taint virtual-kubelet.io/provider: Deployment default/web";
        assert!(bought && text.contains(said), "{text}");
        for (toleration, tolerated) in [
            ("{operator: Exists}", true),
            ("{key: virtual-kubelet.io/provider, operator: Exists}", true),
            ("{key: virtual-kubelet.io/provider, value: pilotlight, effect: NoSchedule}", true),
            ("{key: virtual-kubelet.io/provider, value: other}", false),
            ("{key: virtual-kubelet.io/provider, operator: Exists, effect: NoExecute}", false),
        ] {
            let manifest =
                WEB.replace("spec: {containers", &format!("spec: {{tolerations: [{toleration}], containers"));
            assert_eq!(report(&manifest)["untolerated"].as_array().unwrap().is_empty(), tolerated, "{toleration}");
        }
    }

    #[test]
    fn a_pod_of_a_cluster_is_of_its_controllers_class_and_mix() {
        let pod = |number: u32, kind: &str| {
            format!(
                "- kind: Pod\n  metadata: {{name: web-{number}, namespace: shop, labels: {{app: web}}, \
                 ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: web-77, uid: a, controller: true}}]}}\n  \
                 spec: {{nodeName: pilotlight-us-east-1a, containers: [{{name: a, image: b}}]}}\n"
            )
        };
        let pods = |kind: &str| "kind: List\nitems:\n".to_owned() + &(0..4).map(|n| pod(n, kind)).collect::<String>();
        let of_a_set = report(&pods("ReplicaSet"));
        assert_eq!(field(&of_a_set, "class"), ["web"; 4]);
        assert_eq!(field(&of_a_set, "zone"), ["us-east-1a"; 4]);
        assert_eq!(field(&of_a_set, "purchase"), ["on-demand", "on-demand", "on-demand", "spot"]);
        // A machine of the cluster's says nothing; one whose author named a machine is not for us.
        let elsewhere = pods("ReplicaSet").replace("nodeName: pilotlight-us-east-1a", "nodeName: ip-10-0-0-1");
        assert_eq!(field(&report(&elsewhere), "status"), ["waits"; 4]);
        let of_a_cluster = elsewhere.replace("namespace: shop,", "namespace: shop, uid: a-1,");
        assert_eq!(field(&report(&of_a_cluster), "status"), ["bought"; 4]);
        let of_a_daemon_set = report(&pods("DaemonSet"));
        assert_eq!(field(&of_a_daemon_set, "reason"), ["UnsupportedField"; 4]);
    }

    #[test]
    fn what_a_deployment_makes_is_counted_once_and_named() {
        let owner = |kind: &str, name: &str| {
            format!("ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {name}, uid: a, controller: true}}]")
        };
        let set = WEB
            .replace("kind: Deployment", "kind: ReplicaSet")
            .replace("{name: web}", &format!("{{name: web-1, {}}}", owner("Deployment", "web")));
        let pod = format!(
            "kind: Pod\nmetadata: {{name: web-1-a, {}}}\nspec: {{containers: [{{name: a, image: b}}]}}\n",
            owner("ReplicaSet", "web-1")
        );
        let all = format!("{pod}---\n{set}---\n{WEB}");
        let (text, _) = planned(&all, Output::Table);
        assert!(text.contains("6 Pods bought, 0 wait, 0 refused"), "{text}");
        let said = "Counted with what they are made by: Pod default/web-1-a, ReplicaSet default/web-1";
        assert!(text.contains(said), "{text}");
        assert_eq!(report(&all)["madeByOthers"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_daemon_set_is_refused_and_the_rest_planned() {
        let daemons = WEB.replace("kind: Deployment", "kind: DaemonSet").replace("  replicas: 6\n", "");
        let (text, bought) = planned(&format!("{daemons}---\n{WEB}"), Output::Table);
        assert!(!bought && text.contains("6 Pods bought, 0 wait, 1 refused"), "{text}");
        let said = "refused: UnsupportedField: metadata.ownerReferences[web]: DaemonSet is not supported";
        assert!(text.contains(said), "{text}");
    }

    #[test]
    fn where_all_types_are_burstable_nothing_is_saved_by_buying_one() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.yaml");
        let burstable = "defaults: {instances: {allow: [t3.micro], burstable: true}, purchase: [{option: burstable}], \
                         credits: {mode: unlimited}}\n";
        std::fs::write(&policy, burstable).unwrap();
        let (text, _) = planned_by(&WEB.replace("memory: 1Gi", "memory: 512Mi"), Output::Json, &policy);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let replica = &report["replicas"][0];
        assert_ne!(replica["surplusHourly"], "0", "{replica}");
        assert_eq!(replica["onDemandHourly"], replica["hourly"], "{replica}");
        assert_eq!(report["totals"]["savedPercent"], 0);
    }

    #[test]
    fn with_a_providers_file_it_is_what_that_provider_would_buy() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config");
        let dir = tempfile::tempdir().unwrap();
        let provider = std::fs::read_to_string(shipped.join("provider-ec2.yaml")).unwrap();
        let with_memory = provider.replacen("reservedMemory: 128Mi", "reservedMemory: 2Gi", 1);
        assert_ne!(with_memory, provider);
        let provider = with_memory.replacen("# costPolicy:", "costPolicy:", 1);
        let file = dir.path().join("provider.yaml");
        std::fs::write(&file, provider).unwrap();
        std::fs::copy(shipped.join("catalog-ec2.yaml"), dir.path().join("catalog-ec2.yaml")).unwrap();
        let own = "defaults: {instances: {allow: [\"c6*.large\", \"c6i.xlarge\", \"c7g.*\"]}}\n";
        std::fs::write(dir.path().join("cost-policy.yaml"), own).unwrap();
        let other = dir.path().join("other.yaml");
        std::fs::write(&other, "defaults: {instances: {allow: [\"m6i.*\"]}}\n").unwrap();
        let manifest = dir.path().join("pods.yaml");
        std::fs::write(&manifest, WEB.replace("memory: 1Gi", "memory: 3Gi")).unwrap();
        let planned = |policy: Option<&Path>| {
            let files = MarketFiles {
                config: Some(file.clone()),
                policy: policy.map(Path::to_owned),
                catalog: None,
                prices: None,
                assume_spot: None,
            };
            let basis = files.load().unwrap();
            // A node for each of these, and none in the third zone of the catalog; no image for arm64.
            assert_eq!(basis.market.catalog.zones, ["us-east-1a", "us-east-1b"]);
            let args = PlanArgs {
                filename: vec![manifest.clone()],
                files,
                namespace: "default".to_owned(),
                output: Output::Json,
            };
            let (text, bought) = plan(&args, &basis, Timestamp::UNIX_EPOCH).unwrap();
            assert!(bought, "{text}");
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            report["replicas"][0]["type"].as_str().unwrap().to_owned()
        };
        // 4 GiB without the reserved memory are too few for 3 GiB.
        assert_eq!(planned(None), "c6i.xlarge");
        assert_eq!(planned(Some(&other)), "m6i.large");
    }

    #[test]
    fn yaml_has_the_same_as_json() {
        let (yaml, _) = planned(WEB, Output::Yaml);
        let (json, _) = planned(WEB, Output::Json);
        let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(yaml, json);
    }

    #[test]
    fn an_unsupported_field_and_a_pod_too_large_are_said_and_fail_the_plan() {
        let device =
            WEB.replace("name: web, image: web", "name: web, image: web, volumeDevices: [{name: d, devicePath: /d}]");
        let (text, bought) = planned(&device, Output::Table);
        assert!(!bought && text.contains("spec.containers[web].volumeDevices[d]"), "{text}");
        let (text, bought) = planned(&WEB.replace("1Gi", "100Gi"), Output::Table);
        assert!(!bought && text.contains("too small") && text.contains("waits"), "{text}");
    }
}
