//! EC2's API as this backend speaks it: the one place that knows the SDK's types.
//!
//! Every call waits for EC2's limits first ([`super::limits`]) and answers a [`Refusal`] where EC2 did not do
//! what was asked. The SDK retries nothing: what may be tried again, and with which token, its callers decide.
//!
//! - [`credentials`]: whom calls are signed as. [`launch`]: RunInstances, CreateFleet, launch templates. [`instances`]: DescribeInstances,
//!   TerminateInstances. [`resources`]: what instances may leave. [`market`]: what is sold. [`permissions`]: dry runs.

mod credentials;
mod instances;
mod launch;
mod market;
mod permissions;
mod resources;

pub use launch::{FleetOrder, RunOrder};
pub use permissions::{Permission, Right};

use credentials::Found;

use super::{
    config::Ec2Config,
    limits::{Kind, Limits},
    records::Tags,
    refusal::{Refusal, Verdict},
};
use crate::interner::Interner;
use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig, identity::IdentityCache, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_ec2::{
    Client,
    config::SharedHttpClient,
    error::{ProvideErrorMetadata, SdkError},
    types::{Filter, Tag},
};
use aws_smithy_http_client::{
    ConnectorBuilder,
    proxy::ProxyConfig,
    tls::{self, rustls_provider::CryptoMode},
};
use std::{collections::BTreeMap, error::Error, sync::Mutex, time::Duration};

/// A launch of a hundred takes some seconds; one that takes longer is asked for again with its token.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections of a burst are kept, each with buffers as long as the longest answers that came over it.
const IDLE: usize = 2;

/// How AWS is called. Credentials are looked for at the first call, not here.
pub fn sdk_config(region: &str) -> ConfigLoader {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(CALL_TIMEOUT).build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Found::new(Region::new(region.to_owned())))
        // Found keeps them.
        .identity_cache(IdentityCache::no_cache())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .http_client(http_client())
}

/// AWS's own, but for [`IDLE`].
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = ConnectorBuilder::default()
            .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
            .pool_max_idle_per_host(IDLE);
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        connector.build()
    })
}

/// AWS, "Filter": values of one filter.
const MOST_VALUES: usize = 200;
/// As EC2 calls what our images are, in prices and of instances.
const PRODUCT: &str = "Linux/UNIX";

pub struct Api {
    client: Client,
    limits: Limits,
    tags: Mutex<Interner<Tags>>,
}

impl Api {
    pub fn new(config: &Ec2Config, shared: &SdkConfig) -> Self {
        let mut own = aws_sdk_ec2::config::Builder::from(shared);
        if let Some(url) = &config.endpoint_url {
            own = own.endpoint_url(url);
        }
        Self { client: Client::from_conf(own.build()), limits: Limits::default(), tags: Mutex::default() }
    }

    /// EC2 refused to end so many: their tokens are its still.
    pub fn none_ended(&self, count: usize) {
        self.limits.give_back(Kind::TerminatedMachines, u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// What a call came to; one that was throttled empties the mirror of its bucket.
    fn answer<T, E, R>(&self, kind: Kind, result: Result<T, SdkError<E, R>>) -> Result<T, Refusal>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        R: std::fmt::Debug + 'static,
    {
        result.map_err(|error| {
            let refusal = refusal(&error);
            if refusal.code == "RequestLimitExceeded" {
                self.limits.throttled(kind);
            }
            refusal
        })
    }
}

fn refusal<E, R>(error: &SdkError<E, R>) -> Refusal
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: std::fmt::Debug + 'static,
{
    if let Some(code) = error.code() {
        return Refusal::new(code, error.message().unwrap_or("no message"));
    }
    let told = in_one_line(error);
    match error {
        // Neither the network nor the time: nobody could be found to sign as.
        SdkError::DispatchFailure(failure) if !failure.is_io() && !failure.is_timeout() => {
            Refusal::no_credentials(told)
        }
        SdkError::ConstructionFailure(_) => {
            Refusal { code: "NotSent".to_owned(), message: told, verdict: Verdict::Refused }
        }
        _ => Refusal::unanswered(told),
    }
}

/// The error with everything beneath it.
fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.replace('\n', ";")
}

fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

fn any_of(name: &str, values: &[String]) -> Filter {
    Filter::builder().name(name).set_values(Some(values.to_vec())).build()
}

/// Of the next page.
fn more(token: Option<&str>) -> Option<String> {
    token.filter(|token| !token.is_empty()).map(str::to_owned)
}

/// The filter for what is tagged with this cluster.
fn of_cluster(cluster: &str) -> Filter {
    filter(&format!("tag:{}", crate::model::tag::CLUSTER), cluster)
}

fn sdk_tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

fn plain_tags(tags: &[Tag]) -> BTreeMap<String, String> {
    let of = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
    tags.iter().filter_map(of).collect()
}
