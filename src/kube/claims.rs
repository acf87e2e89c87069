//! The claims of instances in a ConfigMap, for replicas that must agree: a line for each, instance id -> key.
//!
//! Its version is the object's resourceVersion: of two that write over the same, the API server lets one.
//! A ConfigMap holds 1 MiB, which is some 12,000 instances at a time; the ledger keeps below it.

use super::why;
use crate::claims::{ClaimStore, Claims, Replaced, Stored, Version};
use crate::config::SecretRef;
use crate::model::InstanceId;
use crate::ports::LedgerError;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;

/// A registration waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct ConfigMapStore {
    api: Api<ConfigMap>,
    name: String,
}

impl ConfigMapStore {
    pub fn new(client: Client, object: &SecretRef) -> Self {
        Self { api: Api::namespaced(client, &object.namespace), name: object.name.clone() }
    }

    fn failed(&self, operation: &'static str, message: &str) -> LedgerError {
        LedgerError { operation, message: format!("ConfigMap {}: {message}", self.name) }
    }

    async fn in_time<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Result<T, kube::Error>, LedgerError> {
        timeout(TIMEOUT, call).await.map_err(|_| self.failed(operation, "the API server did not answer in time"))
    }
}

#[async_trait]
impl ClaimStore for ConfigMapStore {
    async fn load(&self) -> Result<Stored, LedgerError> {
        let operation = "read";
        let found = self.in_time(operation, self.api.get_opt(&self.name)).await?;
        let Some(found) = found.map_err(|error| self.failed(operation, &why(&error)))? else {
            return Ok(Stored::default());
        };
        let mut claims = Claims::new();
        for (id, key) in found.data.unwrap_or_default() {
            let key = key.parse().map_err(|error| self.failed(operation, &format!("{id}: {error}")))?;
            claims.insert(InstanceId::new(id), key);
        }
        Ok(Stored { claims, version: found.metadata.resource_version })
    }

    async fn replace(&self, claims: &Claims, version: &Version) -> Result<Replaced, LedgerError> {
        let operation = "written";
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), "pilotlight".to_owned())])),
                resource_version: version.clone(),
                ..ObjectMeta::default()
            },
            data: Some(claims.iter().map(|(id, key)| (id.to_string(), key.to_string())).collect()),
            ..ConfigMap::default()
        };
        let params = PostParams::default();
        let written = match version {
            Some(_) => self.in_time(operation, self.api.replace(&self.name, &params, &object)).await?,
            None => self.in_time(operation, self.api.create(&params, &object)).await?,
        };
        match written {
            Ok(written) => Ok(Replaced::Now(written.metadata.resource_version)),
            // Changed, made or removed by somebody else meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 || (version.is_some() && status.code == 404) => {
                Ok(Replaced::Conflict)
            }
            Err(error) => Err(self.failed(operation, &why(&error))),
        }
    }
}
