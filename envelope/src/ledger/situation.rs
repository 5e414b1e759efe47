//! What the planner is told: all that exists, as it was read.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{Bytes, Footprint, Model, Serving};

/// A moment: milliseconds since an epoch that all of a situation shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// So long afterwards.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long it is since then; nothing, if that is still to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// All that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Situation {
    /// Now.
    pub now: Time,
    /// Every copy of every model that is wished.
    pub wishes: Vec<Wish>,
    /// Every node that there is, with its ledger.
    pub nodes: Vec<NodeFacts>,
    /// Every pod of ours, however it came to be.
    pub pods: Vec<Pod>,
}

/// One copy of a model that is to have memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its own for as long as it exists.
    pub key: String,
    /// What people call it: `namespace/name`.
    pub name: String,
    /// The same for all copies of a model.
    pub model: String,
    /// What it takes; nothing while its facts are not known.
    pub need: Option<Need>,
    /// Higher ones come first and leave last.
    pub priority: i32,
    /// When it is to be loaded.
    pub activation: Activation,
    /// Since when it waits: kept by the caller where a crash does not lose it.
    pub wanted_since: Time,
    /// When it was last used.
    pub last_used: Option<Time>,
    /// It is not unloaded for another before it has been resident so long.
    pub min_resident: Duration,
    /// How long it took to load.
    pub load_time: Option<Duration>,
    /// Whether it may be admitted although it fits nowhere.
    pub policy: Policy,
    /// Where it may go.
    pub nodes: BTreeSet<String>,
    /// Where its weights are.
    pub weights_on: BTreeSet<String>,
    /// It failed and is not tried again before.
    pub not_before: Option<Time>,
}

/// What a model takes, and what would change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Corrected by what was learned.
    pub footprint: Footprint,
    /// From which is found what would fit instead.
    pub model: Model,
    /// As asked.
    pub serving: Serving,
    /// Of what was asked, and of nothing that is predicted or learned: another one means a restart.
    pub fingerprint: String,
}

/// When a model is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Always; it never leaves for another.
    Always,
    /// When a request waits for it.
    OnDemand {
        /// How long it stays without use; for ever if nothing.
        keep_alive: Option<Duration>,
        /// Whether a request waits for it or is being answered.
        requested: bool,
    },
    /// Never.
    Suspended,
}

/// What becomes of a model that fits nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is refused.
    Enforce,
    /// It may have a node for itself; the node still has the last word.
    Warn,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// What it is called.
    pub name: String,
    /// `MemTotal`.
    pub total: Bytes,
    /// What was in use before any model of ours was there.
    pub baseline: Bytes,
    /// What others may still take.
    pub others: Bytes,
    /// What its agent measured last.
    pub measured: Option<Measured>,
    /// Whether its agent is there.
    pub agent: bool,
    /// Whether its agent sees it run out of memory.
    pub pressure: bool,
    /// Whether it does not answer.
    pub lost: bool,
    /// Whether it is to take nothing new.
    pub cordoned: bool,
    /// What is written: `NodeEnvelope.spec`.
    pub reservations: Vec<Reservation>,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// `MemAvailable`.
    pub available: Bytes,
    /// When.
    pub at: Time,
}

/// What is frozen when a model is admitted; its pod carries the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// While it serves.
    pub bytes: Bytes,
    /// While it loads, beside them.
    pub load_transient: Bytes,
    /// Longest sequence, in tokens.
    pub context: u64,
    /// Of what was asked.
    pub fingerprint: String,
    /// Whether it was admitted although it fits nowhere.
    pub overridden: bool,
}

/// Memory of a node that is promised or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Of the wish.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// The same for all copies of a model.
    pub model: String,
    /// Of the wish, when it was made.
    pub priority: i32,
    /// What it is for.
    pub terms: Terms,
    /// How far it is.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// When it was made.
    pub made_at: Time,
    /// What it was measured to hold.
    pub measured: Option<Bytes>,
    /// `MemAvailable` when its release began.
    pub available_before: Option<Bytes>,
    /// When its pod was first seen to be gone.
    pub gone_at: Option<Time>,
}

/// How far a reservation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its bytes are promised; it has no pod yet.
    Pending,
    /// Its pod was made.
    Loading,
    /// Its pod is ready.
    Resident,
    /// Its pod is to go; its bytes still count.
    Releasing,
}

/// A pod of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Of the wish.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// The same for all copies of a model.
    pub model: String,
    /// Where it is.
    pub node: String,
    /// How far it is.
    pub phase: PodPhase,
    /// What it was made with.
    pub terms: Terms,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// It is not ready, or not any more.
    Starting,
    /// It serves.
    Ready,
    /// It is being deleted.
    Terminating,
    /// All of it has ended for good.
    Ended,
}

impl Wish {
    /// Whether it is to have memory when it has none.
    pub fn is_wanted(&self) -> bool {
        matches!(self.activation, Activation::Always | Activation::OnDemand { requested: true, .. })
    }

    /// Whether it is being used.
    pub fn is_in_use(&self, now: Time) -> bool {
        let is_recent = |used: Time| now.since(used) < super::IN_USE_FOR;
        matches!(self.activation, Activation::OnDemand { requested: true, .. }) || self.last_used.is_some_and(is_recent)
    }

    /// How long it stays before it may leave for another.
    pub fn stays(&self) -> Duration {
        self.min_resident.max(self.load_time.unwrap_or_default().saturating_mul(super::LOAD_TIMES))
    }
}

impl Need {
    /// As a reservation freezes it.
    pub fn terms(&self) -> Terms {
        Terms {
            bytes: self.footprint.resident(),
            load_transient: self.footprint.load_transient,
            context: self.serving.context,
            fingerprint: self.fingerprint.clone(),
            overridden: false,
        }
    }
}
