//! Prometheus' text format, as this program's own metrics are in it: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! Of our own because the libraries for it bring a regular-expression engine and a calendar into a program whose size is
//! its memory; what is read here was written by [`crate::telemetry`], and a test holds the two together.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug, thiserror::Error)]
#[error("line {line}: {text:?}: expected a sample such as name{{label=\"value\"}} 1")]
pub struct SampleError {
    line: usize,
    text: String,
}

/// Comments are passed over, and so is a time stamp.
pub fn parse(text: &str) -> Result<Vec<Sample>, SampleError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let read = |(index, line): (usize, &str)| {
        sample(line).ok_or_else(|| SampleError { line: index + 1, text: line.chars().take(80).collect() })
    };
    lines.map(read).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = quoted(behind)?;
            labels.insert(label.to_owned(), value);
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to the quote that ends it, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, character) => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_sample_is_refused_by_its_line() {
        for (text, line) in
            [("a 1\nb", 2), ("a{b=\"c\" 1", 1), ("a{b} 1", 1), ("a{b=\"c\"} one", 1), ("# HELP a\n\na{b=\"c} 1", 3)]
        {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
        }
        assert_eq!(parse("# EOF\n").unwrap(), []);
        assert_eq!(parse("up 1 1395066363000\n").unwrap()[0].value, 1.0);
    }

    proptest! {
        #[test]
        fn whatever_a_label_says_is_read_as_it_was_written(values in prop::collection::vec(".{0,12}|\\PC{0,6}\n\"\\\\", 1..4), n in 0u32..9) {
            let escaped = |v: &String| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', " ");
            let labels: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("l{i}=\"{}\"", escaped(v))).collect();
            let read = parse(&format!("name{{{}}} {n}\n", labels.join(","))).unwrap();
            prop_assert_eq!(read.len(), 1);
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(&read[0].labels[&format!("l{i}")], &value.replace('\r', " "));
            }
            prop_assert_eq!(read[0].value, f64::from(n));
        }
    }
}
