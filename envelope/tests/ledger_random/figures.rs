//! What happened in all sets together.

use std::cell::Cell;
use std::fmt;

use crate::world::SECOND;

#[derive(Default)]
pub struct Figures {
    pub sets: u64,
    pub seconds: u64,
    pub plans: u64,
    pub admissions: u64,
    pub loads: u64,
    pub evictions: u64,
    pub releases: u64,
    pub timed_out: u64,
    pub refused: u64,
    pub overridden: u64,
    pub adopted: u64,
    pub crashes: u64,
    pub disturbances: u64,
    pub served: u64,
    pub longest_head_wait: u64,
    /// How often a ledger was summed, and how often the sum was more than the machine has.
    pub sums: Cell<u64>,
    pub over_commitments: Cell<u64>,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.sets += other.sets;
        self.seconds += other.seconds;
        self.plans += other.plans;
        self.admissions += other.admissions;
        self.loads += other.loads;
        self.evictions += other.evictions;
        self.releases += other.releases;
        self.timed_out += other.timed_out;
        self.refused += other.refused;
        self.overridden += other.overridden;
        self.adopted += other.adopted;
        self.crashes += other.crashes;
        self.disturbances += other.disturbances;
        self.served += other.served;
        self.sums.set(self.sums.get() + other.sums.get());
        self.over_commitments.set(self.over_commitments.get() + other.over_commitments.get());
        self.longest_head_wait = self.longest_head_wait.max(other.longest_head_wait);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} sets of models, {} simulated seconds, {} plans", self.sets, self.seconds, self.plans)?;
        let Self { admissions, loads, served, releases, evictions, timed_out, .. } = self;
        writeln!(out, "{admissions} admissions, {loads} loads, {served} requests answered")?;
        writeln!(out, "{releases} releases, {evictions} of them for another model, {timed_out} ended by time")?;
        let Self { refused, overridden, adopted, crashes, disturbances, longest_head_wait, .. } = self;
        writeln!(out, "{refused} plans that refused a model, {overridden} that overrode; {adopted} pods adopted")?;
        writeln!(out, "{crashes} crashes of the operator, {disturbances} other accidents and changes")?;
        let (sums, over_commitments) = (self.sums.get(), self.over_commitments.get());
        writeln!(out, "over-commitments {over_commitments} of {sums} ledgers summed")?;
        write!(out, "longest wait of a head of the queue {} s", longest_head_wait / SECOND)
    }
}
