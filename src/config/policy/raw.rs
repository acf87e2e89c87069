//! The shape of cost-policy.yaml, a catalog and a price list as written, before validation.
//!
//! The doc comments here are what the JSON Schemas say of each key.

use crate::decide::purchase::policy::{Allocation, Architecture, CreditMode, GroupBy, OnNotice, OnRebalance, Scope};
use crate::model::Purchase;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Dollars an hour with at most six decimals, such as 0.0104.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Dollars(pub String);

/// A Kubernetes quantity, such as 2, 500m or 4Gi.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub String);

/// A duration, such as 30s, 10m or 1h30m.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Duration(pub String);

fn text_or_number(name: &str, description: &str, pattern: &str) -> schemars::Schema {
    schemars::json_schema!({
        "title": name,
        "description": description,
        "type": ["string", "number"],
        "minimum": 0,
        "pattern": pattern,
    })
}

impl JsonSchema for Dollars {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Dollars".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        text_or_number(
            "Dollars",
            "Dollars an hour with at most six decimals, such as 0.0104",
            r"^[0-9]+(\.[0-9]{1,6})?$",
        )
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        text_or_number("Amount", "A Kubernetes quantity, such as 2, 500m or 4Gi", r"^[0-9.]+([a-zA-Z]+|[eE]-?[0-9]+)?$")
    }
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Policy {
    /// What holds for every class that does not say otherwise, and for Pods that no class matches.
    pub defaults: Defaults,
    /// The highest weight that matches serves a Pod; of equal weights the first by name.
    pub classes: Vec<Class>,
    /// No purchase may exceed any of these.
    pub limits: Vec<Limit>,
    /// Instances kept running without a Pod.
    pub standby: Vec<Standby>,
    /// What has been paid for already: Reserved Instances and Savings Plans.
    pub commitments: Vec<Commitment>,
    /// On-Demand Capacity Reservations.
    pub reservations: Vec<Reservation>,
    /// Which annotations of a Pod may narrow what its class allows.
    pub overrides: Overrides,
    /// What keeps answering for a service that is scaled to zero.
    pub reserve: Reserve,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Defaults {
    pub purchase: Option<Vec<Step>>,
    pub instances: Instances,
    pub sizing: Option<Sizing>,
    pub credits: Option<Credits>,
    pub placement: Option<Placement>,
    /// As a class's, for those that say none, and for standby pools.
    pub max_hourly_price: Option<Dollars>,
    pub commitments: Option<UseCommitments>,
    pub ice: Ice,
    pub ttl: Ttl,
    pub interruption: Interruption,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Class {
    pub name: String,
    /// Another class, of which this one takes only a part: lists are intersected, the lower caps hold, and of mixes the
    /// larger share on demand, as long as it buys both ways.
    pub narrows: Option<String>,
    #[serde(default)]
    pub weight: i32,
    /// Left out or empty: every Pod.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// Ways of buying, in order of preference.
    pub purchase: Option<Vec<Step>>,
    /// What isn't given is taken from the defaults.
    #[serde(default)]
    pub instances: Instances,
    pub sizing: Option<Sizing>,
    pub credits: Option<Credits>,
    pub mix: Option<Mix>,
    pub placement: Option<Placement>,
    /// What an hour of one instance may cost. A filter of Pilotlight's; never sent as EC2's MaxPrice.
    pub max_hourly_price: Option<Dollars>,
    pub commitments: Option<UseCommitments>,
}

/// All that is given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Match {
    /// Names or globs.
    pub namespaces: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Kinds of the Pod's controller, such as Job or ReplicaSet.
    pub owner_kinds: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    pub option: BuyOption,
    #[serde(default)]
    pub allocation: Allocation,
    /// With fewer pools than this left the step is passed over.
    #[serde(default)]
    pub min_pools: u32,
    /// The dearest price of spot, of the same type's on-demand price; 100.
    pub max_percent_of_on_demand: Option<u32>,
    /// `ice`: only when a step before it was short: a pool had no capacity or no known spot price, or there were fewer than
    /// minPools. For a Pod whose annotations leave no step before it, at once.
    pub after: Option<After>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BuyOption {
    OnDemand,
    Spot,
    /// On demand, of burstable types alone.
    Burstable,
    CapacityReservation,
}

impl From<BuyOption> for Purchase {
    fn from(option: BuyOption) -> Self {
        match option {
            BuyOption::OnDemand => Self::OnDemand,
            BuyOption::Spot => Self::Spot,
            BuyOption::Burstable => Self::Burstable,
            BuyOption::CapacityReservation => Self::CapacityReservation,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum After {
    Ice,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Instances {
    /// Names or globs; left out: every type. What no type of the catalog has is refused, but where EC2 is asked for it
    /// (cloud.ec2.refresh).
    pub allow: Option<Vec<String>>,
    /// Adds to what the defaults deny.
    pub deny: Vec<String>,
    pub architectures: Option<Vec<Architecture>>,
    /// `6` keeps c6i and newer. Does not speak against a type allowed by its full name; in a class that narrows another,
    /// not against one that both name so.
    pub min_generation: Option<u32>,
    /// Whether types with CPU credits may be taken; left out: no.
    pub burstable: Option<bool>,
    pub max_vcpu: Option<Amount>,
    pub max_memory: Option<Amount>,
    /// `listed`: a type earlier in `allow` is taken before a cheaper one later in it.
    pub order: Option<Order>,
    /// How many pools a fleet is offered; left out: 60.
    pub max_candidates: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Price,
    Listed,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Sizing {
    pub mode: SizingMode,
    pub requests: Requests,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SizingMode {
    /// What the Pod requests; `requests` where it requests nothing.
    Requests,
    /// `requests`, whatever the Pod requests.
    Override,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Requests {
    pub cpu: Amount,
    pub memory: Amount,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Credits {
    /// `standard`: a Pod must fit in the CPU baseline. `unlimited`: surplus credits are paid.
    pub mode: CreditMode,
    /// What the surplus credits of one instance may cost an hour if it used all that its Pod requests.
    pub max_surplus_per_hour: Option<Dollars>,
}

/// How many of a group's Pods are on demand: the first `onDemandBase`, and a percentage of the rest.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mix {
    #[serde(default)]
    pub on_demand_base: u32,
    pub on_demand_percent_above_base: u32,
    #[serde(default)]
    pub group_by: GroupBy,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Placement {
    /// The zones in which its Pods may run; left out: all. A zone is not chosen here: a Pod's zone is its node's, which the
    /// scheduler chooses. A Pod bound to a node of another zone waits with the reason, so give such Pods a nodeSelector or an
    /// affinity for topology.kubernetes.io/zone too.
    pub zones: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UseCommitments {
    #[serde(rename = "use")]
    pub used: bool,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Ice {
    /// How long a pool without capacity is left alone; 3m.
    pub quarantine: Option<Duration>,
    /// How many pools, better ones first, may be found without capacity before the next way of buying is tried; 4.
    pub max_attempts: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Ttl {
    /// How long a launch call may take, and then an instance until it runs; 5m.
    pub launch: Option<Duration>,
    /// From its launch to its agent's first connection; 10m.
    pub register: Option<Duration>,
    /// An instance older than this is replaced; left out: never.
    pub max_lifetime: Option<Duration>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Interruption {
    pub notice: OnNotice,
    pub rebalance: OnRebalance,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limit {
    pub scope: Scope,
    pub max_hourly: Option<Dollars>,
    pub max_instances: Option<u32>,
    /// What becomes of a Pod for which nothing can be bought: it waits.
    #[serde(default)]
    pub on_exceed: OnExceed,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExceed {
    #[default]
    Pend,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Standby {
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    /// Outside every schedule.
    #[serde(default)]
    pub count: u32,
    #[serde(default)]
    pub schedules: Vec<Schedule>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Schedule {
    /// Minute, hour, day of month, month, day of week: when it begins.
    pub cron: String,
    /// How long it lasts, also where the clock is changed meanwhile; at least 15m.
    pub duration: Duration,
    /// An IANA name, such as Europe/Berlin.
    pub time_zone: String,
    pub count: u32,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Commitment {
    /// A zonal Reserved Instance.
    Zonal(Pool),
    /// A regional Reserved Instance, which covers its family by normalized units.
    Regional(Regional),
    /// An EC2 Instance Savings Plan (with a family) or a Compute Savings Plan.
    SavingsPlan(SavingsPlan),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pool {
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    pub count: u32,
}

pub type Reservation = Pool;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Regional {
    /// The type that was reserved; every size of its family is covered in proportion.
    #[serde(rename = "type")]
    pub instance_type: String,
    pub count: u32,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SavingsPlan {
    pub family: Option<String>,
    /// The commitment.
    pub hourly: Dollars,
    /// Below the on-demand price.
    pub discount_percent: u32,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Overrides {
    /// pilotlight.dev/allow-instance-types
    pub instance_types: Permit,
    /// pilotlight.dev/allow-purchase
    pub purchase: Permit,
    /// pilotlight.dev/max-hourly-price
    pub max_hourly_price: PermitPrice,
    /// pilotlight.dev/move may name a class (`pilotlight move --to`): any of the policy's, also a dearer one.
    pub move_to_class: Permit,
    /// The annotations that users of Alibaba Cloud ECI know, under k8s.aliyun.com/.
    pub eci: Permit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permit {
    /// May narrow what the class allows.
    Allow,
    #[default]
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PermitPrice {
    LowerOnly,
    #[default]
    Deny,
}

/// A reserve: one small warm copy of a service that is scaled to zero. Services ask for it by the annotation
/// `pilotlight.dev/reserve: enabled`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Reserve {
    /// Services that have one without asking: those that any of these matches.
    pub applies_to: Vec<AppliesTo>,
    /// The class that buys reserves; they carry its name as `pilotlight.dev/use-class`. Left out: `reserve`.
    pub class: Option<String>,
    /// Left out: a tenth of the template's CPU and a quarter of its memory, at least 100m and 128Mi.
    pub sizing: Option<ReserveSizing>,
    /// The most memory that a reserve gets, whatever the service was seen to need.
    pub max_memory: Option<Amount>,
    /// How long a new reserve may take until it is ready (a startup probe of its own may add to it); 2m.
    pub startup_timeout: Option<Duration>,
    /// When none becomes ready in time; `plain-zero`.
    pub on_failure: OnReserveFailure,
    /// From a failed try for a reserve to the next; 10m.
    pub retry_after: Option<Duration>,
    /// What becomes of a reserve when standard Pods answer: `release` (if left out), `always` (one is kept ready at
    /// all times), or for how long it is kept, such as 10m.
    pub parking: Option<String>,
    /// Whether a tag without a share of the traffic counts as traffic.
    pub tags: bool,
    /// Requests at once that a reserve lets in where containerConcurrency is 0: a number (100 if left out; ten times
    /// as many wait in it, and more are answered 503), or `refuse`: such a service gets no reserve.
    pub unbounded_concurrency: Option<Concurrency>,
}

/// All that is given must hold.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AppliesTo {
    /// Names or globs.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Labels of the service's template.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum ReserveSizing {
    /// As it says, for every service.
    Absolute(Requests),
    /// Of what the template requests.
    Fraction(Fraction),
    /// Types (t3.micro), or sizes as vCPUs and memory (1-2Gi): the first that holds what the service needs.
    Listed(Vec<String>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fraction {
    pub cpu_percent: u32,
    pub memory_percent: u32,
    /// Never less than this.
    pub least: Requests,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnReserveFailure {
    /// The service goes to zero without one.
    #[default]
    PlainZero,
    /// Standard Pods stay until one is ready, for an hour at most.
    HoldStandard,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Concurrency {
    Bound(u32),
    Word(String),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Catalog {
    /// Where sizes and prices are from.
    #[serde(default)]
    pub source: String,
    /// Of when they are.
    #[serde(default)]
    pub date: String,
    /// In a provider's catalog these two may be left out: its own are meant.
    pub region: Option<String>,
    pub zones: Option<Vec<String>>,
    pub types: Vec<CatalogType>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CatalogType {
    pub name: String,
    #[serde(default = "amd64")]
    pub architecture: Architecture,
    pub cpu: Amount,
    pub memory: Amount,
    /// On demand.
    pub price: Dollars,
    pub burst: Option<Burst>,
}

fn amd64() -> Architecture {
    Architecture::Amd64
}

/// CPU credits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Burst {
    /// Of each vCPU.
    pub baseline_percent: u32,
    /// Surplus credits, a vCPU-hour.
    pub surplus: Dollars,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Prices {
    /// Where the prices are from.
    #[serde(default)]
    pub source: String,
    /// Of when they are.
    #[serde(default)]
    pub date: String,
    /// In place of the catalog's.
    #[serde(default)]
    pub on_demand: Vec<OnDemandPrice>,
    /// A pool that has no price here is not offered as spot.
    #[serde(default)]
    pub spot: Vec<SpotPrice>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OnDemandPrice {
    #[serde(rename = "type")]
    pub instance_type: String,
    pub price: Dollars,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SpotPrice {
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    pub price: Dollars,
}
