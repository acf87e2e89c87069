//! What a record and the facts about its machine come to. Pure.
//!
//! ```text
//!  launch                  note: up               terminate
//! ───────> Pending ───────────────> Running ───────────────> ShuttingDown
//!             │ └── terminate ─────────┼────────────────────────> │
//!             │                        │                          │
//!             │ no supervisor          │ supervisor gone          │ supervisor gone
//!             v                        v                          v
//!         Terminated <──────────── Terminated <────────────── Terminated
//!                                      │ clean: processes, cgroups, veth, disk
//!                                      │ 10 min later: purge
//!                                      v
//!                                   (no record)
//! ```
//!
//! No arrow leads back. The only fact that makes a machine Terminated is that its supervisor is gone:
//! PID 1 can't outlive it, so nothing of the machine runs then.

use super::record::Phase;
use crate::model::InstanceState;
use jiff::{SignedDuration, Timestamp};

/// A shutdown takes at most what `machine::init` allows its steps (12 s) and what a busy host adds.
pub const STOP_PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// As long as the caller may need to learn why a machine ended.
pub const KEEP_TERMINATED: SignedDuration = SignedDuration::from_mins(10);

/// The part of a record that this looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub state: InstanceState,
    pub stop_requested_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub cleaned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supervisor {
    Alive {
        /// Its last note; None: it was started but has written none yet.
        phase: Option<Phase>,
    },
    /// `phase`: its last note, if it ever wrote one.
    Gone { phase: Option<Phase> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub state: InstanceState,
    /// Set when the machine turns out to have ended.
    pub ended: Option<Ended>,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub at: Timestamp,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// SIGTERM to the supervisor; again if it was said before, as the one who said it may have died.
    AskToStop,
    /// SIGKILL to the supervisor: it had its time.
    Kill,
    Clean,
    Purge,
}

pub fn judge(known: &Known, supervisor: &Supervisor, now: Timestamp) -> Verdict {
    use InstanceState::{Pending, Running, ShuttingDown, Terminated};
    let verdict = |state, action| Verdict { state, ended: None, action };
    match (known.state, supervisor) {
        (Terminated, _) if !known.cleaned => verdict(Terminated, Action::Clean),
        (Terminated, _) => {
            let due = known.ended_at.is_none_or(|at| now.duration_since(at) >= KEEP_TERMINATED);
            verdict(Terminated, if due { Action::Purge } else { Action::Nothing })
        }
        (state, Supervisor::Gone { phase }) => Verdict {
            state: Terminated,
            ended: Some(Ended { at: now, reason: reason(state, phase.as_ref()) }),
            action: Action::Clean,
        },
        (ShuttingDown, Supervisor::Alive { .. }) => {
            let late = known.stop_requested_at.is_some_and(|at| now.duration_since(at) >= STOP_PATIENCE);
            verdict(ShuttingDown, if late { Action::Kill } else { Action::AskToStop })
        }
        (Pending, Supervisor::Alive { phase: None | Some(Phase::Booting) }) => verdict(Pending, Action::Nothing),
        (Pending | Running, Supervisor::Alive { .. }) => verdict(Running, Action::Nothing),
    }
}

fn reason(state: InstanceState, phase: Option<&Phase>) -> String {
    match (state, phase) {
        (InstanceState::ShuttingDown, _) => "terminated as asked".to_owned(),
        (_, Some(Phase::Ended { reason })) => reason.clone(),
        (_, Some(Phase::Up)) => "the machine's supervisor was killed".to_owned(),
        (_, Some(Phase::Booting)) => "the machine's supervisor was killed while it booted".to_owned(),
        (_, None) => "the machine was recorded but never started".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn states() -> impl Strategy<Value = InstanceState> {
        use InstanceState::*;
        prop::sample::select(vec![Pending, Running, ShuttingDown, Terminated])
    }

    fn phases() -> impl Strategy<Value = Option<Phase>> {
        prop::sample::select(vec![
            None,
            Some(Phase::Booting),
            Some(Phase::Up),
            Some(Phase::Ended { reason: "because".to_owned() }),
        ])
    }

    fn supervisors() -> impl Strategy<Value = Supervisor> {
        (any::<bool>(), phases())
            .prop_map(|(alive, phase)| if alive { Supervisor::Alive { phase } } else { Supervisor::Gone { phase } })
    }

    /// How the provider carries a verdict out, as far as the record goes.
    fn apply(known: &Known, verdict: &Verdict) -> Known {
        let mut next = known.clone();
        next.state = verdict.state;
        if let Some(ended) = &verdict.ended {
            next.ended_at = Some(ended.at);
        }
        next
    }

    fn rank(state: InstanceState) -> u8 {
        state as u8
    }

    proptest! {
        /// A machine's whole life against a model of it: a supervisor that is there or not, and a wish
        /// to end it. The provider may look at any time, or never.
        #[test]
        fn through_any_life_the_record_follows_the_machine(
            steps in prop::collection::vec((0u8..6, 0i64..200), 1..80),
        ) {
            #[derive(Clone, Copy, PartialEq)]
            enum Real { Unborn, Booting, Up, Dead }
            let mut real = Real::Unborn;
            let mut asked = false;
            let mut now = 0;
            let mut known = Known { state: InstanceState::Pending, stop_requested_at: None, ended_at: None, cleaned: false };
            let mut note = None;
            for (step, seconds) in steps {
                now += seconds;
                match step {
                    0 if real == Real::Unborn && !asked => { real = Real::Booting; note = Some(Phase::Booting); }
                    1 if real == Real::Booting => { real = Real::Up; note = Some(Phase::Up); }
                    2 => real = Real::Dead,
                    3 if known.state != InstanceState::Terminated => {
                        asked = true;
                        known.state = InstanceState::ShuttingDown;
                        known.stop_requested_at.get_or_insert(at(now));
                    }
                    _ => {}
                }
                let supervisor = if real == Real::Dead {
                    Supervisor::Gone { phase: note.clone() }
                } else {
                    Supervisor::Alive { phase: note.clone() }
                };
                let verdict = judge(&known, &supervisor, at(now));
                prop_assert!(rank(verdict.state) >= rank(known.state), "a state went back");
                let expected = match real {
                    Real::Dead => InstanceState::Terminated,
                    _ if asked => InstanceState::ShuttingDown,
                    Real::Up => InstanceState::Running,
                    Real::Unborn | Real::Booting => InstanceState::Pending,
                };
                prop_assert_eq!(verdict.state, expected);
                prop_assert_eq!(verdict.ended.is_some(), real == Real::Dead && known.state != InstanceState::Terminated);
                match verdict.action {
                    Action::Nothing => {}
                    Action::AskToStop => prop_assert!(asked && real != Real::Dead),
                    Action::Kill => {
                        prop_assert!(asked && real != Real::Dead);
                        real = Real::Dead;
                    }
                    Action::Clean => { prop_assert!(real == Real::Dead && !known.cleaned); }
                    Action::Purge => {
                        prop_assert!(known.cleaned);
                        prop_assert!(at(now).duration_since(known.ended_at.unwrap()) >= KEEP_TERMINATED);
                        return Ok(());
                    }
                }
                known = apply(&known, &verdict);
                if verdict.action == Action::Clean && step == 4 {
                    known.cleaned = true;
                }
            }
        }

        #[test]
        fn looking_twice_at_the_same_facts_changes_nothing(
            state in states(), supervisor in supervisors(), cleaned in any::<bool>(),
        ) {
            let ended_at = (state == InstanceState::Terminated).then_some(at(0));
            let known = Known { state, stop_requested_at: Some(at(0)), ended_at, cleaned };
            let first = judge(&known, &supervisor, at(50));
            let second = judge(&apply(&known, &first), &supervisor, at(50));
            prop_assert_eq!(&second.state, &first.state);
            prop_assert_eq!(second.ended, None);
        }

        #[test]
        fn what_has_ended_is_said_with_a_reason(state in states(), phase in phases()) {
            let known = Known { state, stop_requested_at: None, ended_at: None, cleaned: false };
            let verdict = judge(&known, &Supervisor::Gone { phase }, at(1));
            if state != InstanceState::Terminated {
                prop_assert!(!verdict.ended.unwrap().reason.is_empty());
            }
        }
    }

    #[test]
    fn a_machine_that_does_not_stop_in_time_is_killed() {
        let known = Known {
            state: InstanceState::ShuttingDown,
            stop_requested_at: Some(at(0)),
            ended_at: None,
            cleaned: false,
        };
        let alive = Supervisor::Alive { phase: Some(Phase::Up) };
        assert_eq!(judge(&known, &alive, at(29)).action, Action::AskToStop);
        assert_eq!(judge(&known, &alive, at(30)).action, Action::Kill);
    }
}
