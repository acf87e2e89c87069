//! What a test tells the stand-in to do: delays, pools without capacity, errors.

use super::refusal::{Refusal, status_of};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// `PUT /standin/script`: the whole of it, each time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Script {
    /// Whether calls are throttled by EC2's token buckets.
    pub limits: bool,
    /// What RunInstances and CreateFleet take.
    pub launch_millis: u64,
    /// The least time that an instance is `pending`; a machine that boots may take longer.
    pub pending_millis: u64,
    /// What a simulated machine takes to boot when it is no longer `pending`: at least and at most.
    pub boot_millis: [u64; 2],
    /// How long a new instance is unknown to Describe and Terminate (AWS, "Eventual consistency in the
    /// Amazon EC2 API").
    pub not_found_millis: u64,
    /// The least time that an instance is `shutting-down`.
    pub shutting_down_millis: u64,
    /// How long a terminated instance is still described: about an hour on EC2.
    pub terminated_millis: u64,
    /// How many instances a pool can hold at once; the first entry that matches counts, and a pool
    /// without one has no bound. `{"spot:t3.micro:*": 0}` is a pool of spot without capacity.
    pub capacity: BTreeMap<PoolPattern, u32>,
    /// What is said to be a pool's price, right or wrong: `{"spot:c6i.large:*": "0.0100"}`.
    pub prices: BTreeMap<PoolPattern, String>,
    pub faults: Vec<Fault>,
    /// How long a role's credentials are good.
    pub session_seconds: u64,
    /// If given, every other action is refused with UnauthorizedOperation.
    pub allowed_actions: Option<Vec<String>>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            limits: true,
            launch_millis: 0,
            pending_millis: 0,
            boot_millis: [0, 0],
            not_found_millis: 0,
            shutting_down_millis: 0,
            terminated_millis: 3_600_000,
            capacity: BTreeMap::new(),
            prices: BTreeMap::new(),
            faults: Vec::new(),
            session_seconds: 3600,
            allowed_actions: None,
        }
    }
}

/// An error to be given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// `*`: every action.
    pub action: String,
    pub code: String,
    #[serde(default)]
    pub message: Option<String>,
    /// For that many calls; always if it is not given.
    #[serde(default)]
    pub times: Option<u32>,
    /// Only for launches into these pools. CreateFleet names it among the errors of its answer.
    #[serde(default)]
    pub pool: Option<PoolPattern>,
    /// The call is done, but its answer does not arrive: the connection gets this error instead.
    #[serde(default)]
    pub after: bool,
}

impl Fault {
    pub fn refusal(&self) -> Refusal {
        let message = self.message.clone().unwrap_or_else(|| format!("{} as scripted by the test", self.code));
        Refusal { code: self.code.clone(), message, status: status_of(&self.code) }
    }
}

impl Script {
    /// The error for this call, if one is scripted; it is used up by that.
    pub fn fault(&mut self, action: &str, after: bool) -> Option<Refusal> {
        self.use_up(|fault| fault.pool.is_none() && fault.after == after && of_action(fault, action))
    }

    pub fn pool_fault(&mut self, action: &str, pool: &Pool) -> Option<Refusal> {
        self.use_up(|fault| fault.pool.as_ref().is_some_and(|of| of.matches(pool)) && of_action(fault, action))
    }

    fn use_up(&mut self, wanted: impl Fn(&Fault) -> bool) -> Option<Refusal> {
        let fault = self.faults.iter_mut().find(|fault| fault.times != Some(0) && wanted(fault))?;
        fault.times = fault.times.map(|times| times - 1);
        Some(fault.refusal())
    }

    pub fn price_of(&self, pool: &Pool) -> Option<String> {
        self.prices.iter().find(|(pattern, _)| pattern.matches(pool)).map(|(_, price)| price.clone())
    }

    /// How many instances the pool can hold; None: no bound.
    pub fn capacity_of(&self, pool: &Pool) -> Option<u32> {
        self.capacity.iter().find(|(pattern, _)| pattern.matches(pool)).map(|(_, &count)| count)
    }
}

fn of_action(fault: &Fault, action: &str) -> bool {
    fault.action == "*" || fault.action == action
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifecycle {
    OnDemand,
    Spot,
}

impl Lifecycle {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

/// What capacity is had from: `spot:t3.micro:us-east-1a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    pub lifecycle: Lifecycle,
    pub instance_type: String,
    pub zone: String,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.lifecycle.as_str(), self.instance_type, self.zone)
    }
}

/// A pool's three parts, each of which may be `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolPattern([String; 3]);

impl PoolPattern {
    pub fn matches(&self, pool: &Pool) -> bool {
        let parts = [pool.lifecycle.as_str(), &pool.instance_type, &pool.zone];
        self.0.iter().zip(parts).all(|(pattern, part)| pattern == "*" || pattern == part)
    }
}

impl FromStr for PoolPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<String> = text.split(':').map(str::to_owned).collect();
        let parts: [String; 3] =
            parts.try_into().map_err(|_| format!("{text:?} is no pool: capacityType:type:zone, each may be *"))?;
        match parts[0].as_str() {
            "*" | "spot" | "on-demand" => Ok(Self(parts)),
            other => Err(format!("{other:?} is no capacity type: spot, on-demand or *")),
        }
    }
}

impl TryFrom<String> for PoolPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PoolPattern> for String {
    fn from(pattern: PoolPattern) -> Self {
        pattern.0.join(":")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_given_as_often_as_it_says_and_one_of_a_pool_for_that_pool_alone() {
        let mut script: Script = serde_json::from_str(
            r#"{"faults": [{"action": "CreateFleet", "code": "InternalError", "times": 2},
                           {"action": "*", "code": "Unsupported", "pool": "*:t3.micro:*"}]}"#,
        )
        .unwrap();
        assert_eq!(script.fault("RunInstances", false), None);
        for _ in 0..2 {
            assert_eq!(script.fault("CreateFleet", false).unwrap().status, 500);
        }
        assert_eq!(script.fault("CreateFleet", false), None);
        let pool = |instance_type: &str| Pool {
            lifecycle: Lifecycle::Spot,
            instance_type: instance_type.to_owned(),
            zone: "a".to_owned(),
        };
        assert_eq!(script.pool_fault("CreateFleet", &pool("t3.micro")).unwrap().code, "Unsupported");
        assert_eq!(script.pool_fault("CreateFleet", &pool("t3.small")), None);
    }

    #[test]
    fn what_is_misspelt_in_a_script_is_refused() {
        for wrong in [r#"{"limit": true}"#, r#"{"capacity": {"sport:x:y": 0}}"#, r#"{"capacity": {"spot": 0}}"#] {
            assert!(serde_json::from_str::<Script>(wrong).is_err(), "{wrong}");
        }
    }
}
