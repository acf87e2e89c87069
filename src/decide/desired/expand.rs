//! `$(NAME)` references, with `$$` for a dollar sign.
//!
//! The rules are those of Kubernetes' expansion (third_party/forked/golang/expansion): a name ends at the
//! next `)`, an opening without an end stays as it is, and so does a `$` before anything else.

/// Replaces each reference by what `lookup` gives for its name.
pub fn expand(text: &str, mut lookup: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            out.push_str(&lookup(name));
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> String {
        if name.starts_with('u') { format!("$({name})") } else { format!("<{name}>") }
    }

    /// One character after another, with an index: slow, and plainly the rules as written.
    fn reference(text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        while at < chars.len() {
            match (chars[at], chars.get(at + 1)) {
                ('$', Some('$')) => {
                    out.push('$');
                    at += 2;
                }
                ('$', Some('(')) => match chars[at + 2..].iter().position(|c| *c == ')') {
                    Some(length) => {
                        out += &lookup(&chars[at + 2..at + 2 + length].iter().collect::<String>());
                        at += length + 3;
                    }
                    None => {
                        out += "$(";
                        at += 2;
                    }
                },
                (c, _) => {
                    out.push(c);
                    at += 1;
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn expansion_agrees_with_a_naive_reading_of_its_rules(text in "[$()ua.é]{0,16}") {
            prop_assert_eq!(expand(&text, lookup), reference(&text));
        }
    }

    #[test]
    fn the_cases_of_the_kubernetes_documentation_hold() {
        for (text, expected) in [
            ("$(a)", "<a>"),
            ("$$(a)", "$(a)"),
            ("$$$(a)", "$<a>"),
            ("$(unknown)", "$(unknown)"),
            ("$(a", "$(a"),
            ("$", "$"),
            ("a$", "a$"),
            ("$a$(b)$$", "$a<b>$"),
            ("$()", "<>"),
            ("$($(a))", "<$(a>)"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
