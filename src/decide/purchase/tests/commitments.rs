//! What Reserved Instances and Savings Plans cover, by the rules of AWS' user guides ("How Reserved Instances are
//! applied", "How Savings Plans apply to your AWS usage").

use super::*;

/// A family whose price goes with its size, as families' prices do.
fn sized(name: &str, price: u64) -> TypeSpec {
    TypeSpec {
        name: name.into(),
        architecture: Architecture::Amd64,
        cpu_millis: 1000,
        memory_bytes: 1000,
        on_demand: HourlyPrice(price),
        burst: None,
    }
}

fn catalog() -> Catalog {
    let types = vec![
        sized("m6i.medium", 50_000),
        sized("m6i.large", 100_000),
        sized("m6i.xlarge", 200_000),
        sized("m6i.2xlarge", 400_000),
        sized("c6i.large", 80_000),
    ];
    Catalog { region: "r".into(), zones: vec!["a".into(), "b".into()], types }
}

/// What these cost in this order of launch, each a type and a zone.
fn billed(commitments: &[Commitment], machines: &[(&str, &str)]) -> Vec<u64> {
    billed_beside(commitments, &[], machines)
}

/// The same, where these run in the account beside them.
fn billed_beside(commitments: &[Commitment], others: &[Others], machines: &[(&str, &str)]) -> Vec<u64> {
    let policy =
        Policy { commitments: commitments.to_vec(), ..policy(vec![class("own", 1, vec![step(Purchase::OnDemand)])]) };
    let offers: Vec<Offer> = machines
        .iter()
        .map(|(name, _)| Offer { instance_type: (*name).into(), purchase: Purchase::OnDemand, price: HourlyPrice(7) })
        .collect();
    let running: Vec<Running> = (0i64..)
        .zip(machines.iter().zip(&offers))
        .map(|(second, ((_, zone), offer))| Running {
            offer,
            zone,
            class: "own",
            demand: None,
            launched_at: now() + SignedDuration::from_secs(second),
        })
        .collect();
    let market = Market { catalog: catalog(), others: others.to_vec(), ..Market::default() };
    bill(&policy, &market, &running).into_iter().map(|price| price.0).collect()
}

fn regional(units: u64) -> Commitment {
    Commitment::Regional { family: "m6i".into(), units }
}

#[test]
fn a_regional_reserved_instance_covers_its_family_by_normalized_units_in_any_zone() {
    // Two of m6i.large are 8 units: an xlarge, or four of medium, or half of a 2xlarge.
    let two = [regional(800)];
    assert_eq!(billed(&two, &[("m6i.xlarge", "a")]), [0]);
    assert_eq!(billed(&two, &[("m6i.medium", "a"); 5]), [0, 0, 0, 0, 50_000]);
    assert_eq!(billed(&two, &[("m6i.2xlarge", "b")]), [200_000]);
    assert_eq!(billed(&two, &[("m6i.large", "a"), ("m6i.xlarge", "b")]), [0, 100_000]);
    assert_eq!(billed(&two, &[("c6i.large", "a")]), [80_000], "another family");
}

#[test]
fn a_zonal_reserved_instance_covers_whole_machines_of_its_type_and_zone_alone() {
    let one = [Commitment::Zonal { instance_type: "m6i.large".into(), zone: "a".into(), count: 1 }];
    let machines = [("m6i.large", "b"), ("m6i.xlarge", "a"), ("m6i.large", "a"), ("m6i.large", "a")];
    assert_eq!(billed(&one, &machines), [100_000, 200_000, 0, 100_000]);
}

#[test]
fn savings_plans_pay_at_their_discount_until_the_hourly_commitment_is_used_up() {
    // At 30 % off an m6i.large takes 0.07 of the commitment, a c6i.large 0.056.
    let plan = |family: Option<&str>, hourly| Commitment::SavingsPlan {
        family: family.map(str::to_owned),
        hourly: HourlyPrice(hourly),
        discount_percent: 30,
    };
    let machines = [("m6i.large", "a"), ("c6i.large", "b")];
    assert_eq!(billed(&[plan(None, 126_000)], &machines), [0, 0]);
    assert_eq!(billed(&[plan(None, 98_000)], &machines), [0, 40_000], "half of the second");
    assert_eq!(billed(&[plan(Some("c6i"), 98_000)], &machines), [100_000, 0]);
}

#[test]
fn what_one_leaves_uncovered_is_the_next_ones_in_the_clouds_order_whatever_the_files() {
    let plan = |family: Option<&str>| Commitment::SavingsPlan {
        family: family.map(str::to_owned),
        hourly: HourlyPrice(70_000),
        discount_percent: 30,
    };
    let zonal = Commitment::Zonal { instance_type: "m6i.large".into(), zone: "a".into(), count: 1 };
    // 0.7 dollars of list price: 0.1 zonal, 0.1 of the 2xlarge regional, 0.1 and 0.1 by the plans, 0.1 and 0.2 left.
    let machines = [("m6i.large", "a"), ("m6i.2xlarge", "a"), ("c6i.large", "a"), ("m6i.xlarge", "b")];
    let mut commitments = vec![plan(None), plan(Some("m6i")), regional(400), zonal];
    let one = billed(&commitments, &machines);
    assert_eq!(one, [0, 100_000, 80_000, 200_000]);
    commitments.reverse();
    assert_eq!(billed(&commitments, &machines), one);
}

#[test]
fn the_next_instance_is_priced_by_all_commitments_that_have_something_left_for_it() {
    let compute = Commitment::SavingsPlan { family: None, hourly: HourlyPrice(70_000), discount_percent: 30 };
    let commitments = vec![compute, regional(400)];
    let policy = Policy { commitments, ..policy(vec![]) };
    let xlarge = sized("m6i.xlarge", 200_000);
    let matching = super::super::ledger::matching(&policy.commitments, xlarge.sku(), "a");
    let (price, draws) =
        Ledger::new(&policy, &Market::default()).after_commitments(&policy.commitments, &matching, xlarge.sku());
    // Half of it is the Reserved Instance's; the other half costs 0.1, 0.07 of the plan's.
    let by = |commitment, amount| Draw { commitment, amount };
    assert_eq!((price, draws), (HourlyPrice(0), vec![by(1, 400), by(0, 70_000)]));
}

#[test]
fn when_what_was_covered_ends_the_commitment_covers_another() {
    let one = [regional(400)];
    assert_eq!(billed(&one, &[("m6i.large", "a"), ("m6i.large", "b")]), [0, 100_000]);
    assert_eq!(billed(&one, &[("m6i.large", "b")]), [0]);
}

fn others(name: &str, zone: &str, count: u32, price: Option<u64>) -> Others {
    Others { instance_type: name.into(), zone: zone.into(), reservable: true, count, on_demand: price.map(HourlyPrice) }
}

#[test]
fn what_else_the_account_runs_is_covered_first() {
    let two = [regional(800)];
    let large = |count| others("m6i.large", "b", count, Some(100_000));
    let machines = [("m6i.large", "a"), ("m6i.large", "a")];
    assert_eq!(billed_beside(&two, &[large(0)], &machines), [0, 0]);
    assert_eq!(billed_beside(&two, &[large(1)], &machines), [0, 100_000]);
    assert_eq!(billed_beside(&two, &[large(9)], &machines), [100_000, 100_000]);
    assert_eq!(billed_beside(&two, &[others("c6i.large", "a", 9, Some(80_000))], &machines), [0, 0]);
}

#[test]
fn what_is_not_reservable_is_paid_for_by_savings_plans_alone() {
    let plan = Commitment::SavingsPlan { family: None, hourly: HourlyPrice(70_000), discount_percent: 30 };
    let windows = [Others { reservable: false, ..others("m6i.large", "a", 1, Some(100_000)) }];
    let zonal = Commitment::Zonal { instance_type: "m6i.large".into(), zone: "a".into(), count: 1 };
    for reserved in [zonal, regional(400)] {
        assert_eq!(billed_beside(&[reserved], &windows, &[("m6i.large", "a")]), [0]);
    }
    assert_eq!(billed_beside(&[plan], &windows, &[("m6i.large", "a")]), [100_000]);
}

#[test]
fn a_type_of_no_known_price_takes_its_units_of_reserved_instances_and_next_to_nothing_of_a_plan() {
    let plan = Commitment::SavingsPlan { family: None, hourly: HourlyPrice(70_001), discount_percent: 30 };
    let unknown = [others("m6i.24xlarge", "a", 1, None)];
    assert_eq!(billed_beside(&[regional(800)], &unknown, &[("m6i.large", "a")]), [100_000]);
    assert_eq!(billed_beside(&[plan], &unknown, &[("m6i.large", "a")]), [0]);
}

#[test]
fn spot_and_reserved_capacity_cost_what_they_were_bought_for() {
    let policy = Policy { commitments: vec![regional(800)], ..policy(vec![]) };
    for purchase in [Purchase::Spot, Purchase::CapacityReservation] {
        let offer = Offer { instance_type: "m6i.large".into(), purchase, price: HourlyPrice(7) };
        let running = Running { offer: &offer, zone: "a", class: "", demand: None, launched_at: now() };
        let market = Market { catalog: catalog(), ..Market::default() };
        assert_eq!(bill(&policy, &market, &[running]), [HourlyPrice(7)]);
    }
}

proptest! {
    #[test]
    fn a_bill_is_never_above_the_list_and_what_it_saves_never_above_what_was_committed(
        commitments in prop::collection::vec((0usize..5, 0usize..4, 0u32..5), 0..5),
        machines in prop::collection::vec((0usize..5, 0usize..2), 0..20),
    ) {
        let names: Vec<String> = catalog().types.into_iter().map(|t| t.name).collect();
        let list: Vec<u64> = catalog().types.iter().map(|t| t.on_demand.0).collect();
        let family = |name: usize| names[name].split('.').next().unwrap().to_owned();
        let commitments: Vec<Commitment> = commitments.into_iter().map(|(name, kind, count)| match kind {
            0 => Commitment::Zonal { instance_type: names[name].clone(), zone: "a".into(), count },
            1 => Commitment::Regional { family: family(name), units: u64::from(count) * 400 },
            2 => Commitment::SavingsPlan { family: Some(family(name)), hourly: HourlyPrice(u64::from(count) * 50_000), discount_percent: 30 },
            _ => Commitment::SavingsPlan { family: None, hourly: HourlyPrice(u64::from(count) * 50_000), discount_percent: 20 },
        }).collect();
        let named: Vec<(&str, &str)> = machines.iter().map(|(t, z)| (names[*t].as_str(), ["a", "b"][*z])).collect();
        let bills = billed(&commitments, &named);
        // What runs beside the cluster costs it as much as if it were the cluster's oldest.
        let (old, young) = named.split_at(named.len() / 3);
        let price = |name: &str| catalog().types.into_iter().find(|t| t.name == name).map(|t| t.on_demand.0);
        let beside: Vec<Others> = old.iter().map(|(name, zone)| others(name, zone, 1, price(name))).collect();
        prop_assert_eq!(&billed_beside(&commitments, &beside, young)[..], &bills[old.len()..]);
        let mut saved = 0;
        for (bill, (t, _)) in bills.iter().zip(&machines) {
            prop_assert!(*bill <= list[*t]);
            saved += list[*t] - bill;
        }
        // A unit of m6i is worth 0.025, one of c6i 0.02; a plan's dollar is worth 1 / (1 - discount).
        let worth: u64 = commitments.iter().map(|commitment| match commitment {
            Commitment::Zonal { instance_type, count, .. } => {
                list[names.iter().position(|n| n == instance_type).unwrap()] * u64::from(*count)
            }
            Commitment::Regional { units, .. } => units * 250,
            Commitment::SavingsPlan { hourly, discount_percent, .. } => (hourly.0 * 100).div_ceil(u64::from(100 - discount_percent)),
        }).sum();
        prop_assert!(saved <= worth + machines.len() as u64, "{saved} saved of {worth}");
    }
}
