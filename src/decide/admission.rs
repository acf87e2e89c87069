//! Whether one who says to be an instance may have a certificate as it. Pure.
//!
//! In: what the cloud says of the instance, the address the claim came from, the key that it is for, whose
//! the instance is already. Out: admitted, or why not. That the proof itself is good is judged elsewhere;
//! both must be.
//!
//! ```text
//!   unclaimed --a claim within the deadline after launch--> claimed by its key
//!   claimed   --the same key, at any time----------------> the same (its answer was lost, or its certificate ran out)
//!             --another key------------------------------> refused, for ever
//!   shutting down, terminated, unknown: refused
//! ```
//!
//! A certificate for a key that has one already gives nothing to anyone but the holder of that key; so the
//! same key may come again, and what was overheard is of no use.

use crate::model::{InstanceRecord, InstanceState, bootstrap::KeyFingerprint};
use jiff::{SignedDuration, Timestamp};
use std::net::IpAddr;

/// Who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applicant {
    pub peer: IpAddr,
    pub key: KeyFingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The instance becomes this key's.
    First,
    /// It is this key's already.
    Again,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is not one that this provider launched")]
    Unknown,
    #[error("it is {0}")]
    NotLive(&'static str),
    #[error("it has no address yet")]
    NoAddress,
    #[error("its address is {own}, but the claim came from {peer}")]
    WrongPeer { own: IpAddr, peer: IpAddr },
    #[error("it belongs to another key")]
    OtherKey,
    #[error("it was launched at {launched_at}, and had {within} for its first registration", within = .within.as_secs_f64())]
    TooLate { launched_at: Timestamp, within: SignedDuration },
}

impl Refusal {
    /// For a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown-instance",
            Self::NotLive(_) => "not-live",
            Self::NoAddress => "no-address",
            Self::WrongPeer { .. } => "wrong-address",
            Self::OtherKey => "other-key",
            Self::TooLate { .. } => "too-late",
        }
    }
}

/// `record` is what the cloud says of the instance that is claimed; `holder` whose it is already;
/// `within` how long after its launch it may be claimed first.
pub fn admit(
    applicant: &Applicant,
    record: Option<&InstanceRecord>,
    holder: Option<&KeyFingerprint>,
    within: SignedDuration,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    let record = record.ok_or(Refusal::Unknown)?;
    match record.state {
        InstanceState::Pending | InstanceState::Running => {}
        InstanceState::ShuttingDown => return Err(Refusal::NotLive("shutting down")),
        InstanceState::Terminated => return Err(Refusal::NotLive("terminated")),
    }
    let own = record.private_ip.ok_or(Refusal::NoAddress)?;
    let peer = applicant.peer.to_canonical();
    if own.to_canonical() != peer {
        return Err(Refusal::WrongPeer { own, peer });
    }
    match holder {
        Some(holder) if *holder == applicant.key => Ok(Admission::Again),
        Some(_) => Err(Refusal::OtherKey),
        None if now.duration_since(record.launched_at) > within => {
            Err(Refusal::TooLate { launched_at: record.launched_at, within })
        }
        None => Ok(Admission::First),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixtures::{self, at};
    use proptest::prelude::*;

    const WITHIN: SignedDuration = SignedDuration::from_secs(120);

    fn key(n: u8) -> KeyFingerprint {
        KeyFingerprint::of(&[n])
    }

    fn record(state: InstanceState, address: Option<IpAddr>) -> InstanceRecord {
        InstanceRecord { state, private_ip: address, ..fixtures::instance("i-1", at(0)) }
    }

    fn state() -> impl Strategy<Value = InstanceState> {
        prop_oneof![
            3 => Just(InstanceState::Pending),
            6 => Just(InstanceState::Running),
            1 => Just(InstanceState::ShuttingDown),
            1 => Just(InstanceState::Terminated),
        ]
    }

    /// One who comes: when, from where, with which key; and what has become of the instance.
    #[derive(Clone, Debug)]
    struct Visit {
        after: i64,
        peer: u8,
        key: u8,
        state: InstanceState,
    }

    fn visit() -> impl Strategy<Value = Visit> {
        (0..60i64, prop_oneof![4 => Just(1u8), 1 => Just(2u8)], 0..3u8, state())
            .prop_map(|(after, peer, key, state)| Visit { after, peer, key, state })
    }

    proptest! {
        /// Against the rule in its simplest words: whoever came first, in time, from the instance's
        /// own address, while it lived, has it for ever; nobody else ever gets in.
        #[test]
        fn an_instance_has_one_key_in_all_its_life(visits in prop::collection::vec(visit(), 0..12)) {
            let (mut now, mut holder, mut first) = (0, None, None);
            for visit in visits {
                now += visit.after;
                let record = record(visit.state, Some([10, 0, 0, 1].into()));
                let applicant = Applicant { peer: [10, 0, 0, visit.peer].into(), key: key(visit.key) };
                let admitted = admit(&applicant, Some(&record), holder.as_ref(), WITHIN, at(now));

                let lives = matches!(visit.state, InstanceState::Pending | InstanceState::Running);
                let in_time = now <= 120;
                let here = lives && visit.peer == 1;
                if here && first.is_none() && in_time {
                    first = Some(visit.key);
                }
                prop_assert_eq!(admitted.is_ok(), here && first == Some(visit.key));
                if admitted == Ok(Admission::First) {
                    prop_assert_eq!(holder, None);
                    holder = Some(applicant.key);
                }
            }
        }
    }

    #[test]
    fn each_refusal_says_what_was_wrong() {
        let own: IpAddr = [10, 0, 0, 1].into();
        let applicant = Applicant { peer: own, key: key(1) };
        let ask = |record: Option<InstanceRecord>, holder: Option<KeyFingerprint>, now| {
            admit(&applicant, record.as_ref(), holder.as_ref(), WITHIN, at(now)).map_err(|refusal| refusal.reason())
        };
        let running = || Some(record(InstanceState::Running, Some(own)));
        assert_eq!(ask(running(), None, 120), Ok(Admission::First));
        assert_eq!(ask(running(), None, 121), Err("too-late"));
        assert_eq!(ask(running(), Some(key(1)), 999_999), Ok(Admission::Again));
        assert_eq!(ask(running(), Some(key(2)), 1), Err("other-key"));
        assert_eq!(ask(None, Some(key(1)), 1), Err("unknown-instance"));
        assert_eq!(ask(Some(record(InstanceState::Terminated, Some(own))), Some(key(1)), 1), Err("not-live"));
        assert_eq!(ask(Some(record(InstanceState::Pending, None)), None, 1), Err("no-address"));
        let elsewhere = Some(record(InstanceState::Running, Some([10, 0, 0, 2].into())));
        assert_eq!(ask(elsewhere, Some(key(1)), 1), Err("wrong-address"));
    }

    #[test]
    fn an_address_is_the_same_however_the_socket_writes_it() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let record = record(InstanceState::Running, Some([10, 0, 0, 1].into()));
        let applicant = Applicant { peer: mapped, key: key(1) };
        assert_eq!(admit(&applicant, Some(&record), None, WITHIN, at(0)), Ok(Admission::First));
    }
}
