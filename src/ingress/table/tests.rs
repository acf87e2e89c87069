use super::*;
use crate::ingress::spec::{HeaderMatch, HttpPath, HttpRule, IngressRule, IngressSpec, IngressTls, PortRef};
use crate::ingress::{spec, table};
use http::HeaderMap;
use proptest::prelude::*;

const HOSTS: [&str; 4] = ["a.example.com", "b.example.com", "c.ns.svc.cluster.local", "d.ns"];
const PATHS: [&str; 5] = ["", "/", "/a", "/a/b", "/ab"];
const ASKED: [&str; 6] = ["/", "/a", "/a/b/c", "/abc", "/b", "/A"];

fn split(service: &str, percent: i64) -> spec::Split {
    spec::Split {
        service_namespace: "ns".to_owned(),
        service_name: service.to_owned(),
        service_port: PortRef::Number(80),
        percent,
        ..spec::Split::default()
    }
}

fn path(prefix: &str, header: Option<&str>, id: String) -> HttpPath {
    HttpPath {
        path: prefix.to_owned(),
        headers: header.map(|value| ("Tag".to_owned(), HeaderMatch { exact: value.to_owned() })).into_iter().collect(),
        append_headers: [("X-Id".to_owned(), id)].into(),
        splits: Some(vec![split("s", 0)]),
        ..HttpPath::default()
    }
}

fn rule(hosts: &[&str], external: bool, paths: Vec<HttpPath>) -> IngressRule {
    IngressRule {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        visibility: if external { "ExternalIP" } else { "ClusterLocal" }.to_owned(),
        http: Some(HttpRule { paths: Some(paths) }),
    }
}

#[derive(Clone, Debug)]
struct Made {
    created: i64,
    name: ObjectName,
    spec: IngressSpec,
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let path = (proptest::sample::select(&PATHS[..]), proptest::option::of(proptest::sample::select(&["x", "y"][..])));
    let rule_of = (
        proptest::collection::btree_set(proptest::sample::select(&HOSTS[..]), 0..3),
        any::<bool>(),
        proptest::collection::vec(path, 1..4),
    );
    let ingress = (0..3i64, proptest::collection::vec(rule_of, 1..4), any::<bool>());
    proptest::collection::vec(ingress, 0..5).prop_map(|ingresses| {
        let mut made = Vec::new();
        for (i, (created, rules, tls)) in ingresses.into_iter().enumerate() {
            let rules = rules.into_iter().enumerate().map(|(r, (hosts, external, paths))| {
                let paths = paths
                    .into_iter()
                    .enumerate()
                    .map(|(p, (prefix, header))| self::path(prefix, header, format!("{i}-{r}-{p}")));
                rule(&hosts.into_iter().collect::<Vec<_>>(), external, paths.collect())
            });
            let secret = IngressTls { secret_name: "s".to_owned(), ..IngressTls::default() };
            let spec = IngressSpec {
                rules: rules.collect(),
                tls: if tls { vec![secret] } else { vec![] },
                ..IngressSpec::default()
            };
            made.push(Made { created, name: ObjectName::new("ns", format!("i{i}")), spec });
        }
        made
    })
}

/// The rules in the simplest words: a scan of everything.
fn naive(all: &[Made], listener: Listener, host: &str, asked: &str, tag: Option<&str>) -> Option<String> {
    let names = |made: &Made, host: Option<&str>| {
        made.spec.rules.iter().any(|rule| match host {
            Some(host) => rule.hosts.iter().any(|h| h == host),
            None => rule.hosts.is_empty(),
        })
    };
    // First the host itself, then whoever takes every host.
    for host in [Some(host), None] {
        let Some(owner) = all.iter().filter(|made| names(made, host)).min_by_key(|made| (made.created, &made.name))
        else {
            continue;
        };
        let here = owner.spec.rules.iter().filter(|rule| match host {
            Some(host) => rule.hosts.iter().any(|h| h == host),
            None => rule.hosts.is_empty(),
        });
        let visible: Vec<_> = here.filter(|rule| !listener.external || rule.visibility == "ExternalIP").collect();
        if visible.is_empty() {
            continue;
        }
        if listener.tls && owner.spec.tls.is_empty() {
            return None;
        }
        let mut best: Option<&HttpPath> = None;
        for path in visible.iter().flat_map(|rule| rule.http.as_ref().unwrap().paths.as_ref().unwrap()) {
            let prefix = |path: &HttpPath| if path.path.is_empty() { "/".to_owned() } else { path.path.clone() };
            let tagged = path.headers.get("Tag").is_none_or(|wanted| tag == Some(wanted.exact.as_str()));
            if asked.starts_with(&prefix(path)) && tagged && best.is_none_or(|b| prefix(path).len() > prefix(b).len()) {
                best = Some(path);
            }
        }
        return best.map(|path| path.append_headers["X-Id"].clone());
    }
    None
}

proptest! {
    #[test]
    fn the_table_finds_what_a_scan_of_all_ingresses_finds(all in made()) {
        let owners: Vec<Owner> = all
            .iter()
            .map(|made| Owner { created: made.created, compiled: Arc::new(compile(&made.name, &made.spec).unwrap()) })
            .collect();
        let (table, _) = merge(&owners);
        for (external, tls) in [(true, false), (true, true), (false, false), (false, true)] {
            let listener = Listener { external, tls };
            for host in HOSTS.iter().chain(&["nobody.example.com"]) {
                for asked in ASKED {
                    for tag in [None, Some("x"), Some("z")] {
                        let headers: HeaderMap = tag.iter().map(|tag| (HeaderName::from_static("tag"), HeaderValue::from_static(tag))).collect();
                        let written = format!("{}.:8080", host.to_ascii_uppercase());
                        let found = match table.find(listener, &written, asked, &headers) {
                            Found::Route(route) => Some(route.set[0].1.to_str().unwrap().to_owned()),
                            Found::NoHost | Found::NoPath => None,
                        };
                        prop_assert_eq!(found, naive(&all, listener, host, asked, tag), "{:?} {} {} {:?}", listener, host, asked, tag);
                    }
                }
            }
        }
    }

    #[test]
    fn an_ingress_is_told_of_a_host_exactly_if_an_older_one_has_it(all in made()) {
        let owners: Vec<Owner> = all
            .iter()
            .map(|made| Owner { created: made.created, compiled: Arc::new(compile(&made.name, &made.spec).unwrap()) })
            .collect();
        let (_, taken) = merge(&owners);
        let hosts = |made: &Made| -> std::collections::BTreeSet<String> {
            let of = |rule: &IngressRule| if rule.hosts.is_empty() { vec!["*".to_owned()] } else { rule.hosts.clone() };
            made.spec.rules.iter().flat_map(of).collect()
        };
        for made in &all {
            let older = |other: &&Made| (other.created, &other.name) < (made.created, &made.name);
            let lost = all.iter().filter(older).any(|other| !hosts(other).is_disjoint(&hosts(made)));
            prop_assert_eq!(taken.contains_key(&made.name), lost);
        }
    }

    #[test]
    fn each_split_gets_as_many_points_as_it_has_percent(cuts in proptest::collection::btree_set(0..=100i64, 0..6)) {
        let mut edges: Vec<i64> = cuts.into_iter().collect();
        edges.insert(0, 0);
        edges.push(100);
        let percents: Vec<i64> = edges.windows(2).map(|edge| edge[1] - edge[0]).collect();
        let splits = percents.iter().enumerate().map(|(i, percent)| split(&format!("s{i}"), *percent)).collect();
        let only = HttpPath { splits: Some(splits), ..HttpPath::default() };
        let spec = IngressSpec { rules: vec![rule(&[], true, vec![only])], ..IngressSpec::default() };
        let compiled = compile(&ObjectName::new("ns", "i"), &spec).unwrap();
        let route = &compiled.rules[0].routes[0];
        for (i, percent) in percents.iter().enumerate() {
            let hits = (0..100).filter(|point| route.split(*point).unwrap().backend.service.name == format!("s{i}"));
            prop_assert_eq!(i64::try_from(hits.count()).unwrap(), *percent);
        }
    }
}

fn refused(change: impl FnOnce(&mut IngressSpec)) -> String {
    let mut spec = IngressSpec {
        rules: vec![rule(&["a.example.com"], true, vec![path("", None, String::new())])],
        ..Default::default()
    };
    compile(&ObjectName::new("ns", "i"), &spec).unwrap();
    change(&mut spec);
    table::compile(&ObjectName::new("ns", "i"), &spec).unwrap_err().to_string()
}

fn first(spec: &mut IngressSpec) -> &mut HttpPath {
    &mut spec.rules[0].http.as_mut().unwrap().paths.as_mut().unwrap()[0]
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_field() {
    let cases: Vec<(String, &str)> = vec![
        (refused(|s| s.http_option = "Sometimes".into()), "spec.httpOption: \"Sometimes\""),
        (refused(|s| s.rules.clear()), "spec.rules:"),
        (refused(|s| s.rules[0].visibility = "Public".into()), "spec.rules[0].visibility: \"Public\""),
        (refused(|s| s.rules[0].hosts = vec!["*.example.com".into()]), "spec.rules[0].hosts[0]: \"*.example.com\""),
        (refused(|s| s.rules[0].hosts = vec!["a:80".into()]), "spec.rules[0].hosts[0]: \"a:80\""),
        (refused(|s| s.rules[0].http = None), "spec.rules[0].http.paths:"),
        (refused(|s| first(s).path = "a".into()), "spec.rules[0].http.paths[0].path: \"a\""),
        (refused(|s| first(s).rewrite_host = "a b".into()), "paths[0].rewriteHost: \"a b\""),
        (refused(|s| first(s).splits = None), "paths[0].splits: \"0\""),
        (refused(|s| first(s).splits = Some(vec![split("s", 50)])), "paths[0].splits: \"50\""),
        (refused(|s| first(s).splits = Some(vec![split("s", 101)])), "splits[0].percent: \"101\""),
        (refused(|s| first(s).splits = Some(vec![split("", 100)])), "splits[0].serviceName:"),
        (refused(|s| drop(first(s).append_headers.insert("Host".into(), "x".into()))), "appendHeaders[Host]"),
        (refused(|s| drop(first(s).append_headers.insert("A".into(), "x\ny".into()))), "appendHeaders[A]"),
        (refused(|s| drop(first(s).append_headers.insert("A B".into(), "x".into()))), "appendHeaders: \"A B\""),
        (refused(|s| s.tls = vec![IngressTls::default()]), "spec.tls[0].secretName:"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message} does not name {expected}");
    }
}

#[test]
fn a_header_sent_twice_is_compared_as_one() {
    let spec = IngressSpec {
        rules: vec![rule(&[], true, vec![path("", Some("x,y"), "both".to_owned())])],
        ..IngressSpec::default()
    };
    let compiled = Arc::new(compile(&ObjectName::new("ns", "i"), &spec).unwrap());
    let (table, _) = merge(&[Owner { created: 0, compiled }]);
    let find = |values: &[&'static str]| {
        let headers = values.iter().map(|v| (HeaderName::from_static("tag"), HeaderValue::from_static(v))).collect();
        matches!(table.find(Listener { external: true, tls: false }, "any", "/", &headers), Found::Route(_))
    };
    assert!(find(&["x,y"]) && find(&["x", "y"]));
    assert!(!find(&["y", "x"]) && !find(&["x"]) && !find(&[]));
}
