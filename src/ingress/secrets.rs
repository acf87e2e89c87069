//! The Secrets that Ingresses name for TLS: each is watched by its name, from when the first names it until the
//! last does no more. No other Secret is asked for.

use super::certificate::certificate;
use super::world::Certificate;
use crate::model::ObjectName;
use futures::{StreamExt, stream::BoxStream, stream::SelectAll};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher::watch_object};
use kube::{Api, Client};
use rustls::crypto::CryptoProvider;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Secrets {
    client: Client,
    crypto: Arc<CryptoProvider>,
    changes: SelectAll<BoxStream<'static, (ObjectName, Certificate)>>,
    /// Dropping one ends its watch.
    watches: BTreeMap<ObjectName, DropGuard>,
}

impl Secrets {
    pub fn new(client: Client, crypto: Arc<CryptoProvider>) -> Self {
        Self { client, crypto, changes: SelectAll::new(), watches: BTreeMap::new() }
    }

    /// Watches these and no others.
    pub fn watch(&mut self, wanted: &BTreeSet<ObjectName>) {
        self.watches.retain(|name, _| wanted.contains(name));
        for name in wanted {
            if !self.watches.contains_key(name) {
                let end = CancellationToken::new();
                self.changes.push(self.changes_of(name, end.clone()));
                self.watches.insert(name.clone(), end.drop_guard());
            }
        }
    }

    fn changes_of(&self, name: &ObjectName, end: CancellationToken) -> BoxStream<'static, (ObjectName, Certificate)> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &name.namespace);
        let (name, crypto) = (name.clone(), Arc::clone(&self.crypto));
        watch_object(api, &name.name)
            .default_backoff()
            .filter_map(move |secret| {
                let change = match secret {
                    Ok(Some(secret)) => {
                        let data = secret.data.unwrap_or_default();
                        let get = |key: &str| data.get(key).map(|value| value.0.as_slice());
                        Some((name.clone(), certificate(get, &crypto)))
                    }
                    Ok(None) => Some((name.clone(), Certificate::Missing)),
                    Err(error) => {
                        let (namespace, secret, why) = (&name.namespace, &name.name, crate::kube::why(&error));
                        tracing::warn!(namespace, secret, why, "a Secret's watch broke; it is tried again");
                        None
                    }
                };
                std::future::ready(change)
            })
            .take_until(end.cancelled_owned())
            .boxed()
    }

    /// A Secret that is watched, as it is now. Dropping the future loses nothing.
    pub async fn next(&mut self) -> (ObjectName, Certificate) {
        while let Some((name, found)) = self.changes.next().await {
            // One that nobody names any more may have had its last word under way.
            if self.watches.contains_key(&name) {
                return (name, found);
            }
        }
        std::future::pending().await
    }
}
