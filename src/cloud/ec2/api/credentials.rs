//! Whom the provider signs as: found where AWS's tools look (the environment, a profile, a web identity (IRSA), the
//! container's (EKS Pod Identity), the metadata service), when the first call is made.
//!
//! AWS's own chain reads a profile's file once in a process's life ("parsed file contents will be cached indefinitely":
//! aws-config, ProfileFileCredentialsProvider). With it a provider that starts before its credentials are there, or whose
//! keys are exchanged in a mounted Secret, would have to be started again. So the chain is made anew for each look. What it
//! found is kept for all who sign: EC2's client, the price list, the queue.
//!
//! ```text
//!  a call ──> kept, and good for a while? ──yes──> that
//!                     │ no
//!                     v
//!              a new chain ──found──> kept, that
//!                     │ nothing
//!                     v
//!              kept, and not expired yet? ──yes──> that; else the error, and the next call looks again
//! ```

use super::http_client;
use aws_config::{Region, default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, future},
};
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use tokio::sync::Mutex;

/// Those without an end, as keys in a file: how long before they are looked up again.
const KEPT: Duration = Duration::from_secs(300);
/// Those with an end are renewed so long before it. An instance role's are there five minutes before (AWS, "Retrieve
/// security credentials from instance metadata").
const BEFORE_END: Duration = Duration::from_secs(120);

pub struct Found {
    region: Region,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    credentials: Credentials,
    since: SystemTime,
}

impl Kept {
    fn is_good(&self, now: SystemTime) -> bool {
        match self.credentials.expiry() {
            Some(end) => now + BEFORE_END < end,
            None => now < self.since + KEPT,
        }
    }

    /// Not long any more, but still.
    fn is_accepted(&self, now: SystemTime) -> bool {
        self.credentials.expiry().is_some_and(|end| now < end)
    }
}

impl Found {
    pub fn new(region: Region) -> Self {
        Self { region, kept: Mutex::default() }
    }

    async fn look(&self) -> provider::Result {
        let config = ProviderConfig::without_region().with_region(Some(self.region.clone()));
        let chain = DefaultCredentialsChain::builder().configure(config.with_http_client(http_client()));
        chain.region(self.region.clone()).build().await.provide_credentials().await
    }

    /// One look at a time: who comes meanwhile waits for its answer.
    async fn credentials(&self, now: SystemTime, look: impl Future<Output = provider::Result>) -> provider::Result {
        let mut kept = self.kept.lock().await;
        if let Some(good) = kept.as_ref().filter(|kept| kept.is_good(now)) {
            return Ok(good.credentials.clone());
        }
        match (look.await, kept.as_ref().filter(|kept| kept.is_accepted(now))) {
            (Ok(credentials), _) => {
                *kept = Some(Kept { credentials: credentials.clone(), since: now });
                Ok(credentials)
            }
            (Err(_), Some(last)) => Ok(last.credentials.clone()),
            (Err(error), None) => {
                *kept = None;
                Err(error)
            }
        }
    }
}

impl ProvideCredentials for Found {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials(SystemTime::now(), self.look()))
    }
}

/// Nothing of what was found.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("region", &self.region).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::provider::error::CredentialsError;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    fn named(name: &str, end: Option<u64>) -> provider::Result {
        Ok(Credentials::new(name, "secret", None, end.map(at), "test"))
    }

    fn nothing() -> provider::Result {
        Err(CredentialsError::not_loaded("nothing"))
    }

    /// Asked at these seconds while a look finds this: whose key is answered.
    async fn asked(found: &Found, second: u64, look: provider::Result) -> Option<String> {
        let answer = found.credentials(at(second), async { look }).await;
        answer.ok().map(|credentials| credentials.access_key_id().to_owned())
    }

    #[tokio::test]
    async fn keys_without_an_end_are_looked_up_again_after_a_while_and_then_no_longer_used() {
        let found = Found::new(Region::new("r"));
        let old = Some("old".to_owned());
        assert_eq!(asked(&found, 0, nothing()).await, None);
        assert_eq!(asked(&found, 1, named("old", None)).await, old, "a failure is not kept");
        assert_eq!(asked(&found, 300, named("new", None)).await, old);
        assert_eq!(asked(&found, 301, named("new", None)).await, Some("new".to_owned()));
        assert_eq!(asked(&found, 601, nothing()).await, None, "whoever took them away meant it");
    }

    #[tokio::test]
    async fn those_with_an_end_are_renewed_before_it_and_serve_until_then() {
        let found = Found::new(Region::new("r"));
        let old = Some("old".to_owned());
        assert_eq!(asked(&found, 0, named("old", Some(1000))).await, old);
        assert_eq!(asked(&found, 879, named("new", Some(2000))).await, old);
        assert_eq!(asked(&found, 880, nothing()).await, old, "they are good for two minutes more");
        assert_eq!(asked(&found, 999, nothing()).await, old);
        assert_eq!(asked(&found, 1000, nothing()).await, None);
        assert_eq!(asked(&found, 1001, named("new", Some(2000))).await, Some("new".to_owned()));
    }

    #[test]
    fn nothing_secret_is_in_its_debug_form() {
        let found = Found::new(Region::new("r"));
        *found.kept.try_lock().unwrap() = Some(Kept { credentials: named("AKIA", None).unwrap(), since: START });
        let text = format!("{found:?}");
        assert!(!text.contains("AKIA") && !text.contains("secret"), "{text}");
    }
}
