//! The token buckets that EC2 throttles an account's calls by.
//!
//! Every call takes a token of its action's request bucket; launches and terminations take one a
//! machine of a resource bucket besides. A bucket that lacks what is asked refuses with
//! RequestLimitExceeded; what the other bucket gave is not given back. Buckets fill steadily up to
//! their size. Source: AWS, "Throttling for the Amazon EC2 API", the tables of bucket sizes and refill
//! rates.

use super::params::Params;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Tokens, and tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub size: f64,
    pub refill: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    RunInstances,
    StartInstances,
    TerminateInstances,
    CreateTags,
    Mutating,
    DescribePaged,
    DescribeUnpaged,
    /// Machines, not calls: RunInstances' and, as they draw on the same, CreateFleet's.
    LaunchedMachines,
    TerminatedMachines,
}

impl Bucket {
    pub fn limit(self) -> Limit {
        let (size, refill) = match self {
            Self::RunInstances | Self::StartInstances => (5., 2.),
            Self::TerminateInstances => (100., 5.),
            Self::CreateTags => (100., 10.),
            Self::Mutating => (50., 5.),
            Self::DescribePaged => (100., 20.),
            Self::DescribeUnpaged => (50., 10.),
            Self::LaunchedMachines => (1000., 2.),
            Self::TerminatedMachines => (1000., 20.),
        };
        Limit { size, refill }
    }
}

/// Which bucket a call is counted in.
pub fn request_bucket(params: &Params) -> Bucket {
    match params.action() {
        "RunInstances" => Bucket::RunInstances,
        "StartInstances" => Bucket::StartInstances,
        "TerminateInstances" => Bucket::TerminateInstances,
        "CreateTags" => Bucket::CreateTags,
        action if action.starts_with("Describe") || action.starts_with("Get") => {
            let narrowed = params.has("Filter") || params.get("MaxResults").is_some();
            if narrowed { Bucket::DescribePaged } else { Bucket::DescribeUnpaged }
        }
        _ => Bucket::Mutating,
    }
}

#[derive(Clone, Debug, Default)]
pub struct Buckets(BTreeMap<Bucket, (f64, Timestamp)>);

impl Buckets {
    pub fn level(&self, bucket: Bucket, now: Timestamp) -> f64 {
        let Limit { size, refill } = bucket.limit();
        match self.0.get(&bucket) {
            None => size,
            Some(&(level, at)) => (level + now.duration_since(at).as_secs_f64().max(0.) * refill).min(size),
        }
    }

    /// Whether the bucket had these tokens; they are taken then.
    pub fn take(&mut self, bucket: Bucket, tokens: u32, now: Timestamp) -> bool {
        let level = self.level(bucket, now);
        let given = level >= f64::from(tokens);
        self.0.insert(bucket, (if given { level - f64::from(tokens) } else { level }, now));
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(millis)
    }

    #[test]
    fn thirty_seconds_allow_sixty_five_run_instances_and_no_more() {
        let mut buckets = Buckets::default();
        let granted = (0..=30_000).filter(|&ms| buckets.take(Bucket::RunInstances, 1, at(ms))).count();
        assert_eq!(granted, 65);
    }

    #[test]
    fn a_call_is_counted_by_its_action_and_a_describe_by_whether_it_is_narrowed() {
        let of = |action: &str, more: &[(&str, &str)]| {
            let mut params = Params::of(more);
            params.set("Action", action);
            request_bucket(&params)
        };
        assert_eq!(of("RunInstances", &[]), Bucket::RunInstances);
        assert_eq!(of("CreateFleet", &[]), Bucket::Mutating);
        assert_eq!(of("DescribeInstances", &[]), Bucket::DescribeUnpaged);
        assert_eq!(of("DescribeInstances", &[("Filter.1.Name", "x")]), Bucket::DescribePaged);
        assert_eq!(of("DescribeSubnets", &[("MaxResults", "5")]), Bucket::DescribePaged);
    }

    proptest! {
        #[test]
        fn no_more_is_ever_granted_than_the_size_and_what_flowed_in(
            steps in prop::collection::vec((0i64..3000, 1u32..80), 1..60),
        ) {
            let mut buckets = Buckets::default();
            let (mut now, mut granted) = (0, 0u32);
            for (pause, tokens) in steps {
                now += pause;
                let could = buckets.level(Bucket::Mutating, at(now)) >= f64::from(tokens);
                let given = buckets.take(Bucket::Mutating, tokens, at(now));
                prop_assert_eq!(given, could);
                granted += if given { tokens } else { 0 };
                let Limit { size, refill } = Bucket::Mutating.limit();
                prop_assert!(f64::from(granted) <= size + refill * now as f64 / 1000. + 1e-6);
            }
        }
    }
}
