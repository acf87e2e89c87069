//! Whose client certificates the kubelet API trusts: the cluster's own answer.
//!
//! kube-apiserver publishes its client CA for servers that extend it, in the ConfigMap
//! kube-system/extension-apiserver-authentication (key client-ca-file); the Role of the same name with
//! `-reader` lets one read it. A kubelet gets the same file from its installer.

use super::KubeError;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

const NAME: &str = "extension-apiserver-authentication";

/// PEM; None if the cluster has no client CA: then only tokens name callers.
pub async fn client_ca(client: Client) -> Result<Option<String>, KubeError> {
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    let map = maps
        .get(NAME)
        .await
        .map_err(|error| KubeError::new("return", format!("the ConfigMap kube-system/{NAME}"), &error))?;
    Ok(map.data.unwrap_or_default().remove("client-ca-file"))
}
