//! One machine's papers, and its start.

use super::{
    addresses::Pair,
    config::LocalCloudConfig,
    error::{Doing, LocalError},
    machine::{Bind, MachineSpec},
    network, notice,
    record::{CONSOLE, INSTANCE, InstanceDir, MACHINE, StoredInstance, USER_DATA},
    user_data::{AGENT, BIN_DIR, CNI_BIN_DIR, METADATA_DIR, UserData, UserDataInput, image, user_data},
};
use crate::model::{
    ClientToken, InstanceId, InstanceRecord, InstanceState, InstanceType, LaunchRequest, Offer, Purchase,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, OpenOptions},
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

/// Where a supervisor finds `ip` and `cp`.
const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes everything down that makes the instance; with its record the instance exists.
pub fn record(
    config: &LocalCloudConfig,
    restrict_oom_score_adj: bool,
    request: &LaunchRequest,
    offer: (&Offer, &InstanceType),
    pair: Pair,
    now: Timestamp,
) -> Result<StoredInstance, LocalError> {
    let (offer, instance_type) = offer;
    let id = InstanceId::new(format!("i-{}", &hex(&rand::random::<[u8; 9]>())[..17]));
    let token = hex(&rand::random::<[u8; 32]>());
    let dir = InstanceDir::new(&config.cluster_dir(), &id);
    fs::create_dir(dir.path()).doing(|| format!("make {}", dir.path().display()))?;
    let input = UserDataInput {
        instance_id: id.as_str(),
        provider_url: &config.provider_url,
        ca_pem: &config.ca_pem,
        token: &token,
        sandbox_image: &config.sandbox_image,
        registries: &config.registries,
        restrict_oom_score_adj,
    };
    let yaml = user_data(&input)
        .and_then(|data| serde_saphyr::to_string(&data).map_err(|error| error.to_string()))
        .map_err(|message| LocalError::Content { path: dir.file(USER_DATA), message })?;
    dir.write_text(USER_DATA, &yaml)?;
    notice::prepare(&dir)?;
    let mut spec = spec(config, &id, instance_type, pair.machine);
    spec.tools.push(Bind { source: notice::directory(&dir), target: METADATA_DIR.into() });
    dir.write(MACHINE, &spec)?;
    let instance = InstanceRecord {
        id,
        client_token: request.client_token.clone(),
        instance_type: offer.instance_type.clone(),
        zone: request.zone.clone(),
        purchase: offer.purchase,
        state: InstanceState::Pending,
        state_reason: None,
        private_ip: Some(pair.machine.into()),
        pod_ip: Some(pair.pod.into()),
        launched_at: now,
        price: offer.price,
        tags: request.tags.clone().into(),
    };
    store(&dir, instance, request.count, request.offers.clone(), hex(&Sha256::digest(&token)))
}

/// A machine whose id, addresses and user data another cloud chose: what stands in for that cloud boots it
/// here. It cannot be claimed by a token.
#[derive(Clone, Debug)]
pub struct GivenMachine {
    pub id: InstanceId,
    pub zone: String,
    pub instance_type: InstanceType,
    pub address: Ipv4Addr,
    pub pod_address: Option<Ipv4Addr>,
    /// Beside what the local cloud's image brings: containerd and its configuration.
    pub user_data: UserData,
}

/// As [`record`], for a machine that is given.
pub fn record_given(
    config: &LocalCloudConfig,
    restrict_oom_score_adj: bool,
    given: &GivenMachine,
    now: Timestamp,
) -> Result<StoredInstance, LocalError> {
    let dir = InstanceDir::new(&config.cluster_dir(), &given.id);
    fs::create_dir(dir.path()).doing(|| format!("make {}", dir.path().display()))?;
    let input = UserDataInput {
        instance_id: given.id.as_str(),
        provider_url: &config.provider_url,
        ca_pem: &config.ca_pem,
        token: "",
        sandbox_image: &config.sandbox_image,
        registries: &config.registries,
        restrict_oom_score_adj,
    };
    let mut data = image(&input);
    data.write_files.extend(given.user_data.write_files.iter().cloned());
    data.services.extend(given.user_data.services.iter().cloned());
    let yaml = serde_saphyr::to_string(&data)
        .map_err(|error| LocalError::Content { path: dir.file(USER_DATA), message: error.to_string() })?;
    dir.write_text(USER_DATA, &yaml)?;
    dir.write(MACHINE, &spec(config, &given.id, &given.instance_type, given.address))?;
    let instance = InstanceRecord {
        id: given.id.clone(),
        client_token: ClientToken::new(given.id.as_str()),
        instance_type: given.instance_type.name.clone(),
        zone: given.zone.clone(),
        purchase: Purchase::OnDemand,
        state: InstanceState::Pending,
        state_reason: None,
        private_ip: Some(given.address.into()),
        pod_ip: given.pod_address.map(Into::into),
        launched_at: now,
        price: given.instance_type.price,
        tags: Arc::default(),
    };
    store(&dir, instance, 1, Vec::new(), String::new())
}

fn store(
    dir: &InstanceDir,
    instance: InstanceRecord,
    launch_count: u32,
    offers: Vec<Offer>,
    token_sha256: String,
) -> Result<StoredInstance, LocalError> {
    let stored = StoredInstance {
        instance,
        launch_count,
        offers,
        token_sha256,
        stop_requested_at: None,
        ended_at: None,
        cleaned: false,
    };
    dir.write_durably(INSTANCE, &stored)?;
    Ok(stored)
}

fn spec(config: &LocalCloudConfig, id: &InstanceId, instance_type: &InstanceType, address: Ipv4Addr) -> MachineSpec {
    let bind = |source: &Path, target: &str| Bind { source: source.to_owned(), target: target.into() };
    MachineSpec {
        instance: id.as_str().to_owned(),
        cluster: config.cluster.clone(),
        cpu_millis: instance_type.cpu_millis,
        memory_bytes: instance_type.memory_bytes,
        veth: network::veth_name(id),
        bridge: config.bridge.clone(),
        address,
        prefix_len: config.prefix_len,
        gateway: config.bridge_address,
        image: config.machine_image.clone(),
        tools: vec![
            bind(&config.bin_dir, BIN_DIR),
            bind(&config.cni_bin_dir, CNI_BIN_DIR),
            bind(&config.agent_binary, AGENT),
        ],
        hidden: [&config.state_dir].into_iter().chain(&config.hidden).cloned().collect(),
    }
}

/// Starts the machine's supervisor.
pub fn start(program: &Path, dir: &InstanceDir) -> Result<Child, LocalError> {
    let console = || {
        let path = dir.file(CONSOLE);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        file.doing(|| format!("open {}", path.display()))
    };
    Command::new(program)
        .args(["local-machine", "--dir"])
        .arg(dir.path())
        // The machine's root user may read what its PID 1 inherits.
        .env_clear()
        .env("PATH", HOST_PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console()?)
        .stderr(console()?)
        .spawn()
        .doing(|| format!("start {}", program.display()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
