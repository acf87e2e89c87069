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
    let mut key = String::from("(document)");
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
        Fault { key, line, column, problem: in_plain_words(problem) }
    })
}

/// What the library says to programmers, to people.
fn in_plain_words(problem: &str) -> String {
    if let Some(rest) = problem.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(',').next().unwrap_or(rest);
        return format!("{key} is given twice: expected each key once");
    }
    if problem.starts_with("multiple YAML documents") {
        return "there are several documents: expected one".to_owned();
    }
    let most = match problem {
        "invalid i8" | "invalid i16" | "invalid i32" | "invalid i64" => return "expected a whole number".to_owned(),
        "invalid u8" => u64::from(u8::MAX),
        "invalid u16" => u64::from(u16::MAX),
        "invalid u32" => u64::from(u32::MAX),
        "invalid u64" => u64::MAX,
        other => return other.to_owned(),
    };
    format!("expected a whole number from 0 to {most}")
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "it is read alone")]
    struct Numbers {
        signed: Option<i32>,
        unsigned: Option<u32>,
    }

    #[test]
    fn what_is_wrong_is_said_without_the_words_of_the_program() {
        for (text, key, problem) in [
            ("signed: many", "signed", "expected a whole number"),
            ("unsigned: -1", "unsigned", "expected a whole number from 0 to 4294967295"),
            ("signed: 1\nsigned: 2", "", "signed is given twice: expected each key once"),
            ("signed: 1\n---\nsigned: 2", "", "there are several documents: expected one"),
        ] {
            let fault = parse::<Numbers>(text).unwrap_err();
            assert_eq!(fault.problem, problem, "{text:?}: {fault:?}");
            assert!(key.is_empty() || fault.key == key, "{text:?}: {fault:?}");
        }
    }
}
