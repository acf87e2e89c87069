//! TokenReview and SubjectAccessReview: who calls a node's kubelet API, and whether they may.
//! The node itself asks (role `system:node` grants both), as a kubelet does.

use super::why;
use crate::{
    kubelet_api::{Attributes, ReviewError, Reviews, User},
    model::NodeName,
};
use async_trait::async_trait;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio::time::timeout;

/// A caller waits; the API server answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct ApiReviews {
    client: Client,
    node: NodeName,
}

impl ApiReviews {
    /// `client` is the node's own.
    pub fn new(client: Client, node: NodeName) -> Self {
        Self { client, node }
    }

    async fn ask<K>(&self, review: &'static str, question: K) -> Result<K, ReviewError>
    where
        K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let params = PostParams::default();
        match timeout(TIMEOUT, api.create(&params, &question)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ReviewError { review, message: why(&error) }),
            Err(_) => Err(ReviewError { review, message: "no answer in time".to_owned() }),
        }
    }
}

#[async_trait]
impl Reviews for ApiReviews {
    async fn token(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let answer = self.ask("TokenReview", TokenReview { spec, ..TokenReview::default() }).await?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        Ok(status.user.map(|UserInfo { username, uid, groups, extra }| User {
            name: username.unwrap_or_default(),
            uid,
            groups: groups.unwrap_or_default(),
            extra: extra.unwrap_or_default(),
        }))
    }

    async fn access(&self, user: &User, attributes: &Attributes) -> Result<bool, ReviewError> {
        let resource = ResourceAttributes {
            verb: Some(attributes.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(attributes.subresource.to_owned()),
            name: Some(self.node.as_str().to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(resource),
            non_resource_attributes: None,
        };
        let answer = self.ask("SubjectAccessReview", SubjectAccessReview { spec, ..Default::default() }).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
