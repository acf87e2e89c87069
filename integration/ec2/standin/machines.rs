//! The bridge: for each instance that moto makes, a machine of the local cloud boots with its user data.
//!
//! ```text
//!  launched -> user data read -> booted (LocalCloud) -> Up ── ended by itself ─> Gone, and ended in moto
//!                                                        └─── ended by the API ─> Gone
//! ```
//!
//! The local cloud's machine is what an image with Pilotlight's parts would be: containerd and the agent's
//! program are there, nothing is configured. Of cloud-init the two modules that the product's user data
//! uses are carried out, `write_files` and `runcmd` with `systemctl daemon-reload` and `systemctl start` of
//! a unit among the written files; anything else fails the boot loudly, as a machine whose console says so.

use super::{
    identity,
    instances::{Instance, Machine},
    prices::Market,
    server::machine_is,
    world::World,
};
use pilotlight::{
    cloud::local::{FileToWrite, GivenMachine, LocalCloud, UserData, service},
    model::{HourlyPrice, InstanceId, InstanceState, InstanceType},
    ports::Cloud,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::mpsc;

/// How often the machines are looked at: a look is a read of /proc for each.
const LOOK: Duration = Duration::from_millis(100);

pub struct Machines {
    orders: mpsc::UnboundedSender<Order>,
}

pub(super) enum Order {
    Boot(Box<Instance>),
    End(Vec<String>),
}

#[derive(Deserialize)]
struct CloudConfig {
    #[serde(default)]
    write_files: Vec<Written>,
    #[serde(default)]
    runcmd: Vec<Vec<String>>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    path: String,
    #[serde(default)]
    content: String,
    /// cloud-init's default.
    #[serde(default = "readable")]
    permissions: String,
}

fn readable() -> String {
    "0644".to_owned()
}

impl Machines {
    /// Who asks, and what carries it out ([`run`]).
    pub fn new() -> (Self, Orders) {
        let (orders, taken) = mpsc::unbounded_channel();
        (Self { orders }, Orders(taken))
    }

    pub fn boot(&self, instance: &Instance) {
        // A stand-in that is ending boots nothing more.
        let _ = self.orders.send(Order::Boot(Box::new(instance.clone())));
    }

    pub fn end(&self, ids: &[String]) {
        let _ = self.orders.send(Order::End(ids.to_vec()));
    }
}

pub struct Orders(pub(super) mpsc::UnboundedReceiver<Order>);

/// Carries out orders and tells the world what became of the machines, until the world is gone.
pub async fn run(mut orders: Orders, cloud: LocalCloud, world: Weak<World>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known: BTreeMap<String, Machine> = BTreeMap::new();
    loop {
        tokio::select! {
            order = orders.0.recv() => match (order, world.upgrade()) {
                (Some(Order::Boot(instance)), Some(world)) => {
                    let id = instance.id.clone();
                    match boot(&cloud, &instance, &world.market).await {
                        Ok(()) => drop(known.insert(id, Machine::Awaited)),
                        Err(error) => {
                            tracing::error!(instance = id, error, "the machine can't be booted");
                            machine_is(&world, &id, Machine::Gone).await;
                        }
                    }
                }
                (Some(Order::End(ids)), Some(_)) => {
                    let ids: Vec<InstanceId> = ids.into_iter().map(InstanceId::new).collect();
                    if let Err(error) = cloud.terminate(&ids).await {
                        tracing::error!(error = &error as &dyn std::error::Error, "machines can't be ended");
                    }
                }
                _ => return,
            },
            _ = ticks.tick() => {
                let Some(world) = world.upgrade() else { return };
                look(&cloud, &world, &mut known).await;
            }
        }
    }
}

async fn look(cloud: &LocalCloud, world: &Arc<World>, known: &mut BTreeMap<String, Machine>) {
    if known.is_empty() {
        return;
    }
    let records = match cloud.describe().await {
        Ok(records) => records,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the machines can't be looked at");
            return;
        }
    };
    let mut gone: BTreeSet<String> = known.keys().cloned().collect();
    for record in records {
        let id = record.id.as_str();
        let now = match record.state {
            InstanceState::Pending => Machine::Awaited,
            InstanceState::Running | InstanceState::ShuttingDown => Machine::Up,
            InstanceState::Terminated => continue,
        };
        gone.remove(id);
        if known.get(id).is_some_and(|before| *before != now) {
            known.insert(id.to_owned(), now);
            if now == Machine::Up {
                world.state().calls.booted += 1;
            }
            machine_is(world, id, now).await;
        }
    }
    for id in gone {
        known.remove(&id);
        machine_is(world, &id, Machine::Gone).await;
    }
}

async fn boot(cloud: &LocalCloud, instance: &Instance, market: &Market) -> Result<(), String> {
    let user_data = carried_out(&identity::decoded(&instance.user_data).unwrap_or_default())?;
    let name = &instance.pool.instance_type;
    let (cpus, memory_bytes) = market.size(name).ok_or_else(|| format!("the size of {name} is not known"))?;
    let given = GivenMachine {
        id: InstanceId::new(&*instance.id),
        zone: instance.pool.zone.clone(),
        instance_type: InstanceType {
            name: name.clone(),
            cpu_millis: u64::from(cpus) * 1000,
            memory_bytes,
            price: HourlyPrice(0),
        },
        address: instance.address,
        pod_address: instance.secondary.first().copied(),
        user_data,
    };
    cloud.boot_given(given).await.map_err(|error| error.to_string())
}

/// What the user data comes to: files, and services that run. Pure.
pub(super) fn carried_out(text: &str) -> Result<UserData, String> {
    if text.is_empty() {
        return Ok(UserData { write_files: Vec::new(), services: Vec::new() });
    }
    if text.lines().next() != Some("#cloud-config") {
        return Err("the user data is no #cloud-config".to_owned());
    }
    let document: CloudConfig =
        serde_saphyr::from_str(text).map_err(|error| format!("the user data can't be read: {error}"))?;
    if let Some(key) = document.other.keys().next() {
        return Err(format!("the stand-in does not know cloud-init's {key}"));
    }
    let mut services = Vec::new();
    for command in &document.runcmd {
        let words: Vec<&str> =
            command.iter().map(String::as_str).filter(|w| *w != "--no-block" && *w != "--now").collect();
        match words.as_slice() {
            ["systemctl", "daemon-reload"] => {}
            ["systemctl", "start" | "enable", unit] => services.push(started(unit, &document.write_files)?),
            _ => return Err(format!("the stand-in can't run {command:?}")),
        }
    }
    let write_files = document
        .write_files
        .into_iter()
        .map(|file| FileToWrite { path: file.path, permissions: file.permissions, content: file.content })
        .collect();
    Ok(UserData { write_files, services })
}

fn started(unit: &str, files: &[Written]) -> Result<pilotlight::cloud::local::Service, String> {
    let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    let file = files
        .iter()
        .find(|file| file.path == format!("/etc/systemd/system/{unit}"))
        .ok_or_else(|| format!("{unit} is not among the files that the user data writes"))?;
    let command = file
        .content
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .ok_or_else(|| format!("{unit} has no ExecStart"))?;
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    Ok(service(unit.trim_end_matches(".service"), &words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "#cloud-config
write_files:
- path: /etc/pilotlight/agent.yaml
  permissions: '0600'
  content: 'cloud: ec2'
- path: /etc/systemd/system/pilotlight-agent.service
  content: |
    [Service]
    ExecStart=/opt/pilotlight/pilotlight-agent --config /etc/pilotlight/agent.yaml
    Restart=always
runcmd:
- [systemctl, daemon-reload]
- [systemctl, start, --no-block, pilotlight-agent.service]
";

    #[test]
    fn files_are_written_and_a_started_unit_becomes_a_service() {
        let data = carried_out(DATA).unwrap();
        assert_eq!(data.write_files[0].permissions, "0600");
        assert_eq!(data.write_files[1].permissions, "0644");
        assert_eq!(data.services.len(), 1);
        assert_eq!(data.services[0].name, "pilotlight-agent");
        assert_eq!(
            data.services[0].command,
            ["/opt/pilotlight/pilotlight-agent", "--config", "/etc/pilotlight/agent.yaml"]
        );
    }

    #[test]
    fn what_is_not_understood_fails_the_boot_and_is_named() {
        for (from, to, named) in [
            ("#cloud-config", "#!/bin/sh", "#cloud-config"),
            ("daemon-reload", "isolate", "isolate"),
            ("runcmd:", "bootcmd: []\nruncmd:", "bootcmd"),
            ("ExecStart", "ExecReload", "ExecStart"),
            ("start, --no-block, pilotlight", "start, --no-block, another", "another"),
        ] {
            let error = carried_out(&DATA.replace(from, to)).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
