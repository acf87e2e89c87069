use super::{frontends::Frontends, render};
use crate::model::{Endpoint, ObjectName, PortSpec, Protocol, ServicePort};
use proptest::{collection::vec, prelude::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

fn port(name: &str, cluster_ip: u8, number: u16, endpoints: &[u8]) -> ServicePort {
    ServicePort {
        service: ObjectName::new("shop", name),
        port_name: "http".into(),
        cluster_ip: IpAddr::from([10, 96, 0, cluster_ip]),
        port: number,
        protocol: Protocol::Tcp,
        endpoints: endpoints.iter().map(|last| Endpoint { ip: IpAddr::from([10, 0, 0, *last]), port: 8080 }).collect(),
        affinity_seconds: None,
    }
}

/// What nft would hold after a script: just enough of it to catch what the kernel would refuse.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    chains: BTreeMap<String, Vec<String>>,
    services: BTreeMap<String, String>,
    cluster_ips: BTreeSet<String>,
    sets: BTreeSet<String>,
}

impl Kernel {
    fn run(&mut self, script: &str) -> Result<(), String> {
        let mut next = self.clone();
        for line in script.lines() {
            next.statement(line).map_err(|why| format!("{why}: {line}"))?;
        }
        for rule in next.chains.values().flatten().chain(next.services.values()) {
            for target in rule.split("goto ").skip(1).map(|rest| rest.split([' ', ',']).next().unwrap_or_default()) {
                if !next.chains.contains_key(target) {
                    return Err(format!("{rule}: no chain {target}"));
                }
            }
            for set in rule.split('@').skip(1).map(|rest| rest.split(' ').next().unwrap_or_default()) {
                let known = ["service-ips", "cluster-ips"].contains(&set) || next.sets.contains(set);
                if !known {
                    return Err(format!("{rule}: no set {set}"));
                }
            }
        }
        *self = next;
        Ok(())
    }

    fn statement(&mut self, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(" ip pilotlight").ok_or("not our table")?;
        let (name, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let inner = || rest.trim_start_matches("{ ").trim_end_matches(" }").split(", ");
        match verb {
            "delete table" => *self = Self::default(),
            "add table" | "add map" => {}
            "add set" => drop(self.sets.insert(name.to_owned())),
            "add chain" => drop(self.chains.entry(name.to_owned()).or_default()),
            "flush chain" => self.chains.get_mut(name).ok_or("no such chain")?.clear(),
            "delete chain" => drop(self.chains.remove(name).filter(Vec::is_empty).ok_or("no such empty chain")?),
            "delete set" => drop(self.sets.take(name).ok_or("no such set")?),
            "add rule" => self.chains.get_mut(name).ok_or("no such chain")?.push(rest.to_owned()),
            "add element" if name == "cluster-ips" => self.cluster_ips.extend(inner().map(str::to_owned)),
            "delete element" if name == "cluster-ips" => {
                for ip in inner() {
                    self.cluster_ips.take(ip).ok_or("no such element")?;
                }
            }
            "add element" => {
                for element in inner() {
                    let (key, verdict) = element.split_once(" : ").ok_or("no verdict")?;
                    if self.services.insert(key.to_owned(), verdict.to_owned()).is_some() {
                        return Err("element exists".into());
                    }
                }
            }
            "delete element" => {
                for key in inner() {
                    self.services.remove(key).ok_or("no such element")?;
                }
            }
            other => return Err(format!("unknown verb {other}")),
        }
        Ok(())
    }

    /// Without the chains that only wait to be deleted.
    fn live(mut self) -> Self {
        self.chains.retain(|name, rules| !rules.is_empty() || !(name.starts_with("svc-") || name.starts_with("ep-")));
        let rules = self.chains.values().flatten().cloned().collect::<String>();
        self.sets.retain(|set| !set.starts_with("aff-") || rules.contains(set.as_str()));
        self
    }
}

fn any_port() -> impl Strategy<Value = ServicePort> {
    (0u8..4, 0u8..3, 1u16..3, vec(0u8..4, 0..4), any::<bool>(), prop_oneof![Just(None), Just(Some(60)), Just(Some(90))])
        .prop_map(|(name, ip, number, endpoints, udp, affinity_seconds)| {
            let endpoints: Vec<u8> = BTreeSet::from_iter(endpoints).into_iter().collect();
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            ServicePort { protocol, affinity_seconds, ..port(&format!("s{name}"), ip, number, &endpoints) }
        })
}

fn keyed(ports: Vec<ServicePort>) -> BTreeMap<crate::model::ServicePortKey, ServicePort> {
    ports.into_iter().map(|port| (port.key(), port)).collect()
}

proptest! {
    #[test]
    fn increments_lead_to_the_rules_that_writing_everything_would(sets in vec(vec(any_port(), 0..6), 1..6)) {
        let mut frontends = Frontends::default();
        let mut kernel = Kernel::default();
        prop_assert_eq!(kernel.run(&render::whole(&frontends, None)), Ok(()));
        let mut present = BTreeMap::new();
        let mut stale = BTreeSet::new();
        for set in sets {
            let next = keyed(set);
            let differs = |(key, port): &(_, &ServicePort), other: &BTreeMap<_, ServicePort>| other.get(*key) != Some(*port);
            let before: Vec<_> = present.iter().filter(|e| differs(e, &next)).map(|(_, p): (_, &ServicePort)| p.clone()).collect();
            let after: Vec<_> = next.iter().filter(|e| differs(e, &present)).map(|(_, p)| p.clone()).collect();
            let changes = frontends.change(&before, &after);
            prop_assert_eq!(kernel.run(&render::increment(&changes)), Ok(()));
            for change in &changes {
                stale.extend(render::left_over(change));
                for name in render::in_use(change) {
                    stale.remove(&name);
                }
            }
            let mut whole = Kernel::default();
            prop_assert_eq!(whole.run(&render::whole(&Frontends::of(next.values()), None)), Ok(()));
            prop_assert_eq!(kernel.clone().live(), whole.clone());
            prop_assert_eq!(&frontends, &Frontends::of(next.values()));
            let mut swept = kernel.clone();
            prop_assert_eq!(swept.run(&render::deletion(&stale.iter().cloned().collect::<Vec<_>>())), Ok(()));
            prop_assert_eq!(swept, whole);
            present = next;
        }
    }
}

#[test]
fn an_increment_touches_only_what_changed() {
    let old = [port("web", 7, 80, &[1, 2]), port("db", 8, 5432, &[3])];
    let mut frontends = Frontends::of(&old);
    let script = render::increment(&frontends.change(&old[..1], &[port("web", 7, 80, &[2])]));
    assert_eq!(
        script,
        "add chain ip pilotlight svc-10.96.0.7-tcp-80\n\
         flush chain ip pilotlight svc-10.96.0.7-tcp-80\n\
         add rule ip pilotlight svc-10.96.0.7-tcp-80 meta l4proto tcp dnat to 10.0.0.2:8080 comment \"shop/web:http\"\n"
    );
    assert!(frontends.change(&old[1..], &old[1..]).is_empty());
}

#[test]
fn traffic_is_spread_over_the_endpoints_at_random() {
    let script = render::whole(&Frontends::of(&[port("web", 7, 80, &[1, 2])]), None);
    let spread =
        "meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8080 }";
    assert!(script.contains(spread), "{script}");
    assert!(script.contains("service-ips { 10.96.0.7 . tcp . 80 : goto svc-10.96.0.7-tcp-80 }"), "{script}");
}

#[test]
fn a_service_without_endpoints_has_an_address_that_is_refused() {
    let script = render::whole(&Frontends::of(&[port("web", 7, 80, &[])]), None);
    assert!(script.contains("add element ip pilotlight cluster-ips { 10.96.0.7 }"), "{script}");
    assert!(!script.contains("add element ip pilotlight service-ips"), "{script}");
}

#[test]
fn what_the_machine_sends_to_the_provider_is_not_led_to_endpoints_that_the_provider_told() {
    let provider = "10.96.0.7:10255".parse().unwrap();
    let script = render::whole(&Frontends::of(&[port("agents", 7, 10255, &[1])]), Some(provider));
    let place = |rule: &str| script.find(rule).unwrap_or_else(|| panic!("no {rule:?} in {script}"));
    let passes = "ip daddr 10.96.0.7 tcp dport 10255 accept";
    for (chain, then) in [("output", "jump services"), ("filter-output", "ct state new jump refuse")] {
        let rule = |words: &str| place(&format!("add rule ip pilotlight {chain} {words}\n"));
        assert!(rule(passes) < rule(then));
    }
    assert_eq!(script.matches(passes).count(), 2, "the Pod's own way there is as to any Service");
}

#[test]
fn names_from_outside_cannot_break_out_of_a_comment() {
    let evil = ServicePort { port_name: "x\"; flush ruleset #".into(), ..port("web", 7, 80, &[1]) };
    assert!(render::whole(&Frontends::of(&[evil]), None).contains("comment \"shop/web:xflushruleset\"\n"));
}

#[test]
fn a_pods_host_ports_lead_to_it() {
    let spec = |host_port, host_ip, protocol| PortSpec { name: None, container_port: 80, host_port, host_ip, protocol };
    let ports = [
        spec(Some(8080), None, Protocol::Tcp),
        spec(Some(53), Some(IpAddr::from([10, 72, 0, 9])), Protocol::Udp),
        spec(Some(54), Some(IpAddr::from([0, 0, 0, 0])), Protocol::Udp),
        spec(None, None, Protocol::Tcp),
    ];
    let script = render::pod(Ipv4Addr::new(10, 72, 1, 5), &ports);
    let rules: Vec<_> =
        script.lines().filter_map(|line| line.strip_prefix("add rule ip pilotlight-pod host-ports ")).collect();
    assert_eq!(
        rules,
        [
            "tcp dport 8080 dnat to 10.72.1.5:80",
            "ip daddr 10.72.0.9 udp dport 53 dnat to 10.72.1.5:80",
            "udp dport 54 dnat to 10.72.1.5:80",
        ]
    );
}
