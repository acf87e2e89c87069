//! Which Pod gets which instance, what to launch and what to release.
//!
//! What a Pod may have and what is bought for it says the cost policy (`decide::purchase`); here what is
//! there is set against what is asked for:
//!
//! ```text
//!   ledger   = what lives: bound instances, in the order of their launch
//!   match    : each waiting Pod, the oldest first, takes of what is bought already what suits it
//!                ready -> bound now; booting or under way -> waits for it
//!   keep     : standby pools keep their count of what is left; what they lack is bought within the defaults' price cap and
//!              the cluster's limit, or is said to be forbidden
//!   launch   : for each Pod without a match, oldest first, what the policy chooses, booked before the next is
//!              decided; equal choices of a class are one order
//!   gather   : no order leaves before the burst is over: the batching window of what it would launch
//!   release  : what nobody needs
//! ```
//!
//! An instance knows no Pod at launch; it is bound when its agent has registered. So 500 Pods need as
//! many launch calls as there are different choices, and a crash after a launch loses nothing: what was
//! launched is found by its tags and counts as booting. Nothing is remembered between two plans but what
//! the cloud had no capacity for: the ledger is made anew of what lives, so a restart finds the same.
//!
//! Cost: O(n log n) in Pods and instances, times types and zones (see `decide::purchase`).

mod window;

pub use window::BatchWindow;

use super::purchase::policy::Scope;
use super::purchase::{self, Choice, Ledger, Market, Outcome, Planner, Policy, Quarantine, Why, is_on_demand};
use crate::model::{Allocation, CreditMode, HourlyPrice, InstanceId, Offer, PodUid, Purchase};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// The class of instances that are kept without a Pod: any class may take them.
pub const STANDBY: &str = "standby";

/// A Pod that needs an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub pod: PodUid,
    /// The zone of its node.
    pub zone: String,
    pub wants: Arc<purchase::Demand>,
    pub since: Timestamp,
    /// Its instance is about to be taken: it is served first, and waits for no [`Failing`] launch.
    pub urgent: bool,
}

/// An instance, or one that is being launched, that no Pod is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supply {
    /// None while its launch is under way.
    pub instance: Option<InstanceId>,
    pub class: String,
    pub zone: String,
    /// What it is; while its launch is under way, what it may become.
    pub offers: Vec<Offer>,
    /// Its agent is connected.
    pub ready: bool,
    pub launched_at: Timestamp,
}

/// An instance that can't be had: a Pod is bound to it, or it is on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub instance: InstanceId,
    pub class: String,
    pub zone: String,
    pub offer: Offer,
    pub wants: Option<Arc<purchase::Demand>>,
    pub launched_at: Timestamp,
}

/// A type in a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    pub zone: String,
    pub instance_type: String,
}

#[derive(Clone, Debug)]
pub struct Rules<'a> {
    pub policy: &'a Policy,
    pub market: &'a Market,
    /// Classes for which a launch failed, by zone: nothing is launched before this time.
    pub cooling: BTreeMap<(String, String), Timestamp>,
    pub failing: Failing,
    /// How many more instances may exist in each zone.
    pub room: BTreeMap<String, u32>,
    pub window: BatchWindow,
}

/// Where what is launched comes to nothing, by classes and zones.
#[derive(Clone, Debug, Default)]
pub struct Failing {
    /// Nothing is launched before this time.
    pub until: BTreeMap<(String, String), Timestamp>,
    /// Nothing is launched while one is on its way.
    pub one_at_a_time: BTreeSet<(String, String)>,
    /// Pools that nobody gets who may have anything else.
    pub pools: Vec<Quarantine>,
}

/// Instances to be launched, alike to whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub class: String,
    pub zone: String,
    /// Best first; never empty.
    pub offers: Vec<Offer>,
    pub allocation: Allocation,
    pub credits: CreditMode,
    pub count: u32,
}

impl Order {
    fn is_like(&self, other: &Self) -> bool {
        let Self { class, zone, offers, allocation, credits, count: _ } = self;
        (class, zone, offers, allocation, credits)
            == (&other.class, &other.zone, &other.offers, &other.allocation, &other.credits)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub bind: Vec<(PodUid, InstanceId)>,
    pub launch: Vec<Order>,
    pub release: Vec<InstanceId>,
    /// Pods that wait, and why.
    pub waiting: Vec<(PodUid, Waiting)>,
    /// Standby pools that lack instances which the policy forbids, and why. What is short or fails for now is not told
    /// here: it is tried again.
    pub forbidden: BTreeMap<Pool, Why>,
    /// When this should be asked again if nothing else happens.
    pub wake_at: Option<Timestamp>,
}

/// Why a Pod has no instance yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// One was launched or is about to be.
    Launching { class: String, offer: Offer },
    /// The policy lets nothing be bought now, or ever.
    Pending { class: String, reason: &'static str, message: String },
    /// What is launched for this class fails; another is launched later.
    Failed { class: String },
    /// The node's limit on instances is reached.
    LimitReached,
}

impl Waiting {
    /// A CamelCase reason, for status and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Launching { .. } => "InstanceLaunching",
            Self::Pending { reason, .. } => reason,
            Self::Failed { .. } => "LaunchFailed",
            Self::LimitReached => "OutOfpods",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Self::Launching { class, offer } => {
                let Offer { instance_type, purchase, price } = offer;
                let purchase = purchase.as_str();
                format!("waiting for an instance of type {instance_type} ({purchase}, ${price}/h, class {class})")
            }
            Self::Pending { message, .. } => message.clone(),
            // No time in it: each new one would be a new event.
            Self::Failed { .. } => "no instance came up; another is tried".to_owned(),
            Self::LimitReached => "the node's limit of Pods is reached".to_owned(),
        }
    }

    pub fn class(&self) -> Option<&str> {
        match self {
            Self::Launching { class, .. } | Self::Pending { class, .. } | Self::Failed { class, .. } => Some(class),
            Self::LimitReached => None,
        }
    }
}

/// Supplies that are alike.
type Kind = (String, String, Vec<Offer>);

/// How well supplies suit, the least first: not paid for as would be chosen now, large, dear, not ready.
type Rank = (bool, u64, u64, HourlyPrice, bool);

/// What became of one instance that a standby pool lacks.
enum Standby {
    Ordered,
    Later,
    Forbidden(Why),
}

struct Round<'a> {
    rules: &'a Rules<'a>,
    planner: Planner<'a>,
    /// The same without [`Failing::pools`], where there are some.
    wary: Option<Planner<'a>>,
    ledger: Ledger,
    /// Ready ones first, the oldest first.
    free: BTreeMap<Kind, VecDeque<&'a Supply>>,
    room: BTreeMap<String, u32>,
    /// Of [`Failing::one_at_a_time`], those that have their one.
    on_their_way: BTreeSet<(String, String)>,
    /// When the orders may leave, if they may not yet.
    held_until: Option<Timestamp>,
    now: Timestamp,
    plan: Plan,
}

/// See the module's page.
pub fn plan(demands: &[Demand], supplies: &[Supply], held: &[Held], rules: &Rules, now: Timestamp) -> Plan {
    let avoiding = (!rules.failing.pools.is_empty()).then(|| {
        let quarantine = rules.market.quarantine.iter().chain(&rules.failing.pools).cloned().collect();
        Market { quarantine, ..rules.market.clone() }
    });
    let mut round = Round {
        rules,
        planner: Planner::new(rules.policy, rules.market, now),
        wary: avoiding.as_ref().map(|market| Planner::new(rules.policy, market, now)),
        ledger: Ledger::new(rules.policy, rules.market),
        free: BTreeMap::new(),
        room: rules.room.clone(),
        on_their_way: BTreeSet::new(),
        held_until: None,
        now,
        plan: Plan::default(),
    };
    round.fold(held);
    round.sort(supplies);
    let mut ordered: Vec<&Demand> = demands.iter().collect();
    ordered.sort_by_key(|d| (!d.urgent, d.since, &d.pod));
    // In the order in which it was bought: so the shares of a mix fall to the same Pods again.
    let unmatched: Vec<&Demand> = ordered.into_iter().filter(|demand| !round.take(demand)).collect();
    round.keep_standby();
    round.buy(&unmatched);
    round.release();
    round.plan.wake_at = round.wake_at();
    round.plan
}

impl<'a> Round<'a> {
    fn fold(&mut self, held: &[Held]) {
        let mut held: Vec<&Held> = held.iter().collect();
        // Commitments cover the first that came.
        held.sort_by_key(|h| (h.launched_at, &h.instance));
        for held in held {
            self.book(&held.class, held.wants.as_deref(), &held.offer, &held.zone);
        }
    }

    fn book(&mut self, class: &str, wants: Option<&purchase::Demand>, offer: &Offer, zone: &str) {
        let live = self.planner.live(class, wants, offer, zone, &self.ledger);
        self.ledger.book(&live);
    }

    fn sort(&mut self, supplies: &'a [Supply]) {
        let mut ordered: Vec<&Supply> = supplies.iter().collect();
        ordered.sort_by_key(|s| (!s.ready, s.launched_at, &s.instance));
        for supply in ordered {
            let place = (supply.class.clone(), supply.zone.clone());
            if !supply.ready && self.rules.failing.one_at_a_time.contains(&place) {
                self.on_their_way.insert(place);
            }
            let too_old = |most: SignedDuration| self.now.duration_since(supply.launched_at) >= most;
            match &supply.instance {
                Some(id) if self.rules.policy.ttl.max_lifetime.is_some_and(too_old) => {
                    self.plan.release.push(id.clone());
                    self.book(&supply.class, None, dearest(&supply.offers), &supply.zone);
                }
                _ => {
                    let kind = (supply.class.clone(), supply.zone.clone(), supply.offers.clone());
                    self.free.entry(kind).or_default().push_back(supply);
                }
            }
        }
    }

    /// Gives the Pod one of what is bought already, if one suits.
    fn take(&mut self, demand: &Demand) -> bool {
        let Some((kind, class, offer)) = self.suiting(demand) else { return false };
        let Some(supply) = self.free.get_mut(&kind).and_then(VecDeque::pop_front) else { return false };
        if self.free.get(&kind).is_some_and(VecDeque::is_empty) {
            self.free.remove(&kind);
        }
        self.book(&class, Some(&demand.wants), &offer, &supply.zone);
        match &supply.instance {
            Some(id) if supply.ready => self.plan.bind.push((demand.pod.clone(), id.clone())),
            _ => self
                .plan
                .waiting
                .push((demand.pod.clone(), Waiting::Launching { class, offer: supply.offers[0].clone() })),
        }
        true
    }

    /// What suits the Pod best of what is free: paid for as it would be bought now, then the tightest. So what
    /// is larger is left for those that need it, and as many get one as can. Returned with its class and the price that it is booked at.
    fn suiting(&self, demand: &Demand) -> Option<(Kind, String, Offer)> {
        if self.free.is_empty() {
            return None;
        }
        let case = self.planner.case(&demand.wants, &self.ledger).ok()?;
        let class = &case.class().name;
        let choice = match case.decide().outcome {
            Outcome::Plan(choice) => Some(choice),
            Outcome::Pend(_) => None,
        };
        // Something dearer was bought for another Pod that is no more: twice the price of what would be
        // bought now is borne, since another boot costs too; more is not, it would be paid for long.
        let ceiling = choice.as_ref().map(|choice| {
            let dearest = choice.alternatives.iter().map(|(_, price)| *price).max().unwrap_or(choice.price);
            dearest.max(HourlyPrice(choice.price.0.saturating_mul(2)))
        });
        let wants_spot = choice.as_ref().is_some_and(|choice| choice.option == Purchase::Spot);
        let lacks_on_demand = case.lacks_on_demand() && !wants_spot;
        let mut best: Option<(Rank, &Kind, &Offer)> = None;
        for (kind, supplies) in &self.free {
            let (of, zone, offers) = kind;
            let (Some(first), Some(front)) = (offers.first(), supplies.front()) else { continue };
            let offer = dearest(offers);
            let same = |c: &Choice| c.instance_type == first.instance_type && c.zone == *zone;
            let exact = choice.as_ref().filter(|c| same(c));
            let suits = if of == STANDBY {
                exact.is_some_and(|c| is_on_demand(c.option) && is_on_demand(offer.purchase))
            } else {
                (of == class || of.is_empty())
                    && offers.iter().all(|offer| case.accepts(offer, zone))
                    && !(lacks_on_demand && offer.purchase == Purchase::Spot)
                    && !(front.instance.is_some() && ceiling.is_some_and(|ceiling| offer.price > ceiling))
            };
            if suits && *zone == demand.zone && case.within_limits(offer.price) {
                let paid_so = choice.as_ref().is_none_or(|c| c.option == first.purchase || of == STANDBY);
                let specs = || offers.iter().filter_map(|offer| self.planner.spec(&offer.instance_type));
                let cpu = specs().map(|spec| spec.cpu_millis).min().unwrap_or(0);
                let memory = specs().map(|spec| spec.memory_bytes).min().unwrap_or(0);
                let rank = (!paid_so, cpu, memory, offer.price, !front.ready);
                if best.as_ref().is_none_or(|(other, _, _)| rank < *other) {
                    best = Some((rank, kind, offer));
                }
            }
        }
        best.map(|(_, kind, offer)| (kind.clone(), class.clone(), offer.clone()))
    }

    /// Leaves the standby pools what they need, asks for what they lack, and books all that is left: it is
    /// paid for until it is gone.
    fn keep_standby(&mut self) {
        let wanted = purchase::standby(&self.rules.policy.standby, self.now);
        let mut lacking = Vec::new();
        for (pool, count) in wanted {
            let mut missing = count as usize;
            for ((class, zone, offers), supplies) in &mut self.free {
                if class == STANDBY && *zone == pool.zone && offers[0].instance_type == pool.instance_type {
                    let kept = missing.min(supplies.len());
                    let kept: Vec<&Supply> = supplies.drain(..kept).collect();
                    missing -= kept.len();
                    for supply in kept {
                        let live =
                            self.planner.live(STANDBY, None, dearest(&supply.offers), &supply.zone, &self.ledger);
                        self.ledger.book(&live);
                    }
                }
            }
            lacking.push((pool, missing));
        }
        let surplus: Vec<&Supply> = self.free.values().flatten().copied().collect();
        for supply in surplus {
            self.book(&supply.class, None, dearest(&supply.offers), &supply.zone);
        }
        for (pool, missing) in lacking {
            for _ in 0..missing {
                match self.buy_standby(&pool) {
                    Standby::Ordered => {}
                    Standby::Later => break,
                    Standby::Forbidden(why) => {
                        self.plan.forbidden.insert(pool.clone(), why);
                        break;
                    }
                }
            }
        }
    }

    fn buy_standby(&mut self, pool: &Pool) -> Standby {
        let Some(spec) = self.rules.market.catalog.types.iter().find(|t| t.name == pool.instance_type) else {
            return Standby::Later;
        };
        let price = self.planner.classless_price(&pool.instance_type, &pool.zone, &self.ledger);
        let cap = self.rules.policy.defaults().and_then(|class| class.max_hourly);
        if let Some((price, cap)) = price.zip(cap).filter(|(price, cap)| price > cap) {
            return Standby::Forbidden(Why::OverCap { price, cap });
        }
        let purchase = if spec.burst.is_some() { Purchase::Burstable } else { Purchase::OnDemand };
        let short = |q: &purchase::Quarantine| q.holds(purchase, &pool.instance_type, &pool.zone, self.now);
        let used = self.ledger.tally(&Scope::Cluster);
        let beyond = |limit: &purchase::policy::Limit| {
            limit.scope == Scope::Cluster
                && (limit.max_instances.is_some_and(|max| used.instances >= max)
                    || limit.max_hourly.is_some_and(|max| used.hourly.0.saturating_add(spec.on_demand.0) > max.0))
        };
        if let Some(limit) = (0u16..).zip(&self.rules.policy.limits).find(|(_, limit)| beyond(limit)) {
            return Standby::Forbidden(Why::OverLimit { limit: limit.0, price: spec.on_demand });
        }
        if self.rules.market.quarantine.iter().any(short)
            || self.cools(STANDBY, &pool.zone)
            || self.fails(STANDBY, &pool.zone)
            || !self.has_room(&pool.zone)
        {
            return Standby::Later;
        }
        let offer = Offer { instance_type: spec.name.clone(), purchase, price: spec.on_demand };
        self.order(STANDBY, &pool.zone, vec![offer], Allocation::default(), CreditMode::default(), None);
        Standby::Ordered
    }

    /// All or none: while the window is open, who would be bought for is not told of either.
    fn buy(&mut self, demands: &[&Demand]) {
        let standby = self.plan.launch.clone();
        let (mut bought, mut bought_since) = (Vec::new(), Vec::new());
        // Who has nothing but what fails lets the others go first: one of theirs may show that it can be done.
        let (wary, rest): (Vec<_>, Vec<_>) = demands.iter().partition(|demand| self.wary_of(demand).is_some());
        for demand in wary.into_iter().chain(rest) {
            match self.buy_one(demand) {
                waiting @ Waiting::Launching { .. } => {
                    bought.push((demand.pod.clone(), waiting));
                    bought_since.push(demand.since);
                }
                waiting => self.plan.waiting.push((demand.pod.clone(), waiting)),
            }
        }
        self.held_until = self.rules.window.open_until(bought_since, self.now);
        match self.held_until {
            None => self.plan.waiting.extend(bought),
            Some(_) => self.plan.launch = standby,
        }
    }

    /// Who finds something for the Pod beside what fails.
    fn wary_of(&self, demand: &Demand) -> Option<&Planner<'a>> {
        let wary = self.wary.as_ref()?;
        let case = wary.case(&demand.wants, &self.ledger).ok()?;
        matches!(case.decide().outcome, Outcome::Plan(_)).then_some(wary)
    }

    fn buy_one(&mut self, demand: &Demand) -> Waiting {
        let planner = self.wary_of(demand).unwrap_or(&self.planner);
        let case = match planner.case(&demand.wants, &self.ledger) {
            Ok(case) => case,
            Err(refused) => return pending(refused.class, refused.outcome),
        };
        let decision = case.decide();
        let choice = match decision.outcome {
            Outcome::Plan(choice) => choice,
            pend @ Outcome::Pend(_) => return pending(decision.class, pend),
        };
        let credits = case.class().credits.mode;
        let class = decision.class;
        if self.cools(class, choice.zone) || !demand.urgent && self.fails(class, choice.zone) {
            return Waiting::Failed { class: class.to_owned() };
        }
        if !self.has_room(choice.zone) {
            return Waiting::LimitReached;
        }
        // A fleet of spot pools is one attempt however many there are: the more, the less it is interrupted.
        let most = if choice.option == Purchase::Spot {
            usize::MAX
        } else {
            self.rules.policy.ice.max_attempts.max(1) as usize
        };
        let instance_type = choice.instance_type.to_owned();
        let first = Offer { instance_type, purchase: choice.option, price: choice.price };
        let others = choice.alternatives.iter().filter(|(pool, _)| planner.zone(pool.zone) == choice.zone);
        let others = others.map(|(pool, price)| Offer {
            instance_type: planner.type_of(pool.instance_type).name.clone(),
            purchase: choice.option,
            price: *price,
        });
        let offers: Vec<Offer> = std::iter::once(first.clone()).chain(others).take(most).collect();
        self.order(class, choice.zone, offers, choice.allocation, credits, Some(&demand.wants));
        Waiting::Launching { class: class.to_owned(), offer: first }
    }

    /// Adds one to the order of its like, booked at the dearest of what it may become.
    fn order(
        &mut self,
        class: &str,
        zone: &str,
        offers: Vec<Offer>,
        allocation: Allocation,
        credits: CreditMode,
        wants: Option<&purchase::Demand>,
    ) {
        self.book(class, wants, dearest(&offers), zone);
        if let Some(left) = self.room.get_mut(zone) {
            *left = left.saturating_sub(1);
        }
        let order = Order { class: class.to_owned(), zone: zone.to_owned(), offers, allocation, credits, count: 1 };
        match self.plan.launch.iter_mut().find(|other| other.is_like(&order)) {
            Some(alike) => alike.count += 1,
            None => self.plan.launch.push(order),
        }
    }

    fn cools(&self, class: &str, zone: &str) -> bool {
        self.is_held(&self.rules.cooling, class, zone)
    }

    /// Whether nothing is launched now, since what was came to nothing.
    fn fails(&self, class: &str, zone: &str) -> bool {
        self.is_held(&self.rules.failing.until, class, zone) || self.awaits_one(class, zone)
    }

    fn is_held(&self, until: &BTreeMap<(String, String), Timestamp>, class: &str, zone: &str) -> bool {
        !until.is_empty() && until.get(&(class.to_owned(), zone.to_owned())).is_some_and(|until| *until > self.now)
    }

    /// Whether the next is launched when it is known what becomes of the one that is on its way.
    fn awaits_one(&self, class: &str, zone: &str) -> bool {
        if self.rules.failing.one_at_a_time.is_empty() {
            return false;
        }
        let place = (class.to_owned(), zone.to_owned());
        self.rules.failing.one_at_a_time.contains(&place)
            && (self.on_their_way.contains(&place)
                || self.plan.launch.iter().any(|order| order.class == class && order.zone == zone))
    }

    fn has_room(&self, zone: &str) -> bool {
        self.room.get(zone).is_none_or(|left| *left > 0)
    }

    fn release(&mut self) {
        let left = self.free.values().flatten().filter_map(|supply| supply.instance.clone());
        self.plan.release.extend(left);
        self.plan.release.sort();
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let quarantined = self.rules.market.quarantine.iter().map(|q| q.until);
        let cooling = self.rules.cooling.values().chain(self.rules.failing.until.values()).copied();
        let waits = !self.plan.waiting.is_empty() || !self.rules.policy.standby.is_empty();
        let retry = quarantined.chain(cooling).filter(|at| waits && *at > self.now).min();
        // A schedule's windows begin and end on whole minutes.
        let scheduled = self.rules.policy.standby.iter().any(|pool| !pool.windows.is_empty());
        let minute = scheduled.then(|| Timestamp::from_second((self.now.as_second().div_euclid(60) + 1) * 60).ok());
        retry.into_iter().chain(minute.flatten()).chain(self.held_until).min()
    }
}

fn pending(class: &str, outcome: Outcome<'_>) -> Waiting {
    let (reason, message) = match outcome {
        Outcome::Pend(pend) => (pend.reason, pend.message),
        // Not what it is called for.
        Outcome::Plan(choice) => ("Pending", choice.instance_type.to_owned()),
    };
    Waiting::Pending { class: class.to_owned(), reason, message }
}

/// What is booked of something that may become any of these. The lists are never empty.
fn dearest(offers: &[Offer]) -> &Offer {
    offers.iter().max_by_key(|offer| offer.price).expect("an order has an offer")
}

#[cfg(test)]
mod tests;
