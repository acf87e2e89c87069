//! Labels and annotations as one file: `key="value"` lines, quoted as kubelet quotes them.
//!
//! Source: pkg/fieldpath/fieldpath.go, FormatMap, which uses Go's strconv.Quote.

use crate::model::Labels;
use std::fmt::Write;

/// One line a key, sorted, without an end of line after the last.
pub fn lines(map: &Labels) -> String {
    let mut out = String::new();
    for (key, value) in map {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(key);
        out.push('=');
        quote(value, &mut out);
    }
    out
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let written = match code {
                    0..0x80 => write!(out, "\\x{code:02x}"),
                    0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
                written.expect("writing to a String can't fail");
            }
        }
    }
    out.push('"');
}

/// Whether a character shows. Rust's escape_debug draws the line where Go's unicode.IsPrint does, except
/// that it escapes a combining mark at the start of a string: so it never stands there.
fn printable(c: char) -> bool {
    let text = ['a', c].into_iter().collect::<String>();
    matches!(c, '\'') || text.escape_debug().eq(text.chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        quote(text, &mut out);
        out
    }

    #[test]
    fn values_are_quoted_as_go_quotes_them() {
        // The right-hand sides were printed by Go's strconv.Quote.
        for (text, expected) in [
            ("plain", r#""plain""#),
            ("a \"b\" \\ 'c'", r#""a \"b\" \\ 'c'""#),
            ("line\nfeed\ttab\r", r#""line\nfeed\ttab\r""#),
            ("\x07\x08\x0c\x0b\x00\x1b\x7f", r#""\a\b\f\v\x00\x1b\x7f""#),
            ("é→日本", r#""é→日本""#),
            ("e\u{301}", "\"e\u{301}\""),
            ("\u{a0}\u{200b}\u{feff}", r#""\u00a0\u200b\ufeff""#),
            ("\u{e0001}😀", r#""\U000e0001😀""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn keys_come_sorted_one_a_line() {
        let map = [("b", "2"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(lines(&map), "a=\"1\"\nb=\"2\"");
        assert_eq!(lines(&Labels::new()), "");
    }
}
