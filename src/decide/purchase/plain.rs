//! Plain on-demand: the price that a policy's savings are measured against.
//!
//! What the same Pod would cost if its class bought everything on demand: the cheapest type that the class has and that
//! holds the Pod, not burstable. A class of burstable types alone (a reserve's) is measured by the types of the policy's
//! defaults, since the Pod would run on one of those without it. Caps, commitments and annotations do not count.

use super::Decision;
use super::market::TypeSpec;
use super::planner::Planner;
use super::policy::Architecture;

impl<'a> Planner<'a> {
    /// None where neither the class nor the defaults have such a type.
    pub fn plain_on_demand(&self, decision: &Decision, architecture: Option<Architecture>) -> Option<&'a TypeSpec> {
        let own = self.policy.classes.iter().position(|class| class.name == decision.class);
        let defaults = self.policy.classes.len().checked_sub(1);
        let holds = |spec: &TypeSpec| {
            let offered = spec.memory_bytes.saturating_sub(self.market.reserved_memory_bytes);
            spec.burst.is_none()
                && architecture.is_none_or(|wanted| wanted == spec.architecture)
                && spec.cpu_millis >= decision.cpu_millis
                && offered >= decision.memory_bytes
        };
        let cheapest = |class: usize| {
            let allowed = self.types.iter().zip(&self.classes[class].types).filter(|(_, verdict)| verdict.is_ok());
            allowed.map(|(spec, _)| *spec).filter(|spec| holds(spec)).min_by_key(|spec| (spec.on_demand, &spec.name))
        };
        own.and_then(cheapest).or_else(|| defaults.and_then(cheapest))
    }
}
