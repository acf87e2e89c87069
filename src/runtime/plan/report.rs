//! What `pilotlight plan` says, whatever the format.

use super::manifests::{Manifests, Workload};
use crate::decide::desired::pod_size;
use crate::decide::purchase::policy::Architecture;
use crate::decide::purchase::{
    Decision, Demand, Dropped, Ledger, Market, Origins, Outcome, Planner, Policy, Unfit, Why,
};
use crate::kube::intent::pod_spec;
use crate::kube::selection::{ARCH, HOSTNAME, ZONE, allowed_values};
use crate::model::{HourlyPrice, NodeName, Purchase};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Serialize;
use std::sync::Arc;

/// Hours, as AWS reckons a month.
const MONTH: u64 = 730;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub region: String,
    /// Where the prices are from.
    pub prices: Origins,
    pub replicas: Vec<Replica>,
    pub totals: Totals,
    /// Objects that make no Pods.
    pub skipped: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// `Deployment default/web`
    pub workload: String,
    pub replica: u32,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(flatten)]
    pub bought: Option<Bought>,
    /// Why it waits or is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_taken: Vec<NotTaken>,
    /// How many types of the catalog are not among the class's instances: too many to name.
    pub types_not_allowed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    Bought,
    /// Nothing may be bought for it now.
    Waits,
    /// It has fields that are not supported.
    Refused,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bought {
    pub purchase: &'static str,
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    pub hourly: HourlyPrice,
    pub monthly: HourlyPrice,
    /// Of `hourly`, what CPU credits cost at most.
    pub surplus_hourly: HourlyPrice,
    /// A commitment pays a part.
    pub covered: bool,
    /// On demand as the class's mix lacked one.
    pub for_mix: bool,
    /// The class's ways of buying that were not looked at, as this one came first and had something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_asked: Vec<&'static str>,
    /// What the saving is measured against ([`Planner::plain_on_demand`]).
    pub on_demand_type: String,
    pub on_demand_hourly: HourlyPrice,
    /// What follows if there is no capacity: `c6i.large in us-east-1b`.
    pub next: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotTaken {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purchase: Option<&'static str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    pub bought: u32,
    pub waiting: u32,
    pub refused: u32,
    pub hourly: HourlyPrice,
    pub monthly: HourlyPrice,
    pub on_demand_hourly: HourlyPrice,
    pub on_demand_monthly: HourlyPrice,
    /// Of the on-demand price; negative where the policy costs more.
    pub saved_percent: i64,
}

impl Report {
    pub fn new(planner: &Planner, market: &Market, policy: &Policy, from: Manifests, ledger: &mut Ledger) -> Self {
        let mut demands = Vec::new();
        let mut replicas = Vec::new();
        for workload in &from.workloads {
            let subject = format!("{} {}/{}", workload.kind, workload.namespace, workload.name);
            match demand(workload, &market.catalog.zones) {
                Ok(demand) => {
                    for replica in 0..workload.replicas {
                        // The batch is decided in the order of the UIDs: that of the manifests.
                        let uid = format!("{:08}", replicas.len());
                        demands.push((replicas.len(), Demand { uid, ..demand.clone() }));
                        replicas.push(Replica::empty(&subject, replica, Status::Waits));
                    }
                }
                Err(messages) => {
                    let refused = Replica::empty(&subject, 0, Status::Refused);
                    replicas.push(Replica { reason: Some("UnsupportedField".to_owned()), messages, ..refused });
                }
            }
        }
        let (places, batch): (Vec<usize>, Vec<Demand>) = demands.into_iter().unzip();
        let decisions = planner.decide_all(&batch, ledger);
        for ((place, demand), decision) in places.into_iter().zip(&batch).zip(decisions) {
            replicas[place].fill(planner, policy, demand, decision);
        }
        let totals = Totals::of(&replicas);
        let prices = market.origins.clone();
        Self { region: market.catalog.region.clone(), prices, replicas, totals, skipped: from.skipped }
    }
}

impl Replica {
    fn empty(workload: &str, replica: u32, status: Status) -> Self {
        Self {
            workload: workload.to_owned(),
            replica,
            status,
            class: None,
            bought: None,
            reason: None,
            messages: Vec::new(),
            not_taken: Vec::new(),
            types_not_allowed: 0,
        }
    }

    fn fill(&mut self, planner: &Planner, policy: &Policy, demand: &Demand, decision: Decision) {
        let (not_allowed, mut dropped): (Vec<Dropped>, Vec<Dropped>) =
            decision.dropped().partition(|dropped| dropped.why == Why::Unfit(Unfit::NotAllowed));
        // Of those for one reason the cheapest first.
        dropped.sort_by_key(|dropped| (dropped.option, dropped.why));
        self.types_not_allowed = not_allowed.len();
        self.not_taken = dropped.into_iter().map(|dropped| not_taken(planner, policy, dropped)).collect();
        let plain = planner.plain_on_demand(&decision, demand.architecture);
        self.class = Some(decision.class.to_owned());
        let choice = match decision.outcome {
            Outcome::Plan(choice) => choice,
            Outcome::Pend(pend) => {
                self.reason = Some(pend.reason.to_owned());
                self.messages.push(pend.message);
                return;
            }
        };
        self.status = Status::Bought;
        let plain = plain.unwrap_or_else(|| planner.type_of(choice.pool.instance_type));
        let name = |(pool, _): &(crate::decide::purchase::PoolId, HourlyPrice)| {
            format!("{} in {}", planner.type_of(pool.instance_type).name, planner.zone(pool.zone))
        };
        let class = policy.classes.iter().find(|class| class.name == decision.class);
        let asked = |option: Purchase| {
            option == choice.option || self.not_taken.iter().any(|not| not.purchase == Some(option.as_str()))
        };
        let steps = class.into_iter().flat_map(|class| class.purchase.iter().map(|step| step.option));
        let not_asked = steps.filter(|option| !asked(*option)).map(Purchase::as_str).collect();
        self.bought = Some(Bought {
            purchase: choice.option.as_str(),
            instance_type: choice.instance_type.to_owned(),
            zone: choice.zone.to_owned(),
            hourly: choice.price,
            monthly: monthly(choice.price),
            surplus_hourly: choice.surplus,
            covered: !choice.drawn.is_empty(),
            for_mix: choice.for_mix,
            not_asked,
            on_demand_type: plain.name.clone(),
            on_demand_hourly: plain.on_demand,
            next: choice.alternatives.iter().map(name).collect(),
        });
    }
}

impl Totals {
    fn of(replicas: &[Replica]) -> Self {
        let mut totals = Self::default();
        for replica in replicas {
            match replica.status {
                Status::Bought => totals.bought += 1,
                Status::Waits => totals.waiting += 1,
                Status::Refused => totals.refused += 1,
            }
            if let Some(bought) = &replica.bought {
                let add = |sum: &mut HourlyPrice, one: HourlyPrice| sum.0 = sum.0.saturating_add(one.0);
                add(&mut totals.hourly, bought.hourly);
                add(&mut totals.on_demand_hourly, bought.on_demand_hourly);
            }
        }
        totals.monthly = monthly(totals.hourly);
        totals.on_demand_monthly = monthly(totals.on_demand_hourly);
        totals.saved_percent = saved_percent(totals.hourly, totals.on_demand_hourly);
        totals
    }
}

/// Towards zero, so that no saving is said that isn't there.
pub fn saved_percent(paid: HourlyPrice, plain: HourlyPrice) -> i64 {
    let saved = i128::from(plain.0) - i128::from(paid.0);
    if plain.0 == 0 { 0 } else { i64::try_from(saved * 100 / i128::from(plain.0)).unwrap_or(i64::MIN) }
}

pub fn monthly(hourly: HourlyPrice) -> HourlyPrice {
    HourlyPrice(hourly.0.saturating_mul(MONTH))
}

/// What the workload's Pods ask for, or the fields that are not supported.
fn demand(workload: &Workload, zones: &[String]) -> Result<Demand, Vec<String>> {
    let metadata = workload.template.metadata.clone().unwrap_or_default();
    let spec = workload.template.spec.clone().unwrap_or_default();
    let intent = pod_spec(&spec).map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let size = pod_size(&intent);
    if intent.architectures.as_ref().is_some_and(Vec::is_empty) {
        let problem = "nodeSelector and node affinity allow none that is supported: expected amd64 or arm64";
        return Err(vec![format!("{ARCH}: {problem}")]);
    }
    let zones = allowed_zones(&spec, zones);
    Ok(Demand {
        uid: String::new(),
        namespace: workload.namespace.clone(),
        labels: Arc::new(metadata.labels.unwrap_or_default()),
        annotations: Arc::new(metadata.annotations.unwrap_or_default()),
        owner: workload.owner_kind.map(|kind| (kind.to_owned(), workload.name.clone())),
        cpu_millis: size.cpu_millis,
        memory_bytes: size.memory_bytes,
        zones,
        class: None,
        architecture: Architecture::sole(intent.architectures.as_deref()),
    })
}

/// By the zone's label and by its node's name.
fn allowed_zones(spec: &PodSpec, zones: &[String]) -> Option<Vec<String>> {
    let names: Vec<String> = zones.iter().map(|zone| NodeName::of_zone(zone).to_string()).collect();
    let known: Vec<&str> = zones.iter().map(String::as_str).collect();
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    let by_zone = allowed_values(spec, ZONE, &known);
    let by_name = allowed_values(spec, HOSTNAME, &named);
    if by_zone.is_none() && by_name.is_none() {
        return None;
    }
    let allowed = |(zone, name): &(&String, &String)| {
        by_zone.as_ref().is_none_or(|allowed| allowed.contains(zone))
            && by_name.as_ref().is_none_or(|allowed| allowed.contains(name))
    };
    Some(zones.iter().zip(&names).filter(allowed).map(|(zone, _)| zone.clone()).collect())
}

fn not_taken(planner: &Planner, policy: &Policy, dropped: Dropped) -> NotTaken {
    NotTaken {
        purchase: dropped.option.map(Purchase::as_str),
        instance_type: dropped.instance_type.map(|id| planner.type_of(id).name.clone()),
        zone: dropped.zone.map(|id| planner.zone(id).to_owned()),
        reason: dropped.why.reason(),
        message: dropped.why.message(&policy.limits),
    }
}
