//! Which actions were called, and what became of them.

use super::refusal::Refusal;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// By service and action, as IAM names them: `ec2:RunInstances`.
    pub actions: BTreeMap<String, Count>,
    /// How many were signed by keys, and by sessions of a role: `irsa`, `pod-identity`.
    pub callers: BTreeMap<String, u64>,
    /// Machines that were launched and terminated.
    pub launched: u64,
    pub terminated: u64,
    /// Machines that have come up.
    pub booted: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    pub calls: u64,
    pub throttled: u64,
    /// Answers that repeated an earlier one, by client token.
    pub replayed: u64,
    /// Refusals by code, throttling and dry runs among them.
    pub refused: BTreeMap<String, u64>,
}

impl Calls {
    pub fn called(&mut self, service: &str, action: &str) -> &mut Count {
        self.actions.entry(format!("{service}:{action}")).or_default()
    }

    pub fn refused(&mut self, service: &str, action: &str, refusal: &Refusal) {
        let count = self.called(service, action);
        *count.refused.entry(refusal.code.clone()).or_default() += 1;
        if refusal.code == "RequestLimitExceeded" {
            count.throttled += 1;
        }
    }
}
