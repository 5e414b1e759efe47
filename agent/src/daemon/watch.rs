//! Watches how much memory is available and says who has to give some back. Pure: samples carry their times.

mod baseline;

use std::time::Duration;

use kindling_api::Pressure;
use kindling_envelope::{Bytes, Node};

pub use baseline::{Baseline, Quiet};

/// So many samples in a row must be below a floor; one alone is a burst.
const SAMPLES_BELOW: u32 = 3;
/// So many samples in a row must be above it again before the alarm is over.
const SAMPLES_ABOVE: u32 = 10;
/// How long memory may take to come back before the next one has to give some.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory is back when this share of it is; the rest may be somebody else's by then.
const BACK_PERCENT: u64 = 80;

/// How much memory must stay available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// A model starts only if so much stays.
    pub start: Bytes,
    /// Below this memory is taken back.
    pub run: Bytes,
}

impl Floors {
    /// Those of a node with so much memory: what the envelope keeps free, and a quarter more for a start, so that a
    /// model that just started does not meet the floor.
    pub fn of(total: Bytes) -> Self {
        let node = Node { total, baseline: Bytes(0), others: Bytes(0), residents: Vec::new() };
        Self::above(node.floor())
    }

    /// With this floor while models run.
    pub fn above(run: Bytes) -> Self {
        Self { start: Bytes(run.times(10).0 / 8), run }
    }

    /// Below this one at a time is too slow.
    pub fn critical(&self) -> Bytes {
        Bytes(self.run.0 / 2)
    }
}

/// What was available when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Since any moment that stays the same.
    pub at: Duration,
    /// `MemAvailable`.
    pub available: Bytes,
}

/// A model's process that could give memory back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which grant.
    pub grant: u64,
    /// What would come back.
    pub bytes: Bytes,
    /// Higher ones leave later.
    pub priority: i32,
    /// `OnDemand`: it comes back by itself when somebody asks for it.
    pub may_leave: bool,
}

/// A grant that is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taking {
    /// Which.
    pub grant: u64,
    /// For whom it is taken from.
    pub why: String,
}

/// What happened so far.
#[derive(Debug)]
pub struct Watch {
    floors: Floors,
    pressure: Pressure,
    below_run: u32,
    below_critical: u32,
    above_run: u32,
    above_start: u32,
    awaited: Option<Awaited>,
}

/// Memory that was taken and is not back yet.
#[derive(Debug)]
struct Awaited {
    until: Duration,
    available: Bytes,
    taken_at: Pressure,
}

impl Watch {
    /// Begins without an alarm.
    pub fn new(floors: Floors) -> Self {
        Self {
            floors,
            pressure: Pressure::None,
            below_run: 0,
            below_critical: 0,
            above_run: 0,
            above_start: 0,
            awaited: None,
        }
    }

    /// The floors it goes by.
    pub fn floors(&self) -> Floors {
        self.floors
    }

    /// Whether the node has enough.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Takes one sample, of about one a second. `candidates` are all grants that were not taken back yet.
    pub fn step(&mut self, sample: Sample, candidates: &[Candidate]) -> Vec<Taking> {
        self.count(sample.available);
        self.pressure = self.next_pressure();
        if self.pressure == Pressure::None {
            self.awaited = None;
            return Vec::new();
        }
        if self.below_run < SAMPLES_BELOW || self.is_waiting(sample) {
            return Vec::new();
        }
        let chosen = self.choose(sample.available, candidates);
        if !chosen.is_empty() {
            let bytes: Bytes = chosen.iter().map(|candidate| candidate.bytes).sum();
            self.awaited = Some(Awaited {
                until: sample.at + PATIENCE,
                available: sample.available + bytes.percent(BACK_PERCENT),
                taken_at: self.pressure,
            });
        }
        let why = format!("{} are available, {} must stay", sample.available, self.floors.run);
        chosen.into_iter().map(|candidate| Taking { grant: candidate.grant, why: why.clone() }).collect()
    }

    fn count(&mut self, available: Bytes) {
        let next = |count: u32, is_so: bool| if is_so { count.saturating_add(1) } else { 0 };
        self.below_run = next(self.below_run, available < self.floors.run);
        self.below_critical = next(self.below_critical, available < self.floors.critical());
        self.above_run = next(self.above_run, available >= self.floors.run);
        self.above_start = next(self.above_start, available >= self.floors.start);
    }

    fn next_pressure(&self) -> Pressure {
        match self.pressure {
            _ if self.below_critical >= SAMPLES_BELOW => Pressure::Critical,
            Pressure::None if self.below_run >= SAMPLES_BELOW => Pressure::Low,
            Pressure::Low | Pressure::Critical if self.above_start >= SAMPLES_ABOVE => Pressure::None,
            Pressure::Critical if self.above_run >= SAMPLES_ABOVE => Pressure::Low,
            same => same,
        }
    }

    /// Whether what was taken last is still to come back. It is not waited for when it got critical meanwhile.
    fn is_waiting(&self, sample: Sample) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| {
            let got_worse = self.pressure == Pressure::Critical && awaited.taken_at != Pressure::Critical;
            !got_worse && sample.at < awaited.until && sample.available < awaited.available
        })
    }

    /// The lowest priority first, of them those that come back by themselves, of them the largest. One; when it is
    /// critical all that may leave, and as many of the others as it takes.
    fn choose<'a>(&self, available: Bytes, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
        let mut order: Vec<_> = candidates.iter().collect();
        order.sort_by_key(|candidate| (candidate.priority, !candidate.may_leave, std::cmp::Reverse(candidate.bytes)));
        if self.pressure != Pressure::Critical {
            return order.into_iter().take(1).collect();
        }
        let (mut chosen, others): (Vec<_>, Vec<_>) = order.into_iter().partition(|candidate| candidate.may_leave);
        for other in others {
            let back: Bytes = chosen.iter().map(|candidate| candidate.bytes).sum();
            if available + back >= self.floors.run {
                break;
            }
            chosen.push(other);
        }
        chosen
    }
}

#[cfg(test)]
mod tests;
