//! The hash of an Ingress, by which probers tell which generation a gateway serves.
//!
//! A request with `K-Network-Hash: override` reaches its backend with the hash in the header's place; together with
//! `K-Network-Probe: probe` the backends of Knative (activator, queue-proxy) send it back. The value is the one of
//! knative.dev/networking pkg/ingress `ComputeHash`: SHA-256 over Go's JSON of the spec, the namespace and the name,
//! one after another without anything between.

use super::spec::IngressSpec;
use crate::model::ObjectName;
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use sha2::{Digest, Sha256};
use std::io;

/// The request header; its value [`OVERRIDE`] asks for the hash.
pub const HASH_HEADER: &str = "k-network-hash";
pub const OVERRIDE: &str = "override";

/// In lower-case hexadecimal.
pub fn ingress_hash(spec: &IngressSpec, name: &ObjectName) -> String {
    let mut digest = Sha256::new();
    digest.update(go_json(spec));
    digest.update(&name.namespace);
    digest.update(&name.name);
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn go_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, GoFormatter);
    value.serialize(&mut serializer).expect("strings, numbers, lists and maps of strings are JSON");
    bytes
}

/// encoding/json's `Marshal`: as compact as serde_json's, but what HTML or JavaScript could take for markup is escaped.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let character = from.chars().next().expect("find points at a character");
            write!(writer, "\\u{:04x}", u32::from(character))?;
            rest = &from[character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        CompactFormatter.write_char_escape(writer, escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The strings are what Go's encoding/json makes of the same values.
    #[test]
    fn the_json_is_byte_for_byte_that_of_go() {
        let spec: IngressSpec = serde_json::from_value(serde_json::json!({
            "httpOption": "Enabled",
            "rules": [{
                "hosts": ["a.example.com"],
                "visibility": "ExternalIP",
                "http": { "paths": [{
                    "headers": { "Z": { "exact": "" }, "A": { "exact": "<a&b>" } },
                    "appendHeaders": { "X": "tab\t\u{1}\u{8}\u{c}\u{2028}\"\\/é" },
                    "splits": [
                        { "serviceNamespace": "n", "serviceName": "s", "servicePort": 80, "percent": 100 },
                        { "serviceNamespace": "n", "serviceName": "t", "servicePort": "http", "percent": 0 },
                    ],
                }] },
            }],
        }))
        .unwrap();
        let expected = concat!(
            r#"{"rules":[{"hosts":["a.example.com"],"visibility":"ExternalIP","http":{"paths":[{"#,
            r#""headers":{"A":{"exact":"\u003ca\u0026b\u003e"},"Z":{"exact":""}},"#,
            r#""splits":[{"serviceNamespace":"n","serviceName":"s","servicePort":80,"percent":100},"#,
            r#"{"serviceNamespace":"n","serviceName":"t","servicePort":"http"}],"#,
            r#""appendHeaders":{"X":"tab\t\u0001\b\f\u2028\"\\/é"}}]}}],"httpOption":"Enabled"}"#
        );
        assert_eq!(String::from_utf8(go_json(&spec)).unwrap(), expected);
    }

    #[test]
    fn an_absent_list_of_paths_is_null_as_in_go() {
        let spec: IngressSpec =
            serde_json::from_value(serde_json::json!({ "rules": [{ "http": {} }], "tls": null })).unwrap();
        assert_eq!(String::from_utf8(go_json(&spec)).unwrap(), r#"{"rules":[{"http":{"paths":null}}]}"#);
    }
}
