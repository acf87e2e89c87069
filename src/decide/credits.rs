//! The CPU credits of a burstable instance, modelled of what it used. Pure.
//!
//! The rules are those of "Burstable performance instances" in Amazon EC2's guide: a credit is a minute of one vCPU. A
//! type earns its baseline, all the time; what it uses it spends. What is left is kept, at most what a day earns. With
//! nothing left, `standard` throttles to the baseline; `unlimited` borrows, at most what a day earns, which later
//! earnings pay back, and is charged for what goes beyond that.
//!
//! ```text
//!   earned --pays back--> surplus --then fills--> balance --more than a day earns--> lost
//!   used   --takes from-> balance --then-------> surplus --more than a day earns--> charged
//!                                   (standard: throttled, nothing is borrowed)
//! ```

use crate::model::CreditMode;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A vCPU's nanoseconds in a credit.
const CREDIT: f64 = 60e9;

/// What an instance's credits are reckoned by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Of all its vCPUs together.
    pub baseline_millis: u64,
    pub mode: CreditMode,
}

/// Nanoseconds of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub balance: u64,
    /// Borrowed, and not yet charged.
    pub surplus: u64,
    /// Since it began.
    pub charged: u64,
}

impl Account {
    /// After so much more time in which so much was used.
    pub fn settle(self, terms: &Terms, elapsed: SignedDuration, used: u64) -> Self {
        let (earned, most) = (terms.earn(elapsed), terms.earn(DAY));
        let Self { balance, surplus, charged } = self;
        if earned >= used {
            let left = earned - used;
            let paid = left.min(surplus);
            return Self { balance: (balance + (left - paid)).min(most), surplus: surplus - paid, charged };
        }
        let wanted = used - earned;
        let taken = wanted.min(balance);
        let borrowed = match terms.mode {
            CreditMode::Unlimited => wanted - taken,
            CreditMode::Standard => 0,
        };
        let owed = surplus + borrowed;
        let beyond = owed.saturating_sub(most);
        Self { balance: balance - taken, surplus: owed - beyond, charged: charged + beyond }
    }

    /// In credits, each by its name.
    pub fn credits(&self) -> [(&'static str, f64); 3] {
        let Self { balance, surplus, charged } = *self;
        [("balance", balance), ("surplus", surplus), ("charged", charged)].map(|(kind, nanos)| (kind, credits(nanos)))
    }
}

impl Terms {
    fn earn(&self, elapsed: SignedDuration) -> u64 {
        let nanos = u128::try_from(elapsed.as_nanos()).unwrap_or(0);
        u64::try_from(nanos * u128::from(self.baseline_millis) / 1000).unwrap_or(u64::MAX)
    }
}

/// As the cloud counts them.
fn credits(nanos: u64) -> f64 {
    nanos as f64 / CREDIT
}

/// Follows one instance by its containers' counters, each of which counts from its container's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    pub account: Account,
    at: Timestamp,
    counters: BTreeMap<String, u64>,
}

impl Meter {
    /// `began`: when the instance did, and all counters were zero.
    pub fn new(began: Timestamp) -> Self {
        Self { account: Account::default(), at: began, counters: BTreeMap::new() }
    }

    /// When it was last read.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// A counter that is behind what it was is a new container's.
    pub fn read(&mut self, terms: &Terms, at: Timestamp, counters: BTreeMap<String, u64>) {
        let used = |(name, now): (&String, &u64)| {
            let before = self.counters.get(name).copied().filter(|before| before <= now).unwrap_or(0);
            now - before
        };
        let used = counters.iter().map(used).fold(0, u64::saturating_add);
        self.account = self.account.settle(terms, at.duration_since(self.at).max(SignedDuration::ZERO), used);
        self.at = self.at.max(at);
        self.counters = counters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2 vCPUs of 5 %: 6 credits an hour, 144 a day.
    const NANO: Terms = Terms { baseline_millis: 100, mode: CreditMode::Unlimited };

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    /// The use of so many hours at this many thousandths of a vCPU.
    fn use_of(time: SignedDuration, millis: u64) -> u64 {
        Terms { baseline_millis: millis, mode: CreditMode::Standard }.earn(time)
    }

    fn shown(account: Account) -> [f64; 3] {
        account.credits().map(|(_, credits)| (credits * 10.0).round() / 10.0)
    }

    /// The first example of "Unlimited mode examples" in the guide, with its figures.
    #[test]
    fn a_t3_nano_keeps_borrows_and_pays_back_as_the_guide_tells() {
        let mut account = Account::default();
        for (time, millis, expected) in [
            (hours(24), 0, [144.0, 0.0, 0.0]),
            // 2.5 % of each vCPU: it earns more than it spends, and keeps no more than a day earns.
            (hours(12), 50, [144.0, 0.0, 0.0]),
            // 7 % spends 57.6 credits a day.
            (hours(24), 140, [86.4, 0.0, 0.0]),
            (hours(24), 140, [28.8, 0.0, 0.0]),
            (hours(24), 140, [0.0, 28.8, 0.0]),
            (hours(24), 140, [0.0, 86.4, 0.0]),
            (hours(24), 140, [0.0, 144.0, 0.0]),
            (hours(24), 140, [0.0, 144.0, 57.6]),
            // Idle, it first pays back what was not charged.
            (hours(12), 0, [0.0, 72.0, 57.6]),
            (hours(24), 0, [72.0, 0.0, 57.6]),
        ] {
            account = account.settle(&NANO, time, use_of(time, millis));
            assert_eq!(shown(account), expected);
        }
    }

    #[test]
    fn standard_credits_are_never_borrowed() {
        let standard = Terms { mode: CreditMode::Standard, ..NANO };
        let account =
            Account::default().settle(&standard, hours(1), 0).settle(&standard, hours(1), use_of(hours(1), 2000));
        assert_eq!(account, Account::default());
    }

    #[test]
    fn a_container_that_starts_anew_counts_from_its_start() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let read = |user: u64, proxy: u64| BTreeMap::from([("user".to_owned(), user), ("proxy".to_owned(), proxy)]);
        let mut meter = Meter::new(at(0));
        meter.read(&NANO, at(60), read(4_000_000_000, 1_000_000_000));
        assert_eq!(meter.account.balance, 1_000_000_000);
        // One second of the new container, and one of the other.
        meter.read(&NANO, at(120), read(1_000_000_000, 2_000_000_000));
        assert_eq!(meter.account.balance, 5_000_000_000);
        // A clock that goes back earns nothing.
        meter.read(&NANO, at(100), read(1_000_000_000, 2_000_000_000));
        assert_eq!((meter.account.balance, meter.at()), (5_000_000_000, at(120)));
    }

    proptest! {
        /// The reference keeps one signed sum and bounds it on both sides.
        #[test]
        fn an_account_is_a_bounded_sum(
            steps in proptest::collection::vec((0_i64..200_000, 0_u64..2_000), 1..50), baseline in 1_u64..1000, standard: bool
        ) {
            let mode = if standard { CreditMode::Standard } else { CreditMode::Unlimited };
            let terms = Terms { baseline_millis: baseline, mode };
            let most = i128::from(terms.earn(DAY));
            let (mut account, mut sum, mut charged) = (Account::default(), 0_i128, 0_i128);
            for (seconds, millis) in steps {
                let time = SignedDuration::from_secs(seconds);
                let used = use_of(time, millis);
                account = account.settle(&terms, time, used);
                sum = (sum + i128::from(terms.earn(time)) - i128::from(used)).min(most);
                let least = if standard { 0 } else { -most };
                if sum < least {
                    charged += if standard { 0 } else { least - sum };
                    sum = least;
                }
                prop_assert_eq!(i128::from(account.balance) - i128::from(account.surplus), sum);
                prop_assert!(account.balance == 0 || account.surplus == 0);
                prop_assert_eq!(i128::from(account.charged), charged);
            }
        }
    }
}
