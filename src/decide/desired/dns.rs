//! resolv.conf for a Pod: its policy, then what it adds.
//!
//! Source: pkg/kubelet/network/dns/dns.go, GetPodDNS and appendDNSConfig.

use super::PodView;
use crate::model::{DnsConfig, DnsPolicy};

/// Limits of pkg/apis/core/validation: what resolvers of the C libraries take.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_DOMAIN_CHARS: usize = 253;

pub fn resolv_conf(pod: &PodView<'_>) -> DnsConfig {
    let facts = pod.facts;
    let host = || facts.host_dns.clone();
    let base = match pod.spec.dns_policy {
        DnsPolicy::None => DnsConfig::default(),
        DnsPolicy::Default => host(),
        DnsPolicy::ClusterFirst if pod.spec.host_network => host(),
        DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet if facts.cluster_dns.is_empty() => host(),
        DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => DnsConfig {
            nameservers: facts.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: cluster_searches(&pod.intent.name.namespace, &facts.cluster_domain, &facts.host_dns.searches),
            options: vec!["ndots:5".to_owned()],
        },
    };
    let added = &pod.spec.dns_config;
    DnsConfig {
        nameservers: first_of(MAX_NAMESERVERS, joined(base.nameservers, &added.nameservers)),
        searches: searches_within_limits(joined(base.searches, &added.searches)),
        options: merged_options(&base.options, &added.options),
    }
}

fn cluster_searches(namespace: &str, domain: &str, host: &[String]) -> Vec<String> {
    if domain.is_empty() {
        return host.to_vec();
    }
    let cluster = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    joined(cluster, host)
}

/// Both lists, without repeats.
fn joined(mut list: Vec<String>, more: &[String]) -> Vec<String> {
    list.extend(more.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list
}

fn first_of(count: usize, mut list: Vec<String>) -> Vec<String> {
    list.truncate(count);
    list
}

fn searches_within_limits(searches: Vec<String>) -> Vec<String> {
    let mut fitting = first_of(MAX_SEARCHES, searches);
    fitting.retain(|domain| domain.len() <= MAX_DOMAIN_CHARS);
    while fitting.iter().map(|domain| domain.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        fitting.pop();
    }
    fitting
}

/// A later option of the same name takes the place of the earlier one.
fn merged_options(base: &[String], added: &[String]) -> Vec<String> {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for option in base.iter().chain(added) {
        match merged.iter_mut().find(|present| name(present) == name(option)) {
            Some(present) => present.clone_from(option),
            None => merged.push(option.clone()),
        }
    }
    merged
}
