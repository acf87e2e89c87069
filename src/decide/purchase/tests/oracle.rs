//! What a Pod should get, found by trying every way of paying for every type in every zone.
//!
//! In: a [`Question`], with a plain list of what was bought before. Out: an [`Answer`]. It shares no code with the
//! decision, not even the matching of names, and prefers what can be read to what is fast.

use super::super::policy::*;
use super::super::{Demand, INSTANCE_TYPES, MAX_HOURLY, Market, PURCHASE, TypeSpec};
use super::now;
use crate::model::{CreditMode, Purchase};
use std::collections::BTreeSet;

/// What is remembered of a purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bought {
    pub class: String,
    pub namespace: String,
    pub group: String,
    pub option: Purchase,
    /// Type and zone.
    pub pool: (String, String),
    pub price: u64,
    pub drawn: Vec<(usize, u64)>,
}

/// The least is the best. Types and zones that are equal in all this may be taken in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The place in the list whose order is meant.
    listed: usize,
    price: u64,
    crowd: u64,
    size: (u64, u64),
}

impl Key {
    /// What makes a pool better than another; the rest only chooses among equally good ones.
    fn worth(self) -> (usize, u64) {
        (self.listed, self.price)
    }
}

#[derive(Clone, Debug)]
pub struct Offer {
    pub key: Key,
    pub bought: Bought,
}

#[derive(Clone, Debug)]
pub enum Answer {
    NoClass,
    /// By one of these annotations, which the policy does not permit.
    Refused(Vec<&'static str>),
    Nothing,
    /// All that one way of paying offers, the best first.
    Offers {
        offers: Vec<Offer>,
        for_mix: bool,
    },
}

/// What a way of paying has for a Pod.
#[derive(Debug, Default)]
pub struct Shelf {
    pub offers: Vec<Offer>,
    /// What only a shortage speaks against.
    short: Vec<Key>,
    /// A pool has no known spot price.
    unpriced: bool,
}

#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub policy: &'a Policy,
    pub market: &'a Market,
    pub demand: &'a Demand,
    pub bought: &'a [Bought],
}

pub const fn firm(option: Purchase) -> bool {
    !matches!(option, Purchase::Spot)
}

/// `*` is anything, `?` one character.
pub fn is_named(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => (0..=name.len()).any(|cut| is_named(rest.as_str(), &name[cut..])),
        Some(one) => name.chars().next().is_some_and(|c| one == '?' || one == c) && is_named(rest.as_str(), &name[1..]),
    }
}

/// How many of `n` are to be on demand.
pub fn share(mix: Mix, n: u32) -> u32 {
    let above = n.saturating_sub(mix.on_demand_base);
    n - above + (above * mix.on_demand_percent_above_base).div_ceil(100)
}

/// What a class counts shares and zones by.
pub fn group(class: &Class, demand: &Demand) -> String {
    match (class.mix.map(|mix| mix.group_by), &demand.owner) {
        (Some(GroupBy::Class), _) => String::new(),
        (Some(GroupBy::Namespace), _) => demand.namespace.clone(),
        (_, Some((kind, name))) => format!("{} {kind} {name}", demand.namespace),
        (_, None) => format!("{} alone {}", demand.namespace, demand.uid),
    }
}

/// CPU and memory that the instance must offer.
pub fn need(class: &Class, demand: &Demand) -> (u64, u64) {
    match class.sizing {
        Sizing::Override { cpu_millis, memory_bytes } => (cpu_millis, memory_bytes),
        Sizing::Requests { cpu_millis, memory_bytes } => {
            (demand.cpu_millis.unwrap_or(cpu_millis), demand.memory_bytes.unwrap_or(memory_bytes))
        }
    }
}

/// The class that serves a Pod: the one that it names, or of those that match it the heaviest, the first by name.
pub fn serves<'a>(policy: &'a Policy, demand: &Demand) -> Option<&'a Class> {
    let matching = policy.classes.iter().filter(|class| {
        let Match { namespaces, labels, annotations, owner_kinds } = &class.matches;
        if let Some(name) = &demand.class {
            return class.name == *name;
        }
        let kind = demand.owner.as_ref().map(|owner| owner.0.clone()).unwrap_or_default();
        (namespaces.is_empty() || namespaces.iter().any(|glob| is_named(glob.as_str(), &demand.namespace)))
            && labels.iter().all(|pair| demand.labels.iter().any(|other| other == pair))
            && annotations.iter().all(|pair| demand.annotations.iter().any(|other| other == pair))
            && (owner_kinds.is_empty() || owner_kinds.contains(&kind))
    });
    matching.min_by_key(|class| (-i64::from(class.weight), class.name.clone()))
}

/// Whether a class has a type, whatever the Pod.
fn has_type(rules: &Instances, spec: &TypeSpec) -> bool {
    let globs = |list: &[TypeSelector]| -> Vec<String> {
        let name = |selector: &TypeSelector| match selector {
            TypeSelector::Name(glob) => glob.as_str().to_owned(),
            TypeSelector::Size { .. } => panic!("a class has names alone"),
        };
        list.iter().map(name).collect()
    };
    let lists: Vec<Vec<String>> = rules.allow.iter().map(|list| globs(list)).collect();
    let named_in_full = !lists.is_empty() && lists.iter().all(|list| list.contains(&spec.name));
    let digits: String =
        spec.name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit()).collect();
    let generation: u32 = digits.parse().unwrap();
    lists.iter().all(|list| list.iter().any(|glob| is_named(glob, &spec.name)))
        && !rules.deny.iter().any(|glob| is_named(glob.as_str(), &spec.name))
        && (rules.architectures.is_empty() || rules.architectures.contains(&spec.architecture))
        && (named_in_full || rules.min_generation.is_none_or(|least| generation >= least))
        && rules.strict_generation.is_none_or(|least| generation >= least)
        && (rules.burstable || spec.burst.is_none())
        && rules.max_cpu_millis.is_none_or(|most| spec.cpu_millis <= most)
        && rules.max_memory_bytes.is_none_or(|most| spec.memory_bytes <= most)
}

/// What a Pod's annotations ask for.
#[derive(Debug, Default)]
struct Asked {
    /// A type must be in each of these lists.
    lists: Vec<Vec<String>>,
    /// The one whose order is meant.
    order: Option<Vec<String>>,
    options: Option<BTreeSet<String>>,
    cap: Option<u64>,
    spot_cap: Option<u64>,
}

impl Asked {
    /// Or those that are not permitted.
    fn of(demand: &Demand, permitted: Overrides) -> Result<Self, Vec<&'static str>> {
        let words = |text: &String| -> Vec<String> { text.split(',').map(|w| w.trim().replace("ecs.", "")).collect() };
        let micros = |text: &String| -> u64 { text.strip_prefix("0.").unwrap().parse().unwrap() };
        let get = |key: &str| demand.annotations.get(key);
        let own = [
            (INSTANCE_TYPES, permitted.instance_types),
            (PURCHASE, permitted.purchase),
            (MAX_HOURLY, permitted.max_hourly_price),
        ];
        let refused: Vec<&str> = own.into_iter().filter(|(key, may)| !may && get(key).is_some()).map(|o| o.0).collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut asked = Self {
            lists: get(INSTANCE_TYPES).map(words).into_iter().collect(),
            options: get(PURCHASE).map(|text| words(text).into_iter().collect()),
            cap: get(MAX_HOURLY).map(micros),
            ..Self::default()
        };
        let eci = |name: &str| get(&format!("k8s.aliyun.com/eci-{name}")).filter(|_| permitted.eci);
        if let Some(text) = eci("use-specs") {
            asked.lists.push(words(text));
            asked.order = Some(words(text));
        }
        if let Some(text) = eci("instance-family") {
            asked.lists.push(words(text).iter().map(|family| format!("{family}.*")).collect());
        }
        asked.spot_cap = eci("spot-price-limit").map(micros);
        if let Some(strategy) = eci("spot-strategy") {
            let spot = strategy != "NoSpot";
            let others = !spot || eci("spot-fallback").is_some_and(|text| text == "true");
            let all = ["on-demand", "burstable", "capacity-reservation", "spot"].map(str::to_owned);
            let left = all.into_iter().filter(|option| if option == "spot" { spot } else { others });
            let own = asked.options.take();
            asked.options = Some(left.filter(|o| own.as_ref().is_none_or(|own| own.contains(o))).collect());
        }
        Ok(asked)
    }

    /// Whether a word of a list means a type: a size such as `2-2000`, or a name.
    fn means(word: &str, spec: &TypeSpec) -> bool {
        match word.split_once('-') {
            Some((cpu, memory)) => {
                format!("{cpu}000") == spec.cpu_millis.to_string() && memory == spec.memory_bytes.to_string()
            }
            None => is_named(word, &spec.name),
        }
    }

    fn may_pay_by(&self, option: Purchase) -> bool {
        self.options.as_ref().is_none_or(|options| options.contains(option.as_str()))
    }
}

impl Question<'_> {
    pub fn answer(&self) -> Answer {
        let Some(class) = serves(self.policy, self.demand) else { return Answer::NoClass };
        let asked = match Asked::of(self.demand, self.policy.overrides) {
            Ok(asked) => asked,
            Err(refused) => return Answer::Refused(refused),
        };
        let lacking = self.lacks(class);
        let (mut steps, mut later) = (class.purchase.clone(), Vec::new());
        if class.mix.is_some() {
            (steps, later) = steps.into_iter().partition(|step| firm(step.option) == lacking);
        }
        steps.append(&mut later);
        steps.retain(|step| asked.may_pay_by(step.option));
        let mut shortage = self.zones(class).iter().any(|zone| self.is_full(zone));
        for (place, step) in steps.iter().enumerate() {
            // What a mix lacks is not waited with, and what is left as the first comes after nothing.
            let at_once = place == 0 || lacking && firm(step.option);
            if step.after_ice && !shortage && !at_once {
                continue;
            }
            let shelf = self.shelf(class, need(class, self.demand), step);
            shortage |= shelf.unpriced || !shelf.short.is_empty();
            let any = !shelf.offers.is_empty();
            if let Some(offers) = self.taken_of(shelf, step) {
                return Answer::Offers { offers, for_mix: lacking && firm(step.option) };
            }
            // It had something, and was passed over for too few pools or too many short ones.
            shortage |= any;
        }
        Answer::Nothing
    }

    /// Whether one side of a mix can be had, asked for alone.
    pub fn can_have(&self, class: &Class, side: impl Fn(Purchase) -> bool) -> bool {
        let Ok(asked) = Asked::of(self.demand, self.policy.overrides) else { return false };
        class.purchase.iter().filter(|step| side(step.option) && asked.may_pay_by(step.option)).any(|step| {
            let shelf = self.shelf(class, need(class, self.demand), step);
            self.taken_of(shelf, step).is_some()
        })
    }

    /// The group's Pods, and how many of them are on demand.
    pub fn counts(&self, class: &Class) -> (u32, u32) {
        let mine = self.group(class);
        (mine.len() as u32, mine.iter().filter(|one| firm(one.option)).count() as u32)
    }

    /// Whether the next of the group must be on demand.
    pub fn lacks(&self, class: &Class) -> bool {
        let (all, on_demand) = self.counts(class);
        class.mix.is_some_and(|mix| on_demand < share(mix, all + 1))
    }

    /// Best first; None where the way of paying is given up.
    fn taken_of(&self, shelf: Shelf, step: &Step) -> Option<Vec<Offer>> {
        let Shelf { mut offers, short, unpriced: _ } = shelf;
        offers.sort_by_key(|offer| offer.key);
        let best = offers.first()?.key;
        let tried = short.iter().filter(|key| key.worth() < best.worth()).count();
        let enough = offers.len() >= step.min_pools as usize;
        (tried < self.policy.ice.max_attempts as usize && enough).then_some(offers)
    }

    /// All that a class's constraints let be bought in one way, whatever else the class prefers.
    pub fn shelf(&self, class: &Class, (cpu, memory): (u64, u64), step: &Step) -> Shelf {
        let Self { market, demand, .. } = *self;
        let mut shelf = Shelf::default();
        let Ok(asked) = Asked::of(demand, self.policy.overrides) else { return shelf };
        for spec in market.catalog.types.iter().filter(|spec| has_type(&class.instances, spec)) {
            let baseline = spec.burst.map(|burst| burst.baseline_millis);
            let surplus =
                spec.burst.map_or(0, |b| (cpu.saturating_sub(b.baseline_millis) * b.surplus.0).div_ceil(1000));
            let unfit = asked.lists.iter().any(|list| !list.iter().any(|word| Asked::means(word, spec)))
                || demand.architecture.is_some_and(|wanted| wanted != spec.architecture)
                || spec.cpu_millis < cpu
                || spec.memory_bytes < memory + market.reserved_memory_bytes
                || class.credits.mode == CreditMode::Standard && baseline.is_some_and(|baseline| baseline < cpu)
                || step.option == Purchase::Burstable && spec.burst.is_none()
                || class.credits.max_surplus.is_some_and(|max| surplus > max.0);
            if unfit {
                continue;
            }
            let listed = match (&asked.order, &class.instances.listed) {
                (Some(words), _) => words.iter().position(|word| Asked::means(word, spec)),
                (None, Some(list)) => list
                    .iter()
                    .position(|s| matches!(s, TypeSelector::Name(glob) if is_named(glob.as_str(), &spec.name))),
                (None, None) => Some(0),
            };
            for zone in self.zones(class).into_iter().filter(|zone| !self.is_full(zone)) {
                let pool = (spec.name.clone(), zone.to_owned());
                if market.not_offered.contains(&pool) {
                    continue;
                }
                let (bare, drawn) = match step.option {
                    Purchase::Spot => match market.spot.get(&pool) {
                        Some(price) => (price.0, Vec::new()),
                        None => {
                            shelf.unpriced = true;
                            continue;
                        }
                    },
                    Purchase::CapacityReservation => {
                        if !self.has_reservation(&pool) {
                            continue;
                        }
                        (0, Vec::new())
                    }
                    Purchase::OnDemand | Purchase::Burstable => self.on_demand(class, spec, zone),
                };
                let price = bare + surplus;
                let most = step.max_percent_of_on_demand.map(|p| spec.on_demand.0 * u64::from(p) / 100);
                let spot_cap = asked.spot_cap.filter(|_| step.option == Purchase::Spot);
                let caps = [class.max_hourly.map(|cap| cap.0), asked.cap, spot_cap];
                if most.is_some_and(|most| bare > most)
                    || caps.into_iter().flatten().any(|cap| price > cap)
                    || self.policy.limits.iter().any(|limit| self.exceeds(limit, class, price))
                {
                    continue;
                }
                let crowd = self.group(class).iter().filter(|one| one.pool.1 == zone).count() as u64;
                let size = (spec.cpu_millis, spec.memory_bytes);
                let key = Key { listed: listed.unwrap_or(usize::MAX), price, crowd, size };
                if self.is_short(step.option, &pool) {
                    shelf.short.push(key);
                    continue;
                }
                shelf.offers.push(Offer {
                    key,
                    bought: Bought {
                        class: class.name.clone(),
                        namespace: demand.namespace.clone(),
                        group: group(class, demand),
                        option: step.option,
                        pool,
                        price,
                        drawn,
                    },
                });
            }
        }
        shelf
    }

    fn group(&self, class: &Class) -> Vec<&Bought> {
        let group = group(class, self.demand);
        self.bought.iter().filter(|one| one.class == class.name && one.group == group).collect()
    }

    fn zones(&self, class: &Class) -> Vec<&str> {
        let all = self.market.catalog.zones.iter();
        let allowed = all
            .filter(|zone| class.placement.zones.as_ref().is_none_or(|zones| zones.contains(zone)))
            .filter(|zone| self.demand.zones.as_ref().is_none_or(|zones| zones.contains(zone)));
        allowed.map(String::as_str).collect()
    }

    fn is_full(&self, zone: &str) -> bool {
        let taken = self.bought.iter().filter(|one| one.pool.1 == zone).count();
        self.market.free_addresses.get(zone).is_some_and(|free| taken >= *free as usize)
    }

    fn has_reservation(&self, pool: &(String, String)) -> bool {
        let of_pool = self.policy.reservations.iter().filter(|r| r.instance_type == pool.0 && r.zone == pool.1);
        let used = self.bought.iter().filter(|one| one.option == Purchase::CapacityReservation && one.pool == *pool);
        used.count() < of_pool.map(|r| r.count as usize).sum()
    }

    fn is_short(&self, option: Purchase, pool: &(String, String)) -> bool {
        self.market.quarantine.iter().any(|q| {
            q.until > now()
                && q.option.is_none_or(|o| o == option)
                && q.instance_type.as_ref().is_none_or(|name| *name == pool.0)
                && q.zone.as_ref().is_none_or(|zone| *zone == pool.1)
        })
    }

    fn exceeds(&self, limit: &Limit, class: &Class, price: u64) -> bool {
        let (of_pod, counted): (bool, Vec<&Bought>) = match &limit.scope {
            Scope::Cluster => (true, self.bought.iter().collect()),
            Scope::Namespace(name) => {
                (*name == self.demand.namespace, self.bought.iter().filter(|one| one.namespace == *name).collect())
            }
            Scope::Class(name) => (*name == class.name, self.bought.iter().filter(|one| one.class == *name).collect()),
        };
        let spent: u64 = counted.iter().map(|one| one.price).sum();
        of_pod
            && (limit.max_instances.is_some_and(|max| counted.len() >= max as usize)
                || limit.max_hourly.is_some_and(|max| spent + price > max.0))
    }

    /// Price and draws of one more on demand. The rest is what nothing has covered of the list price yet.
    /// What else of the account runs has come before.
    pub fn on_demand(&self, class: &Class, spec: &TypeSpec, zone: &str) -> (u64, Vec<(usize, u64)>) {
        if !class.use_commitments {
            return (spec.on_demand.0, Vec::new());
        }
        let mut taken: Vec<(usize, u64)> = Vec::new();
        for others in &self.market.others {
            let list = others.on_demand.map_or(1, |price| price.0);
            for _ in 0..others.count {
                taken.extend(self.cover(&others.instance_type, &others.zone, list, &taken, others.reservable).1);
            }
        }
        taken.extend(self.bought.iter().flat_map(|one| &one.drawn));
        self.cover(&spec.name, zone, spec.on_demand.0, &taken, true)
    }

    /// What is uncovered of one machine where so much of each commitment is taken, and what it takes.
    fn cover(
        &self,
        name: &str,
        zone: &str,
        list: u64,
        taken: &[(usize, u64)],
        reservable: bool,
    ) -> (u64, Vec<(usize, u64)>) {
        let (mut rest, mut draws) = (list, Vec::new());
        let used = |index: usize| -> u64 { taken.iter().filter(|(i, _)| *i == index).map(|(_, n)| n).sum() };
        // In hundredths of a `small`.
        let sizes = [("nano", 25), ("small", 100), ("medium", 200), ("large", 400), ("xlarge", 800)];
        let (family, size) = name.split_once('.').unwrap();
        let units = sizes.iter().find(|(known, _)| *known == size).unwrap().1;
        for turn in 0..4 {
            for (index, commitment) in self.policy.commitments.iter().enumerate() {
                let (kind, covers, all) = match commitment {
                    Commitment::Zonal { instance_type, zone: z, count } => {
                        (0, instance_type == name && z == zone, u64::from(*count))
                    }
                    Commitment::Regional { family: of, units } => (1, of == family, *units),
                    Commitment::SavingsPlan { family: Some(of), hourly, .. } => (2, of == family, hourly.0),
                    Commitment::SavingsPlan { family: None, hourly, .. } => (3, true, hourly.0),
                };
                let left = all - used(index);
                if kind != turn || !covers || kind < 2 && !reservable || left == 0 || rest == 0 {
                    continue;
                }
                let needed = match commitment {
                    Commitment::Zonal { .. } => 1,
                    Commitment::Regional { .. } => (units * rest).div_ceil(list),
                    Commitment::SavingsPlan { discount_percent, .. } => {
                        (rest * u64::from(100 - discount_percent)).div_ceil(100)
                    }
                };
                if left >= needed {
                    draws.push((index, needed));
                    rest = 0;
                } else {
                    draws.push((index, left));
                    rest = (rest * (needed - left)).div_ceil(needed);
                }
            }
        }
        (rest, draws)
    }
}
