//! DescribeInstances and TerminateInstances.

use super::super::{
    limits::Kind,
    records::{Machine, MachineState, Tags},
    refusal::Refusal,
};
use super::{Api, MOST_VALUES, PRODUCT, any_of, more, of_cluster, plain_tags};
use crate::interner::Interner;
use crate::model::{InstanceId, Usage, tag};
use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, Placement, StateReason, Tenancy};
use jiff::Timestamp;
use std::{collections::BTreeMap, net::IpAddr, sync::PoisonError};

/// As many as EC2 gives at once.
const PAGE: usize = 1000;
/// What is parsed at once is held at once, some ten kilobytes for each: where nobody waits, fewer at a time, though in
/// not many more calls.
const CALM_PAGE: usize = 100;
const CALM_PAGES: usize = 8;
/// What has no cost any more is described for an hour; it is asked for by id, once.
const LIVING: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

/// How many to ask for at a time.
fn page_size(calm: Option<usize>) -> usize {
    calm.map_or(PAGE, |count| count.div_ceil(CALM_PAGES).clamp(CALM_PAGE, PAGE))
}

/// None for what is no instance of a kind that is known here.
fn machine(instance: &Instance, tags: &mut Interner<Tags>) -> Option<Machine> {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let interface = instance.network_interfaces().first();
    let secondary = interface.and_then(|interface| {
        let other = |of: &&aws_sdk_ec2::types::InstancePrivateIpAddress| of.primary() == Some(false);
        interface.private_ip_addresses().iter().find(other)?.private_ip_address().and_then(address)
    });
    Some(Machine {
        id: InstanceId::new(instance.instance_id()?),
        instance_type: instance.instance_type()?.as_str().to_owned(),
        zone: instance.placement()?.availability_zone()?.to_owned(),
        state: match instance.state()?.name()? {
            InstanceStateName::Pending => MachineState::Pending,
            InstanceStateName::Running => MachineState::Running,
            InstanceStateName::ShuttingDown => MachineState::ShuttingDown,
            InstanceStateName::Terminated => MachineState::Terminated,
            InstanceStateName::Stopping => MachineState::Stopping,
            InstanceStateName::Stopped => MachineState::Stopped,
            _ => return None,
        },
        state_reason: instance.state_reason().and_then(reason),
        private_ip: instance.private_ip_address().and_then(address),
        secondary_ip: secondary,
        launched_at: instance.launch_time().and_then(|at| Timestamp::from_second(at.secs()).ok())?,
        spot: instance.instance_lifecycle().is_some_and(|lifecycle| lifecycle.as_str() == "spot"),
        tags: tags.intern(plain_tags(instance.tags())),
    })
}

/// `Client.InternalError: Client error on launch`. Mostly the message begins with the code, and says nothing else of it.
fn reason(reason: &StateReason) -> Option<String> {
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    match (given(reason.code()), given(reason.message())) {
        (Some(code), Some(message)) if !message.starts_with(&code) => Some(format!("{code}: {message}")),
        (code, message) => message.or(code),
    }
}

/// AWS, "How Reserved Instances are applied": of the same tenancy and platform.
fn reservable(instance: &Instance) -> bool {
    let shared = instance.placement().and_then(Placement::tenancy).is_none_or(|tenancy| *tenancy == Tenancy::Default);
    shared && instance.platform_details().is_none_or(|platform| platform.is_empty() || platform == PRODUCT)
}

fn is_of(cluster: &str, instance: &Instance) -> bool {
    instance.tags().iter().any(|tag| tag.key() == Some(tag::CLUSTER) && tag.value() == Some(cluster))
}

/// Type, zone, and whether it is reservable.
fn pool(instance: &Instance) -> Option<(String, String, bool)> {
    let zone = instance.placement()?.availability_zone()?;
    Some((instance.instance_type()?.as_str().to_owned(), zone.to_owned(), reservable(instance)))
}

impl Api {
    /// Those that were launched together have the same tags.
    pub(super) fn machines<'a>(&self, instances: impl IntoIterator<Item = &'a Instance>) -> Vec<Machine> {
        // A value is in it or not: a panic leaves no half of one.
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        instances.into_iter().filter_map(|instance| machine(instance, &mut tags)).collect()
    }

    /// All of the cluster that are not terminated, in every other state. `calm`: nobody waits for the answer, which may
    /// be told in parts; there were so many.
    pub async fn living(&self, cluster: &str, calm: Option<usize>) -> Result<Vec<Machine>, Refusal> {
        self.in_states(cluster, &LIVING, page_size(calm)).await
    }

    pub async fn stopped(&self, cluster: &str) -> Result<Vec<Machine>, Refusal> {
        self.in_states(cluster, &["stopped"], PAGE).await
    }

    async fn in_states(&self, cluster: &str, states: &[&str], page: usize) -> Result<Vec<Machine>, Refusal> {
        let states =
            states.iter().fold(Filter::builder().name("instance-state-name"), |filter, state| filter.values(*state));
        let mut found = Vec::new();
        self.each_page(vec![of_cluster(cluster), states.build()], page, |page| found.extend(self.machines(page)))
            .await?;
        Ok(found)
    }

    /// What runs on demand under these types' names or patterns, and is not the cluster's: neither by its tag nor, where
    /// that does not show yet, by what `launched` knows when all has been told.
    pub async fn usage_beside(
        &self,
        cluster: &str,
        types: &[String],
        launched: impl Fn(&InstanceId) -> bool,
    ) -> Result<Vec<Usage>, Refusal> {
        let states = any_of("instance-state-name", &["pending", "running"].map(str::to_owned));
        let mut filters = vec![states];
        if types.len() <= MOST_VALUES && !types.iter().any(|pattern| pattern == "*") {
            filters.push(any_of("instance-type", types));
        }
        let mut theirs = Vec::new();
        let mut take = |instance: &Instance| {
            if instance.instance_lifecycle().is_none() && !is_of(cluster, instance) {
                theirs.extend(instance.instance_id().map(InstanceId::new).zip(pool(instance)));
            }
        };
        self.each_page(filters, CALM_PAGE, |page| page.for_each(&mut take)).await?;
        let mut found = BTreeMap::<(String, String, bool), u32>::new();
        for (_, pool) in theirs.into_iter().filter(|(id, _)| !launched(id)) {
            *found.entry(pool).or_default() += 1;
        }
        let usage =
            |((instance_type, zone, reservable), instances)| Usage { instance_type, zone, reservable, instances };
        Ok(found.into_iter().map(usage).collect())
    }

    async fn each_page(
        &self,
        filters: Vec<Filter>,
        page: usize,
        mut take: impl FnMut(&mut dyn Iterator<Item = &Instance>),
    ) -> Result<(), Refusal> {
        let mut next = None;
        loop {
            self.limits.take(Kind::Describe, 1).await;
            let sent = self
                .client
                .describe_instances()
                .set_filters(Some(filters.clone()))
                .max_results(i32::try_from(page).unwrap_or(i32::MAX))
                .set_next_token(next)
                .send()
                .await;
            let page = self.answer(Kind::Describe, sent)?;
            take(&mut page.reservations().iter().flat_map(|r| r.instances()));
            next = more(page.next_token());
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// In any state. One unknown id fails the call.
    pub async fn by_id(&self, ids: &[InstanceId]) -> Result<Vec<Machine>, Refusal> {
        let ids = ids.iter().map(|id| id.as_str().to_owned()).collect();
        self.limits.take(Kind::Describe, 1).await;
        let sent = self.client.describe_instances().set_instance_ids(Some(ids)).send().await;
        let answer = self.answer(Kind::Describe, sent)?;
        Ok(self.machines(answer.reservations().iter().flat_map(|r| r.instances())))
    }

    /// One unknown id fails the call.
    pub async fn terminate(&self, ids: &[InstanceId]) -> Result<(), Refusal> {
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let ids = ids.iter().map(|id| id.as_str().to_owned()).collect();
        self.limits.take(Kind::TerminatedMachines, count).await;
        self.limits.take(Kind::TerminateInstances, 1).await;
        let sent = self.client.terminate_instances().set_instance_ids(Some(ids)).send().await;
        self.answer(Kind::TerminateInstances, sent).map(drop)
    }
}
