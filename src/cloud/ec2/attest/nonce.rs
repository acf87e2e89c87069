//! Nonces that need not be remembered: each says when and for whom it was made, under a key that this
//! process alone has. Only those that were used are kept, until they are stale anyway.
//!
//! ```text
//!   mint(address, now, random) = seconds (8) | random (16) | HMAC-SHA256(key; address, seconds, random) (32)
//!
//!   spend: foreign?  the HMAC does not fit: of another process, another address, or made up
//!          stale?    more than a minute old
//!          used?     among the used ones, which are forgotten when they would be stale
//! ```

use aws_lc_rs::hmac;
use jiff::Timestamp;
use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// An agent answers within a second; one on a throttled processor within some.
const LIFE_SECONDS: i64 = 60;
/// Used ones that are remembered: 136 registrations a second, from addresses of instances of ours.
const MOST_USED: usize = 8192;
const RANDOM: usize = 16;
const SIGNED: usize = 8 + RANDOM;
const LENGTH: usize = SIGNED + 32;

pub struct Nonces {
    key: hmac::Key,
    used: Mutex<Used>,
}

struct Used {
    /// The latest second seen. The clock may be set back; a nonce that was forgotten must not become good again.
    latest: i64,
    set: HashSet<[u8; RANDOM]>,
    /// In the order they were used, with the second from which on each is stale.
    order: VecDeque<(i64, [u8; RANDOM])>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceFault {
    Foreign,
    Stale,
    Used,
    /// More were used within a minute than are remembered.
    TooMany,
}

impl Nonces {
    pub fn new(key: &[u8; 32]) -> Self {
        let used = Used { latest: i64::MIN, set: HashSet::new(), order: VecDeque::new() };
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), used: Mutex::new(used) }
    }

    pub fn mint(&self, peer: IpAddr, now: Timestamp, random: [u8; RANDOM]) -> Vec<u8> {
        let now = self.used().at(now);
        let mut nonce = [&now.to_be_bytes()[..], &random].concat();
        let tag = hmac::sign(&self.key, &message(peer, &nonce));
        nonce.extend_from_slice(tag.as_ref());
        nonce
    }

    /// Good once.
    pub fn spend(&self, nonce: &[u8], peer: IpAddr, now: Timestamp) -> Result<(), NonceFault> {
        if nonce.len() != LENGTH {
            return Err(NonceFault::Foreign);
        }
        let (signed, tag) = nonce.split_at(SIGNED);
        hmac::verify(&self.key, &message(peer, signed), tag).map_err(|_| NonceFault::Foreign)?;
        let (seconds, random) = signed.split_at(8);
        let foreign = |_| NonceFault::Foreign;
        let minted = i64::from_be_bytes(seconds.try_into().map_err(foreign)?);
        let random: [u8; RANDOM] = random.try_into().map_err(foreign)?;
        let mut used = self.used();
        let now = used.at(now);
        if now > minted + LIFE_SECONDS {
            return Err(NonceFault::Stale);
        }
        while let Some((until, oldest)) = used.order.front().copied()
            && now > until
        {
            used.order.pop_front();
            used.set.remove(&oldest);
        }
        if used.set.contains(&random) {
            return Err(NonceFault::Used);
        }
        if used.order.len() >= MOST_USED {
            return Err(NonceFault::TooMany);
        }
        used.set.insert(random);
        // No earlier than the one before it, so that the first is always the first to go.
        let until = used.order.back().map_or(i64::MIN, |(until, _)| *until).max(minted + LIFE_SECONDS);
        used.order.push_back((until, random));
        Ok(())
    }

    /// A panic under this lock leaves at worst one that is remembered too long.
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn at(&mut self, now: Timestamp) -> i64 {
        self.latest = self.latest.max(now.as_second());
        self.latest
    }
}

fn message(peer: IpAddr, signed: &[u8]) -> Vec<u8> {
    let address = match peer.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    [b"pilotlight challenge 1".as_slice(), &address.octets(), signed].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixtures::at;
    use proptest::prelude::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn nonces() -> Nonces {
        Nonces::new(&[7; 32])
    }

    #[test]
    fn a_nonce_is_good_once_for_a_minute_from_the_address_that_asked() {
        let nonces = nonces();
        let nonce = nonces.mint(PEER, at(100), [1; 16]);
        let another = nonces.mint(PEER, at(100), [2; 16]);
        assert_eq!(nonces.spend(&nonce, [10, 0, 0, 2].into(), at(100)), Err(NonceFault::Foreign));
        assert_eq!(Nonces::new(&[8; 32]).spend(&nonce, PEER, at(100)), Err(NonceFault::Foreign));
        assert_eq!(nonces.spend(&nonce, "::ffff:10.0.0.1".parse().unwrap(), at(160)), Ok(()));
        assert_eq!(nonces.spend(&nonce, PEER, at(160)), Err(NonceFault::Used));
        assert_eq!(nonces.spend(&another, PEER, at(161)), Err(NonceFault::Stale));
    }

    #[test]
    fn more_than_are_remembered_have_to_come_again() {
        let nonces = nonces();
        let of = |n: usize| nonces.mint(PEER, at(100), (n as u128).to_be_bytes());
        for n in 0..MOST_USED {
            assert_eq!(nonces.spend(&of(n), PEER, at(100)), Ok(()));
        }
        assert_eq!(nonces.spend(&of(MOST_USED), PEER, at(100)), Err(NonceFault::TooMany));
        assert_eq!(nonces.spend(&of(0), PEER, at(100)), Err(NonceFault::Used));
        let later = nonces.mint(PEER, at(161), [255; 16]);
        assert_eq!(nonces.spend(&later, PEER, at(161)), Ok(()));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(i64),
        Mint,
        Spend(usize),
        SpendAltered(usize, usize, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (-90..60i64).prop_map(Step::Wait),
            Just(Step::Mint),
            any::<prop::sample::Index>().prop_map(|n| Step::Spend(n.index(1000))),
            (0..1000usize, 0..LENGTH, 1..=255u8).prop_map(|(n, at, bits)| Step::SpendAltered(n, at, bits)),
        ]
    }

    proptest! {
        /// Against a list of all that were ever minted: good is what was minted within the last minute and has
        /// not been used; nothing that was altered is good.
        #[test]
        fn what_is_good_is_what_was_minted_lately_and_not_used(steps in prop::collection::vec(step(), 0..60)) {
            let nonces = nonces();
            // The clock goes back at times; what was stale by the latest time that it was looked at stays so.
            let (mut clock, mut now, mut all) = (1000, i64::MIN, Vec::<(Vec<u8>, i64, bool)>::new());
            for step in steps {
                match step {
                    Step::Wait(seconds) => clock += seconds,
                    Step::Mint => {
                        now = now.max(clock);
                        let random = (all.len() as u128).to_be_bytes();
                        all.push((nonces.mint(PEER, at(clock), random), now, false));
                    }
                    Step::Spend(n) if !all.is_empty() => {
                        now = now.max(clock);
                        let n = n % all.len();
                        let (nonce, minted, used) = &mut all[n];
                        let good = !*used && now <= *minted + 60;
                        prop_assert_eq!(nonces.spend(nonce, PEER, at(clock)).is_ok(), good);
                        *used |= good;
                    }
                    Step::SpendAltered(n, index, bits) if !all.is_empty() => {
                        let mut nonce = all[n % all.len()].0.clone();
                        nonce[index] ^= bits;
                        prop_assert_eq!(nonces.spend(&nonce, PEER, at(clock)), Err(NonceFault::Foreign));
                    }
                    Step::Spend(_) | Step::SpendAltered(..) => {}
                }
            }
        }
    }
}
