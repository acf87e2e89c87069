//! Who of several replicas leads: an election by one Lease object, by the rules of client-go's
//! tools/leaderelection.
//!
//! In: what the Lease said and when this replica saw it, how its writes went. Out: the next step.
//!
//! ```text
//!              nobody holds it, or its holder has not renewed it for the duration it asked for
//!   Standby ------------------------------------------------------------------------------> Leading
//!                                                                                           |     |
//!                      renewDeadline since the last renewal, or another holds it            |     | release
//!   Lost <----------------------------------------------------------------------------------+     v
//!                                                                                              Released
//! ```
//!
//! Lost and Released are ends: the process is started again, as another candidate.
//!
//! No clock is compared with another's. A standby counts from the moment it *saw* the Lease change; a
//! leader counts from the moment before it *asked* for its last renewal. So two never lead at a time as
//! long as no replica's clock runs faster than another's by more than leaseDuration / renewDeadline (1.5
//! with the defaults), whatever is lost or late on the way. As client-go's, this fences nothing: a process
//! that was stopped may finish one step before it sees that its time is over. Nor should anybody delete the
//! Lease of living replicas: who sees none takes it at once, and the old leader notices at its next renewal.

use std::time::Duration;

/// A point on this process' own monotonic clock, from any origin.
pub type Moment = Duration;

/// client-go's words and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait after the last renewal they saw. Whole seconds, as the object has it.
    pub lease_duration: Duration,
    /// A leader that could not renew for this long has lost.
    pub renew_deadline: Duration,
    /// Between attempts.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// The Lease as it was read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// None: released.
    pub holder: Option<String>,
    pub lasts: Duration,
    pub transitions: i32,
    /// Changes with each write; a write names the one it replaces.
    pub version: String,
}

/// What to write. It is refused if the object is not of this version (None: if there is one) any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub version: Option<String>,
    pub holder: Option<String>,
    pub lasts: Duration,
    pub transitions: i32,
    /// The holder changes with it.
    pub acquires: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the Lease, then [`Elector::saw`] or [`Elector::failed`].
    Look,
    /// Write it, then [`Elector::wrote`] or [`Elector::failed`].
    Write(Claim),
    /// Nothing before this moment, unless the Lease changes.
    Rest(Moment),
    /// The lease is lost: end.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Standby,
    Leading {
        /// Before the last renewal that succeeded was asked for.
        renewed: Moment,
    },
    Lost,
}

#[derive(Clone, Debug)]
pub struct Elector {
    me: String,
    timing: Timing,
    standing: Standing,
    /// The last Lease seen (None inside: there is none), and since when it has been like this.
    seen: Option<(Option<Record>, Moment)>,
    /// Whether `seen` may be written over; not after a write whose fate is unknown.
    sure: bool,
    /// When the next look or renewal is due.
    due: Moment,
}

impl Elector {
    /// `me` must be no other process', not even an earlier one's.
    pub fn new(me: String, timing: Timing) -> Self {
        Self { me, timing, standing: Standing::Standby, seen: None, sure: false, due: Moment::ZERO }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether this replica may act at this moment.
    pub fn leads(&self, now: Moment) -> bool {
        matches!(self.standing, Standing::Leading { renewed } if now < renewed + self.timing.renew_deadline)
    }

    /// Whether it has seen the Lease, or that there is none.
    pub fn knows(&self) -> bool {
        self.seen.is_some()
    }

    /// Who holds the Lease, as last seen.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref()?.0.as_ref()?.holder.as_deref()
    }

    /// Until when an answer to what is asked now is of use.
    pub fn patience(&self, now: Moment) -> Moment {
        match self.standing {
            Standing::Leading { renewed } => renewed + self.timing.renew_deadline,
            Standing::Standby | Standing::Lost => now + self.timing.renew_deadline,
        }
    }

    pub fn next(&self, now: Moment) -> Step {
        match (self.standing, &self.seen) {
            (Standing::Lost, _) => Step::End,
            (Standing::Leading { renewed }, seen) => {
                let deadline = renewed + self.timing.renew_deadline;
                match seen {
                    _ if now >= deadline => Step::End,
                    _ if now < self.due => Step::Rest(self.due.min(deadline)),
                    Some((Some(record), _)) if self.sure => Step::Write(self.claim(Some(record))),
                    _ => Step::Look,
                }
            }
            (Standing::Standby, Some((record, since))) if self.sure => {
                let free_at = self.free_at(record.as_ref(), *since);
                if free_at <= now {
                    Step::Write(self.claim(record.as_ref()))
                } else if now < self.due {
                    Step::Rest(self.due.min(free_at))
                } else {
                    Step::Look
                }
            }
            (Standing::Standby, _) if now < self.due => Step::Rest(self.due),
            (Standing::Standby, _) => Step::Look,
        }
    }

    /// The Lease was read (None: there is none), the answer being here at `now`.
    pub fn saw(&mut self, record: Option<Record>, now: Moment) {
        let unchanged = matches!(&self.seen, Some((known, _)) if *known == record);
        if !unchanged {
            self.seen = Some((record, now));
        }
        self.sure = true;
        match self.standing {
            Standing::Leading { .. } if self.holder() != Some(&self.me) => self.standing = Standing::Lost,
            // The renewal that made it look has still to be written: it stays due.
            Standing::Leading { .. } | Standing::Lost => {}
            Standing::Standby => self.due = now + self.timing.retry_period,
        }
    }

    /// The Lease changed, somebody says: look at once.
    pub fn stirred(&mut self, now: Moment) {
        if self.standing == Standing::Standby {
            self.due = now;
        }
    }

    /// A claim made at `begun` was granted, the answer being here at `now`; the Lease is now `record`.
    pub fn wrote(&mut self, record: Record, begun: Moment, now: Moment) {
        let mine = record.holder.as_deref() == Some(&self.me);
        self.seen = Some((Some(record), now));
        self.sure = true;
        self.due = begun + self.timing.retry_period;
        match self.standing {
            Standing::Lost => {}
            // Granted, but so late that others may already count it as over.
            _ if now >= begun + self.timing.renew_deadline => {
                if self.standing != Standing::Standby {
                    self.standing = Standing::Lost;
                }
            }
            _ if mine => self.standing = Standing::Leading { renewed: begun },
            _ => self.standing = Standing::Lost,
        }
    }

    /// What was asked got no good answer. `conflict`: the Lease is not what it was thought to be.
    pub fn failed(&mut self, conflict: bool, now: Moment) {
        self.due = if conflict { now } else { now + self.timing.retry_period };
        // Since when it is as it was seen is not forgotten, should it turn out to be unchanged.
        self.sure = false;
    }

    /// After everything has ended: what hands the lease over at once.
    pub fn release(&self) -> Option<Claim> {
        let (Some(record), _) = self.seen.as_ref()? else { return None };
        let mine = record.holder.as_deref() == Some(self.me.as_str());
        mine.then(|| Claim {
            version: Some(record.version.clone()),
            holder: None,
            // As client-go does: nobody has to wait for it.
            lasts: Duration::from_secs(1),
            transitions: record.transitions,
            acquires: false,
        })
    }

    /// From when on it may be taken.
    fn free_at(&self, record: Option<&Record>, since: Moment) -> Moment {
        match record {
            None => since,
            Some(Record { holder: None, .. }) => since,
            // Ours, by a write whose answer was lost.
            Some(Record { holder: Some(holder), .. }) if *holder == self.me => since,
            Some(record) => since + record.lasts,
        }
    }

    fn claim(&self, record: Option<&Record>) -> Claim {
        let acquires = record.and_then(|r| r.holder.as_deref()) != Some(&self.me);
        let transitions = record.map_or(0, |r| r.transitions);
        Claim {
            version: record.map(|r| r.version.clone()),
            holder: Some(self.me.clone()),
            lasts: self.timing.lease_duration,
            transitions: if acquires && record.is_some() { transitions.saturating_add(1) } else { transitions },
            acquires,
        }
    }
}

#[cfg(test)]
mod tests;
