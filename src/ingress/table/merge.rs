//! The routes of all Ingresses joined.
//!
//! A host belongs to one Ingress: the oldest that names it (then the first by name), so that nobody takes over
//! another's host by naming it later. The later one serves its other hosts and says in its status what it lacks.

use super::{ANY_HOST, Compiled, Route, Routes, Table, Visibility};
use crate::model::ObjectName;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// An Ingress as `merge` needs it.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its creation, in seconds since 1970.
    pub created: i64,
    pub compiled: Arc<Compiled>,
}

/// A host that an Ingress names and does not get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host {host:?} belongs to Ingress {}/{}, which is older", .by.namespace, .by.name)]
pub struct Taken {
    pub host: String,
    pub by: ObjectName,
}

/// The table, and for each Ingress the first host that it does not get.
pub fn merge<'a>(owners: impl IntoIterator<Item = &'a Owner>) -> (Table, BTreeMap<ObjectName, Taken>) {
    let mut sorted: Vec<&Owner> = owners.into_iter().collect();
    sorted.sort_by(|a, b| (a.created, &a.compiled.source.name).cmp(&(b.created, &b.compiled.source.name)));
    let mut table = Table::default();
    let mut owned: HashMap<&str, &ObjectName> = HashMap::new();
    let mut taken = BTreeMap::new();
    for owner in sorted {
        let name = &owner.compiled.source.name;
        for rule in &owner.compiled.rules {
            let any = rule.hosts.is_empty().then_some(ANY_HOST);
            for host in rule.hosts.iter().map(String::as_str).chain(any) {
                let by = *owned.entry(host).or_insert(name);
                if by != name {
                    let host = if host == ANY_HOST { "*" } else { host }.to_owned();
                    taken.entry(name.clone()).or_insert_with(|| Taken { host, by: by.clone() });
                    continue;
                }
                if rule.visibility == Visibility::External {
                    table.external.entry(host.to_owned()).or_default().extend(rule.routes.iter().cloned());
                }
                table.internal.entry(host.to_owned()).or_default().extend(rule.routes.iter().cloned());
            }
        }
    }
    table.external.values_mut().chain(table.internal.values_mut()).for_each(sort);
    (table, taken)
}

fn sort(routes: &mut Routes) {
    // Stable: what was declared first stays first among equals.
    routes.sort_by_key(|route: &Arc<Route>| Reverse(route.prefix.len()));
}
