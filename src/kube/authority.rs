//! The agents' certificate authority in a Secret, for replicas that must have the same one.
//!
//! Made once and never changed (`immutable`): agents pin it. When two make it at a time, the API server
//! lets one of them; both use that one.

use super::KubeError;
use crate::config::SecretRef;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::collections::BTreeMap;

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Api(#[from] KubeError),
    #[error("Secret {namespace}/{name} has no {key}: it was not made by Pilotlight; delete it or name another one")]
    Foreign { namespace: String, name: String, key: &'static str },
}

/// PEM. Has no Debug: it is a secret.
pub struct AuthorityPem {
    pub key: String,
    pub certificate: String,
}

/// The authority in the Secret; `new` is put there if there is no Secret yet.
pub async fn keep_once(client: Client, secret: &SecretRef, new: AuthorityPem) -> Result<AuthorityPem, AuthorityError> {
    let SecretRef { namespace, name } = secret;
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let failed = |operation| move |source: kube::Error| KubeError::new(operation, format!("Secret {name}"), &source);
    let found = match api.get_opt(name).await.map_err(failed("return"))? {
        Some(found) => found,
        None => match api.create(&PostParams::default(), &object(name, new)).await {
            Ok(made) => {
                tracing::info!(namespace, name, "made the agents' authority");
                made
            }
            Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await.map_err(failed("return"))?,
            Err(source) => return Err(failed("create")(source).into()),
        },
    };
    let mut data = found.data.unwrap_or_default();
    let mut take = |key: &'static str| {
        let text = data.remove(key).and_then(|ByteString(bytes)| String::from_utf8(bytes).ok());
        text.ok_or_else(|| AuthorityError::Foreign { namespace: namespace.clone(), name: name.clone(), key })
    };
    Ok(AuthorityPem { key: take(KEY)?, certificate: take(CERTIFICATE)? })
}

fn object(name: &str, pem: AuthorityPem) -> Secret {
    let data = [(KEY, pem.key), (CERTIFICATE, pem.certificate)];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), "pilotlight".to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        immutable: Some(true),
        data: Some(data.into_iter().map(|(k, text)| (k.to_owned(), ByteString(text.into_bytes()))).collect()),
        ..Secret::default()
    }
}
