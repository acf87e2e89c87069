//! `pilotlight status`: Pods, what backs each, and what it costs.
//!
//! Reads the Pods' own annotations through the caller's kubeconfig: it needs no access to the provider.

use crate::kube::identity::provider_config;
use crate::model::HourlyPrice;
use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct StatusArgs {
    /// Default: KUBECONFIG, ~/.kube/config or in-cluster
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
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
    zone: String,
    hourly_price: HourlyPrice,
    seconds: u64,
    /// Micro-dollars since the instance was bound.
    cost_micros: u64,
}

pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let config = provider_config(args.kubeconfig.as_deref()).await?;
    let client = Client::try_from(config).context("cannot connect to the API server")?;
    let pods: Api<Pod> = Api::all(client);
    let now = Timestamp::now();
    let list = pods.list(&ListParams::default()).await.context("cannot list pods")?;
    let rows: Vec<Row> = list.iter().filter_map(|pod| row(pod, now)).collect();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Output::Table => print_table(&rows),
    }
    Ok(())
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
        zone: get("zone")?,
        hourly_price,
        seconds,
        cost_micros: hourly_price.cost_of_seconds(seconds),
    })
}

fn print_table(rows: &[Row]) {
    if rows.is_empty() {
        println!("No Pods are backed by Pilotlight.");
        return;
    }
    let mut lines = vec![
        ["NAMESPACE", "POD", "PHASE", "INSTANCE", "TYPE", "PURCHASE", "ZONE", "$/HOUR", "FOR", "COST"]
            .map(str::to_owned),
    ];
    lines.extend(rows.iter().map(|row| {
        [
            row.namespace.clone(),
            row.pod.clone(),
            row.phase.clone(),
            row.instance.clone(),
            row.instance_type.clone(),
            row.purchase.clone(),
            row.zone.clone(),
            row.hourly_price.to_string(),
            format!("{}s", row.seconds),
            format!("${}", HourlyPrice(row.cost_micros)),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..10).map(width).collect();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    let live: u64 = rows.iter().filter(|r| r.instance != "(released)").map(|r| r.hourly_price.0).sum();
    println!("\n{} instances, ${}/hour", rows.iter().filter(|r| r.instance != "(released)").count(), HourlyPrice(live));
}
