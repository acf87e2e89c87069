//! The instance metadata service, version 2, as each instance sees it.
//!
//! It listens on 169.254.169.254 of the bridge; an instance is known by the address it comes from, its
//! Pod's included. Answers carry the hop limit that the instance was launched with as their IP TTL: with
//! 1 they reach the instance and die when it would forward them to its Pod. Sources: AWS, "Use the
//! Instance Metadata Service to access instance metadata", "Instance metadata categories", "Instance
//! identity roles".

use super::{
    identity::{self, Signer},
    instances::Instance,
    world::{World, now},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// AWS: 1 second to 6 hours.
const LONGEST_TOKEN: u64 = 21_600;
/// AWS renews them long before; agents must not count on an exact time.
const CREDENTIALS_LIFE: SignedDuration = SignedDuration::from_hours(6);
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

#[derive(Default)]
pub struct Metadata {
    sessions: BTreeMap<String, (String, Timestamp)>,
    pub credentials: BTreeMap<String, Credentials>,
    pub told: BTreeMap<String, Told>,
}

/// What a test has the service tell an instance beside what it is: `PUT /standin/instances/<id>/metadata`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Told {
    /// `{"action": "terminate", "time": "…Z"}`
    pub spot_action: Option<serde_json::Value>,
    /// `{"noticeTime": "…Z"}`
    pub rebalance: Option<serde_json::Value>,
    /// An array of events.
    pub maintenance: Option<serde_json::Value>,
}

/// Of the instance identity role.
#[derive(Clone)]
pub struct Credentials {
    pub instance: String,
    pub access_key: String,
    pub secret: String,
    pub token: String,
    pub expires: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub ttl: Option<&'a str>,
    pub token: Option<&'a str>,
}

impl Metadata {
    fn open_session(&mut self, instance: &str, ttl: Option<&str>, now: Timestamp) -> Option<String> {
        let seconds = ttl?.parse::<u64>().ok().filter(|s| (1..=LONGEST_TOKEN).contains(s))?;
        let token = secret(28);
        self.sessions.retain(|_, (_, until)| *until > now);
        let until = now + SignedDuration::from_secs(i64::try_from(seconds).ok()?);
        self.sessions.insert(token.clone(), (instance.to_owned(), until));
        Some(token)
    }

    /// A token is good for the instance that asked for it alone.
    fn is_session(&self, instance: &str, token: Option<&str>, now: Timestamp) -> bool {
        token.and_then(|token| self.sessions.get(token)).is_some_and(|(of, until)| of == instance && *until > now)
    }

    pub fn credentials_of(&mut self, instance: &str, now: Timestamp) -> Credentials {
        let fresh =
            |c: &&Credentials| c.instance == instance && c.expires.duration_since(now) > SignedDuration::from_hours(1);
        if let Some(found) = self.credentials.values().find(fresh) {
            return found.clone();
        }
        let made = Credentials {
            instance: instance.to_owned(),
            access_key: format!("ASIA{}", secret(8).to_uppercase()),
            secret: secret(20),
            token: secret(64),
            expires: now + CREDENTIALS_LIFE,
        };
        self.credentials.insert(made.access_key.clone(), made.clone());
        made
    }

    pub fn forget(&mut self, instance: &str) {
        self.sessions.retain(|_, (of, _)| of != instance);
        self.credentials.retain(|_, of| of.instance != instance);
        self.told.remove(instance);
    }
}

fn secret(bytes: usize) -> String {
    (0..bytes).map(|_| format!("{:02x}", rand::random::<u8>())).collect()
}

/// The answer's status and text.
pub fn answer(world: &World, signer: &Signer, instance: &Instance, asked: &Asked<'_>) -> (u16, String) {
    let now = now();
    let mut state = world.state();
    if asked.path == "/latest/api/token" {
        return match (asked.method, state.metadata.open_session(&instance.id, asked.ttl, now)) {
            ("PUT", Some(token)) => (200, token),
            ("PUT", None) => (400, String::new()),
            _ => (405, String::new()),
        };
    }
    if !state.metadata.is_session(&instance.id, asked.token, now) {
        return (401, String::new());
    }
    if asked.method != "GET" {
        return (405, String::new());
    }
    let path = asked.path.trim_end_matches('/');
    if let Some(what) = path.strip_prefix("/latest/dynamic/instance-identity/") {
        drop(state);
        let document = identity::document(instance, &world.region, &world.account);
        let signed = match what {
            "document" => Ok(document),
            "signature" => signer.signature(&document),
            "rsa2048" | "pkcs7" => signer.pkcs7(&document),
            _ => return (404, String::new()),
        };
        return signed.map_or_else(|error| (500, error), |text| (200, text));
    }
    let text = match path.strip_prefix("/latest/meta-data/") {
        Some("identity-credentials/ec2/security-credentials/ec2-instance") => {
            let made = state.metadata.credentials_of(&instance.id, now);
            let text = json!({
                "Code": "Success", "LastUpdated": now.to_string(), "Type": "AWS-HMAC",
                "AccessKeyId": made.access_key, "SecretAccessKey": made.secret, "Token": made.token,
                "Expiration": made.expires.to_string(),
            });
            Some(text.to_string())
        }
        Some(key) => {
            let told = state.metadata.told.get(&instance.id).cloned().unwrap_or_default();
            about(instance, &told, &world.region, &world.account, key)
        }
        None => (path == "/latest/user-data").then(|| identity::decoded(&instance.user_data)).flatten(),
    };
    text.map_or((404, String::new()), |text| (200, text))
}

/// `meta-data/<key>`. Pure.
fn about(instance: &Instance, told: &Told, region: &str, account: &str, key: &str) -> Option<String> {
    let interface = format!("network/interfaces/macs/{}/", instance.mac);
    if let Some(key) = key.strip_prefix(&interface) {
        return match key {
            "mac" => Some(instance.mac.clone()),
            "device-number" => Some("0".to_owned()),
            "interface-id" => Some(instance.interface.clone()),
            "subnet-id" => Some(instance.subnet.clone()),
            "local-ipv4s" => {
                let all = [instance.address].into_iter().chain(instance.secondary.iter().copied());
                Some(all.map(|ip| ip.to_string()).collect::<Vec<_>>().join("\n"))
            }
            _ => None,
        };
    }
    let said = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
    match key {
        "instance-id" => Some(instance.id.clone()),
        "instance-type" => Some(instance.pool.instance_type.clone()),
        "instance-life-cycle" => Some(instance.pool.lifecycle.as_str().to_owned()),
        "ami-id" => Some(instance.image.clone()),
        "local-ipv4" => Some(instance.address.to_string()),
        "local-hostname" | "hostname" => Some(format!("{}.ec2.internal", identity::host_name(instance.address))),
        "mac" => Some(instance.mac.clone()),
        "network/interfaces/macs" => Some(format!("{}/", instance.mac)),
        "placement/availability-zone" => Some(instance.pool.zone.clone()),
        "placement/region" => Some(region.to_owned()),
        "reservation-id" => Some(instance.reservation.clone()),
        "identity-credentials/ec2/info" => Some(
            json!({"Code": "Success", "LastUpdated": instance.launched_at.to_string(), "AccountId": account})
                .to_string(),
        ),
        "spot/instance-action" => said(&told.spot_action),
        // Older, and only of terminations: the time alone.
        "spot/termination-time" => Some(told.spot_action.as_ref()?.get("time")?.as_str()?.to_owned()),
        "events/recommendations/rebalance" => said(&told.rebalance),
        "events/maintenance/scheduled" => Some(said(&told.maintenance).unwrap_or_else(|| "[]".to_owned())),
        _ => None,
    }
}

pub mod service {
    //! The listener: which instance asks, and how far the answer may travel.

    use super::{Asked, Signer, TOKEN_HEADER, TTL_HEADER, World, answer};
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use std::{convert::Infallible, net::IpAddr, sync::Arc};
    use tokio::{net::TcpListener, task::JoinSet};

    pub async fn serve(listener: TcpListener, world: Arc<World>, signer: Arc<Signer>) -> std::io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer) = listener.accept().await?;
            while connections.try_join_next().is_some() {}
            let IpAddr::V4(address) = peer.ip() else { continue };
            let instance = world.state().instances.at(address).cloned();
            // What is not known gets no answer that could travel.
            let _ = stream.set_ttl(instance.as_ref().map_or(1, |i| u32::from(i.hop_limit)));
            let (world, signer) = (Arc::clone(&world), Arc::clone(&signer));
            connections.spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
                    let asking = world.state().instances.at(address).cloned();
                    let (status, text) = match asking {
                        None => (403, String::new()),
                        Some(instance) => {
                            let asked = Asked {
                                method: request.method().as_str(),
                                path: request.uri().path(),
                                ttl: header(TTL_HEADER),
                                token: header(TOKEN_HEADER),
                            };
                            answer(&world, &signer, &instance, &asked)
                        }
                    };
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                    async move { Ok::<_, Infallible>(response) }
                });
                // A client that goes away is none of this service's business.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instances::tests::{at, instance};

    #[test]
    fn a_session_is_good_for_its_instance_and_its_time_alone() {
        let mut metadata = Metadata::default();
        for wrong in [None, Some("0"), Some("21601"), Some("x")] {
            assert_eq!(metadata.open_session("i-1", wrong, at(0)), None, "{wrong:?}");
        }
        let token = metadata.open_session("i-1", Some("60"), at(0)).unwrap();
        assert!(metadata.is_session("i-1", Some(&token), at(59_999)));
        assert!(!metadata.is_session("i-1", Some(&token), at(60_000)));
        assert!(!metadata.is_session("i-2", Some(&token), at(0)));
        assert!(!metadata.is_session("i-1", None, at(0)));
    }

    #[test]
    fn an_instance_is_told_what_it_is_and_what_a_test_says() {
        let one = instance("i-1", 0);
        let ask = |told: &Told, key: &str| about(&one, told, "us-east-1", "123456789012", key);
        let quiet = Told::default();
        assert_eq!(ask(&quiet, "instance-id").unwrap(), "i-1");
        assert_eq!(ask(&quiet, "spot/instance-action"), None);
        assert_eq!(ask(&quiet, "events/maintenance/scheduled").unwrap(), "[]");
        let macs = ask(&quiet, "network/interfaces/macs").unwrap();
        let ips = ask(&quiet, &format!("network/interfaces/macs/{macs}local-ipv4s")).unwrap();
        assert_eq!(ips, "10.72.0.4\n10.72.63.254");
        let told = Told { spot_action: Some(json!({"action": "terminate", "time": "2026-01-01T00:00:00Z"})), ..quiet };
        assert!(ask(&told, "spot/instance-action").unwrap().contains("terminate"));
        assert_eq!(ask(&told, "spot/termination-time").unwrap(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn credentials_are_an_instances_own_and_stay_while_they_are_fresh() {
        let mut metadata = Metadata::default();
        let first = metadata.credentials_of("i-1", at(0));
        assert_eq!(metadata.credentials_of("i-1", at(1000)).access_key, first.access_key);
        assert_ne!(metadata.credentials_of("i-2", at(1000)).secret, first.secret);
        assert_ne!(metadata.credentials_of("i-1", at(6 * 3_600_000)).access_key, first.access_key);
    }
}
