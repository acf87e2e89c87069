//! scripts/ami: what is gathered for a machine image, and the provisioning of it, in a root laid over this machine's.
//!
//! No AMI is made: there is no account. But its template is read as Packer reads it (integration/packer), and the user data of
//! its instances by cloud-init itself, of the image's Debian. Needs root (mounts) and what `scripts/tools` builds.

use std::{
    path::Path,
    process::{Command, Output},
};

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

/// What is in target/tools.
fn tool(name: &str, step: &str) -> std::path::PathBuf {
    let program = repo().join("target/tools").join(name);
    assert!(program.exists(), "{} is missing: run scripts/tools {step}", program.display());
    program
}

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[test]
fn the_template_is_one_to_packer_and_what_the_plugin_does_not_know_is_refused_by_its_line() {
    let template = repo().join("scripts/ami/pilotlight.pkr.hcl");
    let read =
        |file: &Path| Command::new(tool("bin/packer-template", "packer")).arg(file).output().expect("it can be run");
    let output = read(&template);
    assert!(output.status.success(), "{}", told(&output));
    let text = std::fs::read_to_string(&template).expect("it can be read");
    for (right, wrong, named) in [
        ("most_recent ", "most_recnt ", r#"An argument named "most_recnt" is not expected here"#),
        ("volume_size           = 8", r#"volume_size           = "big""#, "a number is required"),
        ("source_ami_filter {", "source_ami_filters {", r#"Blocks of type "source_ami_filters" are not expected here"#),
        (
            r#"sources = ["source.amazon-ebs.pilotlight"]"#,
            r#"sources = ["source.amazon-ebs.other"]"#,
            "no source of this name",
        ),
        (r#"provisioner "file""#, r#"provisioner "files""#, r#"There is no provisioner "files""#),
        ("var.images", "var.image", "image"),
        ("ami_name ", "ami_nme ", "ami_name"),
    ] {
        assert!(text.contains(right), "{right}");
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("wrong.pkr.hcl");
        std::fs::write(&file, text.replacen(right, wrong, 1)).expect("written");
        let output = read(&file);
        let said = told(&output);
        assert!(!output.status.success() && said.contains(named) && said.contains(" line "), "{wrong}: {said}");
    }
}

/// `cloud-init schema` of the version that the image's Debian has.
#[cfg(feature = "ec2")]
#[test]
fn cloud_init_takes_the_user_data_of_our_instances() {
    use pilotlight::cloud::ec2::{
        config::{Ec2Config, RootVolume},
        user_data::CloudInit,
    };
    let program = tool("cloud-init/usr/bin/cloud-init", "cloud-init");
    let read = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONPATH", tool("cloud-init/usr/lib/python3/dist-packages", "cloud-init"));
        command.args(["-s", "-B"]).arg(&program).args(["schema", "--config-file"]).arg(file.path());
        command.output().expect("python3 can be run")
    };
    let config = Ec2Config {
        cluster: "ami".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint_url: None,
        price_list_endpoint_url: None,
        interruption_queue_url: None,
        subnets: Default::default(),
        security_groups: Vec::new(),
        images: Default::default(),
        instance_profile: None,
        root_volume: RootVolume { device: "/dev/xvda".to_owned(), size_gib: 20 },
        tags: Default::default(),
        provider_url: "https://[2001:db8::1]:10255".to_owned(),
        ca_pem: "-----BEGIN CERTIFICATE-----\nMIIB: # not \"YAML\"\n-----END CERTIFICATE-----\n".to_owned(),
        insecure_registries: vec!["10.70.0.1:5000".to_owned()],
        types: Default::default(),
        per_call: 100,
        journal_dir: "/nowhere".into(),
        sweep_every: std::time::Duration::from_secs(60),
        template_idle: std::time::Duration::from_secs(60),
    };
    let text = CloudInit::new(&config).and_then(|document| document.text()).expect("it can be written");
    let output = read(&text);
    assert!(output.status.success() && told(&output).contains("Valid cloud-config"), "{}: {text}", told(&output));
    for (right, wrong) in [("permissions", "permisions"), ("#cloud-config", "#cloud config")] {
        assert!(text.contains(right), "{text}");
        let output = read(&text.replacen(right, wrong, 1));
        assert!(!output.status.success(), "{wrong}: {}", told(&output));
    }
}
