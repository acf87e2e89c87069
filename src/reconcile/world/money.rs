//! What everything costs now.

use super::{
    World,
    placing::{offer, tagged},
};
use crate::decide::purchase::{Demand, Running, bill};
use crate::model::{HourlyPrice, Purchase};

/// An instance, as its costs are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its Pod's; empty while it has none.
    pub namespace: String,
    pub class: String,
    pub purchase: Purchase,
    pub instance_type: String,
    pub zone: String,
    pub state: &'static str,
    pub hourly: HourlyPrice,
    /// The same type's on demand, as the catalog has it.
    pub on_demand: HourlyPrice,
}

impl World {
    /// All instances that are paid for, each at what it costs now: commitments cover another when what they
    /// covered has ended.
    pub fn holdings(&self) -> Vec<Holding> {
        let live: Vec<_> = self
            .instances
            .values()
            .filter(|entry| entry.gone.is_none())
            .map(|entry| {
                let pod = entry.pod.as_ref().and_then(|uid| self.pods.get(uid));
                let class =
                    pod.map_or_else(|| tagged(&entry.record).to_owned(), |pod| self.class_of(pod, &entry.record));
                (entry, pod, class, offer(&entry.record))
            })
            .collect();
        let running = live.iter().map(|(entry, pod, class, offer)| Running {
            offer,
            zone: &entry.record.zone,
            class,
            demand: pod.map(|pod| -> &Demand { &pod.wants }),
            launched_at: entry.record.launched_at,
        });
        let running: Vec<Running> = running.collect();
        let prices = bill(&self.config.buying.policy, &self.market, &running);
        live.iter()
            .zip(prices)
            .map(|((entry, pod, class, _), hourly)| {
                let record = &entry.record;
                let known = self.market.catalog.types.iter().find(|t| t.name == record.instance_type);
                Holding {
                    namespace: pod.map(|pod| pod.seen.intent.name.namespace.clone()).unwrap_or_default(),
                    class: class.clone(),
                    purchase: record.purchase,
                    instance_type: record.instance_type.clone(),
                    zone: record.zone.clone(),
                    state: match (entry.ending.is_some(), pod, entry.ever_connected) {
                        (true, _, _) => "ending",
                        (false, Some(_), _) => "bound",
                        (false, None, true) => "ready",
                        (false, None, false) => "booting",
                    },
                    hourly,
                    on_demand: known.map_or(record.price, |t| t.on_demand),
                }
            })
            .collect()
    }
}
