//! The simulated world: machines, what processes really hold, and what the API server shows of it. Plain numbers: bytes
//! are `u64`, times are milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use kindling_envelope::ledger::{Reservation, State};

use crate::figures::Figures;
use crate::random::Random;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const SECOND: u64 = 1000;
/// The agent asks for so much more than a model needs: less on small machines.
pub const FLOOR: u64 = 8 * GIB;
/// The world's agents publish a change of so much.
const PUBLISHED_CHANGE: u64 = 256 * MIB;

pub struct Machine {
    pub total: u64,
    pub baseline: u64,
    pub others: u64,
    /// What others really take of it, from the beginning on.
    pub foreign: u64,
    /// Until when each is out.
    pub offline_until: u64,
    pub agent_out_until: u64,
    pub pressure_until: u64,
    pub cordoned_until: u64,
    /// What the API server has.
    pub ledger: Vec<Reservation>,
    /// Available, and when.
    pub published: Option<(u64, u64)>,
    /// What those said they hold who served when it was published, as far as they say it.
    pub holders: BTreeMap<String, u64>,
    pub returning: Vec<Returning>,
    /// When how much came back that no reservation waited for any more: it looks like another's.
    pub unclaimed: Vec<(u64, u64)>,
    /// When the measurement was made against which a release counts what comes back.
    pub released_against: BTreeMap<String, u64>,
    /// What each held that ended here last, as far as the ledger counts it.
    pub held_at_end: BTreeMap<String, u64>,
    /// Somebody emptied the ledger, and the operator has not written since.
    pub is_wiped: bool,
}

/// Memory that a process held that is gone.
#[derive(Debug)]
pub struct Returning {
    pub key: String,
    pub bytes: u64,
    /// Of these, what the ledger counts: what loading takes beside it is shared by all, and the agent's to wait for.
    pub counted: u64,
    pub back_at: u64,
    pub dead_at: u64,
    /// Nobody can know of it: the ledger was emptied, or the pod died before anybody saw it.
    pub is_unknown: bool,
    /// Its container began anew in the same pod: the reservation counts it once for both.
    pub is_of_restart: bool,
    /// Reservations that ended together.
    pub group: Option<usize>,
}

pub struct Process {
    pub name: String,
    pub model: String,
    pub node: String,
    pub reserved: u64,
    pub transient: u64,
    pub context: u64,
    pub fingerprint: String,
    pub is_overridden: bool,
    /// What it really holds when it serves.
    pub holds: u64,
    pub load_millis: u64,
    pub drain_millis: u64,
    pub stage: Stage,
    pub has_restarted: bool,
    /// Whether it says what it holds.
    pub reports: bool,
    /// For the first time, whatever became of its containers since.
    pub served_since: Option<u64>,
    pub serving_since: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Asks for its memory.
    Asking {
        from: u64,
    },
    Loading {
        until: u64,
    },
    Serving,
    Draining {
        until: u64,
        held: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Always,
    OnDemand { keep_alive: Option<u64> },
    Suspended,
}

/// A copy of a model, as its user wants it.
pub struct Asked {
    pub model: String,
    pub mode: Mode,
    pub priority: i32,
    pub bytes: u64,
    pub transient: u64,
    /// Of what is reserved, so many per cent are really held.
    pub really_percent: u64,
    pub learned: Option<u64>,
    pub generation: u64,
    pub facts_known: bool,
    pub warns: bool,
    pub nodes: BTreeSet<String>,
    pub weights_on: BTreeSet<String>,
    pub min_resident: u64,
    pub load_millis: u64,
    pub load_known: bool,
    pub wanted_since: u64,
    pub requested_since: Option<u64>,
    pub answered_at: Option<u64>,
    pub last_used: Option<u64>,
    pub had_place: bool,
    pub not_before: Option<u64>,
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub machines: BTreeMap<String, Machine>,
    /// By key.
    pub processes: BTreeMap<String, Process>,
    pub asked: BTreeMap<String, Asked>,
    pub figures: Figures,
    /// Something that the operator watches has changed.
    pub is_changed: bool,
    /// When something other than users last interfered.
    pub disturbed_at: u64,
    pub groups: Vec<u64>,
}

impl Machine {
    pub fn is_online(&self, now: u64) -> bool {
        self.offline_until <= now
    }

    pub fn is_healthy(&self, now: u64) -> bool {
        [self.offline_until, self.agent_out_until, self.pressure_until, self.cordoned_until].iter().all(|at| *at <= now)
    }

    pub fn floor(&self) -> u64 {
        FLOOR.min(self.total / 12)
    }
}

impl Asked {
    pub fn needs(&self) -> u64 {
        self.learned.unwrap_or(self.bytes)
    }

    pub fn is_wanted(&self) -> bool {
        match self.mode {
            Mode::Always => true,
            Mode::OnDemand { .. } => self.requested_since.is_some(),
            Mode::Suspended => false,
        }
    }

    pub fn stays(&self) -> u64 {
        self.min_resident.max(if self.load_known { 3 * self.load_millis } else { 0 })
    }
}

impl Process {
    pub fn allocated(&self) -> u64 {
        match self.stage {
            Stage::Asking { .. } => 0,
            Stage::Loading { .. } => self.holds + self.transient,
            Stage::Serving => self.holds,
            Stage::Draining { held, .. } => held,
        }
    }

    pub fn is_loading(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. } | Stage::Loading { .. })
    }
}

impl World {
    /// What is really available on a machine.
    pub fn available(&self, node: &str) -> u64 {
        let machine = &self.machines[node];
        let here = self.processes.values().filter(|process| process.node == node);
        let returning: u64 = machine.returning.iter().map(|returning| returning.bytes).sum();
        let used = machine.baseline + machine.foreign + here.map(Process::allocated).sum::<u64>() + returning;
        machine.total.checked_sub(used).expect("agents grant only what is there")
    }

    /// What kubelets and agents do in a second.
    pub fn tick(&mut self) {
        self.now += SECOND;
        self.figures.seconds += 1;
        let now = self.now;
        for machine in self.machines.values_mut() {
            let (still, back) = machine.returning.drain(..).partition(|returning| returning.back_at > now);
            machine.returning = still;
            let unclaimed =
                |returning: &Returning| returning.is_unknown || returning.is_of_restart || returning.group.is_some();
            let back: Vec<Returning> = back;
            let unclaimed = back.iter().filter(|returning| unclaimed(returning));
            machine.unclaimed.extend(unclaimed.map(|returning| (now, returning.bytes)));
        }
        let keys: Vec<String> = self.processes.keys().cloned().collect();
        for key in keys {
            self.run(&key);
        }
        self.publish();
    }

    fn run(&mut self, key: &str) {
        let now = self.now;
        let process = &self.processes[key];
        let node = process.node.clone();
        let next = match process.stage {
            Stage::Asking { from } if from <= now => self.ask(key),
            Stage::Loading { until } if until <= now => {
                self.is_changed = true;
                self.figures.loads += 1;
                if let Some(asked) = self.asked.get_mut(key) {
                    asked.load_known = true;
                }
                Stage::Serving
            }
            Stage::Draining { until, held } if until <= now && self.machines[&node].is_online(now) => {
                self.give_back(&node, key, held);
                self.processes.remove(key);
                self.is_changed = true;
                return;
            }
            stage => stage,
        };
        if let Some(process) = self.processes.get_mut(key) {
            if next == Stage::Serving && process.stage != next {
                process.serving_since = now;
            }
            process.stage = next;
            if next == Stage::Serving {
                process.served_since = process.served_since.or(Some(now));
            }
        }
    }

    /// The agent grants what is there, and never what is not; whoever asks in vain asks again.
    fn ask(&mut self, key: &str) -> Stage {
        let now = self.now;
        let process = &self.processes[key];
        let machine = &self.machines[&process.node];
        let again = Stage::Asking { from: now + 2 * SECOND };
        if machine.agent_out_until > now {
            return again;
        }
        let needed = process.reserved + process.transient + machine.floor();
        let available = self.available(&process.node);
        if needed <= available + PUBLISHED_CHANGE && process.reserved + process.transient <= available {
            return Stage::Loading { until: now + process.load_millis };
        }
        let is_overridden = process.is_overridden;
        let excused = is_overridden || self.is_nobodys_fault(process);
        if is_overridden {
            // It does not fit, as was known: it gives up, and its clients with it.
            self.delete_pod(key);
            if let Some(asked) = self.asked.get_mut(key) {
                asked.not_before = Some(now + 300 * SECOND);
                asked.requested_since = None;
            }
            return self.processes[key].stage;
        }
        assert!(
            excused,
            "{key} was started on {} although {needed} are not there of {available}; {:?}",
            process.node, machine.returning
        );
        again
    }

    /// What comes back without the operator's doing: it did not start a container anew, nor what allocates beside it. And
    /// what died before it was seen is started again by a reservation that says that nothing was.
    fn is_nobodys_fault(&self, process: &Process) -> bool {
        let mut here = self.processes.values().filter(|other| other.node == process.node);
        let machine = &self.machines[&process.node];
        here.any(|other| other.has_restarted)
            || machine.returning.iter().any(|returning| returning.is_unknown || returning.is_of_restart)
    }

    /// A process has ended; its memory comes back, most often soon.
    pub fn give_back(&mut self, node: &str, key: &str, bytes: u64) {
        let late = self.random.once_in(40);
        let delay = if late { self.random.between(125, 200) } else { self.random.between(0, 90) };
        let (dead_at, back_at) = (self.now, self.now + delay * SECOND);
        let reserved = self.processes.get(key).map_or(0, |process| process.reserved);
        let Some(machine) = self.machines.get_mut(node) else { return };
        let is_unknown = !machine.ledger.iter().any(|held| held.key == key && held.state != State::Pending);
        let key = key.to_owned();
        let counted = bytes.min(reserved);
        machine.held_at_end.insert(key.clone(), counted);
        let (is_of_restart, group) = (false, None);
        machine.returning.push(Returning { key, bytes, counted, back_at, dead_at, is_unknown, is_of_restart, group });
    }

    fn publish(&mut self) {
        let now = self.now;
        let nodes: Vec<String> = self.machines.keys().cloned().collect();
        for node in nodes {
            let available = self.available(&node);
            let serves =
                |process: &&Process| process.node == node && process.reports && process.stage == Stage::Serving;
            let here = self.processes.iter().filter(|(_, process)| serves(process));
            let holders: BTreeMap<String, u64> = here.map(|(key, process)| (key.clone(), process.holds)).collect();
            let machine = self.machines.get_mut(&node).expect("it was listed");
            if machine.agent_out_until > now || !machine.is_online(now) {
                continue;
            }
            let is_due = machine.published.is_none_or(|(last, at)| {
                let is_other = last.abs_diff(available) >= PUBLISHED_CHANGE;
                now >= at + 30 * SECOND || (is_other && now >= at + 10 * SECOND)
            });
            if is_due || machine.holders != holders {
                (machine.published, machine.holders) = (Some((available, now)), holders);
                self.is_changed = true;
            }
        }
    }

    /// Deletes a pod: it drains first.
    pub fn delete_pod(&mut self, key: &str) {
        let now = self.now;
        if let Some(process) = self.processes.get_mut(key)
            && !matches!(process.stage, Stage::Draining { .. })
        {
            process.stage = Stage::Draining { until: now + process.drain_millis, held: process.allocated() };
            self.is_changed = true;
        }
    }
}
