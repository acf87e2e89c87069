//! Which credentials go with an image. Pure, as pkg/credentialprovider/keyring.go does it: the longest
//! matching registry first, `*` in host names, and the default registry's under its old name.

use super::reference::Reference;
use crate::model::RegistryCredential;

const DEFAULT_KEY: &str = "index.docker.io";

/// Those to try, in order; none: pull without.
pub(super) fn lookup<'a>(credentials: &'a [RegistryCredential], image: &Reference) -> Vec<&'a RegistryCredential> {
    let target = image.repository();
    let mut keyed: Vec<(String, &RegistryCredential)> =
        credentials.iter().map(|credential| (key(&credential.registry), credential)).collect();
    // As the kubelet's index: in reverse order of text, which puts the longer of two prefixes first.
    keyed.sort_by(|a, b| b.0.cmp(&a.0));
    let matching: Vec<_> = keyed.iter().filter(|(key, _)| matches(key, &target)).map(|(_, c)| *c).collect();
    if !matching.is_empty() || image.domain != "docker.io" {
        return matching;
    }
    keyed.iter().filter(|(key, _)| key == DEFAULT_KEY).map(|(_, credential)| *credential).collect()
}

/// Host and path; `https://host/v1/` is the host.
fn key(registry: &str) -> String {
    let bare = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let (host, path) = bare.split_once('/').map_or((bare, String::new()), |(host, path)| (host, format!("/{path}")));
    let path =
        path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")).map(|rest| format!("/{rest}")).unwrap_or(path);
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

fn matches(key: &str, target: &str) -> bool {
    let split = |text: &str| -> (String, String, String) {
        let (host, path) =
            text.split_once('/').map_or((text, String::new()), |(host, path)| (host, format!("/{path}")));
        let (host, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (host.to_owned(), port.to_owned(), path)
    };
    let (glob_host, glob_port, glob_path) = split(key);
    let (host, port, path) = split(target);
    let (globs, parts): (Vec<_>, Vec<_>) = (glob_host.split('.').collect(), host.split('.').collect());
    glob_port == port
        && path.starts_with(&glob_path)
        && globs.len() == parts.len()
        && globs.iter().zip(parts).all(|(glob, part)| wildcard(glob.as_bytes(), part.as_bytes()))
}

/// `*` for any row of characters, `?` for one.
fn wildcard(glob: &[u8], text: &[u8]) -> bool {
    match (glob.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => wildcard(&glob[1..], text) || (!text.is_empty() && wildcard(glob, &text[1..])),
        (Some(b'?'), Some(_)) => wildcard(&glob[1..], &text[1..]),
        (Some(a), Some(b)) if a == b => wildcard(&glob[1..], &text[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(registries: &[&str], image: &str) -> Vec<String> {
        let credentials: Vec<_> = registries
            .iter()
            .map(|registry| RegistryCredential {
                registry: (*registry).to_owned(),
                username: String::new(),
                password: String::new(),
            })
            .collect();
        lookup(&credentials, &Reference::parse(image).unwrap()).iter().map(|c| c.registry.clone()).collect()
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let registries = ["r.example", "r.example/team", "other.example", "r.example/te"];
        assert_eq!(found(&registries, "r.example/team/app:1"), ["r.example/team", "r.example/te", "r.example"]);
        assert_eq!(found(&registries, "r.example/x"), ["r.example"]);
        assert_eq!(found(&registries, "third.example/x"), [""; 0]);
    }

    #[test]
    fn wildcards_stand_for_one_part_of_a_host() {
        assert_eq!(found(&["*.example"], "r.example/x"), ["*.example"]);
        assert_eq!(found(&["*.example"], "a.r.example/x"), [""; 0]);
        assert_eq!(found(&["r*.exa?ple"], "reg.example/x"), ["r*.exa?ple"]);
    }

    #[test]
    fn ports_must_be_the_same() {
        assert_eq!(found(&["r.example:5000", "r.example"], "r.example:5000/x"), ["r.example:5000"]);
    }

    #[test]
    fn the_default_registry_goes_by_its_old_name() {
        let old = "https://index.docker.io/v1/";
        assert_eq!(found(&[old], "busybox"), [old]);
        assert_eq!(found(&[old, "docker.io"], "busybox"), ["docker.io"]);
        assert_eq!(found(&[old], "r.example/x"), [""; 0]);
    }
}
