//! The nodes' certificates: had before anything else runs, and the end of the process when one is due.

use crate::config::{NodeClient, NodeConfig, ProviderConfig};
use crate::kube::identity::{self, Identity};
use jiff::Timestamp;
use kube::Client;
use std::{path::Path, time::Duration};
use tokio_util::sync::CancellationToken;

/// The node's client and serving certificates, tried until the API server grants them.
pub(super) async fn node_identity(
    config: &ProviderConfig,
    node: &NodeConfig,
    kube_config: &kube::Config,
    provider: &Client,
    pki: &Path,
) -> anyhow::Result<(Client, Identity, Timestamp)> {
    let mut backoff = crate::retry::Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let made = async {
            let (client, own) = match config.node_identity.client {
                NodeClient::ServiceAccount => (provider.clone(), None),
                NodeClient::Certificate => {
                    let own = identity::client_identity(provider, pki, &node.name).await?;
                    let client = identity::node_client(kube_config, &own)?;
                    if identity::is_stranger(&client, &node.name).await {
                        // Of another cluster, or of one that was made anew under the same address.
                        identity::forget(pki, &node.name);
                        return Err(identity::IdentityError::Stranger(node.name.to_string()));
                    }
                    (client, Some(own))
                }
            };
            let by = &config.node_identity.serving;
            let serving = identity::serving_identity(&client, provider, pki, &node.name, config.address, by).await?;
            let renew = own.iter().chain([&serving]).filter_map(identity::renew_at).min();
            Ok::<_, identity::IdentityError>((client, serving, renew.unwrap_or(Timestamp::MAX)))
        };
        match made.await {
            Ok(made) => return Ok(made),
            Err(error @ identity::IdentityError::Save { .. }) => anyhow::bail!(anyhow::Error::from(error)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(node = %node.name, error, "the node has no identity yet; trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

/// Ends when a certificate is due: the process is started again and gets new ones. Adoption makes that
/// as harmless as any restart.
pub(super) async fn until_renewal(renewals: Vec<Timestamp>, cancel: CancellationToken) {
    let Some(due) = renewals.into_iter().min() else {
        return cancel.cancelled().await;
    };
    loop {
        let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        if left.is_zero() {
            tracing::info!("a node's certificate is due for renewal; the provider ends to be started again");
            return;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            // A machine that slept wakes with a later clock: look again every hour.
            () = tokio::time::sleep(left.min(Duration::from_secs(3600))) => {}
        }
    }
}
