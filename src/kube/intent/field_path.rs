//! Which paths the downward API gives, to env and to files.
//!
//! Source: pkg/apis/core/validation/validation.go, validEnvDownwardAPIFieldPathExpressions and
//! validVolumeDownwardAPIFieldPathExpressions; the subscripts: pkg/fieldpath.

use crate::model::FieldPath;

/// A path for an environment variable; None if there is no such field.
pub(super) fn for_env(api_version: Option<&str>, path: &str) -> Option<FieldPath> {
    let known = matches!(
        path,
        "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.serviceAccountName"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs"
    );
    valid(api_version, path, known)
}

/// A path for a file in a volume; None if there is no such field.
pub(super) fn for_file(api_version: Option<&str>, path: &str) -> Option<FieldPath> {
    let known = matches!(
        path,
        "metadata.name" | "metadata.namespace" | "metadata.uid" | "metadata.labels" | "metadata.annotations"
    );
    valid(api_version, path, known)
}

fn valid(api_version: Option<&str>, path: &str, known: bool) -> Option<FieldPath> {
    let version_known = matches!(api_version, None | Some("" | "v1"));
    (version_known && (known || subscripted(path))).then(|| FieldPath(path.to_owned()))
}

/// `metadata.labels['key']` or `metadata.annotations['key']`.
fn subscripted(path: &str) -> bool {
    let key = path.strip_suffix("']").and_then(|path| path.split_once("['"));
    key.is_some_and(|(of, key)| matches!(of, "metadata.labels" | "metadata.annotations") && !key.is_empty())
}
