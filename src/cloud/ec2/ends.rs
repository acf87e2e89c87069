//! What became of those that were to end. Pure.
//!
//! ```text
//!  EC2 ended it ─────────────────────────────────────────> done
//!  does not know it ──┬─ it was launched just now ───────> to be tried again
//!                     └─ otherwise: it is gone ──────────> done
//!  denies it ── described ──┬─ on its way out, or gone ──> done
//!                           └─ it lives ─────────────────> refused
//!  refuses it ───────────────────────────────────────────> refused
//!  fails ────────────────────────────────────────────────> to be tried again
//! ```
//!
//! A right that is bound to a tag (manifests/aws/iam-policy.json) is denied for what is gone, which has none: only a description
//! tells that from one that must not be ended.

use super::{
    records::{Machine, MachineState},
    refusal::{Refusal, Verdict},
    window::{Answer, Found},
};
use crate::{model::InstanceId, ports::CloudError};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub struct Ends {
    unknown: BTreeSet<InstanceId>,
    failed: BTreeMap<InstanceId, Refusal>,
}

impl Ends {
    pub fn new(asked: &[InstanceId], answer: Answer<()>) -> Self {
        let Answer { found, failed } = answer;
        let unknown =
            asked.iter().filter(|id| !found.contains_key(*id) && !failed.contains_key(*id)).cloned().collect();
        Self { unknown, failed }
    }

    /// About which it is to be asked whether they are gone.
    pub fn denied(&self) -> Vec<InstanceId> {
        let denied = self.failed.iter().filter(|(_, refusal)| refusal.verdict == Verdict::Denied);
        denied.map(|(id, _)| id.clone()).collect()
    }

    /// What EC2 knows of those.
    pub fn described(&mut self, found: &Found<Machine>) {
        for id in self.denied() {
            match found.get(&id).map(|machine| machine.state) {
                Some(MachineState::ShuttingDown | MachineState::Terminated) => drop(self.failed.remove(&id)),
                Some(_) => {}
                None => {
                    self.failed.remove(&id);
                    self.unknown.insert(id);
                }
            }
        }
    }

    /// Names all that are not ended. One that is worth another try makes the whole worth one.
    pub fn outcome(mut self, is_coming: impl Fn(&InstanceId) -> bool) -> Result<(), CloudError> {
        for id in self.unknown {
            if is_coming(&id) {
                self.failed.insert(id, Refusal::new("InvalidInstanceID.NotFound", "EC2 does not know it yet"));
            }
        }
        let of = |refusal: &Refusal| match refusal.cloud_error("terminate") {
            CloudError::Refused { operation, code, message }
                if refusal.verdict == Verdict::Denied && !refusal.is_of_a_right() =>
            {
                CloudError::Retry { operation, code, message }
            }
            error => error,
        };
        let again = |refusal: &&Refusal| matches!(of(refusal), CloudError::Retry { .. });
        let Some(first) = self.failed.values().find(again).or_else(|| self.failed.values().next()) else {
            return Ok(());
        };
        let message = told(&self.failed);
        Err(match of(first) {
            CloudError::Retry { operation, code, .. } => CloudError::Retry { operation, code, message },
            CloudError::Refused { operation, code, .. } => CloudError::Refused { operation, code, message },
        })
    }
}

/// By their codes: each message of a code is another one's in all but the id.
fn told(failed: &BTreeMap<InstanceId, Refusal>) -> String {
    let mut codes: BTreeMap<&str, (Vec<&str>, &Refusal)> = BTreeMap::new();
    for (id, refusal) in failed {
        codes.entry(&refusal.code).or_insert_with(|| (Vec::new(), refusal)).0.push(id.as_str());
    }
    let lines = codes.values().map(|(ids, refusal)| format!("{}: {refusal}", ids.join(", ")));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::machine;
    use super::*;

    fn id(n: usize) -> InstanceId {
        InstanceId::new(format!("i-{n}"))
    }

    /// Of i-0, i-1 ...: what EC2 said of each. None: it does not know it; an empty code: it is ended.
    fn ends(said: &[Option<&str>]) -> Ends {
        let all: Vec<InstanceId> = (0..said.len()).map(id).collect();
        let mut answer = Answer { found: Found::new(), failed: BTreeMap::new() };
        for (id, code) in all.iter().zip(said) {
            match code {
                None => {}
                Some("") => drop(answer.found.insert(id.clone(), ())),
                Some(code) => drop(answer.failed.insert(id.clone(), Refusal::new(*code, "m"))),
            }
        }
        Ends::new(&all, answer)
    }

    fn found(states: &[(usize, MachineState)]) -> Found<Machine> {
        let of = |(n, state): &(usize, MachineState)| (id(*n), Machine { state: *state, ..machine("i") });
        states.iter().map(of).collect()
    }

    const DENIED: Option<&str> = Some("UnauthorizedOperation");

    #[test]
    fn what_is_ended_or_gone_is_done_and_what_has_not_come_yet_is_tried_again() {
        assert!(ends(&[Some(""), None]).outcome(|_| false).is_ok());
        let coming = ends(&[Some(""), None]).outcome(|asked| *asked == id(1)).unwrap_err();
        assert!(matches!(&coming, CloudError::Retry { message, .. } if message.contains("i-1")), "{coming}");
        assert!(!coming.to_string().contains("i-0"), "{coming}");
    }

    #[test]
    fn one_that_is_denied_is_refused_by_its_name_if_it_lives_and_done_if_it_is_gone() {
        let mut all = ends(&[Some(""), DENIED, DENIED, DENIED, DENIED]);
        assert_eq!(all.denied(), [1, 2, 3, 4].map(id));
        all.described(&found(&[
            (1, MachineState::Running),
            (2, MachineState::ShuttingDown),
            (3, MachineState::Terminated),
        ]));
        let refused = all.outcome(|_| false).unwrap_err();
        let CloudError::Refused { code, message, .. } = refused else { panic!("{refused}") };
        assert_eq!((code.as_str(), message.as_str()), ("UnauthorizedOperation", "i-1: UnauthorizedOperation: m"));

        let mut gone = ends(&[DENIED]);
        gone.described(&found(&[]));
        assert!(gone.outcome(|_| false).is_ok());
        let mut coming = ends(&[DENIED]);
        coming.described(&found(&[]));
        assert!(matches!(coming.outcome(|_| true), Err(CloudError::Retry { .. })));
    }

    #[test]
    fn all_that_remain_are_named_and_one_that_is_worth_a_try_makes_it_one_for_all() {
        let refused = ends(&[DENIED, Some("OperationNotPermitted"), DENIED]).outcome(|_| false).unwrap_err();
        assert!(matches!(refused, CloudError::Refused { .. }));
        let text = refused.to_string();
        assert!(
            text.contains("i-0, i-2: UnauthorizedOperation") && text.contains("i-1: OperationNotPermitted"),
            "{text}"
        );
        for code in ["ExpiredToken", "AuthFailure", "NoCredentials"] {
            let refusal = Refusal { verdict: Verdict::Denied, ..Refusal::new(code, "m") };
            let failed = BTreeMap::from([(id(0), refusal)]);
            let passes = Ends { unknown: BTreeSet::new(), failed }.outcome(|_| false);
            assert!(matches!(passes, Err(CloudError::Retry { .. })), "{passes:?}");
        }
        let failed = ends(&[DENIED, Some("RequestLimitExceeded")]).outcome(|_| false).unwrap_err();
        assert!(matches!(&failed, CloudError::Retry { code, .. } if code == "RequestLimitExceeded"), "{failed}");
        assert!(failed.to_string().contains("i-0: UnauthorizedOperation"), "{failed}");
    }
}
