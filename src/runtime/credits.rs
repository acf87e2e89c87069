//! Reads now and then what reserves on burstable instances have used, and keeps the account of their CPU credits.
//!
//! It is a model (see [`crate::decide::credits`]): of what the Pod's containers used, since the instance's own system is
//! not seen from here. The account is kept by this process; the next one begins it anew from the containers' start.

use super::pod_usage::stats;
use crate::decide::credits::{Meter, Terms};
use crate::decide::purchase::Buying;
use crate::model::{CreditMode, InstanceId, ObjectName, PodUid};
use crate::ports::AgentLink;
use crate::reconcile::Directory;
use crate::telemetry::Metrics;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// New reserves are found by then, and agents that did not answer are asked again.
const LOOK: Duration = Duration::from_secs(30);
/// As often as CloudWatch tells its own figures.
const READ: SignedDuration = SignedDuration::from_mins(5);
/// Agents asked at once.
const AT_ONCE: usize = 8;

pub struct Credits {
    pub directory: Directory,
    pub link: Arc<dyn AgentLink>,
    pub buying: watch::Receiver<Arc<Buying>>,
    pub metrics: Metrics,
}

/// A reserve on a burstable instance.
struct Subject {
    name: ObjectName,
    uid: PodUid,
    instance: InstanceId,
    terms: Terms,
}

impl Credits {
    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut meters: HashMap<(PodUid, InstanceId), Meter> = HashMap::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = looks.tick() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.look(&mut meters) => {}
            }
        }
    }

    async fn look(&self, meters: &mut HashMap<(PodUid, InstanceId), Meter>) {
        let subjects = self.subjects();
        let there: HashSet<_> = subjects.iter().map(|s| (s.uid.clone(), s.instance.clone())).collect();
        meters.retain(|key, _| there.contains(key));
        let now = Timestamp::now();
        let mut asked = Vec::new();
        for (index, subject) in subjects.iter().enumerate() {
            let meter = meters.get(&(subject.uid.clone(), subject.instance.clone()));
            if meter.is_none_or(|meter| now.duration_since(meter.at()) >= READ) {
                let (link, instance) = (Arc::clone(&self.link), subject.instance.clone());
                asked.push(async move { (index, stats(&*link, &instance).await) });
            }
        }
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        for (index, stats) in answers {
            let (subject, Some(stats)) = (&subjects[index], stats) else { continue };
            let Some(began) = stats.containers.iter().map(|container| container.started_at).min() else { continue };
            let counters: BTreeMap<String, u64> = stats
                .containers
                .into_iter()
                .map(|container| (container.name, container.cpu_usage_core_nanos))
                .collect();
            let key = (subject.uid.clone(), subject.instance.clone());
            let meter = meters.entry(key).or_insert_with(|| Meter::new(began));
            meter.read(&subject.terms, stats.at, counters);
        }
        let accounts = subjects.into_iter().filter_map(|subject| {
            let meter = meters.get(&(subject.uid, subject.instance))?;
            Some((subject.name, meter.account.credits()))
        });
        self.metrics.reserve_credits(accounts);
    }

    fn subjects(&self) -> Vec<Subject> {
        let buying = Arc::clone(&self.buying.borrow());
        let subject = |(name, entry): (ObjectName, crate::reconcile::DirectoryEntry)| {
            let instance = entry.instance.filter(|_| entry.started)?;
            let terms = terms(&buying, &entry.reserve?)?;
            Some(Subject { name, uid: entry.uid, instance, terms })
        };
        self.directory.all().into_iter().filter_map(subject).collect()
    }
}

/// None: it isn't burstable, or not known yet.
fn terms(buying: &Buying, annotations: &BTreeMap<String, String>) -> Option<Terms> {
    let instance_type = annotations.get("pilotlight.dev/instance-type")?;
    let spec = buying.market.catalog.types.iter().find(|spec| spec.name == *instance_type)?;
    let class = annotations.get("pilotlight.dev/class");
    let class = buying.policy.classes.iter().find(|known| Some(&known.name) == class);
    let mode = class.map_or(CreditMode::default(), |class| class.credits.mode);
    Some(Terms { baseline_millis: spec.burst?.baseline_millis, mode })
}
