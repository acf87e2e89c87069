//! Names matched by `*` and `?`.

use std::{fmt, str::FromStr};

/// A pattern such as `c6i.*`: `*` stands for any number of characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?}: expected a name or a pattern of lower-case letters, digits, `.`, `-`, `*` and `?`, such as c6i.*")]
pub struct GlobError(pub String);

impl Glob {
    /// No wildcard in it: one name is meant.
    pub fn is_exact(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Greedy with one point of return: a later `*` never needs an earlier one to be reconsidered.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    back = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == b'?' || *c == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    let Some((star, from)) = back else { return false };
                    back = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-*?".contains(&b);
        if text.is_empty() || !text.bytes().all(fine) {
            return Err(GlobError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by recursion.
    fn reference(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if reference(rest, name) => true,
            (Some((b'*', _)), Some((_, tail))) => reference(pattern, tail),
            (Some((c, rest)), Some((d, tail))) if *c == b'?' || c == d => reference(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[ab.*?]{1,8}", name in "[ab.]{0,10}") {
            let glob: Glob = pattern.parse().unwrap();
            prop_assert_eq!(glob.matches(&name), reference(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn what_can_be_no_type_is_refused() {
        for bad in ["", "c6i.[", "C6i.large", "c6i large", "c6i.{large,xlarge}"] {
            assert_eq!(bad.parse::<Glob>(), Err(GlobError(bad.to_owned())));
        }
    }
}
