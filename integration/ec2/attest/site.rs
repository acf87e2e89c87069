//! A provider's gateway beside a stand-in for EC2, in the test's network namespace; and whoever dials in to it.

use crate::support::{self, Answer, Machines, StandIn, field, fields};
use async_trait::async_trait;
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp};
use pilotlight::{
    claims::{FileStore, Ledger},
    cloud::ec2::attest::{AttestConfig, Attestor, IdentityCertificates, StsClient},
    gateway::{Ca, Gateway, GatewayConfig, KeyAndCertificate, Places},
    model::{
        ClientToken, HourlyPrice, InstanceId, InstanceRecord, InstanceState, LaunchRequest, Launched, Purchase,
        bootstrap::{BINDING_HEADER, KeyFingerprint, STS_BODY, STS_CONTENT_TYPE, binding, hex},
    },
    ports::{AgentUpdate, Challenge, Claim, ClaimError, Cloud, CloudError},
    proto::{
        ChallengeRequest, ChallengeResponse, IdentityDocument, RegisterRequest, RenewRequest, StsProof,
        agent_gateway_client::AgentGatewayClient, bootstrap_client::BootstrapClient, register_request::Proof,
    },
    telemetry::Metrics,
};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub const CLUSTER: &str = "attested";
const REGION: &str = "us-east-1";
pub const ACCOUNT: &str = "123456789012";
const REGISTER_WITHIN: SignedDuration = SignedDuration::from_mins(10);

pub struct Site {
    pub standin: Arc<StandIn>,
    pub metrics: Metrics,
    pub updates: mpsc::Receiver<AgentUpdate>,
    pub ca: Arc<Ca>,
    gateway: Gateway,
    cancel: CancellationToken,
    /// Seconds that the provider's clock is ahead.
    ahead: Arc<AtomicI64>,
    /// Seconds after its launch that an instance may register for the first time.
    register_within: Arc<AtomicI64>,
    state: tempfile::TempDir,
    options: Options,
}

#[derive(Clone, Copy)]
pub struct Options {
    pub listen: &'static str,
    pub documents: bool,
    pub account: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0", documents: false, account: ACCOUNT }
    }
}

/// The launch ledger is the stand-in's own list, by the cluster's tag.
struct Attested {
    standin: Arc<StandIn>,
    attestor: Attestor,
}

#[async_trait]
impl Cloud for Attested {
    async fn launch(&self, _: &LaunchRequest) -> Result<Launched, CloudError> {
        Ok(Launched::default())
    }
    async fn describe(&self) -> Result<Vec<InstanceRecord>, CloudError> {
        Ok(describe(&self.standin))
    }
    async fn terminate(&self, _: &[InstanceId]) -> Result<(), CloudError> {
        Ok(())
    }
    fn challenge(&self, peer: IpAddr) -> Option<Challenge> {
        Some(self.attestor.challenge(peer))
    }
    async fn claim(&self, claim: &Claim) -> Result<InstanceRecord, ClaimError> {
        let unsettled = |error: CloudError| ClaimError::Unsettled(claim.instance.clone(), error.to_string());
        self.attestor.claim(claim, self.find(&claim.instance).await.map_err(unsettled)?).await
    }
}

fn describe(standin: &StandIn) -> Vec<InstanceRecord> {
    let ours = format!("Action=DescribeInstances&Filter.1.Name=tag:pilotlight.dev/cluster&Filter.1.Value.1={CLUSTER}");
    let answer = standin.api(&ours);
    assert_eq!(answer.status, 200, "{}", answer.text);
    let instance = |xml: &str| InstanceRecord {
        id: InstanceId::new(field(xml, "instanceId")),
        client_token: ClientToken::new("token"),
        instance_type: field(xml, "instanceType"),
        zone: field(xml, "availabilityZone"),
        purchase: Purchase::OnDemand,
        state: match field(xml.split_once("<instanceState>").unwrap().1, "name").as_str() {
            "pending" => InstanceState::Pending,
            "running" => InstanceState::Running,
            "shutting-down" => InstanceState::ShuttingDown,
            _ => InstanceState::Terminated,
        },
        state_reason: None,
        private_ip: fields(xml, "privateIpAddress").first().map(|ip| ip.parse().unwrap()),
        pod_ip: None,
        launched_at: field(xml, "launchTime").parse().unwrap(),
        price: HourlyPrice(0),
        tags: Default::default(),
    };
    fields(&answer.text, "instancesSet")
        .iter()
        .filter(|set| set.contains("<instanceId>"))
        .map(|set| instance(set))
        .collect()
}

impl Site {
    pub fn start(standin: StandIn, options: Options) -> Self {
        let state = tempfile::tempdir().unwrap();
        Self::serve(Arc::new(standin), options, state, Arc::default(), options.listen.parse().unwrap())
    }

    fn serve(
        standin: Arc<StandIn>,
        options: Options,
        state: tempfile::TempDir,
        ahead: Arc<AtomicI64>,
        listen: SocketAddr,
    ) -> Self {
        let cancel = CancellationToken::new();
        let register_within = Arc::new(AtomicI64::new(REGISTER_WITHIN.as_secs()));
        let sts = StsClient::at(&format!("http://{}", standin.address())).unwrap();
        let (ledger, writer) = Ledger::new(FileStore::new(state.path().join("claims.json")), cancel.clone());
        tokio::spawn(writer);
        let certificate = standin.text("/standin/identity-certificate");
        let config = AttestConfig {
            cluster: CLUSTER.to_owned(),
            region: REGION.to_owned(),
            account: Some(options.account.to_owned()),
            identity_certificates: options.documents.then(|| IdentityCertificates::from_pem(&certificate).unwrap()),
            register_within: {
                let seconds = Arc::clone(&register_within);
                Arc::new(move || SignedDuration::from_secs(seconds.load(Ordering::SeqCst)))
            },
        };
        let clock = {
            let ahead = Arc::clone(&ahead);
            Arc::new(move || Timestamp::now() + SignedDuration::from_secs(ahead.load(Ordering::SeqCst)))
        };
        let attestor = Attestor::with_clock(config, Arc::new(sts), Arc::new(ledger), clock);
        let cloud = Arc::new(Attested { standin: Arc::clone(&standin), attestor });
        let ca = Arc::new(Ca::open(state.path()).unwrap());
        let (sender, updates) = mpsc::channel(64);
        let metrics = Metrics::default();
        let config = GatewayConfig { listen, names: vec![listen.ip().to_string()], places: Places::default() };
        let gateway = Gateway::start(&config, Arc::clone(&ca), cloud, sender, metrics.clone(), cancel.clone()).unwrap();
        Self { standin, metrics, updates, ca, gateway, cancel, ahead, register_within, state, options }
    }

    /// The provider is gone, and another is in its place.
    pub async fn restart(self) -> Self {
        let address = self.gateway.address();
        self.cancel.cancel();
        self.gateway.stopped().await;
        Self::serve(self.standin, self.options, self.state, self.ahead, address)
    }

    /// As an edit of the cost policy's `ttl.register`.
    pub fn let_register_within(&self, time: SignedDuration) {
        self.register_within.store(time.as_secs(), Ordering::SeqCst);
    }

    pub fn provider(&self) -> String {
        format!("https://{}", self.gateway.address())
    }

    pub fn pass(&self, time: SignedDuration) {
        self.ahead.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    pub fn launch(&self, more: &str) -> Instance {
        launch(&self.standin, more, CLUSTER)
    }

    /// From an instance's own address, or from another.
    pub async fn dial(&self, from: IpAddr, identity: Option<&KeyAndCertificate>) -> Channel {
        dial(&self.provider(), self.ca.certificate_pem(), from, identity).await
    }

    /// How the metrics count registrations that were refused for this.
    pub fn refused(&self, reason: &str) -> u64 {
        let line = format!("pilotlight_registrations_refused_total{{reason=\"{reason}\"}} ");
        self.metrics.text().lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }

    pub fn registered(&self) -> u64 {
        let line = "pilotlight_registrations_total ";
        self.metrics.text().lines().find_map(|text| text.strip_prefix(line)?.parse().ok()).unwrap()
    }
}

pub fn launch(standin: &StandIn, more: &str, cluster: &str) -> Instance {
    let subnet = standin.subnet("us-east-1a");
    let Answer { status, text } = standin.api(&format!(
        "Action=RunInstances&ImageId=ami-1&InstanceType=t3.micro&MinCount=1&MaxCount=1&NetworkInterface.1.DeviceIndex=0\
         &NetworkInterface.1.SubnetId={subnet}&NetworkInterface.1.SecondaryPrivateIpAddressCount=1\
         &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=pilotlight.dev/cluster\
         &TagSpecification.1.Tag.1.Value={cluster}{more}"
    ));
    assert_eq!(status, 200, "{text}");
    let id = field(&text, "instanceId");
    let address: IpAddr = field(&text, "privateIpAddress").parse().unwrap();
    Instance { id, address }
}

/// Packets from this address can leave this namespace, as if they came from there.
pub fn impersonate(address: IpAddr) {
    assert!(
        Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]).status().unwrap().success()
    );
}

#[derive(Clone)]
pub struct Instance {
    pub id: String,
    pub address: IpAddr,
}

/// The credentials of an instance's role, as its metadata service gives them.
#[derive(Clone)]
pub struct Role {
    pub access_key_id: String,
    pub secret: String,
    pub token: String,
}

impl Role {
    pub fn of(standin: &StandIn, instance: &Instance) -> Self {
        let said = standin.answer(&format!("/standin/instances/{}/credentials", instance.id));
        let text = |name: &str| said[name].as_str().unwrap().to_owned();
        Self { access_key_id: text("accessKeyId"), secret: text("secretAccessKey"), token: text("token") }
    }
}

/// An instance's key, as its agent has one.
pub struct Key(KeyPair);

impl Key {
    pub fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    pub fn request(&self) -> String {
        CertificateParams::default().serialize_request(&self.0).unwrap().pem().unwrap()
    }

    fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of(&self.0.subject_public_key_info())
    }

    pub fn with(&self, certificate_pem: String) -> KeyAndCertificate {
        KeyAndCertificate { key_pem: self.0.serialize_pem(), certificate_pem }
    }
}

/// What is signed. An honest agent's, until a test changes it.
#[derive(Clone)]
pub struct ToSign {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub region: String,
    pub service: String,
    pub at: Timestamp,
}

impl ToSign {
    pub fn honest(challenge: &ChallengeResponse, key: &Key) -> Self {
        let audience = challenge.sts.clone().unwrap();
        let binding = binding(&challenge.nonce, &key.fingerprint(), CLUSTER);
        let headers =
            [("content-type", STS_CONTENT_TYPE.to_owned()), ("host", audience.host), (BINDING_HEADER, binding)];
        Self {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: STS_BODY.to_owned(),
            region: audience.region,
            service: "sts".to_owned(),
            at: Timestamp::now(),
        }
    }

    /// Signature Version 4, by the steps of AWS's page "Create a signed AWS API request".
    pub fn signed(mut self, role: &Role, nonce: &[u8]) -> StsProof {
        let date = self.at.strftime("%Y%m%dT%H%M%SZ").to_string();
        self.headers.insert("x-amz-date".to_owned(), date.clone());
        self.headers.insert("x-amz-security-token".to_owned(), role.token.clone());
        let canonical: String = self.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names: Vec<&str> = self.headers.keys().map(String::as_str).collect();
        let body = hex(&Sha256::digest(&self.body));
        let request = format!("{}\n{}\n\n{canonical}\n{}\n{body}", self.method, self.path, names.join(";"));
        let scope = [&date[..8], &self.region, &self.service, "aws4_request"];
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{}\n{}", scope.join("/"), hex(&Sha256::digest(request)));
        let key = scope.iter().fold(format!("AWS4{}", role.secret).into_bytes(), |key, step| mac(&key, step));
        StsProof {
            nonce: nonce.to_vec().into(),
            access_key_id: role.access_key_id.clone(),
            date,
            session_token: role.token.clone(),
            signature: mac(&key, &to_sign).into(),
        }
    }
}

fn mac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

async fn dial(provider: &str, ca_pem: &str, from: IpAddr, identity: Option<&KeyAndCertificate>) -> Channel {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
    if let Some(own) = identity {
        tls = tls.identity(Identity::from_pem(&own.certificate_pem, &own.key_pem));
    }
    let endpoint = Endpoint::from_shared(provider.to_owned()).unwrap().tls_config(tls).unwrap();
    endpoint.local_address(Some(from)).connect().await.unwrap()
}

/// One who dials in without a certificate: anew each time, for the gateway does not keep such connections long.
#[derive(Clone)]
pub struct Dialer {
    provider: String,
    ca_pem: String,
    address: IpAddr,
}

impl Dialer {
    pub fn at(site: &Site, address: IpAddr) -> Self {
        Self { provider: site.provider(), ca_pem: site.ca.certificate_pem().to_owned(), address }
    }

    async fn client(&self) -> BootstrapClient<Channel> {
        BootstrapClient::new(dial(&self.provider, &self.ca_pem, self.address, None).await)
    }

    pub async fn challenge(&self) -> ChallengeResponse {
        self.client().await.challenge(ChallengeRequest {}).await.unwrap().into_inner()
    }

    pub async fn register(&self, instance: &str, key: &Key, proof: Proof) -> Result<String, tonic::Status> {
        let request = RegisterRequest { instance_id: instance.to_owned(), csr_pem: key.request(), proof: Some(proof) };
        self.client().await.register(request).await.map(|response| response.into_inner().certificate_pem)
    }

    /// As an agent does it, with what `change` makes of what it signs.
    pub async fn by_role(
        &self,
        instance: &str,
        key: &Key,
        role: &Role,
        change: impl FnOnce(&mut ToSign),
    ) -> Result<String, tonic::Status> {
        let challenge = self.challenge().await;
        let mut to_sign = ToSign::honest(&challenge, key);
        change(&mut to_sign);
        self.register(instance, key, Proof::Sts(to_sign.signed(role, &challenge.nonce))).await
    }
}

pub fn document(standin: &StandIn, instance: &Instance) -> IdentityDocument {
    let said = standin.get(&format!("/standin/instances/{}/identity", instance.id));
    IdentityDocument {
        document: said["document"].as_str().unwrap().as_bytes().to_vec().into(),
        signature: said["rsa2048"].as_str().unwrap().to_owned(),
    }
}

pub async fn renew(channel: Channel, key: &Key) -> Result<(), tonic::Code> {
    let renewed = AgentGatewayClient::new(channel).renew(RenewRequest { csr_pem: key.request() }).await;
    renewed.map(drop).map_err(|status| status.code())
}

/// Runs a test's own part beside its gateway, in the namespace of the calling thread.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test takes far too long");
    });
}

pub fn stand_in(name: &str) -> StandIn {
    let standin = StandIn::start(name, Machines::None);
    standin.script(r#"{"limits": false}"#);
    standin
}

pub use support::until;
