//! `pilotlight status`: Pods, what backs each, what it costs; and what the provider counts.
//!
//! Through the caller's kubeconfig alone; it needs no access to the provider.
//!
//! ```text
//!  Pods' annotations ──> [pods] ──────────┐
//!  a node's /metrics, by the API server's ├─> View ─> [table] or JSON
//!  proxy ─> [samples] ─> [figures] ───────┤
//!  the nodes' condition: prices' age ─────┘
//! ```
//!
//! Who may not read nodes or ask them (`nodes/proxy`) sees the Pods, and why not more.

mod figures;
mod pods;
mod samples;
mod table;

use super::say::say;
use crate::kube::{
    client::client,
    identity::provider_config,
    node::{PRICES, PROVIDER_ID_SCHEME},
};
use anyhow::Context;
use figures::Figures;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use pods::Row;
use serde::Serialize;
use std::{io::IsTerminal, path::PathBuf, time::Duration};

/// How often `--watch` looks.
const AGAIN: Duration = Duration::from_secs(2);
/// A node whose provider is gone is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// What is shown.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    pods: Vec<Row>,
    /// Since the provider's start; none where it can't be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Figures>,
    /// Why it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_shown: Option<String>,
    /// Of when the prices are that new instances are bought by.
    #[serde(skip_serializing_if = "Option::is_none")]
    prices: Option<String>,
}

pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let config = provider_config(args.kubeconfig.as_deref()).await?;
    let client = client(config).context("cannot connect to the API server")?;
    loop {
        let text = match (look(&client, Timestamp::now()).await, args.output) {
            (Ok(view), Output::Json) => serde_json::to_string_pretty(&view)? + "\n",
            (Ok(view), Output::Table) => table::table(&view),
            // An API server that is away for a moment does not end a watch.
            (Err(error), _) if args.watch => format!("{error:#}\n"),
            (Err(error), _) => return Err(error),
        };
        if !args.watch {
            say(&text);
            return Ok(());
        }
        // ECMA-48: the cursor home, and what is below it erased.
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
        if !say(&format!("{clear}{text}")) {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn look(client: &Client, now: Timestamp) -> anyhow::Result<View> {
    let pods: Api<Pod> = Api::all(client.clone());
    let list = pods.list(&ListParams::default()).await.context("cannot list pods")?;
    let mut view = View { pods: list.iter().filter_map(|pod| pods::row(pod, now)).collect(), ..View::default() };
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.list(&ListParams::default().labels("type=virtual-kubelet")).await {
        Ok(mut list) => {
            // Other virtual nodes serve metrics too.
            list.items.retain(is_ours);
            view.prices = list.iter().find_map(prices);
            match ask(client, &list.items).await {
                Ok(figures) => view.provider = Some(figures),
                Err(why) => view.not_shown = Some(why),
            }
        }
        Err(error) => view.not_shown = Some(error.to_string()),
    }
    Ok(view)
}

fn is_ours(node: &Node) -> bool {
    let id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
    id.is_some_and(|id| id.starts_with(PROVIDER_ID_SCHEME))
}

fn prices(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == PRICES)?.message.clone()
}

/// One node's answer is all nodes': they are of one process.
async fn ask(client: &Client, nodes: &[Node]) -> Result<Figures, String> {
    let mut why = "there is no node of a provider".to_owned();
    for node in nodes {
        let path = format!("/api/v1/nodes/{}/proxy/metrics", node.name_any());
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        why = match tokio::time::timeout(PATIENCE, client.request_text(request)).await {
            Ok(Ok(text)) => match samples::parse(&text).map(|samples| Figures::of(&samples)) {
                Ok(figures) => return Ok(figures),
                Err(error) => format!("{}: its metrics cannot be read: {error}", node.name_any()),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{} does not answer", node.name_any()),
        };
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_virtual_node_is_not_asked() {
        let node = |id: Option<&str>| Node {
            spec: Some(k8s_openapi::api::core::v1::NodeSpec {
                provider_id: id.map(str::to_owned),
                ..Default::default()
            }),
            ..Node::default()
        };
        assert!(is_ours(&node(Some("pilotlight://prod/us-east-1a"))));
        assert!(!is_ours(&node(Some("azure:///vk/aci"))) && !is_ours(&node(None)) && !is_ours(&Node::default()));
    }
}
