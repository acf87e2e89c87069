//! What several replicas of the provider share: who leads, where agents find the leader, who signs the
//! agents' certificates.

use super::{
    ConfigError,
    provider::Checker,
    raw,
    surroundings::{OwnPod, Surroundings},
};
use crate::decide::lease::Timing;
use std::{fmt, net::SocketAddr, time::Duration};

/// An election among replicas by one Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    pub namespace: String,
    pub lease: String,
    pub timing: Timing,
    /// The Pod that is labelled while it leads.
    pub labelled: Option<OwnPod>,
}

/// Where instances dial in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    pub namespace: String,
    pub name: String,
}

/// client-go's JitterFactor: a retry may take this much longer than retryPeriod.
const JITTER: f64 = 1.2;

pub(super) fn leader_election(
    check: &Checker,
    raw: raw::LeaderElection,
    shared_authority: bool,
    surroundings: &Surroundings,
) -> Result<Option<LeaderElection>, ConfigError> {
    check.label("leaderElection.leaseName", &raw.lease_name)?;
    check.label("leaderElection.namespace", &raw.namespace)?;
    let duration = |key: &str, text: &str| {
        let long = check.duration(key, text)?;
        Duration::try_from(long)
            .ok()
            .filter(|d| !d.is_zero())
            .ok_or_else(|| check.error(key, format!("{text:?}: expected a duration above zero")))
    };
    let timing = Timing {
        lease_duration: duration("leaderElection.leaseDuration", &raw.lease_duration)?,
        renew_deadline: duration("leaderElection.renewDeadline", &raw.renew_deadline)?,
        retry_period: duration("leaderElection.retryPeriod", &raw.retry_period)?,
    };
    if timing.lease_duration.subsec_nanos() != 0 {
        let problem = format!("{:?}: expected whole seconds", raw.lease_duration);
        return Err(check.error("leaderElection.leaseDuration", problem));
    }
    if timing.lease_duration <= timing.renew_deadline {
        let problem = format!("{}: expected more than renewDeadline ({})", raw.lease_duration, raw.renew_deadline);
        return Err(check.error("leaderElection.leaseDuration", problem));
    }
    if timing.renew_deadline <= timing.retry_period.mul_f64(JITTER) {
        let problem =
            format!("{}: expected more than {JITTER} times retryPeriod ({})", raw.renew_deadline, raw.retry_period);
        return Err(check.error("leaderElection.renewDeadline", problem));
    }
    // Whoever writes it counts on the label: a Service without it has nobody behind it.
    if raw.label_pod && !raw.enabled {
        let problem = "true: expected leaderElection.enabled: true with it (a leader alone is labelled)";
        return Err(check.error("leaderElection.labelPod", problem));
    }
    let labelled = match (raw.label_pod, &surroundings.pod) {
        (false, _) => None,
        (true, Some(pod)) => Some(pod.clone()),
        (true, None) => {
            let problem = "true: expected to run in a Pod that says which (POD_NAMESPACE and POD_NAME)";
            return Err(check.error("leaderElection.labelPod", problem));
        }
    };
    if !raw.enabled {
        return Ok(None);
    }
    if !shared_authority {
        let problem = "is missing: with leaderElection, expected a Secret that all replicas share \
                       (agents trust one authority only)";
        return Err(check.error("agents.authoritySecret", problem));
    }
    Ok(Some(LeaderElection { namespace: raw.namespace, lease: raw.lease_name, timing, labelled }))
}

pub(super) fn secret(
    check: &Checker,
    key: &str,
    raw: Option<raw::SecretName>,
) -> Result<Option<SecretRef>, ConfigError> {
    let Some(raw::SecretName { namespace, name }) = raw else { return Ok(None) };
    check.label(&format!("{key}.namespace"), &namespace)?;
    check.label(&format!("{key}.name"), &name)?;
    Ok(Some(SecretRef { namespace, name }))
}

pub(super) fn advertise(check: &Checker, raw: Option<String>, listen: SocketAddr) -> Result<Advertise, ConfigError> {
    let key = "agents.advertise";
    let Some(text) = raw else {
        if listen.ip().is_unspecified() {
            let problem = format!("is missing: agents.listen is {}, which nobody can dial", listen.ip());
            return Err(check.error(key, problem));
        }
        return Ok(Advertise { host: listen.ip().to_string(), port: listen.port() });
    };
    let expected = || check.error(key, format!("{text:?}: expected host:port, such as agents.example.com:10255"));
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Advertise { host: address.ip().to_string(), port: address.port() });
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?;
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(letter) {
        return Err(expected());
    }
    Ok(Advertise { host: host.to_owned(), port })
}
