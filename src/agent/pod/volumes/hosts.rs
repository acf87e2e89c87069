//! The managed /etc/hosts (pkg/kubelet/kubelet_pods.go, `managedHostsFileContent`).

use super::VolumeError;
use crate::model::DesiredPod;
use std::{fmt::Write as _, fs, path::Path};

const HEAD: &str = "# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// Writes it in place, so that containers which have it mounted see the change.
pub(super) fn write(pod: &DesiredPod, path: &Path) -> Result<(), VolumeError> {
    if pod.host_network {
        return Ok(());
    }
    let content = content(pod);
    if fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).map_err(VolumeError::file("write", path))?;
    super::set_mode(path, 0o644)
}

fn content(pod: &DesiredPod) -> String {
    let mut text = HEAD.to_owned();
    // Writing to a String can't fail.
    if let Some(ip) = pod.pod_ip {
        let _ = match &pod.fqdn {
            Some(fqdn) => writeln!(text, "{ip}\t{fqdn}\t{}", pod.hostname),
            None => writeln!(text, "{ip}\t{}", pod.hostname),
        };
    }
    if !pod.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.host_aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::pod::fixtures, model::HostAlias};

    #[test]
    fn it_names_the_pod_and_its_aliases() {
        let mut pod = fixtures::pod(&["app"]);
        pod.pod_ip = Some("10.72.1.5".parse().unwrap());
        assert!(content(&pod).ends_with("ip6-allrouters\n10.72.1.5\tpod\n"));
        pod.fqdn = Some("pod.sub.default.svc.cluster.local".to_owned());
        pod.host_aliases =
            vec![HostAlias { ip: "1.2.3.4".parse().unwrap(), hostnames: vec!["a".to_owned(), "b".to_owned()] }];
        let end =
            "10.72.1.5\tpod.sub.default.svc.cluster.local\tpod\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
        assert!(content(&pod).ends_with(end), "{}", content(&pod));
    }
}
