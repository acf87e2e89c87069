//! A stand-in of a test's own: started in a namespace of its own, asked over HTTP, ended with the test.

#![allow(dead_code, reason = "each test target uses a part of this")]

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// As the product's: a file for the agent, a unit, and its start.
pub const USER_DATA: &str = "#cloud-config
write_files:
- path: /etc/pilotlight/agent.yaml
  permissions: '0600'
  content: 'cloud: ec2'
- path: /etc/systemd/system/pilotlight-agent.service
  permissions: '0644'
  content: |
    [Service]
    ExecStart=/opt/pilotlight/pilotlight-agent --config /etc/pilotlight/agent.yaml
    Restart=always
runcmd:
- [systemctl, daemon-reload]
- [systemctl, start, --no-block, pilotlight-agent.service]
";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    None,
    Booted,
}

pub struct StandIn {
    process: Child,
    dir: PathBuf,
    address: String,
    cluster: String,
}

pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl StandIn {
    pub fn start(name: &str, machines: Machines) -> Self {
        Self::start_with(name, machines, |dir| {
            let agent = dir.join("agent");
            fs::write(&agent, "#!/bin/sh\necho \"an agent with $(cat \"$2\")\"\nexec sleep 1000000\n").unwrap();
            fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
            agent
        })
    }

    /// Its machines have the product's agent.
    pub fn with_agent(name: &str) -> Self {
        Self::start_with(name, Machines::Booted, |_| env!("CARGO_BIN_EXE_pilotlight-agent").into())
    }

    /// Who calls it may do what the provider of the cluster of this name may.
    pub fn judging(name: &str) -> Self {
        Self::judging_by(name, name, Path::new("manifests/aws/iam-policy.json"))
    }

    /// The same by another policy.
    pub fn judging_by(name: &str, cluster: &str, policy: &Path) -> Self {
        let policy = policy.to_str().unwrap();
        let args = ["--iam-policy", policy, "--cluster", cluster];
        Self::start_as(name, Machines::None, &args, |dir| dir.join("none"))
    }

    fn start_with(name: &str, machines: Machines, agent: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self::start_as(name, machines, &[], agent)
    }

    fn start_as(name: &str, machines: Machines, args: &[&str], agent: impl FnOnce(&Path) -> PathBuf) -> Self {
        assert!(geteuid().is_root(), "network namespaces need root");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = std::env::current_exe().unwrap();
        let program = program.ancestors().nth(2).unwrap().join("examples/ec2-standin");
        assert!(program.exists(), "{} is missing: cargo build --example ec2-standin", program.display());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ec2-{name}"));
        fs::create_dir_all(&dir).unwrap();
        let _ = fs::remove_file(dir.join("address"));
        let agent = agent(&dir);
        let cluster = format!("ec2-{name}");
        let mut command = Command::new(program);
        command.arg("--dir").arg(&dir).args(args).current_dir(root);
        if machines == Machines::Booted {
            command.args(["--machines", &cluster, "--pilotlight", env!("CARGO_BIN_EXE_pilotlight")]);
            command.arg("--agent").arg(&agent);
        }
        let log = File::create(dir.join("standin.log")).unwrap();
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let file = dir.join("address");
        until("the stand-in answers", || {
            assert_eq!(process.try_wait().unwrap(), None, "{}", fs::read_to_string(dir.join("standin.log")).unwrap());
            file.exists()
        });
        let address = fs::read_to_string(file).unwrap().trim().to_owned();
        Self { process, dir, address, cluster }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For files of the test; removed with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn api(&self, form: &str) -> Answer {
        self.http("POST", "/", "application/x-www-form-urlencoded", &form.replace(['\n', ' '], ""))
    }

    pub fn script(&self, script: &str) {
        let answer = self.http("PUT", "/standin/script", "application/json", script);
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    pub fn get(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.http("GET", path, "application/json", "").text).unwrap()
    }

    /// Where its API is, EC2's and STS's.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn text(&self, path: &str) -> String {
        self.http("GET", path, "application/json", "").text
    }

    pub fn answer(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.http("POST", path, "application/json", "").text).unwrap()
    }

    pub fn post(&self, path: &str, body: &str) {
        let answer = self.http("POST", path, "application/json", body);
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    /// A call of somebody else of the account.
    pub fn by_another(&self, form: &str) -> String {
        let form = format!("{}&Version=2016-11-15", form.replace(['\n', ' '], ""));
        let answer = self.http("POST", "/standin/by-another", "application/x-www-form-urlencoded", &form);
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.text
    }

    /// What a service of AWS's JSON protocols answers.
    pub fn signed(&self, service: &str, target: &str, body: &str) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--user", "standin:standin", "--aws-sigv4", &format!("aws:amz:us-east-1:{service}")])
            .args(["-H", &format!("X-Amz-Target: {target}"), "-H", "Content-Type: application/x-amz-json-1.0"])
            .args(["-d", body, &format!("http://{}/", self.address)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn subnet(&self, zone: &str) -> String {
        self.get("/standin/facts")["subnets"][zone].as_str().unwrap().to_owned()
    }

    pub fn state(&self, id: &str) -> String {
        let described = self.api(&format!("Action=DescribeInstances&InstanceId.1={id}")).text;
        let state = described.split_once("<instanceState>").unwrap_or_else(|| panic!("{described}")).1;
        field(state, "name")
    }

    pub fn terminate(&self, ids: &[String]) -> Answer {
        let ids: String = ids.iter().enumerate().map(|(n, id)| format!("&InstanceId.{}={id}", n + 1)).collect();
        self.api(&format!("Action=TerminateInstances{ids}"))
    }

    /// What STS says to one who has these credentials, with this secret.
    pub fn caller_identity(&self, credentials: &serde_json::Value, secret: &str) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--aws-sigv4", "aws:amz:us-east-1:sts", "--user"])
            .arg(format!("{}:{secret}", credentials["AccessKeyId"].as_str().unwrap()))
            .arg("-H")
            .arg(format!("X-Amz-Security-Token: {}", credentials["Token"].as_str().unwrap()))
            .args(["-d", "Action=GetCallerIdentity&Version=2011-06-15"])
            .arg(format!("http://{}/", self.address))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn http(&self, method: &str, path: &str, kind: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Who calls is told by the key alone: EC2's signatures are not checked.
        let signed = "authorization: AWS4-HMAC-SHA256 Credential=standin/20260101/us-east-1/ec2/aws4_request";
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{signed}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), text: body.to_owned() }
    }

    fn machine(&self, id: &str) -> PathBuf {
        self.dir.join("machines").join(&self.cluster).join(id)
    }

    pub fn console(&self, id: &str) -> String {
        fs::read_to_string(self.machine(id).join("console.log")).unwrap_or_default()
    }

    /// Runs a shell command inside; its output, or why it failed.
    pub fn inside(&self, id: &str, command: &str) -> Result<String, String> {
        let note = fs::read(self.machine(id).join("supervisor.json")).unwrap();
        let note: serde_json::Value = serde_json::from_slice(&note).unwrap();
        let output = Command::new("nsenter")
            .args(["-t", &note["init_pid"].to_string(), "-m", "-u", "-i", "-n", "-p", "--"])
            .args(["/bin/sh", "-c", command])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Processes, mounts and devices of a machine that is gone.
    pub fn remains(&self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            if command.contains("local-machine") && command.contains(id) {
                found.push(format!("process {}", process.path().display()));
            }
        }
        if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(id) {
            found.push("a mount".to_owned());
        }
        if fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains(&id[id.len() - 13..]) {
            found.push("a network device".to_owned());
        }
        found
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let began = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let status = self.process.wait();
        if !std::thread::panicking() {
            assert!(status.unwrap().success(), "{}", fs::read_to_string(self.dir.join("standin.log")).unwrap());
            fs::remove_dir_all(&self.dir).unwrap();
        }
    }
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The texts of all elements of this name.
pub fn fields(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
}

pub fn field(xml: &str, name: &str) -> String {
    fields(xml, name).into_iter().next().unwrap_or_else(|| panic!("there is no {name} in {xml}"))
}

pub fn base64(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

/// A network namespace behind the instance with this address, as a Pod has one.
pub fn a_pods_network(address: &str) -> String {
    format!(
        "set -e
         touch /run/pod-net
         unshare --net=/run/pod-net true
         ip link add pod0 type veth peer name eth0 netns /run/pod-net
         ip link set pod0 up
         echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv4/conf/ens5/proxy_arp
         ip route add {address}/32 dev pod0
         echo 1 >/proc/sys/net/ipv4/conf/pod0/proxy_arp
         nsenter --net=/run/pod-net -- sh -c 'ip link set lo up; ip addr add {address}/32 dev eth0; ip link set eth0 up; ip route add default dev eth0'"
    )
}
