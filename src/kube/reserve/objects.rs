//! The kinds of Serving that are followed, as they are on the wire, cut down to what is read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

macro_rules! resource {
    ($name:ident, $group:literal, $version:literal, $plural:literal) => {
        impl kube::Resource for $name {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($name).into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Revision, "serving.knative.dev", "v1", "revisions");
resource!(Route, "serving.knative.dev", "v1", "routes");
resource!(PodAutoscaler, "autoscaling.internal.knative.dev", "v1alpha1", "podautoscalers");

#[derive(Clone, Debug, Deserialize)]
pub struct Revision {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: RevisionSpec,
    #[serde(default)]
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RevisionSpec {
    pub container_concurrency: Option<i64>,
    pub timeout_seconds: Option<i64>,
}

/// Conditions are kept as they are: ours is written beside the others.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub conditions: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PodAutoscaler {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: Status,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Route {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub status: RouteStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    pub traffic: Option<Vec<Traffic>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    pub revision_name: Option<String>,
    pub percent: Option<i64>,
    pub tag: Option<String>,
}

impl Status {
    /// A condition's status, reason and time of its last transition.
    pub fn condition(&self, kind: &str) -> Option<(&str, &str, Option<jiff::Timestamp>)> {
        let found = self.conditions.iter().flatten().find(|c| c["type"] == kind)?;
        let text = |key: &str| found[key].as_str().unwrap_or_default();
        Some((text("status"), text("reason"), text("lastTransitionTime").parse().ok()))
    }
}
