//! What the Pod in which the provider may run knows of itself: the downward API's variables.

use super::{ConfigError, provider::Checker};
use std::net::IpAddr;

/// Absent where it runs in no Pod, or where the Pod does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// POD_IP
    pub ip: Option<String>,
    pub pod: Option<OwnPod>,
}

/// The provider's own Pod: POD_NAMESPACE and POD_NAME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    pub namespace: String,
    pub name: String,
}

impl Surroundings {
    pub fn of_this_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let pod = variable("POD_NAMESPACE").zip(variable("POD_NAME"));
        Self { ip: variable("POD_IP"), pod: pod.map(|(namespace, name)| OwnPod { namespace, name }) }
    }

    /// For checking a file elsewhere than where it will be used.
    pub fn of_some_pod() -> Self {
        // RFC 5737's addresses for documentation: nobody has them.
        let pod = OwnPod { namespace: "pilotlight-system".to_owned(), name: "pilotlight-0".to_owned() };
        Self { ip: Some("192.0.2.1".to_owned()), pod: Some(pod) }
    }
}

pub(super) fn address(
    check: &Checker,
    given: Option<IpAddr>,
    surroundings: &Surroundings,
) -> Result<IpAddr, ConfigError> {
    let key = "address";
    match (given, &surroundings.ip) {
        (Some(address), _) => Ok(address),
        (None, Some(text)) => text
            .parse()
            .map_err(|_| check.error(key, format!("is missing, and POD_IP is {text:?}: expected an IP address"))),
        (None, None) => {
            let problem = "is missing: expected the address at which the API server reaches the kubelet ports, here or \
                           in the variable POD_IP";
            Err(check.error(key, problem))
        }
    }
}
