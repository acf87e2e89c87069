//! What can be the name of an instance type: EC2's are a family and a size, `c6i.large`.
//!
//! What a policy names may be unknown to the catalog and known to EC2. What no type of EC2's can ever be called is a slip
//! of the pen all the same: `c6i`, `c6i-large`, `c6i.larg`.

use super::glob::Glob;

/// For who wrote something else.
pub const EXPECTED: &str =
    "expected a family, a dot and a size, such as c6i.large, or a pattern of such, such as c6i.*";

/// All that EC2 has had (AWS, "Amazon EC2 instance type naming conventions"). Larger ones are a number before the last, and
/// whole machines may say their number behind.
const SIZES: [&str; 7] = ["nano", "micro", "small", "medium", "large", "xlarge", "metal"];
/// The largest number that is tried: that of the largest size is 480.
const MOST: u32 = 999;

/// Whether a pattern has a name that EC2 could give to a type.
pub fn may_be_a_type(pattern: &Glob) -> bool {
    example(pattern.as_str()).is_some()
}

/// Whether it is a family, such as `c6i`: it begins with a letter, and has a number.
pub fn is_family(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_digit())
}

/// A name that it matches.
fn example(pattern: &str) -> Option<String> {
    let split = |at: usize, size: usize| Some(format!("{}.{}", family(&pattern[..at])?, self::size(&pattern[size..])?));
    if let Some(dot) = pattern.find('.') {
        return split(dot, dot + 1);
    }
    // The dot is in what a wildcard stands for; a star stands for what is beside it, too.
    pattern.char_indices().find_map(|(at, c)| match c {
        '?' => split(at, at + 1),
        '*' => split(at + 1, at),
        _ => None,
    })
}

fn family(pattern: &str) -> Option<String> {
    let filled = pattern.char_indices().map(|(at, c)| match (at, c) {
        (0, '*') => "a1".to_owned(),
        (0, '?') => "a".to_owned(),
        (_, '*' | '?') => "1".to_owned(),
        (_, other) => other.to_string(),
    });
    Some(filled.collect::<String>()).filter(|name| is_family(name))
}

fn size(pattern: &str) -> Option<String> {
    let glob: Glob = pattern.parse().ok()?;
    let numbered = (1..=MOST).flat_map(|n| [format!("{n}xlarge"), format!("metal-{n}xl")]);
    SIZES.into_iter().map(str::to_owned).chain(numbered).find(|size| glob.matches(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn glob(text: &str) -> Glob {
        text.parse().unwrap()
    }

    /// Some of its characters covered by wildcards.
    fn covered(name: &str, by: &[u8]) -> String {
        let one = |(c, by): (char, &u8)| match by {
            0 => "?".to_owned(),
            1 => "*".to_owned(),
            2 => format!("*{c}"),
            _ => c.to_string(),
        };
        name.chars().zip(by.iter().cycle()).map(one).collect()
    }

    proptest! {
        #[test]
        fn whatever_matches_a_name_of_ec2s_may_be_one(
            family in "[a-z]{1,3}(-[0-9])?[0-9][a-z]{0,3}(-[a-z]{1,3}[0-9]?)?",
            size in "nano|micro|small|medium|large|metal|[1-9]{0,2}xlarge|metal-[1-9]{1,2}xl",
            by in prop::collection::vec(0u8..6, 1..12),
        ) {
            let name = format!("{family}.{size}");
            let pattern = glob(&covered(&name, &by));
            prop_assert!(pattern.matches(&name));
            prop_assert!(may_be_a_type(&pattern), "{} of {}", pattern, name);
        }

        #[test]
        fn what_may_be_a_name_has_one(pattern in "[ac6*?.-]{0,4}(\\.|\\*|\\?)?(large|xlarge|nano|metal|[*?x4.-]{0,4})") {
            let Ok(glob) = pattern.parse::<Glob>() else { return Ok(()) };
            if let Some(name) = example(glob.as_str()) {
                prop_assert!(glob.matches(&name), "{glob} and {name}");
                let (family, size) = name.split_once('.').unwrap();
                prop_assert!(is_family(family) && super::size(size).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn slips_of_the_pen_are_no_names() {
        for slip in [
            "c6i",
            "c6i.",
            ".large",
            "c6i-large",
            "c6ilarge",
            "c6i.larg",
            "c6i.lagre",
            "c6i.0xlarge",
            "c6i.large.",
            "6i.large",
            "c.large",
            "c6i-.large",
            "c6i.*.large",
            "*-large",
            "c6i.?",
            "ecs.c6i.large",
            "large",
            "?",
            "c6i,m6i.*",
        ] {
            assert!(!slip.parse().is_ok_and(|pattern: Glob| may_be_a_type(&pattern)), "{slip}");
        }
        for fine in [
            "c6i.large",
            "u-6tb1.metal",
            "c7i-flex.*",
            "m7i.metal-24xl",
            "u7in-32tb.224xlarge",
            "c6*",
            "*large",
            "*",
            "???????.nano",
        ] {
            assert!(may_be_a_type(&glob(fine)), "{fine}");
        }
    }
}
