//! What the cloud announces of one instance, by two who speak of the same things: its agent, which asks the metadata
//! service and says all that stands, and a queue, which says each thing once, perhaps late, perhaps again.
//!
//! An agent's word is the exact one: of what it speaks of, the queue is not heard. Nor of what it spoke of before, while
//! it is connected: it would know if that stood still.

use crate::model::Notice;
use std::mem::{Discriminant, discriminant};

#[derive(Debug, Default)]
pub(super) struct Announcements {
    /// By the agent, whole.
    told: Vec<Notice>,
    /// The kinds that the agent ever told.
    spoken_of: Vec<Discriminant<Notice>>,
    /// By the queue, where the agent has told nothing of the kind.
    queued: Vec<Notice>,
}

impl Announcements {
    /// All that counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Notice> {
        self.told.iter().chain(&self.queued)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// What the agent says now. False: nothing else than before.
    pub(super) fn tell(&mut self, notices: Vec<Notice>) -> bool {
        if self.told == notices {
            return false;
        }
        self.queued.retain(|queued| !notices.iter().any(|told| told.same_kind(queued)));
        for kind in notices.iter().map(discriminant) {
            if !self.spoken_of.contains(&kind) {
                self.spoken_of.push(kind);
            }
        }
        self.told = notices;
        true
    }

    /// What the queue says. A maintenance takes the place of what was said of the same event at another time. False: it is
    /// not heard, or known.
    pub(super) fn queue(&mut self, notice: Notice, agent_connected: bool) -> bool {
        let told = self.told.iter().any(|told| told.same_kind(&notice));
        let spoken_of = agent_connected && self.spoken_of.contains(&discriminant(&notice));
        if told || spoken_of || self.queued.contains(&notice) {
            return false;
        }
        let code = |notice: &Notice| match notice {
            Notice::Maintenance { code, .. } => Some(code.clone()),
            Notice::Interruption { .. } | Notice::Rebalance { .. } => None,
        };
        self.queued.retain(|queued| !notice.same_kind(queued) || code(queued) != code(&notice));
        self.queued.push(notice);
        true
    }
}
