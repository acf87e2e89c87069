//! Security contexts: the Pod's, and a container's laid over it.

use super::refuse::{Refusals, Rule};
use crate::model::{ContainerSecurity, PodSecurity, Seccomp};
use k8s_openapi::api::core::v1 as api;
use std::collections::BTreeMap;

/// What a Pod may set without leave: namespaced, and without effect outside the Pod
/// (pkg/kubelet/sysctl/safe_sysctls.go; the kernels it asks for are older than any we run on).
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

pub(super) fn pod(
    context: Option<&api::PodSecurityContext>,
    host_network: bool,
    host_ipc: bool,
    refusals: &mut Refusals,
) -> PodSecurity {
    let Some(context) = context else { return PodSecurity::default() };
    let api::PodSecurityContext {
        app_armor_profile,
        fs_group,
        fs_group_change_policy: _, // concerns volumes that outlive a Pod: there are none yet
        run_as_group,
        run_as_non_root,
        run_as_user,
        se_linux_change_policy: _, // says how seLinuxOptions are applied, and those are refused
        se_linux_options,
        seccomp_profile,
        supplemental_groups,
        supplemental_groups_policy,
        sysctls,
        windows_options,
    } = context;
    if let Some(profile) = confining(app_armor_profile.as_ref()) {
        refusals.refuse(Rule::PodAppArmor, &[], profile);
    }
    if se_linux_options.is_some() {
        refusals.refuse(Rule::PodSeLinux, &[], "set");
    }
    if windows_options.is_some() {
        refusals.refuse(Rule::PodWindows, &[], "set");
    }
    if let Some(policy) = supplemental_groups_policy.as_deref().filter(|policy| !matches!(*policy, "" | "Merge")) {
        refusals.refuse(Rule::SupplementalGroupsPolicy, &[], policy);
    }
    let mut safe = BTreeMap::new();
    for api::Sysctl { name, value } in sysctls.iter().flatten() {
        let plain = normalized(name);
        match forbidden(&plain, host_network, host_ipc) {
            Some(why) => refusals.refuse(Rule::Sysctl, &[name], format_args!("{value} ({why})")),
            None => drop(safe.insert(plain, value.clone())),
        }
    }
    PodSecurity {
        run_as_user: *run_as_user,
        run_as_group: *run_as_group,
        run_as_non_root: run_as_non_root.unwrap_or(false),
        fs_group: *fs_group,
        supplemental_groups: supplemental_groups.clone().unwrap_or_default(),
        seccomp: seccomp(seccomp_profile.as_ref(), Rule::PodSeccomp, refusals),
        sysctls: safe,
    }
}

pub(super) fn container(
    context: Option<&api::SecurityContext>,
    pod: &PodSecurity,
    refusals: &mut Refusals,
) -> ContainerSecurity {
    let inherited = ContainerSecurity {
        run_as_user: pod.run_as_user,
        run_as_group: pod.run_as_group,
        run_as_non_root: pod.run_as_non_root,
        seccomp: pod.seccomp.clone(),
        ..ContainerSecurity::default()
    };
    let Some(context) = context else { return inherited };
    let api::SecurityContext {
        allow_privilege_escalation,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem,
        run_as_group,
        run_as_non_root,
        run_as_user,
        se_linux_options,
        seccomp_profile,
        windows_options,
    } = context;
    if let Some(profile) = confining(app_armor_profile.as_ref()) {
        refusals.refuse(Rule::AppArmor, &[], profile);
    }
    if se_linux_options.is_some() {
        refusals.refuse(Rule::SeLinux, &[], "set");
    }
    if windows_options.is_some() {
        refusals.refuse(Rule::Windows, &[], "set");
    }
    let unmasked_proc = match proc_mount.as_deref() {
        None | Some("" | "Default") => false,
        Some("Unmasked") => true,
        Some(other) => {
            refusals.refuse(Rule::ProcMount, &[], other);
            false
        }
    };
    let (add, drop) = match capabilities {
        Some(api::Capabilities { add, drop }) => (add.clone().unwrap_or_default(), drop.clone().unwrap_or_default()),
        None => Default::default(),
    };
    ContainerSecurity {
        run_as_user: run_as_user.or(inherited.run_as_user),
        run_as_group: run_as_group.or(inherited.run_as_group),
        run_as_non_root: run_as_non_root.unwrap_or(inherited.run_as_non_root),
        privileged: privileged.unwrap_or(false),
        read_only_root: read_only_root_filesystem.unwrap_or(false),
        no_new_privs: *allow_privilege_escalation == Some(false),
        add_capabilities: add,
        drop_capabilities: drop,
        seccomp: seccomp(seccomp_profile.as_ref(), Rule::Seccomp, refusals).or(inherited.seccomp),
        unmasked_proc,
    }
}

/// The AppArmor profile that would have to be enforced, if any. As kubelet on a machine without AppArmor,
/// only Unconfined is let through (pkg/security/apparmor/validate.go).
fn confining(profile: Option<&api::AppArmorProfile>) -> Option<String> {
    let api::AppArmorProfile { localhost_profile, type_ } = profile?;
    (type_ != "Unconfined").then(|| localhost_profile.clone().unwrap_or_else(|| type_.clone()))
}

fn seccomp(profile: Option<&api::SeccompProfile>, rule: Rule, refusals: &mut Refusals) -> Option<Seccomp> {
    let api::SeccompProfile { localhost_profile, type_ } = profile?;
    match (type_.as_str(), localhost_profile) {
        ("RuntimeDefault", _) => Some(Seccomp::RuntimeDefault),
        ("Unconfined", _) => Some(Seccomp::Unconfined),
        ("Localhost", Some(path)) => Some(Seccomp::Localhost(path.clone())),
        (other, _) => {
            refusals.refuse(rule, &[], other);
            None
        }
    }
}

/// Why a Pod may not set this sysctl, in kubelet's words (pkg/kubelet/sysctl/allowlist.go).
fn forbidden(name: &str, host_network: bool, host_ipc: bool) -> Option<String> {
    if !SAFE_SYSCTLS.contains(&name) {
        return Some(format!("forbidden sysctl: \"{name}\" not allowlisted"));
    }
    let (namespace, shared) = if name.starts_with("net.") { ("net", host_network) } else { ("ipc", host_ipc) };
    shared.then(|| format!("forbidden sysctl: \"{name}\" not allowed with host {namespace} enabled"))
}

/// `net/ipv4/x` and `net.ipv4.x` are one; the first separator says which spelling it is.
fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'/') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}
