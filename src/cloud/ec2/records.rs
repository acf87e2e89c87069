//! What EC2 tells of an instance, as the record that the rest of this program works with. Pure.

use super::{config::TypeFacts, tags};
use crate::model::{ClientToken, HourlyPrice, InstanceId, InstanceRecord, InstanceState, Purchase};
use jiff::Timestamp;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

pub type Tags = BTreeMap<String, String>;

/// An instance, as EC2 tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: InstanceId,
    pub instance_type: String,
    pub zone: String,
    pub state: MachineState,
    pub state_reason: Option<String>,
    pub private_ip: Option<IpAddr>,
    /// The first address of its interface beside its own: the Pod's.
    pub secondary_ip: Option<IpAddr>,
    pub launched_at: Timestamp,
    pub spot: bool,
    pub tags: Arc<Tags>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

/// `i-` and eight or seventeen hexadecimal digits (AWS, "Amazon EC2 resource IDs").
pub fn is_instance_id(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("i-").is_some_and(|id| matches!(id.len(), 8 | 17) && id.bytes().all(digit))
}

pub fn record(machine: Machine, types: &BTreeMap<String, TypeFacts>) -> InstanceRecord {
    let facts = types.get(&machine.instance_type);
    let by_type = || match facts {
        _ if machine.spot => Purchase::Spot,
        Some(facts) if facts.burstable => Purchase::Burstable,
        _ => Purchase::OnDemand,
    };
    let price = tags::price(&machine.tags, &machine.instance_type).or(facts.map(|facts| facts.on_demand));
    let stopped = matches!(machine.state, MachineState::Stopping | MachineState::Stopped);
    InstanceRecord {
        client_token: ClientToken::new(machine.tags.get(tags::TOKEN).map(String::as_str).unwrap_or_default()),
        purchase: tags::purchase(&machine.tags).unwrap_or_else(by_type),
        price: price.unwrap_or(HourlyPrice(0)),
        state: match machine.state {
            MachineState::Pending => InstanceState::Pending,
            MachineState::Running => InstanceState::Running,
            // Its Pod is gone, and nothing will start it again: the sweeper ends it.
            MachineState::ShuttingDown | MachineState::Stopping | MachineState::Stopped => InstanceState::ShuttingDown,
            MachineState::Terminated => InstanceState::Terminated,
        },
        state_reason: machine.state_reason.or_else(|| stopped.then(|| "it was stopped".to_owned())),
        id: machine.id,
        instance_type: machine.instance_type,
        zone: machine.zone,
        private_ip: machine.private_ip,
        pod_ip: machine.secondary_ip,
        launched_at: machine.launched_at,
        tags: machine.tags,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::config::tests::config;
    use super::*;

    pub fn machine(id: &str) -> Machine {
        Machine {
            id: InstanceId::new(id),
            instance_type: "c6i.large".to_owned(),
            zone: "us-east-1a".to_owned(),
            state: MachineState::Running,
            state_reason: None,
            private_ip: Some(IpAddr::from([10, 0, 0, 4])),
            secondary_ip: Some(IpAddr::from([10, 0, 0, 5])),
            launched_at: Timestamp::UNIX_EPOCH,
            spot: false,
            tags: Arc::default(),
        }
    }

    #[test]
    fn purchase_price_and_token_are_what_the_tags_say() {
        let tags =
            [(tags::PURCHASE, "capacity-reservation"), ("pilotlight.dev/prices", "c6i.large=7"), (tags::TOKEN, "t")];
        let tags = Tags::from(tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let record = record(Machine { tags: tags.into(), ..machine("i-1") }, &config().types);
        assert_eq!(record.purchase, Purchase::CapacityReservation);
        assert_eq!(record.price, HourlyPrice(7));
        assert_eq!(record.client_token.as_str(), "t");
        assert_eq!(record.pod_ip, Some(IpAddr::from([10, 0, 0, 5])));
    }

    #[test]
    fn without_tags_the_type_and_the_catalog_tell() {
        let of = |instance_type: &str, spot| {
            let record =
                record(Machine { instance_type: instance_type.to_owned(), spot, ..machine("i-1") }, &config().types);
            (record.purchase, record.price.0)
        };
        assert_eq!(of("c6i.large", false), (Purchase::OnDemand, 85_000));
        assert_eq!(of("t3.micro", false), (Purchase::Burstable, 10_400));
        assert_eq!(of("t3.micro", true), (Purchase::Spot, 10_400));
        assert_eq!(of("x1.unknown", false), (Purchase::OnDemand, 0));
    }

    #[test]
    fn one_that_was_stopped_is_over_and_says_why() {
        for state in [MachineState::Stopping, MachineState::Stopped] {
            let record = record(Machine { state, ..machine("i-1") }, &config().types);
            assert_eq!(record.state, InstanceState::ShuttingDown);
            assert_eq!(record.state_reason.as_deref(), Some("it was stopped"));
        }
    }
}
