//! What a Pod is called inside.
//!
//! Source: kubelet_pods.go, GeneratePodHostNameAndDomain and truncatePodHostnameIfNeeded; util.go,
//! GetNodenameForKernel.

use super::PodView;

/// Linux allows 64 bytes; kubelet keeps to 63 for the short name (a DNS label).
const SHORT_MAX: usize = 63;
const FQDN_MAX: usize = 64;

pub struct Names {
    /// For the kernel; empty with hostNetwork, where the machine's own stays.
    pub hostname: String,
    pub fqdn: Option<String>,
    /// Why there can be no such name.
    pub blocked: Option<String>,
}

pub fn names(pod: &PodView<'_>) -> Names {
    let name = &pod.intent.name;
    let short = truncated(pod.spec.hostname.as_deref().unwrap_or(&name.name));
    let domain = &pod.facts.cluster_domain;
    let fqdn = pod.spec.subdomain.as_ref().map(|sub| format!("{short}.{sub}.{}.svc.{domain}", name.namespace));
    if pod.spec.host_network {
        return Names { hostname: String::new(), fqdn, blocked: None };
    }
    match &fqdn {
        Some(fqdn) if pod.spec.set_hostname_as_fqdn && fqdn.len() > FQDN_MAX => {
            let blocked = format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
                 ({FQDN_MAX} characters is the max, {} characters requested)",
                fqdn.len()
            );
            Names { hostname: short, fqdn: Some(fqdn.clone()), blocked: Some(blocked) }
        }
        Some(full) if pod.spec.set_hostname_as_fqdn => Names { hostname: full.clone(), fqdn, blocked: None },
        _ => Names { hostname: short, fqdn, blocked: None },
    }
}

fn truncated(name: &str) -> String {
    match name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= SHORT_MAX).last() {
        Some((at, c)) if at + c.len_utf8() < name.len() => {
            name[..at + c.len_utf8()].trim_end_matches(['-', '.']).to_owned()
        }
        _ => name.to_owned(),
    }
}
