//! How a reserve goes: detached, let finish, deleted.
//!
//! ```text
//!   attached --Detach--> detached --(what was on its way has come)--> asked --idle----> Delete, a second's grace
//!                                                                      ^ |----busy----> asked again, for as long as a request may take
//!                                                                      +-+----silent--> asked again, for a while
//!                                                                        |
//!                                                                        +--out of time--> Delete, the full grace
//!   lost ------------------------------------------------------------------------------> Delete, no grace
//! ```
//!
//! The full grace is always safe: queue-proxy drains by itself, half a minute long. The question is only how to be
//! faster.

use super::{
    Attachment, Effect, Grace, Idle, Life, Reserve, Why,
    machine::{ASK_AGAIN, Plan},
};
use jiff::Timestamp;

impl Plan<'_> {
    /// The next step of its end.
    pub(super) fn drain(&mut self, reserve: &Reserve, why: Why) {
        if reserve.life == Life::Lost {
            if reserve.deleting.is_none_or(|deleting| deleting.grace_seconds > 0) {
                self.delete(reserve, Grace::None, Why::Lost);
            }
            return;
        }
        match (reserve.deleting, reserve.attachment) {
            // Somebody else deleted it: what drains for half a minute may go at once when it is idle.
            (Some(deleting), _) if deleting.grace_seconds > 1 => {
                match self.finished(reserve, deleting.since, deleting.idle) {
                    Finished::Yes => self.delete(reserve, Grace::Idle, Why::Drained),
                    Finished::NotYet => {}
                    // Its own grace ends it; until then it may still become idle.
                    Finished::OutOfTime => self.ask(reserve, deleting.idle),
                }
            }
            (Some(_), _) => {}
            (None, Attachment::Attached { .. }) => self.detach(reserve, why),
            (None, Attachment::Detached { since, idle }) => match self.finished(reserve, since, idle) {
                Finished::Yes => self.delete(reserve, Grace::Idle, why),
                Finished::NotYet => {}
                Finished::OutOfTime => self.delete(reserve, Grace::Full, Why::DrainTimedOut),
            },
        }
    }

    fn finished(&mut self, reserve: &Reserve, since: Timestamp, idle: Idle) -> Finished {
        let settle = self.rules.detach_settle;
        if !self.passed(since, settle) {
            return Finished::NotYet;
        }
        let arrived = since.saturating_add(settle).unwrap_or(Timestamp::MAX);
        let patience = match idle {
            Idle::Yes { at } if at >= arrived => return Finished::Yes,
            Idle::Yes { .. } | Idle::Unasked => None,
            Idle::Busy { .. } => Some(self.seen.longest_request),
            Idle::Silent { .. } => Some(self.rules.silence),
        };
        if patience.is_some_and(|patience| self.passed(arrived, patience)) {
            return Finished::OutOfTime;
        }
        self.ask(reserve, idle);
        Finished::NotYet
    }

    fn ask(&mut self, reserve: &Reserve, last: Idle) {
        let due = match last {
            Idle::Busy { at } | Idle::Silent { at } => self.passed(at, ASK_AGAIN),
            Idle::Unasked | Idle::Yes { .. } => true,
        };
        if due {
            self.effects.push(Effect::CheckIdle { name: reserve.name.clone() });
        }
    }
}

enum Finished {
    Yes,
    NotYet,
    OutOfTime,
}
