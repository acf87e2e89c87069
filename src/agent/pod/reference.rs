//! Image names as everyone reads them. Pure.
//!
//! The grammar is that of github.com/distribution/reference: `busybox` is
//! `docker.io/library/busybox:latest`.

use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";

/// An image name in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub domain: String,
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_hex(text, 64) && text.len() == 64 {
            return Err(ReferenceError::Id(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(ReferenceError::Format),
            None => (text, None),
        };
        let (domain, remote) = split_domain(rest);
        let (path, tag) = match remote.split_once(':') {
            Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
            Some(_) => return Err(ReferenceError::Format),
            None => (remote, None),
        };
        let path =
            if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > 255 {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }

    /// Domain and path alone, as credentials are looked up by.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }
}

/// In full, with `latest` where nothing is said.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        match (&self.tag, &self.digest) {
            (None, None) => f.write_str(":latest"),
            (tag, digest) => {
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
                digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
            }
        }
    }
}

/// The first part is a domain if it looks like one (`splitDockerDomain`).
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let port_ok = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    port_ok
        && v6.map_or_else(|| host.split('.').all(label), |v6| v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'))
}

/// Lower-case letters and digits, in groups parted by `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut index = 0;
    while index < bytes.len() {
        let begin = index;
        while index < bytes.len() && word(bytes[index]) {
            index += 1;
        }
        if index == begin {
            return false;
        }
        if index == bytes.len() {
            return true;
        }
        let separator = bytes[index..].iter().take_while(|b| !word(**b)).count();
        let text = &component[index..index + separator];
        if !(matches!(text, "." | "_" | "__") || text.bytes().all(|b| b == b'-')) {
            return false;
        }
        index += separator;
    }
    false
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let part = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part) && is_hex(hex, 32) && (algorithm != "sha256" || hex.len() == 64)
}

fn is_hex(text: &str, at_least: usize) -> bool {
    text.len() >= at_least && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_mean_the_default_registry_and_the_latest_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("index.docker.io/library/app:1", "docker.io/library/app:1".to_owned()),
            ("registry.example/app", "registry.example/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("registry.example:5000/a/b/c_d:v1.0-rc", "registry.example:5000/a/b/c_d:v1.0-rc".to_owned()),
            ("[fd00::1]:5000/app:1", "[fd00::1]:5000/app:1".to_owned()),
        ] {
            assert_eq!(Reference::parse(text).map(|r| r.to_string()), Ok(full), "{text}");
        }
        let both = Reference::parse(&format!("app:1@{digest}")).unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/app:1@{digest}"));
        assert_eq!(both.repository(), "docker.io/library/app");
    }

    #[test]
    fn what_is_no_image_name_is_refused() {
        for text in [
            "",
            ":tag",
            "a:",
            "a//b",
            "a/-b",
            "a b",
            "a@sha256:abc",
            "a:t:u",
            "a..b",
            "a___b",
            "https://a/b",
            "r.example/",
        ] {
            assert_eq!(Reference::parse(text), Err(ReferenceError::Format), "{text}");
        }
        assert_eq!(Reference::parse("BusyBox"), Err(ReferenceError::Uppercase("library/BusyBox".to_owned())));
        assert!(matches!(Reference::parse(&"a".repeat(64)), Err(ReferenceError::Id(_))));
        assert_eq!(Reference::parse(&"b/".repeat(130)), Err(ReferenceError::Format));
    }

    proptest! {
        #[test]
        fn the_full_name_reads_as_itself(text in "[a-z0-9./:@_-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                let full = reference.to_string();
                prop_assert_eq!(Reference::parse(&full).map(|again| again.to_string()), Ok(full));
            }
        }
    }
}
