//! Behaviour against what kubelet does, and properties over generated Pods.

use super::*;
use crate::model::{
    ContainerKind, ContainerSecurity, DnsPolicy, DownwardFile, EnvFrom, EnvValue, EnvVar, FieldPath, KeyToPath,
    Lifecycle, MountPropagation, NodeName, ObjectName, ObjectRef, PodUid, Probes, ProjectedSource, Protocol,
    PullPolicy, RegistryCredential, ResourceField, TerminationMessage, VolumeSpec,
};
use proptest::{collection::vec, prelude::*};
use std::{collections::BTreeMap, sync::Arc};

mod properties;
mod volumes;

fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        kind: ContainerKind::App,
        image: "registry.example/team/app:1".into(),
        pull_policy: PullPolicy::IfNotPresent,
        command: vec![],
        args: vec![],
        working_dir: None,
        env: vec![],
        env_from: vec![],
        mounts: vec![],
        ports: vec![],
        requests: Resources::default(),
        limits: Resources::default(),
        security: ContainerSecurity::default(),
        probes: Probes::default(),
        lifecycle: Lifecycle::default(),
        termination_message: TerminationMessage { path: "/dev/termination-log".into(), fallback_to_logs: false },
        stdin: false,
        stdin_once: false,
        tty: false,
    }
}

/// A Pod and its surroundings, to be bent by each test.
struct Case {
    intent: PodIntent,
    spec: PodSpec,
    refs: Refs,
    facts: NodeFacts,
}

impl Case {
    fn new() -> Self {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let spec = PodSpec { containers: vec![container("app")], service_account: "robot".into(), ..PodSpec::empty() };
        let intent = PodIntent {
            uid: PodUid::new("u-1"),
            name: ObjectName::new("shop", "web-0"),
            node: NodeName::new("pilotlight-a"),
            labels: Arc::new(labels),
            annotations: Arc::new(BTreeMap::from([("note".to_owned(), "two\nlines".to_owned())])),
            generation: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            owner: None,
            deletion: None,
            spec: Ok(Arc::new(spec.clone())),
        };
        let facts = NodeFacts {
            pod_ip: Some(IpAddr::from([10, 72, 0, 5])),
            host_ips: vec![IpAddr::from([10, 70, 0, 1])],
            allocatable: Resources {
                cpu_millis: Some(2000),
                memory_bytes: Some(4 << 30),
                ephemeral_storage_bytes: Some(20 << 30),
            },
            cluster_domain: "cluster.local".into(),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            host_dns: DnsConfig::default(),
        };
        Self { intent, spec, refs: Refs { services: Some(vec![]), ..Refs::default() }, facts }
    }

    fn app(&mut self) -> &mut ContainerSpec {
        &mut self.spec.containers[0]
    }

    fn env(mut self, env: &[(&str, EnvValue)]) -> Self {
        self.app().env =
            env.iter().map(|(name, value)| EnvVar { name: (*name).into(), value: value.clone() }).collect();
        self
    }

    fn config_map(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let object = ConfigMap { data, binary_data: BTreeMap::from([("bin".into(), vec![0, 255])]) };
        self.refs.config_maps.insert(name.into(), Fetched::Found(Arc::new(object)));
        self
    }

    fn secret(mut self, name: &str, data: &[(&str, &[u8])]) -> Self {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
        self.refs.secrets.insert(name.into(), Fetched::Found(Arc::new(Secret { data })));
        self
    }

    fn files(mut self, sources: Vec<ProjectedSource>) -> DesiredVolumeSource {
        let source = VolumeSource::Projected { sources, default_mode: 0o644 };
        self.spec.volumes = vec![VolumeSpec { name: "v".into(), source }];
        self.resolve().volumes.remove(0).source
    }

    fn resolve(&self) -> DesiredPod {
        resolve(&self.intent, &self.spec, &self.refs, &self.facts, Generation(3), None)
    }

    fn resolved_app(&self) -> DesiredContainer {
        self.resolve().containers.remove(0)
    }

    /// The environment, later ones winning.
    fn variables(&self) -> BTreeMap<String, String> {
        let app = self.resolved_app();
        assert_eq!(app.blocked, None);
        app.env.into_iter().collect()
    }

    fn blocked(&self) -> String {
        self.resolved_app().blocked.expect("blocked")
    }
}

fn literal(text: &str) -> EnvValue {
    EnvValue::Literal(text.into())
}

fn config_key(name: &str, key: &str, optional: bool) -> EnvValue {
    EnvValue::ConfigMapKey { name: name.into(), key: key.into(), optional }
}

fn secret_key(name: &str, key: &str, optional: bool) -> EnvValue {
    EnvValue::SecretKey { name: name.into(), key: key.into(), optional }
}

fn field(path: &str) -> EnvValue {
    EnvValue::Field(FieldPath(path.into()))
}

fn service(name: &str, last: u8, ports: &[(&str, u16, Protocol)]) -> Arc<ServiceLink> {
    let port = |(name, port, protocol): &(&str, u16, Protocol)| ServiceLinkPort {
        name: (*name).to_owned(),
        port: *port,
        protocol: *protocol,
    };
    Arc::new(ServiceLink {
        name: name.into(),
        cluster_ip: IpAddr::from([10, 96, 0, last]),
        ports: ports.iter().map(port).collect(),
    })
}

#[test]
fn env_wins_over_env_from_and_both_over_services() {
    let mut case = Case::new().config_map("c", &[("A", "from c"), ("B", "from c")]).env(&[("B", literal("own $(A)"))]);
    case.refs.services = Some(vec![service("web-ui", 7, &[("http", 80, Protocol::Tcp), ("dns", 53, Protocol::Udp)])]);
    let from = EnvFrom { prefix: String::new(), source: ObjectRef::ConfigMap("c".into()), optional: false };
    case.app().env_from = vec![from.clone(), EnvFrom { prefix: "WEB_UI_SERVICE_".into(), ..from }];
    let env = case.variables();
    for (name, value) in [
        ("A", "from c"),
        ("B", "own from c"),
        ("WEB_UI_SERVICE_A", "from c"),
        ("WEB_UI_SERVICE_HOST", "10.96.0.7"),
        ("WEB_UI_SERVICE_PORT", "80"),
        ("WEB_UI_SERVICE_PORT_HTTP", "80"),
        ("WEB_UI_SERVICE_PORT_DNS", "53"),
        ("WEB_UI_PORT", "tcp://10.96.0.7:80"),
        ("WEB_UI_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("WEB_UI_PORT_53_UDP_PROTO", "udp"),
        ("WEB_UI_PORT_53_UDP_PORT", "53"),
        ("WEB_UI_PORT_53_UDP_ADDR", "10.96.0.7"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn without_service_links_only_the_api_server_is_in_the_environment() {
    let mut case = Case::new();
    case.spec.enable_service_links = false;
    case.refs.services = Some(vec![service("web", 7, &[("", 80, Protocol::Tcp)])]);
    case.refs.kubernetes = Some(service("kubernetes", 1, &[("https", 443, Protocol::Tcp)]));
    let env = case.variables();
    assert_eq!(env.get("KUBERNETES_SERVICE_HOST").map(String::as_str), Some("10.96.0.1"));
    assert!(!env.contains_key("WEB_SERVICE_HOST"));
}

#[test]
fn references_see_what_stands_before_them_in_env_command_and_args() {
    let mut case = Case::new().env(&[
        ("EARLY", literal("$(LATE)")),
        ("LATE", literal("x")),
        ("ESCAPED", literal("$$(LATE)")),
        ("AGAIN", literal("$(LATE)$(LATE) $(NONE)")),
    ]);
    case.app().command = vec!["run".into(), "$(AGAIN)".into()];
    case.app().args = vec!["$(NONE)".into(), "$$(LATE)".into()];
    let app = case.resolved_app();
    let env: BTreeMap<_, _> = app.env.into_iter().collect();
    assert_eq!(env["EARLY"], "$(LATE)");
    assert_eq!(env["ESCAPED"], "$(LATE)");
    assert_eq!(env["AGAIN"], "xx $(NONE)");
    assert_eq!((app.command[1].as_str(), app.args), ("xx $(NONE)", vec!["$(NONE)".to_owned(), "$(LATE)".to_owned()]));
}

#[test]
fn what_is_missing_blocks_the_container_in_kubelets_words_and_optional_does_not() {
    let case = || Case::new().config_map("c", &[("k", "v")]).secret("s", &[("k", b"v"), ("raw", &[255])]);
    let mut missing = case();
    missing.refs.secrets.insert("gone".into(), Fetched::Missing);
    missing.refs.config_maps.insert("gone".into(), Fetched::Missing);
    let blocked = |value: EnvValue| {
        let mut case = Case { refs: missing.refs.clone(), ..Case::new() };
        case = case.env(&[("A", value)]);
        case.resolved_app().blocked
    };
    for (value, message) in [
        (secret_key("gone", "k", false), "secret \"gone\" not found"),
        (config_key("gone", "k", false), "configmap \"gone\" not found"),
        (config_key("c", "x", false), "couldn't find key x in ConfigMap shop/c"),
        (secret_key("s", "x", false), "couldn't find key x in Secret shop/s"),
        (secret_key("s", "raw", false), "key raw in Secret shop/s is not UTF-8 text: it can't be in an environment"),
    ] {
        assert_eq!(blocked(value).as_deref(), Some(message));
    }
    for value in [secret_key("gone", "k", true), config_key("gone", "k", true), config_key("c", "x", true)] {
        assert_eq!(blocked(value), None);
    }
    assert!(blocked(secret_key("unasked", "k", true)).expect("not known yet").contains("failed to sync secret cache"));
}

#[test]
fn a_blocked_container_heals_when_its_secret_appears() {
    let case = Case::new().env(&[("A", secret_key("s", "k", false))]);
    let mut case = case;
    case.refs.secrets.insert("s".into(), Fetched::Missing);
    assert_eq!(case.blocked(), "secret \"s\" not found");
    assert_eq!(case.secret("s", &[("k", b"v")]).variables()["A"], "v");
}

#[test]
fn the_downward_api_tells_of_the_pod_and_where_it_runs() {
    let paths = [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "two\nlines"),
        ("spec.nodeName", "pilotlight-a"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "10.70.0.1"),
        ("status.hostIPs", "10.70.0.1"),
        ("status.podIP", "10.72.0.5"),
        ("status.podIPs", "10.72.0.5"),
    ];
    for (path, value) in paths {
        assert_eq!(Case::new().env(&[("A", field(path))]).variables()["A"], value, "{path}");
    }
    let mut on_host = Case::new().env(&[("A", field("status.podIP"))]);
    on_host.spec.host_network = true;
    assert_eq!(on_host.variables()["A"], "10.70.0.1");
}

#[test]
fn resource_fields_divide_and_round_up_and_unset_limits_are_the_machines() {
    let mut case = Case::new();
    case.app().limits = Resources { cpu_millis: Some(1500), ..Resources::default() };
    case.app().requests = Resources { memory_bytes: Some((64 << 20) + 1), ..Resources::default() };
    let value = |resource: &str, divisor: &str| {
        let field = ResourceField { container: None, resource: resource.into(), divisor: divisor.into() };
        Case { spec: case.spec.clone(), ..Case::new() }.env(&[("A", EnvValue::ResourceField(field))]).variables()["A"]
            .clone()
    };
    for (resource, divisor, expected) in [
        ("limits.cpu", "1", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.cpu", "0", "2"),
        ("limits.memory", "1Gi", "4"),
        ("limits.memory", "1", "4294967296"),
        ("limits.ephemeral-storage", "1Gi", "20"),
        ("requests.memory", "1Mi", "65"),
        ("requests.cpu", "1m", "0"),
    ] {
        assert_eq!(value(resource, divisor), expected, "{resource} by {divisor}");
    }
}

#[test]
fn sub_path_expressions_expand_strictly() {
    let mut case = Case::new().env(&[("DIR", literal("logs")), ("UP", literal("../x")), ("ABS", literal("/x"))]);
    let mount = |expression: &str| MountSpec {
        volume: "v".into(),
        path: "data".into(),
        read_only: false,
        recursive_read_only: false,
        propagation: MountPropagation::None,
        sub_path: SubPath::Expr(expression.into()),
    };
    case.app().mounts = vec![mount("$(DIR)/a")];
    let app = case.resolved_app();
    assert_eq!((app.mounts[0].sub_path.as_deref(), app.mounts[0].path.as_str()), (Some("logs/a"), "/data"));
    for (expression, message) in [
        ("$(NONE)/$(LESS)", "missing value for LESS, NONE"),
        ("$(UP)", "unable to provision SubPath `../x`: must not contain '..'"),
        ("$(ABS)", "error SubPath `/x` must not be an absolute path"),
    ] {
        case.app().mounts = vec![mount(expression)];
        assert_eq!(case.blocked(), message);
    }
}

#[test]
fn host_names_follow_name_hostname_and_subdomain() {
    let names = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::new();
        change(&mut case);
        let pod = case.resolve();
        (pod.hostname, pod.fqdn)
    };
    assert_eq!(names(&|_| ()), ("web-0".to_owned(), None));
    let full = "db.sub.shop.svc.cluster.local".to_owned();
    let named = |case: &mut Case| {
        case.spec.hostname = Some("db".into());
        case.spec.subdomain = Some("sub".into());
    };
    assert_eq!(names(&named), ("db".to_owned(), Some(full.clone())));
    let as_fqdn = |case: &mut Case| {
        named(case);
        case.spec.set_hostname_as_fqdn = true;
    };
    assert_eq!(names(&as_fqdn), (full.clone(), Some(full)));
    let long = |case: &mut Case| case.intent.name.name = format!("{}-.{}", "a".repeat(61), "b".repeat(20));
    assert_eq!(names(&long).0, "a".repeat(61));
    assert_eq!(names(&|case| case.spec.host_network = true).0, "");
    let mut too_long = Case::new();
    as_fqdn(&mut too_long);
    too_long.spec.subdomain = Some("s".repeat(60));
    assert!(too_long.blocked().contains("is too long (64 characters is the max, 86 characters requested)"));
}

#[test]
fn dns_follows_the_policy_and_what_the_pod_adds() {
    let mut case = Case::new();
    case.facts.host_dns =
        DnsConfig { nameservers: vec!["1.1.1.1".into()], searches: vec!["lan".into()], options: vec!["rotate".into()] };
    let cluster = case.resolve().dns;
    assert_eq!(cluster.nameservers, ["10.96.0.10"]);
    assert_eq!(cluster.searches, ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]);
    assert_eq!(cluster.options, ["ndots:5"]);
    case.spec.dns_config = DnsConfig {
        nameservers: ["10.96.0.10", "9.9.9.9", "8.8.8.8", "7.7.7.7"].map(str::to_owned).to_vec(),
        searches: vec!["cluster.local".into(), "corp".into()],
        options: vec!["ndots:2".into(), "edns0".into()],
    };
    let merged = case.resolve().dns;
    assert_eq!(merged.nameservers, ["10.96.0.10", "9.9.9.9", "8.8.8.8"]);
    assert_eq!(merged.searches.last().map(String::as_str), Some("corp"));
    assert_eq!(merged.options, ["ndots:2", "edns0"]);
    case.spec.host_network = true;
    assert_eq!(case.resolve().dns.nameservers[0], "1.1.1.1");
    case.spec.dns_policy = DnsPolicy::ClusterFirstWithHostNet;
    assert_eq!(case.resolve().dns.nameservers[0], "10.96.0.10");
    case.spec.dns_policy = DnsPolicy::None;
    let own = &case.spec.dns_config;
    let expected = DnsConfig { nameservers: own.nameservers[..3].to_vec(), ..own.clone() };
    assert_eq!(case.resolve().dns, expected);
}

#[test]
fn pull_secrets_of_both_formats_become_credentials() {
    let modern = br#"{"auths": {
        "registry.example": {"auth": "YTphYQ=="},
        "https://registry.example/v1/team": {"username": "b", "password": "bb"},
        "broken.example": {"auth": "?"}
    }}"#;
    let legacy = br#"{"https://index.docker.io/v1/": {"auth": "aHViOmg"}}"#;
    let mut case = Case::new().secret("m", &[(".dockerconfigjson", modern)]).secret("l", &[(".dockercfg", legacy)]);
    case.refs.secrets.insert("gone".into(), Fetched::Missing);
    case = case.secret("bad", &[(".dockercfg", b"{")]);
    case.spec.image_pull_secrets = ["l", "gone", "bad", "m"].map(str::to_owned).to_vec();
    let app = case.resolved_app();
    let found: Vec<_> = app
        .pull_credentials
        .iter()
        .map(|RegistryCredential { registry, username, password }| {
            (registry.as_str(), username.as_str(), password.as_str())
        })
        .collect();
    let expected =
        [("index.docker.io", "hub", "h"), ("registry.example/team", "b", "bb"), ("registry.example", "a", "aa")];
    assert_eq!(found, expected);
    assert_eq!(app.blocked, None);
}

#[test]
fn needs_names_everything_that_resolving_looks_at() {
    let mut case = Case::new().env(&[("A", secret_key("env", "k", true)), ("B", config_key("env", "k", false))]);
    case.spec.image_pull_secrets = vec!["pull".into()];
    case.app().env_from =
        vec![EnvFrom { prefix: String::new(), source: ObjectRef::Secret("from".into()), optional: true }];
    let sources = vec![
        volumes::whole(ObjectRef::ConfigMap("vol".into()), false),
        ProjectedSource::ServiceAccountToken { path: "t".into(), audience: Some("a".into()), expiration_seconds: 600 },
    ];
    let source = VolumeSource::Projected { sources, default_mode: 0o644 };
    case.spec.volumes = vec![VolumeSpec { name: "v".into(), source }];
    let needs = needs(&case.spec);
    assert_eq!(needs.secrets.iter().map(String::as_str).collect::<Vec<_>>(), ["env", "from", "pull"]);
    assert_eq!(needs.config_maps.iter().map(String::as_str).collect::<Vec<_>>(), ["env", "vol"]);
    assert_eq!(needs.tokens.iter().next(), Some(&TokenKey { audience: Some("a".into()), expiration_seconds: 600 }));
    assert!(!case.refs.answers(&needs));
    for name in &needs.secrets {
        case.refs.secrets.insert(name.clone(), Fetched::Missing);
    }
    for name in &needs.config_maps {
        case.refs.config_maps.insert(name.clone(), Fetched::Missing);
    }
    case.refs.tokens.extend(needs.tokens.iter().map(|key| (key.clone(), Fetched::Missing)));
    assert!(case.refs.answers(&needs));
}

#[test]
fn nothing_secret_is_printed() {
    let case = Case::new().secret("s", &[("k", b"hunter2")]).env(&[("A", secret_key("s", "k", false))]);
    let printed = format!("{:?} {:?}", case.refs, case.resolve());
    assert!(!printed.contains("hunter2") && !printed.contains("104, 117"), "{printed}");
}
