//! The merge against a reference that goes pool by pool, and what it never does.

use super::*;
use crate::decide::purchase::policy::{
    Allocation, Class, CreditMode, Credits, Ice, Instances, Interruption, Match, Overrides, Placement, Sizing, Step,
    Ttl,
};
use crate::model::Purchase;
use jiff::SignedDuration;
use proptest::prelude::*;

const NAMES: [&str; 5] = ["c6i.large", "c6i.xlarge", "m6i.large", "m7g.large", "t3.micro"];
const ZONES: [&str; 3] = ["a", "b", "c"];

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn class(allow: &[&str], burstable: bool) -> Class {
    let step = Step {
        option: Purchase::OnDemand,
        allocation: Allocation::LowestPrice,
        min_pools: 0,
        max_percent_of_on_demand: None,
        after_ice: false,
    };
    let list: Vec<TypeSelector> = allow.iter().map(|name| TypeSelector::Name(name.parse().unwrap())).collect();
    Class {
        name: "web".to_owned(),
        weight: 1,
        matches: Match::default(),
        purchase: vec![step],
        instances: Instances {
            allow: if list.is_empty() { vec![] } else { vec![list] },
            burstable,
            max_candidates: 60,
            ..Instances::default()
        },
        sizing: Sizing::Requests { cpu_millis: 1, memory_bytes: 1 },
        credits: Credits { mode: CreditMode::Unlimited, max_surplus: None },
        mix: None,
        placement: Placement::default(),
        max_hourly: None,
        use_commitments: true,
    }
}

fn policy(allow: &[&str], burstable: bool) -> Policy {
    Policy {
        classes: vec![class(allow, burstable)],
        limits: Vec::new(),
        standby: Vec::new(),
        commitments: Vec::new(),
        reservations: Vec::new(),
        ice: Ice { quarantine: SignedDuration::from_mins(3), max_attempts: 4 },
        ttl: Ttl { launch: SignedDuration::from_mins(5), register: SignedDuration::from_mins(5), max_lifetime: None },
        interruption: Interruption::default(),
        overrides: Overrides::default(),
        reserve: crate::decide::reserve::Policy::default(),
    }
}

fn arm(name: &str) -> bool {
    name.starts_with("m7g.")
}

fn spec(name: &str, price: u64) -> TypeSpec {
    let burst = Burst { baseline_millis: 200, surplus: HourlyPrice(50_000) };
    TypeSpec {
        name: name.to_owned(),
        architecture: if arm(name) { Architecture::Arm64 } else { Architecture::Amd64 },
        cpu_millis: 2000,
        memory_bytes: 4 << 30,
        on_demand: HourlyPrice(price),
        burst: name.starts_with('t').then_some(burst),
    }
}

fn files(names: &[&str], allow: &[&str], burstable: bool, own: &[&str]) -> Buying {
    let market = Market {
        catalog: Catalog {
            region: "r".to_owned(),
            zones: ZONES.map(str::to_owned).to_vec(),
            types: names.iter().map(|name| spec(name, 100)).collect(),
        },
        spot: [(("c6i.large".to_owned(), "a".to_owned()), HourlyPrice(30))].into(),
        own_prices: own.iter().map(|name| (*name).to_owned()).collect(),
        ..Market::default()
    };
    Buying { policy: policy(allow, burstable), market }
}

fn sold(name: &str, vcpus: i64, mib: i64) -> SoldType {
    SoldType {
        name: name.to_owned(),
        architectures: vec![if arm(name) { "arm64" } else { "x86_64" }.to_owned()],
        vcpus: Some(vcpus),
        memory_mib: Some(mib),
        burstable: name.starts_with('t'),
    }
}

fn spot(name: &str, zone: &str, price: &str, minutes_ago: i64) -> SpotPrice {
    SpotPrice {
        instance_type: name.to_owned(),
        zone: zone.to_owned(),
        product: "Linux/UNIX".to_owned(),
        price: price.to_owned(),
        since: now() - SignedDuration::from_mins(minutes_ago),
    }
}

fn listed(name: &str, price: &str) -> ListPrice {
    ListPrice { instance_type: name.to_owned(), price: price.to_owned() }
}

/// Of each sort one.
fn commitments() -> Vec<Commitment> {
    vec![
        Commitment::Zonal { instance_type: "m6i.large".to_owned(), zone: "b".to_owned(), count: 1 },
        Commitment::Regional { family: "c6i".to_owned(), units: 400 },
        Commitment::SavingsPlan { family: None, hourly: HourlyPrice(100), discount_percent: 20 },
    ]
}

fn amd64() -> BTreeSet<Architecture> {
    BTreeSet::from([Architecture::Amd64])
}

prop_compose! {
    fn answers()(
        types in prop::collection::vec((0..5usize, 0i64..5, -1i64..9000), 0..8),
        zones in prop::collection::vec((0..5usize, 0..3usize), 0..12),
        prices in prop::collection::vec((0..5usize, 0u64..500), 0..8),
        spots in prop::collection::vec((0..5usize, 0..4usize, 0u64..500, -20i64..20), 0..20),
        usage in prop::collection::vec((0..5usize, 0..4usize, any::<bool>(), 0u32..4), 0..8),
    ) -> Vec<Told> {
        let dollars = |micros: u64| HourlyPrice(micros).to_string();
        vec![
            Told::Types(types.into_iter().map(|(n, vcpus, mib)| sold(NAMES[n], vcpus, mib)).collect()),
            Told::Zones(zones.into_iter().map(|(n, z)| SoldIn { instance_type: NAMES[n].into(), zone: ZONES[z].into() }).collect()),
            Told::OnDemand(prices.into_iter().map(|(n, p)| listed(NAMES[n], &dollars(p))).collect()),
            Told::Spot(spots.into_iter().map(|(n, z, p, ago)| {
                spot(NAMES[n], ["a", "b", "c", "elsewhere"][z], &dollars(p), ago)
            }).collect()),
            Told::Usage(usage.into_iter().map(|(n, z, reservable, instances)| Usage {
                instance_type: NAMES[n].into(), zone: ["a", "b", "c", "elsewhere"][z].into(), reservable, instances,
            }).collect()),
        ]
    }
}

/// What the page's table says of a pool's spot price.
fn oracle_spot(files: &Buying, told: &[SpotPrice], name: &str, zone: &str) -> Option<HourlyPrice> {
    let fine = |one: &&SpotPrice| {
        one.since <= now() + SignedDuration::from_mins(5) && one.price.parse::<HourlyPrice>().unwrap().0 > 0
    };
    if told.iter().filter(fine).count() == 0 {
        return files.market.spot.get(&(name.to_owned(), zone.to_owned())).copied();
    }
    let mine = told.iter().filter(fine).filter(|one| one.instance_type == name && one.zone == zone);
    mine.map(|one| (one.since, one.price.parse::<HourlyPrice>().unwrap())).max().map(|(_, price)| price)
}

proptest! {
    #[test]
    fn each_figure_is_from_whom_the_table_says_and_the_order_of_answers_and_entries_does_not_matter(
        answers in answers(),
        have in prop::sample::subsequence(NAMES.to_vec(), 1..=5),
        own in prop::sample::subsequence(NAMES.to_vec(), 0..=2),
        allow in prop::sample::subsequence(vec!["c6i.*", "m*", "t3.micro", "c6i.large"], 0..=3),
        burstable: bool,
        committed in prop::sample::subsequence(commitments(), 0..=3),
    ) {
        let mut files = files(&have, &allow, burstable, &own);
        files.policy.commitments = committed;
        let mut known = Known::default();
        for told in &answers {
            known.learn(told, now());
        }
        let Merged { market, added, odd } = merged(&files, &known, &amd64(), "ec2");

        let mut other = Known::default();
        for told in answers.iter().rev() {
            let told = match told.clone() {
                Told::Types(mut all) => { all.reverse(); Told::Types(all) }
                Told::Zones(mut all) => { all.reverse(); Told::Zones(all) }
                Told::OnDemand(mut all) => { all.reverse(); Told::OnDemand(all) }
                Told::Spot(mut all) => { all.reverse(); Told::Spot(all) }
                Told::Usage(mut all) => { all.reverse(); Told::Usage(all) }
            };
            other.learn(&told, now());
        }
        prop_assert_eq!(&merged(&files, &other, &amd64(), "ec2").market, &market);

        let [Told::Types(types), Told::Zones(zones), Told::OnDemand(prices), Told::Spot(spots), Told::Usage(usage)] =
            &answers[..]
        else {
            unreachable!()
        };
        let list_price = |name: &str| {
            let mine = prices.iter().filter(|p| p.instance_type == name).map(|p| p.price.parse::<HourlyPrice>().unwrap());
            mine.filter(|price| price.0 > 0).max()
        };
        let size = |name: &str| {
            let fine = types.iter().filter(|t| t.name == name && t.vcpus.unwrap() > 0 && t.memory_mib.unwrap() > 0);
            fine.map(|t| (t.memory_mib.unwrap(), t.vcpus.unwrap())).min()
        };
        for name in NAMES {
            let found = market.catalog.types.iter().find(|spec| spec.name == name);
            let names_it = allow.iter().any(|glob| match *glob {
                "c6i.*" => name.starts_with("c6i."),
                "m*" => name.starts_with('m'),
                exact => exact == name,
            });
            let could = names_it && !arm(name) && !name.starts_with('t') && size(name).is_some();
            let expected = have.contains(&name) || could && list_price(name).is_some();
            prop_assert_eq!(found.is_some(), expected, "{}", name);
            prop_assert_eq!(added.iter().any(|n| n == name), expected && !have.contains(&name));
            let Some(spec) = found else { continue };
            let price = list_price(name).filter(|_| !own.contains(&name) || !have.contains(&name));
            prop_assert_eq!(spec.on_demand, price.unwrap_or(HourlyPrice(100)));
            let (mib, vcpus) = size(name).unwrap_or((4 << 10, 2));
            prop_assert_eq!((spec.memory_bytes, spec.cpu_millis), ((mib as u64) << 20, vcpus as u64 * 1000));
            if let Some(burst) = spec.burst {
                prop_assert_eq!(burst.baseline_millis, 100 * vcpus as u64, "its share of a vCPU stays");
            }
            for zone in ZONES {
                let pool = (name.to_owned(), zone.to_owned());
                prop_assert_eq!(market.spot.get(&pool).copied(), oracle_spot(&files, spots, name, zone), "{:?}", pool);
                let zone_told = zones.iter().any(|z| z.zone == zone);
                let there = zones.iter().any(|z| z.zone == zone && z.instance_type == name);
                prop_assert_eq!(market.not_offered.contains(&pool), zone_told && !there);
            }
        }
        let mut others = Vec::new();
        for (name, zone) in NAMES.iter().flat_map(|name| ["a", "b", "c", "elsewhere"].map(|zone| (*name, zone))) {
            for reservable in [false, true] {
                let of = |u: &&Usage| u.instance_type == name && u.zone == zone && u.reservable == reservable;
                let mine: Vec<&Usage> = usage.iter().filter(of).collect();
                let pays = |commitment: &Commitment| match commitment {
                    Commitment::Zonal { .. } => reservable && name == "m6i.large" && zone == "b",
                    Commitment::Regional { .. } => reservable && name.starts_with("c6i."),
                    Commitment::SavingsPlan { .. } => true,
                };
                if !mine.is_empty() && files.policy.commitments.iter().any(pays) {
                    let sold = market.catalog.types.iter().find(|spec| spec.name == name).map(|spec| spec.on_demand);
                    others.push(Others {
                        instance_type: name.to_owned(),
                        zone: zone.to_owned(),
                        reservable,
                        count: mine.iter().map(|u| u.instances).sum(),
                        on_demand: sold.or(list_price(name)),
                    });
                }
            }
        }
        prop_assert_eq!(&market.others, &others);
        prop_assert!(market.spot.keys().all(|(_, zone)| ZONES.contains(&zone.as_str())));
        prop_assert!(odd.iter().all(|o| matches!(o.why, OddWhy::NoPrice | OddWhy::Baseline)));
        // What is no fact of the market stays the files'.
        prop_assert_eq!(&market.catalog.zones, &files.market.catalog.zones);
        prop_assert_eq!(&market.own_prices, &files.market.own_prices);
    }

    #[test]
    fn nothing_that_is_told_panics_and_what_is_not_understood_changes_nothing(
        name in ".{0,12}", text in "[-0-9.eE]{0,14}", vcpus in any::<i64>(), mib in any::<i64>(), seconds in -9_000_000_000i64..250_000_000_000,
    ) {
        let mut known = Known::default();
        let good = Told::Spot(vec![spot("c6i.large", "b", "0.03", 1)]);
        known.learn(&good, now());
        let before = known.clone();
        let since = Timestamp::from_second(seconds).unwrap();
        let answers = [
            Told::Types(vec![SoldType { name: name.clone(), architectures: vec!["x86_64".into()], vcpus: Some(vcpus), memory_mib: Some(mib), burstable: false }]),
            Told::Zones(vec![SoldIn { instance_type: name.clone(), zone: text.clone() }]),
            Told::OnDemand(vec![listed(&name, &text), listed("c6i.large", &text)]),
            Told::Spot(vec![SpotPrice { since, ..spot(&name, "a", &text, 0) }]),
            Told::Usage(vec![Usage { instance_type: name.clone(), zone: text.clone(), reservable: true, instances: 1 }]),
        ];
        for told in &answers {
            let mut after = before.clone();
            let learned = after.learn(told, now());
            prop_assert_eq!(learned.taken, learned.entries > 0);
            if !learned.taken {
                prop_assert_eq!(&after, &before);
                prop_assert!(!learned.odd.is_empty());
            }
            merged(&files(&["c6i.large"], &["*"], true, &[]), &after, &amd64(), "ec2");
        }
    }
}

fn whys(learned: &Learned) -> Vec<(&str, OddWhy)> {
    learned.odd.iter().map(|odd| (odd.subject.as_str(), odd.why)).collect()
}

#[test]
fn an_odd_entry_is_dropped_with_its_reason_and_the_others_are_taken() {
    let mut known = Known::default();
    let mac = SoldType { architectures: vec!["arm64_mac".to_owned()], ..sold("mac2.metal", 8, 16384) };
    let learned = known.learn(
        &Told::Types(vec![sold("c6i.large", 2, 4096), sold("c6i", 2, 4096), sold("m6i.large", 0, 4096), mac]),
        now(),
    );
    assert_eq!(learned.entries, 1);
    assert_eq!(
        whys(&learned),
        [("c6i", OddWhy::Name), ("m6i.large", OddWhy::Size), ("mac2.metal", OddWhy::Architecture)]
    );
    let windows = SpotPrice { product: "Windows".to_owned(), ..spot("c6i.large", "a", "0.09", 0) };
    let learned = known.learn(
        &Told::Spot(vec![
            spot("c6i.large", "b", "0.03", 5),
            windows,
            spot("c6i.large", "a", "free", 5),
            spot("c6i.large", "c", "0.02", -10),
        ]),
        now(),
    );
    assert_eq!(learned.entries, 1);
    assert_eq!(
        whys(&learned),
        [("c6i.large in a", OddWhy::Product), ("c6i.large in a", OddWhy::Price), ("c6i.large in c", OddWhy::Future)]
    );
}

#[test]
fn a_type_that_a_class_names_joins_with_its_price_and_a_burstable_one_does_not_for_nobody_tells_its_baseline() {
    let files = files(&["c6i.large"], &["c6i.*", "t3.*"], true, &[]);
    let mut known = Known::default();
    known.learn(
        &Told::Types(vec![sold("c6i.xlarge", 4, 8192), sold("t3.micro", 2, 1024), sold("m6i.large", 2, 8192)]),
        now(),
    );
    let before = merged(&files, &known, &amd64(), "ec2");
    assert_eq!(before.added, Vec::<String>::new());
    let odd = |merged: &Merged| merged.odd.iter().map(|o| (o.subject.clone(), o.why)).collect::<Vec<_>>();
    let baseline = ("t3.micro".to_owned(), OddWhy::Baseline);
    assert_eq!(odd(&before), [("c6i.xlarge".to_owned(), OddWhy::NoPrice), baseline.clone()]);
    known.learn(&Told::OnDemand(vec![listed("c6i.xlarge", "0.1700000000"), listed("m6i.large", "0.096")]), now());
    let after = merged(&files, &known, &amd64(), "ec2");
    assert_eq!((after.added.clone(), odd(&after)), (vec!["c6i.xlarge".to_owned()], vec![baseline]));
    let spec = after.market.catalog.types.iter().find(|spec| spec.name == "c6i.xlarge").unwrap();
    assert_eq!((spec.cpu_millis, spec.memory_bytes, spec.on_demand), (4000, 8 << 30, HourlyPrice(170_000)));
    assert_eq!(after.market.origins.on_demand.to_string(), "2026-09-21T14:13Z, from ec2");
}

#[test]
fn an_account_in_which_nothing_runs_any_more_frees_its_commitments() {
    let mut files = files(&["c6i.large"], &[], false, &[]);
    files.policy.commitments = commitments();
    let mut known = Known::default();
    let one = Usage { instance_type: "c6i.large".to_owned(), zone: "a".to_owned(), reservable: true, instances: 2 };
    assert!(known.learn(&Told::Usage(vec![one]), now()).taken);
    assert_eq!(merged(&files, &known, &amd64(), "ec2").market.others.len(), 1);
    assert!(known.learn(&Told::Usage(Vec::new()), now()).taken);
    assert_eq!(merged(&files, &known, &amd64(), "ec2").market.others, []);
}

#[test]
fn usage_is_asked_for_by_what_commitments_pay_for() {
    let mut policy = policy(&[], false);
    assert_eq!(committed(&policy), BTreeSet::new());
    policy.commitments = commitments();
    assert_eq!(Vec::from_iter(committed(&policy)), ["*", "c6i.*", "m6i.large"]);
}

#[test]
fn types_are_asked_for_by_the_catalogs_names_and_the_classes_patterns() {
    let files = files(&["c6i.large", "t3.micro"], &["c6i.*", "m6i.large"], true, &[]);
    assert_eq!(wanted(&files).into_iter().collect::<Vec<_>>(), ["c6i.*", "c6i.large", "m6i.large", "t3.micro"]);
}
