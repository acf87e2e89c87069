//! JSON Schemas of the files a user edits, generated from the types that read them.
//!
//! They are checked in under provider-config/, for editors, and in the Helm chart, for its values; a test keeps them current.

use super::{policy::raw, raw::Provider};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

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

/// provider.schema.json.
pub fn provider() -> String {
    let mut schema = schema::<Provider>("Pilotlight's configuration").to_value();
    texts_may_be_numbers(&mut schema);
    ordered(schema)
}

/// The schema of the Helm chart's values: as it is, but for what the chart makes files of, which has those files' schemas.
/// What the chart adds to provider.yaml need not be there.
pub fn chart_values(now: &str) -> Result<String, serde_json::Error> {
    let mut schema: Value = serde_json::from_str(now)?;
    let mut definitions = Map::new();
    let numbers = |of: String| {
        let mut file: Value = serde_json::from_str(&of)?;
        texts_may_be_numbers(&mut file);
        Ok(file)
    };
    for (key, mut file) in [("costPolicy", numbers(cost_policy())?), ("provider", serde_json::from_str(&provider())?)] {
        // One document has one list of definitions.
        let prefix = format!("{key}.");
        rename(&mut file, &prefix);
        if let Some(map) = file.as_object_mut() {
            if let Some(Value::Object(own)) = map.remove("$defs") {
                definitions.extend(own.into_iter().map(|(name, schema)| (format!("{prefix}{name}"), schema)));
            }
            map.retain(|name, _| name != "$schema" && name != "title");
        }
        schema["properties"][key] = file;
    }
    // To Helm, null takes the chart's own away: no policy.
    schema["properties"]["costPolicy"]["type"] = json!(["object", "null"]);
    let given = |required: &mut Value, by_chart: &[&str]| {
        if let Some(list) = required.as_array_mut() {
            list.retain(|key| !by_chart.iter().any(|given| key == given));
        }
    };
    given(&mut schema["properties"]["provider"]["required"], &["stateDir", "catalog"]);
    given(&mut definitions["provider.Agents"]["required"], &["listen"]);
    schema["$defs"] = Value::Object(definitions);
    Ok(ordered(schema))
}

/// A text without quotes that looks like a number is one to YAML, and is read as the text that it was.
fn texts_may_be_numbers(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("type").is_some_and(|kind| kind == "string")
                && !map.contains_key("const")
                && !map.contains_key("enum")
            {
                map.insert("type".to_owned(), json!(["string", "number"]));
            } else if let Some(Value::Array(kinds)) = map.get_mut("type")
                && kinds.iter().any(|kind| kind == "string")
                && !kinds.iter().any(|kind| kind == "number")
            {
                kinds.push("number".into());
            }
            map.values_mut().for_each(texts_may_be_numbers);
        }
        Value::Array(all) => all.iter_mut().for_each(texts_may_be_numbers),
        _ => {}
    }
}

fn rename(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(of)) = map.get_mut("$ref") {
                *of = of.replace("#/$defs/", &format!("#/$defs/{prefix}"));
            }
            map.values_mut().for_each(|value| rename(value, prefix));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| rename(value, prefix)),
        _ => {}
    }
}

fn pretty<T: JsonSchema>(title: &str) -> String {
    text(&schema::<T>(title))
}

fn schema<T: JsonSchema>(title: &str) -> Schema {
    let mut schema = schemars::schema_for!(T);
    schema.insert("title".to_owned(), title.into());
    schema
}

fn ordered(schema: Value) -> String {
    text(&Schema::try_from(schema).expect("what was a schema is one"))
}

/// A schema's own order is that of its text.
fn text(schema: &Schema) -> String {
    serde_json::to_string_pretty(schema).expect("a schema is plain JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn root(file: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
    }

    fn read(file: &str) -> String {
        std::fs::read_to_string(root(file)).unwrap()
    }

    #[test]
    fn the_schemas_of_the_configuration_and_of_the_charts_values_are_what_the_types_say() {
        // To renew them: UPDATE_SCHEMAS=1 cargo test --lib schemas
        const CHART: &str = "manifests/helm/pilotlight/values.schema.json";
        const PROVIDER: &str = "provider-config/provider.schema.json";
        for (file, schema) in [(PROVIDER, provider()), (CHART, chart_values(&read(CHART)).unwrap())] {
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                std::fs::write(root(file), &schema).unwrap();
            }
            assert!(read(file) == schema, "{file} is stale: renew it with UPDATE_SCHEMAS=1 cargo test --lib schemas");
            // Helm asks that, too.
            let is_one = jsonschema::meta::validate(&serde_json::from_str(&schema).unwrap()).map_err(|e| e.to_string());
            assert_eq!(is_one, Ok(()), "{file}");
        }
    }

    fn wrong(schema: &str, value: &Value) -> Vec<String> {
        let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    #[test]
    fn every_example_is_valid_by_the_schema_and_a_key_that_is_not_known_is_not() {
        for file in [
            "provider-config/provider.yaml",
            "provider-config/provider-ec2.yaml",
            "manifests/overlays/eks/provider.yaml",
        ] {
            let mut example: Value = serde_saphyr::from_str(&read(file)).unwrap();
            assert_eq!(wrong(&provider(), &example), Vec::<String>::new(), "{file}");
            example["agents"]["adverise"] = json!("a:1");
            assert!(wrong(&provider(), &example)[0].starts_with("/agents: "), "{file}");
        }
    }

    #[test]
    fn the_charts_values_are_judged_by_the_files_that_are_made_of_them_without_what_the_chart_adds() {
        let schema = chart_values(&read("manifests/helm/pilotlight/values.schema.json")).unwrap();
        let yaml = |file: &str| -> Value { serde_saphyr::from_str(&read(file)).unwrap() };
        let mut values = json!({
            "provider": yaml("manifests/overlays/eks/provider.yaml"),
            "costPolicy": yaml("provider-config/cost-policy.yaml"),
        });
        for (at, key) in [("/provider", "stateDir"), ("/provider", "catalog"), ("/provider/agents", "listen")] {
            values.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(key).unwrap();
        }
        assert_eq!(wrong(&schema, &values), Vec::<String>::new());
        values["costPolicy"]["classes"][0]["match"]["labels"] = json!({ "version": 2 });
        assert_eq!(wrong(&schema, &values), Vec::<String>::new(), "a number without quotes");
        for (at, key) in
            [("/costPolicy/classes/0", "wieght"), ("/costPolicy", "limit"), ("/provider/agents", "adverise")]
        {
            let mut values = values.clone();
            values.pointer_mut(at).unwrap()[key] = json!(1);
            let said = wrong(&schema, &values).join("\n");
            assert!(said.contains(at) && said.contains(key), "{said}");
        }
        for none in [json!({}), json!(null)] {
            values["costPolicy"] = none;
            assert_eq!(wrong(&schema, &values), Vec::<String>::new(), "no policy is one");
        }
    }
}
