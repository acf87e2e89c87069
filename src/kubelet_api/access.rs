//! Who calls, and whether they may: pkg/kubelet/server/auth.go and server.go (InstallAuthFilter).

use super::{
    attributes::{Attributes, attributes},
    cache::Cache,
    tls::ClientVerifier,
};
use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode, header};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use x509_parser::parse_x509_certificate;

/// kubelet's defaults: authentication.webhook.cacheTTL, authorization.webhook.cache*TTL.
const TOKEN_LIFE: Duration = Duration::from_secs(120);
const ALLOW_LIFE: Duration = Duration::from_secs(300);
const DENY_LIFE: Duration = Duration::from_secs(30);
/// Entries, at some hundred bytes each. Callers are few; a flood of false tokens must not fill memory.
const CACHE_ENTRIES: usize = 1024;
/// A token is at most some kilobytes; the API server need not be asked about more.
const LONGEST_TOKEN: usize = 16 * 1024;
const AUTHENTICATED: &str = "system:authenticated";

/// Someone who was recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The API server did not answer a review.
#[derive(Debug, thiserror::Error)]
#[error("the {review} was not answered: {message}")]
pub struct ReviewError {
    pub review: &'static str,
    pub message: String,
}

/// Asks the API server about callers.
#[async_trait]
pub trait Reviews: Send + Sync {
    /// TokenReview. None: not a good token.
    async fn token(&self, token: &str) -> Result<Option<User>, ReviewError>;
    /// SubjectAccessReview on this node.
    async fn access(&self, user: &User, attributes: &Attributes) -> Result<bool, ReviewError>;
}

/// A request that goes no further.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub status: StatusCode,
    pub message: String,
}

pub(super) struct Access {
    clients: Arc<ClientVerifier>,
    reviews: Arc<dyn Reviews>,
    /// By the token's digest: no token is kept.
    tokens: Cache<[u8; 32], Option<User>>,
    answers: Cache<(User, Attributes), bool>,
}

impl Access {
    pub fn new(clients: Arc<ClientVerifier>, reviews: Arc<dyn Reviews>) -> Self {
        Self { clients, reviews, tokens: Cache::new(CACHE_ENTRIES), answers: Cache::new(CACHE_ENTRIES) }
    }

    /// Lets a request in, or says how it is refused.
    pub async fn check(
        &self,
        certificates: &[CertificateDer<'static>],
        headers: &HeaderMap,
        method: &Method,
        path: &str,
    ) -> Result<User, Denied> {
        let user = self
            .authenticate(certificates, headers)
            .await
            .ok_or_else(|| Denied { status: StatusCode::UNAUTHORIZED, message: "Unauthorized".to_owned() })?;
        self.authorize(&user, method, path).await?;
        Ok(user)
    }

    async fn authenticate(&self, certificates: &[CertificateDer<'static>], headers: &HeaderMap) -> Option<User> {
        if let Some(user) = self.clients.verify(certificates).and_then(certificate_user) {
            return Some(user);
        }
        let token = bearer_token(headers)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&digest, Instant::now()) {
            return known;
        }
        match self.reviews.token(token).await {
            Ok(user) => {
                let user = user.map(authenticated);
                self.tokens.put(digest, user.clone(), Instant::now(), TOKEN_LIFE);
                user
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a caller of the kubelet API can't be authenticated"
                );
                None
            }
        }
    }

    async fn authorize(&self, user: &User, method: &Method, path: &str) -> Result<(), Denied> {
        let questions = attributes(method, path);
        for question in &questions {
            let key = (user.clone(), question.clone());
            let allowed = match self.answers.get(&key, Instant::now()) {
                Some(known) => known,
                None => {
                    let allowed = self.reviews.access(user, question).await.map_err(|error| {
                        tracing::error!(error = &error as &dyn std::error::Error, "a caller of the kubelet API can't be authorized");
                        let Attributes { verb, subresource } = question;
                        let name = &user.name;
                        Denied {
                            status: StatusCode::INTERNAL_SERVER_ERROR,
                            message: format!("Authorization error (user={name}, verb={verb}, resource=nodes, subresource={subresource})"),
                        }
                    })?;
                    let life = if allowed { ALLOW_LIFE } else { DENY_LIFE };
                    self.answers.put(key, allowed, Instant::now(), life);
                    allowed
                }
            };
            if allowed {
                return Ok(());
            }
        }
        let asked: Vec<&str> = questions.iter().map(|question| question.subresource).collect();
        let verb = questions.first().map_or("", |question| question.verb);
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            user.name,
            asked.join(" ")
        );
        Err(Denied { status: StatusCode::FORBIDDEN, message })
    }
}

/// x509 request header authentication: common name and organizations
/// (k8s.io/apiserver/pkg/authentication/request/x509, CommonNameUserConversion).
fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    Some(authenticated(User { name, groups, ..User::default() }))
}

fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// k8s.io/apiserver/pkg/authentication/request/bearertoken: the scheme in any case, one token.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let mut parts = value.splitn(3, ' ');
    let (scheme, token) = (parts.next()?, parts.next()?);
    let good = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST_TOKEN;
    good.then_some(token)
}
