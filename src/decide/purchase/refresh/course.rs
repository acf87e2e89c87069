//! When a question is asked next, and whether its failure is worth a word. Pure.
//!
//! ```text
//!          told ┌───────┐
//!               v       │ every `every`
//!   start ──> fine ─────┘
//!               │ refused: said once                │ no answer: said once
//!               v                                   v
//!            denied ── again after `every`       failing ── again after FIRST, twice that, … at most `every`
//!               └──────────────── told: said once ──┴──────────────> fine
//! ```
//!
//! `jitter` moves each wait by up to a tenth, so that many providers that started together don't ask together.

use jiff::{SignedDuration, Timestamp};

/// After an answer that did not come.
const FIRST: SignedDuration = SignedDuration::from_secs(30);
/// What `jitter` is a share of.
pub const WHOLE: u32 = 1000;

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Told,
    /// The account may not ask. Asking more often would not help.
    Denied,
    /// No answer, or one in which nothing was understood.
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fine,
    Denied,
    Failing { times: u32 },
}

/// What is to be said of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    None,
    /// It does not work, since now.
    Lost,
    /// It works again.
    Back,
}

/// Of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    pub due: Timestamp,
    state: State,
}

impl Course {
    /// Due at once.
    pub fn begin(now: Timestamp) -> Self {
        Self { due: now, state: State::Fine }
    }

    pub fn is_due(&self, now: Timestamp) -> bool {
        self.due <= now
    }

    /// It is wanted now.
    pub fn at_once(self, now: Timestamp) -> Self {
        Self { due: self.due.min(now), ..self }
    }

    /// What follows an outcome. `jitter`: from 0 to [`WHOLE`].
    pub fn after(self, outcome: Outcome, every: SignedDuration, now: Timestamp, jitter: u32) -> (Self, Word) {
        let (state, wait) = match (outcome, self.state) {
            (Outcome::Told, _) => (State::Fine, every),
            (Outcome::Denied, _) => (State::Denied, every),
            (Outcome::Failed, State::Failing { times }) => {
                let wait = FIRST.saturating_mul(1 << times.min(16));
                (State::Failing { times: times.saturating_add(1) }, wait.min(every))
            }
            (Outcome::Failed, State::Fine | State::Denied) => (State::Failing { times: 1 }, FIRST.min(every)),
        };
        let word = match (self.state, state) {
            (State::Fine, State::Fine) => Word::None,
            (State::Fine, _) => Word::Lost,
            (_, State::Fine) => Word::Back,
            (State::Denied, State::Denied) | (State::Failing { .. }, State::Failing { .. }) => Word::None,
            // Another fault than the one that was said.
            (State::Denied, State::Failing { .. }) | (State::Failing { .. }, State::Denied) => Word::Lost,
        };
        (Self { due: now.saturating_add(moved(wait, jitter)).unwrap_or(Timestamp::MAX), state }, word)
    }
}

/// By -10 % to +10 %.
fn moved(wait: SignedDuration, jitter: u32) -> SignedDuration {
    let tenth = wait.as_millis() / 10;
    let shift = tenth * 2 * i128::from(jitter.min(WHOLE)) / i128::from(WHOLE) - tenth;
    let millis = wait.as_millis() + shift;
    SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![Just(Outcome::Told), Just(Outcome::Denied), Just(Outcome::Failed)]
    }

    proptest! {
        /// Against the words of the module's page.
        #[test]
        fn the_next_question_comes_in_time_and_a_change_alone_is_said(
            steps in prop::collection::vec((outcome(), 0..=WHOLE), 1..40),
            minutes in 1i64..2000,
        ) {
            let every = SignedDuration::from_mins(minutes);
            let mut now = Timestamp::from_second(1_790_000_000).unwrap();
            let mut course = Course::begin(now);
            prop_assert!(course.is_due(now));
            let (mut last, mut failures) = (Outcome::Told, 0u32);
            for (outcome, jitter) in steps {
                let (next, word) = course.after(outcome, every, now, jitter);
                failures = if outcome == Outcome::Failed { failures + 1 } else { 0 };
                let doubled = 30u64.saturating_mul(1 << failures.saturating_sub(1).min(30));
                let wait = match outcome {
                    Outcome::Failed => SignedDuration::from_secs(i64::try_from(doubled).unwrap()).min(every),
                    _ => every,
                };
                let (soonest, latest) = (wait.as_millis() * 9 / 10, wait.as_millis() * 11 / 10);
                let given = next.due.duration_since(now).as_millis();
                prop_assert!((soonest..=latest).contains(&given), "{given} of {wait:?}");
                let expected = match (last, outcome) {
                    (a, b) if a == b => Word::None,
                    (_, Outcome::Told) => Word::Back,
                    _ => Word::Lost,
                };
                prop_assert_eq!(word, expected);
                (course, last, now) = (next, outcome, next.due);
            }
        }
    }
}
