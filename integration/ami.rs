//! scripts/ami: what is gathered for a machine image, and the provisioning of it, in a root laid over this machine's.
//!
//! No AMI is made: there is no account. Needs root (mounts) and what `scripts/tools` builds.

use std::{path::Path, process::Command};

/// A root of its own: this machine's Debian beneath, everything that is written above, in memory. In a process namespace
/// of its own: what provisioning starts ends with it.
const IN_A_ROOT_OF_ITS_OWN: &str = r#"
set -euo pipefail
mount --make-rprivate /
space=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$space"
mkdir "$space"/{upper,work,root}
root=$space/root
mount -t overlay -o "lowerdir=/,upperdir=$space/upper,workdir=$space/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
for dir in run tmp opt etc/containerd etc/cni etc/pilotlight var/lib/containerd; do
  mkdir -p "$root/$dir"
  mount -t tmpfs tmpfs "$root/$dir"
done
mkdir "$root/tmp/payload"
mount --bind "$1/target/ami/payload" "$root/tmp/payload"
cp "$1/scripts/ami/provision" "$root/tmp/provision"
chroot "$root" env PAYLOAD=/tmp/payload PATH=/usr/sbin:/usr/bin:/sbin:/bin bash /tmp/provision
echo "--- provisioned"
chroot "$root" /opt/pilotlight/pilotlight-agent --version
chroot "$root" /opt/pilotlight/bin/runc --version
chroot "$root" sh -c 'ls /opt/pilotlight/bin /opt/cni/bin'
cat "$root/etc/systemd/system/multi-user.target.wants/containerd.service"
stat -c '%a %n' "$root/etc/pilotlight" | sed "s|$root||"
cat "$root/etc/cloud/cloud.cfg.d/90-pilotlight.cfg"
if command -v systemd-analyze >/dev/null; then
  chroot "$root" systemd-analyze verify --man=no /etc/systemd/system/containerd.service
  echo "--- units verified"
fi
"#;

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it; its stdout.
fn succeed(command: &mut Command) -> String {
    let output = command.current_dir(repo()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn provisioning_puts_everything_where_user_data_expects_it_and_pulls_images_beforehand() {
    succeed(Command::new("scripts/ami/collect").arg("--debug"));
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", IN_A_ROOT_OF_ITS_OWN, "root"])
        .arg(repo());
    let said = succeed(&mut command);
    let (images, rest) = said.split_once("--- provisioned").expect("it came to the end");
    assert!(images.lines().any(|line| line == "pilotlight.test/pause:1"), "{images}");
    assert!(rest.contains(&format!("pilotlight-agent {}", env!("CARGO_PKG_VERSION"))), "{rest}");
    for name in ["containerd", "containerd-shim-runc-v2", "runc", "ptp", "static", "portmap", "loopback"] {
        assert!(rest.lines().any(|line| line == name), "{name}: {rest}");
    }
    assert!(rest.contains("ExecStart=/opt/pilotlight/bin/containerd --config /etc/containerd/config.toml"), "{rest}");
    assert!(rest.lines().any(|line| line == "700 /etc/pilotlight"), "who reads it: {rest}");
    assert!(rest.contains("apply_full_imds_network_config: false"), "secondary addresses are the Pod's: {rest}");
    // Nothing of it is left here.
    assert!(!Path::new("/etc/systemd/system/multi-user.target.wants/containerd.service").exists());
}
