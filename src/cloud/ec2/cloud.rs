//! [`Cloud`] on EC2: the port's calls, put together of the parts beside this.

use super::{
    api::{Api, Permission},
    attest::Attestor,
    config::Ec2Config,
    endpoint::EndpointError,
    ends::Ends,
    journal::Journal,
    launch::Launcher,
    ledger::Ledger,
    limits::Bucket,
    price_list::PriceList,
    queue::Queue,
    records::{Machine, is_instance_id, record},
    refusal::{Refusal, Verdict},
    sweep, tags,
    template::TemplateError,
    types::Types,
    vendor::Ec2Vendor,
    window::{Call, Rights, Window},
};
use crate::{
    model::{ClientToken, InstanceId, InstanceRecord, LaunchRequest, Launched, tag},
    ports::{Challenge, Claim, ClaimError, Cloud, CloudError},
    retry::Backoff,
};
use async_trait::async_trait;
use aws_config::SdkConfig;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::task::AbortOnDropHandle;

/// AWS, "RunInstances", ClientToken.
const TOKEN_LENGTH: usize = 64;
/// Launches remembered with what they brought; each caller's token is new, so few are ever asked for again.
const REMEMBERED: usize = 256;
/// Without rights EC2 is asked no more often than this.
const FIRST_DENIED_WAIT: Duration = Duration::from_secs(2);
const LONGEST_DENIED_WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum Ec2Error {
    #[error("the directory {0} can't be made")]
    Journal(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the price list")]
    PriceList(#[source] EndpointError),
    #[error("the queue of announcements")]
    Queue(#[source] EndpointError),
}

pub struct Ec2Cloud {
    config: Ec2Config,
    attestor: Attestor,
    api: Arc<Api>,
    types: Arc<Types>,
    launcher: Launcher,
    described: Arc<Window<Machine>>,
    terminated: Window<()>,
    ledger: Arc<Mutex<Ledger>>,
    remembered: Mutex<VecDeque<(ClientToken, String, Launched)>>,
    /// What a former process had under way was taken up.
    resumed: tokio::sync::Mutex<bool>,
    denied: Mutex<Option<Denied>>,
    unknown_claims: Mutex<Bucket>,
    _sweeper: AbortOnDropHandle<()>,
}

/// Whether EC2 is asked about an instance that somebody claims to be. Anyone who reaches the agents' port may claim
/// anything, and the questions come out of what our own lists live on.
#[derive(Debug, PartialEq, Eq)]
enum LookUp {
    Now,
    NotNow,
    /// No instance has such an id. EC2 names one malformed id at a time: each would cost a call of its own.
    Never,
}

/// Questions about instances that no launch and no list has told of. A registration just after a change of the leader
/// is one; the first list ends that.
const UNKNOWN_AT_ONCE: f64 = 50.;
const UNKNOWN_A_SECOND: f64 = 1.;

/// EC2 lets us do nothing for now.
struct Denied {
    until: Instant,
    refusal: Refusal,
    pauses: Backoff,
}

impl Ec2Cloud {
    /// To be called within a runtime: what it gathers and sweeps are tasks, which end with it. `shared` is made by
    /// [`super::sdk_config`].
    pub fn new(config: Ec2Config, shared: &SdkConfig, attestor: Attestor) -> Result<Self, Ec2Error> {
        let api = Arc::new(Api::new(&config, shared));
        let open = |error| Ec2Error::Journal(config.journal_dir.clone(), error);
        let journal = Journal::open(&config.journal_dir).map_err(open)?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let described = Arc::new(Window::new(describe_call(&api), Rights::Whole));
        let types = Arc::new(Types::new(config.types.clone()));
        let launcher = Launcher::new(
            config.clone(),
            Arc::clone(&api),
            journal,
            Arc::clone(&described),
            Arc::clone(&ledger),
            Arc::clone(&types),
        )?;
        let sweep = sweep::run(Arc::clone(&api), config.cluster.clone(), launcher.uses(), config.sweep_every);
        Ok(Self {
            terminated: Window::new(terminate_call(&api), Rights::Each),
            remembered: Mutex::default(),
            resumed: tokio::sync::Mutex::new(false),
            denied: Mutex::new(None),
            unknown_claims: Mutex::new(Bucket::full(UNKNOWN_AT_ONCE, UNKNOWN_A_SECOND, Instant::now())),
            _sweeper: AbortOnDropHandle::new(tokio::spawn(sweep)),
            config,
            attestor,
            api,
            types,
            launcher,
            described,
            ledger,
        })
    }

    fn look_up(&self, id: &InstanceId) -> LookUp {
        let now = Instant::now();
        let mut unknown = self.unknown_claims.lock().unwrap_or_else(PoisonError::into_inner);
        match is_instance_id(id.as_str()) {
            false => LookUp::Never,
            true if self.ledger().get(id).is_some() || unknown.take_one_now(now) => LookUp::Now,
            true => LookUp::NotNow,
        }
    }

    /// What EC2 sells, and at what price.
    pub fn vendor(&self, shared: &SdkConfig) -> Result<Ec2Vendor, Ec2Error> {
        let list = price_list(&self.config, shared).map_err(Ec2Error::PriceList)?;
        Ok(Ec2Vendor {
            api: Arc::clone(&self.api),
            cluster: self.config.cluster.clone(),
            price_list: list,
            types: Arc::clone(&self.types),
            ledger: Arc::clone(&self.ledger),
        })
    }

    /// Where its announcements are received, if there is such a place.
    pub fn queue(&self, shared: &SdkConfig) -> Result<Option<Queue>, Ec2Error> {
        queue(&self.config, shared).map_err(Ec2Error::Queue)
    }

    /// Whether the account lets us do what we must, by dry runs.
    pub async fn permissions(config: &Ec2Config, shared: &SdkConfig) -> Vec<Permission> {
        let mut all = Api::new(config, shared).permissions(config).await;
        if let Ok(Some(list)) = price_list(config, shared) {
            all.push(Permission::of_price_list(list.may_ask().await));
        }
        if let Ok(Some(queue)) = queue(config, shared) {
            all.push(Permission::of_queue(queue.may_ask().await));
        }
        all
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<(ClientToken, String, Launched)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, request: &LaunchRequest) -> Result<(), String> {
        let token = request.client_token.as_str();
        if token.is_empty() || token.len() > TOKEN_LENGTH || !token.is_ascii() {
            return Err(format!("{token:?} is no client token: 1 to {TOKEN_LENGTH} ASCII characters"));
        }
        if request.count == 0 {
            return Err("a launch of no instance".to_owned());
        }
        if request.offers.is_empty() {
            return Err("a launch without an offer".to_owned());
        }
        if !self.config.subnets.contains_key(&request.zone) {
            return Err(format!("there is no zone {}", request.zone));
        }
        let types = self.types.now();
        match request.offers.iter().find(|offer| !types.contains_key(&offer.instance_type)) {
            Some(offer) => Err(format!("there is no instance type {}", offer.instance_type)),
            None => Ok(()),
        }
    }

    /// What an earlier launch with this token brought, of this process or another.
    async fn before(&self, request: &LaunchRequest) -> Result<Option<Launched>, CloudError> {
        let print = tags::fingerprint(request);
        let reused = || refused(format!("token {} was used for another request", request.client_token));
        let own = self.remembered().iter().find(|(token, ..)| *token == request.client_token).cloned();
        if let Some((_, known, launched)) = own {
            return if known == print { Ok(Some(launched)) } else { Err(reused()) };
        }
        if !self.ledger().is_complete() {
            self.describe().await?;
        }
        let records = self.ledger().with_token(request.client_token.as_str());
        if records.iter().any(|record| record.tags.get(tags::REQUEST) != Some(&print)) {
            return Err(reused());
        }
        Ok((!records.is_empty()).then_some(Launched { records, ..Launched::default() }))
    }

    /// While EC2 lets us do nothing it is not asked again and again.
    fn waits(&self) -> Option<Refusal> {
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.as_ref().filter(|denied| denied.until > Instant::now()).map(|denied| denied.refusal.clone())
    }

    fn note(&self, answer: &Result<Vec<Machine>, Refusal>) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(refusal) if refusal.verdict == Verdict::Denied => {
                let before = denied.take().map(|denied| denied.pauses);
                let mut pauses = before.unwrap_or_else(|| Backoff::new(FIRST_DENIED_WAIT, LONGEST_DENIED_WAIT));
                let until = Instant::now() + pauses.next_wait();
                *denied = Some(Denied { until, refusal: refusal.clone(), pauses });
            }
            Err(_) => {}
            Ok(_) => *denied = None,
        }
    }

    async fn list(&self) -> Result<Vec<InstanceRecord>, Refusal> {
        let calm = self.ledger().calm();
        let listed = self.api.living(&self.config.cluster, calm).await;
        self.note(&listed);
        let types = self.types.now();
        Ok(listed?.into_iter().map(|machine| record(machine, &types)).collect())
    }

    /// Whether there was something to take up.
    async fn resume(&self) -> bool {
        let mut resumed = self.resumed.lock().await;
        if *resumed {
            return false;
        }
        // Who describes does not wait for ever, and this ends with it: then the next one takes them up again.
        let taken = self.launcher.resume().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what the last process had under way can't be read");
            0
        });
        *resumed = true;
        taken > 0
    }
}

#[async_trait]
impl Cloud for Ec2Cloud {
    async fn launch(&self, request: &LaunchRequest) -> Result<Launched, CloudError> {
        self.check(request).map_err(refused)?;
        if let Some(launched) = self.before(request).await? {
            return Ok(launched);
        }
        let launched = self.launcher.launch(request).await.map_err(|refusal| refusal.cloud_error("launch"))?;
        let mut remembered = self.remembered();
        remembered.push_back((request.client_token.clone(), tags::fingerprint(request), launched.clone()));
        if remembered.len() > REMEMBERED {
            remembered.pop_front();
        }
        Ok(launched)
    }

    async fn describe(&self) -> Result<Vec<InstanceRecord>, CloudError> {
        let failed = |refusal: Refusal| refusal.cloud_error("describe");
        if let Some(refusal) = self.waits() {
            return Err(failed(refusal));
        }
        let mut listed = self.list().await.map_err(failed)?;
        if self.resume().await {
            listed = self.list().await.map_err(failed)?;
        }
        let missing = self.ledger().missing(&listed);
        let found = self.described.ask(missing.clone()).await.whole().map_err(failed)?;
        let types = self.types.now();
        let found = found.into_iter().map(|(id, machine)| (id, record(machine, &types))).collect();
        let records = self.ledger().settle(listed, &missing, found, Timestamp::now());
        self.attestor.listed(&records);
        Ok(records)
    }

    async fn terminate(&self, ids: &[InstanceId]) -> Result<(), CloudError> {
        let answer = self.terminated.ask(ids.to_vec()).await;
        let mut ends = Ends::new(ids, answer);
        let denied = ends.denied();
        if !denied.is_empty() && self.waits().is_none() {
            match self.described.ask(denied).await.whole() {
                Ok(found) => ends.described(&found),
                Err(refusal) => tracing::debug!(%refusal, "whether what may not be ended is gone can't be seen"),
            }
        }
        let (ledger, now) = (self.ledger(), Timestamp::now());
        ends.outcome(|id| ledger.is_coming(id, now))
    }

    /// Of what was seen a short while ago, if that tells its address; else EC2 is asked about it alone.
    async fn find(&self, id: &InstanceId) -> Result<Option<InstanceRecord>, CloudError> {
        let known = self.ledger().get(id).cloned();
        if let Some(record) = known.filter(|record| record.private_ip.is_some()) {
            return Ok(Some(record));
        }
        let mut found =
            self.described.ask(vec![id.clone()]).await.whole().map_err(|refusal| refusal.cloud_error("describe"))?;
        // By its id any instance of the account is found.
        let ours = |machine: &Machine| machine.tags.get(tag::CLUSTER) == Some(&self.config.cluster);
        Ok(found.remove(id).filter(ours).map(|machine| record(machine, &self.types.now())))
    }

    fn challenge(&self, peer: IpAddr) -> Option<Challenge> {
        Some(self.attestor.challenge(peer))
    }

    async fn claim(&self, claim: &Claim) -> Result<InstanceRecord, ClaimError> {
        let unsettled = |why: String| ClaimError::Unsettled(claim.instance.clone(), why);
        let record = match self.look_up(&claim.instance) {
            LookUp::Never => None,
            LookUp::NotNow => return Err(unsettled("too many unknown instances are claimed".to_owned())),
            LookUp::Now => self.find(&claim.instance).await.map_err(|error| unsettled(error.to_string()))?,
        };
        self.attestor.claim(claim, record).await
    }
}

/// None: it is not to be asked. Beside a stand-in for EC2 only a stand-in for it is.
fn price_list(config: &Ec2Config, shared: &SdkConfig) -> Result<Option<PriceList>, EndpointError> {
    let own = config.price_list_endpoint_url.as_deref();
    let wanted = own.is_some() || config.endpoint_url.is_none();
    let credentials = shared.credentials_provider().filter(|_| wanted);
    credentials.map(|credentials| PriceList::new(&config.region, own, credentials)).transpose()
}

fn queue(config: &Ec2Config, shared: &SdkConfig) -> Result<Option<Queue>, EndpointError> {
    let asked = config.interruption_queue_url.as_deref().zip(shared.credentials_provider());
    asked.map(|(url, credentials)| Queue::new(url, &config.region, credentials)).transpose()
}

fn describe_call(api: &Arc<Api>) -> Call<Machine> {
    let api = Arc::clone(api);
    Arc::new(move |ids| {
        let api = Arc::clone(&api);
        Box::pin(async move {
            let found = api.by_id(&ids).await?;
            Ok(found.into_iter().map(|machine| (machine.id.clone(), machine)).collect::<BTreeMap<_, _>>())
        })
    })
}

fn terminate_call(api: &Arc<Api>) -> Call<()> {
    let api = Arc::clone(api);
    Arc::new(move |ids| {
        let api = Arc::clone(&api);
        Box::pin(async move {
            if let Err(refusal) = api.terminate(&ids).await {
                if matches!(refusal.verdict, Verdict::NotFound | Verdict::Denied | Verdict::Refused) {
                    api.none_ended(ids.len());
                }
                return Err(refusal);
            }
            Ok(ids.into_iter().map(|id| (id, ())).collect::<BTreeMap<_, _>>())
        })
    })
}

fn refused(message: String) -> CloudError {
    CloudError::Refused { operation: "launch", code: "InvalidRequest".to_owned(), message }
}
