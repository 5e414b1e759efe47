//! Who may hold memory where: the ledger of all nodes, and the pure planner that moves it.
//!
//! [`plan`] takes what exists (wishes, nodes with their written reservations, pods) and says what the reservations become,
//! which pods are made and deleted, and for every wish why it has memory or not. It keeps nothing between calls, so a
//! crash between any two of its caller's writes loses nothing. Called by the operator; knows no cluster and no clock.
//!
//! # What the caller does
//! 1. Read the ledgers, and after them the pods: pods may be newer than the ledgers, never older.
//! 2. [`plan`].
//! 3. Replace every ledger in [`Plan::ledgers`] on the condition that it is still as it was read; on a conflict begin anew.
//! 4. Carry out [`Plan::pods`]. They follow from what was *read*: a pod is made only for a reservation that stood in the
//!    ledger before this plan, and is deleted only when its release stood there.
//!
//! # Rules
//! - [`Node::check`](crate::Node::check) holds before a reservation is made; every reservation counts, whatever its state, and keeps its load
//!   transient: a container that restarts loads again.
//! - One model loads at a time on a node, and only when the last measurement has room for it.
//! - A reservation is frozen. Learned corrections change the [`Need`] of the next start; only another
//!   [`Need::fingerprint`] leads to a restart, and only if the new need fits with the old one gone.
//! - The queue is ordered by priority, then by waiting time. Who waits longer than [`AGED_AFTER`] has aged: it may have
//!   models unloaded that are in use, and nobody behind it takes room that it would get when all that may leave for it has
//!   left. Who is behind may have what is left beyond that. It holds nothing back where only what never leaves for it is in
//!   its way, so that everything held back is held back for a bounded time. Who has room made for it is protected
//!   the same way, aged or not.
//! - For a wish that waits, models leave that are `OnDemand`, of its priority or below, and resident for at least
//!   `max(min_resident, 3 x load time)`: the ones that are not in use, and if it has aged, others too.
//! - Memory counts as held until it was measured to be back (see [`Release`]). What leaves a node at the same time is judged
//!   together. Who comes next need not wait for more than it was measured to have; then nobody comes to that node
//!   without such a measurement until the rest is back.
//! - A model that is to be served otherwise takes its turn in the queue, one at a time on a node, and one copy of it after
//!   the other.
//! - Every copy of a model is a wish of its own, and no two of a model go to one node: they would share its bandwidth and
//!   hold the weights twice.
//! - A copy goes to the node with the least room left, so that large room stays whole.

mod adopt;
mod change;
mod draft;
mod evict;
mod lifecycle;
mod pods;
mod queue;
mod release;
mod room;
mod situation;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

pub use release::Release;
pub use room::node_with;
pub use situation::{
    Activation, Measured, Need, NodeFacts, Pod, PodPhase, Policy, Reservation, Situation, State, Terms, Time, Wish,
};
pub use verdict::{Busy, Holder, Misfit, Unusable, Verdict};

/// Who waits longer has aged, and is not jumped any more.
pub const AGED_AFTER: Duration = Duration::from_secs(30);
/// A model that was used less long ago counts as in use: the gateway says so every few seconds while requests run.
pub const IN_USE_FOR: Duration = Duration::from_secs(10);
/// A model may be unloaded for another when it has been resident for so many times the time it takes to load.
pub const LOAD_TIMES: u32 = 3;
/// A release that cannot be measured ends so long after its pod, with a warning.
pub const RELEASE_LIMIT: Duration = Duration::from_secs(120);
/// An agent publishes what it measured at least so often; what is older says nothing of the moment when a release begins.
pub const MEASURED_EVERY: Duration = Duration::from_secs(60);
/// Of what a model held, so many per cent must be measured to be back.
pub const RELEASED_PERCENT: u64 = 80;

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The new reservations of every node whose ledger changes: to be written before a pod is touched.
    pub ledgers: BTreeMap<String, Vec<Reservation>>,
    /// What changes in them, and why.
    pub changes: Vec<Change>,
    /// What is to be done with pods.
    pub pods: Vec<PodStep>,
    /// Of every wish, by key.
    pub verdicts: BTreeMap<String, Verdict>,
    /// When time alone may change the answer, if nothing else happens before.
    pub look_again: Option<Time>,
}

/// A change of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub node: String,
    /// Whose.
    pub key: String,
    /// What it is called.
    pub name: String,
    /// What.
    pub step: Step,
}

/// What happens to a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A pod was found without one.
    Adopt,
    /// It is made.
    Reserve,
    /// Its pod exists.
    Load,
    /// Its pod is ready.
    Serve,
    /// Its pod is to go, or has gone.
    Release(Leaving),
    /// Its pod is gone; its memory is awaited.
    AwaitMemory,
    /// Its memory is not back, but what comes next was measured to have its room: it counts no more.
    Yield,
    /// It ends.
    Drop(Release),
}

/// Why a model leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaving {
    /// Nobody wishes it any more.
    Deleted,
    /// It is suspended.
    Suspended,
    /// It was not used for as long as it is kept.
    Unused,
    /// It is to be served otherwise than it is.
    Changed,
    /// Another model waits for its memory.
    For {
        /// What that is called.
        name: String,
        /// Whether it is in use.
        in_use: bool,
    },
    /// Its pod ended, or somebody else deleted it.
    PodGone,
    /// It has a place elsewhere already.
    Twice,
    /// It has no pod yet, and its node cannot have one.
    NodeOfNoUse,
}

/// What is to be done with a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodStep {
    /// Let it drain and delete it.
    Delete {
        /// Where.
        node: String,
        /// Whose.
        key: String,
    },
    /// Make it, with the terms of its reservation.
    Make {
        /// Where.
        node: String,
        /// Whose.
        key: String,
    },
}

/// Plans the next writes. The same situation always has the same plan.
pub fn plan(situation: &Situation) -> Plan {
    let mut draft = draft::Draft::new(situation);
    adopt::adopt(&mut draft);
    lifecycle::let_go(&mut draft);
    release::finish(&mut draft);
    queue::admit(&mut draft);
    let pods = pods::steps(&mut draft);
    verdict::of_admitted(&mut draft);
    draft.into_plan(pods)
}

#[cfg(test)]
mod tests;
