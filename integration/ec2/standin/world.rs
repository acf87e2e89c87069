//! What the stand-in holds, beside moto.

use super::{
    calls::Calls,
    iam::Policy,
    imds::Metadata,
    instances::{Instances, Subnet},
    limits::{Bucket, Buckets},
    machines::Machines,
    moto::Moto,
    params::Params,
    prices::Market,
    roles::Roles,
    script::Script,
    tokens::Tokens,
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub struct World {
    pub moto: Moto,
    pub market: Market,
    pub region: String,
    pub account: String,
    pub zones: Vec<String>,
    /// None: instances are records alone.
    pub machines: Option<Machines>,
    /// The path of its queue's URL.
    pub queue: String,
    /// What the provider may do. None: everything.
    pub iam: Option<Policy>,
    /// moto fails at times on two launches into a subnet at once; and a client token's second request
    /// must find the first one's answer.
    pub launching: Gates,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub script: Script,
    pub instances: Instances,
    /// Instances of somebody else of the account: records of moto's alone.
    pub others: BTreeSet<String>,
    pub buckets: Buckets,
    pub tokens: Tokens,
    pub calls: Calls,
    /// LaunchTemplateData by template id and version, and ids by name.
    pub templates: BTreeMap<String, Template>,
    pub subnets: BTreeMap<String, (Subnet, String)>,
    pub metadata: Metadata,
    pub roles: Roles,
}

impl State {
    /// Takes tokens; whether there were too few of them and that counts.
    pub fn throttles(&mut self, bucket: Bucket, tokens: u32, now: Timestamp) -> bool {
        !self.buckets.take(bucket, tokens, now) && self.script.limits
    }

    /// Notes which instances have reached their end, and forgets those that ended long ago.
    pub fn tick(&mut self, now: Timestamp) {
        for id in self.instances.tick(&self.script, now) {
            self.metadata.forget(&id);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Template {
    pub name: String,
    pub versions: Vec<Params>,
    /// As it was made with: nobody changes them here.
    pub tags: BTreeMap<String, String>,
}

impl Template {
    /// The one that a request names, by id or name.
    pub fn find<'a>(all: &'a BTreeMap<String, Self>, named: &Params) -> Option<(&'a String, &'a Self)> {
        match (named.get("LaunchTemplateId"), named.get("LaunchTemplateName")) {
            (Some(id), _) => all.get_key_value(id),
            (None, name) => all.iter().find(|(_, template)| Some(template.name.as_str()) == name),
        }
    }

    /// What it says in the version that a request names.
    pub fn version(&self, named: &Params) -> Option<&Params> {
        let number = match named.get("Version") {
            None | Some("$Default") => 1,
            Some("$Latest") => self.versions.len(),
            Some(number) => number.parse().ok()?,
        };
        self.versions.get(number.checked_sub(1)?)
    }
}

impl World {
    pub fn new(
        moto: Moto,
        market: Market,
        region: String,
        account: String,
        zones: Vec<String>,
        machines: Option<Machines>,
        state: State,
    ) -> Self {
        let (launching, state) = (Gates::default(), Mutex::new(state));
        Self { moto, market, region, account, zones, machines, queue: String::new(), iam: None, launching, state }
    }

    /// Not to be held across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One way through at a time, by name.
#[derive(Default)]
pub struct Gates(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Gates {
    pub async fn pass(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let gate = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(name.to_owned()).or_default())
        };
        gate.lock_owned().await
    }
}

/// An id as AWS makes them: 17 hexadecimal digits.
pub fn new_id(kind: &str) -> String {
    let digits: String = rand::random::<[u8; 9]>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}-{}", &digits[..17])
}

/// A UUID's form.
pub fn request_id() -> String {
    let d: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..])
}

pub fn now() -> Timestamp {
    Timestamp::now()
}
