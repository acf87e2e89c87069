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
        let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem).to_owned();
        Fault { key, line, column, problem }
    })
}
