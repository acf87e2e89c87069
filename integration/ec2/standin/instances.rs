//! What the stand-in knows of each instance beside moto, and which state that makes.
//!
//! ```text
//!  launched ── pendingMillis, and booted if a machine is awaited ──> running
//!     │ (unknown to Describe for notFoundMillis)                        │
//!     └──────────────── terminate asked, or the machine ended ──────────┴──> shutting-down
//!                            shuttingDownMillis, and the machine gone ──> terminated ── terminatedMillis ──> forgotten
//! ```

use super::script::{Pool, Script};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

#[derive(Clone, Debug)]
pub struct Instance {
    pub id: String,
    pub reservation: String,
    pub pool: Pool,
    pub subnet: String,
    pub address: Ipv4Addr,
    pub secondary: Vec<Ipv4Addr>,
    pub client_token: String,
    /// None for what is not burstable.
    pub credits: Option<String>,
    /// As the request had it: base64.
    pub user_data: String,
    pub hop_limit: u8,
    pub mac: String,
    pub interface: String,
    pub image: String,
    pub launched_at: Timestamp,
    pub machine: Machine,
    /// Stopped, to be started again: nobody here starts one.
    pub stopped: bool,
    pub stopping: Option<Stopping>,
    pub ended_at: Option<Timestamp>,
}

/// The machine that is booted for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// None is: the instance is a record alone.
    NotWanted,
    Awaited,
    Up,
    Gone,
}

#[derive(Clone, Debug)]
pub struct Stopping {
    pub at: Timestamp,
    /// StateReason (AWS, "DescribeInstances", "StateReason").
    pub code: &'static str,
}

impl Stopping {
    pub fn by_user(at: Timestamp) -> Self {
        Self { at, code: "Client.UserInitiatedShutdown" }
    }

    pub fn message(&self) -> String {
        let what = match self.code {
            "Client.UserInitiatedShutdown" => "User initiated shutdown",
            "Client.InstanceInitiatedShutdown" => "Instance initiated shutdown",
            "Server.SpotInstanceTermination" => "Spot instance termination",
            _ => "Internal error on launch",
        };
        format!("{}: {what}", self.code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopped,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopped => "stopped",
        }
    }

    pub fn code(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopped => 80,
        }
    }
}

fn millis(count: u64) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(count).unwrap_or(i64::MAX))
}

impl Instance {
    pub fn state(&self, script: &Script, now: Timestamp) -> State {
        if let Some(stopping) = &self.stopping {
            let machine_gone = matches!(self.machine, Machine::NotWanted | Machine::Gone);
            let over = now.duration_since(stopping.at) >= millis(script.shutting_down_millis);
            return if machine_gone && over { State::Terminated } else { State::ShuttingDown };
        }
        if self.stopped {
            return State::Stopped;
        }
        let long_enough = now.duration_since(self.launched_at) >= millis(script.pending_millis);
        if long_enough && matches!(self.machine, Machine::NotWanted | Machine::Up) {
            State::Running
        } else {
            State::Pending
        }
    }

    /// Whether Describe and Terminate know of it already.
    pub fn is_visible(&self, script: &Script, now: Timestamp) -> bool {
        now.duration_since(self.launched_at) >= millis(script.not_found_millis)
    }

    pub fn is_past(&self, script: &Script, now: Timestamp) -> bool {
        self.ended_at.is_some_and(|at| now.duration_since(at) >= millis(script.terminated_millis))
    }
}

/// By id.
#[derive(Clone, Debug, Default)]
pub struct Instances(pub BTreeMap<String, Instance>);

impl Instances {
    /// Notes who has reached their end, and forgets who ended long ago. Returns the forgotten.
    pub fn tick(&mut self, script: &Script, now: Timestamp) -> Vec<String> {
        for instance in self.0.values_mut() {
            if instance.ended_at.is_none() && instance.state(script, now) == State::Terminated {
                instance.ended_at = Some(now);
            }
        }
        let past: Vec<String> = self.0.values().filter(|i| i.is_past(script, now)).map(|i| i.id.clone()).collect();
        past.iter().for_each(|id| drop(self.0.remove(id)));
        past
    }

    pub fn visible(&self, id: &str, script: &Script, now: Timestamp) -> Option<&Instance> {
        self.0.get(id).filter(|instance| instance.is_visible(script, now) && !instance.is_past(script, now))
    }

    /// How many hold capacity of this pool.
    pub fn held(&self, pool: &Pool) -> u32 {
        let held = self.0.values().filter(|i| i.ended_at.is_none() && i.pool == *pool).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    /// By an address of its own or of its Pod's.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Instance> {
        self.0.values().find(|i| i.ended_at.is_none() && (i.address == address || i.secondary.contains(&address)))
    }

    /// Free addresses for Pods: from the top of the subnet down, while moto gives the instances' own
    /// from the bottom up. They return when their instance is gone.
    pub fn secondary(&self, subnet: Subnet, count: usize) -> Option<Vec<Ipv4Addr>> {
        let taken: BTreeSet<Ipv4Addr> = self
            .0
            .values()
            .filter(|i| i.ended_at.is_none())
            .flat_map(|i| i.secondary.iter().copied().chain([i.address]))
            .collect();
        let free: Vec<Ipv4Addr> = subnet.top_down().filter(|ip| !taken.contains(ip)).take(count).collect();
        (free.len() == count).then_some(free)
    }

    /// How many of the subnet's addresses are free. AWS keeps five (AWS, "Subnet CIDR blocks").
    pub fn free_addresses(&self, subnet: Subnet) -> usize {
        let holds = |i: &&Instance| i.ended_at.is_none() && subnet.contains(i.address);
        let taken: usize = self.0.values().filter(holds).map(|i| 1 + i.secondary.len()).sum();
        subnet.size().saturating_sub(5 + taken)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub network: Ipv4Addr,
    pub prefix_len: u8,
}

impl Subnet {
    pub fn parse(cidr: &str) -> Option<Self> {
        let (network, prefix_len) = cidr.split_once('/')?;
        let prefix_len = prefix_len.parse().ok().filter(|len| (1..=30).contains(len))?;
        Some(Self { network: network.parse().ok()?, prefix_len })
    }

    fn size(self) -> usize {
        1 << (32 - self.prefix_len)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        let distance = u32::from(address).wrapping_sub(u32::from(self.network));
        (distance as usize) < self.size()
    }

    /// Its upper half, without the broadcast address.
    fn top_down(self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, size) = (u32::from(self.network), u32::try_from(self.size()).unwrap_or(u32::MAX));
        (first + size / 2..first + size - 1).rev().map(Ipv4Addr::from)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::script::Lifecycle;
    use proptest::prelude::*;

    pub fn at(millis: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(millis)
    }

    pub fn instance(id: &str, launched: i64) -> Instance {
        Instance {
            id: id.to_owned(),
            reservation: "r-1".to_owned(),
            pool: Pool {
                lifecycle: Lifecycle::Spot,
                instance_type: "t3.micro".to_owned(),
                zone: "us-east-1a".to_owned(),
            },
            subnet: "subnet-1".to_owned(),
            address: Ipv4Addr::new(10, 72, 0, 4),
            secondary: vec![Ipv4Addr::new(10, 72, 63, 254)],
            client_token: "token".to_owned(),
            credits: None,
            user_data: String::new(),
            hop_limit: 1,
            mac: "02:70:0a:48:00:04".to_owned(),
            interface: "eni-1".to_owned(),
            image: "ami-1".to_owned(),
            launched_at: at(launched),
            machine: Machine::NotWanted,
            stopped: false,
            stopping: None,
            ended_at: None,
        }
    }

    fn script() -> Script {
        Script {
            pending_millis: 5000,
            not_found_millis: 1000,
            shutting_down_millis: 2000,
            terminated_millis: 60_000,
            ..Script::default()
        }
    }

    #[test]
    fn an_instance_is_unknown_then_pending_then_running_then_ends_and_is_forgotten() {
        let script = script();
        let mut all = Instances([("i-1".to_owned(), instance("i-1", 0))].into());
        assert!(all.visible("i-1", &script, at(999)).is_none());
        assert_eq!(all.visible("i-1", &script, at(1000)).unwrap().state(&script, at(1000)), State::Pending);
        assert_eq!(all.0["i-1"].state(&script, at(5000)), State::Running);
        all.0.get_mut("i-1").unwrap().stopping = Some(Stopping::by_user(at(6000)));
        assert_eq!(all.0["i-1"].state(&script, at(7999)), State::ShuttingDown);
        assert_eq!(all.0["i-1"].state(&script, at(8000)), State::Terminated);
        assert!(all.tick(&script, at(8000)).is_empty());
        assert_eq!(all.held(&instance("x", 0).pool), 0);
        assert_eq!(all.tick(&script, at(68_000)), ["i-1"]);
    }

    #[test]
    fn one_with_a_machine_runs_when_that_is_up_and_is_terminated_when_that_is_gone() {
        let script = script();
        let mut one = instance("i-1", 0);
        one.machine = Machine::Awaited;
        assert_eq!(one.state(&script, at(60_000)), State::Pending);
        one.machine = Machine::Up;
        assert_eq!(one.state(&script, at(4000)), State::Pending, "not before its least time");
        assert_eq!(one.state(&script, at(5000)), State::Running);
        one.stopping = Some(Stopping::by_user(at(6000)));
        assert_eq!(one.state(&script, at(60_000)), State::ShuttingDown);
        one.machine = Machine::Gone;
        assert_eq!(one.state(&script, at(60_000)), State::Terminated);
    }

    proptest! {
        #[test]
        fn addresses_of_pods_are_never_shared_nor_outside_the_upper_half(counts in prop::collection::vec(0usize..4, 1..12)) {
            let subnet = Subnet::parse("10.72.64.0/26").unwrap();
            let mut all = Instances::default();
            let mut seen = BTreeSet::new();
            for (n, count) in counts.into_iter().enumerate() {
                let Some(secondary) = all.secondary(subnet, count) else {
                    prop_assert!(seen.len() + count > 31, "refused though there was room");
                    continue;
                };
                for ip in &secondary {
                    prop_assert!(seen.insert(*ip));
                    prop_assert!((Ipv4Addr::new(10, 72, 64, 32)..Ipv4Addr::new(10, 72, 64, 63)).contains(ip));
                }
                let mut one = instance(&format!("i-{n}"), 0);
                one.address = Ipv4Addr::new(10, 72, 64, u8::try_from(n).unwrap() + 4);
                one.secondary = secondary;
                all.0.insert(one.id.clone(), one);
            }
        }
    }
}
