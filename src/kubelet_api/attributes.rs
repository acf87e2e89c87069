//! What a caller must be allowed to do for a request: pure. As pkg/kubelet/server/auth.go,
//! GetRequestAttributes, with fine-grained authorization (KEP-2862, on since 1.33).

use http::Method;

/// A question for SubjectAccessReview: may someone do `verb` on `nodes/<subresource>` of this node?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub verb: &'static str,
    pub subresource: &'static str,
}

/// The questions in their order: the first that is granted lets the request in.
pub(super) fn attributes(method: &Method, path: &str) -> Vec<Attributes> {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let subresources: &[&'static str] = if below("/stats") {
        &["stats"]
    } else if below("/metrics") {
        &["metrics"]
    } else if below("/logs") {
        &["log"]
    } else if below("/checkpoint") {
        &["checkpoint"]
    } else if below("/pods") || below("/runningpods") {
        &["pods", "proxy"]
    } else if below("/healthz") {
        &["healthz", "proxy"]
    } else if below("/configz") {
        &["configz", "proxy"]
    } else {
        &["proxy"]
    };
    subresources.iter().map(|subresource| Attributes { verb, subresource }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_asks_for_what_the_kubelet_asks_for() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/stats/summary", "get", &["stats"][..]),
            (Method::GET, "/metrics", "get", &["metrics"]),
            (Method::GET, "/metrics/resource", "get", &["metrics"]),
            (Method::GET, "/logs/", "get", &["log"]),
            (Method::POST, "/checkpoint/ns/pod/c", "create", &["checkpoint"]),
            (Method::GET, "/pods", "get", &["pods", "proxy"]),
            (Method::GET, "/runningpods/", "get", &["pods", "proxy"]),
            (Method::GET, "/healthz", "get", &["healthz", "proxy"]),
            (Method::GET, "/configz", "get", &["configz", "proxy"]),
            (Method::POST, "/exec/ns/pod/c", "create", &["proxy"]),
            (Method::GET, "/containerLogs/ns/pod/c", "get", &["proxy"]),
            (Method::POST, "/run/ns/pod/c", "create", &["proxy"]),
            // Only whole segments count.
            (Method::GET, "/metricsx", "get", &["proxy"]),
            (Method::GET, "/podsx", "get", &["proxy"]),
            (Method::DELETE, "/statsx/", "delete", &["proxy"]),
            (Method::HEAD, "/pods", "", &["pods", "proxy"]),
        ] {
            let asked = attributes(&method, path);
            assert!(asked.iter().all(|attributes| attributes.verb == verb), "{path}");
            assert_eq!(asked.iter().map(|a| a.subresource).collect::<Vec<_>>(), subresources, "{path}");
        }
    }
}
