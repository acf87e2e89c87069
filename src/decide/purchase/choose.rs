//! One Pod's decision, and a batch's: how a [`Decision`] is come to.

use super::decision::{Choice, Decision, Dropped, Outcome, Pend, PoolId, dropped};
use super::ledger::{Draw, Group, Ledger, Live, Tally, is_on_demand};
use super::market::TypeSpec;
use super::narrow::{Narrowing, narrowing};
use super::planner::{OPTIONS, Planner, rank, selects};
use super::policy::{Class, CreditMode, GroupBy, Limit, Match, Mix, Scope, Sizing, Step};
use super::why::{Unfit, Why};
use super::{Demand, Market, Policy};
use crate::model::{HourlyPrice, Offer, Purchase};
use jiff::Timestamp;
use std::borrow::Cow;

/// Compared in the order of its fields. Three numbers, as a batch's decision is mostly the comparing and moving of these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    price: HourlyPrice,
    /// Crowd, size, zone.
    after: u64,
}

impl Candidate {
    /// `size`: the type's place by [`Planner::sizes`], smallest first.
    fn new(rank: u32, price: HourlyPrice, crowd: u32, size: u16, zone: u16) -> Self {
        Self { rank, price, after: u64::from(crowd) << 32 | u64::from(size) << 16 | u64::from(zone) }
    }

    fn size(self) -> u16 {
        (self.after >> 16) as u16
    }

    fn zone(self) -> u16 {
        self.after as u16
    }
}

/// What one Pod gets.
pub fn decide<'a>(
    policy: &'a Policy,
    demand: &'a Demand,
    market: &'a Market,
    ledger: &Ledger,
    now: Timestamp,
) -> Decision<'a> {
    Planner::new(policy, market, now).decide(demand, ledger)
}

impl<'a> Planner<'a> {
    pub fn type_of(&self, id: u16) -> &'a TypeSpec {
        self.types[usize::from(id)]
    }

    pub fn spec(&self, name: &str) -> Option<&'a TypeSpec> {
        let found = self.types.binary_search_by(|t| t.name.as_str().cmp(name)).ok();
        found.map(|index| self.types[index])
    }

    pub fn zone(&self, id: u16) -> &'a str {
        self.zones[usize::from(id)]
    }

    /// Decides for all, by UID, each booked before the next. The answers are in that order.
    pub fn decide_all<'d>(&self, demands: &'d [Demand], ledger: &mut Ledger) -> Vec<Decision<'d>>
    where
        'a: 'd,
    {
        // Whom a class serves depends on no ledger: it is asked in the order in which they are in memory.
        let mut order: Vec<(&Demand, Option<usize>)> = demands.iter().map(|d| (d, self.class_of(d))).collect();
        order.sort_by(|(a, _), (b, _)| a.uid.cmp(&b.uid));
        let mut scratch = Scratch::default();
        let decide = |(demand, class): (&'d Demand, Option<usize>)| {
            let decision = match self.case_of(class, demand, ledger) {
                Ok(case) => case.decide_in(&mut scratch),
                Err(refused) => *refused,
            };
            if let Some(live) = decision.live() {
                ledger.book(&live);
            }
            decision
        };
        order.into_iter().map(decide).collect()
    }

    pub fn decide<'d>(&self, demand: &'d Demand, ledger: &Ledger) -> Decision<'d>
    where
        'a: 'd,
    {
        match self.case(demand, ledger) {
            Ok(case) => case.decide(),
            Err(refused) => *refused,
        }
    }

    /// A Pod's question, or the answer where there is nothing to look into.
    pub fn case<'d, 'l>(&'l self, demand: &'d Demand, ledger: &'l Ledger) -> Result<Case<'d, 'l>, Box<Decision<'d>>>
    where
        'a: 'd,
    {
        self.case_of(self.class_of(demand), demand, ledger)
    }

    /// The place of the class that serves it.
    fn class_of(&self, demand: &Demand) -> Option<usize> {
        self.policy.classes.iter().position(|class| serves(class, demand))
    }

    fn case_of<'d, 'l>(
        &'l self,
        place: Option<usize>,
        demand: &'d Demand,
        ledger: &'l Ledger,
    ) -> Result<Case<'d, 'l>, Box<Decision<'d>>>
    where
        'a: 'd,
    {
        let Some(place) = place else {
            let message = match &demand.class {
                Some(name) => format!("the cost policy has no class named {name:?}"),
                None => "no class of the cost policy matches".to_owned(),
            };
            return Err(Box::new(pending(demand, "", (0, 0), "NoClassMatches", message)));
        };
        let policy: &'d Policy = self.policy;
        let class = &policy.classes[place];
        let need = need(class.sizing, demand);
        let narrowing = match narrowing(&demand.annotations, self.policy.overrides) {
            Ok(narrowing) => narrowing,
            Err(error) => {
                let refused = pending(demand, &class.name, need, "InvalidAnnotation", error.to_string());
                return Err(Box::new(refused));
            }
        };
        Ok(Case {
            planner: self,
            place,
            class,
            demand,
            narrowing,
            need,
            limits: self.limits(class, demand, ledger),
            ledger,
            group: group_of(class, demand),
        })
    }

    /// What the ledger books for a machine that is there: at its price, with what it takes of the
    /// commitments that are left.
    pub fn live<'d>(
        &self,
        class: &'d str,
        demand: Option<&'d Demand>,
        offer: &'d Offer,
        zone: &'d str,
        ledger: &Ledger,
    ) -> Live<'d> {
        let known = self.policy.classes.iter().find(|c| c.name == class);
        let type_id = self.types.binary_search_by(|t| t.name.as_str().cmp(&offer.instance_type)).ok();
        let zone_id = self.zones.binary_search(&zone).ok();
        let covered = matches!(offer.purchase, Purchase::OnDemand | Purchase::Burstable)
            && known.is_none_or(|class| class.use_commitments);
        let drawn = type_id.zip(zone_id).filter(|_| covered).map(|(type_id, zone_id)| {
            let matching = &self.commitments[type_id * self.zones.len() + zone_id];
            ledger.after_commitments(&self.policy.commitments, matching, self.types[type_id].sku()).1
        });
        Live {
            namespace: demand.map(|d| d.namespace.as_str()).unwrap_or_default(),
            class,
            group: known.zip(demand).map(|(class, demand)| group_of(class, demand)).unwrap_or_default(),
            option: offer.purchase,
            instance_type: &offer.instance_type,
            zone,
            price: offer.price,
            drawn: Cow::Owned(drawn.unwrap_or_default()),
        }
    }

    /// The limits that hold for the Pod, with what they leave.
    fn limits(&self, class: &Class, demand: &Demand, ledger: &Ledger) -> Vec<Room<'a>> {
        let holds = |scope: &Scope| match scope {
            Scope::Cluster => true,
            Scope::Namespace(name) => *name == demand.namespace,
            Scope::Class(name) => *name == class.name,
        };
        let numbered = (0u16..).zip(&self.policy.limits).filter(|(_, limit)| holds(&limit.scope));
        numbered.map(|(number, limit)| Room::new(number, limit, ledger.tally(&limit.scope))).collect()
    }
}

/// A type with its rank, or a zone with its crowd.
type Numbered = (u16, u32);

/// Lists that are made anew for each Pod; kept from one to the next, so that a batch does not spend its time on memory.
#[derive(Default)]
struct Scratch {
    types: Vec<Numbered>,
    zones: Vec<Numbered>,
    offers: Vec<Candidate>,
    /// Offers but for a shortage.
    short: Vec<Candidate>,
    unfit: Vec<(u16, Unfit)>,
    passed_over: Vec<Dropped>,
}

/// One Pod's question to the policy.
pub struct Case<'a, 'l> {
    planner: &'l Planner<'a>,
    /// The class's, in the policy.
    place: usize,
    class: &'a Class,
    demand: &'a Demand,
    narrowing: Narrowing,
    need: (u64, u64),
    limits: Vec<Room<'a>>,
    ledger: &'l Ledger,
    group: Cow<'a, str>,
}

/// What a limit leaves.
struct Room<'a> {
    number: u16,
    scope: &'a Scope,
    /// None: there may be no more instances, or too much is spent already.
    dearest: Option<HourlyPrice>,
}

impl<'a> Room<'a> {
    fn new(number: u16, limit: &'a Limit, used: Tally) -> Self {
        let full = limit.max_instances.is_some_and(|max| used.instances >= max);
        let left = limit.max_hourly.map_or(Some(u64::MAX), |max| max.0.checked_sub(used.hourly.0));
        Self { number, scope: &limit.scope, dearest: left.filter(|_| !full).map(HourlyPrice) }
    }

    fn has(&self, price: HourlyPrice) -> bool {
        self.dearest.is_some_and(|dearest| price <= dearest)
    }
}

/// One way of paying, with what is the same for each of its pools.
struct Offering<'s> {
    step: &'s Step,
    /// Its place in [`OPTIONS`].
    place: usize,
    /// The lowest of the caps on its price.
    cap: Option<HourlyPrice>,
}

impl<'a> Case<'a, '_> {
    pub fn class(&self) -> &'a Class {
        self.class
    }

    pub fn decide(&self) -> Decision<'a> {
        self.decide_in(&mut Scratch::default())
    }

    fn decide_in(&self, scratch: &mut Scratch) -> Decision<'a> {
        let (cpu_millis, memory_bytes) = self.need;
        let outcome = self.run(self.place, scratch);
        Decision {
            uid: &self.demand.uid,
            namespace: &self.demand.namespace,
            class: &self.class.name,
            cpu_millis,
            memory_bytes,
            outcome,
            unfit: scratch.unfit.clone(),
            passed_over: scratch.passed_over.clone(),
        }
    }

    /// Whether a machine that is bought already would do: of a type that its class and annotations allow
    /// and that holds it, paid for in a way they allow. What the class's and the namespace's limits say is
    /// asked by [`Self::within_limits`].
    pub fn accepts(&self, offer: &Offer, zone: &str) -> bool {
        let place = self.planner.types.binary_search_by(|t| t.name.as_str().cmp(&offer.instance_type));
        let Ok(index) = place else { return false };
        let holds =
            self.planner.classes[self.place].types[index].and_then(|rank| self.fits(self.planner.types[index], rank));
        holds.is_ok()
            && [&self.demand.zones, &self.class.placement.zones]
                .into_iter()
                .all(|zones| zones.as_ref().is_none_or(|zones| zones.iter().any(|z| z == zone)))
            && self.class.purchase.iter().any(|step| step.option == offer.purchase)
            && self.may_pay_by(offer.purchase)
    }

    /// Whether the Pod may have a machine of this price that the cluster's limit counts already.
    pub fn within_limits(&self, price: HourlyPrice) -> bool {
        self.limits.iter().filter(|room| *room.scope != Scope::Cluster).all(|room| room.has(price))
    }

    /// Whether its group has too few on demand for the next to be anything else.
    pub fn lacks_on_demand(&self) -> bool {
        let may = self.class.purchase.iter().any(|step| is_on_demand(step.option) && self.may_pay_by(step.option));
        may && self.class.mix.is_some_and(|mix| lacks(mix, self.group()))
    }

    /// Whether its annotations leave this of its class's ways of buying.
    fn may_pay_by(&self, option: Purchase) -> bool {
        self.narrowing.purchase.as_ref().is_none_or(|options| options.contains(&option))
    }

    fn group(&self) -> Option<&Group> {
        self.ledger.group(&self.class.name, &self.group)
    }

    fn run(&self, place: usize, scratch: &mut Scratch) -> Outcome<'a> {
        let planner = self.planner;
        let Scratch { types, zones, offers, short, unfit, passed_over: dropped } = scratch;
        types.clear();
        zones.clear();
        unfit.clear();
        dropped.clear();
        for ((id, spec), verdict) in (0u16..).zip(&planner.types).zip(&planner.classes[place].types) {
            match verdict.and_then(|rank| self.fits(spec, rank)) {
                Ok(rank) => types.push((id, rank)),
                Err(why) => unfit.push((id, why)),
            }
        }
        let group = self.group();
        for ((id, zone), allowed) in (0u16..).zip(&planner.zones).zip(&planner.classes[place].zones) {
            let other = self.demand.zones.as_ref().is_some_and(|zones| !zones.iter().any(|z| z == zone));
            let why = match () {
                () if other => Why::OtherZone,
                () if !allowed => Why::ZoneNotAllowed,
                () if self.ledger.in_zone(zone) >= planner.addresses[usize::from(id)] => Why::NoAddresses,
                () => {
                    zones.push((id, group.and_then(|g| g.zones.get(*zone)).copied().unwrap_or(0)));
                    continue;
                }
            };
            dropped.push(Dropped { option: None, instance_type: None, zone: Some(id), why });
        }
        let of_zones = dropped.len();
        let lacking = self.class.mix.is_some_and(|mix| lacks(mix, group));
        // Of a mix those that it lacks first.
        let first = |step: &&Step| self.class.mix.is_none() || is_on_demand(step.option) == lacking;
        let steps = self.class.purchase.iter();
        let steps = steps.clone().filter(first).chain(steps.filter(|step| !first(step)));
        let mut shortage = dropped.iter().any(|d| d.why.is_shortage());
        let mut tried = false;
        for step in steps {
            let from = dropped.len();
            // What a mix lacks is not waited with; and if the annotations left no step before it, it comes after none.
            let at_once = !tried || lacking && is_on_demand(step.option);
            let found = self.step(step, shortage || at_once, (types, zones), (offers, short), dropped);
            shortage |= dropped[from..].iter().any(|d| d.why.is_shortage());
            tried |= self.may_pay_by(step.option);
            if let Some(choice) = found {
                let for_mix = lacking && is_on_demand(step.option);
                return Outcome::Plan(Choice { for_mix, ..choice });
            }
        }
        // Where no type does, neither zones nor ways of paying matter, and where no zone does, no way of paying.
        let told = match (types.is_empty(), zones.is_empty()) {
            (true, _) => 0,
            (false, true) => of_zones,
            (false, false) => dropped.len(),
        };
        Outcome::Pend(self.pend(unfit, &dropped[..told]))
    }

    /// Whether a type holds the Pod, and its rank in the annotations' order, if they have one.
    fn fits(&self, spec: &TypeSpec, mut place: u32) -> Result<u32, Unfit> {
        let (cpu, memory) = self.need;
        if !self.narrowing.allow.iter().all(|list| list.iter().any(|selector| selects(selector, spec))) {
            return Err(Unfit::NotInAnnotation);
        }
        if let Some(list) = &self.narrowing.listed {
            place = rank(list, spec);
        }
        if self.demand.architecture.is_some_and(|architecture| architecture != spec.architecture) {
            return Err(Unfit::OtherArchitecture);
        }
        let offered = spec.memory_bytes.saturating_sub(self.planner.market.reserved_memory_bytes);
        if spec.cpu_millis < cpu || offered < memory {
            return Err(Unfit::TooSmall);
        }
        let throttled = spec.burst.is_some_and(|burst| burst.baseline_millis < cpu);
        if self.class.credits.mode == CreditMode::Standard && throttled {
            return Err(Unfit::AboveBaseline);
        }
        Ok(place)
    }

    fn step(
        &self,
        step: &Step,
        shortage: bool,
        (types, zones): (&[Numbered], &[Numbered]),
        (offers, short): (&mut Vec<Candidate>, &mut Vec<Candidate>),
        dropped: &mut Vec<Dropped>,
    ) -> Option<Choice<'a>> {
        let option = Some(step.option);
        let whole = |why| Dropped { option, instance_type: None, zone: None, why };
        if !self.may_pay_by(step.option) {
            dropped.push(whole(Why::PurchaseNotInAnnotation));
            return None;
        }
        if step.after_ice && !shortage {
            dropped.push(whole(Why::NotNeeded));
            return None;
        }
        if step.option == Purchase::CapacityReservation && self.planner.policy.reservations.is_empty() {
            dropped.push(whole(Why::NoReservation));
            return None;
        }
        let of_spot = self.narrowing.max_spot.filter(|_| step.option == Purchase::Spot);
        let offering = Offering {
            step,
            place: OPTIONS.iter().position(|option| *option == step.option).expect("OPTIONS has all"),
            cap: [self.class.max_hourly, self.narrowing.max_hourly, of_spot].into_iter().flatten().min(),
        };
        offers.clear();
        short.clear();
        for &(type_id, rank) in types {
            let spec = self.planner.types[usize::from(type_id)];
            if step.option == Purchase::Burstable && spec.burst.is_none() {
                dropped.push(Dropped { option, instance_type: Some(type_id), zone: None, why: Why::NotBurstable });
                continue;
            }
            let surplus = spec.surplus(self.need.0);
            if let Some(max) = self.class.credits.max_surplus.filter(|max| surplus > *max) {
                let why = Why::SurplusTooDear { surplus, max };
                dropped.push(Dropped { option, instance_type: Some(type_id), zone: None, why });
                continue;
            }
            let share = |percent: u32| u128::from(spec.on_demand.0) * u128::from(percent) / 100;
            let most = step.max_percent_of_on_demand.map(share);
            let most = most.map(|most| HourlyPrice(u64::try_from(most).unwrap_or(u64::MAX)));
            let size = self.planner.sizes.place_of[usize::from(type_id)];
            for &(zone_id, crowd) in zones {
                let pool = PoolId { instance_type: type_id, zone: zone_id };
                match self.price(&offering, spec, pool, most, surplus) {
                    Ok(price) => {
                        let candidate = Candidate::new(rank, price, crowd, size, zone_id);
                        if self.planner.quarantined[offering.place][self.index(pool)] {
                            short.push(candidate);
                            let (instance_type, zone) = (Some(type_id), Some(zone_id));
                            dropped.push(Dropped { option, instance_type, zone, why: Why::Quarantined });
                        } else {
                            offers.push(candidate);
                        }
                    }
                    Err(why) => {
                        dropped.push(Dropped { option, instance_type: Some(type_id), zone: Some(zone_id), why });
                    }
                }
            }
        }
        // Asking pool after pool costs calls and time: with this many short ones that were better than the best that is
        // left, the way of paying is given up until one comes back.
        let best = offers.iter().min().map(|best| (best.rank, best.price));
        let short = short.iter().filter(|short| best.is_some_and(|best| (short.rank, short.price) < best)).count();
        if short > 0 && short >= self.planner.policy.ice.max_attempts as usize {
            dropped.push(whole(Why::TooManyAttempts { short: u32::try_from(short).unwrap_or(u32::MAX) }));
            return None;
        }
        let left = u32::try_from(offers.len()).unwrap_or(u32::MAX);
        if left > 0 && left < step.min_pools {
            dropped.push(whole(Why::TooFewPools { left, wanted: step.min_pools }));
            return None;
        }
        let keep = self.class.instances.max_candidates.max(1);
        if offers.len() > keep {
            offers.select_nth_unstable(keep - 1);
            offers.truncate(keep);
        }
        offers.sort_unstable();
        let pool = |offer: &Candidate| PoolId {
            instance_type: self.planner.sizes.smallest_first[usize::from(offer.size())],
            zone: offer.zone(),
        };
        let (best, others) = offers.split_first()?;
        let (best, price) = (pool(best), best.price);
        let spec = self.planner.types[usize::from(best.instance_type)];
        Some(Choice {
            option: step.option,
            allocation: step.allocation,
            pool: best,
            instance_type: &spec.name,
            zone: self.planner.zone(best.zone),
            price,
            drawn: self.drawn(step.option, spec, best),
            surplus: spec.surplus(self.need.0),
            for_mix: false,
            group: self.group.clone(),
            alternatives: others.iter().map(|offer| (pool(offer), offer.price)).collect(),
        })
    }

    /// What one more instance of a pool costs, if nothing but a shortage speaks against it; without surplus credits it may
    /// be the `most`.
    fn price(
        &self,
        offering: &Offering,
        spec: &TypeSpec,
        pool: PoolId,
        most: Option<HourlyPrice>,
        surplus: HourlyPrice,
    ) -> Result<HourlyPrice, Why> {
        let index = self.index(pool);
        if self.planner.not_offered[index] {
            return Err(Why::NotOffered);
        }
        // What was never reserved is not short.
        if offering.step.option == Purchase::CapacityReservation && self.planner.reservations[index] == 0 {
            return Err(Why::NoReservation);
        }
        let bare = self.bare_price(offering.step.option, spec, pool)?;
        if let Some(max) = most.filter(|max| bare > *max) {
            return Err(Why::AbovePercent { price: bare, max });
        }
        let price = HourlyPrice(bare.0.saturating_add(surplus.0));
        if let Some(cap) = offering.cap.filter(|cap| price > *cap) {
            return Err(Why::OverCap { price, cap });
        }
        match self.limits.iter().find(|room| !room.has(price)) {
            Some(room) => Err(Why::OverLimit { limit: room.number, price }),
            None => Ok(price),
        }
    }

    /// Without surplus credits.
    fn bare_price(&self, option: Purchase, spec: &TypeSpec, pool: PoolId) -> Result<HourlyPrice, Why> {
        let planner = self.planner;
        match option {
            Purchase::Spot => planner.spot[self.index(pool)].ok_or(Why::NotSpot),
            Purchase::CapacityReservation => {
                // It is paid for whether used or not: one more instance in it costs nothing more.
                let reserved = planner.reservations[self.index(pool)];
                let free = self.ledger.reserved(&spec.name, planner.zone(pool.zone)) < reserved;
                if free { Ok(HourlyPrice(0)) } else { Err(Why::NoReservation) }
            }
            Purchase::OnDemand | Purchase::Burstable => Ok(match self.commitments(pool) {
                [] => spec.on_demand,
                matching => self.ledger.price_after_commitments(&planner.policy.commitments, matching, spec.sku()),
            }),
        }
    }

    /// What commitments pay of it.
    fn drawn(&self, option: Purchase, spec: &TypeSpec, pool: PoolId) -> Vec<Draw> {
        match option {
            Purchase::Spot | Purchase::CapacityReservation => Vec::new(),
            Purchase::OnDemand | Purchase::Burstable => {
                let matching = self.commitments(pool);
                self.ledger.after_commitments(&self.planner.policy.commitments, matching, spec.sku()).1
            }
        }
    }

    /// Those that may pay for it.
    fn commitments(&self, pool: PoolId) -> &[usize] {
        if self.class.use_commitments { &self.planner.commitments[self.index(pool)] } else { &[] }
    }

    fn index(&self, pool: PoolId) -> usize {
        usize::from(pool.instance_type) * self.planner.zones.len() + usize::from(pool.zone)
    }

    /// The reason of what came nearest to being bought; of equally near ones the smallest figures, then the first by name.
    fn pend(&self, unfit: &[(u16, Unfit)], passed_over: &[Dropped]) -> Pend {
        // Nothing is made up beforehand to be compared: for a Pod that waits there are hundreds.
        let nearer = |a: &Dropped, b: &Dropped| {
            let stages = stage(a.why).cmp(&stage(b.why));
            stages.then_with(|| b.why.figure().cmp(&a.why.figure())).then_with(|| b.cmp(a))
        };
        let Some(nearest) = dropped(unfit, passed_over).max_by(nearer) else {
            return Pend { reason: "NoInstanceTypeFits", message: "the catalog offers nothing".to_owned() };
        };
        let (cpu, memory) = self.need;
        let more = match nearest.why {
            Why::Unfit(_) => self.planner.names_unknown(self.place, &self.narrowing.allow),
            Why::ZoneNotAllowed => self.zones_allowed(),
            _ => String::new(),
        };
        let small = unfit.iter().filter(|(_, why)| *why == Unfit::TooSmall).map(|(id, _)| self.planner.type_of(*id));
        let largest = small.max_by_key(|t| (t.memory_bytes, t.cpu_millis, &t.name));
        if let Some(largest) = largest.filter(|_| stage(nearest.why) == TOO_SMALL) {
            let offered = largest.memory_bytes.saturating_sub(self.planner.market.reserved_memory_bytes);
            let message = format!(
                "no instance type is large enough for cpu {cpu}m and memory {}Mi in class {}: the largest, {}, offers \
                 cpu {}m and memory {}Mi{more}",
                memory.div_ceil(1 << 20),
                self.class.name,
                largest.name,
                largest.cpu_millis,
                offered >> 20,
            );
            return Pend { reason: nearest.why.reason(), message };
        }
        let message = format!(
            "nothing may be bought for cpu {cpu}m and memory {}Mi in class {}: nearest was {}{more}",
            memory.div_ceil(1 << 20),
            self.class.name,
            self.planner.explain(&nearest),
        );
        Pend { reason: nearest.why.reason(), message }
    }

    /// The end of a message to a Pod whose zone its class does not allow: a Pod that is bound never changes its zone.
    fn zones_allowed(&self) -> String {
        let mut zones: Vec<&str> = self.class.placement.zones.iter().flatten().map(String::as_str).collect();
        zones.sort_unstable();
        let zones = zones.join(", ");
        format!(
            "; a Pod's zone is its node's: give Pods of the class a nodeSelector or an affinity for \
             topology.kubernetes.io/zone {zones}"
        )
    }
}

/// Whether the next of a group must be on demand, by its class's mix.
fn lacks(mix: Mix, group: Option<&Group>) -> bool {
    let (live, on_demand) = group.map_or((0, 0), |group| (group.live, group.on_demand));
    on_demand < mix.wanted(live.saturating_add(1))
}

impl Planner<'_> {
    /// `on-demand c6i.large in us-east-1a: ...`
    pub fn explain(&self, dropped: &Dropped) -> String {
        let option = dropped.option.map(Purchase::as_str);
        let instance_type = dropped.instance_type.map(|id| self.type_of(id).name.as_str());
        let mut subject = [option, instance_type].into_iter().flatten().collect::<Vec<_>>().join(" ");
        if let Some(zone) = dropped.zone {
            let zone = self.zone(zone);
            subject = if subject.is_empty() { zone.to_owned() } else { format!("{subject} in {zone}") };
        }
        format!("{subject}: {}", dropped.why.message(&self.policy.limits))
    }
}

const TOO_SMALL: u8 = 4;

/// How near to being bought, whatever the figures.
fn stage(why: Why) -> u8 {
    match why {
        // Types that nobody meant for the Pod tell it nothing.
        Why::Unfit(Unfit::NotAllowed) => 0,
        Why::Unfit(Unfit::Denied | Unfit::Architecture | Unfit::Generation | Unfit::Burstable) => 1,
        Why::Unfit(Unfit::AboveMaxVcpu | Unfit::AboveMaxMemory | Unfit::NotInAnnotation) | Why::NotBurstable => 2,
        Why::Unfit(Unfit::OtherArchitecture) => 3,
        Why::Unfit(Unfit::TooSmall | Unfit::AboveBaseline) => TOO_SMALL,
        Why::OtherZone => 5,
        Why::ZoneNotAllowed => 6,
        Why::NotOffered | Why::PurchaseNotInAnnotation | Why::NotNeeded => 7,
        Why::NoReservation | Why::NotSpot => 8,
        Why::SurplusTooDear { .. } => 9,
        Why::AbovePercent { .. } | Why::OverCap { .. } => 10,
        Why::TooFewPools { .. } | Why::NoAddresses | Why::Quarantined | Why::TooManyAttempts { .. } => 11,
        Why::OverLimit { .. } => 12,
    }
}

impl Policy {
    /// The class that serves a Pod.
    pub fn class_for(&self, demand: &Demand) -> Option<&Class> {
        self.classes.iter().find(|class| serves(class, demand))
    }
}

fn pending<'a>(
    demand: &'a Demand,
    class: &'a str,
    need: (u64, u64),
    reason: &'static str,
    message: String,
) -> Decision<'a> {
    Decision {
        uid: &demand.uid,
        namespace: &demand.namespace,
        class,
        cpu_millis: need.0,
        memory_bytes: need.1,
        outcome: Outcome::Pend(Pend { reason, message }),
        unfit: Vec::new(),
        passed_over: Vec::new(),
    }
}

fn serves(class: &Class, demand: &Demand) -> bool {
    demand.class.as_ref().map_or_else(|| matches(&class.matches, demand), |name| *name == class.name)
}

fn matches(rules: &Match, demand: &Demand) -> bool {
    let Match { namespaces, labels, annotations, owner_kinds } = rules;
    (namespaces.is_empty() || namespaces.iter().any(|glob| glob.matches(&demand.namespace)))
        && labels.iter().all(|(key, value)| demand.labels.get(key) == Some(value))
        && annotations.iter().all(|(key, value)| demand.annotations.get(key) == Some(value))
        && (owner_kinds.is_empty() || demand.owner.as_ref().is_some_and(|(kind, _)| owner_kinds.contains(kind)))
}

/// CPU and memory that the instance must offer.
pub(super) fn need(sizing: Sizing, demand: &Demand) -> (u64, u64) {
    match sizing {
        Sizing::Override { cpu_millis, memory_bytes } => (cpu_millis, memory_bytes),
        Sizing::Requests { cpu_millis, memory_bytes } => {
            (demand.cpu_millis.unwrap_or(cpu_millis), demand.memory_bytes.unwrap_or(memory_bytes))
        }
    }
}

fn group_of<'a>(class: &Class, demand: &'a Demand) -> Cow<'a, str> {
    let Demand { namespace, owner, uid, .. } = demand;
    match class.mix.map(|mix| mix.group_by).unwrap_or_default() {
        GroupBy::Class => Cow::default(),
        GroupBy::Namespace => Cow::Borrowed(namespace),
        GroupBy::Owner => Cow::Owned(match owner {
            Some((kind, name)) => [namespace, kind, name.as_str()].join("/"),
            None => [namespace, uid.as_str()].join("/"),
        }),
    }
}
