//! What a policy names and the catalog does not have. Whether that is a mistake depends on who uses the policy:
//!
//! | where | |
//! |---|---|
//! | nobody is asked what else is sold (the local cloud; EC2 with `refresh` off) | refused: it could never be bought |
//! | EC2 is asked | let pass with a warning: EC2 may know it |
//! | `pilotlight plan` of files alone, which buys nothing | let pass with a warning: it is not in the plan |
//!
//! (With `--config`, a plan judges as that provider does.)
//!
//! What can't be a name of EC2's at all ([`type_name`](crate::decide::purchase::type_name)) is refused before, everywhere.

use super::PolicyError;
use crate::decide::purchase::Policy;
use std::path::PathBuf;

/// A policy in which all is well but for what the catalog can't tell of.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub policy: Policy,
    pub unlisted: Vec<Unlisted>,
}

impl Loaded {
    /// Where the catalog is all that there is. `hint`: what might be done instead, for people.
    pub fn by_the_catalog_alone(self, hint: &str) -> Result<Policy, PolicyError> {
        match self.unlisted.into_iter().next() {
            None => Ok(self.policy),
            Some(first) => Err(first.refused(hint)),
        }
    }
}

/// A name or pattern that could be a type's, but no type of the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    pub file: PathBuf,
    pub line: u64,
    pub key: String,
    pub text: String,
    pub of: Use,
}

/// What it was named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Buy,
    CoverType,
    CoverFamily,
}

impl Unlisted {
    fn refused(self, hint: &str) -> PolicyError {
        let Self { file, line, key, text, of } = self;
        let expected = match of {
            Use::Buy => "expected a name or glob of types that are in the catalog",
            Use::CoverType => "expected an instance type of the catalog",
            Use::CoverFamily => "expected a family of the catalog, such as c6i",
        };
        PolicyError::Invalid { file, line, key, problem: format!("{text:?}: {expected}{hint}") }
    }

    fn says(&self, what: &str) -> String {
        let Self { file, line, key, text, of: _ } = self;
        format!("{}:{line}: {key}: {text:?} is no type of the catalog: {what}", file.display())
    }

    /// The warning where EC2 is asked what it sells.
    pub fn awaited(&self) -> String {
        self.says(match self.of {
            Use::Buy => {
                "bought when EC2 has told size and price of one (burstable and bare-metal types join by the catalog alone)"
            }
            Use::CoverType | Use::CoverFamily => {
                "it covers nothing here, unless an `allow` names it and EC2 has told of it"
            }
        })
    }

    /// The warning where nothing is bought, and nobody asked.
    pub fn left_out(&self) -> String {
        self.says(match self.of {
            Use::Buy => "nothing of it is in this reckoning; a provider on EC2 asks EC2 for it",
            Use::CoverType | Use::CoverFamily => "it covers nothing in this reckoning",
        })
    }
}
