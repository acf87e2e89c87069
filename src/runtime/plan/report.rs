//! What `pilotlight plan` says, whatever the format.

use super::manifests::{Manifests, Workload};
use super::nodes::{self, Need, Nodes, Template};
use crate::decide::purchase::{
    Decision, Demand, Dropped, Ledger, Market, Origins, Outcome, Planner, Policy, PoolId, Unfit, Why,
};
use crate::kube::intent::pod_intent;
use crate::kube::node;
use crate::model::{HourlyPrice, NodeName, PodIntent, Purchase};
use crate::reconcile::wants;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use serde::Serialize;
use std::collections::BTreeMap;

/// Hours, as AWS reckons a month.
const MONTH: u64 = 730;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub region: String,
    /// Where the prices are from.
    pub prices: Origins,
    /// Those that have a virtual node.
    pub zones: Vec<String>,
    pub replicas: Vec<Replica>,
    pub totals: Totals,
    /// Objects that make no Pods.
    pub skipped: Vec<String>,
    /// Objects whose Pods are those of another that is planned for.
    pub made_by_others: Vec<String>,
    /// Those whose Pods the virtual nodes' taint keeps away. They are planned for as if they tolerated it.
    pub untolerated: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// `Deployment default/web`
    pub workload: String,
    pub replica: u32,
    pub status: Status,
    /// Its node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
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
    /// It is of a kind or has fields that are not supported.
    Refused,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bought {
    pub purchase: &'static str,
    #[serde(rename = "type")]
    pub instance_type: String,
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
    /// The types that follow if there is no capacity.
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
    pub fn new(planner: &Planner, market: &Market, policy: &Policy, from: Manifests, mut nodes: Nodes) -> Self {
        let zones = nodes.by_name();
        let mut batch = Vec::new();
        let mut places = Vec::new();
        let mut replicas = Vec::new();
        let mut untolerated = Vec::new();
        for workload in &from.workloads {
            let subject = workload.to_string();
            let spec = workload.template.spec.clone().unwrap_or_default();
            let intent = intent(workload, &spec);
            if let Some((reason, messages)) = refusal(&intent) {
                let refused = Replica::empty(&subject, 0, Status::Refused);
                replicas.push(Replica { reason: Some(reason.to_owned()), messages, ..refused });
                continue;
            }
            if !nodes::is_bound(&spec) && !node::tolerates_taint(&spec) {
                untolerated.push(subject.clone());
            }
            let controller = match &intent.owner {
                Some((kind, name)) => format!("{kind} {}/{name}", workload.namespace),
                None => subject.clone(),
            };
            let demands = demands(&intent, &zones);
            let template = Template {
                namespace: &workload.namespace,
                labels: &intent.labels,
                spec: &spec,
                need: demands.values().next().map(need).unwrap_or_default(),
                controller,
            };
            for (number, zone) in (0..).zip(nodes.bind(&template, workload.replicas)) {
                let replica = Replica::empty(&subject, number, Status::Waits);
                replicas.push(match zone {
                    Ok(zone) => {
                        // The batch is decided in the order of the UIDs: that of the manifests.
                        let uid = format!("{:08}", replicas.len());
                        places.push(replicas.len());
                        batch.push(Demand { uid, ..demands[&zone].clone() });
                        Replica { zone: Some(zone), ..replica }
                    }
                    Err(why) => Replica { reason: Some("NoNodeMatches".to_owned()), messages: vec![why], ..replica },
                });
            }
        }
        let decisions = planner.decide_all(&batch, &mut Ledger::new(policy, market));
        for ((place, demand), decision) in places.into_iter().zip(&batch).zip(decisions) {
            replicas[place].fill(planner, policy, demand, decision);
        }
        Self {
            region: market.catalog.region.clone(),
            prices: market.origins.clone(),
            zones: nodes.zones(),
            totals: Totals::of(&replicas),
            replicas,
            skipped: from.skipped,
            made_by_others: from.made_by_others,
            untolerated,
        }
    }
}

impl Replica {
    fn empty(workload: &str, replica: u32, status: Status) -> Self {
        Self {
            workload: workload.to_owned(),
            replica,
            status,
            zone: None,
            class: None,
            bought: None,
            reason: None,
            messages: Vec::new(),
            not_taken: Vec::new(),
            types_not_allowed: 0,
        }
    }

    fn fill(&mut self, planner: &Planner, policy: &Policy, demand: &Demand, decision: Decision) {
        // Of other zones there is nothing to say: it was bound to this one before.
        let here = |dropped: &Dropped| dropped.zone.is_none_or(|zone| Some(planner.zone(zone)) == self.zone.as_deref());
        let (not_allowed, mut dropped): (Vec<Dropped>, Vec<Dropped>) =
            decision.dropped().filter(here).partition(|dropped| dropped.why == Why::Unfit(Unfit::NotAllowed));
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
        let name = |(pool, _): &(PoolId, HourlyPrice)| planner.type_of(pool.instance_type).name.clone();
        let class = policy.classes.iter().find(|class| class.name == decision.class);
        let asked = |option: Purchase| {
            option == choice.option || self.not_taken.iter().any(|not| not.purchase == Some(option.as_str()))
        };
        let steps = class.into_iter().flat_map(|class| class.purchase.iter().map(|step| step.option));
        let not_asked = steps.filter(|option| !asked(*option)).map(Purchase::as_str).collect();
        self.bought = Some(Bought {
            purchase: choice.option.as_str(),
            instance_type: choice.instance_type.to_owned(),
            hourly: choice.price,
            monthly: monthly(choice.price),
            surplus_hourly: choice.surplus,
            covered: !choice.drawn.is_empty(),
            for_mix: choice.for_mix,
            not_asked,
            on_demand_type: plain.name.clone(),
            // Of a burstable type with what its credits cost, as in `hourly`.
            on_demand_hourly: HourlyPrice(plain.on_demand.0.saturating_add(plain.surplus(decision.cpu_millis).0)),
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

/// The workload's Pods as the provider would see them, but for their node.
fn intent(workload: &Workload, spec: &PodSpec) -> PodIntent {
    let mut metadata = workload.template.metadata.clone().unwrap_or_default();
    metadata.namespace = Some(workload.namespace.clone());
    metadata.name = Some(workload.name.clone());
    metadata.uid.get_or_insert_default();
    metadata.creation_timestamp.get_or_insert(Time(Timestamp::UNIX_EPOCH));
    if let Some((kind, name)) = workload.owner.clone() {
        let owner = OwnerReference { kind, name, controller: Some(true), ..OwnerReference::default() };
        metadata.owner_references = Some(vec![owner]);
    }
    let spec = PodSpec { node_name: Some("unknown".to_owned()), ..spec.clone() };
    let pod = Pod { metadata, spec: Some(spec), status: None };
    pod_intent(&pod).expect("a Pod that has a name, a namespace, a UID and a node")
}

/// Why the provider would fail the Pods, if it would.
fn refusal(intent: &PodIntent) -> Option<(&'static str, Vec<String>)> {
    let all = intent.spec.as_ref().err()?;
    Some(("UnsupportedField", all.iter().map(ToString::to_string).collect()))
}

/// What they ask for in each zone.
fn demands(intent: &PodIntent, zones: &BTreeMap<NodeName, String>) -> BTreeMap<String, Demand> {
    let there = |(node, zone): (&NodeName, &String)| {
        let intent = PodIntent { node: node.clone(), ..intent.clone() };
        (zone.clone(), (*wants(zones, &intent)).clone())
    };
    zones.iter().map(there).collect()
}

/// The same in each zone.
fn need(demand: &Demand) -> Need {
    Need { cpu_millis: demand.cpu_millis.unwrap_or_default(), memory_bytes: demand.memory_bytes.unwrap_or_default() }
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
