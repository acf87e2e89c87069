//! A request of EC2's Query protocol: the fields of a form, one action each.
//!
//! Lists are numbered from 1: `InstanceId.1`, `Filter.2.Value.1` (AWS, "Query requests for Amazon EC2").

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    pub fn parse(form: &str) -> Self {
        Self(form_urlencoded::parse(form.as_bytes()).into_owned().collect())
    }

    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub fn action(&self) -> &str {
        self.get("Action").unwrap_or_default()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.0.keys().any(|name| below(name, prefix).is_some())
    }

    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Takes the field and everything below it away.
    pub fn remove(&mut self, prefix: &str) {
        self.0.retain(|name, _| name != prefix && below(name, prefix).is_none());
    }

    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The fields below `prefix.`, without it.
    pub fn below(&self, prefix: &str) -> Self {
        Self(self.0.iter().filter_map(|(name, value)| Some((below(name, prefix)?.to_owned(), value.clone()))).collect())
    }

    /// The same fields below another name.
    pub fn under(self, prefix: &str) -> Self {
        Self(self.0.into_iter().map(|(name, value)| (format!("{prefix}.{name}"), value)).collect())
    }

    /// The values of `prefix.1`, `prefix.2`, … in the order of their numbers.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let mut found: Vec<(u32, String)> =
            self.below(prefix).0.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value))).collect();
        found.sort();
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The structures at `prefix.1`, `prefix.2`, …
    pub fn groups(&self, prefix: &str) -> Vec<Self> {
        let mut groups: BTreeMap<u32, Self> = BTreeMap::new();
        for (name, value) in self.below(prefix).0 {
            if let Some((number, rest)) = name.split_once('.')
                && let Ok(number) = number.parse()
            {
                groups.entry(number).or_default().set(rest, value);
            }
        }
        groups.into_values().collect()
    }

    pub fn encode(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }
}

fn below<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_prefix('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_the_order_of_their_numbers_and_structures_apart() {
        let ten = (1..=10).map(|n| format!("InstanceId.{n}=i-{n}&")).collect::<String>();
        let params = Params::parse(&format!("Action=X&{ten}Filter.1.Name=tag%3Aa&Filter.1.Value.1=b&Filter.2.Name=c"));
        assert_eq!(params.list("InstanceId").last().unwrap(), "i-10");
        let filters = params.groups("Filter");
        assert_eq!(filters[0].get("Name"), Some("tag:a"));
        assert_eq!(filters[0].list("Value"), ["b"]);
        assert_eq!(filters.len(), 2);
        assert_eq!(Params::parse(&params.encode()), params);
    }

    #[test]
    fn a_name_that_only_begins_alike_is_not_below() {
        let mut params = Params::of(&[("Tag", "1"), ("Tag.1.Key", "2"), ("TagSpecification.1.X", "3")]);
        params.remove("Tag");
        assert_eq!(params, Params::of(&[("TagSpecification.1.X", "3")]));
    }
}
