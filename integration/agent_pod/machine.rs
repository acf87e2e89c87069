//! A machine of a test's own: a containerd in namespaces of its own, and Pods built in code.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pilotlight::{
    agent::pod::{CriClient, PodRuntime, PodRuntimeConfig},
    model::*,
};
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(45);
pub const BUSYBOX: &str = "pilotlight.test/busybox:1";
pub const AGNHOST: &str = "pilotlight.test/agnhost:1";
pub const POD_IP: &str = "10.250.7.8";
const INSIDE: &str = "PILOTLIGHT_AGENT_POD_INSIDE";

/// Runs `body` of the test `name` in new mount, network, PID and IPC namespaces: this very program again,
/// under unshare. When it ends, however it ends, the kernel ends every process in there and undoes every
/// mount; what remains (cgroups, files) is removed here.
pub fn isolated<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Machine) -> F) {
    if env::var_os(INSIDE).is_some() {
        tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(tracing::Level::INFO).init();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { body(Machine::boot(name).await).await });
        return;
    }
    assert!(nix::unistd::geteuid().is_root(), "containers need root");
    let leftovers = Leftovers { name: name.to_owned() };
    leftovers.clear();
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ])
        .arg(env::current_exe().unwrap())
        // Whatever module it is in: names are unique.
        .args([name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    if !status.success() {
        let log = fs::read_to_string(dir(name).join("containerd.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        eprintln!("the end of containerd's log:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    drop(leftovers);
    assert!(status.success(), "failed inside: see above");
}

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-pod").join(name)
}

/// What namespaces do not take with them.
struct Leftovers {
    name: String,
}

impl Leftovers {
    fn clear(&self) {
        let controllers = fs::read_dir("/sys/fs/cgroup").map(|list| list.flatten().map(|entry| entry.path()).collect());
        let mut roots: Vec<PathBuf> = controllers.unwrap_or_default();
        roots.push("/sys/fs/cgroup".into());
        for root in roots {
            remove_cgroup(&root.join("kubepods").join(format!("pod{}", self.name)));
        }
        let _ = fs::remove_dir_all(dir(&self.name));
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        self.clear();
    }
}

fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path());
    }
    let _ = fs::remove_dir(path);
}

/// Like an instance that has just booted.
pub struct Machine {
    pub uid: PodUid,
    pub dir: PathBuf,
    pub config: PodRuntimeConfig,
    containerd: Option<Child>,
}

impl Machine {
    async fn boot(name: &str) -> Self {
        let dir = dir(name);
        fs::create_dir_all(&dir).unwrap();
        // Sockets need short paths; containerd's state must be on no overlay.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        for line in [
            "link set lo up",
            // As on EC2: by this name, and with the Pod's address, if cloud-init has its way.
            "link add ens5 type veth peer name peer0",
            "addr add 10.250.7.1/24 dev ens5",
            &format!("addr add {POD_IP}/24 dev ens5"),
            "link set ens5 up",
            "link set peer0 up",
            "route add default via 10.250.7.254",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>());
        }
        clone_image(&repo().join("target/machine-image/containerd"), &dir.join("root"));
        let config = PodRuntimeConfig {
            containerd_socket: "/run/containerd.sock".into(),
            state_dir: "/run/pilotlight".into(),
            pods_dir: dir.join("pods"),
            logs_dir: dir.join("logs"),
            cni_conf_dir: dir.join("cni"),
            uplink: None,
        };
        fs::create_dir_all(&config.cni_conf_dir).unwrap();
        fs::create_dir_all(dir.join("certs")).unwrap();
        let tools = repo().join("target/tools");
        let text = fs::read_to_string(repo().join("integration/containerd/config.toml")).unwrap();
        let text = [
            ("@DIR@/root", dir.join("root")),
            ("@DIR@", "/run/containerd".into()),
            ("@SOCKET@", config.containerd_socket.clone()),
            ("@BIN@", tools.join("bin")),
            ("@CNI_BIN@", tools.join("cni/bin")),
            ("@CNI_CONF@", config.cni_conf_dir.clone()),
            ("@CERTS@", dir.join("certs")),
        ]
        .iter()
        .fold(text, |text, (key, value)| text.replace(key, &value.to_string_lossy()));
        fs::write(dir.join("containerd.toml"), text).unwrap();
        let mut machine = Self { uid: PodUid::new(name), dir, config, containerd: None };
        machine.start_containerd().await;
        machine
    }

    pub async fn start_containerd(&mut self) {
        let bin = repo().join("target/tools/bin");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("containerd.log")).unwrap();
        let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
        let child = Command::new(bin.join("containerd"))
            .args(["--config".as_ref(), self.dir.join("containerd.toml").as_os_str()])
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.containerd = Some(child);
        let client = CriClient::new(&self.config.containerd_socket);
        let up = async {
            while client.version().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, up).await.expect("containerd starts");
    }

    /// kill -9; the shims and their containers live on.
    pub fn kill_containerd(&mut self) {
        let mut child = self.containerd.take().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        let _ = fs::remove_file(&self.config.containerd_socket);
    }

    pub async fn agent(&self) -> Agent {
        let cancel = CancellationToken::new();
        let (runtime, events) = PodRuntime::start(self.config.clone(), cancel.clone()).await.unwrap();
        Agent { runtime, events, cancel, seen: Vec::new() }
    }

    pub fn pod(&self, containers: Vec<DesiredContainer>) -> DesiredPod {
        DesiredPod {
            generation: Generation(1),
            uid: self.uid.clone(),
            name: ObjectName::new("default", "pod"),
            labels: Arc::default(),
            annotations: Arc::default(),
            pod_ip: Some(POD_IP.parse().unwrap()),
            hostname: "pod".to_owned(),
            fqdn: None,
            host_aliases: Vec::new(),
            dns: DnsConfig { nameservers: vec!["10.96.0.10".to_owned()], ..DnsConfig::default() },
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            security: PodSecurity::default(),
            restart_policy: RestartPolicy::Always,
            termination_grace_seconds: 30,
            containers,
            volumes: Vec::new(),
            stop: None,
        }
    }
}

/// One life of an agent.
pub struct Agent {
    pub runtime: PodRuntime,
    events: mpsc::Receiver<AgentEvent>,
    cancel: CancellationToken,
    seen: Vec<AgentEvent>,
}

impl Agent {
    pub fn wants(&self, pod: &DesiredPod) {
        self.runtime.set_desired(Arc::new(pod.clone()));
    }

    /// The first report that is as said.
    pub async fn until(&self, what: &str, so: impl Fn(&PodReport) -> bool) -> Arc<PodReport> {
        let mut report = self.runtime.report();
        let found = timeout(PATIENCE, report.wait_for(|report| report.as_deref().is_some_and(&so))).await;
        let last = self.runtime.report().borrow().clone();
        match found {
            Ok(Ok(report)) => report.clone().unwrap(),
            Ok(Err(_)) => panic!("the worker ended while waiting for: {what}"),
            Err(_) => panic!("not so in time: {what}; the last report: {last:#?}"),
        }
    }

    pub async fn until_running(&self) -> Arc<PodReport> {
        self.until("everything runs", |report| {
            report.containers.iter().all(|c| c.kind == ContainerKind::Init || c.ready)
        })
        .await
    }

    /// The events so far, as `reason: message`.
    pub fn events(&mut self) -> Vec<String> {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        self.seen.iter().map(|event| format!("{}: {}", event.reason, event.message)).collect()
    }

    /// Waits for an event that begins so, now or from now on.
    pub async fn until_event(&mut self, begin: &str) {
        let found = async {
            while !self.events().iter().any(|event| event.starts_with(begin)) {
                let event = self.events.recv().await.expect("the worker lives");
                self.seen.push(event);
            }
        };
        let found = timeout(PATIENCE, found).await;
        assert!(found.is_ok(), "not told: {begin}; but: {:#?}", self.events());
    }

    /// What a command in a running container prints.
    pub async fn exec(&self, container: &str, script: &str) -> String {
        use pilotlight::agent::PodHost;
        let command = ["sh", "-c", script].map(str::to_owned);
        let output = self.runtime.exec_sync(container, &command).await.unwrap();
        assert_eq!(output.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Deletes the Pod with so much grace, to the end.
    pub async fn stop(&self, pod: &DesiredPod, grace_seconds: u64) -> Arc<PodReport> {
        self.wants(&stopped(pod, grace_seconds));
        self.until("it is terminated", |report| report.terminated).await
    }

    /// As kill -9 does: nothing is said or undone.
    pub async fn dies(self) {
        let ended = self.runtime.ended();
        self.cancel.cancel();
        drop(self.runtime);
        timeout(PATIENCE, ended.cancelled()).await.expect("the worker ends");
    }
}

pub fn stopped(pod: &DesiredPod, grace_seconds: u64) -> DesiredPod {
    let deletion = Deletion { deadline: jiff::Timestamp::now(), grace_seconds };
    let stop = Some(Stop { deletion, reason: "deleted".to_owned() });
    DesiredPod { generation: Generation(pod.generation.0 + 1), stop, ..pod.clone() }
}

/// A container that runs a shell script of busybox.
pub fn container(name: &str, script: &str) -> DesiredContainer {
    DesiredContainer {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..DesiredContainer::new(name, BUSYBOX)
    }
}

/// Runs until it is told to stop, and stops at once.
pub const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
/// Listens to nothing from then on that there is /up. A container counts as running a moment before: runc's own process
/// stands in its place then, and ends at a SIGTERM with 2.
pub const DEAF: &str = "trap '' TERM; touch /up; while :; do sleep 1; done";
/// Waits for that, in the container.
pub const UP: &str = "until [ -e /up ]; do sleep 0.1; done";

pub fn probe(action: Handler) -> Probe {
    Probe {
        action,
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace_seconds: None,
    }
}

pub fn exec_probe(script: &str) -> Probe {
    probe(Handler::Exec { command: ["sh", "-c", script].map(str::to_owned).to_vec() })
}

pub fn end(report: &PodReport, container: usize) -> Termination {
    match &report.containers[container].state {
        ContainerState::Terminated(end) => end.clone(),
        other => panic!("it has not ended: {other:?}"),
    }
}

pub fn waiting(report: &PodReport, container: usize) -> (&str, &str) {
    match &report.containers[container].state {
        ContainerState::Waiting { reason, message } => (reason, message),
        ContainerState::Running { .. } | ContainerState::Terminated(_) => ("", ""),
    }
}

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// By hard links, but for the databases: containerd writes those in place.
fn clone_image(from: &Path, to: &Path) {
    let clone = || -> io::Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                clone_image(&from, &to);
                fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
            } else if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
            } else if from.extension().is_some_and(|extension| extension == "db") {
                fs::copy(&from, &to)?;
            } else {
                fs::hard_link(&from, &to)?;
            }
        }
        Ok(())
    };
    clone().unwrap_or_else(|error| panic!("{}: {error}: run scripts/tools and scripts/images", from.display()));
}

pub fn mount(volume: &str, path: &str) -> DesiredMount {
    DesiredMount {
        volume: volume.to_owned(),
        path: path.to_owned(),
        read_only: false,
        recursive_read_only: false,
        propagation: MountPropagation::None,
        sub_path: None,
    }
}

pub async fn until_file(path: &Path, text: &str) {
    let found = async {
        while !fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{} never has {text}", path.display()));
}
