//! What is bought by: the files, and over them what the cloud says that it sells.
//!
//! ```text
//!   edited files (reload) ────────┐
//!                                 ├── decide::purchase::refresh::merged ──> the cloud: what may be launched
//!   the vendor's answers, each    │                                    └──> the reconciler, the reserves
//!   asked when course says so ────┘
//! ```
//!
//! One question is under way at a time; edits do not wait for it. A question that is refused or fails is said once, and
//! what was known stays.

use crate::decide::purchase::refresh::{
    Kind, Known, Told, committed,
    course::{Course, Outcome, WHOLE, Word},
    merged, wanted,
};
use crate::decide::purchase::{Buying, Market, Origin, Origins, policy::Architecture};
use crate::kube::node::PriceNote;
use crate::ports::{Vendor, VendorError};
use crate::reconcile::Reload;
use crate::telemetry::Metrics;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the files say.
#[derive(Clone)]
pub struct Files {
    pub buying: Arc<Buying>,
    pub keep_completed: SignedDuration,
}

/// Who is asked, and how often.
pub struct Asked {
    pub vendor: Arc<dyn Vendor>,
    pub every: BTreeMap<Kind, SignedDuration>,
    /// What there is an image for.
    pub architectures: BTreeSet<Architecture>,
}

pub struct Keeper {
    pub files: watch::Receiver<Files>,
    /// None: the cloud sells what the files say.
    pub asked: Option<Asked>,
    pub metrics: Metrics,
    pub taken_up: mpsc::Sender<Reload>,
    /// The same, for who buys nothing but reads the policy.
    pub buying: watch::Sender<Arc<Buying>>,
    /// For people: of when the prices are.
    pub note: watch::Sender<PriceNote>,
}

type Question = Pin<Box<dyn Future<Output = Result<Told, VendorError>> + Send>>;

impl Keeper {
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut known = Known::default();
        let now = Timestamp::now();
        let kinds = self.asked.iter().flat_map(|asked| asked.every.keys().copied());
        let mut courses: BTreeMap<Kind, Course> = kinds.map(|kind| (kind, Course::begin(now))).collect();
        let mut under_way: Option<(Kind, Question)> = None;
        let asked_for = |files: &Buying| (wanted(files), committed(&files.policy));
        let mut asked = asked_for(&self.files.borrow().buying);
        self.tell(&self.buying.borrow().market.origins, &known);
        loop {
            if under_way.is_none() {
                under_way = self.next_question(&courses);
            }
            let due = courses.iter().filter(|(kind, _)| self.has_use_for(**kind)).map(|(_, course)| course.due).min();
            let waits = due.filter(|_| under_way.is_none()).map(until);
            let answered = async {
                match &mut under_way {
                    Some((kind, question)) => (*kind, question.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.files.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !self.publish(&known, true).await {
                        return;
                    }
                    let named = asked_for(&self.files.borrow().buying);
                    if std::mem::replace(&mut asked, named.clone()) != named {
                        // What joins has neither size nor price yet.
                        let now = Timestamp::now();
                        courses.values_mut().for_each(|course| *course = course.at_once(now));
                    }
                }
                (kind, answer) = answered => {
                    under_way = None;
                    let (outcome, why) = self.take(kind, answer, &mut known);
                    self.step(&mut courses, kind, outcome, &why);
                    if outcome == Outcome::Told && !self.publish(&known, false).await {
                        return;
                    }
                }
                () = tokio::time::sleep(waits.unwrap_or_default()), if waits.is_some() => {}
            }
        }
    }

    fn next_question(&self, courses: &BTreeMap<Kind, Course>) -> Option<(Kind, Question)> {
        let asked = self.asked.as_ref()?;
        let now = Timestamp::now();
        let kind = *courses.iter().find(|(kind, course)| course.is_due(now) && self.has_use_for(**kind))?.0;
        let vendor = Arc::clone(&asked.vendor);
        let files = wanted(&self.files.borrow().buying);
        let bought_from = Arc::clone(&self.buying.borrow());
        let zones = bought_from.market.catalog.zones.clone();
        let committed = Vec::from_iter(committed(&self.files.borrow().buying.policy));
        let names: Vec<String> = bought_from.market.catalog.types.iter().map(|spec| spec.name.clone()).collect();
        let question: Question = Box::pin(async move {
            Ok::<_, VendorError>(match kind {
                Kind::Types => Told::Types(vendor.types(&Vec::from_iter(files)).await?),
                Kind::Zones => Told::Zones(vendor.zones(&zones).await?),
                Kind::OnDemand => Told::OnDemand(vendor.on_demand().await?),
                Kind::Spot => Told::Spot(vendor.spot(&names, &zones).await?),
                Kind::Usage => Told::Usage(vendor.usage(&committed).await?),
            })
        });
        Some((kind, question))
    }

    /// Without a commitment it does not matter what else runs.
    fn has_use_for(&self, kind: Kind) -> bool {
        kind != Kind::Usage || !self.files.borrow().buying.policy.commitments.is_empty()
    }

    fn take(&self, kind: Kind, answer: Result<Told, VendorError>, known: &mut Known) -> (Outcome, String) {
        let told = match answer {
            Ok(told) => told,
            Err(VendorError::Denied(why)) => return (Outcome::Denied, why),
            Err(VendorError::Failed(why)) => return (Outcome::Failed, why),
        };
        let learned = known.learn(&told, Timestamp::now());
        for odd in &learned.odd {
            self.metrics.refresh_dropped(kind.as_str(), odd.why.as_str());
        }
        if let Some(first) = learned.odd.first() {
            let (dropped, taken) = (learned.odd.len(), learned.entries);
            tracing::info!(kind = kind.as_str(), taken, dropped, %first, "the cloud's answer has odd entries");
        }
        if !learned.taken {
            return (Outcome::Failed, "nothing in the answer was understood".to_owned());
        }
        tracing::debug!(kind = kind.as_str(), entries = learned.entries, "the cloud answered");
        (Outcome::Told, String::new())
    }

    fn step(&self, courses: &mut BTreeMap<Kind, Course>, kind: Kind, outcome: Outcome, why: &str) {
        let every = self.asked.as_ref().and_then(|asked| asked.every.get(&kind)).copied();
        let (Some(every), Some(course)) = (every, courses.get_mut(&kind)) else { return };
        self.metrics.refreshed(kind.as_str(), outcome.as_str());
        let (next, word) = course.after(outcome, every, Timestamp::now(), rand::random_range(0..=WHOLE));
        *course = next;
        let kind = kind.as_str();
        match word {
            Word::None => {}
            Word::Back => tracing::info!(kind, "the cloud answers again"),
            Word::Lost => {
                tracing::warn!(kind, why, "the cloud does not answer; what is known stays, first the files");
            }
        }
    }

    /// False: nobody is there any more to hear it.
    async fn publish(&self, known: &Known, edited: bool) -> bool {
        let Files { buying: files, keep_completed } = self.files.borrow().clone();
        let next = match &self.asked {
            None => files,
            Some(asked) => {
                let merged = merged(&files, known, &asked.architectures, asked.vendor.name());
                for odd in &merged.odd {
                    tracing::debug!(%odd, "not taken");
                }
                // Before anybody can want one.
                asked.vendor.may_launch(&merged.market.catalog.types);
                if !merged.added.is_empty()
                    && self.buying.borrow().market.catalog.types.len() != merged.market.catalog.types.len()
                {
                    tracing::info!(
                        added = merged.added.join(", "),
                        "types that the cost policy names joined the catalog"
                    );
                }
                Arc::new(Buying { policy: files.policy.clone(), market: merged.market })
            }
        };
        self.tell(&next.market.origins, known);
        let same = {
            let now = self.buying.borrow();
            !edited && timeless(&now.market) == timeless(&next.market)
        };
        if same {
            return true;
        }
        self.buying.send_replace(Arc::clone(&next));
        self.taken_up.send(Reload { buying: next, keep_completed }).await.is_ok()
    }

    /// Says where the prices are from, and of when.
    fn tell(&self, origins: &Origins, known: &Known) {
        let name = self.asked.as_ref().map(|asked| asked.vendor.name()).unwrap_or_default();
        let at = |kind: Kind, origin: Option<&Origin>| match known.told_at(kind) {
            Some(at) => Some((name.to_owned(), at)),
            None => Some(("file".to_owned(), origin?.began()?)),
        };
        for (kind, origin) in [(Kind::OnDemand, Some(&origins.on_demand)), (Kind::Spot, origins.spot.as_ref())] {
            self.metrics.prices_of(kind.as_str(), at(kind, origin));
        }
        let spot = origins.spot.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        let note = PriceNote {
            refreshed: [Kind::OnDemand, Kind::Spot].into_iter().any(|kind| known.told_at(kind).is_some()),
            message: format!("on demand: {}; spot: {spot}", origins.on_demand),
        };
        self.note.send_if_modified(|now| {
            let news = *now != note;
            *now = note;
            news
        });
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

/// Without when it was told.
fn timeless(market: &Market) -> Market {
    Market { origins: Origins::default(), ..market.clone() }
}
