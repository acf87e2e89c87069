//! What a row of probe results means: pure, the rules of a kubelet's prober
//! (pkg/kubelet/prober/worker.go, `doProbe`).
//!
//! ```text
//!              threshold of successes              threshold of failures
//!   Unknown ---------------------------> Passed <-----------------------> Failed
//!      \________________________________ threshold of failures ____________^
//! ```
//!
//! In: one result at a time. Out: the verdict so far, whether it changed, and when to ask again. A startup probe is over
//! with its first verdict; a liveness probe with its first failure: the container is killed then.

use crate::model::Probe;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How soon a container that has just started is asked again whether it is ready; doubled each time. A
/// server needs about this long to listen, and nobody waits a whole period for it: a kubelet asks at each
/// change of the Pod until it is ready (pkg/kubelet/prober/prober_manager.go, `UpdatePodStatus`).
const FIRST_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// As a kubelet's events begin.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Unknown,
    Passed,
    Failed,
}

/// The state of one probe of one running container.
#[derive(Clone, Debug)]
pub struct ProbeMachine {
    kind: ProbeKind,
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
    verdict: Verdict,
    /// The next early question comes after this; None once it has been ready, and for other kinds: their
    /// failures have consequences, and the period is how their author counted them.
    early: Option<Duration>,
}

impl ProbeMachine {
    /// `verdict`: what is known already of this container (an agent that comes back), or Unknown.
    pub fn new(kind: ProbeKind, probe: &Probe, verdict: Verdict) -> Self {
        Self {
            kind,
            success_threshold: probe.success_threshold.max(1),
            failure_threshold: probe.failure_threshold.max(1),
            last: None,
            run: 0,
            verdict,
            early: (kind == ProbeKind::Readiness && verdict != Verdict::Passed).then_some(FIRST_PAUSE),
        }
    }

    /// Takes one result; Some: the verdict has changed to this.
    pub fn observe(&mut self, passed: bool) -> Option<Verdict> {
        if self.is_over() {
            return None;
        }
        self.run = if self.last == Some(passed) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let threshold = if passed { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold {
            return None;
        }
        let verdict = if passed { Verdict::Passed } else { Verdict::Failed };
        let changed = verdict != self.verdict;
        self.verdict = verdict;
        if verdict == Verdict::Passed {
            self.early = None;
        }
        changed.then_some(verdict)
    }

    /// How long to wait before the next question. A probe that has not passed yet may be asked before its
    /// period is over: ever later, until the period is reached.
    pub fn pause(&mut self, period: Duration) -> Duration {
        match self.early {
            Some(early) if early < period => {
                self.early = Some(early.saturating_mul(2));
                early
            }
            _ => period,
        }
    }

    /// No more probing until there is a new container.
    pub fn is_over(&self) -> bool {
        match self.kind {
            ProbeKind::Startup => self.verdict != Verdict::Unknown,
            ProbeKind::Liveness => self.verdict == Verdict::Failed,
            ProbeKind::Readiness => false,
        }
    }
}

/// When to probe first: the initial delay counts from the container's start, and what has passed of it
/// (an agent that comes back) is not waited again.
pub fn first_at(probe: &Probe, started_at: Timestamp, now: Timestamp) -> Timestamp {
    let delay = SignedDuration::from_secs(i64::from(probe.initial_delay_seconds));
    started_at.saturating_add(delay).unwrap_or(Timestamp::MAX).max(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Handler;
    use proptest::prelude::*;

    fn probe(success: u32, failure: u32) -> Probe {
        Probe {
            action: Handler::Tcp { host: None, port: 80 },
            initial_delay_seconds: 5,
            period_seconds: 10,
            timeout_seconds: 1,
            success_threshold: success,
            failure_threshold: failure,
            termination_grace_seconds: None,
        }
    }

    #[test]
    fn one_success_makes_it_pass_and_three_failures_in_a_row_make_it_fail() {
        let mut machine = ProbeMachine::new(ProbeKind::Readiness, &probe(1, 3), Verdict::Unknown);
        let verdicts: Vec<_> =
            [true, false, false, true, false, false, false, true].iter().map(|r| machine.observe(*r)).collect();
        let expected =
            [Some(Verdict::Passed), None, None, None, None, None, Some(Verdict::Failed), Some(Verdict::Passed)];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn a_startup_probe_ends_with_its_first_verdict() {
        let mut machine = ProbeMachine::new(ProbeKind::Startup, &probe(1, 2), Verdict::Unknown);
        assert_eq!(machine.observe(false), None);
        assert_eq!(machine.observe(true), Some(Verdict::Passed));
        assert!(machine.is_over());
        assert_eq!(machine.observe(false), None);
    }

    #[test]
    fn a_liveness_probe_stops_at_its_failure() {
        let mut machine = ProbeMachine::new(ProbeKind::Liveness, &probe(1, 1), Verdict::Passed);
        assert_eq!(machine.observe(false), Some(Verdict::Failed));
        assert!(machine.is_over());
    }

    #[test]
    fn a_container_that_was_never_ready_is_asked_sooner_than_its_period() {
        let period = Duration::from_secs(1);
        let mut machine = ProbeMachine::new(ProbeKind::Readiness, &probe(1, 3), Verdict::Unknown);
        let mut pauses = Vec::new();
        for passed in [false, false, false, false, false, true, false] {
            machine.observe(passed);
            pauses.push(machine.pause(period).as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000]);
    }

    #[test]
    fn only_readiness_is_asked_sooner_and_only_before_it_was_there() {
        let period = Duration::from_secs(10);
        for (kind, verdict) in [
            (ProbeKind::Startup, Verdict::Unknown),
            (ProbeKind::Liveness, Verdict::Unknown),
            (ProbeKind::Readiness, Verdict::Passed),
        ] {
            let mut machine = ProbeMachine::new(kind, &probe(1, 3), verdict);
            machine.observe(false);
            assert_eq!(machine.pause(period), period, "{kind:?} {verdict:?}");
        }
    }

    #[test]
    fn the_initial_delay_counts_from_the_start_of_the_container() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(first_at(&probe(1, 1), at(100), at(101)), at(105));
        assert_eq!(first_at(&probe(1, 1), at(100), at(200)), at(200));
    }

    proptest! {
        /// The reference looks at the whole history each time: the verdict is that of the last row of
        /// equal results that was long enough.
        #[test]
        fn the_verdict_is_that_of_the_last_long_enough_row(
            results in prop::collection::vec(any::<bool>(), 0..60), success in 1u32..4, failure in 1u32..4
        ) {
            let mut machine = ProbeMachine::new(ProbeKind::Readiness, &probe(success, failure), Verdict::Unknown);
            for (index, result) in results.iter().enumerate() {
                machine.observe(*result);
                let seen = &results[..=index];
                let mut reference = Verdict::Unknown;
                for end in 1..=seen.len() {
                    let value = seen[end - 1];
                    let row = seen[..end].iter().rev().take_while(|r| **r == value).count();
                    let threshold = if value { success } else { failure };
                    if row >= threshold as usize {
                        reference = if value { Verdict::Passed } else { Verdict::Failed };
                    }
                }
                prop_assert_eq!(machine.verdict, reference);
            }
        }
    }
}
