//! The local cloud on this host, for real: machines boot, share nothing, and leave nothing.
//!
//! Needs root and what scripts/tools and scripts/images make. Each test has a network namespace, a
//! cluster name and a state directory of its own, so they run side by side. What an earlier run left
//! behind (killed halfway) is cleared first.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as its functions do")]

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use pilotlight::{
    cloud::local::{LocalCloud, LocalCloudConfig},
    model::{
        Allocation, ClientToken, CreditMode, HourlyPrice, InstanceId, InstanceRecord, InstanceState, InstanceType,
        LaunchRequest, Launched, Offer, Purchase, bootstrap::KeyFingerprint,
    },
    ports::{Claim, Cloud, CloudError, InstanceProof},
};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const MEMORY: u64 = 512 << 20;
/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const IMAGE: &str = "pilotlight.test/busybox:1";

/// A cloud of its own, removed at the end whatever the test did.
struct World {
    cloud: Option<LocalCloud>,
    config: LocalCloudConfig,
    runtime: Runtime,
    base: PathBuf,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    fn with(name: &str, change: impl FnOnce(&mut LocalCloudConfig)) -> Self {
        assert!(geteuid().is_root(), "machines of the local cloud need root");
        // Threads that this one starts, and their children, are in the new namespace too.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("local-cloud-{name}"));
        let cluster = format!("test-{name}");
        LocalCloud::destroy_all(&base.join("state"), &cluster).unwrap();
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        let agent_binary = base.join("agent");
        fs::write(&agent_binary, "#!/bin/sh\necho an agent starts\nexec sleep 1000000\n").unwrap();
        fs::set_permissions(&agent_binary, fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = LocalCloudConfig {
            cluster,
            state_dir: base.join("state"),
            bridge: "pl0".to_owned(),
            bridge_address: Ipv4Addr::new(10, 72, 0, 1),
            prefix_len: 16,
            zones: vec!["zone-a".to_owned()],
            types: vec![InstanceType {
                name: "small".to_owned(),
                cpu_millis: 1500,
                memory_bytes: MEMORY,
                price: HourlyPrice(10_400),
            }],
            machine_image: Some(built("machine-image/containerd")),
            bin_dir: built("tools/bin"),
            cni_bin_dir: built("tools/cni/bin"),
            agent_binary,
            self_binary: Some(env!("CARGO_BIN_EXE_pilotlight").into()),
            provider_url: "https://10.72.0.1:10255".to_owned(),
            ca_pem: "a certificate".to_owned(),
            registries: Vec::new(),
            sandbox_image: "pilotlight.test/pause:1".to_owned(),
            hidden: Vec::new(),
        };
        change(&mut config);
        let cloud = Some(LocalCloud::new(config.clone()).unwrap());
        Self { cloud, config, runtime: Runtime::new().unwrap(), base }
    }

    fn cloud(&self) -> &LocalCloud {
        self.cloud.as_ref().unwrap()
    }

    fn restart_provider(&mut self) {
        self.cloud = None;
        self.cloud = Some(LocalCloud::new(self.config.clone()).unwrap());
    }

    fn launch(&self, token: &str, count: u32) -> Result<Vec<InstanceRecord>, CloudError> {
        self.ask(&request(token, count)).map(|launched| launched.records)
    }

    fn ask(&self, request: &LaunchRequest) -> Result<Launched, CloudError> {
        self.runtime.block_on(self.cloud().launch(request))
    }

    fn describe(&self) -> BTreeMap<InstanceId, InstanceRecord> {
        let records = self.runtime.block_on(self.cloud().describe()).unwrap();
        records.into_iter().map(|record| (record.id.clone(), record)).collect()
    }

    fn terminate(&self, id: &InstanceId) {
        self.runtime.block_on(self.cloud().terminate(std::slice::from_ref(id))).unwrap();
    }

    /// With why it was refused.
    fn claim(&self, machine: &InstanceRecord, token: &str, key: &str) -> Result<InstanceRecord, &'static str> {
        let claim = Claim {
            instance: machine.id.clone(),
            peer: machine.private_ip.unwrap(),
            key: KeyFingerprint::of(key.as_bytes()),
            proof: InstanceProof::Token(token.to_owned()),
        };
        self.runtime.block_on(self.cloud().claim(&claim)).map_err(|error| error.reason())
    }

    fn state(&self, id: &InstanceId) -> InstanceState {
        self.describe()[id].state
    }

    fn launch_and_wait(&self, token: &str, count: u32) -> Vec<InstanceRecord> {
        let ids: Vec<_> = self.launch(token, count).unwrap().into_iter().map(|record| record.id).collect();
        for id in &ids {
            self.until(id, "it runs", || self.state(id) != InstanceState::Pending);
            assert_eq!(self.state(id), InstanceState::Running, "{}", self.console(id));
        }
        let described = self.describe();
        ids.iter().map(|id| described[id].clone()).collect()
    }

    fn until(&self, id: &InstanceId, what: &str, mut condition: impl FnMut() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}\n{}", self.console(id));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn dir(&self, id: &InstanceId) -> PathBuf {
        self.config.state_dir.join(&self.config.cluster).join(id.as_str())
    }

    fn json(&self, id: &InstanceId, file: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.dir(id).join(file)).unwrap()).unwrap()
    }

    fn console(&self, id: &InstanceId) -> String {
        fs::read_to_string(self.cloud().console_log(id)).unwrap_or_default()
    }

    fn init_pid(&self, id: &InstanceId) -> i32 {
        pid(&self.json(id, "supervisor.json")["init_pid"])
    }

    fn supervisor_pid(&self, id: &InstanceId) -> i32 {
        pid(&self.json(id, "supervisor.json")["process"]["pid"])
    }

    /// Runs a shell command inside; its output, or why it failed.
    fn inside(&self, id: &InstanceId, command: &str) -> Result<String, String> {
        let output = Command::new("nsenter")
            .args(["-t", &self.init_pid(id).to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"])
            .args(["/bin/sh", "-c", command])
            .env("PATH", "/opt/pilotlight/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Everything of this machine that the host could still have.
    fn remains(&self, id: &InstanceId) -> Vec<String> {
        let mut found = Vec::new();
        let id = id.as_str();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let cgroups = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            let state = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            let zombie = state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
            if !zombie && (cgroups.contains(id) || (command.contains("local-machine") && command.contains(id))) {
                found.push(format!("process {} {command}", process.path().display()));
            }
        }
        if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(id) {
            found.push("a mount".to_owned());
        }
        let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        if devices.contains(&id[id.len() - 13..]) {
            found.push("a network device".to_owned());
        }
        found.extend(
            self.cgroups()
                .into_iter()
                .map(|dir| dir.join(id))
                .filter(|dir| dir.exists())
                .map(|dir| format!("cgroup {}", dir.display())),
        );
        for name in ["upper", "work", "root", "disk", "user-data.yaml"] {
            let path = self.config.state_dir.join(&self.config.cluster).join(id).join(name);
            found.extend(path.exists().then(|| path.display().to_string()));
        }
        found
    }

    /// The cluster's cgroups on the host, in every hierarchy (v2 has but one).
    fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let below = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
        let hierarchies = below.chain([root.to_owned()]);
        let dirs = hierarchies.map(|hierarchy| hierarchy.join("pilotlight").join(&self.config.cluster));
        dirs.filter(|dir| dir.exists()).collect()
    }

    fn until_nothing_remains(&self, id: &InstanceId) {
        let mut remains = Vec::new();
        let began = Instant::now();
        while self.state(id) != InstanceState::Terminated || {
            remains = self.remains(id);
            !remains.is_empty()
        } {
            assert!(began.elapsed() < PATIENCE, "left after {PATIENCE:?}: {remains:?}\n{}", self.console(id));
            std::thread::sleep(Duration::from_millis(10));
        }
        self.until(id, "it is recorded as cleared up", || {
            self.describe();
            self.json(id, "instance.json")["cleaned"] == true
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.cloud = None;
        let destroyed = LocalCloud::destroy_all(&self.config.state_dir, &self.config.cluster);
        let removed = fs::remove_dir_all(&self.base);
        if !std::thread::panicking() {
            destroyed.unwrap();
            removed.unwrap();
        }
    }
}

fn pid(value: &serde_json::Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

/// Something beneath target/ that scripts make.
fn built(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(path.exists(), "{} is missing: run scripts/tools and scripts/images", path.display());
    path
}

fn offer(instance_type: &str) -> Offer {
    let instance_type = instance_type.to_owned();
    Offer { instance_type, purchase: Purchase::Spot, price: HourlyPrice(1_700) }
}

fn request(token: &str, count: u32) -> LaunchRequest {
    LaunchRequest {
        client_token: ClientToken::new(token),
        zone: "zone-a".to_owned(),
        offers: vec![offer("small")],
        allocation: Allocation::LowestPrice,
        credits: CreditMode::Unlimited,
        count,
        tags: [("pilotlight.dev/batch".to_owned(), token.to_owned())].into(),
    }
}

#[test]
fn two_machines_boot_with_a_containerd_each_and_share_nothing_but_the_kernel() {
    let world = World::new("share");
    let machines = world.launch_and_wait("batch", 2);
    let [one, other] = [&machines[0].id, &machines[1].id];
    for id in [one, other] {
        world.until(id, "containerd answers", || world.inside(id, "ctr version").is_ok());
        world.until(id, "the agent runs", || world.console(id).contains("an agent starts"));
        assert_eq!(world.inside(id, "hostname").unwrap(), id.as_str());
        assert_eq!(world.inside(id, "cat /proc/1/comm").unwrap(), world.inside(one, "cat /proc/1/comm").unwrap());
    }
    let own = |id: &InstanceId, namespace: &str| {
        fs::read_link(format!("/proc/{}/ns/{namespace}", world.init_pid(id))).unwrap()
    };
    for namespace in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let host = fs::read_link(format!("/proc/thread-self/ns/{namespace}")).unwrap();
        assert_ne!(own(one, namespace), own(other, namespace), "{namespace}");
        assert_ne!(own(one, namespace), host, "{namespace}");
    }

    for place in ["/etc", "/var/lib/containerd", "/var/lib/pilotlight", "/tmp", "/run", "/root", "/usr/bin"] {
        world.inside(one, &format!("echo mine > {place}/pilotlight-was-here")).unwrap();
        let path = format!("{place}/pilotlight-was-here");
        assert_eq!(world.inside(one, &format!("cat {path}")).unwrap(), "mine");
        assert!(world.inside(other, &format!("test ! -e {path}")).is_ok(), "{path} is seen by the other machine");
        assert!(!Path::new(&path).exists(), "{path} is seen on the host");
    }
    let environment = world.inside(one, "tr '\\0' '\\n' </proc/1/environ").unwrap();
    assert!(environment.starts_with("PATH=") && environment.lines().count() == 1, "{environment}");
    let state = world.config.state_dir.display();
    assert!(world.inside(one, &format!("ls {state}/*")).is_err(), "the state of all machines can be reached");
    assert_eq!(world.inside(one, "ls /dev/vda /dev/sda /dev/nvme0n1 2>/dev/null; true").unwrap(), "");
    // The image's own files are shared by links, its databases are not.
    let meta = "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db";
    let inode = |id| world.inside(id, &format!("stat -c %i {meta}")).unwrap();
    assert_ne!(inode(one), inode(other));
}

#[test]
fn a_machine_has_the_size_of_its_type_and_its_own_address_and_runs_containers() {
    let world = World::new("size");
    let machines = world.launch_and_wait("batch", 2);
    let (id, other) = (&machines[0].id, &machines[1].id);
    assert_eq!(machines[0].private_ip, Some(Ipv4Addr::new(10, 72, 0, 2).into()));
    assert_eq!(machines[0].pod_ip, Some(Ipv4Addr::new(10, 72, 0, 3).into()));
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max";
    assert_eq!(world.inside(id, limit).unwrap(), MEMORY.to_string());
    let quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    assert_eq!(world.inside(id, quota).unwrap(), "150000");
    let processes = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max";
    assert_eq!(world.inside(id, processes).unwrap(), "32768");
    // `/init`: where the unified hierarchy has controllers.
    let off_root = world.inside(id, "grep -v -e ':/$' -e '^0::/init$' /proc/1/cgroup; true").unwrap();
    assert_eq!(off_root, "", "PID 1 is not at the root of its cgroups");

    assert!(world.inside(id, "ip -4 -o addr show dev ens5").unwrap().contains(" 10.72.0.2/16 "));
    let peer = machines[1].private_ip.unwrap();
    for address in ["10.72.0.1".to_owned(), peer.to_string()] {
        // bash's /dev/tcp to a closed port: refused means that it was reached.
        let knock = format!("bash -c '</dev/tcp/{address}/1' 2>&1; true");
        assert!(world.inside(id, &knock).unwrap().contains("refused"), "{address} can't be reached");
    }

    world.until(id, "containerd answers", || world.inside(id, "ctr version").is_ok());
    assert_eq!(world.inside(id, "stat -c %a /etc/pilotlight/agent.yaml").unwrap(), "600");
    let run = format!("ctr -n k8s.io run --rm {IMAGE} hello /bin/sh -c 'echo from a container'");
    assert_eq!(world.inside(id, &run).unwrap(), "from a container");
    assert!(world.inside(other, "pgrep -x containerd").is_ok());
    // A hog is killed by its machine's own limit, and the other machine feels nothing.
    let hog = format!("ctr -n k8s.io run --rm {IMAGE} hog /bin/sh -c 'head -c 600000000 /dev/zero | tail'");
    assert!(world.inside(id, &hog).is_err());
    assert_eq!(world.state(other), InstanceState::Running);
}

#[test]
fn a_machine_gets_no_more_cpu_than_its_type_has() {
    let world = World::with("cpu", |config| config.types[0].cpu_millis = 200);
    let id = &world.launch_and_wait("batch", 1)[0].id;
    let count = |name: &str| {
        let stat = world.inside(id, "cat /sys/fs/cgroup/cpu/cpu.stat || cat /sys/fs/cgroup/cpu.stat").unwrap();
        let value = stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in {stat}"))
    };
    world.until(id, "containerd answers", || world.inside(id, "ctr version").is_ok());
    let burn = format!("ctr -n k8s.io run --detach {IMAGE} burn /bin/sh -c 'while :; do :; done'");
    world.inside(id, &burn).unwrap();
    let before = count("nr_throttled");
    world.until(id, "it is held back", || count("nr_throttled") > before + 10);
}

#[test]
fn services_that_die_are_started_again_and_containers_live_on() {
    let world = World::new("services");
    let id = &world.launch_and_wait("batch", 1)[0].id;
    world.until(id, "containerd answers", || world.inside(id, "ctr version").is_ok());
    let run = format!("ctr -n k8s.io run --detach {IMAGE} lasting sleep 100000");
    world.inside(id, &run).unwrap();
    let sleeper = world.inside(id, "pgrep -f 'sleep 100000$'").unwrap();
    let first = world.inside(id, "pgrep -x containerd").unwrap();
    world.inside(id, "pkill -9 -x containerd").unwrap();
    world.until(id, "containerd is back", || {
        world.inside(id, "pgrep -x containerd").is_ok_and(|pid| pid != first) && world.inside(id, "ctr version").is_ok()
    });
    assert_eq!(world.inside(id, "pgrep -f 'sleep 100000$'").unwrap(), sleeper);
    assert!(world.inside(id, "ctr -n k8s.io task ls").unwrap().contains("RUNNING"));
    let blocked = world.inside(id, "grep SigBlk /proc/$(pgrep -f 'sleep 1000000$')/status").unwrap();
    assert!(blocked.ends_with("\t0000000000000000"), "a service can't be asked to stop: {blocked}");
    world.inside(id, "pkill -9 -f 'sleep 1000000$'").unwrap();
    world.until(id, "the agent is back", || world.console(id).matches("an agent starts").count() == 2);
}

#[test]
fn a_token_launches_once_and_means_one_request() {
    let world = World::new("token");
    let first = world.launch("batch", 2).unwrap();
    let again = world.launch("batch", 2).unwrap();
    let ids = |records: &[InstanceRecord]| {
        let mut ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&first), ids(&again));
    assert_eq!(world.describe().len(), 2);
    assert!(matches!(world.launch("batch", 3), Err(CloudError::Refused { .. })));
    let other = LaunchRequest { offers: vec![offer("huge")], ..request("new", 1) };
    assert!(matches!(world.ask(&other), Err(CloudError::Refused { .. })));
    let other = LaunchRequest { offers: vec![offer("small"), offer("small")], ..request("batch", 2) };
    assert!(matches!(world.ask(&other), Err(CloudError::Refused { .. })));
    assert_eq!((first[0].purchase, first[0].price), (Purchase::Spot, HourlyPrice(1_700)), "what was offered");
}

#[test]
fn a_full_subnet_gives_fewer_machines_then_none_until_one_is_gone() {
    let world = World::with("full", |config| config.prefix_len = 29);
    assert_eq!(world.launch("one", 5).unwrap().len(), 2);
    let none = world.ask(&request("two", 1)).unwrap();
    assert_eq!((none.records, none.shortages[0].code.as_str()), (vec![], "InsufficientFreeAddressesInSubnet"));
    let gone = world.describe().into_keys().next().unwrap();
    let address = world.describe()[&gone].private_ip;
    world.terminate(&gone);
    world.until_nothing_remains(&gone);
    assert_eq!(world.launch("two", 1).unwrap()[0].private_ip, address);
}

#[test]
fn a_claim_is_accepted_for_one_key_from_the_right_address_with_the_right_token() {
    let mut world = World::new("claim");
    let machine = world.launch_and_wait("batch", 1).remove(0);
    let settings = world.inside(&machine.id, "cat /etc/pilotlight/agent.yaml").unwrap();
    let token = settings.lines().find_map(|line| line.strip_prefix("token:")).unwrap().trim().trim_matches('"');
    assert!(!fs::read_to_string(world.dir(&machine.id).join("instance.json")).unwrap().contains(token));

    let elsewhere = InstanceRecord { private_ip: Some(Ipv4Addr::new(10, 72, 9, 9).into()), ..machine.clone() };
    assert_eq!(world.claim(&elsewhere, token, "key"), Err("wrong-address"));
    assert_eq!(world.claim(&machine, "wrong", "key"), Err("wrong-token"));
    let unknown = InstanceRecord { id: InstanceId::new("i-unknown"), ..machine.clone() };
    assert_eq!(world.claim(&unknown, token, "key"), Err("unknown-instance"));
    assert_eq!(world.claim(&machine, token, "key").unwrap().id, machine.id);
    // As one whose answer was lost does.
    assert_eq!(world.claim(&machine, token, "key").unwrap().id, machine.id);
    assert_eq!(world.claim(&machine, token, "another"), Err("other-key"));
    world.restart_provider();
    assert_eq!(world.claim(&machine, token, "another"), Err("other-key"));
    assert_eq!(world.claim(&machine, token, "key").unwrap().id, machine.id);
    assert_eq!(world.claim(&machine, "wrong", "key"), Err("wrong-token"));
    world.terminate(&machine.id);
    assert_eq!(world.claim(&machine, token, "key"), Err("not-live"));
}

#[test]
fn a_provider_that_comes_back_finds_its_machines_running_and_can_end_them() {
    let mut world = World::new("adopt");
    let before = world.launch_and_wait("batch", 2);
    let pids: Vec<_> = before.iter().map(|machine| world.init_pid(&machine.id)).collect();
    world.restart_provider();
    let after = world.describe();
    for (machine, pid) in before.iter().zip(pids) {
        assert_eq!(after[&machine.id], *machine);
        assert_eq!(world.init_pid(&machine.id), pid);
    }
    assert_eq!(world.launch("batch", 2).unwrap().len(), 2, "a token means the same after a restart");
    world.terminate(&before[0].id);
    world.until_nothing_remains(&before[0].id);
    assert_eq!(world.state(&before[1].id), InstanceState::Running);
}

#[test]
fn a_killed_supervisor_takes_its_machine_along_and_everything_is_cleared_up() {
    let world = World::new("killed");
    let machines = world.launch_and_wait("batch", 2);
    let (victim, other) = (&machines[0].id, &machines[1].id);
    kill(Pid::from_raw(world.supervisor_pid(victim)), Signal::SIGKILL).unwrap();
    world.until_nothing_remains(victim);
    let record = &world.describe()[victim];
    assert_eq!(record.state_reason.as_deref(), Some("the machine's supervisor was killed"));
    assert_eq!(world.state(other), InstanceState::Running);
    assert!(world.inside(other, "true").is_ok());
}

#[test]
fn a_terminated_machine_leaves_nothing_and_may_be_terminated_again() {
    let world = World::new("terminate");
    let id = &world.launch_and_wait("batch", 1)[0].id;
    world.until(id, "the agent runs", || world.console(id).contains("an agent starts"));
    assert!(!world.remains(id).is_empty(), "the check for remains sees nothing");
    world.until(id, "containerd answers", || world.inside(id, "ctr version").is_ok());
    world.inside(id, &format!("ctr -n k8s.io run --detach {IMAGE} lasting sleep 100000")).unwrap();
    world.terminate(id);
    assert_ne!(world.state(id), InstanceState::Running);
    world.terminate(id);
    world.until_nothing_remains(id);
    world.terminate(id);
    assert_eq!(world.describe()[id].state_reason.as_deref(), Some("terminated as asked"));
    let console = world.console(id);
    assert!(console.contains("pilotlight-agent was killed by SIGTERM") && console.contains("containerd exited with 0"));
    world.runtime.block_on(world.cloud().terminate(&[InstanceId::new("i-never-was")])).unwrap();
}

#[test]
fn a_machine_that_is_terminated_while_it_boots_leaves_nothing() {
    let world = World::new("early");
    let id = &world.launch("batch", 1).unwrap()[0].id;
    world.terminate(id);
    world.until_nothing_remains(id);
}

#[test]
fn a_machine_whose_supervisor_never_came_is_ended_with_the_reason() {
    let mut world = World::with("never", |config| config.self_binary = Some("/bin/false".into()));
    let id = world.launch("batch", 1).unwrap().remove(0).id;
    world.until_nothing_remains(&id);
    let reason = world.describe()[&id].state_reason.clone();
    assert_eq!(reason.as_deref(), Some("the machine was recorded but never started"));

    // A record is kept for a while, and then no longer.
    world.restart_provider();
    assert!(world.describe().contains_key(&id));
    let mut record = world.json(&id, "instance.json");
    record["ended_at"] = "2020-01-01T00:00:00Z".into();
    fs::write(world.dir(&id).join("instance.json"), record.to_string()).unwrap();
    world.restart_provider();
    assert!(world.describe().is_empty());
    assert!(!world.dir(&id).exists());
}

#[test]
fn a_boot_that_fails_says_why_and_leaves_nothing() {
    let world = World::with("broken", |config| config.machine_image = Some("/proc/self/fdinfo".into()));
    fs::remove_file(&world.config.agent_binary).unwrap();
    let id = &world.launch("batch", 1).unwrap()[0].id;
    world.until_nothing_remains(id);
    let reason = world.describe()[id].state_reason.clone().unwrap();
    assert!(reason.starts_with("the machine did not boot: "), "{reason}");
}

#[test]
fn a_launch_that_never_came_to_a_record_is_cleared_by_the_next_provider() {
    let mut world = World::new("halfway");
    let half = world.dir(&InstanceId::new("i-00000000000000000"));
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("user-data.yaml"), "").unwrap();
    world.restart_provider();
    assert!(!half.exists());
    assert!(world.describe().is_empty());
}

#[test]
fn destroying_a_cluster_leaves_no_machine_bridge_or_cgroup() {
    let mut world = World::new("destroy");
    let machines = world.launch_and_wait("batch", 2);
    world.cloud = None;
    let binary = world.config.self_binary.clone().unwrap();
    let status = Command::new(binary)
        .args(["local-machine", "--destroy-all", "--cluster", &world.config.cluster, "--state-dir"])
        .arg(&world.config.state_dir)
        .status()
        .unwrap();
    assert!(status.success());
    for machine in &machines {
        assert_eq!(world.remains(&machine.id), Vec::<String>::new());
    }
    assert!(!fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains("pl0"));
    assert_eq!(world.cgroups(), Vec::<PathBuf>::new());
    assert!(!world.config.state_dir.join(&world.config.cluster).exists());
}
