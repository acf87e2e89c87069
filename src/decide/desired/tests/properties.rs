//! What holds for every Pod.

use super::*;

fn amount() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(0u64..1000)
}

fn resources() -> impl Strategy<Value = Resources> {
    (amount(), amount(), amount()).prop_map(|(cpu_millis, memory_bytes, ephemeral_storage_bytes)| Resources {
        cpu_millis,
        memory_bytes,
        ephemeral_storage_bytes,
    })
}

fn sized(kind: ContainerKind, requests: Resources) -> ContainerSpec {
    ContainerSpec { kind, requests, ..container("c") }
}

/// The definition, moment by moment: what runs in each, and the worst of them.
fn reference(spec: &PodSpec, of: fn(&Resources) -> Option<u64>) -> u64 {
    let request = |container: &ContainerSpec| of(&container.requests).unwrap_or(0);
    let sidecars_before = |index: usize| -> u64 {
        let before = spec.init_containers[..index].iter();
        before.filter(|container| container.kind == ContainerKind::Sidecar).map(request).sum()
    };
    let starting = spec.init_containers.iter().enumerate().map(|(i, c)| sidecars_before(i) + request(c));
    let running = sidecars_before(spec.init_containers.len()) + spec.containers.iter().map(request).sum::<u64>();
    let containers = starting.chain([running]).max().unwrap_or(0);
    of(&spec.pod_requests).unwrap_or(containers) + of(&spec.overhead).unwrap_or(0)
}

fn word() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["A", "B", "$(A)", "$(B) $$(A)", "$(KUBERNETES_SERVICE_HOST)"]).prop_map(str::to_owned)
}

fn any_value() -> impl Strategy<Value = EnvValue> {
    let name = || proptest::sample::select(vec!["one", "two", "three"]).prop_map(str::to_owned);
    prop_oneof![
        word().prop_map(EnvValue::Literal),
        (name(), word(), any::<bool>()).prop_map(|(name, key, optional)| EnvValue::ConfigMapKey {
            name,
            key,
            optional
        }),
        (name(), word(), any::<bool>()).prop_map(|(name, key, optional)| EnvValue::SecretKey { name, key, optional }),
        Just(field("metadata.labels")),
    ]
}

proptest! {
    #[test]
    fn a_pods_size_is_its_worst_moment(
        inits in vec((any::<bool>(), resources()), 0..5),
        apps in vec(resources(), 1..4),
        pod_requests in resources(),
        overhead in resources(),
    ) {
        let kind = |sidecar| if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init };
        let spec = PodSpec {
            init_containers: inits.into_iter().map(|(sidecar, requests)| sized(kind(sidecar), requests)).collect(),
            containers: apps.into_iter().map(|requests| sized(ContainerKind::App, requests)).collect(),
            pod_requests,
            overhead,
            ..PodSpec::empty()
        };
        let size = pod_size(&spec);
        prop_assert_eq!(size.cpu_millis.unwrap_or(0), reference(&spec, |r| r.cpu_millis));
        prop_assert_eq!(size.memory_bytes.unwrap_or(0), reference(&spec, |r| r.memory_bytes));
        prop_assert_eq!(size.ephemeral_storage_bytes.unwrap_or(0), reference(&spec, |r| r.ephemeral_storage_bytes));
    }

    #[test]
    fn resolving_is_a_function_of_what_is_known_not_of_the_order_it_came_in(
        env in vec((word(), any_value()), 0..6),
        objects in vec((0usize..3, vec((word(), word()), 0..3)), 0..4),
        services in vec((0u8..4, 1u16..3), 0..4),
        from in vec((any::<bool>(), 0usize..3), 0..3),
    ) {
        let names = ["one", "two", "three"];
        let build = |reverse: bool| {
            let mut case = Case::new();
            case.app().env = env.iter().map(|(name, value)| EnvVar { name: name.clone(), value: value.clone() }).collect();
            case.app().env_from = from.iter().map(|(secret, at)| {
                let name = names[*at].to_owned();
                let source = if *secret { ObjectRef::Secret(name) } else { ObjectRef::ConfigMap(name) };
                EnvFrom { prefix: "P_".into(), source, optional: true }
            }).collect();
            // Of two generated objects with one name the last counts, whichever way they are put in.
            let last: BTreeMap<_, _> = objects.iter().cloned().collect();
            let mut objects: Vec<_> = last.into_iter().collect();
            let last: BTreeMap<_, _> = services.iter().copied().collect();
            let mut links: Vec<_> = last.into_iter().map(|(n, port)| service(&format!("s{n}"), n, &[("", port, Protocol::Tcp)])).collect();
            if reverse {
                objects.reverse();
                links.reverse();
            }
            for (at, pairs) in objects {
                let pairs: BTreeMap<String, String> = pairs.into_iter().collect();
                let secret = Secret { data: pairs.iter().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect() };
                case.refs.secrets.insert(names[at].into(), Fetched::Found(Arc::new(secret)));
                let map = ConfigMap { data: pairs, ..ConfigMap::default() };
                case.refs.config_maps.insert(names[at].into(), Fetched::Found(Arc::new(map)));
            }
            case.refs.services = Some(links);
            case.resolve()
        };
        let pod = build(false);
        prop_assert_eq!(&pod, &build(true));
        let json = serde_json::to_string(&pod).expect("serializable");
        prop_assert_eq!(serde_json::from_str::<DesiredPod>(&json).expect("readable"), pod);
    }

    #[test]
    fn every_variable_appears_once(env in vec((word(), any_value()), 0..8)) {
        let mut case = Case::new();
        for name in ["one", "two", "three"] {
            case = case.config_map(name, &[]).secret(name, &[]);
        }
        case.app().env = env.into_iter().map(|(name, value)| EnvVar { name, value }).collect();
        let env = case.resolved_app().env;
        let names: std::collections::BTreeSet<_> = env.iter().map(|(name, _)| name).collect();
        prop_assert_eq!(names.len(), env.len());
    }
}
