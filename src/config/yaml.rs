//! A file's YAML into values; where it is wrong: the key, the line, and why.

use serde::de::DeserializeOwned;

/// What is wrong with a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The path of the key (`classes[1].mix`), `(document)` where there is none.
    pub key: String,
    pub line: u64,
    pub column: u64,
    pub problem: String,
}

pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let mut key = String::from(DOCUMENT);
    serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            if error.path().iter().next().is_some() {
                key = error.path().to_string();
            }
            error.into_inner()
        })
    })
    .map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
        let message = error.without_snippet().to_string();
        // The place has fields of its own.
        let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem);
        // The path's last part, where it is a key that is at fault.
        if key.ends_with('?') {
            key.pop();
            key.push_str(repeated(problem).unwrap_or_default());
            key.truncate(key.trim_end_matches('.').len());
            if key.is_empty() {
                key.push_str(DOCUMENT);
            }
        }
        Fault { key, line, column, problem: in_plain_words(problem) }
    })
}

const DOCUMENT: &str = "(document)";

/// The key that is given twice, if that is the problem.
fn repeated(problem: &str) -> Option<&str> {
    let rest = problem.strip_prefix("duplicate mapping key: ")?;
    rest.split(',').next()
}

/// What the library says to programmers, to people.
fn in_plain_words(problem: &str) -> String {
    if let Some(key) = repeated(problem) {
        return format!("{key} is given twice: expected each key once");
    }
    if problem.starts_with("multiple YAML documents") {
        return "there are several documents: expected one".to_owned();
    }
    if let Some(expected) = problem.strip_prefix("unknown variant `~`, ") {
        return format!("is left empty: {expected}");
    }
    if problem.starts_with("data did not match any variant of untagged enum") {
        return "expected a single value".to_owned();
    }
    let up_to = |most: u64| format!("expected a whole number from 0 to {most}");
    match problem {
        "invalid i8" | "invalid i16" | "invalid i32" | "invalid i64" => "expected a whole number".to_owned(),
        "invalid u8" => up_to(u8::MAX.into()),
        "invalid u16" => up_to(u16::MAX.into()),
        "invalid u32" => up_to(u32::MAX.into()),
        "invalid u64" => up_to(u64::MAX),
        "invalid boolean" => "expected true or false".to_owned(),
        "expected sequence start" => "expected a list".to_owned(),
        "expected mapping start" => "expected a map, of keys and values".to_owned(),
        "expected string scalar" => "expected a single value".to_owned(),
        "cannot deserialize null into string; use Option<String>" => "expected a text, found nothing".to_owned(),
        "expected string key for externally tagged enum"
        | "externally tagged enum expected scalar or mapping"
        | "expected end of mapping after enum variant value" => "expected a map with one key".to_owned(),
        "unexpected value for unit enum variant" => "expected the word alone, without a value".to_owned(),
        "alias references unknown anchor" => "expected an anchor (`&name`) before its alias (`*name`)".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "it is read alone")]
    struct Values {
        signed: Option<i32>,
        unsigned: Option<u32>,
        flag: Option<bool>,
        text: Option<Text>,
        list: Option<Vec<Text>>,
        inner: Option<Box<Values>>,
        kind: Option<Kind>,
        either: Option<Either>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(transparent)]
    #[allow(dead_code, reason = "it is read alone")]
    struct Text(String);

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code, reason = "it is read alone")]
    enum Kind {
        Whole,
        Of(String),
    }

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code, reason = "it is read alone")]
    enum Either {
        Number(u32),
        Word(String),
    }

    #[test]
    fn what_is_wrong_is_said_without_the_words_of_the_program() {
        for (text, key, problem) in [
            ("signed: many", "signed", "expected a whole number"),
            ("unsigned: -1", "unsigned", "expected a whole number from 0 to 4294967295"),
            ("signed: 1\nsigned: 2", "signed", "signed is given twice: expected each key once"),
            ("inner:\n  flag: true\n  flag: false", "inner.flag", "flag is given twice: expected each key once"),
            ("inner: {? [1] : 2}", "inner", "expected a single value"),
            ("? [1]\n: 2", "(document)", "expected a single value"),
            ("signed: 1\n---\nsigned: 2", "", "there are several documents: expected one"),
            ("[1]", "(document)", "expected a map, of keys and values"),
            ("inner: [1]", "inner", "expected a map, of keys and values"),
            ("list: 1", "list", "expected a list"),
            ("list: [a, ]\ntext: [a]", "text", "expected a single value"),
            ("list: [a, ~]", "list[1]", "expected a text, found nothing"),
            ("flag: maybe", "flag", "expected true or false"),
            ("kind: {}", "kind", "expected a map with one key"),
            ("kind: [whole]", "kind", "expected a map with one key"),
            ("kind: {of: a, whole: b}", "kind.of", "expected a map with one key"),
            ("kind: {whole: 1}", "kind.whole", "expected the word alone, without a value"),
            ("list: [a]\nkind: half", "kind", "unknown variant `half`, expected one of whole, of"),
            ("either: [1]", "either", "expected a single value"),
            ("text: *other", "", "expected an anchor (`&name`) before its alias (`*name`)"),
        ] {
            let fault = parse::<Values>(text).unwrap_err();
            assert_eq!(fault.problem, problem, "{text:?}: {fault:?}");
            assert!(key.is_empty() || fault.key == key, "{text:?}: {fault:?}");
        }
    }
}
