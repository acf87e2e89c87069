//! Carries a launch out: each part of it call by call, as [`super::attempts`] says, written down before each call.

use super::{
    api::{Api, FleetOrder, RunOrder},
    attempts::{self, Call, Means, Next, Progress},
    config::Ec2Config,
    journal::{Entry, Journal},
    leaks::Uses,
    ledger::Ledger,
    records::{Machine, record},
    refusal::{Refusal, Verdict, shortages},
    tags,
    template::{Template, TemplateError},
    types::Types,
    window::Window,
};
use crate::{
    decide::purchase::policy::Architecture,
    model::{CreditMode, InstanceId, InstanceRecord, InstanceState, LaunchRequest, Launched, Offer, Shortage},
    retry::Backoff,
};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::task::spawn_blocking;

/// Of one call, with one token: after a throttle or without an answer.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// A fleet tells ids alone; how often its instances are looked for before they are told of without addresses.
const LOOKS: u32 = 3;
const LOOK_WAIT: Duration = Duration::from_millis(300);

pub struct Launcher {
    config: Ec2Config,
    api: Arc<Api>,
    journal: Journal,
    described: Arc<Window<Machine>>,
    ledger: Arc<Mutex<Ledger>>,
    types: Arc<Types>,
    templates: BTreeMap<(Architecture, Option<CreditMode>), Template>,
    uses: Arc<Mutex<Uses>>,
    /// Names of those that exist.
    ensured: tokio::sync::Mutex<BTreeSet<String>>,
}

/// What a part of a launch came to.
#[derive(Default)]
struct Outcome {
    records: Vec<InstanceRecord>,
    shortages: Vec<Shortage>,
    failure: Option<Refusal>,
}

/// A refusal, and of which offers it was said.
struct Said {
    refusal: Refusal,
    offers: Vec<Offer>,
}

/// What was had, and what was refused beside it.
type Answer = (Vec<InstanceRecord>, Vec<Said>);

impl Launcher {
    pub fn new(
        config: Ec2Config,
        api: Arc<Api>,
        journal: Journal,
        described: Arc<Window<Machine>>,
        ledger: Arc<Mutex<Ledger>>,
        types: Arc<Types>,
    ) -> Result<Self, TemplateError> {
        let mut templates = BTreeMap::new();
        for architecture in config.images.keys() {
            for credits in [None, Some(CreditMode::Standard), Some(CreditMode::Unlimited)] {
                templates.insert((*architecture, credits), Template::new(&config, *architecture, credits)?);
            }
        }
        let names = templates.values().map(|template| template.name.clone()).collect();
        let idle = SignedDuration::try_from(config.template_idle).unwrap_or(SignedDuration::MAX);
        let uses = Arc::new(Mutex::new(Uses::new(names, idle, Timestamp::now())));
        Ok(Self {
            config,
            api,
            journal,
            described,
            ledger,
            types,
            templates,
            uses,
            ensured: tokio::sync::Mutex::default(),
        })
    }

    /// When the launch templates that this configuration may need were used last.
    pub fn uses(&self) -> Arc<Mutex<Uses>> {
        Arc::clone(&self.uses)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error only if nothing was launched.
    pub async fn launch(&self, request: &LaunchRequest) -> Result<Launched, Refusal> {
        let parts = (0..).zip(attempts::parts(request.count, self.config.per_call));
        let outcomes = join_all(parts.map(|(part, count)| self.part(request, part, Progress::begin(count)))).await;
        let (mut launched, mut failure) = (Launched::default(), None);
        for outcome in outcomes {
            launched.records.extend(outcome.records);
            for shortage in outcome.shortages {
                if !launched.shortages.contains(&shortage) {
                    launched.shortages.push(shortage);
                }
            }
            launched.failures.extend(outcome.failure.as_ref().map(|refusal| refusal.code.clone()));
            failure = failure.or(outcome.failure);
        }
        match failure {
            Some(refusal) if launched.records.is_empty() && launched.shortages.is_empty() => Err(refusal),
            Some(refusal) => {
                tracing::warn!(%refusal, asked = request.count, got = launched.records.len(), "a part of a launch failed");
                Ok(launched)
            }
            None => Ok(launched),
        }
    }

    /// Makes the calls again that a former process may have made: with the same tokens.
    pub async fn resume(&self) -> std::io::Result<usize> {
        let journal = self.journal.clone();
        let left = spawn_blocking(move || journal.left(Timestamp::now())).await.map_err(std::io::Error::other)??;
        join_all(left.iter().map(|entry| async move {
            let outcome = self.part(&entry.request, entry.part, entry.progress).await;
            tracing::info!(
                token = %entry.request.client_token, part = entry.part, got = outcome.records.len(),
                failure = outcome.failure.map(|refusal| refusal.to_string()),
                "took up a launch that was under way when the last process ended"
            );
        }))
        .await;
        Ok(left.len())
    }

    async fn part(&self, request: &LaunchRequest, part: u32, begin: Progress) -> Outcome {
        let calls = attempts::calls(&request.offers);
        let subnets = self.config.subnets.get(&request.zone).map(Vec::as_slice).unwrap_or_default();
        let mut entry = Entry { request: request.clone(), part, progress: begin, at: Timestamp::now() };
        let mut outcome = Outcome::default();
        let mut pauses = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let Progress { call, subnet, .. } = entry.progress;
            let (Some(call), Some(subnet_id)) = (calls.get(call), subnets.get(subnet)) else { break };
            if let Err(error) = self.write_down(&entry, true).await {
                // Not to be launched: after a crash nobody would know of it.
                outcome.failure = Some(Refusal::unanswered(format!("the launch can't be written down: {error}")));
                return outcome;
            }
            let (records, said) = match self.call(&entry, call, subnet_id).await {
                Ok(answer) => answer,
                // Not asked again under another token: it may have been heard.
                Err(refusal) if refusal.verdict == Verdict::BackOff => {
                    outcome.failure = Some(refusal);
                    break;
                }
                Err(refusal) => (Vec::new(), vec![Said { refusal, offers: call.offers.clone() }]),
            };
            let got = u32::try_from(records.len()).unwrap_or(u32::MAX);
            self.ledger().launched(&records, Timestamp::now());
            outcome.records.extend(records);
            let refusals: Vec<Refusal> = said.iter().map(|said| said.refusal.clone()).collect();
            let next = attempts::next(entry.progress, calls.len(), subnets.len(), got, &refusals);
            let elsewhere = matches!(&next, Next::Try(progress) if progress.subnet > subnet);
            self.note_shortages(&said, &request.zone, elsewhere, &mut outcome.shortages);
            match next {
                Next::Done => break,
                Next::Try(progress) => entry.progress = progress,
                Next::Again(progress) => {
                    entry.progress = progress;
                    tokio::time::sleep(pauses.next_wait()).await;
                }
                Next::Failed(refusal) => {
                    outcome.failure = Some(refusal);
                    break;
                }
            }
        }
        if let Err(error) = self.write_down(&entry, false).await {
            tracing::warn!(%error, "a launch that is over can't be struck off");
        }
        outcome
    }

    async fn write_down(&self, entry: &Entry, under_way: bool) -> std::io::Result<()> {
        let (journal, entry) = (self.journal.clone(), entry.clone());
        let write = move || if under_way { journal.write(&entry) } else { journal.remove(&entry) };
        spawn_blocking(write).await.map_err(std::io::Error::other)?
    }

    /// `elsewhere`: another subnet of the zone is tried, so the zone is not short of addresses yet.
    fn note_shortages(&self, said: &[Said], zone: &str, elsewhere: bool, noted: &mut Vec<Shortage>) {
        let types = self.types.now();
        let types: Vec<&str> = types.keys().map(String::as_str).collect();
        for Said { refusal, offers } in said {
            if elsewhere && refusal.verdict == Verdict::Subnet {
                continue;
            }
            for offer in offers {
                for shortage in shortages(refusal, offer, zone, &types) {
                    if !noted.contains(&shortage) {
                        noted.push(shortage);
                    }
                }
            }
        }
    }

    /// One call with its token, tried again while it is not known whether EC2 heard it.
    async fn call(&self, entry: &Entry, call: &Call, subnet: &str) -> Result<Answer, Refusal> {
        let mut pauses = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut tries = 0;
        loop {
            tries += 1;
            let refusal = match self.try_call(entry, call, subnet).await {
                Ok(answer) => {
                    // A fleet says it in its answer; whoever asks next makes the template anew.
                    if answer.1.iter().any(|said| said.refusal.verdict == Verdict::TemplateGone) {
                        self.ensured.lock().await.clear();
                    }
                    return Ok(answer);
                }
                Err(refusal) => refusal,
            };
            tracing::warn!(%refusal, verdict = ?refusal.verdict, tries, "EC2 did not launch");
            match refusal.verdict {
                Verdict::BackOff if tries < TRIES => tokio::time::sleep(pauses.next_wait()).await,
                Verdict::TemplateGone if tries < TRIES => self.ensured.lock().await.clear(),
                _ => return Err(refusal),
            }
        }
    }

    async fn try_call(&self, entry: &Entry, call: &Call, subnet: &str) -> Result<Answer, Refusal> {
        let Entry { request, part, progress, .. } = entry;
        let token = tags::call_token(request, *part, progress.number);
        let tags = tags::of_launch(request, &call.offers, &self.config.tags);
        let mut pools = Vec::new();
        for offer in &call.offers {
            pools.push((self.template(&offer.instance_type, request.credits).await?, offer.instance_type.as_str()));
        }
        let (Some((template, instance_type)), count) = (pools.first().copied(), progress.left) else {
            return Ok((Vec::new(), Vec::new()));
        };
        match call.means {
            Means::Run | Means::RunReserved => {
                let reserved = call.means == Means::RunReserved;
                let order = RunOrder { template, instance_type, subnet, count, token: &token, tags: &tags, reserved };
                let machines = self.api.run_instances(&order).await?;
                let types = self.types.now();
                Ok((machines.into_iter().map(|machine| record(machine, &types)).collect(), Vec::new()))
            }
            Means::FleetOnDemand | Means::FleetSpot => {
                let spot = call.means == Means::FleetSpot;
                let order = FleetOrder {
                    spot,
                    allocation: request.allocation,
                    pools,
                    subnet,
                    count,
                    token: &token,
                    tags: &tags,
                };
                let (given, errors) = self.api.create_fleet(&order).await?;
                let ids: Vec<(InstanceId, String)> = given
                    .into_iter()
                    .flat_map(|given| {
                        given.ids.into_iter().map(move |id| (InstanceId::new(id), given.instance_type.clone()))
                    })
                    .collect();
                let records = self.look_up(ids, call, &tags, request).await;
                let said = errors.into_iter().map(|error| {
                    let of = |offer: &&Offer| error.instance_type.as_ref().is_none_or(|t| *t == offer.instance_type);
                    Said { offers: call.offers.iter().filter(of).cloned().collect(), refusal: error.refusal }
                });
                Ok((records, said.collect()))
            }
        }
    }

    /// The template for this type, made if there is none.
    async fn template(&self, instance_type: &str, credits: CreditMode) -> Result<&Template, Refusal> {
        let unknown = || Refusal::new("UnknownType", format!("{instance_type} is not in the catalog"));
        let facts = self.types.now().get(instance_type).copied().ok_or_else(unknown)?;
        let no_image = || Refusal::new("NoImage", format!("there is no image for {instance_type}"));
        let key = (facts.architecture, facts.burstable.then_some(credits));
        let template = self.templates.get(&key).ok_or_else(no_image)?;
        let rested = self.uses.lock().unwrap_or_else(PoisonError::into_inner).used(&template.name, Timestamp::now());
        let mut ensured = self.ensured.lock().await;
        if rested {
            ensured.remove(&template.name);
        }
        if !ensured.contains(&template.name) {
            self.api.ensure_template(template, &self.config.cluster).await?;
            ensured.insert(template.name.clone());
        }
        Ok(template)
    }

    /// The instances that a fleet named, with their addresses if EC2 tells them already.
    async fn look_up(
        &self,
        ids: Vec<(InstanceId, String)>,
        call: &Call,
        tags: &BTreeMap<String, String>,
        request: &LaunchRequest,
    ) -> Vec<InstanceRecord> {
        let mut found = BTreeMap::new();
        for look in 0..LOOKS {
            let wanted: Vec<InstanceId> =
                ids.iter().map(|(id, _)| id.clone()).filter(|id| !found.contains_key(id)).collect();
            if wanted.is_empty() {
                break;
            }
            if look > 0 {
                tokio::time::sleep(LOOK_WAIT).await;
            }
            match self.described.ask(wanted).await.whole() {
                Ok(more) => found.extend(more),
                Err(refusal) => tracing::debug!(%refusal, "a fleet's instances are not described yet"),
            }
        }
        let (now, types) = (Timestamp::now(), self.types.now());
        let shared = Arc::new(tags.clone());
        let told = |(id, instance_type): (InstanceId, String)| match found.remove(&id) {
            Some(machine) => record(machine, &types),
            // The next description tells the rest.
            None => InstanceRecord {
                client_token: request.client_token.clone(),
                zone: request.zone.clone(),
                purchase: tags::purchase(tags).unwrap_or(call.offers[0].purchase),
                price: tags::price(tags, &instance_type).unwrap_or(call.offers[0].price),
                state: InstanceState::Pending,
                state_reason: None,
                private_ip: None,
                pod_ip: None,
                launched_at: now,
                tags: Arc::clone(&shared),
                instance_type,
                id,
            },
        };
        ids.into_iter().map(told).collect()
    }
}
