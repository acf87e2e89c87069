//! The line on which a key of a YAML document stands.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A document as a tree of lines.
enum Node {
    Map(Vec<(Spanned<String>, Node)>),
    Seq(Vec<Spanned<Node>>),
    Scalar,
}

/// The line of `key` (`classes[1].mix.onDemandBase`), or of its deepest part that is there; 1 where the
/// text can't be read.
pub fn line_of(text: &str, key: &str) -> u64 {
    // What is no number is judged where it stands for one.
    let options = serde_saphyr::options! {
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
    };
    let Ok(mut node) = serde_saphyr::from_str_with_options::<Node>(text, options) else { return 1 };
    let mut line = 1;
    for part in key.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
        node = match node {
            Node::Map(entries) => {
                let Some((key, value)) = entries.into_iter().find(|(key, _)| key.value == part) else { break };
                line = key.referenced.line();
                value
            }
            Node::Seq(items) => {
                let index = part.parse::<usize>().ok();
                let Some(item) = index.and_then(|index| items.into_iter().nth(index)) else { break };
                line = item.referenced.line();
                item.value
            }
            Node::Scalar => break,
        };
    }
    line
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tree;

        impl<'de> Visitor<'de> for Tree {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::Seq(items))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                IgnoredAny::deserialize(deserializer).map(|_| Node::Scalar)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
        }

        deserializer.deserialize_any(Tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_though_a_value_is_no_finite_number() {
        assert_eq!(line_of("a: .inf\nb:\n  c: .nan\n", "b.c"), 3);
    }

    #[test]
    fn a_key_is_found_on_its_line_and_a_missing_one_on_its_parents() {
        let text = "a: 1\nb:\n- x: {y: 2}\n- x:\n    y: 0.5\n    z: [1,\n        2]\n";
        for (key, line) in [("a", 1), ("b", 2), ("b[0].x.y", 3), ("b[1].x.y", 5), ("b[1].x.z[1]", 7), ("b[1].gone", 4)]
        {
            assert_eq!(line_of(text, key), line, "{key}");
        }
    }
}
