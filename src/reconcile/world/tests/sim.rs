//! An API server, a cloud and agents in memory, which outlive the provider.

mod invariants;
mod machine;
mod shop;

pub use shop::{buying, class, config};

use super::super::{ADOPTION, Effect, EndAnswer, Fact, World, WorldConfig};
use crate::decide::{
    desired::Refs,
    fixtures::{at, container_spec, instance, intent},
    placement::{BatchWindow, Order},
    purchase::Buying,
    status::{PodStatus, Recorded},
};
use crate::model::{
    Announced, ContainerKind, ContainerState, Deletion, DesiredPod, InstanceId, InstanceRecord, InstanceState,
    NodeName, Notice, PodIntent, PodSpec, PodUid, RestartPolicy, Shortage, Termination, tag,
};
use crate::ports::PodSeen;
use jiff::{SignedDuration, Timestamp};
use machine::{Held, Machine, Object};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

const GRACE: u64 = 5;

pub struct Sim {
    world: World,
    config: WorldConfig,
    now: Timestamp,
    crashed_at: Timestamp,
    objects: BTreeMap<PodUid, Object>,
    machines: BTreeMap<InstanceId, Machine>,
    /// Launch calls whose answer is on its way.
    launching: Vec<(u64, Order)>,
    terminate_fails: bool,
    /// What the cloud's descriptions miss.
    hidden: BTreeSet<InstanceId>,
    effects: VecDeque<Effect>,
    at_work: bool,
    /// The Eviction API says no (a PodDisruptionBudget).
    pub evictions_refused: bool,
    made: u32,
    pub launched: usize,
    /// How handovers came to their switch.
    pub handed_over: Vec<&'static str>,
    /// Reasons of events, in their order.
    pub told: Vec<String>,
    /// Codes of instances that never served, in their order.
    pub failed: Vec<String>,
    /// What happened that must not.
    pub wrongs: Vec<String>,
}

impl Sim {
    pub fn new() -> Self {
        Self::buying(buying())
    }

    pub fn buying(buying: Buying) -> Self {
        Self::of(WorldConfig { buying: Arc::new(buying), ..config() })
    }

    /// Launches wait for a burst's other Pods, by these seconds.
    pub fn gathering(idle: i64, longest: i64) -> Self {
        let [idle, longest] = [idle, longest].map(SignedDuration::from_secs);
        Self::of(WorldConfig { batch_window: BatchWindow { idle, longest }, ..config() })
    }

    fn of(config: WorldConfig) -> Self {
        let now = at(1000);
        let mut sim = Self {
            world: World::new(config.clone(), now),
            config,
            now,
            crashed_at: now,
            objects: BTreeMap::new(),
            machines: BTreeMap::new(),
            launching: Vec::new(),
            terminate_fails: false,
            hidden: BTreeSet::new(),
            effects: VecDeque::new(),
            at_work: false,
            evictions_refused: false,
            made: 0,
            launched: 0,
            handed_over: Vec::new(),
            told: Vec::new(),
            failed: Vec::new(),
            wrongs: Vec::new(),
        };
        sim.list();
        sim.describe();
        sim
    }

    /// What a provider does first: list the Pods, and then ask the cloud.
    fn list(&mut self) {
        for uid in self.objects.keys().cloned().collect::<Vec<_>>() {
            self.show(&uid);
        }
        self.fact(Fact::Synced(NodeName::new("pilotlight-a")));
    }

    // --- what happens outside ---

    pub fn create(&mut self, cpu_millis: u64) {
        self.create_pod(cpu_millis, RestartPolicy::Never, None);
    }

    /// One that may run twice for a moment.
    pub fn create_movable(&mut self) {
        self.create_pod(1000, RestartPolicy::Always, Some("ReplicaSet"));
    }

    pub fn create_pod(&mut self, cpu_millis: u64, restart_policy: RestartPolicy, owner: Option<&str>) {
        self.made += 1;
        let mut main = container_spec("main", ContainerKind::App);
        main.requests.cpu_millis = Some(cpu_millis);
        let spec =
            PodSpec { containers: vec![main], restart_policy, termination_grace_seconds: GRACE, ..PodSpec::empty() };
        let owner = owner.map(|kind| (kind.to_owned(), "owner".to_owned()));
        let intent = Arc::new(PodIntent { owner, ..intent(&format!("pod-{:03}", self.made), spec) });
        let uid = intent.uid.clone();
        self.objects.insert(uid.clone(), Object { intent, status: None });
        self.show(&uid);
    }

    pub fn delete(&mut self, n: usize, force: bool) {
        let Some(uid) = nth(&self.objects, n) else { return };
        if force {
            self.objects.remove(&uid);
            self.fact(Fact::Gone(uid));
            return;
        }
        let Some(object) = self.objects.get_mut(&uid) else { return };
        if object.intent.deletion.is_none() {
            let deadline = self.now.saturating_add(SignedDuration::from_secs(5)).expect("a time");
            let deletion = Some(Deletion { deadline, grace_seconds: GRACE });
            object.intent = Arc::new(PodIntent { deletion, ..(*object.intent).clone() });
        }
        self.show(&uid);
    }

    /// Somebody annotates it.
    pub fn annotate(&mut self, n: usize, key: &str, value: &str) {
        let Some(uid) = nth(&self.objects, n) else { return };
        if let Some(object) = self.objects.get_mut(&uid) {
            let mut intent = (*object.intent).clone();
            Arc::make_mut(&mut intent.annotations).insert(key.to_owned(), value.to_owned());
            object.intent = Arc::new(intent);
        }
        self.show(&uid);
    }

    /// The cloud announces something to a machine; what is there already is left alone.
    pub fn announce(&mut self, n: usize, notice: Notice) {
        if let Some(id) = self.noted(n, notice) {
            self.tell_notices(&id);
        }
    }

    /// The same, and it is the provider that hears it; the agent says it when it is next asked.
    pub fn announce_to_us(&mut self, n: usize, notice: Notice) {
        if let Some(instance) = self.noted(n, notice)
            && let Some(notice) = self.machines[&instance].notices.first().cloned()
        {
            self.fact(Fact::Announced(Announced { instance, notice }));
        }
    }

    /// The cloud takes back what it announced, and the agent says so.
    pub fn withdraw(&mut self, n: usize) {
        self.withdraw_silently(n);
        if let Some(id) = nth(&self.machines, n) {
            self.tell_notices(&id);
        }
    }

    /// The same, and nobody says anything.
    pub fn withdraw_silently(&mut self, n: usize) {
        if let Some(machine) = nth(&self.machines, n).and_then(|id| self.machines.get_mut(&id)) {
            machine.notices.clear();
        }
    }

    fn noted(&mut self, n: usize, notice: Notice) -> Option<InstanceId> {
        let id = nth(&self.machines, n)?;
        if let Some(machine) = self.machines.get_mut(&id).filter(|m| m.lives() && m.notices.is_empty()) {
            machine.notices = vec![notice];
        }
        Some(id)
    }

    /// The machine of the Pod, by the API server's word.
    pub fn machine_of(&self, n: usize) -> Option<usize> {
        let object = self.objects.values().nth(n)?;
        let id = object.status.as_ref()?.instance()?;
        self.machines.keys().position(|machine| machine.as_str() == id)
    }

    pub fn status(&self, n: usize) -> Option<&PodStatus> {
        self.objects.values().nth(n)?.status.as_ref()
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    fn tell_notices(&mut self, id: &InstanceId) {
        let Some(machine) = self.machines.get(id).filter(|m| m.connected && m.lives()) else { return };
        let notices = machine.notices.clone();
        self.fact(Fact::Notices { instance: id.clone(), notices });
    }

    pub fn echo(&mut self, n: usize) {
        if let Some(uid) = nth(&self.objects, n) {
            self.show(&uid);
        }
    }

    fn show(&mut self, uid: &PodUid) {
        let Some(object) = self.objects.get(uid) else { return };
        let seen = PodSeen {
            intent: Arc::clone(&object.intent),
            status: object.status.clone().map(Arc::new),
            gates: BTreeMap::new(),
            unhonoured: Vec::new(),
        };
        self.fact(Fact::Seen(Box::new(seen)));
    }

    pub fn launch_returns(&mut self, well: bool) {
        if self.launching.is_empty() {
            return;
        }
        let (number, order) = self.launching.remove(0);
        let records = if well { self.make_machines(&order) } else { Vec::new() };
        let failure = (!well).then(|| "none left".to_owned());
        self.fact(Fact::Launched { order: number, records, shortages: Vec::new(), failure });
    }

    /// The cloud has none of the best offer.
    pub fn launch_is_short(&mut self) {
        if self.launching.is_empty() {
            return;
        }
        let (number, order) = self.launching.remove(0);
        let shortage = Shortage {
            purchase: Some(order.offers[0].purchase),
            instance_type: Some(order.offers[0].instance_type.clone()),
            zone: Some(order.zone),
            code: "InsufficientInstanceCapacity".to_owned(),
            message: "none left".to_owned(),
        };
        self.fact(Fact::Launched { order: number, records: Vec::new(), shortages: vec![shortage], failure: None });
    }

    /// The types that are being launched, the best of each order.
    pub fn asked(&self) -> Vec<String> {
        self.launching.iter().map(|(_, order)| order.offers[0].instance_type.clone()).collect()
    }

    /// What the API server says of why a Pod waits.
    pub fn reason(&self, n: usize) -> Option<String> {
        self.objects.values().nth(n)?.status.as_ref()?.reason.clone()
    }

    fn make_machines(&mut self, order: &Order) -> Vec<InstanceRecord> {
        let live = self.machines.values().filter(|m| m.lives()).count() + order.count as usize;
        for limit in &self.config.buying.policy.limits {
            if limit.max_instances.is_some_and(|max| live > max as usize) {
                self.wrongs.push(format!("{live} instances live: {limit:?}"));
            }
        }
        let mut records = Vec::new();
        for _ in 0..order.count {
            self.launched += 1;
            let best = &order.offers[0];
            let record = InstanceRecord {
                instance_type: best.instance_type.clone(),
                purchase: best.purchase,
                price: best.price,
                zone: order.zone.clone(),
                tags: Arc::new([(tag::CLASS.to_owned(), order.class.clone())].into()),
                ..instance(&format!("i-{:03}", self.launched), self.now)
            };
            records.push(record.clone());
            let machine =
                Machine { record, connected: false, mute: false, on_its_way: None, holds: None, notices: Vec::new() };
            self.machines.insert(machine.record.id.clone(), machine);
        }
        records
    }

    pub fn connect(&mut self, n: usize) {
        let Some(id) = nth(&self.machines, n) else { return };
        let able = |m: &&mut Machine| m.lives() && !m.connected && !m.mute;
        let Some(machine) = self.machines.get_mut(&id).filter(able) else { return };
        machine.connected = true;
        let holds = machine.holds.as_ref().map(|h| (h.desired.uid.clone(), h.desired.generation));
        self.fact(Fact::Connected { instance: id.clone(), holds });
        self.tell(&id);
        self.tell_notices(&id);
    }

    pub fn disconnect(&mut self, n: usize) {
        let Some(id) = nth(&self.machines, n) else { return };
        if let Some(machine) = self.machines.get_mut(&id).filter(|m| m.connected) {
            machine.connected = false;
            machine.on_its_way = None;
            self.fact(Fact::Disconnected(id));
        }
    }

    pub fn agent_acts(&mut self, n: usize) {
        let Some(id) = nth(&self.machines, n) else { return };
        self.arrive(&id);
        let now = self.now;
        let Some(held) = self.machines.get_mut(&id).filter(|m| m.lives()).and_then(|m| m.holds.as_mut()) else {
            return;
        };
        if held.desired.stop.is_some() {
            if matches!(held.state, Some(ContainerState::Running { .. })) {
                held.state = Some(exited(137, now));
            }
            held.terminated = true;
        } else if held.state.is_none() || held.restarts() {
            held.state = Some(ContainerState::Running { started_at: now });
        }
        self.tell(&id);
    }

    pub fn container_ends(&mut self, n: usize) {
        let Some(id) = nth(&self.machines, n) else { return };
        self.arrive(&id);
        let now = self.now;
        let Some(held) = self.machines.get_mut(&id).filter(|m| m.lives()).and_then(|m| m.holds.as_mut()) else {
            return;
        };
        if matches!(held.state, Some(ContainerState::Running { .. })) {
            held.state = Some(exited(0, now));
        }
        self.tell(&id);
    }

    /// The agent reports, if it is heard.
    fn tell(&mut self, id: &InstanceId) {
        let Some(machine) = self.machines.get(id).filter(|m| m.connected) else { return };
        if let Some(held) = &machine.holds {
            let report = Box::new(held.report());
            self.fact(Fact::Report { instance: id.clone(), report });
        }
    }

    pub fn machine_dies(&mut self, n: usize) {
        if let Some(id) = nth(&self.machines, n) {
            self.end_machine(&id);
        }
    }

    fn end_machine(&mut self, id: &InstanceId) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        machine.record.state = InstanceState::Terminated;
        if std::mem::take(&mut machine.connected) {
            self.fact(Fact::Disconnected(id.clone()));
        }
    }

    /// It ends by itself, for a reason that the cloud says.
    pub fn machine_fails(&mut self, n: usize, reason: &str) {
        let Some(id) = nth(&self.machines, n) else { return };
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.record.state_reason = Some(reason.to_owned());
        }
        self.end_machine(&id);
    }

    /// Its agent is never heard again, and the cloud sees nothing of it.
    pub fn agent_dies(&mut self, n: usize) {
        self.disconnect(n);
        if let Some(machine) = nth(&self.machines, n).and_then(|id| self.machines.get_mut(&id)) {
            machine.mute = true;
        }
    }

    /// Somebody stops the machine.
    pub fn stop_machine(&mut self, n: usize) {
        self.disconnect(n);
        self.set_state(n, InstanceState::ShuttingDown);
    }

    /// Somebody starts one that was stopped.
    pub fn start_machine(&mut self, n: usize) {
        self.set_state(n, InstanceState::Running);
    }

    pub fn set_state(&mut self, n: usize, state: InstanceState) {
        if let Some(machine) = nth(&self.machines, n).and_then(|id| self.machines.get_mut(&id)) {
            machine.record.state = state;
        }
    }

    /// The cloud's descriptions miss the machine, or have it again.
    pub fn hide(&mut self, n: usize, hidden: bool) {
        let Some(id) = nth(&self.machines, n) else { return };
        if hidden {
            self.hidden.insert(id)
        } else {
            self.hidden.remove(&id)
        };
    }

    pub fn living(&self) -> usize {
        self.machines.values().filter(|machine| machine.lives()).count()
    }

    pub fn describe(&mut self) {
        let round = self.world.begin_round();
        let seen = self.machines.values().filter(|m| !self.hidden.contains(&m.record.id));
        let records = seen.map(|m| m.record.clone()).collect();
        self.fact(Fact::Instances { round, records });
    }

    pub fn terminate_fails_next(&mut self) {
        self.terminate_fails = true;
    }

    pub fn wait(&mut self, seconds: i64) {
        // Agents that live come back within the time that a provider gives them.
        let until = self.crashed_at.saturating_add(ADOPTION).expect("a time");
        let next = self.now.saturating_add(SignedDuration::from_secs(seconds)).expect("a time");
        if self.now < until && next >= until {
            for n in 0..self.machines.len() {
                self.connect(n);
            }
        }
        self.now = next;
        let due = |m: &Machine| m.lives() && m.taken_at().is_some_and(|at| at <= next);
        let taken: Vec<InstanceId> = self.machines.iter().filter(|(_, m)| due(m)).map(|(id, _)| id.clone()).collect();
        taken.iter().for_each(|id| self.end_machine(id));
        self.decide();
    }

    /// The provider dies and comes back; calls that were under way reach the cloud all the same.
    pub fn crash(&mut self) {
        self.crash_undescribed();
        self.describe();
    }

    /// The same, and the cloud takes its time to describe its instances: agents may be quicker.
    pub fn crash_undescribed(&mut self) {
        for (_, order) in std::mem::take(&mut self.launching) {
            self.make_machines(&order);
        }
        for machine in self.machines.values_mut() {
            machine.connected = false;
            machine.on_its_way = None;
        }
        self.crashed_at = self.now;
        self.world = World::new(self.config.clone(), self.now);
        self.list();
    }

    /// Everything that was begun comes to its end.
    pub fn settle(&mut self) {
        self.terminate_fails = false;
        for _ in 0..60 {
            self.turn();
        }
    }

    /// Everybody gets on, once.
    pub fn turn(&mut self) {
        while !self.launching.is_empty() {
            self.launch_returns(true);
        }
        for n in 0..self.machines.len() {
            self.connect(n);
            self.agent_acts(n);
        }
        self.describe();
        for n in 0..self.objects.len() {
            self.echo(n);
        }
        self.wait(2);
    }

    /// Whether something is on its way to the agent.
    pub fn is_sent_something(&self, n: usize) -> bool {
        self.machines.values().nth(n).is_some_and(|machine| machine.on_its_way.is_some())
    }

    /// How many machines run the Pod.
    pub fn holders(&self, n: usize) -> usize {
        let uid = nth(&self.objects, n).expect("it exists");
        self.machines.values().filter(|m| m.holds(&uid)).count()
    }

    /// Whether a machine's container runs.
    pub fn serving(&self, machine: &str) -> bool {
        let machine = self.machines.get(&InstanceId::new(machine));
        machine.is_some_and(|m| m.holds.as_ref().is_some_and(|h| m.serves(&h.desired.uid)))
    }

    pub fn serving_at(&self, n: usize) -> bool {
        nth(&self.machines, n).is_some_and(|id| self.serving(id.as_str()))
    }

    // --- the provider's side ---

    fn fact(&mut self, fact: Fact) {
        self.world.apply(fact, self.now);
        self.decide();
    }

    fn decide(&mut self) {
        self.effects.extend(self.world.decide(self.now));
        // What an effect brings about is decided on at once, and carried out in its turn, as by the engine.
        if std::mem::replace(&mut self.at_work, true) {
            return;
        }
        while let Some(effect) = self.effects.pop_front() {
            self.carry_out(effect);
        }
        self.at_work = false;
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Status { uid, status, .. } => {
                if let Some(object) = self.objects.get_mut(&uid) {
                    let before = object.status.as_ref().map(|s| s.phase);
                    if before.is_some_and(|p| p.is_terminal() && p != status.phase) {
                        self.wrongs.push(format!("{uid}: {before:?} became {:?}", status.phase));
                    }
                    let was = object.status.as_ref().and_then(PodStatus::instance).map(InstanceId::new);
                    let is = status.instance().map(InstanceId::new);
                    object.status = Some(Arc::unwrap_or_clone(status));
                    self.check_switch(&uid, was, is);
                }
            }
            Effect::Evict { uid, grace_seconds, force, .. } => {
                let Some(object) = self.objects.get_mut(&uid).filter(|_| force || !self.evictions_refused) else {
                    return;
                };
                if object.intent.deletion.is_none() {
                    let grace = SignedDuration::from_secs(i64::try_from(grace_seconds).expect("small"));
                    let deadline = self.now.saturating_add(grace).expect("a time");
                    let deletion = Some(Deletion { deadline, grace_seconds });
                    object.intent = Arc::new(PodIntent { deletion, ..(*object.intent).clone() });
                }
                self.show(&uid);
            }
            Effect::HandedOver { outcome, .. } => self.handed_over.push(outcome),
            Effect::Event(event, _) => self.told.push(event.reason),
            Effect::Delete { uid, .. } => {
                let Some(object) = self.objects.remove(&uid) else { return };
                if object.intent.deletion.is_none() {
                    self.wrongs.push(format!("{uid} was deleted although nobody asked for it"));
                }
                self.fact(Fact::Gone(uid));
            }
            Effect::Follow(intent) => self.fact(Fact::Refs(intent.uid.clone(), Arc::new(Refs::default()))),
            Effect::Desired(id, desired) => {
                self.judge(&id, &desired);
                // To one that is not connected it is lost at once.
                if let Some(machine) = self.machines.get_mut(&id).filter(|m| m.connected) {
                    machine.on_its_way = Some(desired);
                }
            }
            Effect::Launch(number, order) => self.launching.push((number, order)),
            Effect::Terminate(ids) => self.terminate(ids),
            // Its connection ends; if it lives after all, it comes again.
            Effect::ForgetAgent(id) => {
                if let Some(machine) = self.machines.get_mut(&id).filter(|m| m.connected) {
                    machine.connected = false;
                    machine.on_its_way = None;
                    self.fact(Fact::Disconnected(id));
                }
            }
            Effect::NeverRegistered { code, .. } => self.failed.push(code),
            Effect::Forget(_)
            | Effect::FellSilent(_)
            | Effect::Started(_)
            | Effect::Bound(_)
            | Effect::StandbyForbidden(..)
            | Effect::List { .. }
            | Effect::Unlist { .. } => {}
        }
    }

    /// What may not be sent, wherever it gets to.
    fn judge(&mut self, id: &InstanceId, desired: &DesiredPod) {
        let uid = &desired.uid;
        let others: Vec<&InstanceId> =
            self.machines.iter().filter(|(other, m)| *other != id && m.holds(uid)).map(|(other, _)| other).collect();
        let status = self.objects.get(uid).and_then(|object| object.status.as_ref());
        let recorded = status.and_then(PodStatus::handover);
        let own = status.and_then(PodStatus::instance).map(InstanceId::new);
        // A second one runs only while the API server's status names both.
        let named = match &recorded {
            Some(Recorded::Starting(other) | Recorded::Draining(other)) => {
                let all = [own.as_ref(), Some(other)];
                all.contains(&Some(id)) && others.iter().all(|other| all.contains(&Some(other)))
            }
            None => false,
        };
        if desired.stop.is_none() && !others.is_empty() && !named {
            self.wrongs.push(format!("{uid} runs on {others:?} and was sent to {id} too: {recorded:?}, {own:?}"));
        }
        let object = self.objects.get(uid);
        let lives_on = object
            .is_some_and(|o| o.intent.deletion.is_none() && !o.status.as_ref().is_some_and(|s| s.phase.is_terminal()));
        let failing = desired.stop.as_ref().is_some_and(|stop| stop.reason != "handover");
        if desired.stop.is_some() && lives_on && !failing && own.as_ref() == Some(id) {
            self.wrongs.push(format!("{uid} is stopped on {id}, which its status names"));
        }
    }

    /// An agent takes up a newer desired state of the same Pod; an instance serves one Pod in its life.
    fn arrive(&mut self, id: &InstanceId) {
        let Some(machine) = self.machines.get_mut(id).filter(|m| m.lives()) else { return };
        let Some(desired) = machine.on_its_way.take() else { return };
        let uid = &desired.uid;
        match &mut machine.holds {
            Some(held) if held.desired.uid != *uid => {
                self.wrongs.push(format!("{id} holds {} and was sent {uid}", held.desired.uid));
            }
            Some(held) if held.desired.generation < desired.generation => held.desired = desired,
            Some(held) if *held.desired != *desired => {
                self.wrongs.push(format!("{id} refuses {uid}: generation {:?}", desired.generation));
            }
            Some(_) => {}
            None => machine.holds = Some(Held { desired, state: None, terminated: false }),
        }
    }

    fn terminate(&mut self, ids: Vec<InstanceId>) {
        if std::mem::take(&mut self.terminate_fails) {
            return self.fact(Fact::Ended { ids, answer: EndAnswer::Failed });
        }
        self.fact(Fact::Ended { ids: ids.clone(), answer: EndAnswer::Taken });
        for id in ids {
            let Some(machine) = self.machines.get(&id) else { continue };
            let held = machine.holds.as_ref().filter(|h| machine.lives() && !h.terminated);
            if let Some(held) = held
                && let Some(object) = self.objects.get(&held.desired.uid)
                && object.intent.deletion.is_none()
                && !object.status.as_ref().is_some_and(|s| s.phase.is_terminal())
                && object.status.as_ref().and_then(PodStatus::instance).is_none_or(|own| own == id.as_str())
            {
                self.wrongs.push(format!("{id} was ended under the live Pod {}", held.desired.uid));
            }
            self.end_machine(&id);
        }
    }
}

fn exited(exit_code: i32, now: Timestamp) -> ContainerState {
    ContainerState::Terminated(Termination {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
        started_at: None,
        finished_at: now,
        container_id: None,
    })
}

fn nth<K: Clone + Ord, V>(map: &BTreeMap<K, V>, n: usize) -> Option<K> {
    map.keys().nth(n.checked_rem(map.len())?).cloned()
}
