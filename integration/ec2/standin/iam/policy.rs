//! A policy's text, and what it says of a call.
//!
//! Only what the shipped policy is made of is known; anything else in a file is refused with its name, never passed over.
//! Sources: AWS, "IAM JSON policy elements reference", "Policy evaluation logic", "Grammar of the IAM JSON policy language".

use super::{
    super::describe::matches,
    table::{self, Key},
};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt};

/// One thing that IAM is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `ec2:RunInstances`
    pub action: String,
    /// `aws:RequestedRegion`
    pub region: String,
    /// `ec2:CreateAction`: the action that makes what is tagged.
    pub create_action: Option<&'static str>,
    /// Each is judged.
    pub resources: Vec<Resource>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `*` where the action is authorised against no resource.
    pub arn: String,
    /// As the table names it; empty for `*`.
    pub kind: &'static str,
    /// That it has already.
    pub tags: BTreeMap<String, String>,
    /// That the request gives it.
    pub requested: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub action: String,
    pub resource: String,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// By the statement of this name.
    Explicitly(String),
    /// What was not met of the statements for this action and resource; none: there is no such statement.
    Nothing(Vec<String>),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: ", self.action, self.resource)?;
        match &self.why {
            Why::Explicitly(sid) => write!(f, "{sid} denies it"),
            Why::Nothing(unmet) if unmet.is_empty() => f.write_str("no statement names both"),
            Why::Nothing(unmet) => f.write_str(&unmet.join("; ")),
        }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    #[error("{0}")]
    Form(String),
    #[error("version {0:?}: expected {VERSION:?}")]
    Version(String),
    #[error("{0}: something is left to be replaced in {1:?}")]
    Placeholder(String, String),
    #[error("{0}: no action that is known here is {1:?}")]
    Action(String, String),
    #[error("{0}: the condition key {1:?} is not known here")]
    Key(String, String),
}

const VERSION: &str = "2012-10-17";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(super) statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub sid: String,
    pub effect: Effect,
    pub actions: Vec<String>,
    pub resources: Vec<String>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub operator: Operator,
    pub key: Key,
    /// Any of them.
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Operator {
    StringEquals,
    StringLike,
    /// `true`: there is no such key.
    Null,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawPolicy {
    version: String,
    statement: Vec<RawStatement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawStatement {
    sid: String,
    effect: Effect,
    action: Listed,
    resource: Listed,
    #[serde(default)]
    condition: BTreeMap<Operator, BTreeMap<String, Listed>>,
}

/// One, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    One(String),
    Many(Vec<String>),
}

impl From<Listed> for Vec<String> {
    fn from(listed: Listed) -> Self {
        match listed {
            Listed::One(text) => vec![text],
            Listed::Many(texts) => texts,
        }
    }
}

impl Policy {
    /// `facts` are what its file leaves open: `REGION` for `${REGION}`.
    pub fn parse(text: &str, facts: &[(&str, &str)]) -> Result<Self, PolicyError> {
        let text =
            facts.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
        let raw: RawPolicy = serde_json::from_str(&text).map_err(|error| PolicyError::Form(error.to_string()))?;
        if raw.version != VERSION {
            return Err(PolicyError::Version(raw.version));
        }
        let statements = raw.statement.into_iter().map(Statement::try_from).collect::<Result<_, _>>()?;
        Ok(Self { statements })
    }

    /// All of these, or the first that is not allowed.
    pub fn allows<'a>(&self, calls: impl IntoIterator<Item = &'a Call>) -> Result<(), Denied> {
        calls.into_iter().try_for_each(|call| self.judge(call))
    }

    pub fn judge(&self, call: &Call) -> Result<(), Denied> {
        if call.resources.is_empty() {
            let why = Why::Nothing(Vec::new());
            return Err(Denied { action: call.action.clone(), resource: "*".to_owned(), why });
        }
        call.resources.iter().try_for_each(|resource| {
            self.judge_one(call, resource).map_err(|why| Denied {
                action: call.action.clone(),
                resource: resource.arn.clone(),
                why,
            })
        })
    }

    fn judge_one(&self, call: &Call, resource: &Resource) -> Result<(), Why> {
        let about = |statement: &&Statement| statement.is_about(&call.action, &resource.arn);
        let (mut allowed, mut unmet) = (false, Vec::new());
        for statement in self.statements.iter().filter(about) {
            match (statement.effect, statement.unmet(call, resource)) {
                (Effect::Deny, None) => return Err(Why::Explicitly(statement.sid.clone())),
                (Effect::Allow, None) => allowed = true,
                (Effect::Allow, Some(why)) => unmet.push(format!("{}: {why}", statement.sid)),
                (Effect::Deny, Some(_)) => {}
            }
        }
        if allowed { Ok(()) } else { Err(Why::Nothing(unmet)) }
    }
}

impl TryFrom<RawStatement> for Statement {
    type Error = PolicyError;

    fn try_from(raw: RawStatement) -> Result<Self, PolicyError> {
        let sid = raw.sid;
        let (actions, resources): (Vec<String>, Vec<String>) = (raw.action.into(), raw.resource.into());
        let mut conditions = Vec::new();
        for (operator, keys) in raw.condition {
            for (name, values) in keys {
                let key = Key::parse(&name).ok_or_else(|| PolicyError::Key(sid.clone(), name))?;
                conditions.push(Condition { operator, key, values: values.into() });
            }
        }
        let written = actions.iter().chain(&resources).chain(conditions.iter().flat_map(|c| &c.values));
        if let Some(text) = written.into_iter().find(|text| text.contains("${")) {
            return Err(PolicyError::Placeholder(sid, text.clone()));
        }
        // One that is misspelt would allow nothing, and nobody would hear of it.
        let known = |action: &&String| table::ACTIONS.iter().any(|row| same_action(action, row.action));
        if let Some(action) = actions.iter().find(|action| !known(action)) {
            return Err(PolicyError::Action(sid, action.clone()));
        }
        Ok(Self { sid, effect: raw.effect, actions, resources, conditions })
    }
}

/// Whether they are the same in upper or lower case is all the same (AWS, "Action").
fn same_action(pattern: &str, action: &str) -> bool {
    matches(&pattern.to_ascii_lowercase(), &action.to_ascii_lowercase())
}

impl Statement {
    fn is_about(&self, action: &str, arn: &str) -> bool {
        self.actions.iter().any(|pattern| same_action(pattern, action))
            && self.resources.iter().any(|pattern| matches(pattern, arn))
    }

    /// The first condition that is not met.
    fn unmet(&self, call: &Call, resource: &Resource) -> Option<String> {
        self.conditions.iter().find_map(|condition| {
            let value = condition.key.value(call, resource);
            let met = match condition.operator {
                Operator::StringEquals => value.is_some_and(|value| condition.values.iter().any(|v| v == value)),
                Operator::StringLike => value.is_some_and(|value| condition.values.iter().any(|v| matches(v, value))),
                Operator::Null => condition.values.iter().any(|absent| (absent == "true") == value.is_none()),
            };
            (!met).then(|| format!("{} is {:?}, not {:?}", condition.key, value, condition.values))
        })
    }
}
