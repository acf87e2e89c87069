//! `pilotlight status`: Pods, what backs each, and what it costs.
//!
//! Reads the Pods' own annotations, and the nodes' condition that tells the prices' age, through the caller's kubeconfig: it
//! needs no access to the provider.

use crate::kube::{client::client, identity::provider_config, node::PRICES};
use crate::model::HourlyPrice;
use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

/// How often `--watch` looks.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct StatusArgs {
    /// Default: KUBECONFIG, ~/.kube/config or in-cluster
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Show it anew every two seconds until interrupted
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    pod: String,
    phase: String,
    instance: String,
    instance_type: String,
    purchase: String,
    class: String,
    zone: String,
    hourly_price: HourlyPrice,
    seconds: u64,
    /// Micro-dollars since the instance was bound.
    cost_micros: u64,
}

pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let config = provider_config(args.kubeconfig.as_deref()).await?;
    let client = client(config).context("cannot connect to the API server")?;
    let pods: Api<Pod> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client);
    loop {
        let now = Timestamp::now();
        let list = pods.list(&ListParams::default()).await.context("cannot list pods")?;
        let rows: Vec<Row> = list.iter().filter_map(|pod| row(pod, now)).collect();
        let text = match args.output {
            Output::Json => serde_json::to_string_pretty(&rows)? + "\n",
            Output::Table => table(&rows) + &totals(&rows) + &prices(&nodes).await,
        };
        if !args.watch {
            print!("{text}");
            return Ok(());
        }
        // ECMA-48: the cursor home, and what is below it erased.
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
        print!("{clear}{text}");
        std::io::stdout().flush().context("cannot write")?;
        tokio::time::sleep(AGAIN).await;
    }
}

/// Of when the prices are that new instances are bought by. Nothing for who may not read nodes.
async fn prices(nodes: &Api<Node>) -> String {
    let ours = nodes.list(&ListParams::default().labels("type=virtual-kubelet")).await.map(|list| list.items);
    let said = ours.unwrap_or_default().into_iter().filter_map(|node| {
        let conditions = node.status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == PRICES)?.message
    });
    said.take(1).map(|message| format!("\nPrices: {message}\n")).collect()
}

fn row(pod: &Pod, now: Timestamp) -> Option<Row> {
    let get = |key: &str| pod.annotations().get(&format!("pilotlight.dev/{key}")).cloned();
    let status = pod.status.as_ref()?;
    let bound = status.conditions.iter().flatten().find(|c| c.type_ == crate::decide::status::INSTANCE_READY)?;
    let backed = bound.status == "True";
    let since = bound.last_transition_time.as_ref().map_or(now, |t| t.0);
    let seconds = u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
    let seconds = if backed { seconds } else { 0 };
    let hourly_price: HourlyPrice = get("hourly-price")?.parse().ok()?;
    Some(Row {
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
        phase: status.phase.clone().unwrap_or_default(),
        instance: if backed { get("instance-id")? } else { "(released)".to_owned() },
        instance_type: get("instance-type")?,
        purchase: get("purchase")?,
        class: get("class").unwrap_or_default(),
        zone: get("zone")?,
        hourly_price,
        seconds,
        cost_micros: hourly_price.cost_of_seconds(seconds),
    })
}

impl Row {
    fn lives(&self) -> bool {
        self.instance != "(released)"
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No Pods are backed by Pilotlight.\n".to_owned();
    }
    let heads = ["NAMESPACE", "POD", "PHASE", "CLASS", "INSTANCE", "TYPE", "PURCHASE", "ZONE", "$/HOUR", "FOR", "COST"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.namespace.clone(),
            row.pod.clone(),
            row.phase.clone(),
            row.class.clone(),
            row.instance.clone(),
            row.instance_type.clone(),
            row.purchase.clone(),
            row.zone.clone(),
            row.hourly_price.to_string(),
            format!("{}s", row.seconds),
            format!("${}", HourlyPrice(row.cost_micros)),
        ]
    }));
    columns(&lines)
}

/// By namespace and class: instances, what they cost an hour and have cost.
fn totals(rows: &[Row]) -> String {
    let mut payers: BTreeMap<(&str, &str), (usize, u64, u64)> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.lives()) {
        let (count, hourly, cost) = payers.entry((&row.namespace, &row.class)).or_default();
        *count += 1;
        *hourly += row.hourly_price.0;
        *cost += row.cost_micros;
    }
    if payers.is_empty() {
        return String::new();
    }
    let line = |namespace: &str, class: &str, (count, hourly, cost): (usize, u64, u64)| {
        let money = |micros| format!("${}", HourlyPrice(micros));
        vec![namespace.to_owned(), class.to_owned(), count.to_string(), money(hourly), money(cost)]
    };
    let sum = payers.values().fold((0, 0, 0), |(a, b, c), (count, hourly, cost)| (a + count, b + hourly, c + cost));
    let mut lines = vec![["NAMESPACE", "CLASS", "INSTANCES", "$/HOUR", "COST"].map(str::to_owned).to_vec()];
    lines.extend(payers.iter().map(|((namespace, class), figures)| line(namespace, class, *figures)));
    lines.push(line("(all)", "", sum));
    format!("\n{}", columns(&lines))
}

fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
