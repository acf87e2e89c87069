//! The types that may be launched, with what a launch must know of them. More may join while a provider runs.

use super::config::TypeFacts;
use crate::decide::purchase::TypeSpec;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

pub type Facts = BTreeMap<String, TypeFacts>;

/// None ever leaves: instances of a type that is bought no more may still live.
#[derive(Debug, Default)]
pub struct Types(RwLock<Arc<Facts>>);

impl Types {
    pub fn new(facts: Facts) -> Self {
        Self(RwLock::new(Arc::new(facts)))
    }

    pub fn now(&self) -> Arc<Facts> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is said later of a type that is known stands.
    pub fn add(&self, specs: &[TypeSpec]) {
        let mut facts = (*self.now()).clone();
        facts.extend(specs.iter().map(|spec| (spec.name.clone(), TypeFacts::from(spec))));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }
}

impl From<&TypeSpec> for TypeFacts {
    fn from(spec: &TypeSpec) -> Self {
        Self { architecture: spec.architecture, burstable: spec.burst.is_some(), on_demand: spec.on_demand }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::purchase::policy::Architecture;
    use crate::model::HourlyPrice;

    #[test]
    fn types_join_and_none_leaves() {
        let spec = |name: &str, price| TypeSpec {
            name: name.to_owned(),
            architecture: Architecture::Amd64,
            cpu_millis: 2000,
            memory_bytes: 4 << 30,
            on_demand: HourlyPrice(price),
            burst: None,
        };
        let types = Types::default();
        types.add(&[spec("c6i.large", 1), spec("m6i.large", 2)]);
        let before = types.now();
        types.add(&[spec("c6i.large", 3), spec("c6i.xlarge", 4)]);
        let prices: Vec<_> = types.now().iter().map(|(name, facts)| (name.clone(), facts.on_demand.0)).collect();
        assert_eq!(prices, [("c6i.large".to_owned(), 3), ("c6i.xlarge".to_owned(), 4), ("m6i.large".to_owned(), 2)]);
        assert_eq!(before.len(), 2, "who has taken them keeps what was");
    }
}
