//! JSON Schemas of the files a user edits, generated from the types that read them.
//!
//! They are checked in under provider-config/, for editors; a test keeps them current.

use super::policy::raw;

/// cost-policy.schema.json, as it must stand in the file.
pub fn cost_policy() -> String {
    pretty::<raw::Policy>("Pilotlight's cost policy")
}

/// catalog.schema.json.
pub fn catalog() -> String {
    pretty::<raw::Catalog>("Instance types that Pilotlight may buy")
}

/// prices.schema.json.
pub fn prices() -> String {
    pretty::<raw::Prices>("Prices of a moment, for `pilotlight plan --prices`")
}

fn pretty<T: schemars::JsonSchema>(title: &str) -> String {
    let mut schema = schemars::schema_for!(T);
    schema.insert("title".to_owned(), title.into());
    let text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text + "\n"
}
