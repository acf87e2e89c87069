//! Which object is made by which: a Deployment's ReplicaSet and its Pods are counted with the Deployment.

use super::group;
use crate::decide::handover::causes::RESERVE;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Objects that are made by each other are no deeper: a Pod of a Knative Service is at the fifth remove.
const DEEPEST: usize = 16;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub group: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// What an object says of itself.
struct Given {
    controller: Option<Id>,
    /// Who makes controllers of that name, if it is not given itself.
    behind: Option<Id>,
    /// Among the workloads.
    workload: Option<usize>,
}

/// All objects that have a name.
#[derive(Default)]
pub(super) struct Objects(BTreeMap<Id, Given>);

impl Objects {
    pub(super) fn note(&mut self, id: Id, object: &Value) {
        let controller = controller(object, &id.namespace);
        let behind = controller.as_ref().and_then(|controller| behind(controller, object));
        self.0.entry(id).or_insert(Given { controller, behind, workload: None });
    }

    /// `at`: where it stands among the workloads.
    pub(super) fn is_workload(&mut self, id: &Id, at: usize) {
        if let Some(given) = self.0.get_mut(id) {
            given.workload = Some(at);
        }
    }

    /// The workloads that others make, at any remove.
    pub(super) fn made_by_workloads(&self) -> BTreeSet<usize> {
        let by = |given: &Given| {
            let by = given.controller.as_ref().and_then(|id| self.0.get(id));
            by.or_else(|| self.0.get(given.behind.as_ref()?))
        };
        let is_made = |given: &&Given| {
            // Objects that claim to be made by each other, in a circle, are no cluster's.
            let controllers = std::iter::successors(by(given), |given| by(given)).take(DEEPEST);
            controllers.into_iter().any(|controller| controller.workload.is_some())
        };
        self.0.values().filter(is_made).filter_map(|given| given.workload).collect()
    }
}

/// What the object is made by, as its ownerReferences say it. A reserve is kept beside what its owner makes.
fn controller(object: &Value, namespace: &str) -> Option<Id> {
    if object.pointer("/metadata/labels").is_some_and(|labels| labels.get(RESERVE).is_some()) {
        return None;
    }
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let controller = owners.iter().find(|owner| owner["controller"] == true)?;
    let text = |key: &str| controller[key].as_str();
    let (kind, name) = (text("kind")?, text("name")?);
    let group = group(kind, text("apiVersion"));
    Some(Id { group, kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Of a Pod's ReplicaSet `web-5d9c` the Deployment `web`, as the Pod's label says; of its Job `nightly-29384` the CronJob
/// `nightly`, which gives its Jobs the minute for a name.
fn behind(controller: &Id, object: &Value) -> Option<Id> {
    let Id { group, kind, namespace, name } = controller;
    let (stem, last) = name.rsplit_once('-')?;
    let of = |kind: &str| {
        Some(Id { group: group.clone(), kind: kind.to_owned(), namespace: namespace.clone(), name: stem.to_owned() })
    };
    match (group.as_str(), kind.as_str()) {
        ("apps", "ReplicaSet") if object.pointer("/metadata/labels/pod-template-hash").is_some_and(|h| h == last) => {
            of("Deployment")
        }
        ("batch", "Job") if last.bytes().all(|b| b.is_ascii_digit()) => of("CronJob"),
        _ => None,
    }
}
