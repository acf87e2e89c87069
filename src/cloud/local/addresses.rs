//! Which addresses a new machine gets. Pure.
//!
//! Addresses go in pairs: an even one for the machine, the odd one after it for its Pod. The lowest
//! pair that is free is taken, so the answer follows from the records alone. A machine's MAC follows
//! from its address: a neighbour's ARP entry stays right when an address gets a new owner.

use std::{collections::BTreeSet, net::Ipv4Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub machine: Ipv4Addr,
    pub pod: Ipv4Addr,
}

impl Subnet {
    fn network(self) -> u32 {
        u32::from(self.gateway) & !self.host_mask()
    }

    fn host_mask(self) -> u32 {
        u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0)
    }

    /// All pairs, lowest first: without the network's own address, the broadcast address and the gateway.
    fn pairs(self) -> impl Iterator<Item = Pair> {
        let (network, size) = (self.network(), self.host_mask());
        (0..=size / 2)
            .map(move |n| (network + 2 * n, network + 2 * n + 1))
            .filter(move |&(machine, pod)| {
                let reserved = [network, network + size, u32::from(self.gateway)];
                !reserved.contains(&machine) && !reserved.contains(&pod)
            })
            .map(|(machine, pod)| Pair { machine: machine.into(), pod: pod.into() })
    }
}

/// The lowest free pairs, at most `count`; fewer when the subnet is full.
pub fn allocate(subnet: Subnet, taken: &BTreeSet<Ipv4Addr>, count: usize) -> Vec<Pair> {
    subnet.pairs().filter(|pair| !taken.contains(&pair.machine) && !taken.contains(&pair.pod)).take(count).collect()
}

/// A locally administered unicast MAC that follows from the address.
pub fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:70:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(prefix_len: u8) -> Subnet {
        Subnet { gateway: Ipv4Addr::new(10, 72, 0, 1), prefix_len }
    }

    proptest! {
        /// The reference walks all addresses one by one, and keeps what is taken in a list.
        #[test]
        fn machines_that_come_and_go_never_share_an_address_and_always_get_the_lowest(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..60),
            prefix_len in 26u8..30,
        ) {
            let subnet = subnet(prefix_len);
            let last = (1u32 << (32 - prefix_len)) - 1;
            let mut held: Vec<Pair> = Vec::new();
            for (launch, index) in steps {
                if launch {
                    let taken: BTreeSet<_> = held.iter().flat_map(|p| [p.machine, p.pod]).collect();
                    let got = allocate(subnet, &taken, 1);
                    let expected = (2..last - 1).step_by(2)
                        .map(|n| Pair { machine: Ipv4Addr::from(0x0a48_0000 + n), pod: Ipv4Addr::from(0x0a48_0001 + n) })
                        .find(|pair| !held.contains(pair));
                    prop_assert_eq!(got.first().copied(), expected);
                    held.extend(got);
                } else if !held.is_empty() {
                    held.swap_remove(index.index(held.len()));
                }
            }
        }

        #[test]
        fn a_batch_gets_what_single_launches_would_get(count in 0usize..40, prefix_len in 26u8..30) {
            let subnet = subnet(prefix_len);
            let mut taken = BTreeSet::new();
            let mut one_by_one = Vec::new();
            for _ in 0..count {
                for pair in allocate(subnet, &taken, 1) {
                    taken.extend([pair.machine, pair.pod]);
                    one_by_one.push(pair);
                }
            }
            prop_assert_eq!(allocate(subnet, &BTreeSet::new(), count), one_by_one);
        }
    }

    #[test]
    fn a_gateway_in_the_middle_of_the_subnet_is_never_given_away() {
        let subnet = Subnet { gateway: Ipv4Addr::new(10, 72, 0, 5), prefix_len: 29 };
        let pairs = allocate(subnet, &BTreeSet::new(), 9);
        assert_eq!(pairs, [Pair { machine: Ipv4Addr::new(10, 72, 0, 2), pod: Ipv4Addr::new(10, 72, 0, 3) }]);
    }

    #[test]
    fn a_mac_is_local_unicast_and_tells_the_address() {
        assert_eq!(mac_of(Ipv4Addr::new(10, 72, 1, 254)), "02:70:0a:48:01:fe");
    }
}
