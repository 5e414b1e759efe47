//! What happened in all sets together.

use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub sets: u64,
    pub nodes: u64,
    pub models: u64,
    pub deeds: u64,
    pub kills: u64,
    pub replaced_nodes: u64,
    pub loads: u64,
    pub crashes: u64,
    pub waited_for_room: u64,
    pub longest_calm: Duration,
    // Of the checker.
    pub versions: u64,
    pub ledgers: u64,
    pub most_held_percent: u64,
    pub admissions: u64,
    pub releases: u64,
    pub pods: u64,
    pub adoptions: u64,
    pub doubles: u64,
    pub overrides: u64,
    pub over_commitments: u64,
    pub complaints: u64,
}

impl Figures {
    /// With what the checker counted.
    pub fn with(self, checked: Self) -> Self {
        let Self { versions, ledgers, most_held_percent, admissions, releases, pods, .. } = checked;
        let Self { adoptions, doubles, overrides, over_commitments, complaints, .. } = checked;
        Self {
            versions,
            ledgers,
            most_held_percent,
            admissions,
            releases,
            pods,
            adoptions,
            doubles,
            overrides,
            over_commitments,
            complaints,
            ..self
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sets, nodes, models, deeds, kills, replaced_nodes, .. } = self;
        writeln!(out, "{sets} sets of models against the API server: {models} models on {nodes} nodes")?;
        writeln!(
            out,
            "{deeds} changes and accidents, {replaced_nodes} nodes replaced, the operator killed {kills} times"
        )?;
        let Self { pods, loads, crashes, waited_for_room, admissions, releases, .. } = self;
        writeln!(out, "{admissions} admissions, {releases} releases; {pods} pods, {loads} loads, {crashes} crashes")?;
        let Self { adoptions, doubles, overrides, versions, ledgers, most_held_percent, longest_calm, .. } = self;
        writeln!(
            out,
            "excused: {overrides} ledgers of one that fits nowhere, {adoptions} pods found without a ledger, {doubles} versions with one of them \
             placed twice, \
             {waited_for_room} starts that waited for such a one or for a container that began anew"
        )?;
        writeln!(out, "longest time until a set was at rest {:.1} s", longest_calm.as_secs_f64())?;
        writeln!(
            out,
            "{versions} versions of nodes, ledgers and pods looked at, {ledgers} of them ledgers, the fullest at {most_held_percent} %"
        )?;
        write!(
            out,
            "over-commitments {}, other complaints {}",
            self.over_commitments,
            self.complaints - self.over_commitments
        )
    }
}
