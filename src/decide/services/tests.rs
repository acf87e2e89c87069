use super::*;
use proptest::{collection::btree_map, prelude::*};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn web() -> Service {
    Service {
        name: ObjectName::new("shop", "web"),
        cluster_ips: vec![IpAddr::from([10, 96, 0, 7])],
        ports: vec![Port { name: "http".into(), port: 80, protocol: Protocol::Tcp }],
        affinity_seconds: None,
        local_only: false,
    }
}

fn slice(endpoints: Vec<SliceEndpoint>) -> Slice {
    let ports = vec![Port { name: "http".into(), port: 8080, protocol: Protocol::Tcp }];
    Slice { service: ObjectName::new("shop", "web"), ports, endpoints }
}

fn endpoint(last: u8) -> SliceEndpoint {
    SliceEndpoint { ip: ip(last), node: Some(NodeName::new("far")), ready: true, serving: true, terminating: false }
}

fn draining(last: u8) -> SliceEndpoint {
    SliceEndpoint { ready: false, serving: true, terminating: true, ..endpoint(last) }
}

fn unready(last: u8) -> SliceEndpoint {
    SliceEndpoint { ready: false, serving: false, ..endpoint(last) }
}

/// The last bytes of the endpoints of the only port.
fn chosen(service: &Service, slices: &[Slice]) -> Vec<u8> {
    let own = BTreeSet::from([NodeName::new("ours")]);
    let ports = service_ports([service], slices, &own);
    let port = ports.values().next().expect("one port");
    let last = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => panic!("not IPv4"),
    };
    port.endpoints.iter().map(|endpoint| last(endpoint.ip)).collect()
}

#[test]
fn ready_endpoints_of_all_slices_are_chosen_once_and_sorted() {
    let slices = [slice(vec![endpoint(9), endpoint(2), unready(3)]), slice(vec![endpoint(2), draining(4)])];
    assert_eq!(chosen(&web(), &slices), [2, 9]);
}

#[test]
fn endpoints_that_still_serve_while_they_terminate_stand_in_when_none_is_ready() {
    let not_serving = SliceEndpoint { serving: false, ..draining(6) };
    assert_eq!(chosen(&web(), &[slice(vec![unready(3), draining(4), not_serving])]), [4]);
}

#[test]
fn a_service_without_endpoints_is_kept_so_that_connections_are_refused() {
    assert_eq!(chosen(&web(), &[]), [0u8; 0]);
}

#[test]
fn an_endpoints_port_is_the_slices_and_matched_by_name_and_protocol() {
    let mut service = web();
    service.ports.push(Port { name: "http".into(), port: 80, protocol: Protocol::Udp });
    let ports = service_ports([&service], &[slice(vec![endpoint(2)])], &BTreeSet::new());
    let tcp: Vec<_> = ports.values().map(|port| (port.protocol, port.endpoints.clone())).collect();
    assert_eq!(tcp, [(Protocol::Tcp, vec![Endpoint { ip: ip(2), port: 8080 }]), (Protocol::Udp, vec![])]);
}

#[test]
fn headless_services_and_ipv6_are_left_out() {
    let headless = Service { cluster_ips: vec![], ..web() };
    let v6 = Service { cluster_ips: vec!["fd00::1".parse().expect("an address")], ..web() };
    assert!(service_ports([&headless, &v6], &[], &BTreeSet::new()).is_empty());
    let v6_endpoint = SliceEndpoint { ip: "fd00::2".parse().expect("an address"), ..endpoint(2) };
    assert_eq!(chosen(&web(), &[slice(vec![v6_endpoint])]), [0u8; 0]);
}

#[test]
fn a_local_service_never_leaves_the_providers_nodes() {
    let local = Service { local_only: true, ..web() };
    let ours = SliceEndpoint { node: Some(NodeName::new("ours")), ..endpoint(5) };
    let nowhere = SliceEndpoint { node: None, ..endpoint(6) };
    assert_eq!(chosen(&local, &[slice(vec![endpoint(2), ours, nowhere])]), [5]);
}

fn any_set() -> impl Strategy<Value = BTreeMap<ServicePortKey, ServicePort>> {
    btree_map(0u8..5, (0u8..3, proptest::collection::vec(0u8..4, 0..3)), 0..5).prop_map(|set| {
        let ports = set.into_iter().map(|(name, (cluster_ip, endpoints))| ServicePort {
            service: ObjectName::new("ns", format!("svc-{name}")),
            port_name: String::new(),
            cluster_ip: ip(100 + cluster_ip),
            port: 80,
            protocol: Protocol::Tcp,
            endpoints: endpoints.into_iter().map(|last| Endpoint { ip: ip(last), port: 1 }).collect(),
            affinity_seconds: None,
        });
        ports.map(|port| (port.key(), port)).collect()
    })
}

proptest! {
    #[test]
    fn whoever_applies_every_update_has_the_newest_set(sets in proptest::collection::vec(any_set(), 1..8)) {
        let mut provider = ServicesState::starting_at(1000);
        let mut agent = ServicesState::default();
        prop_assert_eq!(agent.apply(&provider.whole()), Ok(()));
        for set in sets {
            let changed = *provider.ports() != set;
            let update = provider.advance(set.clone());
            prop_assert_eq!(update.is_some(), changed);
            if let Some(update) = update {
                prop_assert_eq!(agent.apply(&update), Ok(()));
            }
            prop_assert_eq!(agent.ports(), &set);
            prop_assert_eq!(&agent, &provider);
            let mut late = ServicesState::default();
            prop_assert_eq!(late.apply(&provider.whole()), Ok(()));
            prop_assert_eq!(&late, &provider);
        }
    }

    #[test]
    fn an_update_from_another_version_changes_nothing(set in any_set(), from in 1u64..9) {
        let mut agent = ServicesState::starting_at(4);
        agent.advance(set);
        let before = agent.clone();
        let update = ServicesUpdate { from, to: from + 1, upsert: vec![], remove: vec![] };
        if from != before.version() {
            prop_assert!(agent.apply(&update).is_err());
            prop_assert_eq!(agent, before);
        }
    }
}
