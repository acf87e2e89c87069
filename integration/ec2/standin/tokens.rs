//! Client tokens: the same request said again gets the same answer and does nothing again.
//!
//! Only what succeeded is remembered. A token that comes with other parameters is refused with
//! IdempotentParameterMismatch. Source: AWS, "Ensuring idempotency in Amazon EC2 API requests".

use super::{params::Params, refusal::Refusal};
use std::collections::BTreeMap;

/// At most 64 ASCII characters.
const LONGEST: usize = 64;

#[derive(Clone, Debug, Default)]
pub struct Tokens(BTreeMap<(String, String), Remembered>);

#[derive(Clone, Debug)]
struct Remembered {
    fingerprint: Params,
    answer: String,
}

impl Tokens {
    /// The answer of the time before, if there was one.
    pub fn replay(&self, params: &Params) -> Result<Option<String>, Refusal> {
        let Some(token) = params.get("ClientToken").filter(|token| !token.is_empty()) else { return Ok(None) };
        if token.len() > LONGEST || !token.is_ascii() {
            return Err(Refusal::new(
                "InvalidParameterValue",
                format!(
                    "Value ({token}) for parameter clientToken is invalid. It must be 64 ASCII characters or fewer."
                ),
            ));
        }
        match self.0.get(&key(params, token)) {
            None => Ok(None),
            Some(seen) if seen.fingerprint == fingerprint(params) => Ok(Some(seen.answer.clone())),
            Some(_) => Err(Refusal::new(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )),
        }
    }

    pub fn remember(&mut self, params: &Params, answer: &str) {
        if let Some(token) = params.get("ClientToken").filter(|token| !token.is_empty()) {
            let seen = Remembered { fingerprint: fingerprint(params), answer: answer.to_owned() };
            self.0.insert(key(params, token), seen);
        }
    }
}

fn key(params: &Params, token: &str) -> (String, String) {
    (params.action().to_owned(), token.to_owned())
}

fn fingerprint(params: &Params) -> Params {
    let mut rest = params.clone();
    rest.remove("ClientToken");
    rest.remove("Version");
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: &str, count: &str) -> Params {
        Params::of(&[("Action", action), ("ClientToken", "t"), ("MaxCount", count)])
    }

    #[test]
    fn a_token_replays_its_answer_and_refuses_other_parameters() {
        let mut tokens = Tokens::default();
        assert_eq!(tokens.replay(&request("RunInstances", "1")), Ok(None));
        tokens.remember(&request("RunInstances", "1"), "<a/>");
        assert_eq!(tokens.replay(&request("RunInstances", "1")), Ok(Some("<a/>".to_owned())));
        let refused = tokens.replay(&request("RunInstances", "2")).unwrap_err();
        assert_eq!(refused.code, "IdempotentParameterMismatch");
        assert_eq!(tokens.replay(&request("CreateFleet", "2")), Ok(None), "each action has tokens of its own");
    }

    #[test]
    fn no_token_is_no_promise_and_a_long_one_is_refused() {
        let mut tokens = Tokens::default();
        tokens.remember(&Params::of(&[("Action", "RunInstances")]), "<a/>");
        assert_eq!(tokens.replay(&Params::of(&[("Action", "RunInstances")])), Ok(None));
        let long = "x".repeat(65);
        assert!(tokens.replay(&Params::of(&[("Action", "RunInstances"), ("ClientToken", &long)])).is_err());
    }
}
