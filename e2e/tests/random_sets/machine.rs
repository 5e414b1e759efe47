//! The machines that are played: what processes really hold, and what is not back yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::figures::Figures;
use crate::random::Random;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// The layers that the agents tell of keep so much of each token: 16 layers, 8 heads of 128, keys and values of 2 bytes.
pub const TOKEN_BYTES: u64 = 16 * 8 * 128 * 2 * 2;
/// A container that began anew takes memory that nobody watched come back; for so long nothing is said of its machine.
const RESTART: Duration = Duration::from_secs(10);

/// All machines, by node, and what happened.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Played>>);

#[derive(Default)]
pub struct Played {
    pub machines: BTreeMap<String, Machine>,
    pub figures: Figures,
    /// What must never happen.
    pub complaints: Vec<String>,
}

impl World {
    pub fn lock(&self) -> MutexGuard<'_, Played> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub struct Machine {
    pub total: u64,
    pub baseline: u64,
    pub random: Random,
    /// By uid of their pod.
    pub processes: BTreeMap<String, Process>,
    /// When how much comes back.
    pub returning: Vec<(Instant, u64)>,
    /// When a container last began anew.
    pub restarted: Option<Instant>,
    /// Until when the agent says nothing, and until when it sees pressure.
    pub silent_until: Option<Instant>,
    pub pressed_until: Option<Instant>,
}

#[derive(Debug)]
pub struct Process {
    pub pod: String,
    pub model: String,
    /// As the pod says.
    pub reserved: u64,
    pub transient: u64,
    /// It fits nowhere and was let in all the same: whether it gets its memory is the agent's to judge.
    pub is_overridden: bool,
    /// What it really holds when it serves.
    pub holds: u64,
    pub stage: Stage,
    /// When the stage is over, where it ends by itself.
    pub until: Instant,
    pub restarts: u64,
    /// Whether it tells the agent what it holds.
    pub reports: bool,
    /// It asked in vain.
    pub is_refused: bool,
}

/// What a pod says of its memory.
pub struct Terms {
    pub reserved: u64,
    pub is_overridden: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Asks for its memory.
    Asking,
    Loading,
    /// It has its memory, and the kubelet has not seen it.
    Loaded,
    Serving,
    /// Told to go.
    Draining {
        held: u64,
    },
    /// Ended for good.
    Ended,
}

/// What the kubelet tells of a process after a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    /// Runs, not ready.
    Runs,
    Ready,
    /// The pod can go.
    Gone,
}

impl Machine {
    pub fn new(mut random: Random) -> Self {
        let total = random.between(24 * 1024, 96 * 1024) * MIB;
        let baseline = random.between(1024, total / MIB / 8) * MIB;
        Self {
            total,
            baseline,
            random,
            processes: BTreeMap::new(),
            returning: Vec::new(),
            restarted: None,
            silent_until: None,
            pressed_until: None,
        }
    }

    /// What is left of its memory.
    pub fn available(&self) -> u64 {
        let held: u64 = self.processes.values().map(Process::allocated).sum();
        let returning: u64 = self.returning.iter().map(|(_, bytes)| *bytes).sum();
        self.total.checked_sub(self.baseline + held + returning).expect("memory is only given where there is some")
    }

    /// A pod that its kubelet sees for the first time.
    pub fn begin(&mut self, uid: &str, (pod, model): (&str, &str), terms: Terms, weights_and_cache: u64) {
        let now = Instant::now();
        let until = now + Duration::from_millis(self.random.between(50, 500));
        // Of the runtime's own memory only a part is ever used.
        let holds = weights_and_cache / 100 * self.random.between(88, 100);
        let reports = !self.random.once_in(8);
        let process = Process {
            pod: pod.to_owned(),
            model: model.to_owned(),
            reserved: terms.reserved,
            transient: 32 * MIB,
            is_overridden: terms.is_overridden,
            holds,
            stage: Stage::Asking,
            until,
            restarts: 0,
            reports,
            is_refused: false,
        };
        self.processes.insert(uid.to_owned(), process);
    }

    /// What became of a process; a complaint, if the room that it was promised is not there.
    pub fn step(&mut self, uid: &str, is_told_to_go: bool) -> (Told, Option<String>) {
        let (now, available) = (Instant::now(), self.available());
        let (drain, load) = (self.random.between(100, 1500), self.random.between(200, 1500));
        let is_excused = self.restarted.is_some_and(|at| at.elapsed() < RESTART);
        let Some(process) = self.processes.get_mut(uid) else { return (Told::Nothing, None) };
        if is_told_to_go && !matches!(process.stage, Stage::Draining { .. }) {
            process.until = now + Duration::from_millis(drain);
            process.stage = Stage::Draining { held: process.allocated() };
            return (Told::Nothing, None);
        }
        if process.until > now {
            return (Told::Nothing, None);
        }
        process.until = now + Duration::from_millis(load);
        match process.stage {
            Stage::Asking => {
                let needed = process.reserved + process.transient;
                if needed > available {
                    process.until = now + Duration::from_millis(300);
                    let is_news = !std::mem::replace(&mut process.is_refused, true);
                    let text = format!("{} was started, and of {needed} only {available} are there", process.pod);
                    return (Told::Nothing, (is_news && !is_excused && !process.is_overridden).then_some(text));
                }
                process.stage = Stage::Loading;
                (Told::Runs, None)
            }
            Stage::Loading => {
                process.stage = Stage::Loaded;
                process.until = now + Duration::from_millis(drain / 2);
                let text = format!("{} holds {}, reserved are {}", process.pod, process.holds, process.reserved);
                (Told::Nothing, (process.holds > process.reserved).then_some(text))
            }
            Stage::Loaded => {
                process.stage = Stage::Serving;
                (Told::Ready, None)
            }
            Stage::Draining { held } => {
                self.end(uid, held);
                (Told::Gone, None)
            }
            Stage::Serving | Stage::Ended => (Told::Nothing, None),
        }
    }

    /// The container ends, and begins anew in the same pod, or not.
    pub fn crash(&mut self, uid: &str, is_for_good: bool) {
        let delay = self.random.between(0, 2500);
        let Some(process) = self.processes.get_mut(uid) else { return };
        let held = process.allocated();
        process.stage = if is_for_good { Stage::Ended } else { Stage::Asking };
        process.until = Instant::now() + Duration::from_millis(500);
        process.restarts += 1;
        if !is_for_good {
            self.restarted = Some(Instant::now());
        }
        self.returning.push((Instant::now() + Duration::from_millis(delay), held));
    }

    /// The process is gone with its pod; its memory comes back later.
    pub fn end(&mut self, uid: &str, held: u64) {
        self.processes.remove(uid);
        let delay =
            if self.random.once_in(12) { self.random.between(2500, 5000) } else { self.random.between(0, 2000) };
        self.returning.push((Instant::now() + Duration::from_millis(delay), held));
    }

    pub fn let_return(&mut self) {
        let now = Instant::now();
        self.returning.retain(|(at, _)| *at > now);
    }
}

impl Process {
    pub fn allocated(&self) -> u64 {
        match self.stage {
            Stage::Asking | Stage::Ended => 0,
            Stage::Loading => self.holds + self.transient,
            Stage::Loaded | Stage::Serving => self.holds,
            Stage::Draining { held } => held,
        }
    }
}
